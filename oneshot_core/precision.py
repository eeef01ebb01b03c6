"""Number formats of forward passes: which there are, which a device is fastest with, how one is opened."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .choices import AUTO

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}  # autocast to what; None: none


def resolved(precision: str, device: torch.device, *, as_published: bool = False) -> str:
    """Choose the precision that "auto" means on a device, and refuse one that the device cannot autocast to.

    Args:
        precision: "auto" or a key of `PRECISIONS`.
        device: where the work will be done.
        as_published: keep to the number format of the published programs where the choice is free.

    Returns:
        A key of `PRECISIONS`.

    Raises:
        ValueError: it is unknown, or torch has no such passes on the device.
    """
    if precision == AUTO:
        return "bfloat16" if not as_published and _multiplies_bfloat16(device) else "float32"
    check_precision(precision, device)
    return precision


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16; others emulate it, slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip is not None
    if device.type != "cpu":
        return False
    # torch has no public word for it: where these are gone, float32 is used.
    probes = [
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    return any(bool(probe()) for probe in probes if probe is not None)


def check_precision(precision: str, device: torch.device | None = None) -> None:
    """Refuse a precision that is unknown, or that a device cannot autocast to; raises ValueError."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    dtype = PRECISIONS[precision]
    if device is None or dtype is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch only warns and goes on in float32; here that is an error
            with torch.autocast(device.type, dtype):
                works = torch.is_autocast_enabled(device.type)
    except RuntimeError:
        works = False
    if not works:
        raise ValueError(
            f"torch {torch.__version__} has no {precision} forward passes on the device {device.type}; use "
            "the precision float32, or another device"
        )


def precision_setting(precision: str) -> dict[str, str]:
    """The precision as a setting that determines the result; float32 is none, so old runs go on."""
    return {} if precision == "float32" else {"precision": precision}


def forward_pass(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Open a precision for a forward pass of generator, discriminator or CLIP.

    Outside it, and so in float32, stay styles and demodulation, the RGB skip, R1, losses, the perceptual net,
    the weights, their average and the optimisers (performance.md section 3).
    """
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype) if dtype else nullcontext()
