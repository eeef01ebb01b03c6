"""The verb batch: in this process and on a stand-in server, its exit codes, manifest and messages."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fake_comfy import FakeComfy, prompt_of
from manifests import manifest_of
from PIL import Image
from tiny_networks import TinyChoice, tiny_bundle

from oneshot_core import cli
from oneshot_core import inputs as opening
from oneshot_core.checkpoints import load, save
from oneshot_core.commands import resources
from oneshot_core.commands.console import ProgressBar
from oneshot_core.runners import comfy as comfy_runner
from oneshot_core.runners.comfy_client import ComfyClient
from oneshot_core.runners.plan import read_plan

QUICK = {"search": {"steps": 2}, "training": {"snapshot_every": 2}}
WORKFLOW = {
    "2": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "4": {"class_type": "OneShotAdapt", "inputs": {"steps": 300, "seed": 9}},
    "5": {"class_type": "OneShotSaveGenerator", "inputs": {"generator": ["4", 0], "filename_prefix": "x"}},
}


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("files") / "source.safetensors"
    save(tiny_bundle(64), path)
    return path


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Encoders of a few numbers, one thread, no waiting."""
    monkeypatch.setattr(opening, "_choice", lambda *_: TinyChoice())
    monkeypatch.setattr(resources, "usable_cores", lambda: 1)
    monkeypatch.setattr(comfy_runner, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(comfy_runner, "POLL_SECONDS", 0.03)
    monkeypatch.setattr(comfy_runner, "SLOW_POLL_SECONDS", 0.1)


@pytest.fixture
def comfy():
    server = FakeComfy()
    yield server
    server.stop()


def write_plan(folder: Path, generator: Path, **more: Any) -> Path:
    for name, mode in (("a", "L"), ("b", "RGB")):
        Image.linear_gradient("L").convert(mode).save(folder / f"{name}.png")
    (folder / "w.json").write_text(json.dumps(WORKFLOW))
    defaults = {"generator": str(generator), "steps": 2, "recipe": QUICK}
    values = {"format": "oneshot-batch", "format_version": 1, "defaults": defaults, **more}
    (folder / "plan.json").write_text(json.dumps(values))
    return folder / "plan.json"


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in ("batch", *words)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_plan_in_this_process(capsys, tmp_path, generator):
    plan, out = write_plan(tmp_path, generator, grid={"targets": "*.png"}), tmp_path / "out"
    words = (plan, "--out", out, "--device", "cpu")
    code, told, err = run(capsys, *words, "--json")
    assert code == 0
    assert "b (2 of 2)" in err
    result = json.loads(told)
    assert result["jobs"] == {"a": "done", "b": "done"} and result["counts"] == {"done": 2}
    entry = manifest_of(out)["a"]
    assert entry["step"] == 2 and entry["seconds"] > 0 and entry["losses"]["lpips"] > 0
    assert set(entry["versions"]) == {"oneshot-stylegan", "torch", "python"}
    assert entry["notes"] == []
    kinds = {file["kind"]: out / file["path"] for file in entry["files"]}
    assert load(kinds["adapted"]).provenance.history
    assert all(path.exists() for path in kinds.values())
    assert kinds["picture"] == out / "pictures" / "a.png"
    assert kinds["picture"].read_bytes() == kinds["grid"].read_bytes()
    before = kinds["adapted"].stat().st_mtime_ns
    code, _, err = run(capsys, *words)
    assert (code, "adapt:" in err) == (0, False)
    (out / "manifest.jsonl").unlink()
    code, _, err = run(capsys, *words)
    assert code == 0 and "is done already" in err
    again = manifest_of(out)["a"]
    assert all(again[name] == entry[name] for name in ("step", "seconds", "losses", "notes", "versions"))
    assert kinds["adapted"].stat().st_mtime_ns == before
    assert run(capsys, *words, "--fresh", "--quiet")[0] == 0
    assert kinds["adapted"].stat().st_mtime_ns != before


def test_the_manifest_has_the_notes_of_a_job(capsys, tmp_path):
    save(tiny_bundle(64), tmp_path / "half.safetensors", with_discriminator=False)
    plan = write_plan(tmp_path, tmp_path / "half.safetensors", jobs=[{"target": "a.png"}])
    assert run(capsys, plan, "--out", tmp_path / "out", "--device", "cpu", "--quiet")[0] == 0
    assert any("no discriminator" in note for note in manifest_of(tmp_path / "out")["a"]["notes"])


def test_no_file_of_a_batch_says_where_it_lies_or_who_ran_it(capsys, tmp_path, generator):
    """Targets, generators and --out are given as absolute paths; results may be shared with anybody."""
    place = tmp_path / "ann-lee-the-user"
    place.mkdir()
    (place / "source.safetensors").write_bytes(generator.read_bytes())
    Image.linear_gradient("L").convert("RGB").save(place / "target.png")
    (place / "bad.png").write_bytes(b"no picture")
    jobs = [{"target": str(place / "target.png")}, {"target": str(place / "bad.png")}]
    plan = write_plan(place, place / "source.safetensors", jobs=jobs)
    assert run(capsys, plan, "--out", place / "out", "--device", "cpu", "--quiet")[0] == 1
    files = [path for path in (place / "out").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path.name for path in files if b"ann-lee" in path.read_bytes()] == []
    entry = manifest_of(place / "out")["target"]
    assert entry["settings"]["target"] == "target.png"
    assert entry["settings"]["generator"] == "source.safetensors"
    assert "bad.png" in manifest_of(place / "out")["bad"]["error"]


def test_a_job_whose_file_is_empty_is_not_done(capsys, tmp_path, generator):
    plan, out = write_plan(tmp_path, generator, jobs=[{"target": "a.png"}]), tmp_path / "out"
    words = (plan, "--out", out, "--device", "cpu")
    assert run(capsys, *words)[0] == 0
    (out / "a" / "grid.png").write_bytes(b"")
    assert run(capsys, *words)[0] == 0
    assert (out / "a" / "grid.png").stat().st_size and manifest_of(out)["a"]["status"] == "done"


def test_a_job_that_fails_here_does_not_stop_the_others(capsys, tmp_path, generator):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    jobs = [{"target": "bad.png"}, {"target": "a.png"}]
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    write_plan(tmp_path, generator, jobs=jobs)
    code, told, err = run(capsys, plan, "--out", out, "--device", "cpu")
    assert code == 1
    assert "failed: 1 of 2 jobs are not done (bad: " in err
    assert "manifest" in told
    entries = manifest_of(out)
    assert {name: entry["status"] for name, entry in entries.items()} == {"bad": "failed", "a": "done"}
    assert entries["bad"]["seconds"] >= 0 and entries["bad"]["versions"] == entries["a"]["versions"]


@pytest.mark.slow
def test_ctrl_c_here_keeps_the_step_and_the_same_command_goes_on(capsys, tmp_path, generator, monkeypatch):
    plan, out = write_plan(tmp_path, generator, jobs=[{"target": "a.png"}]), tmp_path / "out"
    update = ProgressBar.update

    def interrupting(bar: ProgressBar, done: int, *more: Any) -> None:
        update(bar, done, *more)
        if bar.label == "adapt" and done == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProgressBar, "update", interrupting)
    assert run(capsys, plan, "--out", out, "--device", "cpu")[0] == 130
    assert manifest_of(out)["a"]["status"] == "open"
    monkeypatch.setattr(ProgressBar, "update", update)
    assert run(capsys, plan, "--out", out, "--device", "cpu")[0] == 0
    assert manifest_of(out)["a"]["step"] == 2


@pytest.mark.parametrize(
    ("job", "words", "message"),
    [
        ({"recipe": {"search": {"step": 1}}}, [], "job 'a': the recipe: search has the unknown entry 'step'"),
        ({"recipe": {"method": {"batch": "many"}}}, [], "batch must be a whole number, found 'many'"),
        ({"recipe": {"out": "x"}}, [], "the recipe has the unknown entry 'out'"),
        ({"generator": "no.pt"}, [], "no.pt is not a file"),
        ({}, ["--cancel"], "name it with --server"),
        ({}, ["--server", "http://127.0.0.1:1"], "names no workflow"),
    ],
)
def test_bad_plans_are_refused_before_any_work(capsys, tmp_path, generator, job, words, message):
    plan = write_plan(tmp_path, generator, jobs=[{"target": "a.png", **job}])
    code, out, err = run(capsys, plan, "--out", tmp_path / "out", *words)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_jobs_recipe_is_the_defaults_changed_by_its_own(tmp_path, generator):
    method = {"weights": {"patch": 0.5, "lpips": 0}, "batch": 1}
    settings = [{"recipe": {"method": {"batch": 4}}}]
    jobs = [{"target": "a.png", "seed": 7, "recipe": {"method": method}}]
    grid = {"targets": ["b.png"], "settings": settings}
    plan = read_plan(write_plan(tmp_path, generator, jobs=jobs, grid=grid))
    listed, cell = (plan.recipe(job) for job in plan.jobs)
    assert (listed.training.seed, listed.training.steps, listed.search.steps) == (7, 2, 2)
    assert listed.method.weights == {"patch": 0.5, "lpips": 0} and listed.method.batch == 1
    assert (cell.training.seed, cell.method.batch, cell.aim.target) == (0, 4, str(tmp_path / "b.png"))


def test_what_a_recipe_names_lies_beside_the_plan_and_is_part_of_the_key(tmp_path, generator):
    Image.linear_gradient("L").save(tmp_path / "mask.png")

    def first(recipe):
        jobs = [{"target": "a.png", "recipe": recipe}]
        plan = read_plan(write_plan(tmp_path, generator, jobs=jobs))
        (job,) = plan.jobs
        return plan.recipe(job), plan.key(job, on_server=False)

    masked, key = first({"aim": {"mask": "mask.png"}})
    assert masked.aim.mask == str(tmp_path / "mask.png")
    Image.new("L", (256, 256), 255).save(tmp_path / "mask.png")
    keys = {key, first({"aim": {"mask": "mask.png"}})[1], first({})[1], first({"aim": {"fit": "stretch"}})[1]}
    assert len(keys) == 4


def test_check_lists_the_jobs_and_runs_nothing(capsys, tmp_path, generator):
    plan = write_plan(tmp_path, generator, grid={"targets": "*.png", "seeds": [0, 1]})
    code, told, _ = run(capsys, plan, "--check", "--out", tmp_path / "out")
    assert code == 0
    assert "a-seed1" in told and "seed=1" in told
    code, told, _ = run(capsys, plan, "--check", "--out", tmp_path / "out", "--json")
    assert len(json.loads(told)["jobs"]) == 4
    assert not (tmp_path / "out").exists()


def server_plan(folder: Path, jobs: list[dict[str, Any]]) -> Path:
    plan = write_plan(folder, Path("demo"), jobs=jobs)
    values = json.loads(plan.read_text())
    values.update(workflow="w.json", defaults={"target": "a.png", "steps": 5})
    plan.write_text(json.dumps(values))
    return plan


def test_a_plan_on_a_server(capsys, tmp_path, comfy):
    plan, out = server_plan(tmp_path, [{"name": "one"}, {"name": "two", "seed": 3}]), tmp_path / "out"
    code, told, err = run(capsys, plan, "--server", comfy.url, "--out", out, "--json")
    assert code == 0
    assert "2 jobs on" in err and "one: 1 files (1 of 2)" in err
    assert json.loads(told)["counts"] == {"done": 2}
    assert prompt_of(out / "two" / "two_00001_.safetensors")["4"]["inputs"]["seed"] == 3
    code, _, err = run(capsys, plan, "--server", comfy.url, "--out", out)
    assert (code, len(comfy.submitted)) == (0, 2)
    assert "2 were done before" in err


def test_the_server_shows_one_bar_per_job(capsys, tmp_path, comfy, monkeypatch):
    pytest.importorskip("aiohttp")
    comfy.automatic = False
    plan = server_plan(tmp_path, [{"name": "one"}, {"name": "two"}])
    submit = ComfyClient.submit

    def submit_then_run(*words: Any) -> list[str]:
        answer = submit(*words)
        if len(comfy.pending) == 2:
            threading.Timer(0.05, lambda: (comfy.run_next(), time.sleep(0.05), comfy.run_next())).start()
        return answer

    monkeypatch.setattr(ComfyClient, "submit", submit_then_run)
    _, _, err = run(capsys, plan, "--server", comfy.url, "--out", tmp_path / "out")
    assert "one: 5/5" in err and "two: 5/5" in err and "lpips 0.25" in err


def test_failures_on_a_server(capsys, tmp_path, comfy):
    jobs = [{"name": f"bad{number}"} for number in range(5)]
    plan = server_plan(tmp_path, jobs)
    (tmp_path / "w.json").write_text(json.dumps({**WORKFLOW, "6": {"class_type": "Fail", "inputs": {}}}))
    code, _, err = run(capsys, plan, "--server", comfy.url, "--out", tmp_path / "out", "--quiet")
    assert code == 1
    assert "failed: 5 of 5 jobs are not done (bad0: node 6 (Fail): ValueError: too bad" in err
    assert "and 2 more" in err


def test_a_server_that_is_not_there_is_a_failed_run(capsys, tmp_path, comfy):
    comfy.stop()
    plan = server_plan(tmp_path, [{"name": "one"}])
    code, _, err = run(capsys, plan, "--server", comfy.url, "--out", tmp_path / "out")
    assert code == 1 and "does not answer" in err and "--debug" not in err
    comfy.start()


def test_ctrl_c_leaves_the_queue_and_cancel_empties_it(capsys, tmp_path, comfy, monkeypatch):
    comfy.automatic = False
    plan = server_plan(tmp_path, [{"name": "one"}, {"name": "two"}])
    words = (plan, "--server", comfy.url, "--out", tmp_path / "out")

    def stop_here(_: object, __: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(comfy_runner.ServerRun, "_listen", stop_here)
        code, _, err = run(capsys, *words)
    assert code == 130 and "goes on with what is in its queue" in err
    assert len(comfy.pending) == 2
    code, _, err = run(capsys, *words, "--cancel")
    assert (code, comfy.pending) == (0, [])
    assert "took 2 jobs out of the queue" in err
    comfy.automatic = True
    assert run(capsys, *words)[0] == 0
