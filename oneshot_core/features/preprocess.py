"""From the engine's pictures, and from files, to what CLIP reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..tensors import Images, check_shape

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipPreprocess:
    """From the engine's pictures to what CLIP reads: range, resize and normalisation in one place.

    The default is the method's: x -> 0.5 x + 0.5, bicubic (a = -0.75, half-pixel centres, no antialias, no
    clamp) to a square whatever the aspect ratio, then mean and standard deviation per channel.

    Source: methods.md A; cyclomon/OneshotCLIP train_oneshot.py. `antialias=True` is this project's option.
    """

    image_size: int = 224  # side in pixels that the model reads
    interpolation: str = "bicubic"  # or "bilinear"
    antialias: bool = False  # low-pass before shrinking; bicubic then has a = -0.5
    keeps_aspect: bool = False  # the shorter side is fitted and the middle taken, as in CLIP's own code
    value_range: tuple[float, float] = (-1.0, 1.0)  # what becomes 0 and 1; values outside are kept
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    dtype: torch.dtype | None = None  # in which it computes; None: the pictures' own

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size must be at least 1 pixel, got {self.image_size}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation must be 'bicubic' or 'bilinear', got {self.interpolation!r}")
        if not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range must be (low, high) with low < high, got {self.value_range}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"mean and std are three numbers each, std positive; got {self.mean}, {self.std}"
            )

    def __call__(self, images: Images) -> Tensor:
        """Prepare pictures for CLIP.

        Args:
            images: [N, 3, H, W] in `value_range`, any size.

        Returns:
            [N, 3, image_size, image_size], differentiable, in `dtype` (or the pictures' own).
        """
        check_shape(images, "images", (None, 3, None, None))
        x = images if self.dtype is None else images.to(self.dtype)
        low, high = self.value_range
        x = x * (1.0 / (high - low)) - low / (high - low)
        size = self._fitted(*x.shape[-2:])
        if x.shape[-2:] != size:  # at equal size the resize is the exact identity
            x = F.interpolate(
                x, size=size, mode=self.interpolation, align_corners=False, antialias=self.antialias
            )
        top, left = (round((side - self.image_size) / 2) for side in size)
        x = x[:, :, top : top + self.image_size, left : left + self.image_size]
        mean, std = (_channels(values, x.dtype, x.device) for values in (self.mean, self.std))
        return (x - mean) / std

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which pictures are resized."""
        if not self.keeps_aspect or height == width:
            return self.image_size, self.image_size
        longer = int(self.image_size * max(height, width) / min(height, width))
        return (longer, self.image_size) if height > width else (self.image_size, longer)

    def of_picture(self, picture: Image.Image) -> Tensor:
        """Prepare a picture file as CLIP's own code does: resized by Pillow in 8 bits, the middle taken.

        Returns:
            [1, 3, image_size, image_size], float64.

        Source: openai/CLIP clip.py, its transform of pictures.
        """
        width, height = picture.size
        fitted = replace(self, keeps_aspect=True)._fitted(height, width)
        small = picture.convert("RGB").resize(fitted[::-1], Image.Resampling.BICUBIC)
        top, left = (round((side - self.image_size) / 2) for side in fitted)
        small = small.crop((left, top, left + self.image_size, top + self.image_size))
        x = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None].double() / 255
        mean, std = (_channels(values, x.dtype, x.device) for values in (self.mean, self.std))
        return (x - mean) / std


@lru_cache(maxsize=32)
def _channels(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return [1, C, 1, 1] constants, made once per device and outside inference mode (they enter graphs)."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)
