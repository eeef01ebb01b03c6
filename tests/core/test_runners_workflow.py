"""Workflows as they are exported: where a job's picture goes, and the shipped workflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oneshot_core.runners.jobs import PlanError, given
from oneshot_core.runners.plan import plan_from_values
from oneshot_core.runners.workflow import READY, WorkflowError, filled, read_workflow

WORKFLOWS = Path(__file__).parents[1] / "workflows"
HEAD = {"format": "oneshot-batch", "format_version": 1}
LOAD = {"class_type": "LoadImage", "inputs": {"image": "mask.png", "upload": "image"}}
DEMO = {"class_type": "OneShotDemoTarget", "inputs": {"look": "comic"}}


def titled(node: dict[str, Any], title: str) -> dict[str, Any]:
    return {**node, "_meta": {"title": title}}


@pytest.mark.parametrize("name", ["quick_start", "own_checkpoint"])
def test_a_template_that_was_exported_takes_a_jobs_picture(name):
    workflow = read_workflow(WORKFLOWS / f"{name}.json")
    made = filled(workflow, "x", {"target": "up/a.png", "seed": 7, "steps": 5, "generator": "g.pt"}, {})
    assert made["3"] == {**workflow["3"], "class_type": "LoadImage", "inputs": {"image": "up/a.png"}}
    assert made["5"]["inputs"]["target"] == made["4"]["inputs"]["target"] == workflow["4"]["inputs"]["target"]
    assert made["4"]["inputs"]["seed"] == made["5"]["inputs"]["seed"] == 7
    assert made["1"]["inputs"]["generator_name"] == "g.pt" and made["5"]["inputs"]["steps"] == 5


def test_without_a_picture_the_workflows_own_stays():
    workflow = read_workflow(WORKFLOWS / "quick_start.json")
    assert filled(workflow, "x", {"seed": 7}, {"3.look": "blueprint"})["3"]["inputs"] == {"look": "blueprint"}


@pytest.mark.parametrize("other", [LOAD, DEMO])
def test_among_several_pictures_the_titled_one_is_taken(other):
    workflow = {"1": other, "2": titled(DEMO, " Target"), "3": other}
    made = filled(workflow, "x", {"target": "a.png"}, {})
    assert made["2"]["inputs"] == {"image": "a.png"} and made["1"] == made["3"] == other
    workflow["3"] = titled(other, "target")
    with pytest.raises(WorkflowError, match=r"3 nodes LoadImage or OneShotDemoTarget \(1, 2, 3\); give the"):
        filled(workflow, "x", {"target": "a.png"}, {})


@pytest.mark.parametrize(
    ("workflow", "message"),
    [
        ({"1": LOAD, "2": DEMO}, 'the title "target" in ComfyUI and export again, or leave'),
        ({"9": {"class_type": "EmptyImage", "inputs": {}}}, "no node LoadImage or OneShotDemoTarget, so"),
    ],
)
def test_a_workflow_without_a_clear_place_is_refused_for_the_job(tmp_path, workflow, message):
    (tmp_path / "w.json").write_text(json.dumps(workflow))
    plan = plan_from_values({**HEAD, "workflow": "w.json", "jobs": [{"target": "demo:comic"}]}, tmp_path)
    with pytest.raises(PlanError, match=f"job 'comic': the workflow has .*{message}"):
        plan.check(on_server=True)


def test_a_sweep_says_how_to_mark_its_picture():
    with pytest.raises(WorkflowError, match=r"3 nodes .* \(1, 5, 9\); give the one for 'target' the title"):
        filled(read_workflow(WORKFLOWS / "target_sweep.json"), "x", {"target": "a.png"}, {})


def test_the_shipped_workflow_needs_nothing_from_the_plans_folder(tmp_path):
    jobs = [{}, {"name": "two", "target": "demo:oil painting", "generator": "demo", "seed": 3, "steps": 9}]
    plan = plan_from_values({**HEAD, "workflow": "demo", "jobs": jobs}, tmp_path)
    plan.check(on_server=True)
    assert plan.workflow == read_workflow(READY)
    job = [*plan.jobs][1]
    made = filled(plan.workflow, job.name, given(job, "up/a.png"), job.inputs)
    assert [node for node in made if made[node] != plan.workflow[node]] == ["3", "4", "5", "9"]
    assert made["9"]["inputs"]["filename_prefix"] == "oneshot_stylegan/batch/two"
    (tmp_path / "demo").write_text(json.dumps({"1": LOAD}))
    own = plan_from_values({**HEAD, "workflow": "./demo", "jobs": [{}]}, tmp_path)
    assert own.workflow == {"1": LOAD}


def test_the_shipped_workflow_differs_from_the_quick_start_in_what_it_saves():
    quick, ready = read_workflow(WORKFLOWS / "quick_start.json"), read_workflow(READY)
    for node in "123456":
        assert ready[node]["inputs"] == quick[node]["inputs"]
    saved = {node: values["class_type"] for node, values in ready.items() if node in "789"}
    assert saved == {"7": "SaveImage", "8": "SaveImage", "9": "OneShotSaveGenerator"}
