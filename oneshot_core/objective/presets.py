"""The methods as tables of data."""

from __future__ import annotations

from collections.abc import Callable

from . import DEFAULT, DiscriminatorPlan, Objective, Preset, Profile, WeightedTerm
from .adversarial import Fool
from .terms import ClipSimilarity, LatentDeviation, Lpips, PatchConsistency, PixelMse, SemanticConsistency


def oneshot_clip(profile: Profile = DEFAULT) -> Preset:
    """One-Shot Adaptation of GAN in Just One CLIP.

    Source: arXiv 2203.09301; weights and schedule of cyclomon/OneshotCLIP train_oneshot.py (methods.md B).
    """
    patch = PatchConsistency(
        crops=16,
        crop_px=profile.crop_px,
        negatives=profile.patch_negatives,
        self_logit=profile.self_logit,
    )
    return Preset(
        name="oneshot_clip",
        on_random=Objective(
            (
                WeightedTerm("adversarial", Fool("patch"), 1.0),
                WeightedTerm("semantic", SemanticConsistency(), 10.0),
                WeightedTerm("patch", patch, 1.0),
            )
        ),
        on_reference=Objective(
            (
                WeightedTerm("adversarial", Fool("image"), 1.0),
                WeightedTerm("lpips", Lpips(), 1.0),
                WeightedTerm("pixel", PixelMse(), 1.0),
            )
        ),
        discriminator=DiscriminatorPlan(),
        profile=profile,
    )


def clip_search() -> Objective:
    """Objective of the CLIP-guided latent search (methods.md A); weight 0 of "clip" gives the pixel-only
    search."""
    return Objective(
        (
            WeightedTerm("clip", ClipSimilarity(), 1.0),
            WeightedTerm("deviation", LatentDeviation(), 0.01),
            WeightedTerm("lpips", Lpips(), 1.0),
            WeightedTerm("pixel", PixelMse(), 1.0),
        )
    )


PRESETS: dict[str, Callable[[Profile], Preset]] = {"oneshot_clip": oneshot_clip}
