"""A recipe: one adaptation as data, from which it can be made again; the only place of defaults.

The command line, the nodes and batch plans all build recipes. A recipe says what is wanted in names and
numbers. Bound to what it works with it also says what the pictures and networks were, by fingerprints, and
has a key: equal keys, equal results.

Nothing here imports torch before it is needed, so that menus may ask for defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from .choices import (
    AUTO,
    DEMO,
    DEMO_TARGET,
    METHOD_STEPS,
    PRECISIONS,
    PRESETS,
    PROFILES,
    SEARCH_METHODS,
    SEARCH_RATE,
    SEARCH_STEPS,
    STEPS,
)
from .digests import KEY_DIGITS, digest
from .file_names import last_part, last_part_of_model
from .frames import Frame
from .json_values import Fields, JsonError
from .method_recipe import MethodRecipe, RecipeError
from .quads import Quad
from .ranges import MOST_RATE, check_number
from .recipe_values import WHEN_GIVEN, changed, plain

if TYPE_CHECKING:
    import torch

    from .checkpoints import GeneratorBundle
    from .objective import Preset
    from .search import SearchConfig
    from .training import TrainConfig

FORMAT, FORMAT_VERSION = "oneshot-recipe", 1
ENGINE = 2  # raise it when the same recipe gives other numbers
STEM_DIGITS = 24  # of a key; what it shares with those of more or fewer steps
MOST_STEPS = 100_000
SEED_MAX = 2**53 - 1  # what a browser's number still holds exactly


@dataclass(frozen=True)
class AimRecipe:
    """What is adapted to.

    Args:
        target: name of the one picture: a file, or `demo:LOOK` for a shipped one; empty where it came as
            values, such as over a wire of the canvas.
        fit: how it becomes square, see `frames.Frame`, as for the next three.
        zoom: how much smaller than the largest the square is.
        offset_x: where it lies between left and right.
        offset_y: where it lies between top and bottom.
        mask: name of a picture of what counts of it; None: all, or a mask that came as values.
        latent: name of a file with the target's counterpart; None: it is searched, or came as values.
        more_targets: names of further pictures, for methods and aims of several.
        target_weights: share of each target, the first one's first; empty: all the same.
        source_text: what the source generator draws, for methods that read texts.
        target_text: what the adapted one is to draw.
        more_texts: further target texts, mixed with it.
        text_weights: share of each target text; empty: all the same.
        quad: where a face lies in the target, see `frames.Frame`; of one target. None: fit says it.
    """

    target: str = ""
    fit: str = "crop"
    zoom: float = 1.0
    offset_x: float = 0.0
    offset_y: float = 0.0
    mask: str | None = None
    latent: str | None = None
    more_targets: tuple[str, ...] = ()
    target_weights: tuple[float, ...] = ()
    source_text: str = ""
    target_text: str = ""
    more_texts: tuple[str, ...] = ()
    text_weights: tuple[float, ...] = ()
    quad: Quad | None = field(default=None, metadata=WHEN_GIVEN)

    def __post_init__(self) -> None:
        for weight in (*self.target_weights, *self.text_weights):
            check_number(weight, "a weight of a target or text", above=0)
        try:
            _ = self.frame
        except ValueError as error:
            raise RecipeError(str(error)) from None
        if self.quad is not None and self.more_targets:
            raise RecipeError(
                "a quad belongs to one photo, and there are more targets: align each first (`oneshot "
                "align`), and leave the quad out"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """All target texts."""
        return tuple(text.strip() for text in (self.target_text, *self.more_texts) if text.strip())

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of all targets that have one."""
        return tuple(name for name in (self.target, *self.more_targets) if name.strip())

    @property
    def frame(self) -> Frame:
        """The square of the target that is used."""
        return Frame(self.fit, self.zoom, self.offset_x, self.offset_y, self.quad)


@dataclass(frozen=True)
class EncodersRecipe:
    """Who compares pictures: names as the command line takes them; None: those that suit the generator."""

    clip: str | None = None
    perceptual: str | None = None


@dataclass(frozen=True)
class SearchRecipe:
    """Settings of the latent search.

    Args:
        steps: optimiser rounds.
        learning_rate: of Adam, on w.
        seed: None: that of the training.
        weights: of the terms that get another weight than the method's, by name; 0 leaves one out.
        views: compare random views of the picture in CLIP; False: the picture itself.
        method: "clip", or "ii2s", which sees pixels and the perceptual net alone and finds a code per slot.
    """

    steps: int = SEARCH_STEPS
    learning_rate: float = SEARCH_RATE
    seed: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    views: bool = True
    method: str = SEARCH_METHODS[0]


@dataclass(frozen=True)
class TrainingRecipe:
    """How long and how it is trained.

    Args:
        steps: optimiser rounds.
        seed: of everything random.
        precision: number format of forward passes, of the search's too; "auto" until it is known where the
            work is done, see `precised`.
        snapshot_every: steps between generators that are kept.
    """

    steps: int = STEPS
    seed: int = 0
    precision: str = AUTO
    snapshot_every: int = 100


@dataclass(frozen=True)
class Recipe:
    """One adaptation as data.

    Args:
        generator: "demo", or the name of a checkpoint; empty where it came as a value and has no name.
        aim: what is adapted to.
        encoders: who compares pictures.
        search: of the target's counterpart.
        method: and what is changed of it.
        training: how long, with which seed.
        inputs: fingerprints of what it worked with, by name; empty before it is bound.

    Raises:
        RecipeError: a value that is not allowed.
    """

    generator: str = ""
    aim: AimRecipe = AimRecipe()
    encoders: EncodersRecipe = EncodersRecipe()
    search: SearchRecipe = SearchRecipe()
    method: MethodRecipe = MethodRecipe()
    training: TrainingRecipe = TrainingRecipe()
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("preset", self.method.preset, PRESETS),
            ("profile", self.method.profile, PROFILES),
            ("precision", self.training.precision, PRECISIONS),
            ("search method", self.search.method, SEARCH_METHODS),
        ):
            if value not in allowed:
                raise RecipeError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        for name, given in (("mask", self.aim.mask), ("latent", self.aim.latent)):
            if given is not None and not given.strip():
                raise RecipeError(f"{name} must be the name of a file or null, got {given!r}")
        for name, number, low, high in self._numbers():
            if number is not None:
                check_number(number, name, low, high)
        method = self.method
        for rate in (self.search.learning_rate, method.learning_rate, method.discriminator_rate):
            if rate is not None:
                check_number(rate, "learning_rate", above=0, high=MOST_RATE)
        if self.method.ema_half_life is not None:
            check_number(self.method.ema_half_life, "ema_half_life", above=0)

    def _numbers(self) -> list[tuple[str, float | None, float, float]]:
        method, training, search = self.method, self.training, self.search
        return [
            ("steps", training.steps, 1, MOST_STEPS),
            ("seed", training.seed, 0, SEED_MAX),
            ("snapshot_every", training.snapshot_every, 1, MOST_STEPS),
            ("search steps", search.steps, 1, MOST_STEPS),
            ("search seed", search.seed, 0, SEED_MAX),
            ("batch", method.batch, 1, 64),
            ("mixing", method.mixing, 0, 1),
            ("crop_px", method.crop_px, 1, 1 << 16),
            ("layers", method.layers, 0, 64),
            *((f"steps of the kind {kind}", count, 0, MOST_STEPS) for kind, count in method.schedule.items()),
        ]

    # From and to JSON --------------------------------------------------------------------------------

    @classmethod
    def of(cls, values: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
        """Read a recipe.

        Args:
            values: JSON values: all of a recipe or only what differs from `base`; format and version may be
                left out.
            base: the recipe that is changed; None: the defaults.

        Raises:
            RecipeError: an unknown entry, a wrong type, a value that is not allowed, a newer version.
        """
        found = base or cls()
        try:
            recipe = Fields(values, "the recipe")
            if recipe.text("format", FORMAT) != FORMAT or recipe.value("format_version", 1) != FORMAT_VERSION:
                raise JsonError(
                    f'the recipe must have "format": "{FORMAT}" and "format_version": {FORMAT_VERSION}; this '
                    "program reads no other"
                )
            parts = {
                one.name: changed(getattr(found, one.name), recipe.object(one.name, {}))
                for one in fields(cls)
                if one.name not in ("generator", "inputs")
            }
            inputs = recipe.object("inputs", found.inputs)
            parts["inputs"] = {name: inputs.value(name) for name in inputs.names()}
            generator = recipe.text("generator", found.generator)
            recipe.close()
            named = recipe.object("training", {}).names()
        except JsonError as error:
            raise RecipeError(str(error)) from None
        if parts["method"].preset != found.method.preset and "steps" not in named:
            # Each method has its own number of steps.
            parts["training"] = replace(
                parts["training"], steps=METHOD_STEPS.get(parts["method"].preset, STEPS)
            )
        return cls(generator=generator, **parts)

    def values(self) -> dict[str, Any]:
        """All of it as JSON values, defaults too, so that it still says the same when defaults change."""
        parts = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name not in ("generator", "inputs")
        }
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "generator": self.generator,
            **{name: plain(part) for name, part in parts.items()},
            "inputs": dict(self.inputs),
        }

    @property
    def target_name(self) -> str:
        """What to call the target: its file's name, or the look of a shipped one."""
        return (last_part(self.aim.target) or "").removeprefix(DEMO_TARGET)

    def without_folders(self) -> Recipe:
        """The same with the last part of every name only: what is written into files that are passed on."""
        names = {"target": last_part(self.aim.target) or "", "mask": last_part(self.aim.mask)}
        more = tuple(last_part(name) or "" for name in self.aim.more_targets)
        latent = last_part(self.aim.latent)
        aim = replace(self.aim, **names, latent=latent, more_targets=more)  # type: ignore[arg-type]
        encoders = EncodersRecipe(*map(last_part_of_model, (self.encoders.clip, self.encoders.perceptual)))
        generator = last_part(self.generator) or ""
        if generator == DEMO != self.generator:  # a file of that name
            generator = f"./{DEMO}"
        return replace(self, generator=generator, aim=aim, encoders=encoders)

    # To what the engine takes ------------------------------------------------------------------------

    def preset(self, size: int) -> tuple[Preset, list[str]]:
        """The method for a generator of `size` px, and notes on what was changed so that it fits.

        Raises:
            ValueError: a term, kind of step or value that the method does not know.
        """
        from .methods import method_of

        return method_of(self.method, size)

    def search_config(self) -> SearchConfig:
        """Settings of the latent search; raises ValueError for a term that it does not have."""
        from .objective import PROFILES as TABLE
        from .search import SearchConfig

        search = self.search
        return SearchConfig(
            steps=search.steps,
            learning_rate=search.learning_rate,
            seed=self.training.seed if search.seed is None else search.seed,
            weights=search.weights,
            augment=search.views,
            method=search.method,
            precision=self._precision(),
            profile=TABLE[self.method.profile],
        )

    def train_config(self) -> TrainConfig:
        """Settings of the training that do not belong to the method."""
        from .training import TrainConfig

        training = self.training
        return TrainConfig(
            steps=training.steps,
            seed=training.seed,
            snapshot_every_steps=training.snapshot_every,
            precision=self._precision(),
        )

    def _precision(self) -> str:
        if self.training.precision == AUTO:
            raise RecipeError(f"what the precision {AUTO!r} means is known on a device; see Recipe.precised")
        return self.training.precision

    def precised(self, device: torch.device) -> Recipe:
        """The same with the number format that "auto" means on a device; the official profile's is float32.

        Raises:
            ValueError: the device has no such forward passes.
        """
        from .precision import resolved

        official = self.method.profile == "official"
        precision = resolved(self.training.precision, device, as_published=official)
        return replace(self, training=replace(self.training, precision=precision))

    def check(self, bundle: GeneratorBundle) -> list[str]:
        """Refuse what cannot be followed with a generator, before any work; return the notes of `preset`.

        Raises:
            ValueError: the recipe names something that the method lacks, or the generator does not fit it.
        """
        from .training.checks import check_adaptable

        preset, notes = self.preset(bundle.size)
        known = self.precised(bundle.generator.const.device)
        known.search_config()
        known.train_config()
        check_adaptable(bundle, preset)
        return notes

    # What determines the result ----------------------------------------------------------------------

    def bound(self, inputs: Mapping[str, Any]) -> Recipe:
        """The same, with the fingerprints of what it works with; see `fingerprints.inputs_of`."""
        return replace(self, inputs=dict(inputs))

    def settings(self, half: str = "") -> dict[str, Any]:
        """Everything that determines the result, but for the number of training steps, as JSON values.

        Args:
            half: "search" or "adaptation" for one half of the work; empty: both, as far as both are done.

        Raises:
            ValueError: the recipe is not bound to inputs.
        """
        if "size" not in self.inputs:
            raise ValueError("what a recipe gives is known once it is bound to its inputs")
        from .fingerprints import determining

        preset = self.preset(self.inputs["size"])[0]
        needed = preset.needs.reference
        searched = half == "search" or (not half and needed and "reference" not in self.inputs)
        adapted = half != "search"
        return {
            "engine": ENGINE,
            **determining(
                self.inputs,
                search=self.search_config().describe() if searched else None,
                preset=preset if adapted else None,
                training=self.train_config().describe() if adapted else None,
            ),
        }

    def key(self, half: str = "") -> str:
        """Name of the result: equal for recipes that give the same, however they are written.

        Args:
            half: see `settings`.

        Returns:
            32 hexadecimal digits; the first 24 are equal for recipes that differ in nothing but steps.
        """
        steps = self.search.steps if half == "search" else self.training.steps
        return digest(self.settings(half))[:STEM_DIGITS] + digest(steps)[: KEY_DIGITS - STEM_DIGITS]
