"""Loss curves as a picture: one small panel per loss, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from . import FAINT, INK, PAPER, font, save_png, shortened

MAX_POINTS = 400  # of a curve that a page draws some hundred pixels wide
SCALE = 3  # drawn larger and reduced, which smooths the lines
PANEL_PX = (340, 210)  # width and height of a panel
TITLE_PX, TICK_PX = 16, 12
GRID_LINE, FRAME = (231, 233, 237), (176, 180, 187)
COLOURS = (
    (31, 111, 180), (214, 96, 20), (36, 138, 72), (178, 44, 60), (118, 84, 168), (130, 92, 70),
    (196, 76, 150), (80, 86, 94), (150, 140, 20), (14, 142, 156),
)  # fmt: skip


@dataclass(frozen=True)
class _Curve:
    """Finite points of one loss: step numbers from 1, values, and their moving average."""

    name: str
    steps: list[int]
    values: list[float]
    smooth: list[float]


def plot_points(
    losses: Mapping[str, Sequence[float]], most: int = MAX_POINTS
) -> dict[str, list[list[float]]]:
    """Thin loss curves to what a plot can show.

    Args:
        losses: per name one value per step; NaN or infinite where a step has none.
        most: points of a curve, at least 4.

    Returns:
        {name: [[step, value], ...]} with steps from 1, JSON values of five digits. First and last point, and
        the least and the greatest of every stretch, are kept, so that no spike is lost.
    """
    return {name: _thinned(values, most) for name, values in losses.items()}


def _thinned(values: Sequence[float], most: int) -> list[list[float]]:
    points = [[step, float(f"{v:.5g}")] for step, v in enumerate(values, 1) if math.isfinite(v)]
    if len(points) <= most:
        return points
    inner, stretches = points[1:-1], (most - 2) // 2
    kept = [points[0]]
    for number in range(stretches):
        part = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        ends = (min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1]))
        kept += sorted(ends, key=lambda point: point[0])[: 1 + (ends[0] is not ends[1])]
    return [*kept, points[-1]]


def loss_plot(
    losses: Mapping[str, Sequence[float]],
    path: Path | str,
    *,
    title: str = "",
    smooth: int = 0,
    columns: int = 3,
) -> Path:
    """Draw every loss over the steps and write a PNG file.

    Args:
        losses: per name one value per step; NaN or infinite where a step has none.
        path: final name.
        title: above all panels.
        smooth: points of the moving average; 0: a twentieth of the curve's points, 1: none.
        columns: panels per line.

    Returns:
        The path.

    Raises:
        ValueError: no loss has a finite value.
    """
    curves = [curve for name, values in losses.items() if (curve := _curve(name, values, smooth))]
    if not curves:
        raise ValueError("there is nothing to plot: no loss has a finite value")
    last = max(len(values) for values in losses.values())
    return save_png(_sheet(curves, last, title, min(columns, len(curves))), path)


def moving_average(values: Sequence[float], width: int) -> list[float]:
    """Average each value with its neighbours, `width` points in all, fewer at both ends."""
    before = (width - 1) // 2
    after = width - 1 - before
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    ends = [(max(0, index - before), min(len(values), index + after + 1)) for index in range(len(values))]
    return [(sums[high] - sums[low]) / (high - low) for low, high in ends]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """List round numbers within [low, high], about that many, in steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _curve(name: str, values: Sequence[float], smooth: int) -> _Curve | None:
    points = [(index + 1, value) for index, value in enumerate(values) if math.isfinite(value)]
    if not points:
        return None
    steps, finite = [step for step, _ in points], [value for _, value in points]
    return _Curve(name, steps, finite, moving_average(finite, smooth or max(1, len(finite) // 20)))


def _extent(curve: _Curve) -> tuple[float, float]:
    """Range of the value axis: nearly all raw values, so that single spikes do not flatten the curve."""
    ranked = sorted(curve.values)
    cut = len(ranked) // 100
    low = min(ranked[cut], min(curve.smooth))
    high = max(ranked[-1 - cut], max(curve.smooth))
    if low >= 0 and low < 0.35 * high:
        low = 0.0
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (low if low == 0 and high > 0 else low - pad), high + pad


def _sheet(curves: Sequence[_Curve], last: int, title: str, columns: int) -> Image.Image:
    margin, gap = 18, 22
    width, height = PANEL_PX
    lines = -(-len(curves) // columns)
    top = margin + (34 if title else 0)
    legend = 42
    size = (
        2 * margin + columns * width + (columns - 1) * gap,
        top + lines * height + (lines - 1) * gap + legend + margin // 2,
    )
    sheet = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), PAPER)
    pen = _Pen(ImageDraw.Draw(sheet))
    if title:
        pen.text((margin, margin), shortened(title, size[0] - 2 * margin, 20), 20, INK)
    for index, curve in enumerate(curves):
        corner = (margin + index % columns * (width + gap), top + index // columns * (height + gap))
        _Panel(pen, curve, last, corner, COLOURS[index % len(COLOURS)]).draw()
    _legend(pen, (margin, size[1] - 28))
    return sheet.resize(size, Image.Resampling.LANCZOS)


def _legend(pen: _Pen, place: tuple[int, int]) -> None:
    """Say what the pale and the strong line are."""
    x, y = place
    grey = (80, 86, 94)
    pen.line([(x, y + 9), (x + 26, y + 9)], _pale(grey), 1.2)
    pen.text((x + 34, y), "each step", TICK_PX + 1, FAINT)
    pen.line([(x + 118, y + 9), (x + 144, y + 9)], grey, 2.0)
    pen.text((x + 152, y), "moving average; unweighted values over steps", TICK_PX + 1, FAINT)


def _pale(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (255 - (255 - channel) * 3 // 10 for channel in colour)
    return red, green, blue


@dataclass(frozen=True)
class _Pen:
    """Draws in final pixels on the enlarged sheet."""

    draw: ImageDraw.ImageDraw

    def line(
        self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int], width: float = 1.0
    ) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.draw.line(scaled, fill=colour, width=max(1, round(width * SCALE)), joint="curve")

    def text(
        self,
        place: tuple[float, float],
        words: str,
        size_px: int,
        colour: tuple[int, int, int],
        anchor: str = "la",
    ) -> None:
        scaled = (place[0] * SCALE, place[1] * SCALE)
        self.draw.text(scaled, words, fill=colour, font=font(size_px * SCALE), anchor=anchor)


@dataclass(frozen=True)
class _Panel:
    """One loss: axes, ticks, the raw line and its moving average."""

    pen: _Pen
    curve: _Curve
    last: int  # last step of the horizontal axis
    corner: tuple[int, int]  # top left, in final pixels
    colour: tuple[int, int, int]

    def draw(self) -> None:
        """Draw the panel."""
        x, y = self.corner
        width, height = PANEL_PX
        self._heading(x, y, width)
        left, top, right, bottom = x + 46, y + 30, x + width, y + height - 22
        low, high = _extent(self.curve)
        first = 1 if self.last > 1 else 0

        def across(step: float) -> float:
            return left + (step - first) / max(1, self.last - first) * (right - left)

        def up(value: float) -> float:
            part = min(1.0, max(0.0, (value - low) / (high - low)))
            return bottom - part * (bottom - top)

        for value in ticks(low, high):
            self.pen.line([(left, up(value)), (right, up(value))], GRID_LINE)
            self.pen.text((left - 6, up(value)), _number(value, high - low), TICK_PX, FAINT, "rm")
        for value in _step_ticks(first, self.last):
            self.pen.line([(across(value), bottom), (across(value), bottom + 4)], FRAME)
            self.pen.text((across(value), bottom + 7), f"{value:,}", TICK_PX, FAINT, "ma")
        raw = [(across(s), up(v)) for s, v in zip(self.curve.steps, self.curve.values, strict=True)]
        smooth = [(across(s), up(v)) for s, v in zip(self.curve.steps, self.curve.smooth, strict=True)]
        self._trace(raw, _pale(self.colour), 0.9)
        self._trace(smooth, self.colour, 1.8)
        self.pen.line([(left, top), (left, bottom), (right, bottom)], FRAME)

    def _heading(self, x: int, y: int, width: int) -> None:
        """Name on the left, the last averaged value on the right."""
        value = f"{self.curve.smooth[-1]:.4g}"
        room = width - round(font(TITLE_PX).getlength(value)) - 12
        self.pen.text((x, y), shortened(self.curve.name.replace("_", " "), room, TITLE_PX), TITLE_PX, INK)
        self.pen.text((x + width, y), value, TITLE_PX, self.colour, "ra")

    def _trace(self, points: list[tuple[float, float]], colour: tuple[int, int, int], width: float) -> None:
        if len(points) == 1:
            (x, y), radius = points[0], width + 0.8
            self.pen.draw.ellipse(
                [(x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE],
                fill=colour,
            )
            return
        self.pen.line(points, colour, width)


def _step_ticks(first: int, last: int) -> list[int]:
    """Whole step numbers for the horizontal axis, the first one included."""
    found = sorted({round(value) for value in ticks(0, last, 4)} - {0})
    return [first, *(value for value in found if value - first > (last - first) / 10)]


def _number(value: float, span: float) -> str:
    """Write a tick's number with as many digits as the axis needs."""
    if value and (abs(value) >= 100_000 or span < 1e-4):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    digits = max(0, 1 - math.floor(math.log10(span / 4))) if span < 20 else 0
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
