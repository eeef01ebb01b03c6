"""What nodes show of themselves on the real page: status, curves, pictures; after reload, undo and inside."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from comfy_server import PACK, Server, kept_runs
from page import SET, load, opened_page, screenshot, wait
from PIL import Image

STATUS = """() => { const found = {}
    for (const node of app.canvas.graph.nodes) {
        const panel = node.widgets?.find(w => w.name === 'oneshot_panel')?.element
        if (panel) found[node.title] = panel.querySelector('[data-oneshot-status]').textContent }
    return found }"""
PICTURES = """() => { const found = {}
    for (const node of app.canvas.graph.nodes) {
        const panel = node.widgets?.find(w => w.name === 'oneshot_panel')?.element
        const all = [...panel?.querySelectorAll('img') ?? []]
        const shown = all.filter(one => one.complete && one.naturalWidth)
        found[node.title] = shown.length }
    return found }"""
CURVES = """() => [...document.querySelectorAll('[data-oneshot-losses] canvas')].map(canvas => {
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
    return pixels.filter((value, at) => at % 4 === 3 && value > 0).length })"""
VALUE = (
    "([title, name]) => app.graph.nodes.find(n => n.title === title).widgets.find(w => w.name === name).value"
)
COMMAND = "name => app.extensionManager.command.execute(name)"
TITLES = {"Source generator", "Encoders", "Target", "Search", "Adapt", "Samples", "Save"}


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "vue"])
def page(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    """ComfyUI's page with a quick start that has run."""
    with opened_page(server, vue=request.param) as opened:
        run(opened, server, 51 + request.param)
        yield opened


def run(page: Any, server: Server, seed: int, steps: int = 6) -> None:
    """Load the quick start, run it with a few steps, wait for its end."""
    load(page, "quick_start")
    search = {"steps": 3, "seed": seed}
    adapt = {"steps": steps, "seed": seed, "snapshot_every": 2}
    page.evaluate(SET, {"CLIPLatentSearch": search, "OneShotAdapt": adapt})
    queue(page, server)


def queue(page: Any, server: Server) -> dict[str, Any]:
    """Press Run; returns the history entry of what ran."""
    before = set(server.get("/history"))
    page.evaluate("() => app.queuePrompt(0)")
    (done,) = wait(lambda: set(server.get("/history")) - before, "the prompt did not end", 300)
    page.wait_for_timeout(1500)
    entry = server.history(done)
    assert entry is not None
    return entry


def settled(asked: Callable[[], Any]) -> Any:
    """What is answered once it has not changed for a second: the canvas glides to where it shall be."""
    answers: list[Any] = []
    wait(
        lambda: (
            answers.append(asked())
            or (len(answers) > 3 and answers[-1] and answers[-4:] == 4 * [answers[-1]])
        ),
        "it moves on",
        30,
    )
    return answers[-1]


def test_every_node_tells_what_it_did(page: Any, request: pytest.FixtureRequest) -> None:
    status = page.evaluate(STATUS)
    assert set(status) == TITLES and all(status.values()), status
    assert "step 6 of 6" in status["Adapt"] and "saved as demo_" in status["Save"]
    first = status["Source generator"]  # of the page that runs first; the other finds it cached
    assert "with discriminator" in first or "unchanged since an earlier run" in first
    assert "counterpart" in status["Search"] and "done in" in status["Adapt"]
    assert all(points > 100 for points in page.evaluate(CURVES))
    shown = page.evaluate(PICTURES)
    assert (shown["Target"], shown["Adapt"], shown["Samples"]) == (1, 3, 2)  # gallery of three, both looks
    screenshot(page, f"panels_{request.node.callspec.id}")


def test_a_click_in_the_gallery_chooses_a_step_and_nothing_is_trained(page: Any, server: Server) -> None:
    page.evaluate("() => document.querySelector('[data-oneshot-gallery] [data-step=\"2\"]').click()")
    assert page.evaluate(VALUE, ["Adapt", "snapshot_step"]) == 2
    kept = kept_runs(server.base)
    assert "step 2 of 6" in queue(page, server)["outputs"]["5"]["text"][0]
    status = page.evaluate(STATUS)
    assert "step 2 of 6" in status["Adapt"] and kept_runs(server.base) == kept
    page.evaluate("() => document.querySelector('[data-oneshot-gallery] [data-step=\"6\"]').click()")
    assert page.evaluate(VALUE, ["Adapt", "snapshot_step"]) == 0  # the last step is what 0 stands for


def test_the_slider_obeys_the_keyboard(page: Any) -> None:
    clip = "() => document.querySelector('[data-oneshot-compare] img:nth-of-type(2)').style.clipPath"
    page.evaluate("() => document.querySelector('[data-oneshot-compare] input').focus()")
    before = page.evaluate(clip)
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(clip) != before and "45%" in page.evaluate(clip)


def test_undo_and_other_tabs_lose_nothing(page: Any) -> None:
    status, before = page.evaluate(STATUS), page.evaluate(VALUE, ["Samples", "psi"])
    page.evaluate("() => { window.samples = app.graph.nodes.find(n => n.title === 'Samples') }")
    track = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.%s()"
    page.evaluate(track % "checkState")
    page.evaluate(SET, {"SampleAdapted": {"psi": 0.55}})
    page.evaluate(track % "checkState")
    assert page.evaluate(VALUE, ["Samples", "psi"]) == 0.55
    page.evaluate(COMMAND, "Comfy.Undo")
    wait(lambda: page.evaluate(VALUE, ["Samples", "psi"]) == before, "nothing was undone", 10)
    assert page.evaluate("() => !app.graph.nodes.includes(window.samples)"), "the nodes are the same"
    wait(lambda: page.evaluate(STATUS) == status, f"lost by undo: {page.evaluate(STATUS)}, had {status}", 20)
    load(page, "text_edit")  # another tab
    assert not any(page.evaluate(STATUS).values())
    page.evaluate(COMMAND, "Workspace.PreviousOpenedWorkflow")
    wait(lambda: page.evaluate(STATUS) == status, f"lost by tabs: {page.evaluate(STATUS)}", 20)
    assert all(points > 100 for points in page.evaluate(CURVES))


def test_a_reload_loses_nothing(page: Any) -> None:
    # That a node was cached only the page itself noticed.
    status = {name: one for name, one in page.evaluate(STATUS).items() if "unchanged" not in one}
    page.wait_for_timeout(1500)  # the page keeps its drafts now and then
    page.reload()
    page.wait_for_function("window.app?.graph && window.app.extensionManager", timeout=120_000)
    there = lambda: status.items() <= page.evaluate(STATUS).items()  # noqa: E731
    wait(there, f"lost by reload: {page.evaluate(STATUS)}", 30)
    wait(lambda: page.evaluate(PICTURES)["Adapt"] == 3, "no gallery", 20)


def test_a_node_of_another_workflow_with_the_same_id_shows_nothing(page: Any) -> None:
    other = {
        "workflow": "another", "node": "5", "prompt_id": "x", "node_type": "OneShotAdapt", "state": "failed",
        "error": "of another workflow", "points": {},
    }  # fmt: skip
    tell = "one => app.api.dispatchEvent(new CustomEvent('oneshot.status', { detail: one }))"
    page.evaluate(tell, other)
    assert "another" not in page.evaluate(STATUS)["Adapt"]
    mine = {**other, "workflow": page.evaluate("() => app.graph.id")}
    page.evaluate(tell, mine)
    assert page.evaluate(STATUS)["Adapt"] == "of another workflow"
    page.evaluate(tell, {**mine, "node": "77", "node_type": "OneShotAdapt"})  # a node that is gone
    page.evaluate(tell, {**mine, "node": "9"})  # another kind of node has this id now
    assert "saved" in page.evaluate(STATUS)["Save"]


def test_an_error_is_told_in_its_own_words_on_its_node(page: Any, server: Server) -> None:
    load(page, "own_checkpoint")
    values = {"LoadStyleGAN": {"generator_name": "demo"}, "CLIPLatentSearch": {"steps": 2}}
    values |= {"OneShotLoadEncoders": {"clip": "demo", "perceptual": "demo"}}
    page.evaluate(SET, values)
    page.evaluate("""() => { const [image] = app.graph.nodes.filter(n => n.type === 'LoadImage')
        const [search] = app.graph.nodes.filter(n => n.type === 'CLIPLatentSearch')
        image.widgets[0].value = 'example.png'
        image.connect(1, search, search.inputs.findIndex(one => one.name === 'mask')) }""")
    entry = queue(page, server)
    assert entry["status"]["status_str"] == "error"
    told = page.evaluate(STATUS)
    assert "leave it out, or invert it" in told["Search"] and "Traceback" not in told["Search"]


def test_the_square_of_a_target_is_moved_by_pointer_wheel_and_keys(page: Any, server: Server) -> None:
    Image.effect_noise((300, 200), 80).save(server.base / "input" / "wide.png")
    load(page, "own_checkpoint")
    page.keyboard.press("Escape")  # the message of an error before lies over the canvas
    page.evaluate(SET, {"LoadImage": {"image": "wide.png"}})
    shown = "() => document.querySelector('[data-oneshot-frame] img')?.naturalWidth === 300"
    wait(lambda: page.evaluate(shown), "the picture is not shown", 20)
    page.evaluate(COMMAND, "Comfy.Canvas.FitView")
    box = settled(lambda: page.locator("[data-oneshot-frame]").bounding_box())
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + box["width"], y, steps=8)
    page.mouse.up()
    wait(lambda: page.evaluate(VALUE, ["Frame", "offset_x"]) == 1, "not moved", 10)
    assert page.evaluate(VALUE, ["Frame", "offset_y"]) == 0  # no room
    page.mouse.move(x, y)
    page.mouse.wheel(0, -100)
    wait(lambda: page.evaluate(VALUE, ["Frame", "zoom"]) == 1.1, "not zoomed", 10)
    page.evaluate("() => document.querySelector('[data-oneshot-frame]').focus()")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(VALUE, ["Frame", "offset_x"]) == 0.95
    page.evaluate(SET, {"OneShotFrameTarget": {"zoom": 2.0, "offset_x": -1.0, "offset_y": 1.0}})
    place = """() => { const { left, top, width } = document.querySelector('[data-oneshot-frame] div').style
        return [left, top, width] }"""
    wait(lambda: page.evaluate(place)[:2] == ["0%", "50%"], f"drawn at {page.evaluate(place)}", 10)


def test_advanced_inputs_fold_and_change_nothing(page: Any) -> None:
    load(page, "quick_start")
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    hidden = """() => app.graph.nodes.find(n => n.type === 'OneShotAdapt').widgets
        .filter(w => w.hidden).map(w => w.name)"""
    assert len(page.evaluate(hidden)) == 19 and "steps" not in page.evaluate(hidden)
    press = """() => app.graph.nodes.find(n => n.type === 'OneShotAdapt').widgets
        .find(w => w.name === 'advanced').callback()"""
    page.evaluate(press)
    assert page.evaluate(hidden) == []
    assert page.evaluate("async () => (await app.graphToPrompt()).output") == prompt
    page.evaluate(press)
    assert len(page.evaluate(hidden)) == 19


def test_the_blueprint_runs_and_tells_inside_its_subgraph(page: Any, server: Server) -> None:
    names = [one["name"] for one in server.get("/global_subgraphs").values()]
    assert "One-shot style in one node" in names
    load(page, "target_sweep")
    small = """steps => app.graph.nodes.filter(n => n.subgraph).flatMap(n => n.widgets)
        .forEach(w => { if (w.name in steps) w.value = steps[w.name] })"""
    page.evaluate(small, {"steps": 2, "search_steps": 2})
    entry = queue(page, server)
    assert entry["status"]["status_str"] == "success"
    assert {len(entry["outputs"][node]["images"]) for node in ("3", "7", "11")} == {8}
    page.evaluate("""() => { const node = app.graph.nodes.find(n => n.subgraph)
        app.canvas.openSubgraph(node.subgraph, node) }""")
    page.wait_for_timeout(1500)
    status = page.evaluate(STATUS)
    assert "step 2 of 2" in status["Adapt"] and "done in" in status["Samples"], status


COST = """async ([told, times]) => {
    const [spent, names] = [[], ['lpips', 'patch', 'adversarial', 'pixel', 'clip']]
    for (let step = 1; step <= times; step += 1) {
        const detail = { ...told, step, steps: times, eta: 1,
            points: Object.fromEntries(names.map(name => [name, [[step, Math.random()]]])) }
        const took = await new Promise(done => {
            let began, told
            requestAnimationFrame(() => { began = performance.now() })
            const before = performance.now()
            app.api.dispatchEvent(new CustomEvent('oneshot.loss', { detail }))
            told = performance.now() - before
            requestAnimationFrame(() => done(told + performance.now() - began))
        })
        spent.push(took)
    }
    return spent }"""


def test_an_update_costs_little(page: Any) -> None:
    """The aim for an event and the drawing it leads to is 2 ms; half a frame is too much on any machine."""
    load(page, "quick_start")
    told = {"workflow": page.evaluate("() => app.graph.id"), "node": "5", "prompt_id": "cost"}
    told |= {"node_type": "OneShotAdapt", "state": "running"}
    spent = sorted(page.evaluate(COST, [told, 300]))
    assert statistics.median(spent) < 8, f"{statistics.median(spent)} ms, of ten {spent[::30]}"


def test_the_page_knows_every_node_of_the_pack(page: Any) -> None:
    schemas = json.loads((PACK / "tests" / "nodes" / "schemas.json").read_text(encoding="utf-8"))
    made = """kinds => kinds.filter(kind => {
        const node = LiteGraph.createNode(kind)
        app.graph.add(node)
        const has = node.widgets?.some(w => w.name === 'oneshot_panel')
        app.graph.remove(node)
        return !has })"""
    assert page.evaluate(made, list(schemas)) == []


SHOWN = """title => { const node = app.graph.nodes.find(n => n.title === title)
    return (node.imgs ?? []).map(one => one.currentSrc || one.src) }"""


def test_the_last_live_picture_gives_way_to_the_pictures_of_the_result(page: Any, server: Server) -> None:
    page.evaluate("""() => { window.live = 0
        app.api.addEventListener('b_preview_with_metadata', () => { window.live += 1 }) }""")
    run(page, server, 91 + 1000 * bool(page.evaluate("() => LiteGraph.vueNodesMode")), steps=30)
    assert page.evaluate("() => window.live") > 0
    if page.evaluate("() => LiteGraph.vueNodesMode"):
        live = "() => [...document.querySelectorAll('img')].filter(one => one.src.startsWith('blob:')).length"
        wait(lambda: page.evaluate(live) == 0, "a live picture is left", 10)
    else:
        ended = lambda: all("/view?" in one for one in page.evaluate(SHOWN, "Adapt"))  # noqa: E731
        wait(lambda: page.evaluate(SHOWN, "Adapt") and ended(), f"{page.evaluate(SHOWN, 'Adapt')}", 10)
