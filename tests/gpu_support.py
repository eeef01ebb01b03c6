"""What the tests for a GPU share: whether the CPU stands in for it, draws, and how far results are apart."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from oneshot_core.tensors import seeded

DRY_RUN = os.environ.get("ONESHOT_GPU_DRY_RUN") == "1"


def normal(*shape: int, purpose: str = "gpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Seeded standard normal values on the CPU."""
    return torch.randn(*shape, generator=seeded(0, 0, purpose)).to(dtype)


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative distance ||found - wanted|| / ||wanted||, in float64."""
    wanted = wanted.detach().double().cpu()
    return float((found.detach().double().cpu() - wanted).norm() / wanted.norm())
