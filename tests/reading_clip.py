"""A stand-in CLIP that reads texts, and short edits of a tiny generator with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from stand_ins import StandInClip, tiny_bundle

from oneshot_core.editing import EditConfig, EditResult, edit_latents
from oneshot_core.latents import Latent
from oneshot_core.sampling import random_latents
from oneshot_core.tensors import seeded

SIZE = 16
TEXT, NEUTRAL = "a face with a hat", "a face"


class ReadingClip(StandInClip):
    """A stand-in that reads text: each one is a random direction."""

    name = "reading"

    def check_text(self, text: str) -> None:
        """It knows all words."""

    def text_notes(self, text: str) -> list[str]:
        """It reads all of them."""
        return []

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        drawn = [torch.randn(12, generator=seeded(0, 0, text)) for text in texts]
        return F.normalize(torch.stack(drawn), dim=1)


class Knowing(torch.nn.Module):
    """A stand-in that recognises faces by unit features of 2x2 averages."""

    name = "knowing"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.adaptive_avg_pool2d(images, 2).flatten(1) + 1, dim=1)


def edit(
    latent: Latent | None = None, config: EditConfig | None = None, text: str = TEXT, **settings
) -> EditResult:
    bundle = tiny_bundle(SIZE)
    latent = latent or random_latents(bundle, [0])
    return edit_latents(bundle, ReadingClip(), latent, text, config or EditConfig(steps=4), **settings)


def similarity(images: torch.Tensor, text: str = TEXT) -> torch.Tensor:
    return ReadingClip().encode_images(images) @ ReadingClip().encode_text([text])[0]
