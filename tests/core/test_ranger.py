"""Ranger: plain steps first, centred gradients, slow weights; what it refuses."""

from __future__ import annotations

import pytest
import torch

from oneshot_core.editing.ranger import Ranger, RangerPlan
from oneshot_core.tensors import seeded


def draws(shape, name: str) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(0, 0, name))


def stepped(value: torch.Tensor, gradients: list[torch.Tensor], plan: RangerPlan) -> list[torch.Tensor]:
    parameter = torch.nn.Parameter(value.clone())
    optimiser, seen = Ranger([parameter], plan), []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimiser.step()
        seen.append(parameter.detach().clone())
    return seen


def test_the_first_steps_follow_the_mean_of_centred_gradients():
    value, gradient = draws((4, 5), "p"), draws((4, 5), "g")
    (first,) = stepped(value, [gradient], RangerPlan(learning_rate=0.5))
    centred = gradient - gradient.mean(dim=1, keepdim=True)
    torch.testing.assert_close(first, value - 0.5 * centred)


def test_gradients_of_one_dimension_are_not_centred():
    value, gradient = draws(7, "p"), draws(7, "g")
    (first,) = stepped(value, [gradient], RangerPlan(learning_rate=0.5))
    torch.testing.assert_close(first, value - 0.5 * gradient)


def test_slow_weights_follow_every_few_steps():
    value, gradients = draws(7, "p"), [draws(7, f"g{k}") for k in range(2)]
    fast = stepped(value, gradients, RangerPlan(every_steps=100))[-1]
    slow = stepped(value, gradients, RangerPlan(every_steps=2, follow=0.25))[-1]
    torch.testing.assert_close(slow, value + 0.25 * (fast - value))


def test_it_finds_the_lowest_point():
    target = draws((3, 4), "target")
    parameter = torch.nn.Parameter(torch.zeros(3, 4))
    optimiser = Ranger([parameter], RangerPlan(learning_rate=0.3))
    for _ in range(400):
        optimiser.zero_grad()
        # Centred gradients leave the mean of a row where it is.
        (parameter - target + target.mean(dim=1, keepdim=True)).square().sum().backward()
        optimiser.step()
    torch.testing.assert_close(
        parameter.detach(), target - target.mean(dim=1, keepdim=True), atol=0.05, rtol=0
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"betas": (1.0, 0.9)}, "betas from 0 up to 1"),
        ({"every_steps": 0}, "every_steps must be at least 1"),
        ({"threshold": 1.0}, "threshold must be a finite number of at least 4"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        RangerPlan(**settings)
