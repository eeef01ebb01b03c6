"""Ranger: Adam with rectified variance, looking ahead, on centred gradients.

Source: RAdam (arXiv 1908.03265), Lookahead (arXiv 1907.08610), gradient centralisation (arXiv 2004.01461);
put together as orpatashnik/StyleCLIP mapper/training/ranger.py does, but for weight decay, which is 0 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ranges import MOST_RATE, check_number


@dataclass(frozen=True)
class RangerPlan:
    """Settings of Ranger; the defaults are StyleCLIP's."""

    learning_rate: float = 0.5
    betas: tuple[float, float] = (0.95, 0.999)
    epsilon: float = 1e-5
    threshold: float = 5.0  # length of the average of squares above which they are used
    every_steps: int = 6  # after so many steps the slow weights follow
    follow: float = 0.5  # by this share of the way to the fast ones

    def __post_init__(self) -> None:
        check_number(self.learning_rate, "learning_rate", above=0, high=MOST_RATE)
        check_number(self.follow, "follow", above=0, high=1)
        check_number(self.threshold, "threshold", low=4)  # below, the root has no value
        check_number(self.epsilon, "epsilon", low=0)
        if self.every_steps < 1 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"every_steps must be at least 1 and betas from 0 up to 1, got {self.every_steps} and "
                f"{self.betas}"
            )


class Ranger(torch.optim.Optimizer):
    """The optimiser; its state per parameter: step, mean, mean of squares, slow weights."""

    def __init__(self, parameters: Iterable[Tensor], plan: RangerPlan | None = None) -> None:
        self.plan = plan or RangerPlan()
        super().__init__(parameters, {"lr": self.plan.learning_rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do a step with the gradients that are there; `closure` is not called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"])

    def _update(self, parameter: Tensor, rate: float) -> None:
        state, plan = self.state[parameter], self.plan
        if not state:
            state |= _fresh(parameter)
        state["step"] += 1
        count = int(state["step"])
        gradient, (slowness, memory) = parameter.grad, plan.betas
        assert gradient is not None
        if gradient.ndim > 1:
            gradient = gradient - gradient.mean(dim=tuple(range(1, gradient.ndim)), keepdim=True)
        squares, mean = state["exp_avg_sq"], state["exp_avg"]
        squares.mul_(memory).addcmul_(gradient, gradient, value=1 - memory)
        mean.mul_(slowness).add_(gradient, alpha=1 - slowness)
        size = _rectified(count, plan)
        if size is None:
            parameter.add_(mean, alpha=-rate / (1 - slowness**count))
        else:
            step = -rate * size / (1 - slowness**count)
            parameter.addcdiv_(mean, squares.sqrt().add_(plan.epsilon), value=step)
        if count % plan.every_steps == 0:
            slow = state["slow"]
            slow.add_(parameter - slow, alpha=plan.follow)
            parameter.copy_(slow)


def _fresh(parameter: Tensor) -> dict[str, Any]:
    """The state before the first step."""
    zeros = torch.zeros_like(parameter)
    return {
        "step": torch.zeros(()),  # a tensor, as Adam's: what is saved are tensors
        "exp_avg": zeros,
        "exp_avg_sq": zeros.clone(),
        "slow": parameter.detach().clone(),
    }


def _rectified(count: int, plan: RangerPlan) -> float | None:
    """Factor of the step whose root of squares divides; None: their average is too short to be used."""
    memory = plan.betas[1]
    most = 2 / (1 - memory) - 1
    power = memory**count
    length = most - 2 * count * power / (1 - power)
    if length <= plan.threshold:
        return None
    ratio = (length - 4) / (most - 4) * (length - 2) / length * most / (most - 2)
    return math.sqrt((1 - power) * ratio)
