"""Tensor aliases, shape checks, gradient scope, seeded draws and atomic files: what all else stands on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

from .writing import atomic_path as atomic_path
from .writing import remove_stale_temporaries as remove_stale_temporaries
from .writing import rename_patiently as rename_patiently

Images: TypeAlias = Tensor  # [N, 3, H, W], float, nominally in [-1, 1], not clamped
Latents: TypeAlias = Tensor  # [N, Z], [N, W] or [N, L, W]
Styles: TypeAlias = tuple[Tensor, ...]  # one [N, C] per modulated convolution, in forward order
Noise: TypeAlias = Sequence[Tensor]  # one [1 or N, 1, r, r] per styled convolution, in forward order


def check_shape(tensor: Tensor, name: str, shape: Sequence[int | None]) -> None:
    """Refuse a tensor whose shape is not the one that is meant.

    Args:
        tensor: what was given.
        name: how the caller calls it, for the message.
        shape: allowed size per axis; None allows any size.

    Raises:
        ValueError: naming the given and the allowed shape.
    """
    fits = tensor.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        allowed = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape [{allowed}], got {list(tensor.shape)}")


@contextmanager
def gradients() -> Iterator[None]:
    """Leave inference mode and enable gradients, whatever mode the caller runs in.

    ComfyUI runs nodes inside `torch.inference_mode()`, which `enable_grad` alone does not undo.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


def owned(tensor: Tensor) -> Tensor:
    """Copy a tensor so that it is an ordinary one: no inference flag, no graph, nobody else's memory."""
    with torch.inference_mode(False), torch.no_grad():
        return tensor.detach().clone()


def seeded(seed: int, step: int, purpose: str) -> torch.Generator:
    """Return a CPU generator that depends on (seed, step, purpose) only.

    Args:
        seed: the run's seed, any integer.
        step: round of the optimiser the draw belongs to, 0 where there is none.
        purpose: what is drawn, such as "adapted.z"; different purposes never share draws.

    Returns:
        A fresh `torch.Generator` on the CPU, so that a seed means the same on every device.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))
    return generator
