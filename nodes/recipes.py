"""What the inputs of a node say of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import oneshot_core as core
from ..oneshot_core.recipe_values import nested

TERMS = ("semantic", "patch", "adversarial", "lpips", "pixel")  # of the adaptation, with a weight each
SEARCH_TERMS = ("clip", "lpips", "pixel", "deviation")
ADAPT = {  # input of the node: entry of the recipe
    "fit": "aim.fit",
    "profile": "method.profile",
    "preset": "method.preset",
    "learning_rate": "method.learning_rate",
    "discriminator_rate": "method.discriminator_rate",
    "ema_half_life": "method.ema_half_life",
    "trained_parts": "method.trained_parts",
    "batch": "method.batch",
    "mixing": "method.mixing",
    "crop_px": "method.crop_px",
    "reference_steps": "method.schedule.reference",
    "random_steps": "method.schedule.random",
    **{f"{term}_weight": f"method.weights.{term}" for term in TERMS},
    "steps": "training.steps",
    "seed": "training.seed",
    "precision": "training.precision",
    "snapshot_every": "training.snapshot_every",
}
SEARCH = {
    "fit": "aim.fit",
    "profile": "method.profile",
    "steps": "search.steps",
    "seed": "search.seed",
    "precision": "training.precision",
    "learning_rate": "search.learning_rate",
    **{f"{term}_weight": f"search.weights.{term}" for term in SEARCH_TERMS},
}
# Where 0 or no text leaves the choice to the method.
AUTOMATIC = ("crop_px", "discriminator_rate", "ema_half_life", "trained_parts")


def values_of(settings: Mapping[str, Any], entries: Mapping[str, str]) -> dict[str, Any]:
    """Values of a recipe's entries, by entry, from those of inputs; see `recipe_of`."""
    given = {name: (settings[name] or None) if name in AUTOMATIC else settings[name] for name in entries}
    return {entry: given[name] for name, entry in entries.items()}


def recipe_of(generator: Any, settings: Mapping[str, Any], entries: Mapping[str, str]) -> Any:
    """Build the recipe of a node's inputs.

    Args:
        generator: whose file's name the recipe tells.
        settings: by input id.
        entries: `ADAPT` or `SEARCH`.

    Raises:
        ValueError: a value that a recipe does not allow.
    """
    named = {"generator": generator.provenance.file_name}
    return core.Recipe.of(nested({**named, **values_of(settings, entries)}))
