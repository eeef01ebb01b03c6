"""The reference latent of an adaptation: what it says of the search that found it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .checkpoints import CheckpointError
from .counterpart import JUDGED
from .latent_files import load_latent, save_latent
from .latents import Latent
from .recipe import Recipe

RECIPE = "recipe"  # in a latent's origin: that of its search, with fingerprints of what it saw


def kept_reference(path: Path) -> Latent | None:
    """Read a reference that an earlier search left; None where there is none that can be read."""
    with suppress(CheckpointError):
        return load_latent(path) if path.is_file() else None
    return None


def keep_reference(latent: Latent, path: Path) -> None:
    """Write a reference, unless it is there already: what is only loaded is not written again."""
    kept = kept_reference(path)
    judged = None if kept is None else kept.origin.get(JUDGED)
    if kept is None or judged != latent.origin.get(JUDGED) or not torch.equal(kept.values, latent.values):
        save_latent(latent, path)


def reference_notes(recipe: Recipe, found: Mapping[str, Any], reference: Latent | None) -> list[str]:
    """Say where a reference belongs to something else than what is adapted to.

    Args:
        recipe: of the adaptation.
        found: what that works with, see `fingerprints.inputs_of`.
        reference: the latent; one that no search of this program found says nothing.

    Returns:
        One sentence, or none. A generator of another family is an error elsewhere.
    """
    searched = None if reference is None else _searched(reference)
    if searched is None or "target" not in searched.inputs:
        return []
    differing = [name for name in ("target", "mask", "source") if _differs(name, searched, found)]
    if not differing:
        return []
    there, here = searched.aim.frame, recipe.aim.frame
    framed = "" if there == here else f" (it was framed {there}, here it is {here})"
    words = {
        "target": f"for another target picture, or another part of it{framed}",
        "mask": "with another mask" if "mask" in searched.inputs else "without a mask",
        "source": "with another generator of the same family",
    }
    told = " and ".join(words[name] for name in differing)
    return [
        f"the reference was searched {told}, so the two are no pair from which the look could be learnt: "
        "search with what is adapted to"
    ]


def _searched(reference: Latent) -> Recipe | None:
    """The recipe of the search that found a latent."""
    try:
        return Recipe.of(reference.origin[RECIPE])
    except (KeyError, ValueError):  # made by hand, by another program or another version
        return None


def _differs(name: str, searched: Recipe, found: Mapping[str, Any]) -> bool:
    return bool(searched.inputs.get(name) != found.get(name))


def as_made(recipe: Recipe, reference: Latent | None) -> Recipe:
    """The recipe from which a result can be made again: with the search that found its reference.

    A search that does not belong to the adaptation, of another target or profile say, cannot be told in one
    recipe; then the reference stays an input.
    """
    other = None if reference is None else _searched(reference)
    try:
        if other is None:
            return recipe
        seed = other.search_config().seed
        search = replace(other.search, seed=None if seed == recipe.training.seed else seed)
        joined = replace(recipe, search=search, aim=replace(recipe.aim, latent=None))
        same = joined.settings("search") == other.settings("search")
    except ValueError:  # a latent of another program or version
        same = False
    if not same:
        return recipe
    return joined.bound({name: value for name, value in recipe.inputs.items() if name != "reference"})
