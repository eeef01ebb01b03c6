"""The pack's texts as the server hands them out, and as the real page shows them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from comfy_server import PACK, Server
from page import opened_page

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


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_server_hands_out_the_texts(server: Server, language: str) -> None:
    handed = server.get("/i18n")[language]["nodeDefs"]
    assert {name: handed[name] for name in texts(language)} == texts(language)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_shows_the_texts(server: Server, language: str) -> None:
    """Titles, sockets and widgets, also those of every option of the dynamic combos."""
    wanted = texts(language)
    with opened_page(server, language=language) as page:
        shown = dict(zip(wanted, page.evaluate(DESCRIBE, list(wanted)), strict=True))
    for name, node in wanted.items():
        assert shown[name]["title"] == node["display_name"]
        assert shown[name]["outputs"] == [output["name"] for output in node["outputs"].values()]
        labels = {key: one["name"] for key, one in node["inputs"].items()}
        assert {key.replace(".", "_"): text for key, text in shown[name]["inputs"].items()} == labels
        if name == "OneShotAdapt":
            goes_on = {"en": "go on", "zh": "继续训练"}[language]  # the page's own words
            assert shown[name]["widgets"]["go on"] == goes_on
        own = {key.replace(".", "_"): text for key, text in shown[name]["widgets"].items()}
        assert {key: text for key, text in own.items() if key in labels}.items() <= labels.items()
