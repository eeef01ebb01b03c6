"""Draws are pure functions of (seed, step, purpose); recorded ones play back exactly."""

from __future__ import annotations

import pytest
import torch

from oneshot_core.draws import RecordedDraws, SeededDraws


def all_kinds(draws, step=0, purpose="p"):
    return [
        draws.normal(step, purpose, (2, 3)),
        draws.uniform(step, purpose, (2, 3)),
        draws.integers(step, purpose, 100, (2, 3)),
    ]


def test_draws_do_not_depend_on_what_was_drawn_before():
    draws = SeededDraws(3)
    first = all_kinds(draws)
    draws.normal(9, "other", (50,))
    for a, b in zip(first, all_kinds(SeededDraws(3)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("seed", "step", "purpose"), [(4, 0, "p"), (3, 1, "p"), (3, 0, "q")])
def test_draws_differ_between_seeds_steps_and_purposes(seed, step, purpose):
    for a, b in zip(all_kinds(SeededDraws(3)), all_kinds(SeededDraws(seed), step, purpose), strict=True):
        assert not torch.equal(a, b)


def test_draws_do_not_touch_the_global_generator():
    before = torch.get_rng_state()
    all_kinds(SeededDraws(0))
    assert torch.equal(before, torch.get_rng_state())


def test_ranges_types_and_default_shapes():
    draws = SeededDraws(0)
    uniform = draws.uniform(0, "u", (1000,))
    assert uniform.dtype == torch.float32 and 0 <= float(uniform.min()) and float(uniform.max()) < 1
    integers = draws.integers(0, "i", 5, (1000,))
    assert integers.dtype == torch.int64 and set(integers.tolist()) == {0, 1, 2, 3, 4}
    normal = draws.normal(0, "n", (10_000,))
    assert abs(float(normal.mean())) < 0.05 and abs(float(normal.std()) - 1) < 0.05
    assert draws.uniform(0, "u").shape == draws.integers(0, "i", 2).shape == ()


def test_recorded_draws_play_back():
    values = torch.tensor([1.0, 2.0])
    draws = RecordedDraws({(4, "z"): values, (4, "head"): torch.tensor(2)})
    assert draws.normal(4, "z", (2,)) is values
    assert draws.uniform(4, "z", [2]) is values
    assert int(draws.integers(4, "head", 3)) == 2


def test_recorded_draws_refuse_what_was_not_recorded():
    draws = RecordedDraws({(4, "z"): torch.zeros(2)})
    with pytest.raises(ValueError, match="step 5, purpose 'z'"):
        draws.normal(5, "z", (2,))
    with pytest.raises(ValueError, match=r"shape \[2\], needed \[3\]"):
        draws.normal(4, "z", (3,))
