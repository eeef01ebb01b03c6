"""Pictures made smaller before they are compared, as Mind the Gap and StyleCLIP do."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .tensors import Images

CUBIC = -0.5  # the free number of the cubic filter: Catmull-Rom


def bicubic_taps(factor: int) -> Tensor:
    """Filter of 4 * factor taps that makes pictures smaller by a whole factor; float32, of sum 1."""
    places = (torch.arange(4 * factor, dtype=torch.float32) + 0.5) / factor - 2
    x = places.abs()
    near = (CUBIC + 2) * x**3 - (CUBIC + 3) * x**2 + 1
    far = CUBIC * x**3 - 5 * CUBIC * x**2 + 8 * CUBIC * x - 4 * CUBIC
    taps = torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    return taps / taps.sum()


def downsample(images: Images, factor: int) -> Images:
    """Make pictures smaller by a whole factor, differentiable, with a filter against aliasing.

    Args:
        images: [N, 3, H, W], sides divisible by the factor and larger than 3 * factor / 2.
        factor: 1 leaves them as they are.

    Returns:
        [N, 3, H / factor, W / factor].

    Source: the bicubic downsampler of PULSE, taken over by Mind the Gap: filter in float32, reflected edges.
    """
    if factor == 1:
        return images
    taps = bicubic_taps(factor).to(images)
    before = (3 * factor) // 2
    padded = F.pad(images, (before, 3 * factor - before) * 2, mode="reflect")
    channels = images.shape[1]
    column = taps.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1)
    row = taps.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    lower = F.conv2d(padded, column, stride=(factor, 1), groups=channels)
    return F.conv2d(lower, row, stride=(1, factor), groups=channels)


def enlarged_average(images: Images, enlarge: int, average: int) -> Images:
    """Repeat every pixel `enlarge` times each way, then average squares of `average` pixels.

    Computed as A X A^T, whose result is that of the chain but for rounding: the enlarged picture would take
    600 MB at 1024 px. A's rows weigh the pixels that a square covers, also by fractions.

    Args:
        images: [N, 3, H, W].
        enlarge: whole factor, at least 1.
        average: side of the squares, at least 1 and at most `enlarge` times a side; what is left over at the
            right and the bottom is dropped.

    Returns:
        [N, 3, enlarge * H // average, enlarge * W // average].

    Source: orpatashnik/StyleCLIP criteria/clip_loss.py, nearest upsampling and average pooling.
    """
    rows, columns = (
        _enlarged_average(side, enlarge, average, images.dtype, images.device) for side in images.shape[-2:]
    )
    return rows @ images @ columns.T


@lru_cache(maxsize=8)
def _enlarged_average(
    side: int, enlarge: int, average: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The matrix A [enlarge * side // average, side] of `enlarged_average` along one axis."""
    count = enlarge * side // average
    with torch.inference_mode(False):
        source = torch.arange(count * average).div(enlarge, rounding_mode="floor")
        target = torch.arange(count).repeat_interleave(average)
        matrix = torch.zeros(count, side, dtype=torch.float64)
        matrix.index_put_((target, source), torch.tensor(1 / average, dtype=torch.float64), accumulate=True)
        return matrix.to(device, dtype)


def as_pictures(images: Images) -> list[Image.Image]:
    """Pictures of 8 bits a channel, as files hold them; [N, 3, H, W] in [-1, 1]."""
    levels = (images.detach().float().clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8)
    return [Image.fromarray(one.permute(1, 2, 0).cpu().numpy()) for one in levels]


def reduced_picture(images: Images, factor: int) -> Images:
    """Make target pictures smaller with Pillow's Lanczos filter, in 8 bits, as the published code does.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        factor: 1 leaves them as they are.

    Returns:
        [N, 3, H / factor, W / factor] in [-1, 1], without gradient.
    """
    if factor == 1:
        return images.detach()
    if images.is_meta:
        return images.detach()[:, :, ::factor, ::factor]
    small = [
        one.resize((one.width // factor, one.height // factor), Image.Resampling.LANCZOS)
        for one in as_pictures(images)
    ]
    values = torch.from_numpy(np.stack([np.asarray(one) for one in small])).permute(0, 3, 1, 2)
    return values.to(images) / 255 * 2 - 1
