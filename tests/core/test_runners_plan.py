"""Plans: what they may say, the grid, names, keys, and a job's values in a workflow."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fuzzing import failures, mutated_json, wrong_error
from manifests import manifest_of, with_checksum

from oneshot_core.runners.jobs import PlanError, given
from oneshot_core.runners.manifest import CANCELLED, DONE, Manifest, ManifestError
from oneshot_core.runners.names import local_name
from oneshot_core.runners.plan import plan_from_values, read_plan
from oneshot_core.runners.workflow import WorkflowError, expected_steps, filled, read_workflow

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
BATCH = {"method": {"batch": 1}}


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
        defaults={"generator": "demo", "steps": 5, "set": {"4.seed": 1}, "recipe": BATCH},
        jobs=[{"target": "a.png"}, {"name": "two", "target": "b.png", "steps": 6, "set": {"3.steps": 2}}],
    )
    first, second = made.jobs
    assert (first.name, first.target, first.generator, first.steps) == ("a", folder / "a.png", "demo", 5)
    assert (second.name, second.steps, second.seed) == ("two", 6, None)
    assert second.inputs == {"4.seed": 1, "3.steps": 2}
    assert second.recipe == BATCH


def test_the_grid_is_every_combination_in_order(folder):
    grid = {
        "targets": "*.png",
        "generators": ["demo", "models/other net.pt"],
        "seeds": [0, 1],
        "settings": [{"steps": 5}, {"name": "long", "steps": 9}],
    }
    jobs = plan(folder, defaults={"steps": 1}, grid=grid).jobs
    assert len(jobs) == 16
    jobs = [*jobs]
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
        ({"jobs": [{}], "more": 1}, "unknown entry 'more'; allowed are \\$schema, defaults"),
        ({"jobs": [{"colour": 1}]}, "jobs[0] has the unknown entry 'colour'"),
        ({"jobs": {}}, "jobs must be a list"),
        ({"jobs": [3]}, "jobs[0] must be an object, found 3"),
        ({"jobs": [{"steps": 0}]}, "steps must be a whole number from 1 to 100000, found 0"),
        ({"jobs": [{"seed": True}]}, "seed must be a whole number"),
        ({"jobs": [{"generator": ""}]}, "generator must be a text"),
        ({"jobs": [{"set": []}]}, "set must be an object"),
        ({"jobs": [{"target": "no.png"}]}, "no.png is not a file"),
        ({"jobs": [{"name": "../a"}]}, "cannot be a folder's"),
        ({"jobs": [{"name": "a."}]}, "cannot be a folder's"),
        ({"jobs": [{"name": "x" * 101}]}, "cannot be a folder's"),
        ({"jobs": [{"name": "a"}, {"name": "A"}]}, "two jobs are named 'A'"),
        ({"jobs": [{"name": "stra\u00dfe"}, {"name": "STRASSE"}]}, "two jobs are named 'STRASSE'"),
        ({"jobs": [{"name": "nul.txt"}]}, "Windows keeps it for a device"),
        ({"jobs": [{"name": "Manifest.jsonl"}]}, "the batch for itself"),
        ({"jobs": [{"name": "Pictures"}]}, "the batch for itself"),
        ({"jobs": [{"name": "\u4eba" * 100}]}, "cannot be a folder's"),
        ({"defaults": {"name": "a"}, "jobs": [{}]}, "defaults has the unknown entry 'name'"),
        ({"grid": {}}, '"grid" is empty'),
        ({"grid": []}, "grid must be an object"),
        ({"grid": {"targets": "*.jpg"}}, "no file matches"),
        ({"grid": {"targets": [1]}}, "targets must be a list of texts"),
        ({"grid": {"targets": "\0"}}, "no file matches"),
        ({"jobs": [{"target": "a" * 5000}]}, "is not a file"),
        ({"grid": {"seeds": ["x"]}}, "seed must be"),
        ({"grid": {"seeds": list(range(10000)), "settings": [{"steps": 1}] * 1001}}, "makes 10010000 jobs"),
        ({"jobs": [{}], "workflow": 1}, "workflow must be a text"),
        ({"jobs": [{}], "workflow": "\0"}, "cannot be read"),
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
    assert (made.name, made.workflow, [job.name for job in made.jobs]) == ("p", WORKFLOW, ["a"])
    for text, message in (("{", "cannot be read"), ('{"seed": NaN}', "NaN is no"), ("[]", "is not a plan")):
        (folder / "p.json").write_text(text)
        with pytest.raises(PlanError, match=message):
            read_plan(folder / "p.json")
    with pytest.raises(PlanError, match="there is no plan"):
        read_plan(folder / "none.json")


def test_check_says_what_would_be_left_out(folder):
    both = {"target": "a.png", "generator": "demo"}
    plan(folder, workflow="w.json", jobs=[{}, both]).check(on_server=True)
    plan(folder, workflow="w.json", jobs=[both]).check(on_server=False)
    both_ways = plan(folder, workflow="w.json", jobs=[{**both, "recipe": BATCH, "set": {"4.seed": 1}}])
    both_ways.check(on_server=True)
    both_ways.check(on_server=False)
    for job, on_server, message in (
        ({}, False, "has no target"),
        ({"target": "a.png"}, False, "has no generator"),
        ({**both, "generator": "no.pt"}, False, "no.pt is not a file"),
        ({**both, "set": {"4.seed": 1}}, False, "only servers know"),
        ({**both, "recipe": BATCH}, True, "only a run without --server knows"),
        ({**both, "set": {"4.sed": 1}}, True, "has no input 'sed'"),
    ):
        with pytest.raises(PlanError, match=message):
            plan(folder, workflow="w.json", jobs=[job]).check(on_server)
    with pytest.raises(PlanError, match="names no workflow"):
        plan(folder, jobs=[both]).check(on_server=True)


def test_the_key_follows_what_determines_the_result(folder):
    (folder / "g.pt").write_bytes(b"1")
    jobs = [
        {
            "name": "x",
            "target": "a.png",
            "generator": "g.pt",
            "recipe": BATCH,
            "set": {"4.seed": 1},
        }
    ]

    def keys() -> tuple[str, str]:
        made = plan(folder, workflow="w.json", jobs=jobs)
        (job,) = made.jobs
        return made.key(job, on_server=True), made.key(job, on_server=False)

    first = keys()
    assert keys() == first and first[0] != first[1]
    jobs[0]["recipe"] = {"method": {"batch": 2}}
    second = keys()
    assert second[0] == first[0] and second[1] != first[1]
    (folder / "g.pt").write_bytes(b"12")
    third = keys()
    assert third[0] == first[0] and third[1] != second[1]
    (folder / "a.png").write_bytes(b"other")
    assert all(new != old for new, old in zip(keys(), third, strict=True))


def test_a_job_fills_the_workflow(folder):
    values = {"name": "x", "target": "a.png", "generator": "g.pt", "seed": 4, "steps": 7}
    (job,) = plan(folder, jobs=[values]).jobs
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
    with pytest.raises(
        WorkflowError, match="no node LoadImage or OneShotDemoTarget, so 'target' has no place in it; add one"
    ):
        filled(without, "x", {"target": "a"}, {})
    two = {**WORKFLOW, "7": {"class_type": "LoadImage", "inputs": {"image": "mask.png"}}}
    with pytest.raises(WorkflowError, match=r"2 nodes LoadImage or OneShotDemoTarget \(2, 7\); give the one"):
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
    (tmp_path / "x" / "file").write_text("sound")
    manifest.record("x", {"key": "k", "status": DONE, "files": [{"path": "x/file", "kind": "adapted"}]})
    manifest.record_all([("y", {"key": "k", "status": CANCELLED})])
    again = Manifest(tmp_path, "p")
    assert again.is_done("x", "k") and not again.is_done("x", "other") and not again.is_done("y", "k")
    assert again.entry("y", "k")["status"] == CANCELLED and again.entry("z", "k") == {}
    assert "updated" in again.entry("x", "k")
    (tmp_path / "x" / "file").touch()
    assert again.is_done("x", "k")
    for damage in (b"", b"soumd", b"sound and more"):
        (tmp_path / "x" / "file").write_bytes(damage)
        assert not again.is_done("x", "k")
    (tmp_path / "x" / "file").unlink()
    assert not again.is_done("x", "k")
    assert not Manifest(tmp_path, "p", fresh=True).entry("x", "k")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["manifest.jsonl"]
    (tmp_path / "manifest.jsonl").write_text('{"format": "other"}')
    with pytest.raises(ManifestError, match="add --fresh"):
        Manifest(tmp_path, "p")


def test_a_done_job_has_files_in_the_folder_that_are_what_they_were(tmp_path):
    """A manifest is a file that anybody can edit; a link may lead out of the folder."""
    out = tmp_path / "out"
    (out / "x").mkdir(parents=True)
    (tmp_path / "outside").write_text("sound")
    (out / "x" / "link").symlink_to(tmp_path / "outside")
    (out / "x" / "snapshots").mkdir()
    manifest = Manifest(out, "p")
    for path, done in (("x/link", False), ("x/snapshots", True), ("x/gone", False)):
        manifest.record("x", {"key": "k", "status": DONE, "files": [{"path": path, "kind": "adapted"}]})
        assert manifest.is_done("x", "k") is done, path
    snapshots = {"path": "x/removed", "kind": "snapshots"}
    for entry, done in (
        ({"files": [snapshots]}, True),
        ({}, False),
        ({"files": []}, False),
        ({"files": [], "saved_nothing": True}, True),
    ):
        manifest.record("x", {"key": "k", "status": DONE, **entry})
        assert manifest.is_done("x", "k") is done, entry


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "C:\\x", "x/../../y", "", 3, None])
def test_a_manifest_whose_files_lead_elsewhere_counts_for_nothing(tmp_path, path):
    manifest = Manifest(tmp_path, "p")
    manifest.record("x", {"key": "k", "status": DONE, "files": [{"path": "x/file", "kind": "adapted"}]})
    head, line = (tmp_path / "manifest.jsonl").read_bytes().splitlines()
    values = json.loads(line)
    del values["checksum"]
    values["files"][0]["path"] = path
    (tmp_path / "manifest.jsonl").write_bytes(head + b"\n" + with_checksum(values))
    again = Manifest(tmp_path, "p")
    assert again.statuses() == {"x": DONE} and again.last("x") == {} and not again.is_done("x", "k")


def test_a_manifest_holds_no_folder_of_the_user(tmp_path):
    manifest, home = Manifest(tmp_path, "p"), Path.home()
    settings = {
        "target": f"{home}/My Pictures/a.png",
        "set": {"4.x": "C:\\Users\\Ann Lee\\b.pt", "5.y": "a/b.pt"},
    }
    error = f"the target {tmp_path}/c.png is damaged; {home}/x y/d.png: gone (http://127.0.0.1:8188/view/a/b)"
    manifest.record("x", {"key": "k", "status": CANCELLED, "settings": settings, "error": error})
    entry = manifest_of(tmp_path)["x"]
    assert entry["settings"] == {"target": "a.png", "set": {"4.x": "b.pt", "5.y": "a/b.pt"}}
    assert entry["error"] == ("the target c.png is damaged; x y/d.png: gone (http://127.0.0.1:8188/view/a/b)")


def test_names_of_files_work_on_every_system():
    taken: list[str] = []
    for name in (
        "a.png",
        "A.png",
        "con",
        "Com1.txt",
        "x" * 300 + ".png",
        "人" * 90 + ".png",
        ".hidden ",
        "a:b?",
    ):
        taken.append(local_name(name, taken))
    assert taken[:4] == ["a.png", "2_A.png", "_con", "_Com1.txt"]
    assert taken[4] == "x" * 100 + ".png" and taken[5].endswith("人.png")
    assert taken[6:] == ["hidden", "a_b_"]
    assert all(len(name.encode()) <= 210 for name in taken)
    assert local_name("..", []) == local_name("\u202e", []).replace("_", "file") == "file"


PLAN = {
    "format": "oneshot-batch", "format_version": 1, "workflow": "w.json",
    "defaults": {"steps": 3, "set": {"4.seed": 1}},
    "jobs": [{"name": "x", "target": "a.png", "generator": "demo", "seed": 4, "recipe": BATCH}],
    "grid": {"targets": ["*.png"], "generators": ["g.pt"], "seeds": [0, 1], "settings": [{"steps": 5}]},
}  # fmt: skip


def read_whole_plan(path: Path) -> None:
    """All that is done with a plan before any work."""
    made = read_plan(path)
    for on_server in (True, False):
        for job in made.jobs:
            made.key(job, on_server)
        with suppress(PlanError):
            made.check(on_server)


def odd_json(values: dict, seeds: range) -> Iterator[str]:
    for seed in seeds:
        yield json.dumps(mutated_json(values, seed))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["plan", "workflow"])
def test_damaged_plans_and_workflows_end_in_a_plan_error(folder, place):
    """Blind damage, and members of other types; the workflow is read through the plan that names it."""
    (folder / "g.pt").write_bytes(b"1")
    sound = PLAN if place == "plan" else WORKFLOW
    (folder / "p.json").write_text(json.dumps(PLAN))
    path = folder / ("p.json" if place == "plan" else "w.json")

    def read(_: Path) -> None:
        read_whole_plan(folder / "p.json")

    found = list(failures(read, json.dumps(sound).encode(), path, range(150), (PlanError,)))
    for number, text in enumerate(odd_json(sound, range(250))):
        path.write_text(text)
        found += wrong_error(read, path, number, (PlanError,))
    assert found == []


def test_damaged_manifests_end_in_a_manifest_error(tmp_path):
    manifest = Manifest(tmp_path, "p")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("sound")
    entry = {"key": "k", "prompt_id": str(uuid.uuid4()), "server": "http://h", "crashes": 1, "error": "e"}
    manifest.record("x", {**entry, "status": DONE, "files": [{"path": "x/file", "kind": "adapted"}]})
    manifest.record("y", {**entry, "status": "open", "warnings": ["w"]})
    sound = manifest.path.read_bytes()

    def use(_: Path) -> None:
        """All that a run does with an earlier manifest."""
        found = Manifest(tmp_path, "p")
        for name in found.statuses():
            found.is_done(name, "k")
            one = found.entry(name, "k")
            found.record(name, {**one, "crashes": one.get("crashes", 0) + 1, "key": "k", "status": "open"})
            str(one.get("prompt_id", "")).encode()

    found = list(failures(use, sound, manifest.path, range(100), (ManifestError,)))
    head, *lines = sound.splitlines(keepends=True)
    for number in range(200):
        odd = mutated_json(json.loads(lines[number % 2]), number)
        line = with_checksum(odd) if isinstance(odd, dict) else json.dumps(odd).encode()
        manifest.path.write_bytes(head + lines[1 - number % 2] + line)
        found += wrong_error(use, manifest.path, number, (ManifestError,))
    assert found == []
