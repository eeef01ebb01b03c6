"""Adversarial losses and penalties against values known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from stand_ins import picture, stand_in_encoders
from torch.autograd import gradcheck

from oneshot_core.draws import SeededDraws
from oneshot_core.objective import Aim, AimFeatures, StepContext, StepDraws
from oneshot_core.objective.adversarial import Fool, logistic, non_saturating, path_length_penalty, r1_penalty
from oneshot_core.tensors import seeded


def drawn(*shape: int, what: str = "x") -> torch.Tensor:
    return torch.randn(shape, generator=seeded(0, 0, what), dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_losses_of_known_logits():
    real, fake = torch.tensor([[2.0], [0.0]]), torch.tensor([[-1.0], [3.0]])
    wanted = (softplus(-2) + softplus(0)) / 2 + (softplus(-1) + softplus(3)) / 2
    assert abs(float(logistic(real, fake)) - wanted) < 1e-6
    assert abs(float(non_saturating(fake)) - (softplus(1) + softplus(-3)) / 2) < 1e-6


def test_losses_average_over_maps():
    maps = drawn(2, 1, 4, 4)
    assert abs(float(non_saturating(maps)) - float(non_saturating(maps.reshape(-1, 1)))) < 1e-15


def test_r1_of_a_linear_score_is_its_squared_weight():
    weight = drawn(3, 8, 8, what="weight")
    images = drawn(4, 3, 8, 8).requires_grad_(True)
    logits = (images * weight).sum((1, 2, 3), keepdim=True)[:, :, 0, 0]
    assert abs(float(r1_penalty(logits, images)) - float(weight.square().sum())) < 1e-11


def test_r1_of_a_map_uses_the_mean_per_image():
    images = drawn(4, 1, 8, 8).requires_grad_(True)
    maps = 2 * images  # the mean over 64 places has gradient 2 / 64 everywhere
    assert abs(float(r1_penalty(maps, images)) - 64 * (2 / 64) ** 2) < 1e-15


def test_r1_is_differentiable():
    images = drawn(2, 3, 4, 4)

    def penalty(weight):
        x = images.clone().requires_grad_(True)
        return r1_penalty(torch.tanh((x * weight).sum((1, 2, 3)))[:, None], x)

    assert gradcheck(penalty, drawn(3, 4, 4, what="weight").requires_grad_(True))


def test_path_length_of_a_linear_generator():
    slots, width, size = 4, 6, 8
    matrix = drawn(3 * size * size, slots * width, what="matrix").requires_grad_(True)
    w = drawn(2, slots, width).requires_grad_(True)
    images = (w.reshape(2, -1) @ matrix.T).reshape(2, 3, size, size)
    noise = drawn(2, 3, size, size, what="noise")
    mean = torch.tensor(2.0, dtype=torch.float64)
    penalty, updated, lengths = path_length_penalty(images, w, noise, mean, decay=0.25)
    pulled = (noise.reshape(2, -1) / size) @ matrix.detach()
    wanted = pulled.reshape(2, slots, width).square().sum(2).mean(1).sqrt()
    penalty_value = float(penalty.detach())
    assert (lengths.detach() - wanted).abs().max() < 1e-12
    assert abs(float(updated) - (0.75 * 2.0 + 0.25 * float(wanted.mean()))) < 1e-12
    assert abs(penalty_value - float((wanted - updated).square().mean())) < 1e-12
    assert not updated.requires_grad
    (gradient,) = torch.autograd.grad(penalty, matrix)  # what trains the generator
    assert float(gradient.abs().max()) > 0


def context(logits=None) -> StepContext:
    goal = AimFeatures(Aim(picture(16)), stand_in_encoders())
    return StepContext(goal, {}, StepDraws(SeededDraws(0), 0), lambda index, images: images, logits=logits)


@pytest.mark.parametrize("path", ["image", "patch"])
def test_fool_asks_for_its_path(path):
    asked = []

    def judge(given):
        asked.append(given)
        return torch.tensor([[1.0]])

    assert abs(float(Fool(path)(context(judge))) - softplus(-1)) < 1e-6
    assert asked == [path]


def test_fool_without_a_discriminator_says_so():
    with pytest.raises(ValueError, match="needs a discriminator plan"):
        Fool("image")(context())


def test_penalties_have_finite_gradients_where_nothing_depends_on_the_input():
    """The slope of a root is infinite at 0: where the picture does not answer, lengths are 0."""
    w = torch.zeros(2, 3, 4, requires_grad=True)
    weight = torch.zeros((), requires_grad=True)
    images = (w.sum() * weight).expand(2, 3, 8, 8)
    penalty, _, lengths = path_length_penalty(images, w, torch.ones(2, 3, 8, 8), torch.zeros(()))
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert bool(gradient.isfinite()) and float(lengths.detach().max()) < 1e-12
    flat = torch.zeros(2, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(r1_penalty((flat * weight).sum((1, 2, 3))[:, None], flat), weight)
    assert bool(gradient.isfinite())
