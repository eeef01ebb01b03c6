"""The shipped demo world: its generator, encoders, judge and target pictures, loaded once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints import GeneratorBundle, load
from ..features import Encoders, load_clip, load_perceptual
from ..pictures import load_picture
from ..tensors import Images, gradients, seeded
from .faces import FACTORS, factors_from_latents
from .judge import JudgeNet, load_judge
from .pool import Z_DIM

ASSETS = Path(__file__).parent / "assets"
CLIP_FORMAT = "oneshot-demo-clip"
TARGET_LOOKS: tuple[str, ...] = ("watercolour", "stained glass", "pencil sketch", "oil painting", "blueprint")
TARGET_SEED = 0  # of the papers; the people have seeds of their own
TARGET_DRAWS = 256  # latents among which a target's person is looked for
TARGET_CHOICE = {"watercolour": 5}  # of those that serve, which one; the first where none is named


@lru_cache(maxsize=1)
def demo_generator() -> GeneratorBundle:
    """Load the generator of plain portraits with its discriminator; shared, so never change it in place.

    Raises:
        CheckpointError: the asset is missing or damaged.
    """
    with gradients():
        return load(ASSETS / "generator.safetensors")


@lru_cache(maxsize=1)
def demo_encoders() -> Encoders:
    """Load the small CLIP and the small perceptual net; shared and frozen, on the CPU.

    Raises:
        EncoderError: an asset is missing or damaged.
    """
    with gradients():
        clip = load_clip("demo", ASSETS / "clip.safetensors", ASSETS / "clip.json", allow_download=False)
        return Encoders.of(
            clip, load_perceptual("demo", ASSETS / "perceptual.safetensors", allow_download=False)
        )


@lru_cache(maxsize=1)
def demo_judge() -> JudgeNet:
    """Load the judge, for measuring only.

    Raises:
        CheckpointError: the asset is missing or damaged.
    """
    with gradients():
        return load_judge(ASSETS / "judge.safetensors")


def target_file(look: str) -> str:
    """Name the shipped target picture of a look."""
    return f"target_{look.replace(' ', '_')}.png"


def target_path(look: str) -> Path:
    """Return the path of a shipped target picture.

    Args:
        look: one of `TARGET_LOOKS`.

    Raises:
        ValueError: for a look without a picture.
    """
    if look not in TARGET_LOOKS:
        raise ValueError(f"there is no target picture of look {look!r}; there are: {', '.join(TARGET_LOOKS)}")
    return ASSETS / target_file(look)


def demo_target(look: str = TARGET_LOOKS[0], size_px: int = 128) -> Images:
    """Load a shipped target picture.

    Args:
        look: one of `TARGET_LOOKS`.
        size_px: side of the result.

    Returns:
        [1, 3, size_px, size_px] in [-1, 1].
    """
    return load_picture(target_path(look), size_px)


def target_factors(look: str) -> Tensor:
    """Return the factors of the person on a look's target picture, [1, NUM_FACTORS].

    One of the latents drawn for the purpose "demo.target" whose person the small generator can draw: without
    curls, hat and glasses, looking about straight ahead. No other draw of the project shares them.
    """
    z = torch.randn(TARGET_DRAWS, Z_DIM, generator=seeded(TARGET_SEED, 0, f"demo.target.{look}"))
    factors = factors_from_latents(z)
    columns = {factor.name: factors[:, index] for index, factor in enumerate(FACTORS)}
    plain = (columns["hair_curl"] < 0.4) & (columns["hat"] < 0.7) & (columns["glasses"] < 0.6)
    chosen = plain & ((columns["yaw"] - 0.5).abs() < 0.25) & (columns["hair_length"] > 0.25)
    first = TARGET_CHOICE.get(look, 0)
    return factors[chosen][first : first + 1]
