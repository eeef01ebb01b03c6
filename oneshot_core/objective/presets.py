"""The methods as tables of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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


def with_crops(preset: Preset, crop_px: int | None) -> Preset:
    """Change the side of the crops that patch consistency compares, in pixels; None: an eighth of the
    image."""
    terms = tuple(
        replace(item, term=replace(item.term, crop_px=crop_px))
        if isinstance(item.term, PatchConsistency)
        else item
        for item in preset.on_random.terms
    )
    return replace(preset, on_random=Objective(terms), profile=replace(preset.profile, crop_px=crop_px))


def fit_crops(preset: Preset, size: int, crop_px: int | None = None) -> tuple[Preset, list[str]]:
    """Choose crops that fit a generator.

    Args:
        preset: the method.
        size: side of the generator's images in pixels.
        crop_px: side that the user asks for; None: the profile's.

    Returns:
        The preset, and a note where the official 128 px had to become an eighth of the image.
    """
    if crop_px is not None:
        return with_crops(preset, crop_px), []
    fixed = preset.profile.crop_px
    if fixed is None or fixed < size:
        return preset, []
    note = f"crops of {fixed} px do not fit into pictures of {size} px; using {size // 8} px"
    return with_crops(preset, None), [note]


def with_half_life(preset: Preset, steps: float) -> Preset:
    """Change the half-life of the weights' moving average, in optimiser steps."""
    return replace(preset, optimiser=replace(preset.optimiser, ema_half_life_steps=steps))


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
