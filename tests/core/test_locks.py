"""Locks of the store between processes: one at a time, free after kill -9, whatever the clocks say.

What of it holds on a network file system is written in docs/scale.md; one machine can show this much.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kept_runs import bound

from oneshot_core import writing
from oneshot_core.run_folder import RunError
from oneshot_core.store import IN_USE, FolderStore, RunStore
from oneshot_core.writing import MARK, claim, remove_stale_temporaries

ROOT = Path(__file__).parents[2]
# Other processes take the locks of the stores, not the stores: those import torch, for seconds.
HOLDS = """
import sys, time
from pathlib import Path
from oneshot_core.kept_folders import KeptFolders
from oneshot_core.writing import holding
folder, kind = Path(sys.argv[2]), sys.argv[1]
folder.mkdir(parents=True, exist_ok=True)
with holding(folder / IN_USE) if kind == "folder" else KeptFolders(folder).claim(KEY):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""
COUNTS = """
import sys
from pathlib import Path
from oneshot_core.kept_folders import KeptFolders
from oneshot_core.writing import holding
folder, kind, count = Path(sys.argv[2]), sys.argv[1], Path(sys.argv[4])
folder.mkdir(parents=True, exist_ok=True)
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    with holding(folder / IN_USE) if kind == "folder" else KeptFolders(folder).claim(KEY):
        count.write_text(str(int(count.read_text()) + 1))
"""


def program(text: str) -> str:
    """With the names of the locks, which the stores know."""
    return text.replace("IN_USE", repr(IN_USE)).replace("KEY", repr(bound(1).key("")))


def store_of(kind: str, place: Path) -> FolderStore | RunStore:
    return FolderStore(place, patience_seconds=30) if kind == "folder" else RunStore(place)


@contextmanager
def holder(kind: str, place: Path, seconds: float = 60) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds a run."""
    words = [sys.executable, "-c", program(HOLDS), kind, str(place), str(seconds)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["folder", "keyed"])
def test_two_processes_are_never_in_one_run_at_once(tmp_path, kind):
    """This one with its store, the other with the same lock."""
    count, rounds = tmp_path / "count", 100
    count.write_text("0")
    words = [sys.executable, "-c", program(COUNTS), kind, str(tmp_path / "runs"), str(rounds), str(count)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"ready\n"
        for _ in range(rounds):
            with store_of(kind, tmp_path / "runs").claim(bound(1)):
                count.write_text(str(int(count.read_text()) + 1))
        assert other.wait(120) == 0
    assert int(count.read_text()) == 2 * rounds


@pytest.mark.parametrize("kind", ["folder", "keyed"])
def test_a_lock_is_free_at_once_after_kill_9(tmp_path, kind):
    with holder(kind, tmp_path / "runs") as process:
        process.kill()
        process.wait()
    began = time.monotonic()
    with store_of(kind, tmp_path / "runs").claim(bound(1)):
        assert time.monotonic() - began < 5


def test_a_folder_is_waited_for_as_long_as_one_was_told(tmp_path):
    with holder("folder", tmp_path / "runs", 2.0):
        with pytest.raises(RunError, match="another process is at work"):
            with FolderStore(tmp_path / "runs").claim(bound(1)):
                pass
        polls: list[float] = []
        with FolderStore(tmp_path / "runs", patience_seconds=60).claim(
            bound(1), poll=lambda: polls.append(time.monotonic())
        ):
            assert polls
    with holder("folder", tmp_path / "runs"):

        def stop() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            with FolderStore(tmp_path / "runs", patience_seconds=60).claim(bound(1), poll=stop):
                pass


@pytest.mark.parametrize("days", [-400, 400])
def test_clocks_that_differ_free_no_lock(tmp_path, monkeypatch, days):
    """Of this machine, and of the file: what is held stays held."""
    with holder("folder", tmp_path / "runs"):
        own = tmp_path / "runs" / IN_USE
        now = time.time() + days * 86400
        os.utime(own, (now, now))
        monkeypatch.setattr(writing.time, "time", lambda: now)
        assert claim(own) is None and remove_stale_temporaries(tmp_path / "runs") == [] and own.exists()


@pytest.mark.parametrize("days", [-400, 400])
def test_without_locks_a_file_is_as_old_as_the_file_server_says(tmp_path, monkeypatch, days):
    """This machine's clock is wrong; those of the files are the server's."""
    monkeypatch.setattr(writing, "_lock", lambda handle: None)
    now = time.time()
    monkeypatch.setattr(writing.time, "time", lambda: now + days * 86400)
    fresh, old = tmp_path / f".fresh{MARK}", tmp_path / f".old{MARK}"
    for path in (fresh, old):
        path.write_text("")
    os.utime(old, (now - 2 * 86400,) * 2)
    assert claim(fresh) is None
    assert remove_stale_temporaries(tmp_path) == [old]
    assert [path.name for path in tmp_path.iterdir()] == [fresh.name]
