"""The two encoders that a method compares pictures with: CLIP and a perceptual net."""

from __future__ import annotations

from dataclasses import dataclass

from .clip import ClipEncoder, ClipPreprocess, WordTokenizer, build_clip, load_clip
from .perceptual import Perceptual, SmallConfig, load_perceptual, read_perceptual, save_perceptual, small_net
from .weights import EncoderError

__all__ = [
    "ClipEncoder",
    "ClipPreprocess",
    "EncoderError",
    "Encoders",
    "Perceptual",
    "SmallConfig",
    "WordTokenizer",
    "build_clip",
    "load_clip",
    "load_perceptual",
    "read_perceptual",
    "save_perceptual",
    "small_net",
]


@dataclass(frozen=True)
class Encoders:
    """What a search, an adaptation or an evaluation sees pictures with; both frozen, on one device."""

    clip: ClipEncoder
    perceptual: Perceptual
