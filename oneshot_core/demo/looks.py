"""Looks: the same portrait as pencil sketch, watercolour, stained glass and so on.

A look reads a portrait's layers and returns [N, 3, H, W] in [0, 1]. Patterns such as hatching, dots and tiles are
fixed to the picture's frame, so a generator can learn them. Lengths are units: pixels of a 128 px picture.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import UNITS, Portrait, coverage, ease, hsv, mix, rgb


class Paper:
    def __init__(self, portrait, generator):
        pass


def plain(portrait: Portrait, paper: Paper) -> Tensor:
    """Return the shaded picture as it is."""
    return portrait.shaded


LOOKS = {"plain": plain}
TRAINING_LOOKS = ()
HELD_OUT_LOOKS = ()
