"""Drawn faces: the factors, how a latent gives them, the picture in any look, and captions that are true."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..tensors import Images, Latents, check_shape, seeded
from .layers import Portrait, ease
from .looks import HELD_OUT_LOOKS, LOOKS, TRAINING_LOOKS, Paper
from .portrait import paint

__all__ = [
    "FACTORS",
    "HELD_OUT_LOOKS",
    "NUM_FACTORS",
    "TRAINING_LOOKS",
    "Factor",
    "draw",
    "factors_from_latents",
]

_SWITCH_WIDTH = 0.06  # a switch-like factor goes from absent to present within this much of its range
_MIN_SIZE_PX = 16


@dataclass(frozen=True)
class Factor:
    """One thing that differs between faces.

    Attributes:
        name: unique identifier.
        description: what 0 and 1 mean.
        low, high: words for captions, empty where the factor is not worth a word.
        onset: for switch-like factors, below it the thing is absent and 0.06 above it fully there; the rest of
            the range changes its kind. None for continuous factors.
    """

    name: str
    description: str
    low: str = ""
    high: str = ""
    onset: float | None = None


# fmt: off
FACTORS: tuple[Factor, ...] = (
    Factor("skin", "skin from fair to dark", "fair skin", "dark skin"),
    Factor("hair_tone", "hair from black to light", "dark", "light"),
    Factor("hair_warmth", "hair from ash to red", "grey", "red"),
    Factor("hair_length", "hair from bald to below the shoulders", "short hair", "long hair"),
    Factor("hair_volume", "hair from flat to big", "flat hair", "big hair"),
    Factor("hair_curl", "hair from straight to curly", "straight", "curly"),
    Factor("fringe", "from a bare forehead to a full fringe", "", "a fringe"),
    Factor("face_width", "face from narrow to wide", "a narrow face", "a wide face"),
    Factor("jaw", "jaw from pointed and slight to square and strong", "a pointed chin", "a square jaw"),
    Factor("eye_size", "eyes from small to big", "small eyes", "big eyes"),
    Factor("eye_colour", "eyes from brown over green to blue", "brown eyes", "blue eyes"),
    Factor("eye_spacing", "eyes from close to wide apart"),
    Factor("brow_thickness", "eyebrows from thin to thick", "thin eyebrows", "thick eyebrows"),
    Factor("brow_tilt", "eyebrows from worried to stern"),
    Factor("nose_length", "nose from short to long", "a short nose", "a long nose"),
    Factor("mouth_width", "mouth from small to wide", "a small mouth", "a wide mouth"),
    Factor("smile", "from frowning over neutral to smiling with teeth", "frowning", "smiling"),
    Factor("yaw", "head turned to the left or right edge", "looking to the left", "looking to the right"),
    Factor("tilt", "head tilted to the left or right edge"),
    Factor("light", "light from the left or right edge", "lit from the left", "lit from the right"),
    Factor("background", "hue of the background, once round from red to red-violet"),
    Factor("clothes", "hue of the clothes, once round from red to red-violet"),
    Factor("glasses", "glasses, from round to square", "", "glasses", onset=0.66),
    Factor("beard", "beard, from short to full", "", "a beard", onset=0.74),
    Factor("hat", "hat, from a cap to a brimmed hat", "", "a hat", onset=0.80),
)
# fmt: on
NUM_FACTORS = len(FACTORS)
_INDEX = {factor.name: index for index, factor in enumerate(FACTORS)}


def factors_from_latents(z: Latents) -> Tensor:
    """Read a face's factors off its latent, by a fixed function.

    Each latent is divided by its root mean square first, as the mapping network of StyleGAN2 does, so its
    scale does not matter; factor i is then the standard normal distribution function of coordinate i, hence
    uniform on [0, 1] for normally distributed latents.

    Args:
        z: [N, Z], Z at least `NUM_FACTORS`.

    Returns:
        [N, NUM_FACTORS] in [0, 1], with the dtype of z.

    Raises:
        ValueError: for another shape or too few coordinates.
    """
    check_shape(z, "z", (None, None))
    if z.shape[1] < NUM_FACTORS:
        raise ValueError(
            f"z has {z.shape[1]} coordinates, the faces need at least {NUM_FACTORS}; use a wider z"
        )
    normal = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
    return 0.5 * (1 + torch.erf(normal[:, :NUM_FACTORS] / math.sqrt(2)))


def draw(factors: Tensor, look: str = "plain", seed: int = 0, size_px: int = 128) -> Images:
    """Draw faces.

    Args:
        factors: [N, NUM_FACTORS] in [0, 1].
        look: "plain", or one of `TRAINING_LOOKS` or `HELD_OUT_LOOKS`.
        seed: of the paper's grain, tiles and the like, which all pictures of a look share; the plain look
            has none.
        size_px: width and height in pixels, at least 16; made for 64 to 256.

    Returns:
        [N, 3, size_px, size_px], float32 in [-1, 1], on the device of `factors`.

    Raises:
        ValueError: for an unknown look, a wrong shape, or factors outside [0, 1].
    """
    if look not in LOOKS:
        raise ValueError(f"look {look!r} is not known; choose one of {', '.join(LOOKS)}")
    if size_px < _MIN_SIZE_PX:
        raise ValueError(f"size_px must be at least {_MIN_SIZE_PX}, got {size_px}; 128 is usual")
    portrait = paint(_values(factors), size_px)
    paper = Paper(portrait, seeded(seed, 0, f"demo.{look}"))
    return LOOKS[look](portrait, paper).clamp(0.0, 1.0) * 2 - 1


def _values(factors: Tensor) -> dict[str, Tensor]:
    """Name the factors, each [N, 1, 1, 1], and split switches into how much is shown and of what kind."""
    check_shape(factors, "factors", (None, NUM_FACTORS))
    if factors.numel() and not bool(((factors >= 0) & (factors <= 1)).all()):
        low, high = factors.min().item(), factors.max().item()
        raise ValueError(f"factors must lie in [0, 1], got {low:.3g} to {high:.3g}; clamp them")
    values: dict[str, Tensor] = {}
    for factor, column in zip(FACTORS, factors.float().unbind(1), strict=True):
        value = column.view(-1, 1, 1, 1)
        values[factor.name] = value
        if factor.onset is not None:
            values[f"{factor.name}_shown"] = ease(value, factor.onset, factor.onset + _SWITCH_WIDTH)
            values[f"{factor.name}_kind"] = ((value - factor.onset) / (1 - factor.onset)).clamp_min(0.0)
    return values
