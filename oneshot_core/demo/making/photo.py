"""The demo's photo: three drawn people in a room, turned and sized as in real photos.

    python -m oneshot_core.demo.making.photo photo.png

People stand in front of one wall, so that a face's square has more around it than a portrait's own backdrop.
Their eyes and mouths are known (`points_of`), so that no detector is needed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...pictures import save_png, to_pillow
from ...tensors import Images
from .faces import FACTORS, draw, draw_looks

WIDTH, HEIGHT = 640, 400
PAINTED_PX = 512  # side of a portrait before it is placed
# Of the wall, the sky, the frames and the picture.
COLOURS = ((0.80, 0.74, 0.64), (0.62, 0.78, 0.92), (0.34, 0.26, 0.20), (0.42, 0.55, 0.45))
SHOULDERS = 0.5  # how steeply they fall beyond the portrait's square
# Of an upright portrait with middling eyes and nose, as shares of its side (`portrait`): eyes, then mouth.
EYES, MOUTH = ((0.4105, 0.484), (0.5895, 0.484)), (0.5, 0.640)


@dataclass(frozen=True)
class Person:
    """Who stands where.

    Args:
        x: middle of the portrait's square, in pixels of the photo.
        y: the same downwards.
        side: of the square, in pixels.
        turned: degrees, clockwise.
        factors: that differ from the middle, by name.
    """

    x: float
    y: float
    side: float
    turned: float
    factors: dict[str, float]

    def place(self, share: tuple[float, float]) -> tuple[float, float]:
        """Where a point of the portrait is in the photo, in pixels."""
        angle = math.radians(self.turned)
        across, down = ((one - 0.5) * self.side for one in share)
        return (
            self.x + across * math.cos(angle) - down * math.sin(angle),
            self.y + across * math.sin(angle) + down * math.cos(angle),
        )


PEOPLE = (
    Person(118, 258, 300, -7, {
        "skin": 0.75, "hair_tone": 0.15, "hair_length": 0.2, "clothes": 0.1, "jaw": 0.8, "smile": 0.6,
        "light": 0.35,
    }),
    Person(330, 236, 344, 5, {
        "skin": 0.2, "hair_tone": 0.55, "hair_warmth": 0.75, "hair_length": 0.8, "hair_volume": 0.7,
        "clothes": 0.62, "smile": 0.75, "light": 0.4,
    }),
    Person(532, 268, 288, 9, {
        "skin": 0.4, "hair_tone": 0.3, "hair_length": 0.25, "clothes": 0.35, "glasses": 0.9, "smile": 0.45,
        "light": 0.4, "yaw": 0.4,
    }),
)  # fmt: skip


def points_of(person: Person) -> tuple[tuple[float, float], ...]:
    """Left eye, right eye and mouth of a person, in pixels of the photo."""
    return tuple(person.place(share) for share in (*EYES, MOUTH))


def photo(people: Sequence[Person] = PEOPLE) -> Images:
    """Draw the photo: [1, 3, HEIGHT, WIDTH] in [-1, 1]."""
    image = _room()
    for person in people:
        factors = torch.full((1, len(FACTORS)), 0.5)
        for index, factor in enumerate(FACTORS):
            # What comes and goes is left out where nothing is said of it.
            factors[0, index] = person.factors.get(factor.name, 0.5 if factor.onset is None else 0.0)
        portrait = draw(factors, size_px=PAINTED_PX)
        _, layers = draw_looks(factors, ["plain"], size_px=PAINTED_PX)
        shown = torch.cat([portrait, 1 - layers[:, :1]], dim=1)
        placed = _placed(shown, person)
        image = torch.lerp(image, placed[:, :3], placed[:, 3:])
    return image


def _room() -> Images:
    """A wall with light from the left, a window and a picture."""
    y, x = torch.meshgrid(torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH), indexing="ij")
    light = 0.86 - 0.22 * x - 0.10 * y
    colours = [
        torch.tensor(one)
        for one in ((0.80, 0.74, 0.64), (0.62, 0.78, 0.92), (0.34, 0.26, 0.20), (0.42, 0.55, 0.45))
    ]
    image = colours[0].view(3, 1, 1) * light
    for left, top, right, bottom, colour in (
        (0.05, 0.04, 0.235, 0.44, 2), (0.06, 0.06, 0.225, 0.42, 1), (0.655, 0.07, 0.83, 0.30, 2),
        (0.67, 0.095, 0.815, 0.275, 3),
    ):  # fmt: skip
        inside = ((x > left) & (x < right) & (y > top) & (y < bottom)).float()
        image = torch.lerp(image, colours[colour].view(3, 1, 1) * (1.05 - 0.15 * y), inside)
    bar = (((x - 0.1425).abs() < 0.004) & (y > 0.06) & (y < 0.42)).float()
    return torch.lerp(image, colours[2].view(3, 1, 1) * torch.ones_like(x), bar)[None].clamp(0, 1) * 2 - 1


def _placed(shown: Tensor, person: Person) -> Tensor:
    """A portrait with its opacity [1, 4, S, S], turned and sized into the photo: [1, 4, HEIGHT, WIDTH]."""
    side = max(1, round(person.side))
    shown = F.interpolate(shown, (side, side), mode="bicubic", antialias=True)
    angle = math.radians(person.turned)
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    across, down = x - person.x, y - person.y
    u = (across * math.cos(angle) + down * math.sin(angle)) * 2 / person.side
    v = (-across * math.sin(angle) + down * math.cos(angle)) * 2 / person.side
    # Beyond the portrait's sides its last columns go on, falling, and below it its last row: shoulders.
    v = v - SHOULDERS * (u.abs() - 1).clamp(min=0)
    placed = F.grid_sample(
        shown, torch.stack([u, v], dim=-1)[None], "bilinear", "border", align_corners=False
    )
    beyond = v < -1
    placed[:, 3:] = (placed[:, 3:] * ~beyond).clamp(0, 1)
    return placed


if __name__ == "__main__":
    save_png(to_pillow(photo())[0], Path(sys.argv[1]))
