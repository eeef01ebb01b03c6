"""What is wired wrongly is said in the user's words: files and what they are, neither hashes nor Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from stand_ins import picture, stand_in_encoders, tiny_bundle

from oneshot_core import (
    Aim,
    EditConfig,
    GeneratorBundle,
    Latent,
    SampleConfig,
    blend_generators,
    check_edit,
    check_family,
    interpolate,
    sample,
    sample_pairs,
    sample_with_codes,
)
from oneshot_core.batches import check_count
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.sampling import random_latents
from oneshot_core.search import SearchConfig, search_latent
from oneshot_core.training.checks import check_run


def named(name: str, size: int = 64, seed: int = 0, **settings: int) -> GeneratorBundle:
    """A generator of a file of that name."""
    bundle = tiny_bundle(size, seed, **settings)
    return replace(bundle, provenance=replace(bundle.provenance, file_name=name, sha256=name))


def child(parent: GeneratorBundle, name: str = "", **history: object) -> GeneratorBundle:
    """One adapted from it, of a file or not saved yet."""
    known = parent.provenance
    origin = {"file_name": known.file_name, "sha256": known.sha256, "family": parent.family}
    told = replace(known, sha256=name or None, history={"parent": origin, **history})
    told = replace(told, file_name=name) if name else replace(told, format="adapted")
    return replace(parent, provenance=told)


FACE, CHURCH = named("face.pkl"), named("church.pkl", seed=1)
SMALL = named("small.pkl", 32)
FACES = random_latents(FACE, [0, 1])
REFERENCE = Latent("w", FACE.mean_latent[None], FACE.family, {"recipe": {"generator": "face.pkl"}})
TARGET = picture(64)
OTHER_W = Latent("w", torch.zeros(1, 9))
OTHER_WP = Latent("w+", torch.zeros(1, 18, 7))
CLASSES = named("animals.pkl", c_dim=3)
USE = ": use the generator that the {} was made with, or one adapted from it"
ONLY = "only a generator and one adapted from it can be blended"


def reference(latent: Latent) -> None:
    check_run(FACE, Aim(TARGET, latent), oneshot_clip())


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "latents of another generator": (
        lambda: sample(CHURCH, FACES),
        "this latent is of face.pkl, not of church.pkl" + USE.format("latent"),
    ),
    "latents of another generator, edited": (
        lambda: check_family(Latent("w", FACE.mean_latent[None], "f", {"edited": REFERENCE.origin}), CHURCH),
        "this latent is of face.pkl, not of church.pkl" + USE.format("latent"),
    ),
    "latents of a generator nobody knows": (
        lambda: sample(CHURCH, replace(FACES, origin={})),
        "this latent is of another generator than church.pkl" + USE.format("latent"),
    ),
    "latents for an adapted generator": (
        lambda: sample(child(CHURCH), FACES),
        "this latent is of face.pkl, not of the generator adapted from church.pkl" + USE.format("latent"),
    ),
    "w of another width": (
        lambda: sample(FACE, OTHER_W),
        "this latent is for another generator: its codes in w have width 9, those of face.pkl (64 px) have "
        "width 7; use the generator that the latent was made with",
    ),
    "w+ of another size": (
        lambda: sample(FACE, OTHER_WP),
        "this latent is for another generator: its codes in w+ have 18 slots of width 7, those of face.pkl "
        "(64 px) have 10 slots of width 7; use the generator that the latent was made with",
    ),
    "z without a class": (
        lambda: Latent("z", torch.zeros(1, 5)).codes(CLASSES.generator),
        "this latent (z) has no class, which a conditional generator needs; draw it first with a class, and "
        "take the latent that comes with the pictures",
    ),
    "a source that is none": (
        lambda: sample_pairs(CHURCH, child(FACE, "sketch.safetensors"), [0]),
        "sketch.safetensors (adapted from face.pkl) was not adapted from church.pkl: their latents do not "
        "correspond; as the source give the generator that was adapted, face.pkl",
    ),
    "a source of the same name": (
        lambda: sample_pairs(named("face.pkl", seed=1), child(FACE), [0]),
        "the generator adapted from face.pkl was not adapted from face.pkl: their latents do not correspond; "
        "as the source give the generator that was adapted",
    ),
    "source and adapted swapped": (
        lambda: sample_pairs(child(FACE, "sketch.safetensors"), FACE, [0]),
        "source and adapted are swapped: the source is sketch.safetensors (adapted from face.pkl), the "
        "adapted generator is face.pkl; exchange them",
    ),
    "several codes to replace slots with": (
        lambda: sample(FACE, [0], SampleConfig(replace_from=3), reference=FACES),
        "the reference must be one code, whose slots go into every picture; this one holds 2",
    ),
    "slots of another generator": (
        lambda: sample(CHURCH, [0], SampleConfig(replace_from=3), reference=REFERENCE),
        "this reference is of face.pkl, not of church.pkl" + USE.format("reference"),
    ),
    "random latents as the reference": (
        lambda: reference(replace(FACES, values=FACES.values[:1])),
        "random latents (z) cannot be the reference, which is the target's counterpart: let the latent search"
        " find it",
    ),
    "several codes as the reference": (
        lambda: reference(replace(REFERENCE, values=REFERENCE.values.expand(3, -1))),
        "the reference must be one code, the target's counterpart; this one holds 3",
    ),
    "a reference of another generator": (
        lambda: check_run(CHURCH, Aim(TARGET, REFERENCE), oneshot_clip()),
        "this reference is of face.pkl, not of church.pkl" + USE.format("reference"),
    ),
    "a generator with classes adapted": (
        lambda: check_run(CLASSES, Aim(TARGET, REFERENCE), oneshot_clip()),
        "animals.pkl is a conditional generator (3 classes), which cannot be adapted; give one without "
        "classes",
    ),
    "strangers blended": (
        lambda: blend_generators(FACE, CHURCH, 0.5),
        "face.pkl and church.pkl are not related: " + ONLY,
    ),
    "sizes blended": (
        lambda: blend_generators(FACE, SMALL, 0.5),
        "face.pkl (pictures of 64 px) and small.pkl (pictures of 32 px) are not built alike: " + ONLY,
    ),
    "widths blended": (
        lambda: blend_generators(FACE, named("wide.pkl", width=8), 0.5),
        "face.pkl (widths 6 6 6 6 6) and wide.pkl (widths 8 8 8 8 8) are not built alike: " + ONLY,
    ),
    "an edit of another generator's latents": (
        lambda: check_edit(CHURCH, FACES, "a hat", EditConfig()),
        "this latent is of face.pkl, not of church.pkl" + USE.format("latent"),
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_said_in_the_words_of_the_user(case: str) -> None:
    work, said = MISTAKES[case]
    with pytest.raises(ValueError) as error:
        work()
    assert str(error.value) == said


def test_what_is_right_is_not_taken_for_a_mistake() -> None:
    saved, unsaved = child(FACE, "sketch.safetensors"), child(FACE)
    for source, adapted in (
        (FACE, saved), (FACE, unsaved), (FACE, FACE), (saved, unsaved), (unsaved, saved),
        (FACE, child(saved, "again.safetensors")), (child(FACE, "half.safetensors", blend={}), FACE),
    ):  # fmt: skip
        sample_pairs(source, adapted, [0])
    sample(unsaved, FACES)
    reference(REFERENCE)


def test_every_latent_says_whose_it_is() -> None:
    grown = child(FACE)
    made = [
        random_latents(FACE, [0]),
        sample_with_codes(FACE, [0])[1],
        sample_pairs(FACE, grown, [0]).latent,
        interpolate(FACE, [0, 1], 2),
        search_latent(FACE, stand_in_encoders(), TARGET, SearchConfig(steps=1)).latent,
    ]
    assert [latent.generator_name for latent in made] == ["face.pkl"] * 5
    assert random_latents(grown, [0]).generator_name == "the generator adapted from face.pkl"
    assert Latent("w", torch.zeros(1, 7), origin={"recipe": "a text", "generator": 3}).generator_name == ""


def test_pictures_are_counted_as_often_as_they_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneshot_core.memory.available_bytes", lambda: 4 * 3 * 64**2 * 30)
    check_count(30, 64)
    with pytest.raises(
        ValueError, match="not enough memory: 30 pictures held 4 times in one batch, of 64 px"
    ):
        check_count(30, 64, copies=4)
