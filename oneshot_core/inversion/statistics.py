"""Where random codes of a generator lie: their mean, at which projectors start, and their spread.

Source: NVIDIA's projector (stylegan2-ada-pytorch projector.py); rosinality/stylegan2-pytorch projector.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..networks import Generator
from ..tensors import seeded

CHUNK = 1_000
DRAWS = ("numpy", "torch")  # NVIDIA's RandomState(seed).randn, or this project's seeded draws


@dataclass(frozen=True)
class CodeStatistics:
    """Mean and spread of random codes.

    Args:
        mean: [W].
        spread: the root of the mean squared distance from it, summed over all dimensions: one number.
    """

    mean: Tensor
    spread: float

    @classmethod
    def of(cls, generator: Generator, z: Tensor) -> CodeStatistics:
        """Measure given latents.

        Args:
            generator: any device and dtype, without classes.
            z: [N, Z].

        Returns:
            The mean in float64 on the CPU.
        """
        return cls._measured(generator, iter(z.split(CHUNK)))

    @classmethod
    def measured(cls, generator: Generator, samples: int, seed: int, draw: str = DRAWS[0]) -> CodeStatistics:
        """Measure random latents.

        Args:
            generator: see `of`.
            samples: how many.
            seed: of their draws.
            draw: "numpy": all at once as NVIDIA's tools draw them, so that published seeds mean the same;
                "torch": as this project draws everything else.
        """
        size = generator.config.z_dim
        if draw == "numpy":
            z = torch.from_numpy(np.random.RandomState(seed).randn(samples, size))
            return cls.of(generator, z)
        return cls._measured(generator, _drawn(samples, size, seed))

    @classmethod
    def _measured(cls, generator: Generator, chunks: Iterator[Tensor]) -> CodeStatistics:
        like = generator.mapping.layers[0].weight
        with torch.inference_mode(False), torch.no_grad():
            w = torch.cat([generator.map_single(z.to(like)).cpu().double() for z in chunks])
            mean = w.mean(dim=0)
            return cls(mean, float(((w - mean).square().sum() / len(w)).sqrt()))


def _drawn(samples: int, size: int, seed: int) -> Iterator[Tensor]:
    for step, start in enumerate(range(0, samples, CHUNK)):
        count = min(CHUNK, samples - start)
        yield torch.randn(count, size, generator=seeded(seed, step, "statistics.z"))
