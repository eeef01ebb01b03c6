"""Plans: what they may say, the grid, names, keys, and a job's values in a workflow."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from oneshot_core.batch.manifest import CANCELLED, DONE, Manifest, ManifestError
from oneshot_core.batch.plan import PlanError, given, plan_from_values, read_plan
from oneshot_core.batch.workflow import WorkflowError, expected_steps, filled, read_workflow

WORKFLOW = {
    "1": {"class_type": "LoadStyleGAN", "inputs": {"generator_name": "demo"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "3": {"class_type": "CLIPLatentSearch", "inputs": {"steps": 100, "seed": 9, "generator": ["1", 0]}},
    "4": {
        "class_type": "OneShotAdapt",
        "inputs": {"steps": 300, "seed": 9, "method.rate": 0.1, "target": ["2", 0]},
    },
    "5": {
        "class_type": "OneShotSaveGenerator",
        "inputs": {"generator": ["4", 0], "filename_prefix": "folder/x"},
    },
}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    (tmp_path / "w.json").write_text(json.dumps(WORKFLOW))
    return tmp_path


def plan(folder: Path, **more: object):
    return plan_from_values({"format": "oneshot-batch", "format_version": 1, **more}, folder)


def with_inputs(node: str, **inputs: object) -> dict:
    workflow = copy.deepcopy(WORKFLOW)
    workflow[node]["inputs"].update(inputs)
    return workflow


def test_jobs_take_what_the_defaults_say(folder):
    made = plan(
        folder,
        defaults={"generator": "demo", "steps": 5, "set": {"4.seed": 1}, "options": {"batch": 1}},
        jobs=[{"target": "a.png"}, {"name": "two", "target": "b.png", "steps": 6, "set": {"3.steps": 2}}],
    )
    first, second = made.jobs
    assert (first.name, first.target, first.generator, first.steps) == ("a", folder / "a.png", "demo", 5)
    assert (second.name, second.steps, second.seed) == ("two", 6, None)
    assert second.inputs == {"4.seed": 1, "3.steps": 2}
    assert second.options == {"batch": 1}


def test_the_grid_is_every_combination_in_order(folder):
    grid = {
        "targets": "*.png",
        "generators": ["demo", "models/other net.pt"],
        "seeds": [0, 1],
        "settings": [{"steps": 5}, {"name": "long", "steps": 9}],
    }
    jobs = plan(folder, defaults={"steps": 1}, grid=grid).jobs
    assert len(jobs) == 16
    assert [job.name for job in jobs[:3]] == [
        "a-demo-seed0-setting1",
        "a-demo-seed0-long",
        "a-demo-seed1-setting1",
    ]
    assert jobs[-1].name == "b-other net-seed1-long"
    assert jobs[-1].describe() == {
        "target": str(folder / "b.png"), "generator": "models/other net.pt", "seed": 1, "steps": 9
    }  # fmt: skip


def test_names_of_the_grid_tell_only_what_differs(folder):
    assert [job.name for job in plan(folder, grid={"targets": ["*.png"], "seeds": [3]}).jobs] == ["a", "b"]
    one = plan(folder, grid={"targets": ["a.png", "[a]*.png"], "seeds": [3]}).jobs
    assert [(job.name, job.seed) for job in one] == [("a", 3)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "has no jobs"),
        ({"jobs": [{}], "more": 1}, "'more'; known are format"),
        ({"jobs": [{"colour": 1}]}, "job 1 has 'colour'"),
        ({"jobs": {}}, '"jobs" must be a list'),
        ({"jobs": [3]}, "must be an object, got int"),
        ({"jobs": [{"steps": 0}]}, "'steps' must be a whole number from 1 on, got 0"),
        ({"jobs": [{"seed": True}]}, "'seed' must be a whole number"),
        ({"jobs": [{"generator": ""}]}, "'generator' must be a text"),
        ({"jobs": [{"set": []}]}, "'set' must be an object"),
        ({"jobs": [{"target": "no.png"}]}, "no.png is not a file"),
        ({"jobs": [{"name": "../a"}]}, "cannot be a folder's"),
        ({"jobs": [{"name": "a."}]}, "cannot be a folder's"),
        ({"jobs": [{"name": "x" * 101}]}, "cannot be a folder's"),
        ({"jobs": [{"name": "a"}, {"name": "A"}]}, "two jobs are named 'A'"),
        ({"defaults": {"name": "a"}, "jobs": [{}]}, "defaults has 'name'"),
        ({"grid": {}}, '"grid" is empty'),
        ({"grid": []}, '"grid" must be an object'),
        ({"grid": {"targets": "*.jpg"}}, "no file matches"),
        ({"grid": {"targets": [1]}}, "file names or patterns"),
        ({"grid": {"seeds": ["x"]}}, "'seed' must be"),
        ({"jobs": [{}], "workflow": 1}, '"workflow" must be a file name'),
        ({"jobs": [{}], "workflow": "no.json"}, "there is no workflow"),
        ({"jobs": [{}], "format_version": 2}, "format_version 2"),
        ({"jobs": [{}], "format": "other"}, "is not a plan"),
    ],
)
def test_what_a_plan_may_not_say(folder, values, message):
    with pytest.raises(PlanError, match=message.replace("(", r"\(").replace("[", r"\[")):
        plan(folder, **values)


def test_reading_plan_files(folder):
    values = {
        "format": "oneshot-batch",
        "format_version": 1,
        "workflow": "w.json",
        "jobs": [{"target": "a.png"}],
    }
    (folder / "p.json").write_text(json.dumps(values))
    made = read_plan(folder / "p.json")
    assert (made.name, made.workflow, made.jobs[0].name) == ("p", WORKFLOW, "a")
    for text, message in (("{", "cannot be read"), ('{"seed": NaN}', "NaN is not"), ("[]", "is not a plan")):
        (folder / "p.json").write_text(text)
        with pytest.raises(PlanError, match=message):
            read_plan(folder / "p.json")
    with pytest.raises(PlanError, match="there is no plan"):
        read_plan(folder / "none.json")


def test_check_says_what_would_be_left_out(folder):
    both = {"target": "a.png", "generator": "demo"}
    plan(folder, workflow="w.json", jobs=[{}, both]).check(on_server=True)
    plan(folder, workflow="w.json", jobs=[both]).check(on_server=False)
    both_ways = plan(
        folder, workflow="w.json", jobs=[{**both, "options": {"batch": 1}, "set": {"4.seed": 1}}]
    )
    both_ways.check(on_server=True)
    both_ways.check(on_server=False)
    for job, on_server, message in (
        ({}, False, "has no target"),
        ({"target": "a.png"}, False, "has no generator"),
        ({**both, "generator": "no.pt"}, False, "no.pt is not a file"),
        ({**both, "set": {"4.seed": 1}}, False, "only servers know"),
        ({**both, "options": {"batch": 1}}, True, "only a run without --server knows"),
        ({**both, "set": {"4.sed": 1}}, True, "has no input 'sed'"),
    ):
        with pytest.raises(PlanError, match=message):
            plan(folder, workflow="w.json", jobs=[job]).check(on_server)
    with pytest.raises(PlanError, match="names no workflow"):
        plan(folder, jobs=[both]).check(on_server=True)


def test_the_key_follows_what_determines_the_result(folder):
    (folder / "g.pt").write_bytes(b"1")
    jobs = [
        {"name": "x", "target": "a.png", "generator": "g.pt", "options": {"batch": 1}, "set": {"4.seed": 1}}
    ]

    def keys() -> tuple[str, str]:
        made = plan(folder, workflow="w.json", jobs=jobs)
        return made.key(made.jobs[0], on_server=True), made.key(made.jobs[0], on_server=False)

    first = keys()
    assert keys() == first and first[0] != first[1]
    jobs[0]["options"] = {"batch": 2}
    second = keys()
    assert second[0] == first[0] and second[1] != first[1]
    (folder / "g.pt").write_bytes(b"12")
    third = keys()
    assert third[0] == first[0] and third[1] != second[1]
    (folder / "a.png").write_bytes(b"other")
    assert all(new != old for new, old in zip(keys(), third, strict=True))


def test_a_job_fills_the_workflow(folder):
    job = plan(
        folder, jobs=[{"name": "x", "target": "a.png", "generator": "g.pt", "seed": 4, "steps": 7}]
    ).jobs[0]
    made = filled(WORKFLOW, "x", given(job, "up/a.png"), {"4.method.rate": 0.5, "CLIPLatentSearch.steps": 50})
    assert made["1"]["inputs"] == {"generator_name": "g.pt"}
    assert made["2"]["inputs"] == {"image": "up/a.png"}
    assert made["3"]["inputs"] == {"steps": 50, "seed": 4, "generator": ["1", 0]}
    assert made["4"]["inputs"] == {"steps": 7, "seed": 4, "method.rate": 0.5, "target": ["2", 0]}
    assert made["5"]["inputs"]["filename_prefix"] == "folder/x"
    assert WORKFLOW["4"]["inputs"]["steps"] == 300
    assert expected_steps(made) == {"3": 50, "4": 7}
    assert (
        filled(WORKFLOW, "x", {}, {"5.filename_prefix": "mine"})["5"]["inputs"]["filename_prefix"] == "mine"
    )
    bare = with_inputs("5", filename_prefix="x")
    assert filled(bare, "job", {}, {})["5"]["inputs"]["filename_prefix"] == "job"


def test_places_that_are_missing_or_not_clear():
    linked = with_inputs("4", seed=["9", 0])
    with pytest.raises(WorkflowError, match="gets 'seed' from another node"):
        filled(linked, "x", {"seed": 1}, {})
    assert filled(linked, "x", {}, {"4.seed": 3})["4"]["inputs"]["seed"] == 3
    other_search = with_inputs("3", seed=["9", 0])
    assert filled(other_search, "x", {"seed": 1}, {})["3"]["inputs"]["seed"] == ["9", 0]
    without = {node: values for node, values in WORKFLOW.items() if node != "2"}
    with pytest.raises(WorkflowError, match="no node LoadImage, so 'target' has no place"):
        filled(without, "x", {"target": "a"}, {})
    two = {**WORKFLOW, "7": {"class_type": "LoadImage", "inputs": {"image": "mask.png"}}}
    with pytest.raises(WorkflowError, match=r"2 nodes LoadImage \(2, 7\)"):
        filled(two, "x", {"target": "a"}, {})
    with pytest.raises(WorkflowError, match="write 2.image"):
        filled(two, "x", {}, {"LoadImage.image": "a"})
    titled = {**two, "2": {**two["2"], "_meta": {"title": "Target"}}}
    assert filled(titled, "x", {"target": "a"}, {})["2"]["inputs"]["image"] == "a"
    for name in ("seed", "9.seed", "Other.seed"):
        with pytest.raises(WorkflowError, match="<node id or class>.<input>"):
            filled(WORKFLOW, "x", {}, {name: 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": [], "links": []}, "for the canvas"),
        ({}, "not a workflow in API form"),
        ([], "not a workflow in API form"),
        ({"1": {"class_type": "X"}}, "not a workflow in API form"),
    ],
)
def test_other_forms_of_a_workflow_are_refused(tmp_path, values, message):
    (tmp_path / "w.json").write_text(json.dumps(values))
    with pytest.raises(WorkflowError, match=message):
        read_workflow(tmp_path / "w.json")


def test_the_manifest_remembers_jobs_by_their_settings(tmp_path):
    manifest = Manifest(tmp_path, "p")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("")
    manifest.record("x", {"key": "k", "status": DONE, "files": [{"path": "x/file"}]})
    manifest.record_all({"y": {"key": "k", "status": CANCELLED}})
    again = Manifest(tmp_path, "p")
    assert again.is_done("x", "k") and not again.is_done("x", "other") and not again.is_done("y", "k")
    assert again.entry("y", "k")["status"] == CANCELLED and again.entry("z", "k") == {}
    assert "updated" in again.entry("x", "k")
    (tmp_path / "x" / "file").unlink()
    assert not again.is_done("x", "k")
    assert not Manifest(tmp_path, "p", fresh=True).entry("x", "k")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["manifest.json"]
    (tmp_path / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(ManifestError, match="add --fresh"):
        Manifest(tmp_path, "p")
