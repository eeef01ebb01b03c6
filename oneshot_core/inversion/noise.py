"""Noise maps that are optimised with a code: what keeps them noise; and the jitter of the code.

Left alone they would carry the picture themselves, so that the code had nothing to say.

Source: NVIDIA's projector (StyleGAN2, arXiv 1912.04958, appendix D; stylegan2-ada-pytorch projector.py);
rosinality/stylegan2-pytorch projector.py, which differs in what it divides by (editing.md 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

COARSEST_PX = 8  # down to which maps are averaged and looked at again
JITTER, JITTER_UNTIL = 0.05, 0.75  # of the code, of the spread of random codes; fraction of the steps


def noise_regulariser(maps: Sequence[Tensor], jointly: bool = False) -> Tensor:
    """How much neighbours in noise maps resemble one another, at every scale down to 8 px.

    Args:
        maps: [N, 1, r, r] each.
        jointly: means run over all N pictures, as rosinality's program takes them.

    Returns:
        [N], or with `jointly` [1]: the sum over maps, scales and both directions of (mean n * shifted n)^2.
    """
    total = torch.zeros(1 if jointly else len(maps[0])).to(maps[0])
    for noise in maps:
        level = noise
        while True:
            for axis in (3, 2):
                product = level * torch.roll(level, 1, dims=axis)
                means = product.mean() if jointly else product.mean(dim=(1, 2, 3))
                total = total + means.square()
            if level.shape[-1] <= COARSEST_PX:
                break
            level = F.avg_pool2d(level, 2)
    return total


def normalised(noise: Tensor, unbiased: bool = False, jointly: bool = False) -> Tensor:
    """Noise of mean 0 and size 1.

    Args:
        noise: [N, 1, r, r].
        unbiased: divide by the unbiased standard deviation, as rosinality's program does; else by the root of
            the mean square, as NVIDIA's.
        jointly: statistics of all N pictures at once.
    """
    places = (0, 1, 2, 3) if jointly else (1, 2, 3)
    centred = noise - noise.mean(dim=places, keepdim=True)
    if unbiased:
        return centred / noise.std(dim=places, keepdim=True)
    return centred * centred.square().mean(dim=places, keepdim=True).rsqrt()


def jitter_at(step: int, steps: int) -> float:
    """Strength of the noise that is added to a code at step 0, 1, ..., as a share of random codes' spread."""
    return float(JITTER * max(0.0, 1.0 - step / steps / JITTER_UNTIL) ** 2)
