"""A plan on a stand-in server: results, failures, restarts, crashes, a client that comes back."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fake_comfy import FakeComfy, png_file, prompt_of
from manifests import manifest_of

from oneshot_core.runners import comfy as comfy_runner
from oneshot_core.runners.comfy import ServerRun, withdraw
from oneshot_core.runners.comfy_client import ComfyClient
from oneshot_core.runners.jobs import Plan
from oneshot_core.runners.manifest import Manifest
from oneshot_core.runners.plan import plan_from_values
from oneshot_core.runners.sharing import BatchWatcher
from oneshot_core.runners.transfer import ComfyError, ServerUnreachable
from oneshot_core.writing import WriteError

WORKFLOW = {
    "1": {"class_type": "LoadStyleGAN", "inputs": {"generator_name": "demo"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "4": {"class_type": "OneShotAdapt", "inputs": {"steps": 300, "seed": 9}},
    "5": {
        "class_type": "OneShotSaveGenerator",
        "inputs": {"generator": ["4", 0], "filename_prefix": "folder/x"},
    },
    "6": {"class_type": "PreviewImage", "inputs": {}},
}


class Watcher(BatchWatcher):
    def __init__(self) -> None:
        self.steps: dict[str, tuple[int, int, dict]] = {}
        self.ended: list[str] = []
        self.messages: list[str] = []

    def progress(self, job, done, total, losses):
        self.steps[job] = (done, total, dict(losses))

    def finished(self, job, entry):
        self.ended.append(f"{job} {entry['status']}")

    def message(self, text):
        self.messages.append(text)


@pytest.fixture
def comfy():
    server = FakeComfy()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(comfy_runner, "RETRY_SECONDS", 0.02)


def make_plan(folder: Path, jobs: list[dict[str, Any]], **nodes: dict) -> Plan:
    (folder / "a.png").write_bytes(b"a")
    (folder / "w.json").write_text(json.dumps({**WORKFLOW, **nodes}))
    values = {"format": "oneshot-batch", "format_version": 1, "workflow": "w.json", "jobs": jobs}
    return plan_from_values({**values, "defaults": {"target": "a.png"}}, folder)


def make_run(comfy: FakeComfy, plan: Plan, watcher: BatchWatcher, patience: float = 5.0) -> ServerRun:
    manifest = Manifest(plan.folder / "out", plan.name)
    return ServerRun(
        plan, ComfyClient(comfy.url, timeout_seconds=5), manifest, watcher, patience, poll_seconds=0.03
    )


def in_background(run: ServerRun) -> tuple[threading.Thread, dict[str, str]]:
    statuses: dict[str, str] = {}
    thread = threading.Thread(target=lambda: statuses.update(run.run()), daemon=True)
    thread.start()
    return thread, statuses


def wait_for(condition, seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def test_every_job_runs_once_and_its_files_come_back(comfy, tmp_path):
    plan = make_plan(
        tmp_path, [{"name": "one", "seed": 1, "steps": 20}, {"name": "two", "generator": "g.pt"}]
    )
    watcher = Watcher()
    assert make_run(comfy, plan, watcher).run() == {"one": "done", "two": "done"}
    assert watcher.ended == ["one done", "two done"]
    saved = prompt_of(tmp_path / "out" / "one" / "one_00001_.safetensors")
    assert saved["4"]["inputs"] == {"steps": 20, "seed": 1}
    assert saved["2"]["inputs"]["image"] == comfy.uploads[0][0]
    entry = manifest_of(tmp_path / "out")["two"]
    assert entry["settings"]["generator"] == "g.pt"
    assert [file["path"] for file in entry["files"]] == ["two/two_00001_.safetensors"]
    assert entry["files"][0]["on_server"]["subfolder"] == "folder"
    assert make_run(comfy, plan, watcher).run() == {"one": "done", "two": "done"}
    assert len(comfy.submitted) == 2
    (tmp_path / "out" / "two" / "two_00001_.safetensors").unlink()
    make_run(comfy, plan, watcher).run()
    assert len(comfy.submitted) == 3


def test_progress_comes_over_the_websocket(comfy, tmp_path):
    pytest.importorskip("aiohttp")
    search = {"class_type": "CLIPLatentSearch", "inputs": {"steps": 30}}
    watcher = Watcher()
    make_run(comfy, make_plan(tmp_path, [{"name": "one"}], **{"3": search}), watcher).run()
    assert watcher.steps["one"] == (330, 330, {"lpips": 0.25})
    entry = manifest_of(tmp_path / "out")["one"]
    assert entry["seconds"] >= 0


def test_the_manifest_says_what_the_server_said(comfy, tmp_path):
    """Last losses, notes, versions and seconds; pictures by their targets, none over another's."""
    (tmp_path / "b.png").write_bytes(b"b")
    plan = make_plan(
        tmp_path,
        [{}, {"name": "again"}, {"name": "two", "target": "b.png"}, {"name": "b-two", "target": "b.png"}],
        **{"7": {"class_type": "SaveImage", "inputs": {}}},
    )
    make_run(comfy, plan, Watcher()).run()
    entries = manifest_of(tmp_path / "out")
    entry = entries["again"]
    assert entry["losses"] == {"lpips": 0.25} and entry["seconds"] == 2.5
    assert entry["notes"] == ["the generator's file has no discriminator"]
    assert entry["versions"] == {
        "comfyui": "0.33.0-fake", "torch": "2.9.0+cpu", "python": "3.12.3", "oneshot-stylegan": "0.1.0"
    }  # fmt: skip
    paths = {name: [file["path"] for file in one["files"]] for name, one in entries.items()}
    assert paths["again"] == ["again/again_00001_.safetensors", "pictures/a-again_x.png"]
    assert [paths[name][1] for name in ("a", "two", "b-two")] == [
        "pictures/a_x.png", "pictures/b-two_x.png", "pictures/2_b-two_x.png"
    ]  # fmt: skip
    assert all((tmp_path / "out" / path).is_file() for one in paths.values() for path in one)
    make_run(comfy, plan, Watcher()).run()
    assert len(comfy.submitted) == 4


def test_losses_of_several_trainings_are_told_apart_and_other_packs_say_nothing(comfy, tmp_path):
    outputs = comfy._outputs

    def saying(prompt: dict) -> dict:
        other = {"losses": [{"lpips": [[1, 9.0]]}], "notes": ["from elsewhere"], "versions": [{"torch": "1"}]}
        return {**outputs(prompt), "6": other, "8": {**other, "notes": 3}}

    comfy._outputs = saying
    more = {"8": {"class_type": "OneShotAdapt", "inputs": {"steps": 5, "seed": 1}, "_meta": {"title": "x"}}}
    plan = make_plan(tmp_path, [{"name": "one"}], **more)
    make_run(comfy, plan, Watcher()).run()
    entry = manifest_of(tmp_path / "out")["one"]
    assert entry["losses"] == {"4.lpips": 0.25, "8.lpips": 9.0}
    assert entry["notes"] == ["the generator's file has no discriminator"]


def test_a_job_that_fails_does_not_stop_the_others(comfy, tmp_path):
    jobs = [
        {"name": "refused", "generator": "missing.pt"},
        {"name": "broken", "set": {"6.class": "Fail"}},
        {"name": "good"},
    ]
    plan = make_plan(tmp_path, jobs, **{"6": {"class_type": "PreviewImage", "inputs": {"class": ""}}})
    take = comfy.take

    def taking(body):
        preview = body["prompt"]["6"]
        preview["class_type"] = preview["inputs"]["class"] or preview["class_type"]
        return take(body)

    comfy.take = taking
    statuses = make_run(comfy, plan, Watcher()).run()
    assert statuses == {"refused": "failed", "broken": "failed", "good": "done"}
    entries = manifest_of(tmp_path / "out")
    assert "node 1 (LoadStyleGAN)" in entries["refused"]["error"]
    assert entries["broken"]["error"] == "node 6 (Fail): ValueError: too bad"
    first = entries["broken"]["prompt_id"]
    make_run(comfy, plan, Watcher()).run()
    entries = manifest_of(tmp_path / "out")
    assert entries["broken"]["prompt_id"] != first
    assert len(comfy.submitted) == 3


def test_a_target_that_cannot_be_sent_does_not_stop_the_others(comfy, tmp_path):
    """Too large for the server (413), or gone from the disk."""
    (tmp_path / "large.png").write_bytes(b"large")
    (tmp_path / "gone.png").write_bytes(b"gone")
    jobs = [{"name": "one"}, {"name": "large", "target": "large.png"}, {"name": "gone", "target": "gone.png"}]
    plan = make_plan(tmp_path, [*jobs, {"name": "last"}])
    run = make_run(comfy, plan, Watcher())
    upload = run._client.upload_image

    def refusing(path):
        if path.name == "large.png":
            raise ComfyError("the server answered 413 Request Entity Too Large")
        if path.name == "gone.png":
            raise FileNotFoundError(f"{path} is gone")
        return upload(path)

    run._client.upload_image = refusing
    assert run.run() == {"one": "done", "large": "failed", "gone": "failed", "last": "done"}
    entries = manifest_of(tmp_path / "out")
    assert "413" in entries["large"]["error"] and "gone.png" in entries["gone"]["error"]


def test_an_interrupted_and_a_removed_prompt_count_as_cancelled(comfy, tmp_path):
    comfy.automatic = False
    plan = make_plan(
        tmp_path, [{"name": "gone"}, {"name": "stopped"}], **{"7": {"class_type": "Interrupt", "inputs": {}}}
    )
    thread, statuses = in_background(make_run(comfy, plan, Watcher()))
    wait_for(lambda: len(comfy.pending) == 2)
    time.sleep(0.1)
    with comfy.lock:
        comfy.pending.pop(0)
    comfy.run_next()
    thread.join(5)
    assert statuses == {"gone": "cancelled", "stopped": "cancelled"}
    entries = manifest_of(tmp_path / "out")
    assert "somebody removed it" in entries["gone"]["error"]
    assert entries["stopped"]["error"].startswith("interrupted in node 7")


def test_a_restart_of_the_server_loses_nothing(comfy, tmp_path):
    comfy.automatic = False
    plan = make_plan(tmp_path, [{"name": "one"}, {"name": "two"}, {"name": "three"}])
    watcher = Watcher()
    thread, statuses = in_background(make_run(comfy, plan, watcher))
    wait_for(lambda: len(comfy.pending) == 3)
    comfy.run_next()
    wait_for(lambda: watcher.ended == ["one done"])
    comfy.begin_next()
    time.sleep(0.1)
    comfy.stop()
    time.sleep(0.1)
    comfy.automatic = True
    comfy.start()
    thread.join(5)
    assert statuses == {"one": "done", "two": "done", "three": "done"}
    names = [body["prompt"]["5"]["inputs"]["filename_prefix"] for body in comfy.submitted]
    assert names == ["folder/one", "folder/two", "folder/three", "folder/two", "folder/three"]
    ids = [body["prompt_id"] for body in comfy.submitted]
    assert ids[1:3] == ids[3:]
    text = " ".join(watcher.messages)
    assert "does not answer" in text and "answers again" in text
    assert "two: the server stopped while it ran; queued again" in text


def test_a_job_that_always_stops_the_server_is_given_up(comfy, tmp_path):
    comfy.automatic = False
    plan = make_plan(tmp_path, [{"name": "deadly"}, {"name": "good"}])
    thread, statuses = in_background(make_run(comfy, plan, Watcher()))
    for _ in range(3):
        wait_for(lambda: len(comfy.pending) == 2)
        comfy.begin_next()
        time.sleep(0.1)
        comfy.stop()
        time.sleep(0.1)
        comfy.start()
    wait_for(lambda: len(comfy.pending) == 1)
    comfy.run_next()
    thread.join(5)
    assert statuses == {"deadly": "failed", "good": "done"}
    error = manifest_of(tmp_path / "out")["deadly"]["error"]
    assert "stopped 3 times" in error


def test_a_new_client_collects_what_an_earlier_one_queued(comfy, tmp_path):
    comfy.automatic = False
    plan = make_plan(tmp_path, [{"name": "one"}, {"name": "two"}])
    watcher = Watcher()
    run = make_run(comfy, plan, watcher)
    run._listen = stop_here
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert len(comfy.pending) == 2
    comfy.run_next()
    comfy.run_next()
    assert make_run(comfy, plan, watcher).run() == {"one": "done", "two": "done"}
    assert len(comfy.submitted) == 2


def stop_here(_: object) -> None:
    raise KeyboardInterrupt


def test_withdrawing_takes_the_rest_out_of_the_queue(comfy, tmp_path):
    comfy.automatic = False
    plan = make_plan(tmp_path, [{"name": "one"}, {"name": "two"}])
    run = make_run(comfy, plan, Watcher())
    run._listen = stop_here
    with pytest.raises(KeyboardInterrupt):
        run.run()
    comfy.begin_next()
    client, manifest = ComfyClient(comfy.url), Manifest(tmp_path / "out", plan.name)
    assert withdraw(client, manifest) == ["one", "two"]
    assert client.queued() == {}
    assert withdraw(client, manifest) == []
    assert manifest.statuses() == {"one": "cancelled", "two": "cancelled"}


def test_what_the_plan_was_before_is_taken_out_of_the_queue(comfy, tmp_path):
    comfy.automatic = False
    jobs = [{"name": "one"}, {"name": "two"}]
    run = make_run(comfy, make_plan(tmp_path, jobs), Watcher())
    run._listen = stop_here
    with pytest.raises(KeyboardInterrupt):
        run.run()
    before = {body["prompt_id"] for body in comfy.pending}
    changed = make_plan(tmp_path, [{**job, "steps": 7} for job in jobs])
    again = make_run(comfy, changed, Watcher())
    again._listen = stop_here
    with pytest.raises(KeyboardInterrupt):
        again.run()
    assert len(comfy.pending) == 2 and not before & {body["prompt_id"] for body in comfy.pending}
    client, manifest = ComfyClient(comfy.url), Manifest(tmp_path / "out", changed.name)
    assert withdraw(client, manifest) == ["one", "two"] and not comfy.pending  # whatever the plan is by then


def test_a_full_disk_blames_no_job_and_its_results_stay_on_the_server(comfy, tmp_path, monkeypatch):
    plan, download = make_plan(tmp_path, [{"name": "one"}, {"name": "two"}]), ComfyClient.download

    def full(*_: object) -> None:
        raise WriteError(28, "out/one cannot be written: no space left on device")

    monkeypatch.setattr(ComfyClient, "download", full)
    with pytest.raises(WriteError, match="no space"):
        make_run(comfy, plan, Watcher()).run()
    assert "failed" not in Manifest(tmp_path / "out", plan.name).statuses().values()
    monkeypatch.setattr(ComfyClient, "download", download)
    assert make_run(comfy, plan, Watcher()).run() == {"one": "done", "two": "done"}
    assert len(comfy.submitted) == 2


def test_a_download_that_breaks_is_tried_again(comfy, tmp_path):
    comfy.cut_downloads = 2
    plan = make_plan(tmp_path, [{"name": "one"}])
    assert make_run(comfy, plan, Watcher()).run() == {"one": "done"}
    assert len(comfy.submitted) == 1
    saved = tmp_path / "out" / "one" / "one_00001_.safetensors"
    assert prompt_of(saved)["4"]["class_type"] == "OneShotAdapt"


def test_names_from_the_server_stay_in_the_batchs_folder(comfy, tmp_path):
    outputs = comfy._outputs

    def hostile(prompt: dict) -> dict:
        names = ("x.png", "X.PNG", "con.png", "a:b?.png", "n" * 251 + ".png", ".png", "x.desktop", "x.png")
        comfy.files.update({("output", "", name): png_file() for name in names})
        items = [{"filename": name, "subfolder": "", "type": "output"} for name in names]
        return {**outputs(prompt), "../../../9": {"images": items}}

    comfy._outputs = hostile
    assert make_run(comfy, make_plan(tmp_path, [{"name": "one"}]), Watcher()).run() == {"one": "done"}
    out = tmp_path / "out"
    names = {"a-one_x.png", "2_a-one_X.PNG", "a-one_con.png", "a-one_a_b_.png", f"a-one_{'n' * 94}.png"}
    assert {path.name for path in (out / "pictures").iterdir()} == names
    assert {path.name for path in (out / "one").iterdir()} == {"one_00001_.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "w.json", "out"}
    assert {path.name for path in out.iterdir()} == {"one", "pictures", "manifest.jsonl"}
    entry = manifest_of(out)["one"]
    assert entry["warnings"] == [".png was not fetched", "x.desktop was not fetched"]


def test_a_server_that_stays_away_ends_the_run(comfy, tmp_path):
    comfy.automatic = False
    plan = make_plan(tmp_path, [{"name": "one"}])
    run = make_run(comfy, plan, Watcher(), patience=0.1)
    listen = run._listen

    def stopping(events):
        comfy.stop()
        listen(events)

    run._listen = stopping
    with pytest.raises(ServerUnreachable):
        run.run()
    entries = manifest_of(tmp_path / "out")
    assert entries["one"]["status"] == "open"
    with pytest.raises(ServerUnreachable):
        make_run(comfy, plan, Watcher()).run()
    comfy.start()


def test_outputs_that_the_server_skips_are_said(comfy, tmp_path):
    take = comfy.take

    def objecting(body):
        code, answer = take(body)
        errors = [{"message": "Value too small", "details": "x"}]
        return code, {**answer, "node_errors": {"8": {"class_type": "Y", "errors": errors}}}

    comfy.take = objecting
    watcher = Watcher()
    assert make_run(comfy, make_plan(tmp_path, [{"name": "one"}]), watcher).run() == {"one": "done"}
    assert watcher.messages == ["one: the server skips outputs: node 8 (Y): Value too small: x"]
