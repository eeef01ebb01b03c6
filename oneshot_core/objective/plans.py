"""A method as data: kinds of step with batches and terms, discriminator, optimiser, trainable parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..choices import PARTS, STYLE_OFFSETS
from ..networks import Generator
from ..ranges import MOST_RATE, check_number
from .batches import Batch
from .contract import MAIN, Needs, Objective
from .profile import DEFAULT, Profile

STARTS = ("average", "raw")  # `g_ema` and `g` of rosinality's files (Q22)
SMALL = ("refuse", "image")


def part_of(name: str) -> str:
    """Name the part of a generator that a parameter belongs to.

    Args:
        name: of a parameter of `Generator`, such as "convs.3.affine.weight".

    Returns:
        One of `PARTS`: the mapping network; the learnt constant; affine layers, weights with biases and noise
        strengths of the convolutions; all of the RGB layers, their affine layers too. Never the style
        offsets, which are the biases of all affine layers and so lie in two of these.
    """
    first, last = name.split(".")[0], name.split(".")[-1]
    if first == "convs":
        return "affine" if ".affine." in name else "noise" if last == "noise_strength" else "convolution"
    # A KeyError means a new kind of layer, which needs a part first.
    return {"mapping": "mapping", "const": "constant", "to_rgbs": "rgb"}[first]


def _is_in(name: str, part: str) -> bool:
    """Whether a parameter belongs to a part; an affine layer's bias is in two."""
    return name.endswith(".affine.bias") if part == STYLE_OFFSETS else part_of(name) == part


@dataclass(frozen=True)
class Trainable:
    """Which parts of the generator are trained, by name (`PARTS`)."""

    # As published: all but mapping and RGB (methods.md B1), so a latent keeps its meaning in the child.
    parts: tuple[str, ...] = ("constant", "affine", "convolution", "noise")

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            found = repr(unknown[0]) if unknown else "none"
            raise ValueError(f"trainable parts are one or more of {', '.join(PARTS)}, got {found}")

    def names(self, generator: Generator) -> frozenset[str]:
        """Names of the parameters that are trained.

        Raises:
            ValueError: the generator has nothing of a part.
        """
        names = [name for name, _ in generator.named_parameters()]
        found = {part: frozenset(name for name in names if _is_in(name, part)) for part in self.parts}
        empty = [part for part in self.parts if not found[part]]
        if empty:
            raise ValueError(
                f"the generator has no parameter of the part {empty[0]!r}, which is to be trained"
            )
        return frozenset().union(*found.values())


@dataclass(frozen=True)
class DiscriminatorPlan:
    """How the discriminator takes part.

    Args:
        r1_gamma: weight of the R1 penalty; 0 leaves it out.
        r1_every: lazy regularisation: one R1 update per this many steps, its weight multiplied by it.
        r1_kind: kind of step that R1 is computed in; its steps are counted. None: all kinds, on whichever
            path is due.
        r1_keeps_score: R1's loss contains 0 * score, which gives unused layers zero gradients.
        heads: how many of the four patch heads are drawn from.
        one_head_per_update: fake and real are judged by the same patch head.
        small: what happens below 64 px, where patch heads have no place: "refuse", or "image": the image
            path serves.
        learning_rate: base rate of its Adam; None: that of the generator, as published. In a short run it
            hardly learns at that rate, so that nothing pushes random latents towards the look.
    """

    # Published: gamma / 2 * 16 = 80 times the penalty, in every 16th step (methods.md B4).
    r1_gamma: float = 10.0
    r1_every: int = 16
    r1_kind: str | None = None
    r1_keeps_score: bool = False
    heads: int = 1  # published `highp`: the other three heads never train (methods.md B5)
    one_head_per_update: bool = True  # Q8; makes a difference from two heads on
    small: str = "refuse"
    learning_rate: float | None = None

    @property
    def ratio(self) -> float:
        """Ratio of lazy regularisation, see `OptimiserPlan`."""
        return self.r1_every / (self.r1_every + 1)

    def __post_init__(self) -> None:
        check_number(self.r1_gamma, "r1_gamma", low=0)
        if self.learning_rate is not None:
            check_number(self.learning_rate, "discriminator_rate", above=0, high=MOST_RATE)
        if not 1 <= self.heads <= 4 or self.r1_every < 1:
            raise ValueError(
                f"heads must be 1 to 4 and r1_every at least 1, got heads={self.heads}, "
                f"r1_every={self.r1_every}"
            )
        if self.small not in SMALL:
            raise ValueError(f"small must be one of {', '.join(SMALL)}, got {self.small!r}")


@dataclass(frozen=True)
class OptimiserPlan:
    """Adam's settings and the moving average of the weights (methods.md B2).

    A ratio c of lazy regularisation turns the base values into lr * c and betas ** c. It is 4/5 for the
    generator, as if its path length were regularised every 4 steps, and n / (n + 1) for a discriminator with
    R1 every n steps. The published half-life of the average is 312.5 steps (its formula with batch 32): after
    240 steps 59 % of the result is still the source, so the default profile ramps it up with the steps.

    Args:
        learning_rate: base rate of Adam.
        betas: base betas of Adam.
        generator_ratio: c of the generator.
        average_half_life: steps until half of the moving average is new; None: the result is the trained
            generator itself.
        average_ramp: the half-life is never more than this share of the steps done, as `ema_rampup` in
            StyleGAN2-ADA's training loop; None: it is the same from the first step on.
        zero_filled_grads: gradients are zeroed, not dropped: unused layers still age in Adam (torch < 2).
    """

    learning_rate: float = 0.002
    betas: tuple[float, float] = (0.0, 0.99)
    generator_ratio: float = 4 / 5  # kept without a path length term, where it only lowers lr and beta2 (Q25)
    average_half_life: float | None = 10_000 / 32  # 0.5 ** (32 / 10000) per step, though the batch is 2 (Q23)
    average_ramp: float | None = None
    zero_filled_grads: bool = False

    def __post_init__(self) -> None:
        check_number(self.learning_rate, "learning_rate", above=0, high=MOST_RATE)
        check_number(self.generator_ratio, "generator_ratio", above=0)
        for name in ("average_half_life", "average_ramp"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name, above=0)
        if not all(0 <= value < 1 for value in self.betas):
            raise ValueError(f"betas must be from 0 to below 1, got {self.betas}")

    def average_decay(self, step: int) -> float:
        """Share of the old average that step 0, 1, ... keeps."""
        half_life = self.average_half_life or 0.0
        if self.average_ramp is not None:
            # At step 0 this is 0: the average starts as a copy of what was trained, not as the source.
            half_life = min(half_life, self.average_ramp * step)
        return 0.5 ** (1 / half_life) if half_life else 0.0

    def adam(self, ratio: float, rate: float | None = None) -> dict[str, Any]:
        """Return Adam's lr and betas for a ratio; the base rate is the plan's unless one is given."""
        return {
            # Lazy regularisation as in StyleGAN2's code; the published values are in methods.md B2.
            "lr": (self.learning_rate if rate is None else rate) * ratio,
            "betas": (self.betas[0] ** ratio, self.betas[1] ** ratio),
        }


@dataclass(frozen=True)
class RealPlan:
    """Which real pictures the discriminator sees.

    Args:
        flips: a batch as large as the main one, each picture mirrored or not; else the target once.
    """

    flips: bool = False


@dataclass(frozen=True)
class StepKind:
    """One kind of step.

    Args:
        name: for logs and settings.
        objective: what the generator minimises.
        batches: pictures by name; "main" is what a discriminator judges.
        steps: how many steps of this kind follow each other before the next kind comes.
        real: real pictures; None where no discriminator takes part.

    Raises:
        ValueError: a term reads a batch that the kind does not draw, or there is none for the discriminator.
    """

    name: str
    objective: Objective
    batches: Mapping[str, Batch]
    steps: int = 1
    real: RealPlan | None = None

    def __post_init__(self) -> None:
        # 0 is allowed: a schedule may leave a kind out.
        if self.steps < 0:
            raise ValueError(f"a kind of step must come 0 or more times, got {self.steps} for {self.name}")
        needs = self.objective.needs
        missing = sorted(needs.views - set(self.batches))
        if missing:
            raise ValueError(
                f"a term of the {self.name} steps reads the batch {missing[0]!r}; they draw "
                f"{', '.join(self.batches)}"
            )
        # The discriminator reads it, even where no term declares that.
        if needs.path is not None and MAIN not in self.batches:
            raise ValueError(f"the discriminator judges the batch {MAIN!r}, which the {self.name} steps lack")

    @property
    def needs(self) -> Needs:
        """What its terms and batches need."""
        found = self.objective.needs
        for batch in self.batches.values():
            found = found | batch.latents.needs
        return found

    @property
    def path(self) -> str | None:
        """Discriminator path that the generator must fool; None: no adversarial term."""
        return self.objective.needs.path

    def check(self, size: int) -> None:
        """Refuse a kind of step that a generator of `size` px cannot do; raises ValueError."""
        if not self.objective.active:
            raise ValueError(f"every term of the {self.name} steps has weight 0; give one of them a weight")
        self.objective.check(size)
        for name in sorted(self.objective.needs.pairs):
            # With one picture the published code fails on an empty list of pairs (methods.md B6).
            if self.batches[name].size < 2:
                raise ValueError(
                    f"a term of the {self.name} steps compares the pictures of a batch with each other: the "
                    "batch must be at least 2, got 1"
                )

    def describe(self) -> dict[str, Any]:
        """Everything that determines its mathematics, as JSON values."""
        batches = {
            name: {
                **{key: value for key, value in vars(batch).items() if key != "latents"},
                "latents": type(batch.latents).__name__,
                **vars(batch.latents),
            }
            for name, batch in self.batches.items()
        }
        real = None if self.real is None else asdict(self.real)
        return {"steps": self.steps, "terms": self.objective.describe(), "batches": batches, "real": real}


@dataclass(frozen=True)
class Preset:
    """A method as data; `train()` runs any of them.

    Args:
        name: for logs and file headers.
        kinds: the kinds of step in the order of the cycle.
        discriminator: None for methods without one.
        optimiser: Adam and the moving average.
        trainable: parts of the generator that are trained.
        start: weights that source and adapted start from: "average", or "raw" where a file has them.
        profile: what the rows were made from: repaired or published behaviour. The search reads it.

    Raises:
        ValueError: two kinds have one name, no kind has a step, or R1 counts a kind that does not exist.
    """

    name: str
    kinds: tuple[StepKind, ...]
    discriminator: DiscriminatorPlan | None = None
    optimiser: OptimiserPlan = field(default_factory=OptimiserPlan)
    trainable: Trainable = field(default_factory=Trainable)
    start: str = "average"
    profile: Profile = DEFAULT

    def __post_init__(self) -> None:
        names = [kind.name for kind in self.kinds]
        if len(set(names)) != len(names):
            raise ValueError(f"preset {self.name} has two kinds of step of one name: {', '.join(names)}")
        if not self.cycle:
            raise ValueError("every kind of step comes 0 times; give one of them at least one step")
        if self.start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(STARTS)}, got {self.start!r}")
        plan = self.discriminator
        if plan is not None and plan.r1_kind is not None and plan.r1_kind not in names:
            raise ValueError(
                f"R1 counts steps of the kind {plan.r1_kind!r}; the kinds are {', '.join(names)}"
            )
        fooling = [kind.name for kind in self.kinds if kind.path is not None]
        if plan is None and fooling:
            raise ValueError(
                f"the {fooling[0]} steps of preset {self.name} have a term that fools a discriminator, but "
                "it has no discriminator plan; add one, or give that term the weight 0"
            )
        own = any(batch.mapping == "own" for kind in self.due for batch in kind.batches.values())
        if "mapping" in self.trainable.parts and not own:
            raise ValueError(
                f"preset {self.name} is to train the mapping, but every batch maps with the source's, "
                'through which no gradient flows; give one of them the mapping "own", or leave the part out'
            )

    @property
    def cycle(self) -> int:
        """Steps until the pattern repeats."""
        return sum(kind.steps for kind in self.kinds)

    def kind(self, step: int) -> StepKind:
        """The kind of step 0, 1, ..."""
        # The first kind comes first: the published step 0 is a reference step (methods.md B3).
        place = step % self.cycle
        for kind in self.kinds:
            if place < kind.steps:
                return kind
            place -= kind.steps
        raise AssertionError("a place within the cycle belongs to a kind")

    def count_before(self, step: int, name: str) -> int:
        """How many steps of a kind come before step 0, 1, ..."""
        # R1 counts by this, so its interval holds whatever the schedule (Q10).
        per_cycle = sum(kind.steps for kind in self.kinds if kind.name == name)
        rest = sum(self.kind(index).name == name for index in range(step % self.cycle))
        return step // self.cycle * per_cycle + rest

    @property
    def due(self) -> tuple[StepKind, ...]:
        """The kinds that come at all."""
        return tuple(kind for kind in self.kinds if kind.steps)

    @property
    def needs(self) -> Needs:
        """What a run needs; `path` is any of the paths that its kinds fool."""
        found, path = Needs(), None
        for kind in self.due:
            path = path or kind.path
            # Only within a kind two paths exclude each other.
            found = found | replace(kind.needs, path=None)
        # The target is the discriminator's real picture.
        return replace(found, path=path, target=found.target or path is not None)

    @property
    def terms(self) -> Iterator[str]:
        """Names of all terms, each once."""
        yield from dict.fromkeys(name for kind in self.kinds for name in kind.objective.names)

    def reweighted(self, weights: Mapping[str, float]) -> Preset:
        """Change weights of terms by name, 0 to leave a term out.

        Raises:
            ValueError: no objective has a term of that name.
        """
        self._check_terms(weights)
        return self._with_objectives(lambda objective: objective.reweighted(weights))

    def adjusted(self, name: str, **settings: Any) -> Preset:
        """Change settings of the terms of one name, such as the crops of "patch"; raises as `reweighted`."""
        self._check_terms([name])
        return self._with_objectives(lambda objective: objective.adjusted(name, **settings))

    def scheduled(self, steps: Mapping[str, int]) -> Preset:
        """Change how many steps of each kind follow each other.

        Raises:
            ValueError: no kind has that name, or no step is left.
        """
        unknown = sorted(set(steps) - {kind.name for kind in self.kinds})
        if unknown:
            known = ", ".join(kind.name for kind in self.kinds)
            raise ValueError(f"preset {self.name} has no {unknown[0]!r} steps; its kinds: {known}")
        kinds = tuple(replace(kind, steps=steps.get(kind.name, kind.steps)) for kind in self.kinds)
        return replace(self, kinds=kinds)

    def rebatched(self, size: int | None = None, mixing: float | None = None) -> Preset:
        """Change number of pictures and probability of mixing of the main batches with fresh latents.

        Raises:
            ValueError: fewer than 1 picture, or no probability.
        """

        def changed(batch: Batch) -> Batch:
            latents = batch.latents if mixing is None else batch.latents.remixed(mixing)
            return replace(batch, size=batch.size if size is None else size, latents=latents)

        kinds = []
        for kind in self.kinds:
            batches = dict(kind.batches)
            # More copies of the one reference would be the same picture again.
            if MAIN in batches and batches[MAIN].latents.fresh:
                batches[MAIN] = changed(batches[MAIN])
            kinds.append(replace(kind, batches=batches))
        return replace(self, kinds=tuple(kinds))

    def fitted(self, size: int) -> tuple[Preset, list[str]]:
        """Let the terms fit a generator of `size` px; also return notes on what was changed for it."""
        notes: list[str] = []
        kinds = []
        for kind in self.kinds:
            items = []
            for item in kind.objective.terms:
                term, note = item.term.fitted(size)
                # Nobody asked for a term that is left out.
                notes += [note] if note and item.weight else []
                items.append(replace(item, term=term))
            kinds.append(replace(kind, objective=Objective(tuple(items))))
        return replace(self, kinds=tuple(kinds)), notes

    def _check_terms(self, names: Any) -> None:
        unknown = sorted(set(names) - set(self.terms))
        if unknown:
            raise ValueError(f"preset {self.name} has no term {unknown}; its terms: {', '.join(self.terms)}")

    def _with_objectives(self, change: Any) -> Preset:
        kinds = tuple(replace(kind, objective=change(kind.objective)) for kind in self.kinds)
        return replace(self, kinds=kinds)

    def describe(self) -> dict[str, Any]:
        """Return everything that determines a run's mathematics, as JSON values."""
        plan = None if self.discriminator is None else asdict(self.discriminator)
        return {
            "name": self.name,
            "kinds": {kind.name: kind.describe() for kind in self.kinds},
            "discriminator": plan,
            "optimiser": asdict(self.optimiser),
            "trainable": list(self.trainable.parts),
            "start": self.start,
            # What the profile decides stands in the rows above; the search tells its own part.
            "profile": self.profile.name,
        }
