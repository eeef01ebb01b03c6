"""Tensor aliases, shape checks, gradient scope and seeded draws: what all else stands on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

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


def is_finite(tensor: Tensor) -> bool:
    """Tell whether every number is finite; whole numbers are, and so are tensors without values."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return True
    if tensor.device.type not in ("cpu", "cuda"):
        return bool(tensor.detach().isfinite().all())
    low, high = (
        tensor.detach().aminmax()
    )  # NaN wins both; one pass without copies, where isfinite() makes three
    return math.isfinite(low) and math.isfinite(high)


def check_finite(tensor: Tensor, name: str, advice: str = "") -> None:
    """Refuse a tensor with NaN or infinity in it.

    Args:
        tensor: what was given.
        name: how the user calls it, for the message.
        advice: what to do about it.

    Raises:
        ValueError: naming it and how many of its values are not finite.
    """
    if is_finite(tensor):
        return
    spoilt = int((~tensor.detach().isfinite()).sum())
    raise ValueError(
        f"{name} is not made of finite numbers: {spoilt} of {tensor.numel()} values are NaN or infinite"
        + (f"; {advice}" if advice else "")
    )


def check_weights(network: object, name: str, advice: str = "") -> None:
    """Refuse a network with a weight that is not finite; what is no torch module is not looked at.

    Args:
        network: a module, or None.
        name: how the user calls it, for the message.
        advice: what to do about it.

    Raises:
        ValueError: naming the network and the first such tensor.
    """
    if not isinstance(network, torch.nn.Module):
        return
    for key, value in network.state_dict().items():  # a mask of -inf, which CLIP has, is no part of it
        check_finite(value, f"{name}: {key}", advice)


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
