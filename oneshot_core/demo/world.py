"""The shipped demo world: its generator, encoders and target pictures, loaded once."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ..checkpoints import GeneratorBundle, load
from ..choices import DEMO, DEMO_PHOTO, DEMO_TARGET
from ..choices import TARGET_LOOKS as TARGET_LOOKS
from ..features import Encoders, WordTokenizer, load_clip, load_perceptual
from ..json_values import read
from ..pictures import load_picture, to_tensor
from ..pictures.files import open_picture
from ..recipe import Recipe
from ..tensors import Images, gradients

PHOTO_FILE = "photo.png"
ASSETS = Path(__file__).parent / "assets"
CLIP_FORMAT = "oneshot-demo-clip"


@lru_cache(maxsize=1)
def demo_generator() -> GeneratorBundle:
    """Load the generator of plain portraits with its discriminator; shared, so never change it in place.

    Raises:
        CheckpointError: the asset is missing or damaged.
    """
    with gradients():
        bundle = load(ASSETS / "generator.safetensors")
    return replace(bundle, provenance=replace(bundle.provenance, file_name=DEMO))


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


def check_demo_text(text: str) -> None:
    """Refuse a text with words that the demo's CLIP does not know, without loading it.

    Raises:
        ValueError: it names them, and the words that it knows.
    """
    config = read(ASSETS / "clip.json")
    words, context = config["tokenizer"]["words"], config["text_cfg"]["context_length"]
    WordTokenizer(words, context).check(text, DEMO)


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


def picture_path(name: str) -> Path:
    """Return the path of a shipped picture, one of `choices.DEMO_PICTURES`; ValueError for another."""
    return ASSETS / PHOTO_FILE if name == DEMO_PHOTO else target_path(name)


def demo_photo() -> Images:
    """Load the shipped photo of three drawn people: [1, 3, 400, 640] in [-1, 1].

    Its faces are aligned by three points each, see `making.photo`, with a margin of 1.4: the demo's portraits
    show more around a face than FFHQ's pictures do.
    """
    return to_tensor(open_picture(ASSETS / PHOTO_FILE))


def demo_recipe(look: str = TARGET_LOOKS[0]) -> Recipe:
    """Read the recipe of the verb `demo`: a search and a training short enough for two CPU cores.

    Args:
        look: one of `TARGET_LOOKS`.

    Raises:
        RecipeError: the asset is damaged.
    """
    recipe = Recipe.of(read(ASSETS / "recipe.json"))
    return Recipe.of({"aim": {"target": f"{DEMO_TARGET}{look}"}}, recipe)
