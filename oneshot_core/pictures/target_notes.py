"""What is accepted of a target but should be said: that it is tiny, or looks cut off."""

from __future__ import annotations

import numpy as np
from PIL.Image import Image as Picture

from ..frames import LETTERBOX, Frame

MOST_ENLARGED = 4.0  # times a side that pass without a word
LEAST_FLAT = 1 / 16  # of a picture's height; a scan line or a thin border says nothing

# What decoders leave where a truncated JPEG ends: Pillow grey; FFmpeg, which newer ComfyUIs read pictures
# with, the green of zeros in YCbCr, whose last step is a matter of rounding. Black is left as well, by PNG
# and by greyscale files, but bars and night skies are black too.
_LEFT_OVER = ((128, 128, 128), (0, 134, 0), (0, 135, 0), (0, 136, 0))


def target_notes(picture: Picture, size_px: int, how: Frame) -> list[str]:
    """Say what of a target is doubtful, as sentences.

    Args:
        picture: RGB, as `open_picture` gives it.
        size_px: side of what it becomes.
        how: which square of it is used.
    """
    return [*_enlarged(picture, size_px, how), *_cut_off(picture)]


def _enlarged(picture: Picture, size_px: int, how: Frame) -> list[str]:
    left, top, right, bottom = how.used(*picture.size)
    width, height = right - left, bottom - top
    if how.quad is not None:
        width = height = round(how.quad.side)
    # Stretched, the shorter side is enlarged most; a letterbox enlarges both as the longer one.
    times = size_px / (max(width, height) if how.fit == LETTERBOX else min(width, height))
    if times <= MOST_ENLARGED:
        return []
    return [
        f"of the target {width} x {height} px are used and enlarged {times:.1f} times for the generator's "
        f"{size_px} px: grain and strokes will be blurred; give a larger picture"
    ]


def _cut_off(picture: Picture) -> list[str]:
    values = np.asarray(picture.convert("RGB"))  # [H, W, 3]
    colour = tuple(int(value) for value in values[-1, 0])
    if colour not in _LEFT_OVER:
        return []
    other = np.flatnonzero((values != values[-1, 0]).any(axis=(1, 2)))  # rows that are not of that colour
    share = 1 - (int(other[-1]) + 1 if len(other) else 0) / len(values)
    if share < LEAST_FLAT:
        return []
    return [
        f"the lower {100 * share:.0f} % of the target are one flat {'grey' if colour[0] else 'green'}, as "
        "where the end of a JPEG file is missing; is the file cut off?"
    ]
