"""The real page in a headless browser: templates load, the quick start runs, pictures and curves appear."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PACK, Server
from page import opened_page

TEMPLATES = sorted(path.stem for path in (PACK / "example_workflows").glob("*.json"))
SCREENSHOTS = os.environ.get("ONESHOT_SCREENSHOTS", "")


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "vue"])
def page(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    """ComfyUI's page, with classic or Vue nodes; tests put their own workflow on it."""
    with opened_page(server, vue=request.param) as opened:
        yield opened


DRAWN = """() => [...document.querySelectorAll('[data-oneshot-losses] canvas')].map(canvas => {
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
    return pixels.filter((value, at) => at % 4 === 3 && value > 0).length
})"""


def load(page: Any, name: str) -> None:
    """Put a template on the canvas and fit it into the view."""
    graph = json.loads((PACK / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    page.wait_for_timeout(1500)


def screenshot(page: Any, name: str) -> None:
    """Keep a picture of the page where somebody asked for it."""
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.evaluate("() => app.canvas.ds && app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        page.wait_for_timeout(2500)
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png")


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_load_without_missing_nodes(page: Any, name: str) -> None:
    load(page, name)
    missing = page.evaluate("() => app.graph.nodes.filter(n => n.has_errors).map(n => n.type)")
    assert missing == []
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    graph = json.loads((PACK / "tests" / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    assert {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in graph.items()
    }


def test_quick_start_runs_and_shows_pictures(
    page: Any, server: Server, request: pytest.FixtureRequest
) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    load(page, "quick_start")
    seed = 21 + (request.node.callspec.params["page"] is True)  # not what the other page left in the cache
    small = {"CLIPLatentSearch": {"steps": 3, "seed": seed}, "OneShotAdapt": {"steps": 6, "seed": seed}}
    page.evaluate(
        """small => { for (const node of app.graph.nodes) for (const w of node.widgets ?? [])
             if (small[node.type] && w.name in small[node.type]) w.value = small[node.type][w.name] }""",
        small,
    )
    before = set(server.get("/history"))
    page.evaluate("() => app.queuePrompt(0)")
    deadline = time.monotonic() + 300
    while not (done := set(server.get("/history")) - before):
        assert time.monotonic() < deadline, server.log_text()[-2000:]
        time.sleep(0.3)
    assert server.history(done.pop())["status"]["status_str"] == "success"
    page.wait_for_timeout(3000)
    screenshot(page, f"quick_start_{request.node.callspec.id}")
    shown = page.evaluate(
        "() => app.graph.nodes.filter(n => n.type === 'PreviewImage' || n.type === 'SaveImage')"
        ".map(n => (app.nodeOutputs?.[n.id]?.images ?? n.images ?? []).length)"
    )
    assert len(shown) == 2 and all(shown)
    drawn = page.evaluate(DRAWN)
    assert len(drawn) == 2 and all(points > 100 for points in drawn), drawn  # both loss charts
    assert [error for error in errors if "oneshot" in error.lower()] == []
