"""Recipes: reading and writing, defaults, what is refused, keys, and what they turn into."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fuzzing import mutated_json
from tiny_networks import tiny_bundle

import oneshot_core
from oneshot_core import choices
from oneshot_core.demo.world import demo_recipe
from oneshot_core.frames import Frame
from oneshot_core.objective import PROFILES
from oneshot_core.objective.presets import PRESETS, oneshot_clip
from oneshot_core.quads import Quad
from oneshot_core.recipe import FORMAT, Recipe, RecipeError
from oneshot_core.training import PRECISIONS

INPUTS = {
    "size": 64,
    "source": "a",
    "discriminator": "d",
    "mean": "m",
    "clip": [["c", 1.0]],
    "perceptual": "p",
}
QUAD = Quad.square(35, 25, 30, 100, 80).values()
BOUND = Recipe.of({"inputs": {**INPUTS, "target": "t"}, "training": {"precision": "float32"}})


def test_it_reads_what_it_writes() -> None:
    changed = Recipe.of(
        {
            "generator": "models/ffhq.pt",
            "aim": {"target": "C:\\Users\\ann\\me.png", "mask": "/home/ann/mask.png"},
            "encoders": {"clip": "ViT-B-32=weights/clip.pt"},
            "search": {"weights": {"clip": 0}},
            "method": {"schedule": {"random": 1}, "ema_half_life": 20, "mixing": None},
        }
    )
    for recipe in (Recipe(), changed, demo_recipe(), BOUND):
        assert Recipe.of(json.loads(json.dumps(recipe.values()))) == recipe
        assert recipe.values()["format"] == FORMAT
    told = changed.without_folders()
    assert (told.generator, told.aim.target, told.aim.mask) == ("ffhq.pt", "me.png", "mask.png")
    assert told.encoders.clip == "ViT-B-32=clip.pt" and demo_recipe().without_folders() == demo_recipe()


def test_a_quad_is_told_where_it_is_given_and_nowhere_else() -> None:
    """Recipes, batches and workflows from before there were quads keep their keys."""
    quad = Quad.square(1, 2, 30, 64, 48)
    recipe = Recipe.of({"aim": {"quad": quad.values()}}, BOUND)
    assert recipe.aim.quad == quad and recipe.aim.frame == Frame(quad=quad)
    assert Recipe.of(json.loads(json.dumps(recipe.values()))) == recipe
    assert recipe.without_folders().aim.quad == quad
    assert Recipe.of({"aim": {"quad": None}}, recipe) == BOUND
    assert "quad" not in BOUND.values()["aim"] and recipe.key() == BOUND.key()


def test_what_is_given_changes_a_base_entry_by_entry() -> None:
    base = Recipe.of({"method": {"weights": {"patch": 0.5}, "batch": 4}, "training": {"seed": 3}})
    changed = Recipe.of({"method": {"weights": {"lpips": 2}, "batch": None}}, base)
    assert changed.method.weights == {"patch": 0.5, "lpips": 2.0}
    assert changed.method.batch is None and changed.training.seed == 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": "other"}, '"format": "oneshot-recipe"'),
        ({"format_version": 2}, '"format_version": 1'),
        ({"steps": 3}, "the recipe has the unknown entry 'steps'"),
        ({"training": {"step": 3}}, "training has the unknown entry 'step'; allowed are precision, seed"),
        ({"training": {"steps": "3"}}, "steps must be a whole number, found '3'"),
        ({"training": {"steps": None}}, "steps must be a whole number, found null"),
        ({"training": {"steps": 0}}, "steps must be a number from 1 to 100000, got 0"),
        ({"training": {"seed": -1}}, "seed must be a number from 0"),
        ({"training": {"precision": "half"}}, "precision must be one of auto, float32, bfloat16, got 'half'"),
        ({"aim": {"fit": "zoom"}}, "fit must be one of crop, stretch, letterbox, got 'zoom'"),
        ({"aim": {"zoom": 0.5}}, "zoom must be a number from 1 to 16, got 0.5"),
        ({"aim": {"offset_y": -2}}, "offset_y must be a number from -1 to 1, got -2"),
        ({"aim": {"fit": "letterbox", "zoom": 2}}, "zoom, offset_x and offset_y belong to fit crop"),
        ({"aim": {"quad": {}}}, "the quad lacks 'corners'"),
        ({"aim": {"quad": 3}}, "the quad must be an object"),
        ({"aim": {"quad": {**QUAD, "width": 2}}}, "the quad: the quad of 30 px around (50, 40) lies outside"),
        ({"aim": {"quad": QUAD, "zoom": 2}}, "a quad says alone which part of the picture is used"),
        (
            {"aim": {"quad": QUAD, "fit": "stretch"}},
            "leave fit at crop, zoom at 1, offset_x and",
        ),
        ({"aim": {"quad": QUAD, "more_targets": ["b.png"]}}, "a quad belongs to one photo"),
        ({"method": {"preset": "other"}}, "preset must be one of oneshot_clip"),
        ({"method": {"weights": {"patch": -1}}}, "patch must be a number of at least 0"),
        ({"method": {"learning_rate": 0}}, "learning_rate must be positive"),
        ({"search": []}, "search must be an object"),
    ],
)
def test_what_a_recipe_may_not_say(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="^(?s:.*)$") as refused:
        Recipe.of(values)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": {"weights": {"other": 1}}}, "no term"),
        ({"method": {"schedule": {"third": 1}}}, "no 'third' steps"),
        ({"method": {"crop_px": 65}}, "65"),
        ({"search": {"weights": {"other": 1}}}, "no term"),
        ({"method": {"batch": 1}}, "at least 2"),
    ],
)
def test_it_checks_itself_against_a_generator_before_any_work(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Recipe.of(values).check(tiny_bundle(64))


def test_odd_values_end_in_one_kind_of_error() -> None:
    for seed in range(300):
        odd = mutated_json(demo_recipe().values(), seed)
        if isinstance(odd, dict):
            with suppress(ValueError):
                assert Recipe.of(odd).values()


def test_the_key_follows_the_result_and_not_how_it_is_written() -> None:
    assert Recipe.of({"method": {"weights": {"patch": 1.0}, "batch": 2}}, BOUND).key() == BOUND.key()
    named = Recipe.of({"generator": "x.pt", "aim": {"target": "y.png"}}, BOUND)
    assert named.key() == BOUND.key()  # names are not what they name
    changes: list[dict[str, Any]] = [
        {"training": {"seed": 1}},
        {"training": {"steps": 2}},
        {"training": {"precision": "bfloat16"}},
        {"search": {"steps": 2}},
        {"method": {"weights": {"patch": 0.5}}},
        {"method": {"profile": "official"}},
        {"inputs": {**INPUTS, "target": "u"}},
        {"inputs": {**INPUTS, "target": "t", "mask": "m"}},
        {"inputs": {**INPUTS, "target": "t", "reference": "r"}},
    ]
    keys = {Recipe.of(change, BOUND).key() for change in changes} | {BOUND.key()}
    assert len(keys) == len(changes) + 1
    assert Recipe.of({"training": {"snapshot_every": 7}}, BOUND).key() == BOUND.key()
    assert Recipe.of({"method": {"batch": 4}}, BOUND).key("search") == BOUND.key("search") != BOUND.key()
    with pytest.raises(ValueError, match="once it is bound"):
        Recipe().key()


def test_defaults_of_the_method_are_the_methods() -> None:
    preset, notes = Recipe().preset(128)
    assert preset == oneshot_clip().fitted(128)[0] and notes == []
    assert Recipe.of({"method": {"profile": "official"}}).preset(64)[1]  # its crops do not fit
    faster, _ = Recipe.of({"method": {"discriminator_rate": 0.01}}).preset(128)
    assert faster.discriminator.learning_rate == 0.01 and faster.optimiser == preset.optimiser


def test_choices_are_the_engines() -> None:
    assert set(choices.PRESETS) == set(PRESETS) and set(choices.PROFILES) == set(PROFILES)
    assert choices.PRECISIONS == ("auto", *PRECISIONS)


def test_asking_for_defaults_imports_no_torch() -> None:
    program = "import sys, oneshot_core; oneshot_core.Recipe().values(); assert 'torch' not in sys.modules"
    folder = Path(oneshot_core.__file__).parents[1]
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)


def test_the_trained_parts_are_the_methods_or_those_that_are_named() -> None:
    published = ("constant", "affine", "convolution", "noise")
    assert Recipe().preset(128)[0].trainable.parts == published
    offsets = Recipe.of({"method": {"trained_parts": " noise,style offsets"}})
    assert offsets.preset(128)[0].trainable.parts == ("noise", "style offsets")
    named = Recipe.of({"method": {"trained_parts": "rgb, affine,convolution"}})
    assert named.preset(128)[0].trainable.parts == ("affine", "convolution", "rgb")
    assert Recipe.of(named.values()) == named
    for text in ("", "rgb,", "colours", "rgb;noise"):
        with pytest.raises(RecipeError, match="trained_parts are one or more of mapping, constant"):
            Recipe.of({"method": {"trained_parts": text}})
