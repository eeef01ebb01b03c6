"""A preset from what a recipe says of its method: the only function from settings to a table."""

from __future__ import annotations

from dataclasses import replace

from .choices import PARTS
from .method_recipe import MethodRecipe
from .objective import PROFILES, Preset
from .objective.presets import PRESETS, with_half_life
from .objective.trainable import Trainable


def method_of(method: MethodRecipe, size: int) -> tuple[Preset, list[str]]:
    """The table for a generator of `size` px, and notes on what was changed so that it fits.

    Raises:
        ValueError: a term, kind of step or value that the method does not know.
    """
    preset = PRESETS[method.preset](PROFILES[method.profile]).reweighted(method.weights)
    preset = preset.rebatched(method.batch, method.mixing).scheduled(method.schedule)
    if method.learning_rate is not None:
        preset = replace(preset, optimiser=replace(preset.optimiser, learning_rate=method.learning_rate))
    if method.discriminator_rate is not None and preset.discriminator is not None:
        other = replace(preset.discriminator, learning_rate=method.discriminator_rate)
        preset = replace(preset, discriminator=other)
    if method.parts:
        # In one order, so that equal sets have equal keys.
        named = tuple(part for part in PARTS if part in method.parts)
        preset = replace(preset, trainable=Trainable(named))
    if method.layers is not None:
        preset = preset.choosing(method.layers)
    if method.ema_half_life is not None:
        preset = with_half_life(preset, method.ema_half_life)
    if method.crop_px is not None:
        return preset.adjusted("patch", crop_px=method.crop_px), []
    return preset.fitted(size)
