"""Random looks made out of plain pictures while a network trains, so that looks never seen stay people.

A look is one draw of parameters for a whole group of pictures: colours of its own, a palette, lines on paper,
or tones of hatching or dots; over that perhaps a new background, cells, outlines, a blur, a warp, paper and
grain. Everything is torch on the pictures' device; the parameters come from a generator on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...tensors import Images
from .layers import ease, mix
from .looks import blur, tone, vivid

_BASES = ("colours", "palette", "lines", "tones")


class Dice:
    """Draws single numbers from a generator."""

    def __init__(self, random: torch.Generator) -> None:
        self.random = random

    def between(self, low: float, high: float) -> float:
        """Draw a number uniformly."""
        return low + (high - low) * float(torch.rand((), generator=self.random))

    def chance(self, probability: float) -> bool:
        """Say yes with a probability."""
        return self.between(0, 1) < probability

    def count(self, low: int, high: int) -> int:
        """Draw a whole number, both ends included."""
        return int(torch.randint(low, high + 1, (), generator=self.random))

    def colour(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw a colour, [1, 3, 1, 1]."""
        values = low + (high - low) * torch.rand(1, 3, 1, 1, generator=self.random)
        return values.to(like)

    def normal(self, like: Tensor, *shape: int) -> Tensor:
        """Draw normal values on the device of `like`."""
        return torch.randn(shape, generator=self.random).to(like)

    def uniform(self, like: Tensor, *shape: int) -> Tensor:
        """Draw values in [0, 1) on the device of `like`."""
        return torch.rand(shape, generator=self.random).to(like)


class Sheet:
    """The frame that the pictures of a group share: coordinates in units and smooth noise."""

    def __init__(self, pictures: Tensor, dice: Dice) -> None:
        size = pictures.shape[-1]
        ticks = (torch.arange(size, device=pictures.device, dtype=pictures.dtype) + 0.5) * (128 / size)
        self.x, self.y = ticks.view(1, 1, 1, -1), ticks.view(1, 1, -1, 1)
        self.like, self.dice, self.size = pictures, dice, size

    def grain(self, across: float) -> Tensor:
        """Smooth noise [1, 1, H, W] of mean 0 and deviation about 1, with blobs of a size in units."""
        cells = max(2, round(128 / across))
        noise = self.dice.normal(self.like, 1, 1, cells, cells)
        return F.interpolate(noise, (self.size, self.size), mode="bicubic", align_corners=False)

    def stripes(self) -> Tensor:
        """Stripes of some direction and pitch, straight or curved, [1, 1, H, W] between 0 and 1."""
        dice, pitch = self.dice, self.dice.between(3.2, 7.0)
        if dice.chance(0.3):  # rings about a point
            away_x, away_y = self.x - dice.between(-60, 190), self.y - dice.between(-60, 190)
            along = (away_x.square() + dice.between(0.4, 1.5) * away_y.square()).sqrt()
        else:
            angle = dice.between(0, math.pi)
            along = self.x * math.cos(angle) + self.y * math.sin(angle)
        along = along + dice.between(0, 1.2) * self.grain(dice.between(6, 20))
        return 0.5 + 0.5 * (along * (2 * math.pi / pitch)).cos()

    def dots(self) -> Tensor:
        """A turned grid of round dots, [1, 1, H, W] between 0 and 1."""
        dice, pitch = self.dice, self.dice.between(3.5, 7.0)
        angle = dice.between(0, math.pi / 2)
        a = self.x * math.cos(angle) + self.y * math.sin(angle)
        b = self.y * math.cos(angle) - self.x * math.sin(angle)
        return 0.5 + 0.25 * ((a * (2 * math.pi / pitch)).cos() + (b * (2 * math.pi / pitch)).cos())

    def ramp(self) -> Tensor:
        """A gradient across the frame, or a step, [1, 1, H, W] between 0 and 1."""
        angle = self.dice.between(0, 2 * math.pi)
        along = (self.x - 64) * math.cos(angle) + (self.y - 64) * math.sin(angle)
        width = self.dice.between(1, 8) if self.dice.chance(0.3) else self.dice.between(40, 120)
        return ease(along, -width / 2, width / 2)


def random_look(plain: Images, layers: Tensor, random: torch.Generator) -> Images:
    """Draw a look and give it to a group of pictures.

    Args:
        plain: [N, 3, H, W] in [-1, 1].
        layers: [N, 2, H, W] in [0, 1], background and outlines (`draw_looks`).
        random: where the look comes from; the pictures themselves share every parameter.

    Returns:
        [N, 3, H, W] in [-1, 1].
    """
    dice = Dice(random)
    picture = (plain + 1) / 2
    sheet = Sheet(picture, dice)
    background, outline = layers[:, :1], _redrawn(layers[:, 1:], picture, dice)
    base = dice.count(0, len(_BASES) - 1)
    picture = (_own_colours, _palette, _line_drawing, _tones)[base](picture, background, outline, sheet)
    if dice.chance(0.35):
        picture = mix(picture, _scenery(picture, sheet), background * dice.between(0.6, 1.0))
    if dice.chance(0.25):
        picture = _in_cells(picture, sheet)
    if _BASES[base] != "lines" and dice.chance(0.4):
        picture = mix(picture, dice.colour(picture, 0.0, 0.3), outline * dice.between(0.5, 1.0))
    for chance, treat in _TREATMENTS:
        if dice.chance(chance):
            picture = treat(picture, sheet)
    return picture.clamp(0, 1) * 2 - 1


def _redrawn(outline: Tensor, picture: Tensor, dice: Dice) -> Tensor:
    """The drawn outlines made thinner or thicker, or lines found where colours change, [N, 1, H, W]."""
    if dice.chance(0.6):
        soft = blur(outline, dice.between(0.5, 1.2))
        middle = dice.between(0.15, 0.5)
        return ease(soft, middle - 0.12, middle + 0.12)
    smooth = blur(picture, dice.between(0.5, 1.2))
    across = F.pad(smooth[..., 2:] - smooth[..., :-2], (1, 1, 0, 0))
    down = F.pad(smooth[..., 2:, :] - smooth[..., :-2, :], (0, 0, 1, 1))
    slope = (across.square() + down.square()).sum(1, keepdim=True).sqrt()
    return ease(slope, dice.between(0.04, 0.12), dice.between(0.18, 0.4))


def _own_colours(picture: Tensor, background: Tensor, outline: Tensor, sheet: Sheet) -> Tensor:
    """Colours changed by a matrix, a gamma and their strength."""
    dice = sheet.dice
    matrix = torch.eye(3).to(picture) + 0.18 * dice.normal(picture, 3, 3)
    turned = torch.einsum("ij,njhw->nihw", matrix, picture) + 0.08 * dice.normal(picture, 1, 3, 1, 1)
    return vivid(turned.clamp(0, 1), dice.between(0.3, 1.8)) ** dice.between(0.6, 1.6)


def _palette(picture: Tensor, background: Tensor, outline: Tensor, sheet: Sheet) -> Tensor:
    """Two to six inks chosen by brightness alone, in smooth transitions or steps."""
    dice, inks = sheet.dice, sheet.dice.count(2, 6)
    colours = dice.uniform(picture, inks, 3)
    if dice.chance(0.8):  # dark to light, or the other way round
        order = colours @ torch.tensor([0.30, 0.59, 0.11]).to(picture)
        colours = colours[order.argsort(descending=dice.chance(0.15))]
        share = torch.linspace(0, 1, inks).to(picture)[:, None]
        dark, light = (0.9, 0.1) if dice.chance(0.15) else (0.1, 0.9)
        colours = 0.5 * colours + 0.5 * (dark + (light - dark) * share)
    level = (tone(blur(picture, dice.between(0.3, 1.0))) ** dice.between(0.7, 1.5)) * (inks - 1)
    soft = dice.between(0.02, 0.15) if dice.chance(0.5) else 0.5
    result = colours[0].view(1, 3, 1, 1)
    for index in range(1, inks):
        rise = ease(level, index - 0.5 - soft, index - 0.5 + soft)
        result = mix(result, colours[index].view(1, 3, 1, 1), rise)
    return result.expand_as(picture)


def _line_drawing(picture: Tensor, background: Tensor, outline: Tensor, sheet: Sheet) -> Tensor:
    """Outlines on paper, dark on light or light on dark, perhaps with tones or pale colours between."""
    paper, ink = _paper_and_ink(picture, sheet.dice)
    page = paper.expand_as(picture)
    if sheet.dice.chance(0.4):
        page = mix(page, picture, sheet.dice.between(0.1, 0.4))
    if sheet.dice.chance(0.6):
        page = mix(page, ink, sheet.dice.between(0.2, 0.6) * _shading(picture, background, sheet))
    return mix(page, ink, outline)


def _tones(picture: Tensor, background: Tensor, outline: Tensor, sheet: Sheet) -> Tensor:
    """Hatching or dots that grow with darkness, in one ink on paper, outlines perhaps with them."""
    paper, ink = _paper_and_ink(picture, sheet.dice)
    page = paper.expand_as(picture)
    if sheet.dice.chance(0.25):
        page = mix(page, picture, sheet.dice.between(0.2, 0.6))
    covered = _shading(picture, background, sheet)
    if sheet.dice.chance(0.5):
        covered = torch.maximum(covered, _shading(picture, background, sheet, lighter=0.35))
    if sheet.dice.chance(0.7):
        covered = torch.maximum(covered, outline)
    return mix(page, ink, covered)


def _paper_and_ink(like: Tensor, dice: Dice) -> tuple[Tensor, Tensor]:
    """Colours of a page and of what is drawn on it, far apart in brightness."""
    dark, light = dice.colour(like, 0.0, 0.45), dice.colour(like, 0.6, 1.0)
    return (dark, light) if dice.chance(0.3) else (light, dark)


def _shading(picture: Tensor, background: Tensor, sheet: Sheet, lighter: float = 0.0) -> Tensor:
    """Where strokes or dots cover the page, [N, 1, H, W]; they read the picture's darkness."""
    dice = sheet.dice
    dark = 1 - tone(picture) ** dice.between(0.7, 1.2)
    dark = dark * (1 - dice.between(0, 1) * background)
    pattern = sheet.dots() if dice.chance(0.35) else sheet.stripes()
    soft = dice.between(0.05, 0.3)
    return ease(dark * dice.between(0.9, 1.5) - lighter - pattern, -soft, soft)


def _scenery(picture: Tensor, sheet: Sheet) -> Tensor:
    """Something for the background: one colour, two, or a pattern of two, [1, 3, H, W]."""
    dice = sheet.dice
    first, second = dice.colour(picture), dice.colour(picture)
    pattern: Callable[[], Tensor] = (sheet.ramp, sheet.stripes, sheet.dots)[dice.count(0, 2)]
    return first.expand(1, 3, sheet.size, sheet.size) if dice.chance(0.4) else mix(first, second, pattern())


def _in_cells(picture: Tensor, sheet: Sheet) -> Tensor:
    """Each cell of a jittered, turned grid in the colour at its middle: brush strokes, tiles, panes."""
    dice = sheet.dice
    across, down = dice.between(2.5, 6.5), dice.between(2.0, 4.5)
    angle, jitter = dice.between(0, math.pi), dice.between(0, 0.9)
    cos, sin = math.cos(angle), math.sin(angle)
    a, b = (sheet.x * cos + sheet.y * sin) / across, (sheet.y * cos - sheet.x * sin) / down
    home_a, home_b = a.floor(), b.floor()
    count = 2 * math.ceil(1.5 * 128 / min(across, down)) + 4
    table = dice.uniform(picture, 2, count, count)
    near_a, near_b = home_a + 0.5, home_b + 0.5
    nearest = torch.full_like(a, 1e9)
    for step_a, step_b in ((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
        cell_a, cell_b = home_a + step_a, home_b + step_b
        jump = table[:, (cell_b.long() % count).flatten(), (cell_a.long() % count).flatten()].view(
            2, *a.shape
        )
        middle_a = cell_a + 0.5 + jitter * (jump[0] - 0.5)
        middle_b = cell_b + 0.5 + jitter * (jump[1] - 0.5)
        away = across**2 * (middle_a - a).square() + down**2 * (middle_b - b).square()
        closer = away < nearest
        nearest = torch.where(closer, away, nearest)
        near_a, near_b = torch.where(closer, middle_a, near_a), torch.where(closer, middle_b, near_b)
    near_a, near_b = near_a * across, near_b * down
    scale = sheet.size / 128
    column = ((near_a * cos - near_b * sin) * scale).long().clamp(0, sheet.size - 1)
    row = ((near_b * cos + near_a * sin) * scale).long().clamp(0, sheet.size - 1)
    flat = blur(picture, dice.between(0.4, 1.5)).flatten(2)[:, :, (row * sheet.size + column).flatten()]
    cells = flat.view(*picture.shape)
    if dice.chance(0.4):  # grout
        edge = ease(nearest.sqrt(), min(across, down) * 0.45, min(across, down) * 0.6)
        cells = mix(cells, dice.colour(picture), dice.between(0.3, 0.9) * edge)
    return mix(cells, picture, dice.between(0.0, 0.4))


def _blurred(picture: Tensor, sheet: Sheet) -> Tensor:
    return blur(picture, sheet.dice.between(0.4, 1.6))


def _warped(picture: Tensor, sheet: Sheet) -> Tensor:
    """Move pixels by up to about two units, smoothly."""
    across = sheet.dice.between(8, 40)
    amount = sheet.dice.between(0.3, 1.2) / 64
    ticks = torch.linspace(-1, 1, sheet.size, device=picture.device, dtype=picture.dtype)
    x = ticks.view(1, 1, -1) + amount * sheet.grain(across)[0]
    y = ticks.view(1, -1, 1) + amount * sheet.grain(across)[0]
    grid = torch.stack([x.expand(1, sheet.size, -1), y.expand(1, -1, sheet.size)], dim=3)
    grid = grid.expand(len(picture), -1, -1, -1)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def _faded(picture: Tensor, sheet: Sheet) -> Tensor:
    """A frame of paper: the picture fades, or ends, towards the edge."""
    dice = sheet.dice
    x, y = (sheet.x - 64).abs(), (sheet.y - 64).abs()
    radius = (x.square() + y.square()).sqrt() if dice.chance(0.5) else torch.maximum(x, y)
    radius = radius + dice.between(0, 4) * sheet.grain(dice.between(6, 20))
    end, width = dice.between(50, 64), dice.between(1, 14)
    return mix(picture, dice.colour(picture, 0.5, 1.0), ease(radius, end - width, end))


def _shaded(picture: Tensor, sheet: Sheet) -> Tensor:
    """Light that falls off across the frame."""
    return picture * (1 - sheet.dice.between(0.1, 0.5) * sheet.ramp())


def _grained(picture: Tensor, sheet: Sheet) -> Tensor:
    grain = sheet.grain(sheet.dice.between(1.0, 4.0))
    return picture * (1 + sheet.dice.between(0.02, 0.12) * grain)


_TREATMENTS: tuple[tuple[float, Callable[[Tensor, Sheet], Tensor]], ...] = (
    (0.25, _blurred),
    (0.25, _warped),
    (0.2, _shaded),
    (0.2, _faded),
    (0.35, _grained),
)
