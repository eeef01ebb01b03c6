"""Which layers are trained in a step: those whose codes a text moves most; see `objective.Selection`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..latents import drawn_noise
from ..objective.directions import text_distance_of
from ..tensors import Images, Latents
from .state import TrainState


def select(
    state: TrainState,
    rendered: Callable[[Latents, list[Tensor]], Images],
    encoded: Callable[[int, Images], Tensor],
) -> None:
    """Let only the chosen layers of the generator take gradients, until the next choice.

    Args:
        state: the run, at the step.
        rendered: draws codes [N, L, W] with the trained generator.
        encoded: maps (index of a CLIP model, images) to unit features.
    """
    plan, generator = state.preset.selection, state.adapted
    assert plan is not None
    trained = state.preset.trainable.names(generator)
    parameters = dict(generator.named_parameters())
    through = state.preset.optimiser.zero_filled_grads
    for name, parameter in parameters.items():
        # As published, where gradients are filled with zeros: the pass through all layers makes all of them
        # age in Adam, whichever are chosen (methods.md, adaptive layer selection).
        parameter.requires_grad_(through and not name.startswith("mapping."))
    z = state.draws.normal(state.step, "select.z", (plan.codes, generator.config.z_dim))
    with torch.no_grad():
        start = state.source.map(z.to(generator.const))
    codes = start.clone()
    for index in range(plan.steps):
        codes.requires_grad_(True)
        noise = drawn_noise(state.source, state.draws, state.step, f"select.{index}", plan.codes)
        images = rendered(codes, noise)
        losses = [
            weight * text_distance_of(state.goal, place, encoded(place, images), "{}").mean()
            for place, (_, weight) in enumerate(state.goal.encoders.clips)
        ]
        moving = torch.stack(losses).sum()
        if through:
            moving.backward()
            assert codes.grad is not None
            gradient, codes.grad = codes.grad, None
        else:
            (gradient,) = torch.autograd.grad(moving, codes)
        codes = (codes - plan.rate * gradient).detach()
    moved = (codes - start).abs().mean(dim=(0, 2))
    state.chosen = plan.chosen(moved.cpu())
    names = plan.names(state.chosen, trained, generator)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)
