"""Pictures made smaller before they are compared, as Mind the Gap does."""

from __future__ import annotations

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
