"""The same people drawn in every look, kept on the device that trains on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...tensors import Images, seeded
from .faces import draw_looks, factors_from_latents
from .pool import Z_DIM, to_bytes


@dataclass(frozen=True)
class People:
    """Drawn people, each in every look.

    Attributes:
        factors: [P, NUM_FACTORS] on the device.
        images: [P, L, 3, H, W] uint8 on the device.
        layers: [P, 2, H, W] uint8 on the device: background and outlines.
        looks: names of the L looks; the first is "plain".
    """

    factors: Tensor
    images: Tensor
    layers: Tensor
    looks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.factors)

    def pictures(self, people: Tensor, look: int) -> Images:
        """Return some people in one look, [M] indices -> [M, 3, H, W] float32 in [-1, 1]."""
        return self.images[people, look].float() / 127.5 - 1

    def layer_maps(self, people: Tensor) -> Tensor:
        """Return background and outlines of some people, [M, 2, H, W] float32 in [0, 1]."""
        return self.layers[people].float() / 255


def draw_people(
    count: int,
    looks: Sequence[str],
    seed: int,
    device: torch.device,
    batch: int = 64,
    progress: Callable[[int], None] | None = None,
) -> People:
    """Draw people in every look, on the device itself.

    Args:
        count: people.
        looks: names of looks.
        seed: of the faces; the papers change from batch to batch.
        device: where they are drawn and stay; 550 kB per person and ten looks.
        batch: people drawn at once.
        progress: told how many are done.
    """
    z = torch.randn(count, Z_DIM, generator=seeded(seed, 0, "demo.people"))
    factors = factors_from_latents(z).to(device)
    images = torch.empty(count, len(looks), 3, 128, 128, dtype=torch.uint8, device=device)
    layers = torch.empty(count, 2, 128, 128, dtype=torch.uint8, device=device)
    for start in range(0, count, batch):
        part = slice(start, start + batch)
        drawn, maps = draw_looks(factors[part], looks, seed * 100_003 + start)
        images[part], layers[part] = to_bytes(drawn), (maps * 255).round().to(torch.uint8)
        if progress is not None:
            progress(min(start + batch, count))
    return People(factors, images, layers, tuple(looks))
