"""The real page in a headless browser: templates load, the quick start runs, pictures and curves appear."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_server import PACK, Server
from page import SET, load, opened_page, screenshot, wait
from template_nodes import TITLES

TEMPLATES = sorted(TITLES)


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "vue"])
def page(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    """ComfyUI's page, with classic or Vue nodes; tests put their own workflow on it."""
    with opened_page(server, vue=request.param) as opened:
        yield opened


DRAWN = """() => [...document.querySelectorAll('[data-oneshot-losses] canvas')].map(canvas => {
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
    return pixels.filter((value, at) => at % 4 === 3 && value > 0).length
})"""


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
    page.evaluate(SET, small)
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
    assert len(shown) == 1 and all(shown)
    drawn = page.evaluate(DRAWN)
    assert len(drawn) == 2 and all(points > 100 for points in drawn), drawn  # both loss charts
    assert [error for error in errors if "oneshot" in error.lower()] == []


PRESS = """name => app.graph.nodes.find(node => node.type === 'OneShotAdapt')
    .widgets.find(widget => widget.name === name).callback()"""
CHOICE = """() => app.graph.nodes.find(node => node.type === 'OneShotAdapt')
    .widgets.find(widget => widget.name === 'kept_run').value"""
TOLD = "() => [...document.querySelectorAll('[data-oneshot-status]')].map(one => one.textContent)"


def test_a_run_is_stopped_and_kept_and_goes_on_by_buttons(
    page: Any, server: Server, request: pytest.FixtureRequest
) -> None:
    load(page, "quick_start")
    seed = 31 + (request.node.callspec.params["page"] is True)
    values = {"CLIPLatentSearch": {"steps": 2, "seed": seed}, "OneShotAdapt": {"steps": 3000, "seed": seed}}
    page.evaluate(SET, values)
    before = set(server.get("/history"))
    page.evaluate("() => app.queuePrompt(0)")
    running = wait(lambda: [one for one in page.evaluate(TOLD) if "of 3000" in one], "no caption of the run")
    assert running and "left" in running[0]
    page.wait_for_timeout(2000)
    screenshot(page, f"running_{request.node.callspec.id}")
    page.evaluate(PRESS, "stop and keep")
    first = wait(lambda: set(server.get("/history")) - before, "the run was not stopped").pop()
    text = server.history(first)["outputs"]["5"]["text"][0]
    kept = int(re.search(r"step (\d+) of 3000", text)[1])
    page.evaluate(PRESS, "go on")
    wait(lambda: server.get("/queue")["queue_running"], "nothing runs")
    (running,) = server.get("/queue")["queue_running"]
    assert running[2]["5"]["inputs"]["kept_run"] == "go on"
    further = r"step (\d+) of 3000"
    wait(
        lambda: any(
            int(found[1]) > kept for one in page.evaluate(TOLD) if (found := re.search(further, one))
        ),
        "it did not go on",
    )
    server.post("/interrupt", {})
    wait(lambda: not server.get("/queue")["queue_running"], "it was not cancelled")
    page.wait_for_timeout(800)
    assert "what was done is kept" in page.evaluate("() => document.body.innerText")
    assert page.evaluate(CHOICE) == "use it"
