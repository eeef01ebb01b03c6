"""Layers of a drawn picture: soft-edged shapes, each with colour and light, put on top of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

UNITS = 128.0  # all lengths called "units" are pixels of a picture of this width
_SOFT_PX = 1.4  # width of the ramp from covered to not covered, in pixels of the picture
_FAR_UNITS = 12.0  # distances are cut off here: nothing looks further than that from an outline


@dataclass(frozen=True)
class Layer:
    """One shape of a picture.

    Attributes:
        region: what it shows, such as "skin"; looks treat regions differently.
        distance: [N, 1, H, W], signed distance to its outline in units, negative inside.
        colour: [N or 1, 3, H or 1, W or 1] in [0, 1], without light and shade.
        light: [N or 1, 1, H or 1, W or 1], about 0.4 (shade) to 1.2 (lit).
        opacity: [N or 1, 1, H or 1, W or 1] in [0, 1].
        line: how wide looks with outlines draw this one compared to others, 0 (not at all) to 1.
        solid: a stroke by itself, which such looks fill instead of outlining it.
    """

    region: str
    distance: Tensor
    colour: Tensor
    light: Tensor
    opacity: Tensor
    line: float = 1.0
    solid: bool = False


@dataclass(frozen=True)
class Portrait:
    """A drawn picture before it gets a look.

    Attributes:
        layers: back to front.
        albedo: [N, 3, H, W] in [0, 1], colours without light.
        light: [N, 1, H, W], about 0.4 to 1.2.
        regions: visible part of each region, [N, 1, H, W] in [0, 1]; they sum to 1.
        column, row: [1, 1, 1, W] and [1, 1, H, 1], pixel centres in units (0 to 128).
    """

    layers: tuple[Layer, ...]
    albedo: Tensor
    light: Tensor
    regions: Mapping[str, Tensor]
    column: Tensor
    row: Tensor

    @property
    def size_px(self) -> int:
        """Width and height in pixels."""
        return self.column.shape[-1]

    @property
    def shaded(self) -> Tensor:
        """Colours under their light, [N, 3, H, W] in [0, 1]; shade turns slightly bluish, light warm."""
        tint = torch.tensor([0.94, 1.0, 1.12], device=self.light.device, dtype=self.light.dtype)
        shade = self.light ** tint.view(1, 3, 1, 1).reciprocal()
        return (self.albedo * shade).clamp(0.0, 1.0)

    def region(self, *names: str) -> Tensor:
        """Return the visible part of some regions together, [N, 1, H, W]; absent ones count as nothing."""
        present = [self.regions[name] for name in names if name in self.regions]
        return torch.stack(present).sum(0) if present else torch.zeros_like(self.light)

    def lines(self, width: float) -> Tensor:
        """Draw the visible outlines.

        Args:
            width: of the stroke, in units.

        Returns:
            [N, 1, H, W] in [0, 1], 1 on a line.
        """
        ink = torch.zeros_like(self.light)
        for layer in self.layers:
            ink = torch.maximum(ink * (1 - self._cover(layer)), self._stroke(layer, width))
        return ink

    def coloured_lines(self, width: float, palette: Mapping[str, Tensor]) -> Tensor:
        """Draw the visible outlines, each in its region's colour.

        Args:
            width: of the stroke, in units.
            palette: colour per region, [N or 1, 3, 1, 1]; regions that are not named stay black.

        Returns:
            [N, 3, H, W] in [0, 1], black where there is no line.
        """
        ink = torch.zeros_like(self.albedo)
        for layer in self.layers:
            ink = ink * (1 - self._cover(layer))
            if layer.region in palette:
                ink = torch.maximum(ink, self._stroke(layer, width) * palette[layer.region])
        return ink

    def _cover(self, layer: Layer) -> Tensor:
        """Return how much of each pixel the layer covers, opacity included, [N, 1, H, W]."""
        return coverage(layer.distance, self.size_px) * layer.opacity

    def _stroke(self, layer: Layer, width: float) -> Tensor:
        """Return the layer's outline, [N, 1, H, W]."""
        if layer.line == 0:
            return torch.zeros_like(self.light)
        outline = layer.distance if layer.solid else layer.distance.abs() - layer.line * width / 2
        return coverage(outline, self.size_px) * layer.opacity


def flatten(layers: Sequence[Layer], column: Tensor, row: Tensor) -> Portrait:
    """Put layers on top of each other.

    Args:
        layers: back to front; the first must cover everything.
        column, row: pixel centres in units, see `Portrait`.

    Returns:
        The portrait, with the visible part of every region.
    """
    size_px = column.shape[-1]
    remaining = torch.ones_like(layers[-1].distance)
    albedo: Tensor | float = 0.0
    light: Tensor | float = 0.0
    regions: dict[str, Tensor] = {}
    for layer in reversed(layers):
        visible = coverage(layer.distance, size_px) * layer.opacity * remaining
        remaining = remaining - visible
        albedo = albedo + visible * layer.colour
        light = light + visible * layer.light
        regions[layer.region] = regions[layer.region] + visible if layer.region in regions else visible
    assert isinstance(albedo, Tensor) and isinstance(light, Tensor)
    return Portrait(tuple(layers), albedo, light, regions, column, row)


def distance(field: Tensor) -> Tensor:
    """Turn an implicit shape (negative inside) into a signed distance to its outline.

    The field is divided by its slope, so any smooth function will do, whatever its scale.

    Args:
        field: [N, 1, H, W], H and W the picture's.

    Returns:
        [N, 1, H, W], units, exact near the outline, cut off at 12.
    """
    unit = UNITS / field.shape[-1]
    across = F.pad(field[..., 2:] - field[..., :-2], (1, 1, 0, 0), mode="replicate")
    down = F.pad(field[..., 2:, :] - field[..., :-2, :], (0, 0, 1, 1), mode="replicate")
    slope = (across.square() + down.square()).sqrt().mul(0.5 / unit).clamp_min(1e-4)
    return (field / slope).clamp(-_FAR_UNITS, _FAR_UNITS)


def coverage(distance_units: Tensor, size_px: int) -> Tensor:
    """Return how much of each pixel lies inside an outline.

    Args:
        distance_units: signed distance in units.
        size_px: width of the picture.

    Returns:
        Same shape, in [0, 1], with a soft ramp of 1.4 pixels.
    """
    return (0.5 - distance_units * (size_px / UNITS / _SOFT_PX)).clamp(0.0, 1.0)


def ease(value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Rise smoothly from 0 at `low` to 1 at `high` (falls when `high` is below `low`)."""
    share = ((value - low) / (high - low)).clamp(0.0, 1.0)
    return share * share * (3 - 2 * share)


def mix(start: Tensor, end: Tensor, share: Tensor | float) -> Tensor:
    """Blend from `start` (share 0) to `end` (share 1); shapes broadcast."""
    return start + (end - start) * share


def rgb(like: Tensor, red: float, green: float, blue: float) -> Tensor:
    """Return one colour, [1, 3, 1, 1] in [0, 1], with the device and dtype of `like`."""
    return torch.tensor([red, green, blue], device=like.device, dtype=like.dtype).view(1, 3, 1, 1)


def hsv(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """Return colours from hue, saturation and value.

    Args:
        hue: [N, 1, H, W], full circle is 1, any real.
        saturation, value: in [0, 1], broadcast with hue.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    offsets = torch.tensor([5.0, 3.0, 1.0], device=hue.device, dtype=hue.dtype).view(1, 3, 1, 1)
    phase = (offsets + hue * 6.0) % 6.0
    return value * (1 - saturation * torch.minimum(phase, 4 - phase).clamp(0.0, 1.0))


def ramp(table: Sequence[tuple[float, float, float]], position: Tensor) -> Tensor:
    """Look colours up in a table, linear in between.

    Args:
        table: colours at equal steps from position 0 to 1.
        position: [N, 1, 1, 1] in [0, 1].

    Returns:
        [N, 3, 1, 1].
    """
    scaled = position.clamp(0.0, 1.0) * (len(table) - 1)
    parts = [
        rgb(position, *colour) * (1 - (scaled - index).abs()).clamp_min(0.0)
        for index, colour in enumerate(table)
    ]
    return torch.stack(parts).sum(0)
