"""The one optimiser of latents, under search and text edit: Adam on codes, with a schedule of its rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .tensors import Images, Latents

Schedule: TypeAlias = Callable[[int], float]  # Adam's rate at step 0, 1, ...
Check: TypeAlias = Callable[[str, Tensor], None]  # raises where values [N, ...] are not finite


@dataclass(frozen=True)
class StepProgress:
    """How far a search, an edit or a training is, told after every step.

    Args:
        step: steps done.
        steps: steps in all.
        losses: unweighted value of each term at the start of this step.
        eta_seconds: estimate of the time left.
        preview: gives pictures [N, 3, S, S] of the work; a training draws them only when it is called.
        codes: of a search, [1, W] after the step, a copy; None: no latents are optimised, or they are many.
        first: of an edit, the position in the batch of the first of the pictures.
        notes: sentences for the user about how the work goes, see `threads.ThreadWatch`.
    """

    step: int
    steps: int
    losses: Mapping[str, float]
    eta_seconds: float
    preview: Callable[[], Images]
    codes: Latents | None = None
    first: int = 0
    notes: tuple[str, ...] = ()


@dataclass
class LatentOptimiser:
    """Codes in any space, and Adam on them.

    Args:
        start: [N, W] or [N, L, W], where the codes start; on the device of the work.
        schedule: of Adam's rate.
    """

    start: Latents
    schedule: Schedule
    codes: Latents = field(init=False)

    def __post_init__(self) -> None:
        self.codes = self.start.clone().requires_grad_(True)
        self._adam = torch.optim.Adam([self.codes], lr=self.schedule(0))
        self.amid_step = False

    def update(self, step: int, total: Tensor, check: Check) -> None:
        """Do step 0, 1, ...

        Args:
            step: its number.
            total: the loss, summed over the codes: then each is optimised as if it were alone.
            check: called with the gradient before the step and with the codes after it.
        """
        # Not backward(): no weight of generator or encoders collects a gradient on the way.
        (gradient,) = torch.autograd.grad(total, [self.codes])
        check("gradient", gradient)
        self.codes.grad = gradient
        # By the step's number, so a resumed search goes on with the right rate.
        self._adam.param_groups[0]["lr"] = self.schedule(step)
        self.amid_step = True  # until the caller has counted the step: a signal may come in between
        self._adam.step()
        check("code", self.codes.detach())

    def moments(self) -> dict[str, Tensor]:
        """What Adam keeps, by name; empty before the first step."""
        return {f"adam.{key}": value for key, value in self._adam.state.get(self.codes, {}).items()}

    def like_moments(self) -> dict[str, Tensor]:
        """Tensors of the shape and type of `moments`, as they are after a step."""
        codes = self.codes.detach()
        return {"adam.step": torch.zeros(()), "adam.exp_avg": codes, "adam.exp_avg_sq": codes}

    def restore(self, codes: Latents, moments: Mapping[str, Tensor]) -> None:
        """Go on from saved codes; no moments: as before the first step."""
        with torch.no_grad():
            self.codes.copy_(codes)
        if moments:
            state: dict[str, Any] = {name.removeprefix("adam."): value for name, value in moments.items()}
            groups = self._adam.state_dict()["param_groups"]
            # With the groups of now: rates and betas are settings, only moments are restored.
            self._adam.load_state_dict({"state": {0: state}, "param_groups": groups})
