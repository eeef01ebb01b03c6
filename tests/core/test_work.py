"""How much a step of the demo has to do, counted: seconds differ between machines, this does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from oneshot_core.demo.world import demo_encoders, demo_generator
from oneshot_core.draws import SeededDraws
from oneshot_core.objective import Aim
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.search import SearchConfig, search_latent
from oneshot_core.training import TrainState
from oneshot_core.training.memory import training_bytes
from oneshot_core.training.phases import phases_due, run_phase, start_round

TARGET = torch.zeros(1, 3, 128, 128)
# 10^9 operations of convolutions and matrix products, batch 2, 16 crops of 16 px.
PHASES = {
    "random discriminator": 10.57, "random generator": 26.89, "reference discriminator": 7.51,
    "reference r1": 6.46, "reference generator": 6.10,
}  # fmt: skip
SEARCH_STEP, SEARCH_VIEWS = 5.11, 8
TRAINING_BYTES = 318_800_704
CLIP_PICTURES = {
    "random": 4 + 2 * 2 * 16,
    "reference": 0,
}  # both pictures of both generators, and their crops


class Counter(TorchDispatchMode):
    """Counts operations as torch's counter does, whose tracking of modules fails in frozen networks."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out


@contextmanager
def clip_pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts of pictures that CLIP is given."""
    seen: list[int] = []
    clip = demo_encoders().clip
    encode = clip.encode_images
    with monkeypatch.context() as patch:
        patch.setattr(clip, "encode_images", lambda images: seen.append(len(images)) or encode(images))
        yield seen


@pytest.mark.slow
def test_a_training_step_does_no_more_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = demo_generator()
    aim = Aim(TARGET, bundle.mean_latent[None])
    state = TrainState.create(bundle, demo_encoders(), aim, oneshot_clip(), SeededDraws(0))
    found, pictures = {}, {}
    for state.step in (0, 1):
        current = start_round(state)
        with clip_pictures(monkeypatch) as seen:
            for name in phases_due(current):
                with Counter() as counter:
                    run_phase(name, current)
                found[f"{current.kind.name} {name}"] = counter.flops / 1e9
        pictures[current.kind.name] = sum(seen)
    assert {name: count for name, count in found.items() if count} == pytest.approx(PHASES, rel=0.01)
    assert pictures == CLIP_PICTURES


@pytest.mark.slow
def test_a_search_step_does_no_more_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    flops = {}
    for steps in (1, 2):
        with clip_pictures(monkeypatch) as seen, Counter() as counter:
            search_latent(demo_generator(), demo_encoders(), TARGET, SearchConfig(steps=steps))
        flops[steps], pictures = counter.flops / 1e9, sum(seen)
    assert flops[2] - flops[1] == pytest.approx(SEARCH_STEP, rel=0.01)
    assert pictures == 1 + 2 * SEARCH_VIEWS  # the target once


def test_what_is_kept_for_the_backward_pass_does_not_grow() -> None:
    bundle = demo_generator()
    aim = Aim(TARGET, bundle.mean_latent[None])
    assert training_bytes(bundle, demo_encoders(), aim, oneshot_clip()) == pytest.approx(
        TRAINING_BYTES, rel=0.01
    )
