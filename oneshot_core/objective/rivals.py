"""The methods that the paper compares itself with, as tables of data beside `presets.oneshot_clip`."""

from __future__ import annotations

from .adversarial import Fool
from .batches import Anchors, Batch, Origin, Prior, Reference
from .contract import MAIN, Objective, WeightedTerm
from .directions import (
    REFERENCE_VIEW,
    Across,
    Directional,
    GlobalText,
    Manifold,
    PatchDirectional,
    Texture,
    Within,
)
from .plans import (
    DiscriminatorPlan,
    OptimiserPlan,
    PathLength,
    Preset,
    RealPlan,
    SamplingPolicy,
    StepKind,
)
from .profile import DEFAULT, Profile
from .relations import RELATIONS, DistanceConsistency
from .terms import ClipSimilarity, Lpips, PixelMse
from .trainable import Selection, Trainable

FREE, ANCHORED = "free", "anchored"  # kinds of step


def _batch(latents: Origin, size: int, profile: Profile) -> Batch:
    return Batch(latents, size, "source", profile.shared_mixing, profile.shared_noise)


def stylegan_nada(profile: Profile = DEFAULT) -> Preset:
    """StyleGAN-NADA: pictures change in CLIP's eyes as a text, or the way to some pictures, says.

    It needs no reference and no discriminator, and for texts no picture.

    Source: arXiv 2108.00946; weights and schedule of rinongal/StyleGAN-nada (methods.md part II).
    """
    objective = Objective(
        (
            WeightedTerm(
                "direction",
                Directional(
                    profile.softness, nudges=profile.nudges_unchanged, as_files=profile.targets_as_files
                ),
                1.0,
            ),
            # All four are off in the paper.
            WeightedTerm("global", GlobalText(), 0.0),
            WeightedTerm("manifold", Manifold(), 0.0),
            WeightedTerm("part", PatchDirectional(), 0.0),
            WeightedTerm("texture", Texture(), 0.0),
        )
    )
    return Preset(
        name="stylegan_nada",
        kinds=(StepKind(FREE, objective, {MAIN: _batch(Prior(0.0), 2, profile)}),),
        optimiser=OptimiserPlan(average_half_life=None, zero_filled_grads=profile.zero_filled_grads),
        # The README's command chooses as many layers as there are slots, its notebook two thirds of them.
        selection=Selection(share=1.0 if profile.shifted_layers else 2 / 3, published=profile.shifted_layers),
        sampling=SamplingPolicy(psi=0.7),
        profile=profile,
    )


def mind_the_gap(profile: Profile = DEFAULT) -> Preset:
    """Mind the Gap: pictures change as the target's counterpart does on its way to the target.

    Source: arXiv 2110.08398; weights and schedule of ZPdesu/MindTheGap (methods.md part II).
    """
    down = 4 if profile.reduces_by_four else 0
    objective = Objective(
        (
            WeightedTerm("across", Across(profile.softness), 1.0),
            WeightedTerm("within", Within(), 0.5),
            WeightedTerm("reference_clip", ClipSimilarity(REFERENCE_VIEW), 30.0),
            WeightedTerm("reference_pixel", PixelMse(REFERENCE_VIEW, down), 10.0),
            WeightedTerm("reference_lpips", Lpips(view=REFERENCE_VIEW, down=down), 10.0),
        )
    )
    batches = {MAIN: _batch(Prior(0.0), 4, profile), REFERENCE_VIEW: _batch(Reference(), 1, profile)}
    return Preset(
        name="mind_the_gap",
        kinds=(StepKind(FREE, objective, batches),),
        optimiser=OptimiserPlan(average_half_life=None, zero_filled_grads=profile.zero_filled_grads),
        # Colours and texture of every picture come from the counterpart: its inference is part of the method.
        sampling=SamplingPolicy(psi=0.5, replace_from=7, replaces_with="reference"),
        profile=profile,
    )


def few_shot(profile: Profile = DEFAULT) -> Preset:
    """Few-shot adaptation by cross-domain correspondence: samples keep their mutual distances.

    Anchors, as many as targets, stand for the targets before an image-level discriminator; elsewhere patches
    are judged ("relaxed realism"). One target is repeated with flips of its own, as the published loader
    cannot.

    Source: arXiv 2104.06820; weights and schedule of utkarshojha/few-shot-gan-adaptation (methods.md II).
    """

    def batch(latents: Origin) -> Batch:
        # Each generator maps z by itself: the adapted one's mapping is trained too.
        return Batch(latents, 4, "own", profile.shared_mixing, profile.shared_noise)

    distance = WeightedTerm("distance", DistanceConsistency(), 1000.0)
    relations = batch(Prior(0.0))

    def kind(name: str, path: str, latents: Origin, steps: int) -> StepKind:
        objective = Objective((WeightedTerm("adversarial", Fool(path), 1.0), distance))
        return StepKind(name, objective, {MAIN: batch(latents), RELATIONS: relations}, steps, RealPlan(True))

    return Preset(
        name="few_shot",
        kinds=(
            kind(ANCHORED, "image", Anchors(0.1), 1),
            kind(FREE, "patch", Prior(0.9), 3),
        ),
        discriminator=DiscriminatorPlan(
            r1_keeps_score=profile.r1_keeps_score,
            one_head_per_update=profile.one_head_per_update,
            small="refuse" if profile.patch_needs_64px else "image",
        ),
        optimiser=OptimiserPlan(
            average_ramp=profile.average_ramp, zero_filled_grads=profile.zero_filled_grads
        ),
        path_length=PathLength(keeps_picture=profile.path_keeps_picture),
        trainable=Trainable(("mapping", "constant", "affine", "convolution", "noise", "rgb")),
        sampling=SamplingPolicy(psi=1.0),
        start="raw" if profile.trains_raw_generator else "average",
        profile=profile,
    )
