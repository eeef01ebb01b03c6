"""Which layers are trained in a step: those whose codes a text moves most; see `objective.Selection`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from ..latents import drawn_noise
from ..objective.directions import text_distance_of
from ..tensors import Images, Latents
from .state import TrainState

Rendered: TypeAlias = "Callable[[Latents, list[Tensor]], Images]"
Encoded: TypeAlias = "Callable[[int, Images], Tensor]"


def start_codes(state: TrainState) -> Latents:
    """The latents [N, L, W] that are moved in the state's step."""
    plan = state.preset.selection
    assert plan is not None
    z = state.draws.normal(state.step, "select.z", (plan.codes, state.adapted.config.z_dim))
    with torch.no_grad():
        return state.source.map(z.to(state.adapted.const)).clone()


def moving_loss(
    state: TrainState, codes: Latents, index: int, rendered: Rendered, encoded: Encoded
) -> Tensor:
    """How unlike the target text the pictures of the codes are; its gradient moves them.

    Args:
        state: the run, at the step.
        codes: [N, L, W] with gradient.
        index: of the moving step.
        rendered: see `select`.
        encoded: see `select`.
    """
    images = rendered(
        codes, drawn_noise(state.source, state.draws, state.step, f"select.{index}", len(codes))
    )
    losses = [
        weight * text_distance_of(state.goal, place, encoded(place, images), "{}").mean()
        for place, (_, weight) in enumerate(state.goal.encoders.clips)
        if weight
    ]
    return torch.stack(losses).sum()


def select(state: TrainState, rendered: Rendered, encoded: Encoded) -> None:
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
    start = start_codes(state)
    codes = start.clone()
    for index in range(plan.steps):
        codes.requires_grad_(True)
        moving = moving_loss(state, codes, index, rendered, encoded)
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
