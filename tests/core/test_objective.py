"""Terms against literal loops; objectives as data, and what they may not be."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from stand_ins import StandInClip, StandInPerceptual, picture, stand_in_encoders, tiny_generator

from oneshot_core.choices import STYLE_OFFSETS
from oneshot_core.draws import SeededDraws
from oneshot_core.features import Encoders
from oneshot_core.objective import (
    PARTS,
    Aim,
    AimFeatures,
    Batch,
    DiscriminatorPlan,
    Needs,
    Objective,
    OptimiserPlan,
    Preset,
    Prior,
    StepContext,
    StepDraws,
    StepKind,
    Term,
    Trainable,
    View,
    WeightedTerm,
)
from oneshot_core.objective.adversarial import Fool
from oneshot_core.objective.directions import direction_distance
from oneshot_core.objective.presets import clip_search, oneshot_clip
from oneshot_core.objective.terms import (
    NEGATIVES,
    ClipSimilarity,
    LatentDeviation,
    Lpips,
    PatchConsistency,
    PixelMse,
    SemanticConsistency,
    patch_contrast,
    similarity_difference,
)
from oneshot_core.tensors import seeded


def drawn(*shape: int, what: str = "x") -> torch.Tensor:
    return torch.randn(shape, generator=seeded(0, 0, what), dtype=torch.float64)


def context(batch: int = 2, size: int = 16, source: bool = True, encoders=None, **settings) -> StepContext:
    adapted = torch.cat([picture(size, seed) for seed in range(1, batch + 1)]).requires_grad_(True)
    other = torch.cat([picture(size, seed) for seed in range(11, batch + 11)])
    encoders = encoders or stand_in_encoders()

    def encode(index, images):
        return encoders.clips[index][0].encode_images(images)

    view = View(lambda: adapted, (lambda: other) if source else None, encode)
    goal = AimFeatures(Aim(picture(size)), encoders)
    return StepContext(goal, {"main": view}, StepDraws(SeededDraws(0), 0), encode, **settings)


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
    step = context()
    PatchConsistency(crops=3, crop_px=4)(step)
    corners = step.draws.integers("crops", 13, (3, 2))  # (left, top)
    crops = step.goal.encoders.clip.seen[-1]
    assert crops.shape == (6, 3, 4, 4)
    for row, (x, y) in enumerate(corners.repeat_interleave(2, dim=0).tolist()):
        assert torch.equal(crops[row], step.view().adapted[row % 2, :, y : y + 4, x : x + 4])


# ---- the other terms


def test_pixel_mse():
    step = context(batch=1)
    wanted = ((step.view().adapted - step.goal.targets) ** 2).mean()
    assert abs(float((PixelMse()(step) - wanted).detach())) < 1e-7


def test_lpips_is_the_mean_over_the_batch():
    step = context(batch=2)
    perceptual = step.goal.encoders.perceptual
    wanted = perceptual.distance(perceptual.features(step.view().adapted), step.goal.perceptual())
    assert torch.equal(Lpips()(step), wanted.mean())


def test_clip_similarity_compares_views_or_the_image_itself():
    step = context(batch=1)
    clip = step.goal.encoders.clip
    wanted = 1 - F.cosine_similarity(
        clip.encode_images(step.view().adapted), clip.encode_images(step.goal.targets)
    )
    assert torch.allclose(ClipSimilarity()(step), wanted.mean())
    both = torch.cat([step.view().adapted, step.goal.targets])
    step.views = {**step.views, "augmented": View(lambda: both, None, step.encode)}
    assert torch.allclose(ClipSimilarity("augmented")(step), wanted.mean() / 2, atol=1e-6)


def test_latent_deviation_is_a_mean_over_dimensions():
    step = context(latent=torch.ones(1, 8), mean_latent=torch.full((8,), 3.0))
    assert float(LatentDeviation()(step)) == 4.0
    with pytest.raises(ValueError, match="belongs to a latent search"):
        LatentDeviation()(context())


def test_terms_say_what_their_step_lacks():
    with pytest.raises(ValueError, match="renders none"):
        SemanticConsistency()(context(source=False))
    with pytest.raises(ValueError, match="reads the batch 'augmented'; this step has main"):
        ClipSimilarity("augmented")(context())
    with pytest.raises(ValueError, match="needs a discriminator plan"):
        Fool("image")(context())
    bare = context()
    bare.goal = AimFeatures(Aim(), stand_in_encoders())
    with pytest.raises(ValueError, match="target picture, but none was given"):
        PixelMse()(bare)


def test_gradient_flows_into_the_adapted_images_only():
    step = context()
    step.view().source.requires_grad_(True)
    objective = Objective(
        (WeightedTerm("s", SemanticConsistency()), WeightedTerm("p", PatchConsistency(crops=2)))
    )
    objective(step)[0].backward()
    assert float(step.view().adapted.grad.abs().max()) > 0
    assert step.view().source.grad is None


# ---- step context and target


def test_shared_features_are_computed_once():
    step = context()
    clip = step.goal.encoders.clip
    view = step.view()
    assert view.clip() is view.clip() and view.source_clip() is view.source_clip()
    assert len(clip.seen) == 2
    assert not view.source_clip().requires_grad and view.clip().requires_grad
    assert step.goal.clip is step.goal.clip
    assert len(clip.seen) == 3
    assert step.goal.perceptual() is step.goal.perceptual()


def test_clip_terms_add_up_over_models_by_weight():
    one, other = StandInClip(dim=12), StandInClip(dim=7)
    both = Encoders(((one, 0.5), (other, 2.0)), StandInPerceptual())
    for term in (SemanticConsistency(), PatchConsistency(crops=3, crop_px=4), ClipSimilarity()):
        alone = [
            term(context(encoders=Encoders.of(clip, StandInPerceptual()))).item() for clip in (one, other)
        ]
        assert term(context(encoders=both)).item() == pytest.approx(0.5 * alone[0] + 2 * alone[1], rel=1e-5)
    with pytest.raises(ValueError, match="at least one CLIP"):
        Encoders((), StandInPerceptual())
    with pytest.raises(ValueError, match="every CLIP model has the weight 0"):
        Encoders(((one, 0.0),), StandInPerceptual())


# ---- objectives


@dataclasses.dataclass(frozen=True)
class Always(Term):
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


# ---- what a method may not be


def objective(*terms: WeightedTerm) -> Objective:
    return Objective(terms)


def kind(*terms: WeightedTerm, name: str = "free", **batches: Batch) -> StepKind:
    return StepKind(name, Objective(terms), batches or {"main": Batch(Prior(), 2)})


TWO_SIZES = (
    WeightedTerm("coarse", PatchConsistency(crop_px=8, purpose="coarse")),
    WeightedTerm("fine", PatchConsistency(crop_px=4, purpose="fine")),
)


def test_two_terms_of_one_name_are_refused():
    """They were both added and one of them twice: 8.34 instead of 0.76."""
    with pytest.raises(ValueError, match="two terms named 'pixel'"):
        objective(WeightedTerm("pixel", PixelMse()), WeightedTerm("pixel", Lpips()))


def test_two_patch_terms_keep_their_own_crops():
    step = context()
    values = Objective(TWO_SIZES)(step)[1]
    sides = [seen.shape[-1] for seen in step.goal.encoders.clip.seen]
    assert sides == [8, 8, 4, 4]
    for item in TWO_SIZES:
        assert torch.equal(values[item.name], item.term(context()).detach())


def test_two_terms_that_would_share_their_draws_are_refused():
    same = [WeightedTerm(name, PatchConsistency(crop_px=px)) for name, px in (("coarse", 8), ("fine", 4))]
    with pytest.raises(ValueError, match="draw random numbers for 'crops'"):
        kind(*same).check(16)
    kind(*TWO_SIZES).check(16)


def test_a_term_that_fools_needs_a_discriminator_plan():
    with pytest.raises(ValueError, match="free steps of preset x have a term that fools"):
        Preset("x", (kind(WeightedTerm("adversarial", Fool("image"))),))
    silent = kind(WeightedTerm("adversarial", Fool("image"), 0.0), WeightedTerm("s", SemanticConsistency()))
    assert Preset("x", (silent,)).needs == Needs(
        views=frozenset({"main"}), pairs=frozenset({"main"}), clip=True
    )


def test_terms_of_one_step_fool_one_path():
    with pytest.raises(ValueError, match="on the paths image and patch"):
        kind(WeightedTerm("a", Fool("image")), WeightedTerm("b", Fool("patch")))


def test_unknown_parts_are_refused_and_each_parameter_has_one():
    with pytest.raises(ValueError, match="one or more of mapping, .*got 'maping'"):
        Trainable(("maping",))
    with pytest.raises(ValueError, match="got none"):
        Trainable(())
    generator = tiny_generator()
    names = [Trainable((part,)).names(generator) for part in PARTS if part != STYLE_OFFSETS]
    assert all(names) and sum(map(len, names)) == len(list(generator.named_parameters()))
    assert set().union(*names) == {name for name, _ in generator.named_parameters()}


def test_style_offsets_are_the_biases_of_all_affine_layers_and_join_other_parts():
    generator = tiny_generator()
    offsets = Trainable((STYLE_OFFSETS,)).names(generator)
    layers = [*generator.convs, *generator.to_rgbs]
    parameters = dict(generator.named_parameters())
    assert {id(parameters[name]) for name in offsets} == {id(layer.affine.bias) for layer in layers}
    noise, affine = (Trainable((part,)).names(generator) for part in ("noise", "affine"))
    assert Trainable(("noise", STYLE_OFFSETS)).names(generator) == noise | offsets
    assert Trainable(("affine", STYLE_OFFSETS)).names(generator) == affine | offsets > affine


def test_a_term_reads_only_batches_that_its_step_draws():
    with pytest.raises(ValueError, match="reads the batch 'augmented'; they draw main"):
        kind(WeightedTerm("clip", ClipSimilarity("augmented")))


def test_pairs_need_two_pictures():
    lonely = kind(WeightedTerm("s", SemanticConsistency()), main=Batch(Prior(), 1))
    with pytest.raises(ValueError, match="batch must be at least 2, got 1"):
        lonely.check(64)


def test_settings_are_checked():
    for build, text in (
        (lambda: oneshot_clip().scheduled({"reference": 0, "random": 0}), "comes 0 times"),
        (lambda: oneshot_clip().scheduled({"random": -1}), "0 or more times, got -1"),
        (lambda: oneshot_clip().scheduled({"anchor": 1}), "no 'anchor' steps; its kinds: reference, random"),
        (lambda: DiscriminatorPlan(heads=5), "heads must be 1 to 4"),
        (lambda: DiscriminatorPlan(r1_every=0), "r1_every at least 1"),
        (lambda: DiscriminatorPlan(small="guess"), "small must be one of refuse, image"),
        (lambda: oneshot_clip().rebatched(0), "at least 1 picture"),
        (lambda: oneshot_clip().rebatched(mixing=1.5), "a probability, must be a number from 0 to 1"),
        (lambda: oneshot_clip().rebatched(mixing=math.nan), "from 0 to 1, got nan"),
        (lambda: Batch(Prior(), mapping="both"), "one of source, own, got 'both'"),
        (lambda: DiscriminatorPlan(r1_gamma=math.inf), "r1_gamma must be a finite number of at least 0"),
        (
            lambda: OptimiserPlan(learning_rate=math.inf),
            "learning_rate must be positive and at most 1000, got inf",
        ),
        (lambda: OptimiserPlan(betas=(0.0, 1.0)), "betas must be from 0 to below 1"),
        (lambda: WeightedTerm("a", PixelMse(), -0.5), "the weight of a must be .* at least 0, got -0.5"),
        (lambda: oneshot_clip().reweighted({"patch": math.nan}), "the weight of patch must be"),
        (lambda: Fool("pixel"), "one of image, patch, got 'pixel'"),
        (lambda: dataclasses.replace(oneshot_clip(), start="middle"), "one of average, raw"),
        (
            lambda: dataclasses.replace(oneshot_clip(), discriminator=DiscriminatorPlan(r1_kind="anchor")),
            "R1 counts steps of the kind 'anchor'",
        ),
        (lambda: dataclasses.replace(oneshot_clip(), kinds=oneshot_clip().kinds[:1] * 2), "of one name"),
    ):
        with pytest.raises(ValueError, match=text):
            build()


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
