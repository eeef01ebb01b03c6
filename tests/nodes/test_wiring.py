"""Nodes that are wired wrongly say so in the words of the canvas, through their own `execute`."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
from comfy_pack import needs_comfy, printed
from comfy_server import PACK

SCRIPT = Path(__file__).parent / "wire_wrongly.py"
CLIP = PACK / "oneshot_core" / "demo" / "assets" / "clip.json"
USE = ": use the generator that the {} was made with, or one adapted from it"
ONLY = ": only a generator and one adapted from it can be blended"


def words() -> str:
    """What the demo's CLIP knows."""
    return ", ".join(json.loads(CLIP.read_text(encoding="utf-8"))["tokenizer"]["words"])


GIVERS = "Load StyleGAN2, One-Shot Adapt, Blend Generators or Apply Look"
MISTAKES = {
    "drawn by a stranger": "this latent is of demo, not of church.safetensors" + USE.format("latent"),
    "drawn by a stranger, w+": "this latent is of demo, not of church.safetensors" + USE.format("latent"),
    "another program's": (
        "this latent is for another generator: its codes in w+ have 18 slots of width 512, those of demo "
        "(128 px) have 12 slots of width 64; use the generator that the latent was made with"
    ),
    "no source": (
        "sketch.safetensors (adapted from demo) was not adapted from church.safetensors: their latents do "
        "not correspond; as the source give the generator that was adapted, demo"
    ),
    "swapped": (
        "source and adapted are swapped: the source is sketch.safetensors (adapted from demo), the adapted "
        "generator is demo; exchange them"
    ),
    "two codes for slots": (
        "the reference must be one code, whose slots go into every picture; this one holds 2"
    ),
    "a stranger's code for slots": ("this reference is of demo, not of church.safetensors")
    + USE.format("reference"),
    "slots beyond the last": "replace_from must be at most 12 for this generator, got 15",
    "classes without classes": "classes were given but this generator is unconditional; leave them out",
    "a class that is not there": (
        "classes must be numbers from 0 to 2, one for all pictures or one for each of the 1, got 7"
    ),
    "random as reference": (
        "random latents (z) cannot be the reference, which is the target's counterpart: let the latent "
        "search find it"
    ),
    "two references": "the reference must be one code, the target's counterpart; this one holds 2",
    "a stranger's reference": ("this reference is of demo, not of church.safetensors")
    + USE.format("reference"),
    "adapting classes": (
        "animals.safetensors is a conditional generator (3 classes), which cannot be adapted and gets no "
        "fresh discriminator; give one without classes"
    ),
    "strangers blended": (
        "demo (pictures of 128 px) and church.safetensors (pictures of 64 px) are not built alike"
    )
    + ONLY,
    "sizes blended": (
        "church.safetensors (pictures of 64 px) and small.safetensors (pictures of 32 px) are not built alike"
    )
    + ONLY,
    "a blend and a stranger": (
        "church.safetensors (pictures of 64 px) and the blend of demo + sketch.safetensors (pictures of 128"
        " px) are not built alike"
    )
    + ONLY,
    "editing for a stranger": "this latent is of demo, not of church.safetensors" + USE.format("latent"),
    "unknown words": (
        "the CLIP model demo does not know 'crown'; say it in its words, or use another CLIP model. It "
        "knows: "
    )
    + words(),
    "unknown neutral words": (
        "the CLIP model demo does not know 'queen'; say it in its words, or use another CLIP model. It "
        "knows: "
    )
    + words(),
    "one meaning": (
        "the CLIP model demo reads the same in text 'a hat' and neutral_text 'a hat'; let them differ in "
        "the one thing to be changed"
    ),
    "a picture as a generator": (f"adapted must come from {GIVERS}, found a picture of 8 x 8 px"),
    "latents as a generator": (f"adapted must come from {GIVERS}, found a StyleGAN latent"),
    "a generator as latents": (
        "latent must come from Random StyleGAN Latents, Invert Image or Load StyleGAN Latent, found a"
        " generator"
    ),
    "encoders as a generator": (f"generator must come from {GIVERS}, found encoders"),
    "diffusion latents": (
        "latent must come from Random StyleGAN Latents, Invert Image or Load StyleGAN Latent, found a"
        " latent of a diffusion model"
    ),
    "a look of other widths": (
        "the look pencil does not fit church.safetensors: the look has the widths 4 px: 128 128, 8 px: 128 "
        "128 128, 16 px: 128 128 128, 32 px: 128 96 96, 64 px: 96 48 48, 128 px: 48 32 32; the generator 4 "
        "px: 8 8, 8 px: 8 8 8, 16 px: 8 8 8, 32 px: 8 8 8, 64 px: 8 8 8; use a generator of the look's widths"
    ),
    "a generator as a look": "look must come from Load Look or Save Look, found a generator",
    "a look as a generator": (f"generator must come from {GIVERS}, found a look"),
    "too strong": "strength_2 must be a number from -1.0 to 2.0, found the number 2.5",
    "a look of equals": (
        "demo and sketch.safetensors (adapted from demo) have the same weights, so there is no look"
    ),
    "a look, swapped": (
        "source and adapted are swapped: the source is demo + pencil (1), the adapted generator is demo; "
        "exchange them"
    ),
    "a look of strangers": (
        "sketch.safetensors (adapted from demo) was not adapted from church.safetensors: their latents do "
        "not correspond; as the source give the generator that was adapted, demo"
    ),
    "a look of everything": (
        "loud.safetensors (adapted from demo) differs from demo in more than its style offsets, first in "
        "convs.0.noise_strength; a look is made of those alone: adapt with trained_parts 'style offsets' and "
        "keep float32, or save the generator itself"
    ),
    "a mask as a picture": (
        "target must be at least one picture (IMAGE), such as Load Image gives, found a mask of 8 x 8 px"
    ),
}


told = partial(printed, SCRIPT)


@needs_comfy()
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_said_in_the_words_of_the_canvas(case: str) -> None:
    assert told()["mistakes"][case] == MISTAKES[case]


@needs_comfy()
def test_every_mistake_is_in_the_table_and_none_speaks_of_hashes_or_python() -> None:
    said = told()["mistakes"]
    assert said.keys() == MISTAKES.keys()
    for text in said.values():
        assert not re.search(r"[0-9a-f]{12}|\w\(\)|\btensor\b|Bundle|OnDemand|\bdict\b|/", text)


@needs_comfy()
def test_an_edit_that_is_allowed_says_what_clip_does_not_know() -> None:
    assert told()["notes"] == [
        "the demo's CLIP has seen only the demo's portraits, but church.safetensors is another generator; "
        "the method uses ViT-B-32:openai",
        "the text is too long for the CLIP model demo, which does not read its end: 'a hat a hat a hat a hat "
        "a hat a hat a hat'",
    ]
