"""The pack's texts as the server hands them out, and as the real page shows them."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from comfy_server import PACK, Server

DESCRIBE = """types => types.map(type => {
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    const shown = {title: node.title, inputs: {}, widgets: {}, outputs: []}
    const look = () => {
        for (const i of node.inputs ?? []) shown.inputs[i.name] = i.label ?? i.localized_name
        for (const w of node.widgets ?? []) shown.widgets[w.name] = w.label
    }
    look()
    const specs = Object.entries(node.constructor.nodeData.input.required)
    for (const [name, [kind, settings]] of specs)
        for (const option of kind === 'COMFY_DYNAMICCOMBO_V3' ? settings.options : []) {
            node.widgets.find(w => w.name === name).value = option.key
            look()
        }
    shown.outputs = (node.outputs ?? []).map(o => o.label ?? o.localized_name)
    app.graph.remove(node)
    return shown
})"""


def texts(language: str) -> dict[str, Any]:
    """Node texts of a language in the pack."""
    return json.loads((PACK / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def setting(server: Server, key: str, value: object) -> None:
    """Change a setting of the page."""
    header = {"Content-Type": "application/json"}
    body = json.dumps(value).encode()
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/settings/{key}", body, header))


@pytest.fixture
def page_in(server: Server) -> Iterator[Callable[[str], Any]]:
    """ComfyUI's page in a language."""
    engine = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium found")
    with engine.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])

        def open_page(language: str) -> Any:
            setting(server, "Comfy.TutorialCompleted", True)
            setting(server, "Comfy.Locale", language)
            page = browser.new_page(viewport={"width": 2000, "height": 1150})
            page.goto(server.url)
            page.wait_for_function("window.app?.graph && window.app.extensionManager", timeout=120_000)
            page.wait_for_timeout(1500)
            return page

        yield open_page
        browser.close()
    setting(server, "Comfy.Locale", "en")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_server_hands_out_the_texts(server: Server, language: str) -> None:
    handed = server.get("/i18n")[language]["nodeDefs"]
    assert {name: handed[name] for name in texts(language)} == texts(language)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_shows_the_texts(page_in: Callable[[str], Any], language: str) -> None:
    """Titles, sockets and widgets, also those of every option of the dynamic combos."""
    wanted = texts(language)
    shown = dict(zip(wanted, page_in(language).evaluate(DESCRIBE, list(wanted)), strict=True))
    for name, node in wanted.items():
        assert shown[name]["title"] == node["display_name"]
        assert shown[name]["outputs"] == [output["name"] for output in node["outputs"].values()]
        labels = {key: one["name"] for key, one in node["inputs"].items()}
        assert {key.replace(".", "_"): text for key, text in shown[name]["inputs"].items()} == labels
        own = {key.replace(".", "_"): text for key, text in shown[name]["widgets"].items()}
        assert {key: text for key, text in own.items() if key in labels}.items() <= labels.items()
