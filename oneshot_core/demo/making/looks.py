"""Looks: the same portrait as pencil sketch, watercolour, stained glass and so on.

A look reads a portrait's layers and returns [N, 3, H, W] in [0, 1]. Patterns such as hatching, dots and tiles
are fixed to the frame, so a generator can learn them. Lengths are units: pixels of a 128 px picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import UNITS, Portrait, ease, hsv, mix, rgb

_SKIN = ("skin", "nose")
_FEATURES = ("eye", "iris", "pupil", "lash", "lips", "mouth", "brow")


@dataclass(frozen=True)
class Cells:
    """A frame-filling pattern of cells, each [1, 1, H, W]; cut from a jittered grid.

    Attributes:
        column, row: where the middle of the pixel's cell lies, units.
        nearest, second: distance of the pixel to the middle of its own and of the next cell, units along
            the cell's width.
        number: a random number in [0, 1) per cell.
    """

    column: Tensor
    row: Tensor
    nearest: Tensor
    second: Tensor
    number: Tensor

    @property
    def border(self) -> Tensor:
        """Distance to the cell's border, about units."""
        return (self.second - self.nearest) / 2


class Paper:
    """What a picture is made on: grain, cells and coordinates, the same for all pictures of a batch.

    Draws from its generator in the order of the calls, so a look must always call in the same order.
    """

    def __init__(self, portrait: Portrait, generator: torch.Generator) -> None:
        self.x, self.y = torch.broadcast_tensors(portrait.column, portrait.row)
        self._like = portrait.light
        self._generator = generator

    def grain(self, across: float, down: float | None = None) -> Tensor:
        """Return smooth noise, [1, 1, H, W], mean 0 and deviation about 1.

        Args:
            across, down: size of its blobs in units; down is across when it is None.
        """
        size = [max(2, round(UNITS / length)) for length in (down or across, across)]
        noise = self._random(1, 1, *size, normal=True)
        return F.interpolate(noise, self.x.shape[-2:], mode="bicubic", align_corners=False)

    def wave(self, degrees: float, pitch: float, bend: Tensor | float = 0.0) -> Tensor:
        """Return parallel stripes, [1, 1, H, W], a cosine between 0 and 1.

        Args:
            degrees: direction across the stripes, 0 to the right, 90 down.
            pitch: from stripe to stripe, units.
            bend: shifts the stripes, units.
        """
        angle = math.radians(degrees)
        along = self.x * math.cos(angle) + self.y * math.sin(angle) + bend
        return 0.5 + 0.5 * (along * (2 * math.pi / pitch)).cos()

    def cells(self, across: float, down: float, degrees: float = 0.0, jitter: float = 0.8) -> Cells:
        """Cut the frame into cells.

        Args:
            across, down: size of a cell before rotation, units.
            degrees: turns the whole pattern.
            jitter: 0 for a regular grid, 1 for the wildest.
        """
        angle = math.radians(degrees)
        cosine, sine = math.cos(angle), math.sin(angle)
        a, b = (self.x * cosine + self.y * sine) / across, (self.y * cosine - self.x * sine) / down
        count = 2 * math.ceil(1.5 * UNITS / min(across, down)) + 4
        table = self._random(3, count, count)
        home_a, home_b = a.floor(), b.floor()
        found = []
        for step_a, step_b in ((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
            cell_a, cell_b = home_a + step_a, home_b + step_b
            pick = table[:, (cell_b.long() % count).flatten(), (cell_a.long() % count).flatten()]
            jump_a, jump_b, number = pick.view(3, 1, 1, *self.x.shape[-2:]).unbind(0)
            middle_a = cell_a + 0.5 + jitter * (jump_a - 0.5)
            middle_b = cell_b + 0.5 + jitter * (jump_b - 0.5)
            away = across * ((middle_a - a).square() + (middle_b - b).square()).sqrt()
            found.append(torch.stack([away, middle_a * across, middle_b * down, number]))
        order = torch.stack([item[0] for item in found]).topk(2, dim=0, largest=False)
        best = torch.stack(found).gather(0, order.indices[:1].unsqueeze(1).expand(-1, 4, -1, -1, -1, -1))[0]
        column, row = best[1] * cosine - best[2] * sine, best[2] * cosine + best[1] * sine
        return Cells(column, row, order.values[0], order.values[1], best[3])

    def _random(self, *shape: int, normal: bool = False) -> Tensor:
        """Draw on the CPU, then move to the picture's device."""
        draw = torch.randn if normal else torch.rand
        return draw(shape, generator=self._generator).to(self._like)


Look = Callable[[Portrait, Paper], Tensor]


def tone(colours: Tensor) -> Tensor:
    """Return how bright colours look, [N, 1, H, W]."""
    weights = torch.tensor([0.30, 0.59, 0.11], device=colours.device, dtype=colours.dtype).view(1, 3, 1, 1)
    return (colours * weights).sum(1, keepdim=True)


def vivid(colours: Tensor, amount: float) -> Tensor:
    """Move colours away from grey (amount above 1) or towards it (below 1), within [0, 1]."""
    return mix(tone(colours), colours, amount).clamp(0.0, 1.0)


def blur(fields: Tensor, radius: float) -> Tensor:
    """Blur [N, C, H, W] with a Gaussian.

    Args:
        fields: any values.
        radius: standard deviation, units.
    """
    deviation = radius * fields.shape[-1] / UNITS
    reach = max(1, math.ceil(2.5 * deviation))
    ticks = torch.arange(-reach, reach + 1, device=fields.device, dtype=fields.dtype)
    kernel = (-0.5 * (ticks / deviation).square()).exp()
    kernel = (kernel / kernel.sum()).expand(fields.shape[1], 1, -1)
    padded = F.pad(fields, (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(padded, kernel.unsqueeze(2), groups=fields.shape[1])
    return F.conv2d(across, kernel.unsqueeze(3), groups=fields.shape[1])


def at_cells(colours: Tensor, cells: Cells) -> Tensor:
    """Give every pixel the colour at the middle of its cell, [N, C, H, W]."""
    size = colours.shape[-1]
    column = (cells.column * (size / UNITS)).long().clamp(0, size - 1)
    row = (cells.row * (size / UNITS)).long().clamp(0, size - 1)
    return colours.flatten(2)[:, :, (row * size + column).flatten()].view(*colours.shape)


def plain(portrait: Portrait, paper: Paper) -> Tensor:
    """Return the shaded picture as it is."""
    return portrait.shaded


def pencil_sketch(portrait: Portrait, paper: Paper) -> Tensor:
    """Graphite hatching in two directions on off-white paper."""
    dark = 1 - tone(portrait.shaded) ** 0.8
    dark = dark * (1 - 0.65 * portrait.region("background")) * (1 - 0.25 * portrait.region(*_SKIN))
    dark = dark * (1 - portrait.region("eye"))
    first = ease(dark * 1.15 - paper.wave(45, 4.6), -0.22, 0.22)
    second = ease(dark * 1.15 - 0.35 - paper.wave(130, 4.6), -0.22, 0.22)
    graphite = 0.50 * first + 0.36 * second + 0.22 * dark
    graphite = torch.maximum(graphite, 0.95 * portrait.lines(1.7)) * (0.93 + 0.07 * paper.grain(2.0))
    return mix(rgb(dark, 0.97, 0.96, 0.93), rgb(dark, 0.20, 0.20, 0.23), graphite)


def watercolour(portrait: Portrait, paper: Paper) -> Tensor:
    """Thin bleeding washes with dark rims that fade into white paper."""
    pool = 1 + 0.20 * paper.grain(16) + 0.08 * paper.grain(5)
    wash = vivid(blur(portrait.shaded, 1.3), 1.45) ** 0.75
    rim = blur(portrait.lines(2.2), 0.8)
    pigment = (1 - wash) * (0.80 * pool).clamp(0.4, 1.3) + 0.26 * rim * (1 - 0.6 * wash)
    radius = torch.maximum((paper.x - 64).abs(), (paper.y - 64).abs()) + 4.5 * paper.grain(11)
    kept = ease(radius, 62.0, 50.0)
    return (1 - pigment * (0.04 + 0.96 * kept)) * rgb(wash, 1.0, 0.995, 0.97)


def stained_glass(portrait: Portrait, paper: Paper) -> Tensor:
    """Jewel-coloured panes held by black lead."""
    cells = paper.cells(19, 19)
    glass = vivid(portrait.albedo, 1.9) ** 1.15
    back = portrait.region("background")
    sky = hsv(0.56 + 0.16 * (cells.number - 0.5), 0.85, 0.55 + 0.4 * cells.number)
    glass = mix(glass, 0.5 * glass + 0.5 * sky, back)
    broken = 1 - portrait.region(*_SKIN, *_FEATURES)
    glass = glass * (0.72 + 0.55 * cells.number * broken + 0.30 * (1 - broken))
    shine = 0.85 + 0.25 * ease(cells.nearest, 11.0, 0.0)
    lead = torch.maximum(portrait.lines(2.8), ease(cells.border, 1.5, 0.6) * broken)
    return mix((glass * shine).clamp(0, 1), rgb(glass, 0.03, 0.03, 0.05), lead)


def neon(portrait: Portrait, paper: Paper) -> Tensor:
    """Glowing tubes on a dark wall."""
    like = portrait.light
    colours = {"skin": (1.0, 0.25, 0.65), "hair": (0.25, 0.65, 1.0), "beard": (0.25, 0.65, 1.0)}
    colours |= {"clothes": (0.45, 1.0, 0.35), "collar": (0.45, 1.0, 0.35), "hat": (1.0, 0.75, 0.15)}
    colours |= {"band": (1.0, 0.45, 0.1), "glasses": (0.2, 1.0, 0.95), "eye": (0.9, 0.95, 1.0)}
    colours |= {"iris": (0.3, 0.95, 1.0), "lips": (1.0, 0.15, 0.25), "mouth": (1.0, 0.15, 0.25)}
    colours |= {"nose": (1.0, 0.25, 0.65), "brow": (0.25, 0.65, 1.0)}
    tubes = portrait.coloured_lines(2.0, {name: rgb(like, *colour) for name, colour in colours.items()})
    wall = portrait.shaded * rgb(like, 0.10, 0.06, 0.20) + rgb(like, 0.03, 0.015, 0.08)
    bricks = 0.75 + 0.25 * ease(paper.wave(90, 9.0), 0.02, 0.10)
    wall = wall * mix(torch.ones_like(bricks), bricks, portrait.region("background"))
    core = tubes.amin(1, keepdim=True)
    return (wall + tubes + 0.25 * core + 1.1 * blur(tubes, 3.2)).clamp(0, 1)


def halftone(portrait: Portrait, paper: Paper) -> Tensor:
    """Two inks in dots, blue and coral, on cream paper."""
    picture = portrait.shaded
    far = portrait.region("background")
    blue = 0.92 * (1 - tone(picture)) ** 1.25 * (1 - 0.75 * far) * (1 - 0.35 * portrait.region(*_SKIN))
    coral = (1.25 * (1 - picture[:, 2:]) - 0.15).clamp(0, 0.95) * (1 - 0.5 * far)
    blue_dots = 0.5 * (paper.wave(45, 5.0) + paper.wave(135, 5.0))
    coral_dots = 0.5 * (paper.wave(15, 5.0) + paper.wave(105, 5.0))
    white = portrait.region("eye")
    blue_ink = torch.maximum(ease(blue - blue_dots, -0.14, 0.14) * (1 - white), 0.9 * portrait.lines(1.3))
    coral_ink = ease(coral - coral_dots, -0.14, 0.14) * (1 - white)
    sheet = rgb(picture, 0.98, 0.95, 0.86)
    sheet = sheet * mix(torch.ones_like(sheet), rgb(picture, 1.0, 0.47, 0.40), coral_ink)
    return sheet * mix(torch.ones_like(sheet), rgb(picture, 0.12, 0.22, 0.62), blue_ink)


def ink(portrait: Portrait, paper: Paper) -> Tensor:
    """Brush and black ink with grey washes, and a red seal."""
    person = 1 - portrait.region("background")
    dark = (1 - tone(blur(portrait.shaded, 0.7))) * person
    skin = portrait.region(*_SKIN)
    dark = dark - 0.22 * skin
    wash = 0.30 * ease(dark, 0.28, 0.40) + 0.30 * ease(dark, 0.50, 0.60) + 0.38 * ease(dark, 0.68, 0.76)
    wash = wash * (1 + 0.10 * paper.grain(9))
    mist = 0.14 * portrait.region("background") * ease(paper.y + 5 * paper.grain(26, 12), 40.0, 120.0)
    wet = torch.maximum(wash + mist, portrait.lines(2.6))
    sheet = mix(rgb(dark, 0.96, 0.95, 0.91), rgb(dark, 0.05, 0.05, 0.07), wet.clamp(0, 1))
    seal = torch.maximum((paper.x - 115).abs(), (paper.y - 18).abs())
    mark = torch.maximum((paper.x - 115).abs() - 1.2, (paper.y - 18).abs() - 3.5)
    stamp = ease(seal, 7.4, 6.0) * (1 - 0.9 * ease(mark, 0.7, -0.7))
    return mix(sheet, rgb(dark, 0.78, 0.12, 0.10), stamp)


def pastel(portrait: Portrait, paper: Paper) -> Tensor:
    """Broad soft chalk strokes on lilac-grey paper."""
    soft = blur(vivid(portrait.shaded, 1.7), 1.0)
    chalk = 0.33 + 0.70 * soft + 0.03 * paper.grain(6)
    strokes = paper.wave(60, 5.0, 2.2 * paper.grain(14)) + 0.12 * paper.grain(3.0)
    cover = 0.62 + 0.38 * ease(strokes, 0.1, 0.8)
    cover = cover * (1 - portrait.region("background") * (0.35 + 0.45 * ease(strokes, 0.7, 0.2)))
    rim = blur(portrait.lines(2.0), 0.9)
    colour = chalk - 0.40 * rim * (1 - 0.5 * soft)
    return mix(rgb(soft, 0.60, 0.54, 0.66), colour, cover).clamp(0, 1)


def mosaic(portrait: Portrait, paper: Paper) -> Tensor:
    """Small square tiles in pale grout."""
    across, pitch = 32, UNITS / 32
    marked = mix(vivid(portrait.shaded, 1.5), rgb(portrait.light, 0.1, 0.08, 0.1), 0.6 * portrait.lines(1.8))
    tiles = F.adaptive_avg_pool2d(marked, across)
    tiles = F.interpolate(tiles, portrait.size_px, mode="nearest")
    number = F.interpolate(paper.grain(pitch), across, mode="nearest")
    number = F.interpolate(number, portrait.size_px, mode="nearest")
    x, y = (paper.x / pitch) % 1 - 0.5, (paper.y / pitch) % 1 - 0.5
    inside = torch.maximum(x.abs(), y.abs())
    bevel = 1 + 0.25 * (-x - y) + 0.07 * number
    return mix(
        rgb(tiles, 0.93, 0.91, 0.85), (tiles * bevel).clamp(0, 1), 0.25 + 0.75 * ease(inside, 0.50, 0.40)
    )


def comic(portrait: Portrait, paper: Paper) -> Tensor:
    """Flat bright colours in two tones with bold black outlines and rays behind."""
    lit = 0.62 + 0.38 * ease(portrait.light, 0.86, 0.92)
    flat = (vivid(portrait.albedo, 1.7) * 1.12).clamp(0, 1) * lit
    angle = torch.atan2(paper.y - 70, paper.x - 64 + 1e-3)
    rays = ease((angle * 12).cos(), -0.25, 0.25)
    yellow = mix(rgb(flat, 1.0, 0.86, 0.20), rgb(flat, 1.0, 0.60, 0.12), rays)
    flat = mix(flat, yellow, portrait.region("background"))
    return mix(flat, rgb(flat, 0.04, 0.03, 0.05), portrait.lines(2.4))


def oil_painting(portrait: Portrait, paper: Paper) -> Tensor:
    """Thick short strokes, warm light on a dark ground."""
    warm = vivid(portrait.shaded, 1.25) * rgb(portrait.light, 1.06, 0.95, 0.74)
    ground = rgb(warm, 0.26, 0.17, 0.10) + 0.22 * warm
    corner = ((paper.x - 64).square() + (paper.y - 60).square()) / 64.0**2
    picture = mix(warm, ground, portrait.region("background")) * (1.05 - 0.30 * corner)
    picture = mix(picture, rgb(warm, 0.14, 0.08, 0.05), 0.55 * portrait.lines(1.8))
    broad = paper.cells(10, 4.2, degrees=35)
    fine = paper.cells(6, 2.6, degrees=-30)
    detail = blur(portrait.region(*_FEATURES, "nose", "glasses"), 2.0).mul(2.5).clamp(0, 1)
    strokes = mix(at_cells(blur(picture, 1.2), broad), at_cells(picture, fine), 0.35 + 0.5 * detail)
    strokes = mix(strokes, picture, 0.25 + 0.3 * detail)
    ridge = ease(broad.border, 0.0, 1.6) - ease(broad.border, 1.4, 3.2)
    relief = 0.93 + 0.13 * ridge + 0.26 * (broad.number - 0.5) * (1 - 0.6 * detail)
    return (strokes * relief).clamp(0, 1)


def blueprint(portrait: Portrait, paper: Paper) -> Tensor:
    """White drafting lines on blue with a measuring grid."""
    like = portrait.light
    shade = (1 - portrait.light).clamp(0, 1) * (1 - portrait.region("background"))
    hatch = ease(2.0 * shade - paper.wave(135, 4.2), -0.1, 0.5)
    fill = 0.10 * (1 - tone(portrait.albedo)) * (1 - portrait.region("background"))
    fine = ease(torch.minimum((paper.x % 8 - 4).abs(), (paper.y % 8 - 4).abs()), 0.9, 0.1)
    bold = ease(torch.minimum((paper.x % 32 - 16).abs(), (paper.y % 32 - 16).abs()), 1.1, 0.2)
    grid = torch.maximum(0.16 * fine, 0.34 * bold) * (0.25 + 0.75 * portrait.region("background"))
    white = torch.maximum(portrait.lines(1.6), grid + fill + 0.35 * hatch)
    return mix(rgb(like, 0.07, 0.22, 0.52), rgb(like, 0.93, 0.97, 1.0), white.clamp(0, 1))


def woodcut(portrait: Portrait, paper: Paper) -> Tensor:
    """Black blocks with curved cuts that widen with the light, on straw-coloured paper."""
    person = 1 - portrait.region("background")
    level = mix(0.16 + 0.22 * tone(portrait.shaded), 0.08 + 1.02 * tone(portrait.shaded), person)
    rings = ((paper.x - 64).square() * 0.6 + (paper.y + 30).square()).sqrt()
    cuts = 0.5 + 0.5 * ((rings + 0.8 * paper.grain(9)) * (2 * math.pi / 5.0)).cos()
    carved = ease(level + 0.55 * (cuts - 0.5) - 0.45, -0.10, 0.10)
    halo = ease(blur(portrait.lines(1.0), 1.6), 0.10, 0.26) * person
    carved = torch.maximum(carved, torch.maximum(portrait.region("eye"), halo))
    black = torch.maximum(1 - carved, portrait.lines(2.0))
    return mix(rgb(level, 0.93, 0.82, 0.60), rgb(level, 0.09, 0.05, 0.04), black)


def pop_art(portrait: Portrait, paper: Paper) -> Tensor:
    """A screen print in four flat inks, chosen by brightness alone."""
    level = tone(blur(portrait.shaded, 0.6))
    person = 1 - portrait.region("background")
    navy, red = rgb(level, 0.05, 0.13, 0.33), rgb(level, 0.86, 0.12, 0.20)
    blue, cream = rgb(level, 0.36, 0.68, 0.75), rgb(level, 0.99, 0.93, 0.70)
    print_ = mix(navy, red, ease(level, 0.28, 0.33))
    print_ = mix(print_, blue, ease(level, 0.47, 0.52))
    print_ = mix(print_, cream, ease(level, 0.62, 0.67))
    halves = mix(rgb(level, 0.95, 0.20, 0.55), rgb(level, 1.0, 0.84, 0.10), ease(paper.x, 63.0, 65.0))
    return mix(mix(halves, print_, person), navy, portrait.lines(1.8))


def sepia_photograph(portrait: Portrait, paper: Paper) -> Tensor:
    """An old brown photograph in a pale oval mount."""
    level = tone(blur(portrait.shaded, 0.7)) ** 1.1 + 0.025 * paper.grain(2.2)
    level = mix(level, 0.55 + 0.45 * level, portrait.region("background"))
    brown = mix(rgb(level, 0.16, 0.09, 0.05), rgb(level, 0.96, 0.86, 0.68), level.clamp(0, 1))
    oval = (((paper.x - 64) / 58).square() + ((paper.y - 64) / 62).square()).sqrt()
    mount = rgb(level, 0.93, 0.89, 0.80) * (1 + 0.012 * paper.grain(3))
    faded = brown * (1 - 0.35 * ease(oval, 0.7, 1.0))
    return mix(faded, mount, ease(oval, 0.985, 1.015))


def cel_shading(portrait: Portrait, paper: Paper) -> Tensor:
    """Flat bright colours with one hard cool shadow, thin tinted outlines and a pale sky, as in animation."""
    like = portrait.light
    flat = vivid((portrait.albedo * 1.10).clamp(0, 1), 1.45) ** 0.85
    shadow = flat * rgb(like, 0.72, 0.66, 0.86)
    picture = mix(shadow, flat, ease(like, 0.80, 0.84))
    shine = ease(like, 1.10, 1.14) * portrait.region("hair", "hat", "beard")
    picture = mix(picture, rgb(like, 1.0, 0.98, 0.95), 0.65 * shine)
    drift = paper.grain(30, 11) + 0.6 * paper.grain(13, 7)
    cloud = ease(drift + (64 - (paper.y - 70).abs()) / 55, 0.75, 1.15)
    sky = mix(rgb(like, 0.36, 0.66, 0.95), rgb(like, 0.82, 0.94, 1.0), ease(paper.y, 0.0, 110.0))
    picture = mix(picture, mix(sky, rgb(like, 1.0, 1.0, 1.0), cloud), portrait.region("background"))
    tint = blur(portrait.albedo, 1.5) * rgb(like, 0.30, 0.20, 0.26)
    return mix(picture, tint, portrait.lines(1.5)).clamp(0, 1)


def line_art(portrait: Portrait, paper: Paper) -> Tensor:
    """Black pen lines on white paper; hair and clothes are a few strokes, the denser the darker."""
    dark = 1 - tone(portrait.albedo)
    strands = paper.wave(12, 5.5, 2.2 * paper.grain(20))
    hair = portrait.region("hair", "beard") * ease(dark - 0.15 - 0.75 * strands, 0.0, 0.18)
    folds = portrait.region("clothes", "hat", "band") * ease(
        0.10 + 0.25 * dark - paper.wave(28, 9.0), 0.0, 0.1
    )
    filled = portrait.region("pupil", "lash", "brow", "mouth")
    ink_ = torch.maximum(torch.maximum(portrait.lines(2.0), filled), torch.maximum(hair, folds))
    return mix(rgb(dark, 0.99, 0.99, 0.98), rgb(dark, 0.06, 0.06, 0.08), ink_.clamp(0, 1))


_TRAINING: dict[str, Look] = {
    "pencil sketch": pencil_sketch,
    "watercolour": watercolour,
    "stained glass": stained_glass,
    "neon": neon,
    "halftone": halftone,
    "ink": ink,
    "pastel": pastel,
    "mosaic": mosaic,
    "comic": comic,
}
_HELD_OUT: dict[str, Look] = {
    "oil painting": oil_painting,
    "blueprint": blueprint,
    "woodcut": woodcut,
    "pop art": pop_art,
    "sepia photograph": sepia_photograph,
    "cel shading": cel_shading,
    "line art": line_art,
}
LOOKS_IN_COLOUR = frozenset(  # they keep the colours of the person
    ("plain", "watercolour", "stained glass", "pastel", "mosaic", "comic", "oil painting", "cel shading")
)
LOOKS_WITH_BACKGROUND = frozenset(("plain", "watercolour", "pastel", "mosaic"))  # they keep its colour
TRAINING_LOOKS: tuple[str, ...] = tuple(_TRAINING)
HELD_OUT_LOOKS: tuple[str, ...] = tuple(_HELD_OUT)  # for evaluation; of the networks only the judge sees some
LOOKS: dict[str, Look] = {"plain": plain, **_TRAINING, **_HELD_OUT}
