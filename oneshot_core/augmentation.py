"""Random views of an image for the CLIP term of the latent search.

Source: methods.md A; cyclomon/OneshotCLIP train_oneshot.py `augment`. Image operations are torchvision's, but
for two that turn single pixels into NaN, one of which is enough to spoil a search: its perspective divides by
zero on the line that the view sends to infinity, and its hue where a picture that is not clamped has 0 as the
largest channel. Where torchvision's values are finite, these here are the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from .draws import Draws
from .tensors import Images

ERASE_TRIES = 10  # rectangles drawn until one fits, as torchvision does
# Coordinates in a sampling grid: of no use beyond; certainly out of a picture's -1 to 1.
FAR, OUTSIDE = 1e6, -3.0
# Below it the square of a pixel's largest channel vanishes, by which the gradient of hue divides.
BLACK = 1e-18

Corners: TypeAlias = Sequence[Sequence[int]]  # x, y in pixels: top left, top right, bottom right, bottom left


@cache
def _torchvision() -> Any:
    """Its image operations; imported late, since that takes two seconds, which few commands need."""
    import torchvision.transforms.functional as operations

    return operations


@dataclass(frozen=True)
class ViewAugmentation:
    """Affine, perspective, colour jitter, erasing, resize, in this order; one set of parameters per view.

    Args:
        views: pictures that are compared with the target; 1 with the official parameters equals its 8, which
            share one draw and so are identical.
        nearest_affine: sample the affine step with nearest neighbours, as the official code does; else
            bilinear.
        jitter_on_signed: jitter values in [-1, 1] with a clamp to [0, 1], as the official code does:
            everything darker than mid-grey becomes 0. Else the jitter runs on [0, 1].
    """

    views: int = 8
    nearest_affine: bool = False
    jitter_on_signed: bool = False
    degrees: float = 15.0
    translate: float = 0.1  # fraction of each side
    shear_degrees: float = 5.0
    distortion: float = 0.7  # of the perspective step
    jitter: float = 0.1  # brightness, contrast and saturation factors in 1 +- jitter, hue shift in +- jitter
    erase_probability: float = 0.7
    erase_area: tuple[float, float] = (0.1, 0.4)
    erase_ratio: tuple[float, float] = (0.3, 3.33)
    view_px: int | None = None  # side of a finished view, the size CLIP reads; None: the image's own

    def __call__(self, image: Images, draws: Draws, step: int) -> Images:
        """Return `views` random views [views, 3, H, W] of one image [1, 3, H, W], differentiable."""
        return torch.cat([self._view(image, draws, step, f"view.{index}") for index in range(self.views)])

    def _view(self, image: Images, draws: Draws, step: int, purpose: str) -> Images:
        image = self._affine(image, draws.uniform(step, f"{purpose}.affine", (4,)))
        image = self._perspective(image, draws.uniform(step, f"{purpose}.perspective", (8,)))
        image = self._jittered(image, draws.uniform(step, f"{purpose}.jitter", (8,)))
        image = self._erased(image, draws, step, f"{purpose}.erase")
        if self.view_px is None:
            return image
        side = (self.view_px, self.view_px)
        return F.interpolate(image, side, mode="bilinear", align_corners=False, antialias=False)

    def _affine(self, image: Images, u: Tensor) -> Images:
        height, width = image.shape[-2:]
        signed = (2 * u - 1).tolist()
        shift = [round(signed[1] * self.translate * width), round(signed[2] * self.translate * height)]
        modes = _torchvision().InterpolationMode
        mode = modes.NEAREST if self.nearest_affine else modes.BILINEAR
        shear = [signed[3] * self.shear_degrees, 0.0]
        return _torchvision().affine(image, signed[0] * self.degrees, shift, 1.0, shear, mode)

    def _perspective(self, image: Images, u: Tensor) -> Images:
        """Move each corner inwards by up to `distortion` / 2 of the side."""
        height, width = image.shape[-2:]
        reach_x, reach_y = int(self.distortion * (width // 2)), int(self.distortion * (height // 2))
        dx = [int(value * (reach_x + 1)) for value in u[:4].tolist()]
        dy = [int(value * (reach_y + 1)) for value in u[4:].tolist()]
        right, bottom = width - 1, height - 1
        start = [[0, 0], [right, 0], [right, bottom], [0, bottom]]
        end = [
            [dx[0], dy[0]],
            [right - dx[1], dy[1]],
            [right - dx[2], bottom - dy[2]],
            [dx[3], bottom - dy[3]],
        ]
        return perspective(image, start, end)

    def _jittered(self, image: Images, u: Tensor) -> Images:
        values = image if self.jitter_on_signed else (image + 1) / 2
        factors = ((2 * u[:4] - 1) * self.jitter).tolist()
        for which in u[4:].argsort().tolist():  # a random order
            if which == 0:
                values = _torchvision().adjust_brightness(values, 1 + factors[0])
            elif which == 1:
                values = _torchvision().adjust_contrast(values, 1 + factors[1])
            elif which == 2:
                values = _torchvision().adjust_saturation(values, 1 + factors[2])
            else:
                values = shifted_hue(values, factors[3])
        return values if self.jitter_on_signed else values * 2 - 1

    def _erased(self, image: Images, draws: Draws, step: int, purpose: str) -> Images:
        """Set a rectangle to 0 (mid-grey): the first of some drawn rectangles that fits, else none."""
        chance, area, ratio, top, left = draws.uniform(step, purpose, (5,)).tolist()
        if chance >= self.erase_probability:
            return image
        height, width = image.shape[-2:]
        for again in range(1, ERASE_TRIES + 1):
            pixels = height * width * (self.erase_area[0] + area * (self.erase_area[1] - self.erase_area[0]))
            aspect = self.erase_ratio[0] + ratio * (self.erase_ratio[1] - self.erase_ratio[0])
            h, w = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if h < height and w < width:
                y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
                keep = torch.ones_like(image)
                keep[..., y : y + h, x : x + w] = 0
                return image * keep
            area, ratio = draws.uniform(step, f"{purpose}.{again}", (2,)).tolist()
        return image


def perspective(image: Images, start: Corners, end: Corners) -> Images:
    """Map four corners of a picture onto four points, bilinear, 0 (mid-grey) outside.

    Args:
        image: [N, 3, H, W].
        start: corners in the picture.
        end: where they lie in the result.

    Returns:
        [N, 3, H, W], differentiable; a pixel that sees nothing of the picture is 0 and has no gradient.

    Source: torchvision.transforms.functional.perspective, the same to the bit where its grid is finite.
    """
    grid = perspective_grid(start, end, image)
    return F.grid_sample(image, grid.expand(len(image), -1, -1, -1), "bilinear", "zeros", align_corners=False)


def perspective_grid(start: Corners, end: Corners, image: Images) -> Tensor:
    """Say where each pixel of a perspective view looks in the picture.

    A pixel (x, y) looks at ((a x + b y + c) / (g x + h y + 1), (d x + e y + f) / (g x + h y + 1)). Where the
    denominator is 0 it looks along the picture's plane and sees nothing of it, like its neighbours; its
    coordinates, infinite or NaN, are replaced by some outside, and so are those that are absurdly large.

    Args:
        start: corners in the picture.
        end: where they lie in the view.
        image: [N, C, H, W]; its size, dtype and device are the grid's.

    Returns:
        [1, H, W, 2] as (x, y), -1 to 1 within the picture, all below 1e6.
    """
    height, width = image.shape[-2:]
    like = image.detach()
    a, b, c, d, e, f, g, h = _coefficients(start, end)
    scale = like.new_tensor([0.5 * width, 0.5 * height])
    above = like.new_tensor([[[a, b, c], [d, e, f]]]).transpose(1, 2) / scale  # [1, 3, 2]
    below = like.new_tensor([[[g, h, 1.0], [g, h, 1.0]]]).transpose(1, 2)
    places = like.new_ones(1, height, width, 3)  # pixel centres as (x, y, 1)
    places[..., 0] = torch.linspace(0.5, width - 0.5, width, device=image.device)
    places[..., 1] = torch.linspace(0.5, height - 0.5, height, device=image.device)[:, None]
    flat = places.view(1, height * width, 3)
    grid = (flat.bmm(above) / flat.bmm(below) - 1.0).view(1, height, width, 2)
    return torch.where(grid.abs() < FAR, grid, like.new_tensor(OUTSIDE))  # NaN is not below it either


def _coefficients(start: Corners, end: Corners) -> list[float]:
    """Fit the numbers a to h of a perspective map, rounded to float32 as torchvision does."""
    rows = []
    for (x, y), (u, v) in zip(end, start, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    matrix = torch.tensor(rows, dtype=torch.float64)
    wanted = torch.tensor(start, dtype=torch.float64).view(8)
    solved: list[float] = torch.linalg.lstsq(matrix, wanted, driver="gels").solution.float().tolist()
    return solved


def shifted_hue(images: Images, shift: float) -> Images:
    """Turn the hue of pictures whose values may lie beyond [0, 1], as those of a generator do.

    Args:
        images: [N, 3, H, W], nominally in [0, 1].
        shift: -0.5 to 0.5 of a full turn.

    Returns:
        [N, 3, H, W] in [0, 1] but for channels that are the largest of their pixel, differentiable.

    Source: torchvision.transforms.functional.adjust_hue, the same where no division by zero spoils it. Where
        the largest channel is 0 and another is below it, the result is 0, the limit of its neighbours,
        without gradient.
    """
    with torch.no_grad():
        largest, smallest = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
        black = (largest.abs() < BLACK) & (smallest < largest)
    return _torchvision().adjust_hue(torch.where(black, torch.zeros_like(images), images), shift)
