"""Presets and schedules as data: the method's numbers, descriptions, settings."""

from __future__ import annotations

import dataclasses
import json

import pytest

from oneshot_core.objective import (
    DEFAULT,
    OFFICIAL,
    PROFILES,
    Batch,
    DiscriminatorPlan,
    OptimiserPlan,
    Preset,
    Prior,
    Reference,
    Trainable,
)
from oneshot_core.objective.presets import PRESETS, clip_search, oneshot_clip, with_half_life
from oneshot_core.objective.terms import (
    PatchConsistency,
)


def test_the_weights_of_the_method():
    preset = oneshot_clip()
    weights = lambda objective: {item.name: item.weight for item in objective.terms}  # noqa: E731
    reference, random = preset.kinds
    assert weights(random.objective) == {"adversarial": 1.0, "semantic": 10.0, "patch": 1.0, "text": 0.0}
    assert weights(reference.objective) == {"adversarial": 1.0, "lpips": 1.0, "pixel": 1.0}
    assert weights(clip_search()) == {"clip": 1.0, "deviation": 0.01, "lpips": 1.0, "pixel": 1.0}
    assert random.batches == {"main": Batch(Prior(mixing=0.9), size=2)}
    assert reference.batches == {"main": Batch(Reference(), size=1)}
    assert preset.trainable.parts == ("constant", "affine", "convolution", "noise")
    plan = preset.discriminator
    assert plan == DiscriminatorPlan(r1_gamma=10.0, r1_every=16, r1_kind="reference", heads=1)
    patch = random.objective.terms[2].term
    assert (patch.crops, patch.temperature) == (16, 1.0)


def test_the_optimisers_of_the_method():
    """methods.md B2."""
    plan = OptimiserPlan()
    generator, judge = plan.adam(plan.generator_ratio), plan.adam(DiscriminatorPlan().ratio)
    assert generator == {"lr": pytest.approx(0.0016), "betas": (0.0, pytest.approx(0.9919920))}
    assert judge == {"lr": pytest.approx(0.00188235, rel=1e-5), "betas": (0.0, pytest.approx(0.9905855))}
    assert DiscriminatorPlan(r1_every=3).ratio == 3 / 4
    assert plan.adam(4 / 5, 0.01)["lr"] == pytest.approx(0.008)
    assert plan.average_decay(0) == plan.average_decay(9) == pytest.approx(0.99778439)


def test_presets_describe_themselves_as_json():
    for make in PRESETS.values():
        for profile in PROFILES.values():
            values = json.loads(json.dumps(make(profile).describe()))
            assert values["profile"] == profile.name
            assert values["name"] == make(profile).name and values["kinds"]
    terms = oneshot_clip().describe()["kinds"]["random"]["terms"]
    assert terms["semantic"] == {"term": "SemanticConsistency", "weight": 10.0}


def test_descriptions_tell_settings_apart():
    plain = oneshot_clip().describe()
    others = [
        oneshot_clip(OFFICIAL),
        oneshot_clip(dataclasses.replace(DEFAULT, shared_noise=False)),
        oneshot_clip().reweighted({"semantic": 5.0}),
        oneshot_clip().scheduled({"reference": 3}),
        oneshot_clip().rebatched(3),
        oneshot_clip().rebatched(mixing=0.5),
        oneshot_clip().adjusted("patch", crop_px=9),
        dataclasses.replace(oneshot_clip(), trainable=Trainable(("affine",))),
    ]
    for other in others:
        assert other.describe() != plain


def test_ablations_are_settings():
    without = oneshot_clip().reweighted({"semantic": 0.0, "patch": 0.0, "adversarial": 2.0})
    assert [type(term).__name__ for term in without.kinds[1].objective.active] == ["Fool"]
    assert [kind.objective.terms[0].weight for kind in without.kinds] == [2.0, 2.0]
    with pytest.raises(
        ValueError, match=r"no term \['style'\]; its terms: adversarial, lpips, pixel, semantic, patch"
    ):
        oneshot_clip().reweighted({"style": 1.0})


def crops_of(preset: Preset) -> PatchConsistency:
    return preset.kinds[1].objective.terms[2].term


def test_crop_side_and_half_life_are_settings():
    preset = oneshot_clip(OFFICIAL).adjusted("patch", crop_px=16)
    assert crops_of(preset) == dataclasses.replace(crops_of(oneshot_clip(OFFICIAL)), crop_px=16)
    plan = with_half_life(preset, 50).optimiser
    assert plan.average_decay(3) ** 50 == pytest.approx(0.5)
    with pytest.raises(ValueError, match="average_half_life must be positive and finite, got 0"):
        with_half_life(preset, 0)
    with pytest.raises(ValueError, match=r"no term \['crops'\]"):
        preset.adjusted("crops", crop_px=16)


def test_published_crops_become_an_eighth_where_they_do_not_fit():
    fitted, notes = oneshot_clip(OFFICIAL).fitted(64)
    assert crops_of(fitted).crop_px is None and notes == [
        "crops of 128 px do not fit into pictures of 64 px; using 8 px"
    ]
    assert oneshot_clip(OFFICIAL).fitted(256) == (oneshot_clip(OFFICIAL), [])
    assert oneshot_clip().fitted(64) == (oneshot_clip(), [])


def test_crops_that_have_no_place_are_refused():
    places = [PatchConsistency(crop_px=128, reaches_edge=edge).places for edge in (True, False)]
    assert [places[0](128), places[1](129), places[1](256)] == [1, 1, 128]
    with pytest.raises(ValueError, match="crops of 128 px have no place in images of 128 px"):
        places[1](128)


@pytest.mark.parametrize(
    ("steps", "pattern"),
    [((1, 3), "RrrrRrrr"), ((3, 1), "RRRrRRRr"), ((0, 1), "rrrrrrrr"), ((1, 0), "RRRRRRRR")],
)
def test_kinds_follow_each_other(steps, pattern):
    preset = oneshot_clip().scheduled({"reference": steps[0], "random": steps[1]})
    kinds = "".join("R" if preset.kind(step).name == "reference" else "r" for step in range(8))
    assert kinds == pattern
    for step in range(8):
        assert preset.count_before(step, "reference") == pattern[:step].count("R")
    reversed_ = dataclasses.replace(oneshot_clip(), kinds=oneshot_clip().kinds[::-1])
    assert [reversed_.kind(step).name for step in (0, 3, 4)] == ["random", "reference", "random"]
