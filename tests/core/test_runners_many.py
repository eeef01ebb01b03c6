"""A plan on several stand-in servers: who gets what, what a server's death costs, who is left out."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_comfy import FakeComfy, prompt_of
from manifests import lines_of, manifest_of

from oneshot_core import cli
from oneshot_core.runners import comfy as comfy_runner
from oneshot_core.runners import many, sharing
from oneshot_core.runners.comfy import ServerRun
from oneshot_core.runners.comfy_client import ComfyClient
from oneshot_core.runners.jobs import Plan
from oneshot_core.runners.manifest import Manifest
from oneshot_core.runners.many import ManyServers
from oneshot_core.runners.plan import plan_from_values
from oneshot_core.runners.sharing import BatchWatcher
from oneshot_core.runners.transfer import ComfyError, ServerUnreachable

WORKFLOW = {
    "1": {"class_type": "LoadStyleGAN", "inputs": {"generator_name": "demo"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "4": {"class_type": "OneShotAdapt", "inputs": {"steps": 300, "seed": 9}},
    "5": {
        "class_type": "OneShotSaveGenerator",
        "inputs": {"generator": ["4", 0], "filename_prefix": "folder/x"},
    },
}


class Watcher(BatchWatcher):
    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []
        self.messages: list[str] = []

    def finished(self, job: str, entry: Any) -> None:
        self.ended.append((job, entry["status"]))

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def servers() -> Iterator[list[FakeComfy]]:
    both = [FakeComfy(), FakeComfy()]
    yield both
    for server in both:
        server.stop()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (comfy_runner, many):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(many, "GIVE_BACK_SECONDS", 0.1)
    monkeypatch.setattr(many, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(comfy_runner, "SLICE_SECONDS", 0.02)


def make_plan(folder: Path, count: int, **nodes: dict[str, Any]) -> Plan:
    (folder / "a.png").write_bytes(b"a")
    (folder / "w.json").write_text(json.dumps({**WORKFLOW, **nodes}))
    values = {"format": "oneshot-batch", "format_version": 1, "workflow": "w.json"}
    jobs = [{"name": f"j{number}", "seed": number} for number in range(count)]
    return plan_from_values({**values, "jobs": jobs, "defaults": {"target": "a.png"}}, folder)


def make_run(
    plan: Plan, servers: list[FakeComfy], watcher: BatchWatcher | None = None, patience: float = 10.0
) -> ManyServers:
    clients = [ComfyClient(server.url, timeout_seconds=5) for server in servers]
    manifest = Manifest(plan.folder / "out", plan.name)
    return ManyServers(plan, clients, manifest, watcher or BatchWatcher(), patience, poll_seconds=0.03)


def in_background(run: ManyServers) -> tuple[threading.Thread, dict[str, str]]:
    statuses: dict[str, str] = {}
    thread = threading.Thread(target=lambda: statuses.update(run.run()), daemon=True)
    thread.start()
    return thread, statuses


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def names_of(server: FakeComfy) -> list[str]:
    return [body["prompt"]["5"]["inputs"]["filename_prefix"].rpartition("/")[2] for body in server.submitted]


def all_done(count: int) -> dict[str, str]:
    return {f"j{number}": "done" for number in range(count)}


def done_once(folder: Path, count: int) -> None:
    """Every job is done, and was so once."""
    done = [line["job"] for line in lines_of(folder / "out") if line["status"] == "done"]
    assert sorted(done) == sorted(all_done(count))
    for number in range(count):
        saved = prompt_of(folder / "out" / f"j{number}" / f"j{number}_00001_.safetensors")
        assert saved["4"]["inputs"]["seed"] == number


def test_two_servers_share_the_work_and_each_job_is_done_once(servers, tmp_path):
    assert make_run(make_plan(tmp_path, 30), servers).run() == all_done(30)
    done_once(tmp_path, 30)
    names = [names_of(server) for server in servers]
    assert sorted(names[0] + names[1]) == sorted(all_done(30)) and all(names)
    again = make_run(make_plan(tmp_path, 30), servers)
    assert again.run() == all_done(30)
    assert len(servers[0].submitted) + len(servers[1].submitted) == 30


def test_no_server_gets_more_than_it_can_do_next(servers, tmp_path):
    for server in servers:
        server.automatic = False
    thread, statuses = in_background(make_run(make_plan(tmp_path, 9), servers))
    wait_for(lambda: [len(server.pending) for server in servers] == [many.WINDOW] * 2)
    time.sleep(0.1)
    assert [len(server.pending) for server in servers] == [many.WINDOW] * 2
    while thread.is_alive():  # one of them is idle more often
        servers[0].run_next()
        time.sleep(0.02)
        if not servers[0].pending:
            servers[1].run_next()
    assert statuses == all_done(9)
    assert len(servers[0].submitted) > len(servers[1].submitted)


def test_a_server_that_dies_gives_its_jobs_back(servers, tmp_path):
    dying, other = servers
    dying.automatic = False
    watcher = Watcher()
    thread, statuses = in_background(make_run(make_plan(tmp_path, 12), servers, watcher))
    wait_for(lambda: len(dying.pending) == 2)
    dying.begin_next()
    time.sleep(0.1)
    dying.stop()
    thread.join(20)
    assert statuses == all_done(12)
    done_once(tmp_path, 12)
    assert len(names_of(dying)) == 2 and set(names_of(dying)) <= set(names_of(other))
    assert sum("given back" in text for text in watcher.messages) == 2
    jobs = manifest_of(tmp_path / "out")
    assert {job["server"] for job in jobs.values()} == {other.url}
    assert sum(job.get("crashes", 0) for job in jobs.values()) == 1  # of the one that ran


def test_what_was_queued_on_a_server_that_takes_no_part_goes_to_the_others(servers, tmp_path, monkeypatch):
    left, other = servers
    left.automatic = other.automatic = False
    thread, _ = in_background(make_run(make_plan(tmp_path, 6), servers))
    wait_for(lambda: len(left.pending) == len(other.pending) == 2)
    left.stop()  # the client, too, as far as the manifest tells
    manifest = tmp_path / "out" / "manifest.jsonl"
    before = manifest.read_bytes()
    other.automatic = True
    other.run_next()
    other.run_next()
    thread.join(20)
    manifest.write_bytes(before)
    left.start()
    lacks = many.problems_of
    monkeypatch.setattr(
        many, "problems_of",
        lambda plan, client: ("its pack is broken",) if client.server == left.url else lacks(plan, client),
    )  # fmt: skip
    thread, statuses = in_background(make_run(make_plan(tmp_path, 6), servers))
    thread.join(20)
    assert not thread.is_alive() and statuses == all_done(6)


def test_a_plan_that_cannot_be_read_to_its_end_ends_the_run(servers, tmp_path, monkeypatch):
    plan = make_plan(tmp_path, 30)
    key = Plan.key

    def failing(self: Plan, job: Any, on_server: bool) -> str:
        if job.name == "j9":
            raise OSError("stale file handle")
        return key(self, job, on_server)

    monkeypatch.setattr(Plan, "key", failing)
    with pytest.raises(OSError, match="stale file handle"):
        make_run(plan, servers).run()


def test_a_server_that_was_only_silent_loses_what_others_have_now(servers, tmp_path):
    silent, other = servers
    silent.automatic = other.automatic = False
    watcher = Watcher()
    thread, statuses = in_background(make_run(make_plan(tmp_path, 6), servers, watcher))
    wait_for(lambda: len(silent.pending) == len(other.pending) == 2)
    queued, history = list(silent.pending), silent.history
    silent.stop()
    wait_for(lambda: sum("given back" in text for text in watcher.messages) == 2)
    silent.pending, silent.history = queued, history  # it never stopped working
    other.automatic = True
    other.run_next()
    other.run_next()
    silent.automatic = True
    silent.start()
    thread.join(20)
    assert statuses == all_done(6)
    done_once(tmp_path, 6)
    ids = {body["prompt_id"] for body in queued}
    assert not ids & {one["prompt_id"] for one in manifest_of(tmp_path / "out").values()}
    assert not ids & set(silent.history)  # they were taken out of its queue


@pytest.mark.slow
def test_a_server_that_comes_back_goes_on(servers, tmp_path):
    restarted, other = servers
    other.automatic = False
    watcher = Watcher()
    thread, statuses = in_background(make_run(make_plan(tmp_path, 40), servers, watcher))
    wait_for(lambda: len(restarted.submitted) > 3)
    restarted.stop()
    time.sleep(0.3)
    before = len(restarted.submitted)
    restarted.start()
    wait_for(lambda: any("answers again" in text for text in watcher.messages))
    other.automatic = True
    other.run_next()
    other.run_next()
    thread.join(20)
    assert statuses == all_done(40) and len(restarted.submitted) > before
    done_once(tmp_path, 40)


def test_a_server_that_lacks_the_nodes_gets_nothing(servers, tmp_path):
    del servers[0].node_types["OneShotAdapt"]
    watcher = Watcher()
    assert make_run(make_plan(tmp_path, 4), servers, watcher).run() == all_done(4)
    assert servers[0].submitted == [] and "no node type OneShotAdapt" in watcher.messages[0]
    del servers[1].node_types["OneShotAdapt"]
    with pytest.raises(ComfyError, match="none of the servers can run the plan"):
        make_run(make_plan(tmp_path, 5), servers).run()


def test_servers_that_are_not_there(servers, tmp_path):
    absent, other = servers
    absent.stop()
    watcher = Watcher()
    assert make_run(make_plan(tmp_path, 3), servers, watcher).run() == all_done(3)
    assert "does not answer" in watcher.messages[0] and len(other.submitted) == 3
    other.stop()
    with pytest.raises(ServerUnreachable):
        make_run(make_plan(tmp_path, 4), servers).run()


@pytest.mark.slow
def test_a_server_that_comes_later_takes_part(servers, tmp_path):
    late, other = servers
    late.stop()
    other.automatic = False
    thread, statuses = in_background(make_run(make_plan(tmp_path, 20), servers))
    wait_for(lambda: len(other.pending) == 2)
    late.start()
    wait_for(lambda: len(late.submitted) == 18)
    other.automatic = True
    other.run_next()
    other.run_next()
    thread.join(20)
    assert statuses == all_done(20)


def failing(server: FakeComfy, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Let a server fail the prompts that are wanted."""
    finish = server.finish

    def finishing(body: dict[str, Any]) -> None:
        if wanted(body["prompt"]):
            body["prompt"]["9"] = {"class_type": "Fail", "inputs": {}}
        finish(body)

    server.finish = finishing  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_server_that_fails_what_others_can_do_gets_no_more(servers, tmp_path):
    broken, sound = servers
    failing(broken, lambda _: True)
    watcher = Watcher()
    assert make_run(make_plan(tmp_path, 40), servers, watcher).run() == all_done(40)
    done_once(tmp_path, 40)
    assert len(broken.submitted) < 3 * sharing.MAX_BLAME and sorted(names_of(sound)) == sorted(all_done(40))
    assert any("fails jobs that other servers do" in text for text in watcher.messages)


def test_a_job_that_fails_everywhere_is_tried_twice_and_no_server_is_blamed(servers, tmp_path):
    bad = (1, 2, 3, 4, 5, 6, 7, 8)
    for server in servers:
        failing(server, lambda prompt: prompt["4"]["inputs"]["seed"] in bad)
    watcher = Watcher()
    statuses = make_run(make_plan(tmp_path, 20), servers, watcher).run()
    assert statuses == {**all_done(20), **{f"j{number}": "failed" for number in bad}}
    names = names_of(servers[0]) + names_of(servers[1])
    assert [names.count(f"j{number}") for number in bad] == [2] * len(bad) and len(names) == 20 + len(bad)
    assert not any("gets no more" in text for text in watcher.messages)
    assert manifest_of(tmp_path / "out")["j1"]["error"] == "node 9 (Fail): ValueError: too bad"
    lines = [line for line in lines_of(tmp_path / "out") if line["status"] == "failed"]
    assert len(lines) == len(bad)


def test_a_job_that_stops_every_server_is_given_up(servers, tmp_path):
    deadly: list[str] = []

    def runs(server: FakeComfy) -> None:
        finish = server.finish

        def finishing(body: dict[str, Any]) -> None:
            if body["prompt"]["4"]["inputs"]["seed"] != 3:
                finish(body)
                return
            deadly.append(server.url)
            time.sleep(0.1)  # so that it was seen running
            server.stop()
            time.sleep(0.3)
            server.start()

        server.finish = finishing  # type: ignore[method-assign]

    for server in servers:
        runs(server)
    statuses = make_run(make_plan(tmp_path, 8), servers).run()
    assert statuses == {**all_done(8), "j3": "failed"}
    assert len(deadly) == 3 and "stopped 3 times" in manifest_of(tmp_path / "out")["j3"]["error"]


def stop_here(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_a_client_of_one_server_queued_is_collected_there(servers, tmp_path):
    first, second = servers
    first.automatic = False
    plan = make_plan(tmp_path, 6)
    alone = ServerRun(plan, ComfyClient(first.url), Manifest(tmp_path / "out", plan.name), BatchWatcher())
    alone._listen = stop_here  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        alone.run()
    assert len(first.pending) == 6
    first.automatic = True
    for _ in range(6):
        first.run_next()
    assert make_run(plan, servers).run() == all_done(6)
    assert len(first.submitted) == 6 and second.submitted == []


def test_a_signal_leaves_what_is_queued_and_the_next_run_collects_it(servers, tmp_path, monkeypatch):
    for server in servers:
        server.automatic = False
    plan = make_plan(tmp_path, 12)
    run = make_run(plan, servers)
    join = threading.Thread.join

    def joining(thread: threading.Thread, timeout: float | None = None) -> None:
        if timeout == many.IDLE_SECONDS:
            wait_for(lambda: all(len(server.pending) == 2 for server in servers))
            raise KeyboardInterrupt
        join(thread, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", joining)
        with pytest.raises(KeyboardInterrupt):
            run.run()
    assert [len(server.pending) for server in servers] == [2, 2]
    for server in servers:
        server.automatic = True
        server.run_next()
        server.run_next()
    assert make_run(plan, servers).run() == all_done(12)
    assert sum(len(server.submitted) for server in servers) == 12
    done_once(tmp_path, 12)


def test_the_command_takes_several_servers(servers, tmp_path, capsys):
    make_plan(tmp_path, 1)
    values = {"format": "oneshot-batch", "format_version": 1, "workflow": "w.json"}
    jobs = [{"name": f"j{number}", "seed": number} for number in range(8)]
    (tmp_path / "plan.json").write_text(json.dumps({**values, "defaults": {"target": "a.png"}, "jobs": jobs}))
    words = ["batch", str(tmp_path / "plan.json"), "--out", str(tmp_path / "out")]
    both = [word for server in servers for word in ("--server", server.url)]
    assert cli.main([*words, *both, "--check"]) == 0
    assert capsys.readouterr().out.count("is ComfyUI 0.33.0-fake") == 2
    assert cli.main([*words, *both, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["counts"] == {"done": 8} and "jobs: 8/8" in told.err
    done_once(tmp_path, 8)
    assert cli.main([*words, *both[:2], *both[:2]]) == 2
    assert "names a server twice" in capsys.readouterr().err
    for server in servers:
        server.automatic = False
        del server.node_types["OneShotAdapt"]
    assert cli.main([*words, *both, "--check"]) == 1
    told = capsys.readouterr()
    assert told.err.count("problem with http") == 2 and "2 problems with http" in told.err
