"""The one optimiser of latents, under search, inversion and text edit: Adam, with a schedule of its rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from .tensors import Images, Latents

Schedule: TypeAlias = Callable[[int], float]  # Adam's rate at step 0, 1, ...
Check: TypeAlias = Callable[[str, Tensor], None]  # raises where values [N, ...] are not finite
ADAM = "adam."  # how names of its moments begin
RAMP_UP, RAMP_DOWN = 0.05, 0.25  # fractions of the steps in which the rate rises and falls


def learning_rate_at(
    step: int, steps: int, highest: float, ramp_up: float = RAMP_UP, ramp_down: float = RAMP_DOWN
) -> float:
    """Adam's rate at step 0, 1, ...: a short linear rise from 0, then a cosine fall in the last part.

    Args:
        step: its number.
        steps: in all.
        highest: the rate between rise and fall.
        ramp_up: fraction of the steps in which it rises.
        ramp_down: fraction in which it falls.

    Source: NVIDIA's projector (stylegan2-ada-pytorch projector.py), and after it rosinality's and
        orpatashnik/StyleCLIP optimization/run_optimization.py get_lr.
    """
    # At step 0 the rate is 0, as in the original: that step changes nothing.
    t = step / steps
    falling = min(1.0, (1 - t) / ramp_down)
    return highest * (0.5 - 0.5 * math.cos(math.pi * falling)) * min(1.0, t / ramp_up)


@dataclass(frozen=True)
class StepProgress:
    """How far a search, an edit or a training is, told after every step.

    Args:
        step: steps done.
        steps: steps in all.
        losses: unweighted value of each term at the start of this step.
        eta_seconds: estimate of the time left.
        preview: gives pictures [N, 3, S, S] of the work; a training draws them only when it is called.
        codes: what is optimised, after the step, a copy: of a search or an inversion its codes; of an edit
            [n, L, W], or in style space [n, C], all styles that it may change side by side. None: no latents
            are optimised, or they are many.
        first: of an edit or an inversion, the position in the batch of the first of the pictures.
        notes: sentences for the user about how the work goes, see `threads.ThreadWatch`.
        gradient: of an edit, of the loss summed over the codes with respect to them, at this step.
    """

    step: int
    steps: int
    losses: Mapping[str, float]
    eta_seconds: float
    preview: Callable[[], Images]
    codes: Latents | None = None
    first: int = 0
    notes: tuple[str, ...] = ()
    gradient: Latents | None = None


@dataclass
class LatentOptimiser:
    """Codes in any space, and Adam on them and on what is optimised with them.

    Args:
        start: [N, W] or [N, L, W], where the codes start; on the device of the work.
        schedule: of Adam's rate.
        beside: where further variables start, such as noise maps.
    """

    start: Latents
    schedule: Schedule
    beside: Sequence[Tensor] = ()
    codes: Latents = field(init=False)

    def __post_init__(self) -> None:
        self.codes, *self.others = (one.clone().requires_grad_(True) for one in (self.start, *self.beside))
        self._adam = torch.optim.Adam([self.codes, *self.others], lr=self.schedule(0))
        self.amid_step = False

    def update(self, step: int, total: Tensor, check: Check) -> None:
        """Do step 0, 1, ...

        Args:
            step: its number.
            total: the loss, summed over the codes: then each is optimised as if it were alone.
            check: called with the gradients before the step and with the codes after it.
        """
        # Not backward(): no weight of generator or encoders collects a gradient on the way.
        variables = [self.codes, *self.others]
        for variable, gradient in zip(variables, torch.autograd.grad(total, variables), strict=True):
            check("gradient", gradient)
            variable.grad = gradient
        # By the step's number, so a resumed search goes on with the right rate.
        self._adam.param_groups[0]["lr"] = self.schedule(step)
        self.amid_step = True  # until the caller has counted the step: a signal may come in between
        self._adam.step()
        check("code", self.codes.detach())

    def state(self) -> dict[str, Tensor]:
        """What it needs to go on, by name; Adam's part of it from the first step on."""
        found = {"latent": self.codes.detach()}
        found |= {f"beside.{number}": one.detach() for number, one in enumerate(self.others)}
        for variable, prefix in self._variables():
            found |= {f"{prefix}{key}": value for key, value in self._adam.state.get(variable, {}).items()}
        return found

    def like_state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Tensors of the shapes and types of `state`: what is always there, and Adam's part after a step."""
        fixed = {name: value for name, value in self.state().items() if not name.startswith(ADAM)}
        moments = dict[str, Tensor]()
        for variable, prefix in self._variables():
            value = variable.detach()
            like = {"step": torch.zeros(()), "exp_avg": value, "exp_avg_sq": value}
            moments |= {f"{prefix}{key}": one for key, one in like.items()}
        return fixed, moments

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; without Adam's part as before the first step."""
        states: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            self.codes.copy_(tensors["latent"])
            for number, one in enumerate(self.others):
                one.copy_(tensors[f"beside.{number}"])
        for number, (_, prefix) in enumerate(self._variables()):
            if f"{prefix}step" in tensors:
                keys = ("step", "exp_avg", "exp_avg_sq")
                states[number] = {key: tensors[f"{prefix}{key}"] for key in keys}
        if states:
            groups = self._adam.state_dict()["param_groups"]
            # With the groups of now: rates and betas are settings, only moments are restored.
            self._adam.load_state_dict({"state": states, "param_groups": groups})

    def _variables(self) -> list[tuple[Tensor, str]]:
        """What is optimised, in Adam's order, each with the beginning of its moments' names."""
        beside = [(one, f"{ADAM}{number}.") for number, one in enumerate(self.others)]
        return [(self.codes, ADAM), *beside]
