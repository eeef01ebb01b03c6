"""What all pretraining of the demo's networks shares: fast arithmetic, schedules, averages, saved states."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor, nn

from ...checkpoints.native import read_tensors, write_tensors

_log = logging.getLogger(__name__)

STATE_FORMAT = "oneshot-demo-pretraining"
SAVE_SECONDS = 60.0  # between two saved states
_LOG_STEPS = 50


# Where the processor computes in it; emulated it takes ten times as long.
_HAS_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()


def mixed_precision() -> torch.autocast:
    """Lower products to bfloat16 on processors that have it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=_HAS_BFLOAT16)


def cosine(start: float, end: float, progress: float) -> float:
    """Go from `start` to `end` along half a cosine while `progress` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


@torch.no_grad()
def average_into(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move an exponential average of weights and buffers by one step."""
    current = module.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name].to(value.dtype), 1 - decay)
        else:
            value.copy_(current[name])


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal per weight matrix; needs half as many steps as Adam here.

    A convolution [O, I, k, k] counts as a matrix [O, I k k]. The step's root mean square is the learning
    rate, as Adam's about is.

    Source: Jordan et al., "Muon" (2024): Nesterov momentum, five Newton-Schulz iterations.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, {"lr": rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(average, group["momentum"])
                matrix = _orthogonal(ahead.reshape(weight.shape[0], -1))
                size = math.sqrt(max(matrix.shape))
                weight.add_(matrix.reshape(weight.shape), alpha=-group["lr"] * size)


def _orthogonal(matrix: Tensor) -> Tensor:
    """Bring all singular values of a matrix near 1."""
    flat = matrix.shape[0] > matrix.shape[1]
    x = matrix.t() if flat else matrix
    x = x / (x.norm() + 1e-7)
    if _HAS_BFLOAT16:
        x = x.bfloat16()
    for _ in range(5):
        gram = x @ x.t()
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return (x.t() if flat else x).float()


@dataclass
class Trainee:
    """Everything that changes during one stage, so that it can be saved and taken up again.

    Attributes:
        modules: networks by name, averages among them.
        optimisers: Adam optimisers by name.
        step: rounds done.
        seconds: time spent, over all sittings.
    """

    modules: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write the whole state to one safetensors file."""
        tensors = {
            f"module/{name}/{key}": value.contiguous()
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }
        for name, optimiser in self.optimisers.items():
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {
                    f"optimiser/{name}/{index}/{key}": value.contiguous() for key, value in state.items()
                }
        header = {"format": STATE_FORMAT, "format_version": 1, "step": self.step, "seconds": self.seconds}
        write_tensors(path, tensors, header)

    def load(self, path: Path) -> None:
        """Take up a saved state; the modules and optimisers must be built already."""
        tensors, header = read_tensors(path)
        self.step, self.seconds = header["step"], header["seconds"]
        for name, module in self.modules.items():
            prefix = f"module/{name}/"
            module.load_state_dict(_under(tensors, prefix))
        for name, optimiser in self.optimisers.items():
            states: dict[int, dict[str, Tensor]] = {}
            for key, value in _under(tensors, f"optimiser/{name}/").items():
                index, field = key.split("/")
                states.setdefault(int(index), {})[field] = value
            optimiser.load_state_dict({**optimiser.state_dict(), "state": states})


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def run_stage(trainee: Trainee, path: Path, steps: int, update: Callable[[int], dict[str, float]]) -> None:
    """Train to `steps` rounds, from a saved state where there is one, saving every minute and at the end.

    Args:
        trainee: what is trained.
        path: its state file in the work folder.
        steps: rounds in all.
        update: does round number `step` and returns its losses by name.
    """
    if path.exists():
        trainee.load(path)
    if trainee.step >= steps:
        return
    begun, before = monotonic(), trainee.seconds
    saved = begun
    while trainee.step < steps:
        losses = update(trainee.step)
        trainee.step += 1
        trainee.seconds = before + monotonic() - begun
        if trainee.step % _LOG_STEPS == 0:
            text = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
            _log.info("%s step %d/%d %s %.0f s", path.stem, trainee.step, steps, text, trainee.seconds)
        if monotonic() - saved > SAVE_SECONDS:
            trainee.save(path)
            saved = monotonic()
    trainee.save(path)
