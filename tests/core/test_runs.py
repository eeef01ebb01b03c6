"""The store of runs: loading instead of training, resuming, damage, locks, limits."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_networks import tiny_bundle, tiny_encoders

from oneshot_core.checkpoints import read_tensors
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.runs import (
    MASKED,
    RECORD,
    RESULT,
    SEARCH,
    RunStore,
    StoredResult,
    adapt_in_store,
    search_in_store,
)
from oneshot_core.search import SearchConfig
from oneshot_core.training import STATE_FILE, Callback, Poll, StopSignal, TrainConfig, TrainState, adapt

SIZE, STEPS = 64, 4


class Counting(Callback):
    """Counts steps, and interrupts after one of them."""

    def __init__(self, until: int = 10**9) -> None:
        self.steps, self.until = 0, until

    def after_step(self, state: TrainState) -> None:
        self.steps += 1
        if state.step == self.until:
            raise KeyboardInterrupt  # like ComfyUI's cancel, none of Exception's children


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    bundle = tiny_bundle(SIZE)
    encoders = tiny_encoders()
    encoders.to = lambda device: encoders
    target = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return {"bundle": bundle, "encoders": encoders, "target": target, "reference": bundle.mean_latent[None]}


def run(
    root: Path, world: dict[str, Any], steps: int = STEPS, seed: int = 0, **settings: Any
) -> tuple[StoredResult, int]:
    """Adapt in a store; returns the result and how many steps were trained."""
    counting = settings.pop("counting", Counting())
    store = RunStore(root, settings.pop("limit_bytes", None))
    config = TrainConfig(steps, seed, snapshot_every_steps=2)
    others = settings.pop("callbacks", [])
    result = adapt_in_store(
        store, **world, preset=oneshot_clip(), config=config, callbacks=[*others, counting], **settings
    )
    return result, counting.steps


def same(first: Any, second: Any) -> bool:
    one, two = first.generator.state_dict(), second.generator.state_dict()
    return all(torch.equal(one[name], two[name]) for name in one)


def folder_of(root: Path) -> Path:
    (folder,) = [path for path in root.iterdir() if path.is_dir() and ".damaged" not in path.name]
    return folder


def test_the_second_call_loads_the_same_result(tmp_path: Path, world: dict[str, Any]) -> None:
    first, trained = run(tmp_path, world)
    second, again = run(tmp_path, world)
    assert (trained, again) == (STEPS, 0)
    assert same(first.bundle, second.bundle) and second.bundle.discriminator is not None
    assert first.step == second.step == STEPS and second.snapshots == (2, 4)
    assert [v for v in second.losses["generator"]] == first.losses["generator"]
    assert not (folder_of(tmp_path) / STATE_FILE).exists()


def test_it_equals_a_plain_adaptation(tmp_path: Path, world: dict[str, Any]) -> None:
    plain = adapt(**world, preset=oneshot_clip(), config=TrainConfig(STEPS, 0, snapshot_every_steps=2))
    assert same(plain.bundle, run(tmp_path, world)[0].bundle)


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 3}], ids=str)
def test_other_settings_are_another_run(
    tmp_path: Path, world: dict[str, Any], change: dict[str, int]
) -> None:
    run(tmp_path, world)
    assert run(tmp_path, world, **change)[1] == change.get("steps", STEPS)


def test_an_interrupted_run_goes_on_and_equals_a_whole_one(tmp_path: Path, world: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", world, counting=Counting(until=3))
    resumed, steps = run(tmp_path / "a", world)
    assert steps == 1
    assert same(resumed.bundle, run(tmp_path / "b", world)[0].bundle)


def test_a_snapshot_is_chosen_without_training(tmp_path: Path, world: dict[str, Any]) -> None:
    last, _ = run(tmp_path, world)
    early, steps = run(tmp_path, world, snapshot=2)
    assert (steps, early.step, early.bundle.discriminator) == (0, 2, None)
    assert not same(early.bundle, last.bundle)
    assert same(run(tmp_path, world, snapshot=STEPS)[0].bundle, last.bundle)
    with pytest.raises(ValueError, match=r"no snapshot of step 3; it has 2, 4"):
        run(tmp_path, world, snapshot=3)


def test_stop_and_keep_gives_what_is_there_and_then_goes_on(tmp_path: Path, world: dict[str, Any]) -> None:
    stop = StopSignal()
    stop.stop_and_keep()
    early, _ = run(tmp_path / "a", world, callbacks=[stop])
    assert early.step == 1 and not (folder_of(tmp_path / "a") / RECORD).exists()
    resumed, steps = run(tmp_path / "a", world)
    assert steps == STEPS - 1 and same(resumed.bundle, run(tmp_path / "b", world)[0].bundle)


def test_it_trains_inside_inference_mode(tmp_path: Path, world: dict[str, Any]) -> None:
    plain, _ = run(tmp_path / "a", world)
    with torch.inference_mode():
        inside = {**world, "bundle": world["bundle"].to("cpu"), "target": world["target"].clone()}
        result, _ = run(tmp_path / "b", inside)
        loaded, steps = run(tmp_path / "b", inside)
    assert steps == 0 and same(plain.bundle, result.bundle) and same(plain.bundle, loaded.bundle)


def test_fresh_trains_again(tmp_path: Path, world: dict[str, Any]) -> None:
    run(tmp_path, world)
    assert run(tmp_path, world, fresh=True)[1] == STEPS


@pytest.mark.parametrize("name", [RESULT, RECORD, STATE_FILE])
def test_a_damaged_run_is_set_aside(
    tmp_path: Path, world: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if name == STATE_FILE:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, world, counting=Counting(until=2))
    else:
        run(tmp_path, world)
    path = folder_of(tmp_path) / name
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path, world)[1] == STEPS
    assert "set aside" in caplog.text
    assert (tmp_path / f"{folder_of(tmp_path).name}.damaged-1" / name).is_file()
    assert run(tmp_path, world)[1] == 0


def test_the_store_removes_the_longest_unused(tmp_path: Path, world: dict[str, Any]) -> None:
    for seed in (0, 1):
        run(tmp_path, world, seed=seed, steps=1)
    first, second = sorted(
        (p for p in tmp_path.iterdir() if p.is_dir()), key=lambda p: (p / "used").stat().st_mtime
    )
    os.utime(second / "used", (1, 1))  # the second was used longest ago
    size = sum(path.stat().st_size for path in first.rglob("*"))
    assert RunStore(tmp_path, int(size * 1.5)).trim() == [second]
    assert first.is_dir() and RunStore(tmp_path, int(size * 1.5)).trim() == []


def test_a_run_that_is_held_is_neither_removed_nor_waited_for_in_vain(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from oneshot_core.runs import RunStore\n"
        "with RunStore(Path(sys.argv[1])).claim({'a': 1}):\n    print('held', flush=True); time.sleep(60)"
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

        with pytest.raises(TimeoutError), RunStore(tmp_path).claim({"a": 1}, poll):
            pass
        assert RunStore(tmp_path, 0).trim() == []
        other.kill()
    with RunStore(tmp_path).claim({"a": 1}, poll=lambda: pytest.fail("the lock of a dead process is free")):
        pass


def test_poll_ends_a_run_between_steps(tmp_path: Path, world: dict[str, Any]) -> None:
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(tmp_path, world, callbacks=[Poll(check)])
    assert (folder_of(tmp_path) / STATE_FILE).is_file()
    assert run(tmp_path, world)[1] == STEPS - 2


def test_a_run_that_was_just_trained_is_not_the_first_to_go(tmp_path: Path, world: dict[str, Any]) -> None:
    for seed in (0, 1):
        run(tmp_path, world, seed=seed)
    run(tmp_path, world, seed=0, fresh=True)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert len(RunStore(tmp_path, size - 1).trim()) == 1
    assert run(tmp_path, world, seed=0)[1] == 0  # the older one went


def test_what_cancelled_runs_left_counts_towards_the_limit(tmp_path: Path, world: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, world, seed=0, counting=Counting(2))
    assert run(tmp_path, world, seed=1, limit_bytes=1000)[1] == STEPS
    assert run(tmp_path, world, seed=0)[1] == STEPS


def test_a_cancel_on_the_step_of_a_snapshot_does_not_cost_it(tmp_path: Path, world: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, world, counting=Counting(2))
    assert run(tmp_path, world)[0].snapshots == (2, 4)


def test_a_snapshot_that_is_not_kept_is_refused_in_the_call_that_trains(
    tmp_path: Path, world: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="keeps no snapshot of step 3"):
        run(tmp_path, world, snapshot=3)


def test_stray_files_among_the_snapshots_do_no_harm(tmp_path: Path, world: dict[str, Any]) -> None:
    run(tmp_path, world)
    (folder_of(tmp_path) / "snapshots" / "step_000002 (1).safetensors").write_bytes(b"a copy")
    assert run(tmp_path, world)[0].snapshots == (2, 4)


def test_an_interrupted_run_goes_on_although_a_fresh_one_is_asked_for(
    tmp_path: Path, world: dict[str, Any]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, world, counting=Counting(2), fresh=True)
    assert run(tmp_path, world, fresh=True)[1] == STEPS - 2


def test_a_mask_belongs_to_the_run_and_its_filled_target_is_drawn_once(
    tmp_path: Path, world: dict[str, Any]
) -> None:
    mask = torch.ones(1, 1, SIZE, SIZE)
    mask[..., :16] = 0
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, world, counting=Counting(2), mask=mask)
    (kept,) = tmp_path.rglob(MASKED)
    before = kept.read_bytes()
    masked, steps = run(tmp_path, world, mask=mask)
    assert steps == STEPS - 2 and kept.read_bytes() == before
    target = read_tensors(kept)[0]["target"]
    assert torch.equal(target[..., 16:], world["target"][..., 16:])
    assert not torch.equal(target[..., :16], world["target"][..., :16])
    assert run(tmp_path, world)[1] == STEPS  # without a mask it is another run
    assert run(tmp_path, world, mask=mask)[1] == 0


def test_a_search_is_kept_and_resumed(tmp_path: Path, world: dict[str, Any]) -> None:
    inputs = {name: world[name] for name in ("bundle", "encoders", "target")}
    seen: list[int] = []

    def search(stop_at: int = 0) -> Any:
        def report(now: SimpleNamespace) -> None:
            seen.append(now.step)
            if now.step == stop_at:
                raise KeyboardInterrupt

        return search_in_store(RunStore(tmp_path), **inputs, config=SearchConfig(4), callbacks=[report])

    with pytest.raises(KeyboardInterrupt):
        search(stop_at=2)
    found = search()
    assert seen == [1, 2, 3, 4]
    assert torch.equal(search().latent.values, found.latent.values) and len(seen) == 4
    path = folder_of(tmp_path) / SEARCH
    path.write_bytes(b"damaged")
    assert torch.equal(search().latent.values, found.latent.values) and len(seen) == 8
