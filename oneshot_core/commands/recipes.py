"""Recipes on the command line: options that change one, files that hold one, and the verb recipe."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints import CheckpointError
from ..checkpoints.native import opened_file
from ..choices import DEMO_TARGET, TARGET_LOOKS
from ..demo.world import demo_recipe
from ..json_values import Fields, JsonError, read
from ..recipe import FORMAT, Recipe, RecipeError
from ..recipe_values import nested
from ..run_folder import kept_record, record_values
from .console import BadInput, say_json

# Option, by its name in the parser: the entry of a recipe that it sets.
ENTRIES = {
    "generator": "generator",
    "target": "aim.target",
    "fit": "aim.fit",
    "zoom": "aim.zoom",
    "offset_x": "aim.offset_x",
    "offset_y": "aim.offset_y",
    "quad": "aim.quad",
    "mask": "aim.mask",
    "latent": "aim.latent",
    "more_targets": "aim.more_targets",
    "target_weights": "aim.target_weights",
    "source_text": "aim.source_text",
    "target_text": "aim.target_text",
    "more_texts": "aim.more_texts",
    "text_weights": "aim.text_weights",
    "clip": "encoders.clip",
    "lpips": "encoders.perceptual",
    "search_steps": "search.steps",
    "search_learning_rate": "search.learning_rate",
    "search_weight": "search.weights",
    "views": "search.views",
    "search_method": "search.method",
    "preset": "method.preset",
    "profile": "method.profile",
    "weight": "method.weights",
    "batch": "method.batch",
    "mixing": "method.mixing",
    "schedule": "method.schedule",
    "crop_px": "method.crop_px",
    "learning_rate": "method.learning_rate",
    "discriminator_rate": "method.discriminator_rate",
    "ema_half_life": "method.ema_half_life",
    "trained_parts": "method.trained_parts",
    "layers": "method.layers",
    "steps": "training.steps",
    "seed": "training.seed",
    "precision": "training.precision",
    "snapshot_every": "training.snapshot_every",
}


def values_of(options: Namespace) -> dict[str, Any]:
    """What options say of a recipe, as JSON values; options that were not given say nothing."""
    given = {entry: getattr(options, option, None) for option, entry in ENTRIES.items()}
    entries = {entry: _as_json(one) for entry, one in given.items() if one is not None}
    if getattr(options, "seed", None) is not None:  # of everything random, the search too
        entries["search.seed"] = None
    return nested(entries)


def _as_json(given: Any) -> Any:
    """Pairs of a name and a number as an object, other lists as they are."""
    if isinstance(given, list) and all(isinstance(one, tuple) for one in given):
        return dict(given)
    return list(given) if isinstance(given, tuple) else given


def recipe_of(options: Namespace, base: Recipe | None = None) -> Recipe:
    """Build the recipe of a command: that of `--recipe`, else `base`, changed by the other options.

    Raises:
        BadInput: no recipe at that place, or something it does not allow.
    """
    if options.recipe:
        base = found_recipe(options.recipe)
    texts = getattr(options, "target_text", None) is not None
    wanted = ("generator",) if texts else ("generator", "target")
    missing = [name for name in wanted if base is None and getattr(options, name) is None]
    if missing:
        raise BadInput(f"--{missing[0]} must be given, or a --recipe that names it")
    return Recipe.of(values_of(options), base)


def demo_recipe_of(options: Namespace) -> Recipe:
    """Build the recipe of the verb `demo`, whose target may be the name of a shipped look.

    Raises:
        BadInput: the target is neither a look nor a file.
    """
    name = options.target or TARGET_LOOKS[0]
    if name in TARGET_LOOKS:
        options.target = f"{DEMO_TARGET}{name}"
    elif not name.startswith(DEMO_TARGET) and not Path(name).is_file():
        raise BadInput(f"--target must be one of {', '.join(TARGET_LOOKS)}, or a picture file; got {name!r}")
    return recipe_of(options, demo_recipe())


def found_recipe(name: str) -> Recipe:
    """Read the recipe in a file or folder.

    Args:
        name: a recipe's JSON, the folder of a run or its `run.json`, or a generator that a run made.

    Raises:
        BadInput: there is none.
    """
    path = Path(name)
    try:
        if path.is_dir():
            kept = kept_record(path)
            if not kept:
                raise FileNotFoundError
            return Recipe.of(kept["recipe"])
        with open(path, "rb") as file:
            is_json = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
        if is_json:
            values = read(path)
            if not isinstance(values, dict) or values.get("format", FORMAT) != FORMAT:
                values = record_values(path)["recipe"]
        else:
            with opened_file(path) as (_, header):
                history = Fields(header, "its header").object("provenance").object("history")
                history.object("recipe")
                values = history.value("recipe")
        return Recipe.of(values)
    except FileNotFoundError:
        raise BadInput(
            f"there is no recipe at {name}; give its JSON, a run's folder, or an adapted generator"
        ) from None
    except (OSError, JsonError, CheckpointError, RecipeError) as error:
        raise BadInput(f"{name} holds no recipe that can be read: {error}") from error


def recipe_command(options: Namespace) -> None:
    """`recipe`: print the recipe of a command, of a run's folder, or of an adapted generator."""
    words: Sequence[str] = options.of
    parse: Callable[[Sequence[str]], Namespace] = options.parse
    if not words:
        raise BadInput("recipe takes a file, a folder, or a command with its options; got none")
    if words[0] in ("adapt", "demo") and not Path(words[0]).exists():
        more = [] if "--out" in words else ["--out=-"]  # the recipe of a command does not know its folder
        try:
            inner = parse([*words, *more])
        except SystemExit as stop:
            raise BadInput("the command after `recipe` cannot be read, see above") from stop
        recipe = demo_recipe_of(inner) if words[0] == "demo" else recipe_of(inner)
        say_json(recipe.values())
        return
    if len(words) > 1:
        raise BadInput(
            f"recipe takes one file or folder, or a command with its options; got {' '.join(words)}"
        )
    say_json(found_recipe(words[0]).values())
