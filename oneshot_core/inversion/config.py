"""Settings of an inversion, and the published ones as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ..latent_optimiser import Schedule, learning_rate_at
from ..ranges import MOST_RATE, check_number
from .statistics import DRAWS

NOISES = ("optimised", "stored", "fresh")  # with the code; the generator's own maps; new ones in every step
SPACES = ("w", "w+")


@dataclass(frozen=True)
class InversionConfig:
    """Settings of an inversion; `METHODS` has the published ones.

    Args:
        space: "w", one code for all slots, or "w+", one for each: nearer to the picture, harder to edit.
        steps: optimiser rounds per picture.
        learning_rate: Adam's highest.
        constant_rate: the rate stays; else it rises and falls, see `learning_rate_at`.
        perceptual: weight of the perceptual distance.
        pixel: weight of the mean squared difference, at full resolution.
        prior: weight of II2S's prior: mean square of the code in PN space, see `Whitening`.
        noise: one of `NOISES`; optimised maps serve the result's picture only, they are no part of a latent.
        regulariser: weight of what keeps optimised maps noise.
        unbiased: how optimised maps are scaled, see `normalised`.
        jitter: noise is added to the code in every step, less and less, see `jitter_at`.
        compare_px: side that larger pictures are reduced to before the perceptual net sees them.
        bicubic: reduce them as Mind the Gap does; else by means of squares.
        mean: where the mean code comes from: how many random codes are averaged; 0: the generator's own.
        draw: how these are drawn, see `CodeStatistics`.
        mean_seed: of these.
        seed: of everything else random.
        jointly: treat several pictures as rosinality's program does, whose noise maps and pixel differences
            are averaged over all of them; else each is inverted as if it were alone.
        batch_size: pictures at once; needs memory, does not change the result.
    """

    space: str = "w"
    steps: int = 1000
    learning_rate: float = 0.1
    constant_rate: bool = False
    perceptual: float = 1.0
    pixel: float = 0.0
    prior: float = 0.0
    noise: str = "optimised"
    regulariser: float = 1e5
    unbiased: bool = False
    jitter: bool = True
    compare_px: int = 256
    bicubic: bool = False
    mean: int = 10_000
    draw: str = DRAWS[0]
    mean_seed: int = 123
    seed: int = 0
    jointly: bool = False
    batch_size: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (("space", SPACES), ("noise", NOISES), ("draw", DRAWS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name, least in (("steps", 1), ("batch_size", 1), ("compare_px", 1), ("mean", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        check_number(self.learning_rate, "learning_rate", above=0, high=MOST_RATE)
        for name in ("perceptual", "pixel", "prior", "regulariser"):
            check_number(getattr(self, name), name, low=0)
        if not (self.perceptual or self.pixel):
            raise ValueError("perceptual and pixel are both 0, so nothing draws the code to the picture")
        if self.jitter and not self.mean:
            raise ValueError("jitter needs the spread of random codes; let mean be at least 1")

    @property
    def schedule(self) -> Schedule:
        """Adam's rate by step."""
        if self.constant_rate:
            return lambda step: self.learning_rate
        return lambda step: learning_rate_at(step, self.steps, self.learning_rate)

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


NVIDIA = InversionConfig()
II2S = InversionConfig(
    space="w+", learning_rate=0.01, constant_rate=True, pixel=1.0, prior=1e-3, noise="fresh", regulariser=0.0,
    jitter=False, bicubic=True, mean=0,
)  # fmt: skip
# Source: editing.md 4.1 to 4.3. "refinement" is no published program: it takes an encoder's code a little
# nearer to the picture, held by II2S's prior, with the noise that the latent will be drawn with.
METHODS: dict[str, InversionConfig] = {
    "projector (nvidia)": NVIDIA,
    "projector (rosinality)": replace(NVIDIA, draw="torch", mean_seed=0, unbiased=True),
    "ii2s": II2S,
    "refinement": replace(II2S, steps=200, noise="stored"),
}
REFINEMENT = "refinement"  # which needs a code to start from


def inversion_config(method: str, **changes: Any) -> InversionConfig:
    """The settings of a method, some of them changed.

    Args:
        method: one of `METHODS`.
        changes: by the names of `InversionConfig`.

    Raises:
        ValueError: there is no such method, or a value is not allowed.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    return replace(METHODS[method], **changes)
