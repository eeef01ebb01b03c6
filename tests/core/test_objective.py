"""Terms against literal loops; objectives, schedules and presets as data."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from stand_ins import picture, stand_in_encoders

from oneshot_core.objective import (
    DEFAULT,
    OFFICIAL,
    PROFILES,
    DiscriminatorPlan,
    Objective,
    OptimiserPlan,
    Preset,
    Schedule,
    StepContext,
    Target,
    WeightedTerm,
)
from oneshot_core.objective.adversarial import Fool
from oneshot_core.objective.presets import (
    PRESETS,
    clip_search,
    oneshot_clip,
    with_crops,
    with_half_life,
)
from oneshot_core.objective.terms import (
    NEGATIVES,
    ClipSimilarity,
    LatentDeviation,
    Lpips,
    PatchConsistency,
    PixelMse,
    SemanticConsistency,
    direction_distance,
    patch_contrast,
    similarity_difference,
)
from oneshot_core.tensors import seeded


def drawn(*shape: int, what: str = "x") -> torch.Tensor:
    return torch.randn(shape, generator=seeded(0, 0, what), dtype=torch.float64)


def context(batch: int = 2, size: int = 16, **settings) -> StepContext:
    adapted = torch.cat([picture(size, seed) for seed in range(1, batch + 1)]).requires_grad_(True)
    source = torch.cat([picture(size, seed) for seed in range(11, batch + 11)])
    return StepContext(
        Target(picture(size), stand_in_encoders()),
        adapted,
        render_source=None if source is None else lambda: source,
        **settings,
    )


# ---- semantic consistency


def test_similarity_difference_equals_a_loop_over_pairs():
    adapted, source = drawn(4, 6), drawn(4, 6, what="source")
    values = [
        (F.cosine_similarity(adapted[i], adapted[j], 0) - F.cosine_similarity(source[i], source[j], 0)) ** 2
        for i in range(4)
        for j in range(4)
        if i != j
    ]
    assert abs(float(similarity_difference(adapted, source)) - float(sum(values)) / 12) < 1e-14


def test_similarity_difference_needs_a_pair():
    with pytest.raises(ValueError, match="batch must be at least 2"):
        similarity_difference(drawn(1, 6), drawn(1, 6))


def test_similarity_difference_ignores_the_length_of_features():
    adapted, source = drawn(3, 6), drawn(3, 6, what="source")
    once, scaled = similarity_difference(adapted, source), similarity_difference(3 * adapted, source / 7)
    assert abs(float(once - scaled)) < 1e-15


# ---- patch consistency


def negatives_of(row: int, crops: int, images: int, kind: str) -> list[int]:
    """Rows are crop-major: row r is crop r // images of image r % images."""
    rows = range(crops * images)
    if kind == "image":
        return [s for s in rows if s % images == row % images and s != row]
    if kind == "crop_major":
        return [s for s in rows if s // crops == row // crops and s != row]
    return [s for s in rows if s != row]


@pytest.mark.parametrize("self_logit", [None, -10.0])
@pytest.mark.parametrize("kind", NEGATIVES)
@pytest.mark.parametrize(("crops", "images", "tau"), [(4, 2, 1.0), (6, 3, 0.5), (3, 1, 20.0)])
def test_patch_contrast_equals_a_loop_over_rows(crops, images, tau, kind, self_logit):
    q = F.normalize(drawn(crops * images, 5), dim=1)
    k = F.normalize(drawn(crops * images, 5, what="k"), dim=1)
    found = patch_contrast(q, k, images, kind, tau, self_logit)
    assert found.shape == (crops * images,)
    for row in range(crops * images):
        positive = float(q[row] @ k[row]) / tau
        others = [float(q[row] @ k[s]) / tau for s in negatives_of(row, crops, images, kind)]
        others += [] if self_logit is None else [self_logit / tau]
        total = sum(math.exp(value) for value in [positive, *others])
        assert abs(float(found[row]) - (math.log(total) - positive)) < 1e-12


def test_patch_contrast_compares_by_cosine():
    q, k = drawn(8, 5), drawn(8, 5, what="k")
    assert (patch_contrast(q, k, 2) - patch_contrast(5 * q, k / 3, 2)).abs().max() < 1e-14


def test_patch_contrast_gives_the_source_no_gradient():
    q, k = drawn(8, 5).requires_grad_(True), drawn(8, 5, what="k").requires_grad_(True)
    patch_contrast(q, k, 2).sum().backward()
    assert k.grad is None and float(q.grad.abs().max()) > 0


def test_patch_consistency_checks_its_settings():
    for wrong in ({"negatives": "some"}, {"crops": 1}, {"temperature": 0.0}, {"temperature": math.nan}):
        with pytest.raises(
            ValueError, match="negatives must be one of|at least 2 crops|temperature must be positive"
        ):
            PatchConsistency(**wrong)


def test_side_of_a_crop():
    assert [PatchConsistency().side(size) for size in (16, 128, 1024)] == [2, 16, 128]
    assert PatchConsistency(crop_px=40).side(64) == 40
    with pytest.raises(ValueError, match="crops of 128 px do not fit into images of 64 px"):
        PatchConsistency(crop_px=128).side(64)


def test_patch_consistency_cuts_crops_in_crop_major_order():
    corners = torch.tensor([[1, 2], [5, 0], [8, 8]])  # (left, top)
    step = context(crops_xy=corners, crop_px=4)
    PatchConsistency(crops=3)(step)
    crops = step.target.encoders.clip.seen[0]
    assert crops.shape == (6, 3, 4, 4)
    for row, (x, y) in enumerate(corners.repeat_interleave(2, dim=0).tolist()):
        assert torch.equal(crops[row], step.adapted[row % 2, :, y : y + 4, x : x + 4])


# ---- the other terms


def test_pixel_mse():
    step = context(batch=1)
    wanted = ((step.adapted - step.target.image) ** 2).mean()
    assert abs(float((PixelMse()(step) - wanted).detach())) < 1e-7


def test_lpips_is_the_mean_over_the_batch():
    step = context(batch=2)
    perceptual = step.target.encoders.perceptual
    wanted = perceptual.distance(perceptual.features(step.adapted), step.target.perceptual_features)
    assert torch.equal(Lpips()(step), wanted.mean())


def test_clip_similarity_compares_views_or_the_image_itself():
    step = context(batch=1)
    clip = step.target.encoders.clip
    wanted = 1 - F.cosine_similarity(clip.encode_images(step.adapted), clip.encode_images(step.target.image))
    assert torch.allclose(ClipSimilarity()(step), wanted.mean())
    step.views = torch.cat([step.adapted, step.target.image])
    assert torch.allclose(ClipSimilarity()(step), wanted.mean() / 2, atol=1e-6)


def test_latent_deviation_is_a_mean_over_dimensions():
    step = context(latent=torch.ones(1, 8), mean_latent=torch.full((8,), 3.0))
    assert float(LatentDeviation()(step)) == 4.0
    with pytest.raises(ValueError, match="belongs to a latent search"):
        LatentDeviation()(context())


def test_terms_say_what_their_step_lacks():
    bare = context()
    bare.render_source = None
    with pytest.raises(ValueError, match="renders none"):
        SemanticConsistency()(bare)
    with pytest.raises(ValueError, match="draws none"):
        PatchConsistency()(context())


def test_gradient_flows_into_the_adapted_images_only():
    step = context(crops_xy=torch.tensor([[0, 0], [4, 4]]), crop_px=8)
    step.source.requires_grad_(True)
    objective = Objective(
        (WeightedTerm("s", SemanticConsistency()), WeightedTerm("p", PatchConsistency(crops=2)))
    )
    objective(step)[0].backward()
    assert float(step.adapted.grad.abs().max()) > 0
    assert step.source.grad is None


# ---- step context and target


def test_shared_features_are_computed_once():
    step = context()
    clip = step.target.encoders.clip
    assert step.adapted_clip is step.adapted_clip and step.source_clip is step.source_clip
    assert len(clip.seen) == 2
    assert not step.source_clip.requires_grad and step.adapted_clip.requires_grad
    assert step.target.clip_features is step.target.clip_features
    assert len(clip.seen) == 3
    assert step.target.perceptual_features is step.target.perceptual_features


# ---- objectives


@dataclasses.dataclass(frozen=True)
class Always:
    """A term of a given value that fails when it must not be computed."""

    value: float

    def __call__(self, step):
        if math.isnan(self.value):
            raise AssertionError("a term of weight 0 was computed")
        return torch.tensor(self.value)


def test_objective_adds_weighted_terms_and_reports_unweighted_values():
    objective = Objective((WeightedTerm("a", Always(2.0), 3.0), WeightedTerm("b", Always(5.0), 0.5)))
    total, values = objective(context())
    assert float(total) == 8.5
    assert {name: float(value) for name, value in values.items()} == {"a": 2.0, "b": 5.0}


def test_objective_does_not_compute_terms_of_weight_zero():
    objective = Objective((WeightedTerm("a", Always(float("nan")), 0.0), WeightedTerm("b", Always(1.0))))
    assert set(objective(context())[1]) == {"b"}
    assert objective.names == ("a", "b")
    assert objective.active == (Always(1.0),) and not objective.reweighted({"b": 0.0}).active


def test_reweighting_leaves_other_terms_alone():
    objective = clip_search().reweighted({"clip": 0.0, "unknown": 3.0})
    assert [item.weight for item in objective.terms] == [0.0, 0.01, 1.0, 1.0]


# ---- presets


def test_the_weights_of_the_method():
    preset = oneshot_clip()
    weights = lambda objective: {item.name: item.weight for item in objective.terms}  # noqa: E731
    assert weights(preset.on_random) == {"adversarial": 1.0, "semantic": 10.0, "patch": 1.0}
    assert weights(preset.on_reference) == {"adversarial": 1.0, "lpips": 1.0, "pixel": 1.0}
    assert weights(clip_search()) == {"clip": 1.0, "deviation": 0.01, "lpips": 1.0, "pixel": 1.0}
    assert (preset.batch, preset.mixing, preset.frozen) == (2, 0.9, ("mapping.", "to_rgbs."))
    assert preset.discriminator == DiscriminatorPlan(r1_gamma=10.0, r1_every=16, heads=1)
    patch = preset.on_random.terms[2].term
    assert (patch.crops, patch.temperature) == (16, 1.0)


def test_the_optimisers_of_the_method():
    """methods.md B2."""
    plan = OptimiserPlan()
    generator, judge = plan.adam(plan.generator_ratio), plan.adam(DiscriminatorPlan().ratio)
    assert generator == {"lr": pytest.approx(0.0016), "betas": (0.0, pytest.approx(0.9919920))}
    assert judge == {"lr": pytest.approx(0.00188235, rel=1e-5), "betas": (0.0, pytest.approx(0.9905855))}
    assert DiscriminatorPlan(r1_every=3).ratio == 3 / 4
    assert plan.ema_decay == pytest.approx(0.99778439)


def test_presets_describe_themselves_as_json():
    for make in PRESETS.values():
        for profile in PROFILES.values():
            values = json.loads(json.dumps(make(profile).describe()))
            assert values["profile"]["name"] == profile.name
            assert values["on_random"]["semantic"] == {"term": "SemanticConsistency", "weight": 10.0}


def test_descriptions_tell_settings_apart():
    plain = oneshot_clip().describe()
    others = [
        oneshot_clip(OFFICIAL),
        oneshot_clip(dataclasses.replace(DEFAULT, views=4)),
        oneshot_clip().reweighted({"semantic": 5.0}),
        dataclasses.replace(oneshot_clip(), schedule=Schedule(3, 1)),
        dataclasses.replace(oneshot_clip(), batch=3),
    ]
    for other in others:
        assert other.describe() != plain


def test_ablations_are_settings():
    without = oneshot_clip().reweighted({"semantic": 0.0, "patch": 0.0, "adversarial": 2.0})
    assert [type(term).__name__ for term in without.on_random.active] == ["Fool"]
    assert [o.terms[0].weight for o in (without.on_random, without.on_reference)] == [2.0, 2.0]
    with pytest.raises(
        ValueError, match=r"no term \['style'\]; its terms: adversarial, semantic, patch, lpips"
    ):
        oneshot_clip().reweighted({"style": 1.0})


def test_crop_side_and_half_life_are_settings():
    preset = with_crops(oneshot_clip(OFFICIAL), 16)
    assert preset.on_random.terms[2].term == dataclasses.replace(
        oneshot_clip(OFFICIAL).on_random.terms[2].term, crop_px=16
    )
    assert preset.profile.crop_px == 16 and with_crops(preset, None).profile.crop_px is None
    plan = with_half_life(preset, 50).optimiser
    assert plan.ema_decay**50 == pytest.approx(0.5)
    with pytest.raises(ValueError, match="ema_half_life_steps must be positive and finite, got 0"):
        with_half_life(preset, 0)


def test_crops_that_have_no_place_are_refused():
    term = PatchConsistency(crop_px=128)
    assert [term.places(128, True), term.places(129, False), term.places(256, False)] == [1, 1, 128]
    with pytest.raises(ValueError, match="crops of 128 px have no place in images of 128 px"):
        term.places(128, False)


@pytest.mark.parametrize(
    ("schedule", "pattern"),
    [
        (Schedule(), "RrrrRrrr"),
        (Schedule(3, 1), "RRRrRRRr"),
        (Schedule(1, 3, reference_first=False), "rrrRrrrR"),
        (Schedule(0, 1), "rrrrrrrr"),
        (Schedule(1, 0), "RRRRRRRR"),
    ],
)
def test_schedules(schedule, pattern):
    kinds = "".join("R" if schedule.is_reference(step) else "r" for step in range(8))
    assert kinds == pattern
    for step in range(8):
        assert schedule.references_before(step) == pattern[:step].count("R")


def test_settings_are_checked():
    for build, text in (
        (lambda: Schedule(0, 0), "not both 0"),
        (lambda: Schedule(-1, 3), "0 or more"),
        (lambda: DiscriminatorPlan(heads=5), "heads must be 1 to 4"),
        (lambda: DiscriminatorPlan(r1_every=0), "r1_every at least 1"),
        (lambda: dataclasses.replace(oneshot_clip(), batch=0), "batch must be at least 1"),
        (
            lambda: dataclasses.replace(oneshot_clip(), mixing=1.5),
            "a probability, must be a number from 0 to 1",
        ),
        (lambda: dataclasses.replace(oneshot_clip(), mixing=math.nan), "from 0 to 1, got nan"),
        (lambda: DiscriminatorPlan(r1_gamma=math.inf), "r1_gamma must be a finite number of at least 0"),
        (
            lambda: OptimiserPlan(learning_rate=math.inf),
            "learning_rate must be positive and at most 1000, got inf",
        ),
        (lambda: OptimiserPlan(betas=(0.0, 1.0)), "betas must be from 0 to below 1"),
        (lambda: WeightedTerm("a", PixelMse(), -0.5), "the weight of a must be .* at least 0, got -0.5"),
        (lambda: oneshot_clip().reweighted({"patch": math.nan}), "the weight of patch must be"),
        (lambda: Fool("pixel"), "one of image, patch, got 'pixel'"),
    ):
        with pytest.raises(ValueError, match=text):
            build()


def test_objective_of_a_kind_of_step():
    preset = oneshot_clip()
    assert isinstance(preset, Preset)
    assert preset.objective(True) is preset.on_reference and preset.objective(False) is preset.on_random


def finite_with_gradient(value: torch.Tensor, *inputs: torch.Tensor) -> bool:
    gradients = torch.autograd.grad(value.sum(), inputs, allow_unused=True)
    return all(bool(one.isfinite().all()) for one in (value, *gradients) if one is not None)


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_terms_are_finite_where_all_features_are_equal_or_zero(fill):
    q = torch.full((8, 5), fill).requires_grad_(True)
    k = torch.full((8, 5), fill)
    assert finite_with_gradient(similarity_difference(q, k), q)
    for negatives in NEGATIVES:
        for self_logit in (None, -10.0):
            assert finite_with_gradient(patch_contrast(q, k, 2, negatives, self_logit=self_logit), q)
    for softness in (0.0, 0.1):
        assert finite_with_gradient(direction_distance(q, k, torch.zeros(5), softness), q)
        assert finite_with_gradient(direction_distance(q, k, torch.ones(5), softness), q)
