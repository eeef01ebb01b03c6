"""Socket types and inputs that several nodes share."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from ..oneshot_core.choices import FITS, OWN_DRAW, PRECISIONS, PROFILES, SEED_DRAWS
from ..oneshot_core.recipe import SEED_MAX, Recipe
from .api import io

CATEGORY = "One-Shot StyleGAN"

Generator = io.Custom("ONESHOT_GENERATOR")  # carries oneshot_core.GeneratorBundle
Latent = io.Custom("ONESHOT_LATENT")  # carries oneshot_core.Latent
Direction = io.Custom("ONESHOT_DIRECTION")  # carries oneshot_core.Direction
Alignment = io.Custom("ONESHOT_ALIGNMENT")  # carries oneshot_core.Alignment
Mapper = io.Custom("ONESHOT_MAPPER")  # carries oneshot_core.LatentMapper
Look = io.Custom("ONESHOT_LOOK")  # carries oneshot_core.Look
Encoders = io.Custom("ONESHOT_ENCODERS")  # carries oneshot_core.EncodersOnDemand
Method = io.Custom("ONESHOT_METHOD")  # carries oneshot_core.Recipe, of which method and texts count

DEFAULTS = Recipe()


def schema(*, aliases: tuple[str, ...] = (), shows: bool = False, **fields: Any) -> io.Schema:
    """Describe a node, in what this ComfyUI knows of: an unknown entry would cost the whole pack.

    Args:
        aliases: words under which the node is found in the search, besides its name.
        shows: whether it shows pictures or curves that a page should get again when it is reloaded.
        fields: of the schema.
    """
    newer = {"search_aliases": list(aliases), "has_intermediate_output": shows}
    known = {one.name for one in dataclasses.fields(io.Schema)}
    return io.Schema(
        **fields,
        category=CATEGORY,
        # The page's workflow has an id, by which it asks for what its nodes did last.
        hidden=[io.Hidden.extra_pnginfo],
        **{name: value for name, value in newer.items() if name in known},
    )


def advanced(kind: Any, name: str, **settings: Any) -> io.Input:
    """Make an input that ComfyUI folds away under "advanced" where it knows how to.

    Args:
        kind: such as `io.Int`.
        name: input id.
        settings: of the input.
    """
    if "advanced" in inspect.signature(kind.Input.__init__).parameters:
        return kind.Input(name, advanced=True, **settings)
    return kind.Input(name, extra_dict={"advanced": True}, **settings)


def generator_input(tooltip: str, name: str = "generator", optional: bool = False) -> io.Input:
    """Input for a generator."""
    return Generator.Input(name, tooltip=tooltip, optional=optional)


def encoders_input(tooltip: str = "CLIP and the perceptual net, from Load Encoders.") -> io.Input:
    """Input for CLIP and the perceptual net."""
    return Encoders.Input("encoders", tooltip=tooltip)


def target_input(several: str = "of a batch the first is used", optional: bool = False) -> io.Input:
    """Input for the one picture.

    Args:
        several: what becomes of a batch.
        optional: whether some methods do without.
    """
    return io.Image.Input(
        "target",
        optional=optional,
        tooltip=f"The one picture whose look is wanted. It is fitted to the generator's size; {several}. "
        "Transparency: Load Image drops it and shows what lies under it. To leave it out, "
        "connect Load Image's mask through Invert Mask to mask.",
    )


def fit_input() -> io.Input:
    """How a target that is not square is made so."""
    return advanced(
        io.Combo,
        "fit",
        options=list(FITS),
        default=DEFAULTS.aim.fit,
        tooltip="How a picture that is not square becomes square: crop its middle (Frame Target Picture "
        "moves and zooms the square), stretch it, or letterbox it whole between black bars, which then do "
        "not count. Use the same value for search and adaptation.",
    )


def mask_input() -> io.Input:
    """What part of the target counts."""
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip="White: counts. Black: ignored, such as bars or a background that should not leave its mark. "
        "As large as the target. Load Image's mask is the opposite (white is transparent): connect it "
        "through Invert Mask, and only for a picture with transparency.",
    )


def seed_input(tooltip: str) -> io.Input:
    """A run's seed."""
    return io.Int.Input(
        "seed",
        default=DEFAULTS.training.seed,
        min=0,
        max=SEED_MAX,
        control_after_generate=False,
        tooltip=tooltip,
    )


def seeds_input(default: str = "0-7") -> io.Input:
    """A list of seeds."""
    return io.String.Input(
        "seeds",
        default=default,
        placeholder="0-15,42",
        tooltip="Seeds and ranges, such as 0-15,42; one picture per seed. A seed draws the same person on "
        "every machine and in every batch.",
    )


def seed_draw_input() -> io.Input:
    """How a seed becomes a latent."""
    return advanced(
        io.Combo,
        "seed_draw",
        options=list(SEED_DRAWS),
        default=OWN_DRAW,
        optional=True,
        tooltip="How a seed becomes a latent: own, or nvidia for the pictures that NVIDIA's programs draw "
        "from their seeds.",
    )


def prefix_input(default: str) -> io.Input:
    """Where a file goes."""
    return io.String.Input(
        "filename_prefix",
        default=default,
        tooltip="Folder and start of the name within the output folder; a number is added. "
        "%year% %month% %day% %hour% %minute% %second% are filled in.",
    )


def precision_input() -> io.Input:
    """Number format of forward passes."""
    return advanced(
        io.Combo,
        "precision",
        options=list(PRECISIONS),
        default=DEFAULTS.training.precision,
        tooltip="Number format of the forward passes. bfloat16 is up to twice as fast where the device has "
        "units for it and needs about half the memory; results differ slightly. auto: bfloat16 there, else "
        "float32, and float32 with the profile official.",
    )


def profile_input() -> io.Input:
    """Default or official arithmetic."""
    return advanced(
        io.Combo,
        "profile",
        options=list(PROFILES),
        default=DEFAULTS.method.profile,
        tooltip="default: the method as the paper means it, the published code's accidents repaired. "
        "official: the published code's behaviour, for comparisons. Use the same for search and adaptation.",
    )
