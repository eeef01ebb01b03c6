"""Sentences around a word, whose mean CLIP feature says more about it than the bare word's.

Source: the prompt engineering of CLIP for ImageNet (openai/CLIP), of which StyleGAN-NADA takes 79 templates;
and its 15 templates of parts of an animal, for the patch term.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .clip import ClipEncoder

BARE = ("{}",)
TEMPLATES = (
    "a bad photo of a {}.", "a sculpture of a {}.", "a photo of the hard to see {}.",
    "a low resolution photo of the {}.", "a rendering of a {}.", "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.", "a tattoo of a {}.", "the embroidered {}.", "a photo of a hard to see {}.",
    "a bright photo of a {}.", "a photo of a clean {}.", "a photo of a dirty {}.", "a dark photo of the {}.",
    "a drawing of a {}.", "a photo of my {}.", "the plastic {}.", "a photo of the cool {}.",
    "a close-up photo of a {}.", "a black and white photo of the {}.", "a painting of the {}.",
    "a painting of a {}.", "a pixelated photo of the {}.", "a sculpture of the {}.",
    "a bright photo of the {}.", "a cropped photo of a {}.", "a plastic {}.", "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.", "a blurry photo of the {}.", "a photo of the {}.",
    "a good photo of the {}.", "a rendering of the {}.", "a {} in a video game.", "a photo of one {}.",
    "a doodle of a {}.", "a close-up photo of the {}.", "a photo of a {}.", "the origami {}.",
    "the {} in a video game.", "a sketch of a {}.", "a doodle of the {}.", "a origami {}.",
    "a low resolution photo of a {}.", "the toy {}.", "a rendition of the {}.", "a photo of the clean {}.",
    "a photo of a large {}.", "a rendition of a {}.", "a photo of a nice {}.", "a photo of a weird {}.",
    "a blurry photo of a {}.", "a cartoon {}.", "art of a {}.", "a sketch of the {}.", "a embroidered {}.",
    "a pixelated photo of a {}.", "itap of the {}.", "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.", "a plushie {}.", "a photo of the nice {}.", "a photo of the small {}.",
    "a photo of the weird {}.", "the cartoon {}.", "art of the {}.", "a drawing of the {}.",
    "a photo of the large {}.", "a black and white photo of a {}.", "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.", "graffiti of the {}.", "a toy {}.", "itap of my {}.", "a photo of a cool {}.",
    "a photo of a small {}.", "a tattoo of the {}.",
)  # fmt: skip
PARTS = (
    "the paw of a {}.", "the nose of a {}.", "the eye of the {}.", "the ears of a {}.", "an eye of a {}.",
    "the tongue of a {}.", "the fur of the {}.", "colorful {} fur.", "a snout of a {}.",
    "the teeth of the {}.", "the {}s fangs.", "a claw of the {}.", "the face of the {}", "a neck of a {}",
    "the head of the {}",
)  # fmt: skip


def templates_for(encoder: ClipEncoder) -> tuple[str, ...]:
    """The templates whose words a model knows; a model with a list of few words reads bare texts."""

    def known(template: str) -> bool:
        try:
            encoder.check_text(template.format(""))
        except ValueError:
            return False
        return True

    return tuple(template for template in TEMPLATES if known(template)) or BARE


def prompted(encoder: ClipEncoder, text: str) -> Tensor:
    """Unit features [T, D] of a text in the templates that the model can read.

    Raises:
        ValueError: the model does not know a word of the text.
        EncoderError: the model reads no texts.
    """
    encoder.check_text(text)
    return encoder.encode_text([template.format(text) for template in templates_for(encoder)])


def mean_difference(source: Tensor, target: Tensor) -> Tensor:
    """Unit vector [D] from what is to what shall be.

    Args:
        source: [T, D] unit features of the source text in T templates.
        target: [T, D] of the target text.

    Source: StyleGAN-NADA, direction of texts: the mean of the differences of unit features, normalised last.
    """
    return F.normalize((target - source).mean(dim=0), dim=0)


def text_direction(encoder: ClipEncoder, source: str, target: str) -> Tensor:
    """Unit direction [D] from one text to another; raises as `prompted`."""
    with torch.no_grad():
        return mean_difference(prompted(encoder, source), prompted(encoder, target))


def part_directions(encoder: ClipEncoder, source: str, target: str, parts: Sequence[str] = PARTS) -> Tensor:
    """Unit directions [P, D] of parts of what the texts name, such as its nose; raises as `prompted`.

    Source: StyleGAN-NADA, patch directional loss: each part's sentence stands in the place of the word.
    """
    with torch.no_grad():
        found = [text_direction(encoder, part.format(source), part.format(target)) for part in parts]
        return torch.stack(found)
