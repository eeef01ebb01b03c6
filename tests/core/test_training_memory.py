"""Estimates of memory: they grow with what grows, and come near what a run really takes."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_networks import tiny_bundle, tiny_encoders

from oneshot_core.demo.world import demo_encoders, demo_generator
from oneshot_core.latents import Latent
from oneshot_core.objective import Aim
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.training import memory
from oneshot_core.training.memory import editing_bytes, search_bytes, training_bytes

AIM = Aim(torch.zeros(1, 3, 128, 128), demo_generator().mean_latent[None])
SIZE = 64  # of the tiny generator, for what does not depend on how much is counted
TINY_AIM = Aim(torch.zeros(1, 3, SIZE, SIZE), tiny_bundle(SIZE).mean_latent[None])
MEASURE = """
import lpips, open_clip, torch, torchvision
torch.set_num_threads(1)
from oneshot_core.demo.world import demo_encoders, demo_generator
from oneshot_core.draws import SeededDraws
from oneshot_core.objective import Aim
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.training import TrainState, train
def status(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) * 1024
bundle = demo_generator()
before = status("VmRSS")
encoders = demo_encoders()
aim = Aim(torch.zeros(1, 3, 128, 128), bundle.mean_latent[None])
state = TrainState.create(bundle, encoders, aim, oneshot_clip(), SeededDraws(0))
train(state, 5)
print(status("VmHWM") - before)
"""


@pytest.fixture(autouse=True)
def every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimate at every call."""
    monkeypatch.setattr(memory, "_shapes_key", lambda *_: None)


def test_shapes_that_were_seen_are_not_estimated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    counted: list[int] = []
    monkeypatch.setattr(memory, "_KNOWN", {})
    monkeypatch.setattr(memory, "_estimated", lambda *_: counted.append(1) or len(counted))
    encoders, preset = tiny_encoders(), oneshot_clip()
    bundle = tiny_bundle(SIZE)
    assert training_bytes(bundle, encoders, TINY_AIM, preset) == 1
    other = replace(TINY_AIM, targets=torch.ones(1, 3, SIZE, SIZE))
    assert training_bytes(tiny_bundle(SIZE, seed=3), tiny_encoders(), other, preset) == 1
    two = replace(TINY_AIM, targets=torch.zeros(2, 3, SIZE, SIZE))
    differing = [
        training_bytes(bundle, encoders, two, preset),
        training_bytes(bundle, encoders, TINY_AIM, preset.rebatched(3)),
        training_bytes(bundle, encoders, TINY_AIM, preset, "bfloat16"),
        training_bytes(bundle, encoders, TINY_AIM, preset, recompute=True),
        training_bytes(bundle, replace(encoders, clips=encoders.clips * 2), TINY_AIM, preset),
        training_bytes(replace(bundle, raw_generator=bundle.generator), encoders, TINY_AIM, preset),
    ]
    assert differing == [2, 3, 4, 5, 6, 7]


@pytest.mark.slow
def test_more_pictures_need_more_memory() -> None:
    bundle, encoders = demo_generator(), demo_encoders()
    small, large = (training_bytes(bundle, encoders, AIM, oneshot_clip().rebatched(n)) for n in (2, 4))
    assert small < large < 2 * small
    assert 0 < search_bytes(bundle, encoders) < small
    one, two = (editing_bytes(bundle, encoders.clip, codes) for codes in (1, 2))
    assert 0 < one < two < 2 * one


@pytest.mark.slow
def test_a_reference_that_knows_its_family_is_estimated_as_a_bare_one() -> None:
    bundle, encoders = tiny_bundle(SIZE), tiny_encoders()
    known = replace(TINY_AIM, reference=Latent("w", TINY_AIM.reference, bundle.family))
    estimate = training_bytes(bundle, encoders, known, oneshot_clip())
    assert estimate == training_bytes(bundle, encoders, TINY_AIM, oneshot_clip())
    foreign = replace(TINY_AIM, reference=Latent("w", TINY_AIM.reference, "another family"))
    with pytest.raises(ValueError, match="this reference is of another generator"):
        training_bytes(bundle, encoders, foreign, oneshot_clip())


def test_nothing_of_the_networks_is_changed() -> None:
    bundle, encoders = tiny_bundle(SIZE), tiny_encoders()
    training_bytes(bundle, encoders, TINY_AIM, oneshot_clip())
    networks = (bundle.generator, bundle.discriminator, encoders.clip)
    assert all(p.device.type == "cpu" and not p.requires_grad for net in networks for p in net.parameters())


@pytest.mark.slow
def test_it_works_where_comfyui_runs_nodes() -> None:
    bundle, encoders = tiny_bundle(SIZE), tiny_encoders()
    with torch.inference_mode():
        inside = (
            training_bytes(bundle.to("cpu"), encoders, TINY_AIM, oneshot_clip()),
            search_bytes(bundle, encoders),
        )
    assert inside == (
        training_bytes(bundle, encoders, TINY_AIM, oneshot_clip()),
        search_bytes(bundle, encoders),
    )


def kept_tensors() -> int:
    return sum(type(value).__name__ in ("Tensor", "Parameter") for value in gc.get_objects())


def tensors_kept_by(work: Callable[[], object], calls: int) -> int:
    """Tensors that are there after some calls and were not before the first of them.

    The collector is off, so that cycles, which it would find later, count as well.
    """
    work()  # constants that are made once
    gc.collect()
    gc.disable()
    try:
        before = kept_tensors()
        for _ in range(calls):
            work()
        return kept_tensors() - before
    finally:
        gc.enable()


def calls() -> dict[str, Callable[[], int]]:
    bundle, encoders, preset = tiny_bundle(SIZE), tiny_encoders(), oneshot_clip()
    return {
        "training": lambda: training_bytes(bundle, encoders, TINY_AIM, preset),
        "search": lambda: search_bytes(bundle, encoders),
        "editing": lambda: editing_bytes(bundle, encoders.clip),
    }


@pytest.mark.slow
@pytest.mark.parametrize("what", ["training", "search", "editing"])
def test_an_estimate_leaves_nothing_behind(what) -> None:
    assert tensors_kept_by(calls()[what], 1) == 0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["training", "search", "editing"])
def test_fifty_estimates_leave_nothing_behind(what) -> None:
    assert tensors_kept_by(calls()[what], 50) == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak from /proc")
def test_the_estimate_is_within_a_quarter_of_the_measured_peak() -> None:
    root = Path(__file__).parents[2]
    answer = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=root, capture_output=True, text=True, check=True, timeout=600
    )
    measured = int(answer.stdout.split()[-1])
    assert training_bytes(demo_generator(), demo_encoders(), AIM, oneshot_clip()) == pytest.approx(
        measured, rel=0.25
    )
