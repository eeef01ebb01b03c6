"""A plan on a Ray cluster: real ones of this machine, and the ways in which one is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from manifests import lines_of, manifest_of
from PIL import Image
from ray_cluster import Cluster, environment, processes_of
from safetensors.numpy import load_file
from tiny_networks import TinyChoice, tiny_bundle

from oneshot_core import cli
from oneshot_core import inputs as opening
from oneshot_core.checkpoints import read_tensors, save
from oneshot_core.commands.console import ProgressBar
from oneshot_core.run_folder import WORK
from oneshot_core.runners import ray as ray_runner
from oneshot_core.runners.manifest import Manifest
from oneshot_core.runners.plan import read_plan
from oneshot_core.runners.ray import ClusterError, RayRun, RayTask
from oneshot_core.runners.sharing import BatchWatcher
from oneshot_core.training import STATE_FILE

ROOT = Path(__file__).parents[2]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="RAY TESTS SKIPPED: pip install ray")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the processes")
QUICK = {"search": {"steps": 2}, "training": {"snapshot_every": 1000, "precision": "float32"}}


class Watcher(BatchWatcher):
    def __init__(self) -> None:
        self.ended: list[str] = []
        self.messages: list[str] = []
        self.steps: list[tuple[str, int]] = []

    def progress(self, job: str, done: int, total: int, losses: Any) -> None:
        self.steps.append((job, done))

    def finished(self, job: str, entry: Any) -> None:
        self.ended.append(f"{job} {entry['status']}")

    def message(self, text: str) -> None:
        self.messages.append(text)


def write_plan(folder: Path, jobs: list[dict[str, Any]], steps: int = 2) -> Path:
    save(tiny_bundle(64), folder / "g.safetensors")
    Image.linear_gradient("L").convert("RGB").save(folder / "a.png")
    (folder / "bad.png").write_bytes(b"no picture")
    defaults = {"generator": "g.safetensors", "target": "a.png", "steps": steps, "recipe": QUICK}
    values = {"format": "oneshot-batch", "format_version": 1, "defaults": defaults, "jobs": jobs}
    (folder / "plan.json").write_text(json.dumps(values))
    return folder / "plan.json"


# Without Ray: what the batch makes of what its other process tells ---------------------------------------


class Script:
    """Stands for the other process: answers each job that it is sent by events."""

    def __init__(self, answer: Callable[[dict[str, Any]], Sequence[dict[str, Any]]], first: Any) -> None:
        self.answer, self.waiting, self.is_ended = answer, [first], ""

    def send(self, values: dict[str, Any]) -> None:
        self.waiting += self.answer(values)

    def next(self, seconds: float) -> dict[str, Any] | None:
        return self.waiting.pop(0) if self.waiting else {"event": "over"}

    def last_words(self) -> str:
        return "raylet died"

    def end(self, patiently: bool) -> None:
        self.is_ended = "patiently" if patiently else "at once"


READY = {"event": "ready", "resources": {"CPU": 2, "GPU": 0}, "gpus": 0}


def scripted(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[dict[str, Any]], Sequence[dict[str, Any]]],
    first: dict[str, Any] = READY,
) -> list[Script]:  # fmt: skip
    scripts: list[Script] = []

    def started(settings: Any) -> Script:
        scripts.append(Script(answer, first))
        return scripts[-1]

    monkeypatch.setattr(ray_runner._Driver, "started", started)
    monkeypatch.setattr(ray_runner, "find_spec", lambda _: True)
    monkeypatch.setattr(ray_runner, "RETRY_SECONDS", 0.01)
    return scripts


def make_run(folder: Path, count: int = 3, **settings: Any) -> tuple[RayRun, Watcher]:
    plan = read_plan(write_plan(folder, [{"name": f"j{number}", "seed": number} for number in range(count)]))
    (folder / "out").mkdir(exist_ok=True)
    watcher = Watcher()
    return RayRun(plan, Manifest(folder / "out", "plan"), watcher, "local", **settings), watcher


def finished(values: dict[str, Any]) -> list[dict[str, Any]]:
    """What a task that went well tells, and leaves in its folder."""
    folder = Path(values["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grid.png").write_bytes(b"grid")
    result = {"files": {"grid": str(folder / "grid.png")}, "step": 2, "losses": {"a": 1.0}}
    started = {"event": "started", "job": values["job"], "node": "n", "pid": 1}
    return [started, {"event": "ended", "job": values["job"], "result": result}]


def test_a_message_is_a_recipe_and_where_it_is_followed(tmp_path, monkeypatch):
    sent: list[dict[str, Any]] = []
    scripted(monkeypatch, lambda values: (sent.append(values), finished(values))[1])
    run, watcher = make_run(tmp_path, task=RayTask(cpus=3, seeds=(1, 2)))
    assert run.run() == {f"j{number}": "done" for number in range(3)}
    assert json.loads(json.dumps(sent)) == sent  # nothing but JSON
    first = sent[0]
    assert first.keys() == {
        "job", "recipe", "folder", "fresh", "seeds", "with_discriminator", "threads", "offline"
    }  # fmt: skip
    assert first["recipe"]["generator"] == str(tmp_path / "g.safetensors") and first["threads"] == 3
    assert first["folder"] == str(tmp_path / "out" / "j0")
    assert [line["status"] for line in lines_of(tmp_path / "out")] == ["open", "done"] * 3
    assert watcher.messages == ["on a Ray cluster of 2 CPUs; jobs compute on CPUs"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.jsonl", "pictures", "j0", "j1", "j2"
    }  # fmt: skip


def test_a_job_whose_worker_is_lost_is_handed_out_again_but_not_for_ever(tmp_path, monkeypatch):
    times: dict[str, int] = {}

    def answer(values: dict[str, Any]) -> list[dict[str, Any]]:
        times[values["job"]] = count = times.get(values["job"], 0) + 1
        lost = {"event": "lost", "job": values["job"], "reason": "killed"}
        return [lost] if values["job"] == "j1" or (values["job"], count) == ("j2", 1) else finished(values)

    scripted(monkeypatch, answer)
    run, watcher = make_run(tmp_path)
    assert run.run() == {"j0": "done", "j1": "failed", "j2": "done"}
    assert times == {"j0": 1, "j1": 3, "j2": 2}
    assert manifest_of(tmp_path / "out")["j1"]["error"] == "its worker was lost 3 times: killed"
    assert sum("handed out again" in text for text in watcher.messages) == 3


def test_a_cluster_that_is_lost_is_joined_again_and_no_job_is_blamed(tmp_path, monkeypatch):
    sent: list[str] = []

    def answer(values: dict[str, Any]) -> list[dict[str, Any]]:
        sent.append(values["job"])
        return finished(values) if values["job"] == f"j{len(scripts) - 1}" else []

    scripts = scripted(monkeypatch, answer)
    run, watcher = make_run(tmp_path)
    assert run.run() == {f"j{number}": "done" for number in range(3)}
    assert sent == ["j0", "j1", "j2", "j1", "j2", "j2"]
    assert [one.is_ended for one in scripts] == ["at once", "at once", "patiently"]
    assert sum("the Ray cluster is lost (raylet died)" in text for text in watcher.messages) == 2


def test_a_node_that_cannot_do_a_job_gives_it_back_and_no_job_is_blamed(tmp_path, monkeypatch):
    times: dict[str, int] = {}

    def answer(values: dict[str, Any]) -> list[dict[str, Any]]:
        times[values["job"]] = count = times.get(values["job"], 0) + 1
        unfit = {"unfit": "n2 does not see the folder", "node": "n2"}
        if values["job"] == "j1" or count < 3:
            return [{"event": "ended", "job": values["job"], "result": unfit}]
        return finished(values)

    scripted(monkeypatch, answer)
    run, watcher = make_run(tmp_path)
    assert run.run() == {"j0": "done", "j1": "failed", "j2": "done"}
    assert times == {"j0": 3, "j1": ray_runner.MAX_MISPLACED, "j2": 3}
    assert manifest_of(tmp_path / "out")["j1"]["error"] == "n2 does not see the folder"
    assert sum("n2 does not see" in text for text in watcher.messages) == 1


def test_a_cluster_that_is_joined_again_must_have_what_the_first_one_had(tmp_path, monkeypatch):
    settings: list[dict[str, Any]] = []
    gpus = {**READY, "resources": {"CPU": 2, "GPU": 2}, "gpus": 1.0}
    firsts = [gpus, {"event": "refused", "reason": "the cluster has no GPU"}, gpus]

    def started(given: Any) -> Script:
        settings.append(given)
        return Script(finished if len(settings) == 3 else lambda _: [], firsts[len(settings) - 1])

    scripted(monkeypatch, finished)
    monkeypatch.setattr(ray_runner._Driver, "started", started)
    run, _ = make_run(tmp_path)
    assert run.run() == {f"j{number}": "done" for number in range(3)}
    assert [one["gpus"] for one in settings] == [None, 1.0, 1.0]


def test_clusters_that_are_lost_again_and_again_end_the_run(tmp_path, monkeypatch):
    scripts = scripted(monkeypatch, lambda _: [])
    run, _ = make_run(tmp_path)
    with pytest.raises(ClusterError, match="3 Ray clusters in a row were lost"):
        run.run()
    assert len(scripts) == 3 and Manifest(tmp_path / "out", "plan").statuses() == {}


@pytest.mark.parametrize("kind", ["refused", "failed", "over"])
def test_no_cluster_at_the_start_ends_the_run_at_once(tmp_path, monkeypatch, kind):
    scripts = scripted(monkeypatch, lambda _: [], {"event": kind, "reason": "no such cluster"})
    run, _ = make_run(tmp_path)
    with pytest.raises(ClusterError, match="cannot be used: no such cluster"):
        run.run()
    assert len(scripts) == 1 and not list((tmp_path / "out").iterdir())


def test_fresh_throws_a_job_away_once(tmp_path, monkeypatch):
    fresh: list[bool] = []

    def answer(values: dict[str, Any]) -> list[dict[str, Any]]:
        fresh.append(values["fresh"])
        step = {"event": "progress", "job": values["job"], "done": 1, "total": 4, "losses": {}}
        lost = {"event": "lost", "job": values["job"], "reason": "killed"}
        return [[lost], [step, lost], finished(values)][len(fresh) - 1]

    scripted(monkeypatch, answer)
    run, _ = make_run(tmp_path, 1, task=RayTask(fresh=True))
    assert run.run() == {"j0": "done"} and fresh == [True, True, False]


def test_files_that_are_not_here_fail_their_job(tmp_path, monkeypatch):
    def answer(values: dict[str, Any]) -> list[dict[str, Any]]:
        events = finished(values)
        if values["job"] == "j1":
            (Path(values["folder"]) / "grid.png").unlink()
        return events

    scripted(monkeypatch, answer)
    run, _ = make_run(tmp_path)
    assert run.run() == {"j0": "done", "j1": "failed", "j2": "done"}


def test_what_cannot_be_asked_for(tmp_path, monkeypatch, capsys):
    plan = write_plan(tmp_path, [{"name": "j"}])
    words = ["batch", str(plan), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(ray_runner, "find_spec", lambda _: None)
    assert cli.main([*words, "--ray", "local"]) == 2
    assert "pip install oneshot-stylegan[ray]" in capsys.readouterr().err
    assert cli.main([*words, "--ray", "--server", "http://h"]) == 2
    assert "name one" in capsys.readouterr().err
    for gpus in (1.5, 2.25):
        with pytest.raises(ValueError, match="a part of one GPU"):
            RayTask(gpus=gpus)
    assert [RayTask(gpus=gpus).gpus for gpus in (0, 0.25, 1, 4)] == [0, 0.25, 1, 4]


# With Ray -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def variables() -> Iterator[dict[str, str]]:
    """Environment of all processes; at the end none of them is left."""
    found = environment()
    yield found
    assert processes_of(found) == {}


@pytest.fixture
def alone() -> Iterator[None]:
    """One cluster at a time, whoever else tests: two would share the cores that each counts on."""
    import fcntl

    with open(Path(tempfile.gettempdir()) / "oneshot-ray-tests.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def cluster(variables: dict[str, str]) -> Iterator[Cluster]:
    one = Cluster(variables)
    try:
        yield one.start()
    finally:
        one.close()


def batch(variables: dict[str, str], *words: object) -> subprocess.Popen[str]:
    """`oneshot batch` in a process of its own."""
    command = [sys.executable, "-m", "oneshot_core", "batch", *map(str, words)]
    return subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 240.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


def count_done(out: Path) -> int:
    if not (out / "manifest.jsonl").exists():
        return 0
    return sum(b'"status":"done"' in line for line in (out / "manifest.jsonl").read_bytes().splitlines())


def weights(out: Path, name: str) -> dict[str, bytes]:
    return {key: value.tobytes() for key, value in load_file(out / name / "adapted.safetensors").items()}


JOBS = [{"name": f"j{number:02}", "seed": number} for number in range(39)] + [
    {"name": "bad", "target": "bad.png"}
]


@needs_ray
@linux
@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_forty_recipes_a_killed_worker_and_a_head_that_is_restarted(
    cluster, variables, tmp_path, monkeypatch
):
    plan, out = write_plan(tmp_path, JOBS), tmp_path / "out"
    began = time.monotonic()
    words = (plan, "--out", out, "--ray", cluster.address, "--threads", 1, "--json")
    process = batch(variables, *words)
    try:
        wait_for(lambda: count_done(out) >= 6, process)
        wait_for(cluster.workers, process)
        os.kill(cluster.workers()[0], signal.SIGKILL)
        wait_for(lambda: count_done(out) >= 14, process)
        cluster.kill()
        cluster.start()
        told, errors = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 1, errors
    failed = {job: one["error"] for job, one in manifest_of(out).items() if one["status"] == "failed"}
    assert failed.keys() == {"bad"}, (failed, errors)
    assert json.loads(told)["counts"] == {"done": 39, "failed": 1}
    assert "its worker is gone" in errors and "the Ray cluster is lost" in errors
    lines = [line["job"] for line in lines_of(out) if line["status"] == "done"]
    assert sorted(lines) == [job["name"] for job in JOBS[:39]]  # each once
    assert "bad.png" in failed["bad"]
    sys.stdout.write(f"40 recipes in {time.monotonic() - began:.0f} s\n{errors}\n")
    monkeypatch.setattr(opening, "_choice", lambda *_: TinyChoice())
    assert cli.main(["batch", str(plan), "--out", str(out), "--threads", "1", "--quiet"]) == 1
    # One manifest: what one way did, the other leaves alone.
    assert len([line for line in lines_of(out) if line["status"] == "done"]) == 39
    here, some = tmp_path / "here", JOBS[:39:3]  # of all 39 it would take as long again
    plan = write_plan(tmp_path, some)
    assert cli.main(["batch", str(plan), "--out", str(here), "--threads", "1", "--quiet"]) == 0
    for job in some:
        assert weights(out, job["name"]) == weights(here, job["name"])


@needs_ray
@linux
@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_a_killed_worker_costs_what_it_did_since_its_last_state(cluster, variables, tmp_path, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    short = [{"name": f"short{number}", "seed": number, "steps": 1} for number in range(8)]
    plan = read_plan(
        write_plan(tmp_path, [{"name": "long"}, {"name": "longer", "seed": 1}, *short], steps=300)
    )
    (tmp_path / "out").mkdir()
    killed: list[int] = []
    again: list[int] = []  # where the words of its next worker begin

    class Killing(Watcher):
        def progress(self, job: str, done: int, total: int, losses: Any) -> None:
            super().progress(job, done, total, losses)
            if job == "long" and done > 80 and not killed:
                killed.append(done)
                for pid in cluster.workers():
                    os.kill(pid, signal.SIGKILL)

        def message(self, text: str) -> None:
            super().message(text)
            if text.startswith("long: its worker is gone"):
                again.append(len(self.steps))

    watcher = Killing()
    manifest = Manifest(tmp_path / "out", "plan")
    run = RayRun(plan, manifest, watcher, cluster.address, RayTask(gpus=0), patience_seconds=60)
    assert set(run.run().values()) == {"done"}
    after = next(done for job, done in watcher.steps[again[0] :] if job == "long")
    sys.stdout.write(f"killed at {killed[0]} of 302, went on at {after}; opened {run.opened} times\n")
    assert after > killed[0] / 2  # a state was saved every 0.2 seconds; without one it would be 1
    assert sum("its worker is gone" in text for text in watcher.messages) == 2
    assert run.opened <= 12  # a generator and encoders for each worker process; for each task it would be 24


@needs_ray
@linux
@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_leaves_nothing_behind_and_what_was_saved_is_gone_on_from(tmp_path, monkeypatch, number):
    plan, out = write_plan(tmp_path, [{"name": "long"}], steps=300), tmp_path / "out"
    own = environment()
    before = set(Path("/tmp").glob("oneshot-ray-*"))
    process = batch(own, plan, "--out", out, "--ray", "local", "--threads", 1)
    state = out / "long" / WORK / STATE_FILE
    try:
        wait_for(state.exists, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == (130 if number == signal.SIGINT else -number), errors
        until = time.monotonic() + 60
        while processes_of(own) and time.monotonic() < until:
            time.sleep(0.2)
        assert processes_of(own) == {}
        assert set(Path("/tmp").glob("oneshot-ray-*")) <= before
    finally:
        for pid in processes_of(own):
            os.kill(pid, signal.SIGKILL)
    kept = int(read_tensors(state)[1]["step"])
    assert 0 < kept < 300
    if number == signal.SIGKILL:
        return
    assert "nothing of them is left on the cluster" in errors
    steps: list[int] = []
    monkeypatch.setattr(opening, "_choice", lambda *_: TinyChoice())
    monkeypatch.setattr(ProgressBar, "update", lambda bar, done, *_: steps.append(done))
    assert cli.main(["batch", str(plan), "--out", str(out), "--threads", "1"]) == 0
    assert steps[:1] == [kept + 1]  # the search was done
