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


def recipe_of(
    generator: Any, settings: Mapping[str, Any], entries: Mapping[str, str], method: Any = None
) -> Any:
    """Build the recipe of a node's inputs.

    Args:
        generator: whose file's name the recipe tells.
        settings: by input id.
        entries: `ADAPT` or `SEARCH`.
        method: recipe of One-Shot Method, which then says everything about the method; None: the inputs do.

    Raises:
        ValueError: a value that a recipe does not allow.
    """
    named = {"generator": generator.provenance.file_name}
    if method is not None:
        entries = {name: entry for name, entry in entries.items() if not entry.startswith("method.")}
    return core.Recipe.of(nested({**named, **values_of(settings, entries)}), method)


def method_recipe(chosen: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Build the recipe of One-Shot Method.

    Args:
        chosen: the preset, and the inputs that hang on it.
        settings: the others, by input id.

    Raises:
        ValueError: a value that a recipe does not allow, or weights that are no numbers.
    """
    texts = [line.strip() for line in chosen.get("target_text", "").splitlines() if line.strip()]
    first, more = (texts[0], texts[1:]) if texts else ("", [])
    entries: dict[str, Any] = {
        "method.preset": chosen["preset"],
        "method.profile": settings["profile"],
        "method.learning_rate": settings["learning_rate"],
        "method.trained_parts": settings["trained_parts"].strip() or None,
        "method.batch": chosen["batch"] or None,
        "method.mixing": None if chosen.get("mixing", -1) < 0 else chosen["mixing"],
        "method.discriminator_rate": chosen.get("discriminator_rate") or None,
        "method.weights": {
            name.removesuffix("_weight"): value for name, value in chosen.items() if name.endswith("_weight")
        },
        "aim.source_text": chosen.get("source_text", "").strip(),
        "aim.target_text": first,
        "aim.more_texts": more,
        "aim.text_weights": shares(chosen.get("text_weights", "")),
        "aim.target_weights": shares(settings["target_weights"]),
    }
    layers = chosen.get("layers", -1)
    if layers >= 0:
        entries["method.layers"] = layers
    return core.Recipe.of(nested(entries))


def shares(text: str) -> list[float]:
    """Read positive numbers separated by commas; empty text gives none.

    Raises:
        ValueError: something else.
    """
    try:
        found = [float(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        found = [0.0]
    if not all(0 < one < float("inf") for one in found):
        raise ValueError(f"weights are positive numbers separated by commas, such as 1, 0.5; got {text!r}")
    return found
