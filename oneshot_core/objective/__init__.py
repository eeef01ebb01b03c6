"""The objective engine: a method is a table of weighted terms, a batch plan and a discriminator plan, as
data.

`terms.py` and `adversarial.py` hold the terms, `presets.py` the methods. `train()` and `search_latent()`
never ask
which method they run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ..features import Encoders
from ..ranges import MOST_RATE, check_number
from ..tensors import Images, Latents, is_finite
from .profile import DEFAULT, OFFICIAL, PROFILES, Profile

__all__ = [
    "DEFAULT",
    "OFFICIAL",
    "PROFILES",
    "DiscriminatorPlan",
    "Objective",
    "OptimiserPlan",
    "Preset",
    "Profile",
    "Schedule",
    "StepContext",
    "Target",
    "Term",
    "WeightedTerm",
]


class Target:
    """The one picture, with its features computed once.

    Args:
        image: [1, 3, S, S] in [-1, 1], of the generator's size.
        encoders: CLIP and perceptual net.
    """

    def __init__(self, image: Images, encoders: Encoders) -> None:
        self.image = image
        self.encoders = encoders

    @cached_property
    def clip_features(self) -> Tensor:
        """Unit CLIP features [1, D], without gradient."""
        with torch.no_grad():
            return self.encoders.clip.encode_images(self.image)

    @cached_property
    def perceptual_features(self) -> list[Tensor]:
        """Feature maps of the perceptual net, without gradient."""
        with torch.no_grad():
            return self.encoders.perceptual.features(self.image)


@dataclass
class StepContext:
    """What the terms of one step may read; shared things are computed once, on first use.

    Args:
        target: the target picture.
        adapted: images [N, 3, S, S] of the generator that is trained (in a search: of the latent), with
            gradient.
        render_source: renders the source generator's images for the same latents, without gradient.
        logits: maps a discriminator path ("image" or "patch") to the logits of `adapted`.
        crops_xy: [K, 2] left and top corner of each crop, in pixels.
        crop_px: side of a crop.
        views: augmented copies of `adapted`, for a search.
        latent: [1, W], for a search.
        mean_latent: [W], for a search.
        dropout: generator for LPIPS's dropout; None for the deterministic distance.
        encode: maps images to unit CLIP features; None: the target's encoder in its own precision.
    """

    target: Target
    adapted: Images
    render_source: Callable[[], Images] | None = None
    logits: Callable[[str], Tensor] | None = None
    crops_xy: Tensor | None = None
    crop_px: int = 0
    views: Images | None = None
    latent: Latents | None = None
    mean_latent: Tensor | None = None
    dropout: torch.Generator | None = None
    encode: Callable[[Images], Tensor] | None = None

    @cached_property
    def adapted_clip(self) -> Tensor:
        """Unit CLIP features [N, D] of the adapted images."""
        return self._clip(self.adapted)

    @cached_property
    def source_clip(self) -> Tensor:
        """Unit CLIP features [N, D] of the source images, without gradient."""
        with torch.no_grad():
            return self._clip(self.source)

    @cached_property
    def adapted_crop_clip(self) -> Tensor:
        """Unit CLIP features [K * N, D] of the crops of the adapted images, crop-major."""
        return self._clip(self._crops(self.adapted))

    @cached_property
    def source_crop_clip(self) -> Tensor:
        """Unit CLIP features [K * N, D] of the same crops of the source images, without gradient."""
        with torch.no_grad():
            return self._clip(self._crops(self.source))

    @cached_property
    def source(self) -> Images:
        """Images [N, 3, S, S] of the source generator for the latents of `adapted`, rendered on first use."""
        if self.render_source is None:
            raise ValueError("this term compares with source images, but the step renders none")
        with torch.no_grad():
            return self.render_source()

    def _clip(self, images: Images) -> Tensor:
        return (self.encode or self.target.encoders.clip.encode_images)(images)

    def _crops(self, images: Images) -> Images:
        if self.crops_xy is None:
            raise ValueError("this term compares crops, but the step draws none")
        side = self.crop_px
        return torch.cat([images[:, :, y : y + side, x : x + side] for x, y in self.crops_xy.tolist()])


class Term(Protocol):
    """One loss: a small frozen dataclass that maps a step to a scalar."""

    def __call__(self, step: StepContext) -> Tensor:
        """Return a scalar tensor with gradient."""
        ...


@dataclass(frozen=True)
class WeightedTerm:
    """A term with the name under which it is logged and its weight."""

    name: str
    term: Term
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.weight, f"the weight of {self.name}", low=0)


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms; terms of weight 0 are not computed."""

    terms: tuple[WeightedTerm, ...]

    def __call__(self, step: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and each term's unweighted value by name."""
        values = {item.name: item.term(step) for item in self.terms if item.weight}
        total = sum(
            (values[item.name] * item.weight for item in self.terms if item.weight),
            torch.zeros([]).to(step.adapted),
        )
        return total, {name: value.detach() for name, value in values.items()}

    def blamed(self, make: Callable[[], StepContext], inputs: Sequence[Tensor]) -> str:
        """Name the terms whose gradients are not finite, once their sum's has turned out not to be.

        Args:
            make: builds the step anew; its graph ends at `inputs`.
            inputs: what is trained.

        Returns:
            "term 'name'", or "sum of all terms" where each by itself is finite.
        """
        guilty = []
        for item in self.terms:
            if item.weight:
                value = item.term(make()) * item.weight
                found = torch.autograd.grad(value, list(inputs), allow_unused=True)
                if not is_finite(value) or not all(one is None or is_finite(one) for one in found):
                    guilty.append(repr(item.name))
        return f"term {', '.join(guilty)}" if guilty else "sum of all terms"

    def reweighted(self, weights: Mapping[str, float]) -> Objective:
        """Replace the weights of the terms named; terms that this objective lacks are left to others."""
        return Objective(
            tuple(replace(item, weight=weights.get(item.name, item.weight)) for item in self.terms)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all terms, also of those with weight 0."""
        return tuple(item.name for item in self.terms)

    @property
    def active(self) -> tuple[Term, ...]:
        """The terms that take part."""
        return tuple(item.term for item in self.terms if item.weight)


@dataclass(frozen=True)
class Schedule:
    """How reference steps (latent fixed to the search's result) and random steps (fresh latents) alternate.

    The paper's text says three reference steps, then one random step; its code does one reference, then three
    random steps (methods.md B3). The default follows the code.
    """

    reference_steps: int = 1
    random_steps: int = 3
    reference_first: bool = True

    def __post_init__(self) -> None:
        if min(self.reference_steps, self.random_steps) < 0 or self.cycle < 1:
            raise ValueError(
                "reference_steps and random_steps must be 0 or more and not both 0, "
                f"got {self.reference_steps} and {self.random_steps}"
            )

    @property
    def cycle(self) -> int:
        """Steps until the pattern repeats."""
        return self.reference_steps + self.random_steps

    def is_reference(self, step: int) -> bool:
        """Whether step 0, 1, ... is a reference step."""
        phase = step % self.cycle
        return phase < self.reference_steps if self.reference_first else phase >= self.random_steps

    def references_before(self, step: int) -> int:
        """How many reference steps come before this one."""
        rest = sum(self.is_reference(index) for index in range(step % self.cycle))
        return step // self.cycle * self.reference_steps + rest


@dataclass(frozen=True)
class DiscriminatorPlan:
    """How the discriminator takes part.

    Args:
        r1_gamma: weight of the R1 penalty.
        r1_every: lazy regularisation: one R1 update per this many steps, its weight multiplied by it.
        heads: how many of the four patch heads are drawn from.
    """

    r1_gamma: float = 10.0
    r1_every: int = 16
    heads: int = 1

    @property
    def ratio(self) -> float:
        """Ratio of lazy regularisation, see `OptimiserPlan`."""
        return self.r1_every / (self.r1_every + 1)

    def __post_init__(self) -> None:
        check_number(self.r1_gamma, "r1_gamma", low=0)
        if not 1 <= self.heads <= 4 or self.r1_every < 1:
            raise ValueError(
                f"heads must be 1 to 4 and r1_every at least 1, got heads={self.heads}, "
                f"r1_every={self.r1_every}"
            )


@dataclass(frozen=True)
class OptimiserPlan:
    """Adam's settings and the moving average of the weights (methods.md B2).

    A ratio c of lazy regularisation turns the base values into lr * c and betas ** c. It is 4/5 for the
    generator, as if its path length were regularised every 4 steps, and n / (n + 1) for a discriminator with
    R1
    every n steps. The published half-life of the average is 312.5 steps (its formula with batch 32): after
    240 steps
    59 % of the result is still the source, so short runs want an eighth of their length instead.
    """

    learning_rate: float = 0.002
    betas: tuple[float, float] = (0.0, 0.99)
    generator_ratio: float = 4 / 5
    ema_half_life_steps: float = 10_000 / 32  # steps until half of the average is new

    def __post_init__(self) -> None:
        check_number(self.learning_rate, "learning_rate", above=0, high=MOST_RATE)
        for name in ("generator_ratio", "ema_half_life_steps"):
            check_number(getattr(self, name), name, above=0)
        for value in self.betas:
            if not 0 <= value < 1:
                raise ValueError(f"betas must be from 0 to below 1, got {self.betas}")

    @property
    def ema_decay(self) -> float:
        """Share of the old average that a step keeps."""
        return 0.5 ** (1 / self.ema_half_life_steps)

    def adam(self, ratio: float) -> dict[str, Any]:
        """Return Adam's lr and betas for a ratio."""
        return {
            "lr": self.learning_rate * ratio,
            "betas": (self.betas[0] ** ratio, self.betas[1] ** ratio),
        }


@dataclass(frozen=True)
class Preset:
    """A method as data; `train()` runs any of them.

    Args:
        name: for logs and file headers.
        on_random: objective of random steps.
        on_reference: objective of reference steps.
        discriminator: None for methods without one.
        schedule: how the two kinds of step alternate.
        batch: images per random step; reference steps have one.
        mixing: probability of style mixing in random steps.
        frozen: prefixes of generator parameters that are not trained.
        profile: the differences between the repaired and the published behaviour.
    """

    name: str
    on_random: Objective
    on_reference: Objective
    discriminator: DiscriminatorPlan | None = field(default_factory=DiscriminatorPlan)
    schedule: Schedule = field(default_factory=Schedule)
    optimiser: OptimiserPlan = field(default_factory=OptimiserPlan)
    batch: int = 2
    mixing: float = 0.9
    frozen: tuple[str, ...] = ("mapping.", "to_rgbs.")
    profile: Profile = DEFAULT

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        check_number(self.mixing, "mixing, a probability,", low=0, high=1)

    def objective(self, reference: bool) -> Objective:
        """Return the objective of a kind of step."""
        return self.on_reference if reference else self.on_random

    def reweighted(self, weights: Mapping[str, float]) -> Preset:
        """Change weights of terms by name, 0 to leave a term out.

        Raises:
            ValueError: no objective has a term of that name.
        """
        known = dict.fromkeys(self.on_random.names + self.on_reference.names)
        unknown = sorted(set(weights) - set(known))
        if unknown:
            raise ValueError(f"preset {self.name} has no term {unknown}; its terms: {', '.join(known)}")
        return replace(
            self,
            on_random=self.on_random.reweighted(weights),
            on_reference=self.on_reference.reweighted(weights),
        )

    def describe(self) -> dict[str, Any]:
        """Return everything that determines a run's mathematics, as JSON values."""
        values = asdict(self)
        for key, objective in (("on_random", self.on_random), ("on_reference", self.on_reference)):
            values[key] = {
                item.name: {"term": type(item.term).__name__, "weight": item.weight, **vars(item.term)}
                for item in objective.terms
            }
        return values
