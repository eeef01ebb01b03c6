"""What pairs of texts should read off a face: one number per factor of `sentences.READINGS`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .faces import FACTORS
from .layers import ease
from .portrait import HUE_SPAN
from .sentences import READINGS

_PLACES = {factor.name: place for place, factor in enumerate(FACTORS)}
_LESS_DEGREES, _MORE_DEGREES = 31.0, 226.0  # orange and blue, the hues that the texts name
_SWITCH_WIDTH = 0.06  # as in faces.py


def reading_targets(factors: Tensor) -> Tensor:
    """Turn factors into what the readings' texts are about.

    Hues become how near they are to blue less how near to orange, things that are there or not become 0 or 1.

    Args:
        factors: [N, NUM_FACTORS] in [0, 1].

    Returns:
        [N, readings], columns in the order of `READINGS`.
    """
    columns = []
    for name in READINGS:
        place = _PLACES[name]
        value, onset = factors[:, place], FACTORS[place].onset
        if name in ("background", "clothes"):
            turn = value * (HUE_SPAN * 2 * math.pi)
            value = torch.cos(turn - math.radians(_MORE_DEGREES)) - torch.cos(
                turn - math.radians(_LESS_DEGREES)
            )
        elif onset is not None:
            value = ease(value, onset, onset + _SWITCH_WIDTH)
        columns.append(value)
    return torch.stack(columns, dim=1)
