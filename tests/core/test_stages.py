"""Computing parts of networks again instead of keeping them changes memory and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stand_ins import stand_in_encoders, tiny_aim, tiny_bundle
from torch import Tensor

from oneshot_core.draws import SeededDraws
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.stages import Stage, kept, recomputed
from oneshot_core.training import TrainConfig, TrainState, adapt
from oneshot_core.training.memory import _saved
from oneshot_core.training.phases import phase_update, run_phase, start_round

SIZE = 64


def fresh(stage: Stage, precision: str = "float32") -> TrainState:
    bundle = tiny_bundle(SIZE)
    values = bundle, stand_in_encoders(), tiny_aim(bundle), oneshot_clip()
    state = TrainState.create(*values, SeededDraws(0), precision=precision)
    state.stage = stage
    return state


def gradients_of(state: TrainState, step: int, phase: str) -> list[Tensor]:
    state.step = step
    run_phase(phase, start_round(state))
    return [p.grad for network in state.networks() for p in network.parameters() if p.grad is not None]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("phase", ["discriminator", "r1", "generator"])
@pytest.mark.parametrize("step", [0, 1])
def test_gradients_are_the_same_bit_for_bit(step: int, phase: str, precision: str) -> None:
    plain, again = (gradients_of(fresh(stage, precision), step, phase) for stage in (kept, recomputed))
    assert len(plain) == len(again) > 0
    assert all(map(torch.equal, plain, again))


def test_the_judge_gets_no_gradient_while_the_generator_learns() -> None:
    state = fresh(recomputed)
    assert gradients_of(state, 1, "generator")
    assert state.discriminator is not None and state.heads is not None
    assert all(p.grad is None and p.requires_grad for p in state.discriminator.parameters())
    assert all(p.grad is None and p.requires_grad for p in state.heads.parameters())


@pytest.mark.parametrize(("phase", "step"), [("discriminator", 0), ("generator", 1)])
def test_much_less_is_kept(phase: str, step: int) -> None:
    def bytes_of(stage: Stage) -> int:
        state = fresh(stage)
        state.step = step
        return _saved(lambda: phase_update(phase, start_round(state)).loss)

    assert bytes_of(recomputed) < 0.6 * bytes_of(kept)


def test_a_run_can_go_on_either_way(tmp_path: Path) -> None:
    bundle = tiny_bundle(SIZE)
    encoders, aim = stand_in_encoders(), tiny_aim(bundle)
    config = TrainConfig(steps=4, checkpoint_every_steps=1)
    whole = adapt(bundle, encoders, aim, config=config).bundle.generator.state_dict()
    adapt(bundle, encoders, aim, config=replace(config, steps=2), run_folder=tmp_path)
    other = adapt(bundle, encoders, aim, config=config, run_folder=tmp_path, recompute=True)
    found = other.bundle.generator.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in whole.items())
