"""The store of runs: what killed processes left, locks, and the limit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kept_runs import STEPS, Counting, bound, names_of, run, tiny_inputs

from oneshot_core.choices import TRAIN_AGAIN
from oneshot_core.inputs import Inputs
from oneshot_core.run_folder import MARK, WORK
from oneshot_core.store import RunStore
from oneshot_core.training import STATE_FILE


@pytest.fixture(scope="module")
def world() -> Inputs:
    return tiny_inputs()


def test_what_killed_processes_left_goes_at_the_next_start(tmp_path: Path, world: Inputs) -> None:
    first, second = (bound(seed).key("") for seed in (1, 2))
    program = f"""
import sys, time
from pathlib import Path
from oneshot_core.kept_folders import KeptFolders
from oneshot_core.writing import atomic_path
kept = KeptFolders(Path(sys.argv[1]))
with kept.claim("{first}"), kept.claim("{second}") as two, atomic_path(two / "state") as half:
    half.write_bytes(bytes(1000))
    print("ready", flush=True)
    time.sleep(60)
"""
    here = Path(__file__).parents[2]
    words = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(words, cwd=here, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"ready\n"
        (tmp_path / f"{32 * '0'}.lock").touch()  # of a run that was removed
        RunStore(tmp_path).trim()
        assert len(names_of(tmp_path)) == 4  # both folders and locks are held, the lock of no one is gone
        other.kill()
        other.wait()
    RunStore(tmp_path).trim()
    (kept,) = tmp_path.iterdir()  # the empty folder and all locks went
    with RunStore(tmp_path).claim(bound(2)) as two:
        assert names_of(two.folder) == [WORK, MARK] and names_of(two.work) == [] and two.folder == kept
    assert names_of(tmp_path) == [kept.name]


def test_the_store_removes_the_longest_unused(tmp_path: Path, world: Inputs) -> None:
    for seed in (0, 1):
        run(tmp_path, world, seed=seed, steps=1)
    first, second = sorted(
        (p for p in tmp_path.iterdir() if p.is_dir()), key=lambda p: (p / "used").stat().st_mtime
    )
    os.utime(second / "used", (1, 1))  # the second was used longest ago
    size = sum(path.stat().st_size for path in first.rglob("*") if path.name != STATE_FILE)
    assert RunStore(tmp_path, int(size * 1.5)).trim() == [second]
    assert first.is_dir() and RunStore(tmp_path, int(size * 1.5)).trim() == []


def test_a_run_that_is_held_is_neither_removed_nor_waited_for_in_vain(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from oneshot_core.kept_folders import KeptFolders\n"
        f"with KeptFolders(Path(sys.argv[1])).claim('{bound(1).key('')}'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    here = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=here, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        polls = []

        def poll() -> None:
            polls.append(time.monotonic())
            if len(polls) == 2:
                raise TimeoutError("given up")

        with pytest.raises(TimeoutError), RunStore(tmp_path).claim(bound(1), "", poll):
            pass
        assert RunStore(tmp_path, 0).trim() == []
        other.kill()
    with RunStore(tmp_path).claim(bound(1), poll=lambda: pytest.fail("the lock of a dead process is free")):
        pass


@pytest.mark.slow
def test_a_run_that_was_just_trained_is_not_the_first_to_go(tmp_path: Path, world: Inputs) -> None:
    for seed in (0, 1):
        run(tmp_path, world, seed=seed)
    run(tmp_path, world, seed=0, kept=TRAIN_AGAIN)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    whole = sum(path.stat().st_size for path in tmp_path.rglob(STATE_FILE))
    assert len(RunStore(tmp_path, size - whole - 1).trim()) == 1
    assert run(tmp_path, world, seed=0)[1] == 0  # the older one went


@pytest.mark.slow
def test_states_of_ended_runs_go_before_whole_runs(tmp_path: Path, world: Inputs) -> None:
    for seed in (0, 1):
        run(tmp_path, world, seed=seed)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert RunStore(tmp_path, size - 1).trim() == []
    states = list(tmp_path.rglob(STATE_FILE))
    assert len(states) == 1 and [run(tmp_path, world, seed=seed)[1] for seed in (0, 1)] == [0, 0]
    assert run(tmp_path, world, seed=0, steps=STEPS + 1)[1] == STEPS + 1  # its state went
    assert run(tmp_path, world, seed=1, steps=STEPS + 1)[1] == 1


@pytest.mark.slow
def test_what_cancelled_runs_left_counts_towards_the_limit(tmp_path: Path, world: Inputs) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, world, seed=0, counting=Counting(2))
    assert run(tmp_path, world, seed=1, limit_bytes=1000)[1] == STEPS
    assert run(tmp_path, world, seed=0)[1] == STEPS


def test_the_store_leaves_alone_what_is_not_its_own(tmp_path: Path, world: Inputs) -> None:
    mine = [tmp_path / "mine" / "a.bin", tmp_path / "notes.lock"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "empty").mkdir()
    for path in mine:
        path.write_bytes(bytes(1000))
    run(tmp_path, world, steps=1, limit_bytes=10)
    assert all(path.is_file() for path in mine) and (tmp_path / "empty").is_dir()
