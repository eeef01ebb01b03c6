"""Random views of an image for the CLIP term of the latent search.

Source: methods.md A; cyclomon/OneshotCLIP train_oneshot.py `augment`. Image operations are torchvision's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from torch import Tensor
from torchvision.transforms import InterpolationMode

from .draws import Draws
from .tensors import Images

ERASE_TRIES = 10  # rectangles drawn until one fits, as torchvision does


@dataclass(frozen=True)
class ViewAugmentation:
    """Affine, perspective, colour jitter, erasing, resize, in this order; one set of parameters per view.

    Args:
        views: pictures that are compared with the target; 1 with the official parameters equals its 8, which
            share
            one draw and so are identical.
        nearest_affine: sample the affine step with nearest neighbours, as the official code does; else
            bilinear.
        jitter_on_signed: jitter values in [-1, 1] with a clamp to [0, 1], as the official code does:
            everything
            darker than mid-grey becomes 0. Else the jitter runs on [0, 1].
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
        mode = InterpolationMode.NEAREST if self.nearest_affine else InterpolationMode.BILINEAR
        shear = [signed[3] * self.shear_degrees, 0.0]
        return TF.affine(image, signed[0] * self.degrees, shift, 1.0, shear, mode)

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
        return TF.perspective(image, start, end, InterpolationMode.BILINEAR)

    def _jittered(self, image: Images, u: Tensor) -> Images:
        values = image if self.jitter_on_signed else (image + 1) / 2
        factors = ((2 * u[:4] - 1) * self.jitter).tolist()
        for which in u[4:].argsort().tolist():  # a random order
            if which == 0:
                values = TF.adjust_brightness(values, 1 + factors[0])
            elif which == 1:
                values = TF.adjust_contrast(values, 1 + factors[1])
            elif which == 2:
                values = TF.adjust_saturation(values, 1 + factors[2])
            else:
                values = TF.adjust_hue(values, factors[3])
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
