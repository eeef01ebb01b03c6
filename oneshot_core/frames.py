"""Which square of a picture is used, as data; imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from .choices import FITS
from .quads import Quad
from .ranges import check_number

MOST_ZOOM = 16.0
CROP, LETTERBOX = "crop", "letterbox"


@dataclass(frozen=True)
class Frame:
    """How a picture becomes square.

    Args:
        fit: "crop": a square of it; "stretch": all of it, whatever the aspect, as the published code does;
            "letterbox": all of it with black bars.
        zoom: how much smaller than the largest the square is, 1 to 16; of "crop" only.
        offset_x: where the square lies between left (-1) and right (1); 0: the middle; of "crop" only.
        offset_y: the same between top (-1) and bottom (1).
        quad: the square of a face, at any angle, which then is all that is said; None: the above.

    Raises:
        ValueError: an unknown fit, a number out of range, or one that the fit does not take; a quad beside
            them.
    """

    fit: str = CROP
    zoom: float = 1.0
    offset_x: float = 0.0
    offset_y: float = 0.0
    quad: Quad | None = None

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")
        check_number(self.zoom, "zoom", 1, MOST_ZOOM)
        check_number(self.offset_x, "offset_x", -1, 1)
        check_number(self.offset_y, "offset_y", -1, 1)
        if self.fit != CROP and (self.zoom, self.offset_x, self.offset_y) != (1, 0, 0):
            raise ValueError(
                f"zoom, offset_x and offset_y belong to fit {CROP}: {self.fit} uses the whole picture. Leave "
                f"them at 1, 0 and 0, or choose fit {CROP}"
            )
        if self.quad is not None and replace(self, quad=None) != LARGEST:
            raise ValueError(
                f"a quad says alone which part of the picture is used: leave fit at {CROP}, zoom at 1, "
                "offset_x and offset_y at 0, or leave the quad out"
            )

    def __str__(self) -> str:
        if self.quad is not None:
            return f"aligned by a quad {self.quad}"
        zoomed = f" at zoom {self.zoom:g}, offsets {self.offset_x:g} and {self.offset_y:g}"
        return self.fit if replace(self, fit=CROP) == LARGEST else self.fit + zoomed

    def square(self, width: int, height: int) -> tuple[int, int, int]:
        """Return left, top and side of the square in whole pixels of the picture.

        Where the whole picture is used it is the square around it, which reaches beyond the picture: left or
        top may be negative. ("stretch" squeezes the picture, not that square, to the generator's size.) Of a
        quad it is the upright square of the same side around its centre.

        Args:
            width: of the picture, in pixels.
            height: the same.

        Raises:
            ValueError: a quad of a picture of another size; so in `used` and `describe`.
        """
        if self.quad is not None:
            self.quad.check(width, height)
            side = round(self.quad.side)
            x, y = self.quad.centre
            return round(x + 0.5 - side / 2), round(y + 0.5 - side / 2), side
        if self.fit != CROP:
            side = max(width, height)
            return -((side - width) // 2), -((side - height) // 2), side
        side = max(1, round(min(width, height) / self.zoom))
        # Whole pixels: a picture that has the generator's size already goes through unchanged.
        return _place(width - side, self.offset_x), _place(height - side, self.offset_y), side

    def used(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the box of the picture that is used: left, top, right, bottom, in pixels."""
        if self.quad is not None:
            self.quad.check(width, height)
            left, top, right, bottom = (value + 0.5 for value in self.quad.bounds)
            ends = min(width, math.ceil(right)), min(height, math.ceil(bottom))
            return max(0, math.floor(left)), max(0, math.floor(top)), *ends
        if self.fit != CROP:
            return 0, 0, width, height
        left, top, side = self.square(width, height)
        return left, top, left + side, top + side

    def describe(self, width: int, height: int) -> dict[str, Any]:
        """Return the frame on a picture of that size as JSON values: its numbers, and where it lies."""
        left, top, side = self.square(width, height)
        cut = {} if self.quad is None else {"corners": self.quad.values()["corners"]}
        return {
            "width": width,
            "height": height,
            "left": left,
            "top": top,
            "side": side,
            "fit": self.fit,
            "zoom": self.zoom,
            "offset_x": self.offset_x,
            "offset_y": self.offset_y,
            **cut,
        }


LARGEST = Frame()  # the largest square, in the middle


def _place(room: int, offset: float) -> int:
    """Start of the square within the room that it can move in."""
    return int(room * (1 + offset) / 2)
