"""What a recipe says of its method, and the error of recipes; without torch, so that menus may ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .choices import PARTS


class RecipeError(ValueError):
    """A recipe that cannot be read or followed; the message names the entry and what is allowed."""


@dataclass(frozen=True)
class MethodRecipe:
    """The method and what is changed of it; None leaves the method's own value.

    Args:
        preset: name of the table.
        profile: repaired or as published.
        weights: of terms, by name; 0 leaves one out.
        batch: pictures per random step.
        mixing: probability that a random step mixes two latents.
        schedule: steps of each kind that follow each other, by name.
        crop_px: side of the compared crops; None: what fits the generator.
        learning_rate: Adam's base rate.
        discriminator_rate: that of the discriminator; None: the same.
        ema_half_life: of the weights' moving average, in steps; None: as published, and with the default
            profile never more than an eighth of the steps done.
        trained_parts: of the generator, among `PARTS`, separated by commas; None: as the method does.
        layers: that are trained in each step, where a method chooses them by the texts; None: as many as it
            does; 0: all.
    """

    preset: str = "oneshot_clip"
    profile: str = "default"
    weights: Mapping[str, float] = field(default_factory=dict)
    batch: int | None = None
    mixing: float | None = None
    schedule: Mapping[str, int] = field(default_factory=dict)
    crop_px: int | None = None
    learning_rate: float | None = None
    discriminator_rate: float | None = None
    ema_half_life: float | None = None
    trained_parts: str | None = None
    layers: int | None = None

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown:
            allowed = ", ".join(PARTS)
            raise RecipeError(f"trained_parts are one or more of {allowed}, with commas; got {unknown[0]!r}")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that are named to be trained, as they are written; empty: as the method does."""
        named = [] if self.trained_parts is None else self.trained_parts.split(",")
        return tuple(part.strip() for part in named)
