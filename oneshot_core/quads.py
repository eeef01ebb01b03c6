"""A square part of a photo at any angle, such as that of a face, as data; imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .json_values import Fields, JsonError
from .ranges import check_number

Point: TypeAlias = tuple[float, float]

LEAST_SIDE_PX = 4.0  # smaller ones show no face, and FFHQ's steps round their margins to nothing
FARTHEST = 4.0  # longer sides of the photo that a corner may lie outside of it
LEAST_AREA = 0.05  # of the square of the mean side, that two neighbouring sides span
MOST_PX = 1 << 20  # of a photo's side, in files


@dataclass(frozen=True)
class Quad:
    """Four corners in a photo; what alignment cuts out, and where a picture is pasted back.

    Args:
        corners: top left, bottom left, bottom right, top right of the picture that is cut out, each as x and
            y in pixels of the photo; (0, 0) is the middle of the photo's first pixel, as in landmarks. They
            may lie outside the photo.
        width: of the photo, in pixels.
        height: the same.

    Raises:
        ValueError: corners that are not finite, in another order, folded, thin, tiny or far from the photo.
    """

    corners: tuple[Point, Point, Point, Point]
    width: int
    height: int

    def __post_init__(self) -> None:
        for name, size in (("width", self.width), ("height", self.height)):
            if type(size) is not int or not 0 < size <= MOST_PX:
                raise ValueError(
                    f"{name} of the photo must be a whole number from 1 to {MOST_PX}, got {size}"
                )
        if len(self.corners) != 4 or any(len(corner) != 2 for corner in self.corners):
            raise ValueError(f"a quad has four corners of two numbers each, got {self.corners}")
        reach = FARTHEST * max(self.width, self.height)
        for x, y in self.corners:
            check_number(x, "x of a quad's corner", -reach, self.width + reach)
            check_number(y, "y of a quad's corner", -reach, self.height + reach)
        if self.side < LEAST_SIDE_PX:
            raise ValueError(
                f"a quad must have a side of at least {LEAST_SIDE_PX:g} px of the photo, got {self.side:.3g}"
            )
        if min(self._turns()) < LEAST_AREA * self.side**2:
            raise ValueError(
                "the corners of a quad are its picture's top left, bottom left, bottom right and top right, "
                f"and span an area that is not folded, mirrored or thin; got {self.corners}"
            )
        left, top, right, bottom = self.bounds
        if right < 0 or bottom < 0 or left > self.width - 1 or top > self.height - 1:
            raise ValueError(f"the quad {self} lies outside its photo of {self.width} x {self.height} px")

    def __str__(self) -> str:
        x, y = self.centre
        return f"of {self.side:.0f} px around ({x:.0f}, {y:.0f})"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Quad:
        """Read the JSON values of `values`.

        Raises:
            JsonError: something is missing, unknown, of the wrong type, or not what the class takes.
        """
        given = Fields(values, "the quad")
        corners = given.items("corners", 4)
        width, height = (given.whole(name, 1, MOST_PX) for name in ("width", "height"))
        given.close()
        if len(corners) != 4 or not all(map(_is_point, corners)):
            raise JsonError("the quad: corners must be four lists of two numbers, x and y")
        try:
            return cls.at(corners, width, height)
        except ValueError as error:
            raise JsonError(f"the quad: {error}") from None

    @classmethod
    def at(cls, corners: Sequence[Sequence[float]], width: int, height: int) -> Quad:
        """Make a quad of any sequences of numbers, such as arrays."""
        points = tuple((float(x), float(y)) for x, y in corners)
        return cls(points, int(width), int(height))  # type: ignore[arg-type]

    @classmethod
    def square(cls, left: int, top: int, side: int, width: int, height: int) -> Quad:
        """Make the quad of an upright square of whole pixels.

        Args:
            left: its first column.
            top: its first row.
            side: in pixels.
            width: of the photo.
            height: the same.
        """
        x, y = left - 0.5, top - 0.5  # a pixel reaches half a pixel to each side of its middle
        return cls.at(((x, y), (x, y + side), (x + side, y + side), (x + side, y)), width, height)

    def scaled(self, factor: float) -> Quad:
        """Return the quad with its sides times `factor`, around the same centre.

        Raises:
            ValueError: it would be too small, or reach too far beyond the photo.
        """
        x, y = self.centre
        corners = [(x + factor * (a - x), y + factor * (b - y)) for a, b in self.corners]
        return Quad.at(corners, self.width, self.height)

    def values(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "corners": [list(corner) for corner in self.corners],
            "width": self.width,
            "height": self.height,
        }

    @property
    def side(self) -> float:
        """Mean length of the four sides, in pixels of the photo."""
        return sum(math.hypot(*edge) for edge in self._edges()) / 4

    @property
    def centre(self) -> Point:
        """Mean of the corners."""
        x, y = (sum(values) / 4 for values in zip(*self.corners, strict=True))
        return x, y

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the upright box around it, as the corners are measured."""
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def pixels(self) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom where it is an upright square of whole pixels within the photo."""
        ends = [value + 0.5 for value in self.bounds]
        left, top, right, bottom = map(round, ends)
        if ends != [left, top, right, bottom] or not (0 <= left and right <= self.width and 0 <= top):
            return None
        upright = right - left == bottom - top and bottom <= self.height
        square = upright and self == Quad.square(left, top, right - left, self.width, self.height)
        return (left, top, right, bottom) if square else None

    def check(self, width: int, height: int) -> None:
        """Refuse a photo of another size than the one it was found in.

        Raises:
            ValueError: naming both sizes.
        """
        if (width, height) != (self.width, self.height):
            raise ValueError(
                f"the quad was found in a photo of {self.width} x {self.height} px, this one has {width} x "
                f"{height}; give that photo, or align this one"
            )

    def _edges(self) -> list[Point]:
        following = (*self.corners[1:], self.corners[0])
        return [(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in zip(self.corners, following, strict=True)]

    def _turns(self) -> list[float]:
        """Area that each side spans with the next; all positive where the corners go round to the left."""
        edges = self._edges()
        return [y0 * x1 - x0 * y1 for (x0, y0), (x1, y1) in zip(edges, (*edges[1:], edges[0]), strict=True)]


def _is_point(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2
    return numbers and all(type(one) in (int, float) and abs(one) < MOST_PX * 16 for one in value)
