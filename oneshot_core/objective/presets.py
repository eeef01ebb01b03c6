"""The methods as tables of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..whitening import Whitening
from .adversarial import Fool
from .batches import Batch, Origin, Prior, Reference
from .contract import MAIN, Objective, WeightedTerm
from .directions import Directional
from .plans import DiscriminatorPlan, OptimiserPlan, Preset, RealPlan, SamplingPolicy, StepKind
from .profile import DEFAULT, Profile
from .rivals import few_shot, mind_the_gap, stylegan_nada
from .terms import (
    ClipSimilarity,
    LatentDeviation,
    Lpips,
    PatchConsistency,
    PixelMse,
    Plausibility,
    SemanticConsistency,
)

REFERENCE, RANDOM = "reference", "random"  # kinds of step
AUGMENTED = "augmented"  # batch of a search


def oneshot_clip(profile: Profile = DEFAULT) -> Preset:
    """One-Shot Adaptation of GAN in Just One CLIP.

    The paper's text says three reference steps, then one random step; its code does one reference, then three
    random steps (methods.md B3). The table follows the code.

    Source: arXiv 2203.09301; weights and schedule of cyclomon/OneshotCLIP train_oneshot.py (methods.md B).
    """
    patch = PatchConsistency(
        crops=16,
        crop_px=profile.crop_px,
        negatives=profile.patch_negatives,
        self_logit=profile.self_logit,
        reaches_edge=profile.crop_reaches_edge,
    )
    # The only steps that see target and counterpart as a pair: here the look is learnt.
    on_reference = (
        WeightedTerm("adversarial", Fool("image"), 1.0),
        WeightedTerm("lpips", Lpips(dropout=profile.lpips_dropout), 1.0),
        WeightedTerm("pixel", PixelMse(), 1.0),
    )
    # Here the content is held and the look spread: no term compares a sample with the target pixel by pixel.
    on_random = (
        WeightedTerm("adversarial", Fool("patch"), 1.0),
        WeightedTerm("semantic", SemanticConsistency(), 10.0),
        WeightedTerm("patch", patch, 1.0),
        # This project's: texts beside the target, for hybrid aims.
        WeightedTerm("text", Directional(profile.softness, pictures=False), 0.0),
    )

    def batch(latents: Origin, size: int) -> Batch:
        return Batch(latents, size, "source", profile.shared_mixing, profile.shared_noise)

    # Two samples are the least that semantic consistency can compare.
    reference, random = {MAIN: batch(Reference(), 1)}, {MAIN: batch(Prior(mixing=0.9), 2)}
    return Preset(
        name="oneshot_clip",
        kinds=(
            StepKind(REFERENCE, Objective(on_reference), reference, 1, RealPlan()),
            StepKind(RANDOM, Objective(on_random), random, 3, RealPlan(flips=True)),
        ),
        discriminator=DiscriminatorPlan(
            r1_kind=REFERENCE if profile.r1_on_reference else None,
            r1_keeps_score=profile.r1_keeps_score,
            one_head_per_update=profile.one_head_per_update,
            small="refuse" if profile.patch_needs_64px else "image",
        ),
        optimiser=OptimiserPlan(
            average_ramp=profile.average_ramp, zero_filled_grads=profile.zero_filled_grads
        ),
        sampling=SamplingPolicy(psi=0.7, replace_from=11),
        start="raw" if profile.trains_raw_generator else "average",
        profile=profile,
    )


def with_half_life(preset: Preset, steps: float) -> Preset:
    """Set the half-life of the weights' moving average, in steps, the same from the first step on.

    Raises:
        ValueError: the method has no moving average.
    """
    if preset.optimiser.average_half_life is None:
        raise ValueError(f"preset {preset.name} has no moving average; leave its half-life out")
    return replace(preset, optimiser=replace(preset.optimiser, average_half_life=steps, average_ramp=None))


def clip_search(profile: Profile = DEFAULT, augment: bool = True) -> Objective:
    """Objective of the CLIP-guided latent search (methods.md A); "clip" at weight 0: pixel-only search.

    Args:
        profile: whether LPIPS keeps its dropout.
        augment: compare the batch of augmented views with the target; False: the picture itself.
    """
    return Objective(
        (
            WeightedTerm("clip", ClipSimilarity(AUGMENTED if augment else MAIN), 1.0),
            WeightedTerm("deviation", LatentDeviation(), 0.01),
            WeightedTerm("lpips", Lpips(dropout=profile.lpips_dropout), 1.0),
            WeightedTerm("pixel", PixelMse(), 1.0),
        )
    )


def ii2s_search(whitening: Whitening | None = None) -> Objective:
    """Objective of II2S as Mind the Gap inverts its style reference with it (editing.md 4.2).

    Args:
        whitening: of the generator's codes; None: for the names and weights alone.
    """
    return Objective(
        (
            WeightedTerm("pixel", PixelMse(), 1.0),
            WeightedTerm("lpips", Lpips(down=0), 1.0),
            # Ten times what is taken for photos: a picture of another look lies farther out.
            WeightedTerm("prior", Plausibility(whitening), 0.01),
        )
    )


PRESETS: dict[str, Callable[[Profile], Preset]] = {
    "oneshot_clip": oneshot_clip,
    "stylegan_nada": stylegan_nada,
    "mind_the_gap": mind_the_gap,
    "few_shot": few_shot,
}
