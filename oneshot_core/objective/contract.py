"""The contract between terms and the steps they are computed in.

A term says what it needs, which random numbers it draws and which generators it fits; the loop, the checks
before any work and the memory estimates ask it, and never ask which term it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..draws import Draws, derived_generator
from ..ranges import check_number
from ..tensors import Images, Latents, is_finite
from .aim import AimFeatures

MAIN = "main"  # the batch whose pictures the discriminator judges
PATHS = ("image", "patch")  # of a discriminator: one logit per image, or a map of logits from a patch head


@dataclass(frozen=True)
class Needs:
    """What a term, an objective or a method cannot do without.

    Args:
        views: names of the batches it reads.
        pairs: names of the batches whose pictures are compared with each other, so that two are needed.
        target: a target picture.
        reference: the latent of the target's counterpart.
        texts: source and target text.
        direction: texts or a target: whatever says where pictures shall change to.
        clip: CLIP.
        perceptual: the perceptual net.
        path: discriminator path that it fools; None: no discriminator.
        latent: the latent of a search.
    """

    views: frozenset[str] = frozenset()
    pairs: frozenset[str] = frozenset()
    target: bool = False
    reference: bool = False
    texts: bool = False
    direction: bool = False
    clip: bool = False
    perceptual: bool = False
    path: str | None = None
    latent: bool = False

    def __or__(self, other: Needs) -> Needs:
        """All that either needs; raises ValueError where both fool a discriminator on different paths."""
        # A step's discriminator update judges on one path, so its generator can only fool that one.
        if None not in (self.path, other.path) and self.path != other.path:
            raise ValueError(
                f"the terms of one kind of step fool the discriminator on the paths {self.path} and "
                f"{other.path}; give it one of them, or another kind of step"
            )
        return Needs(
            self.views | other.views,
            self.pairs | other.pairs,
            self.target or other.target,
            self.reference or other.reference,
            self.texts or other.texts,
            self.direction or other.direction,
            self.clip or other.clip,
            self.perceptual or other.perceptual,
            self.path or other.path,
            self.latent or other.latent,
        )


class Term:
    """One loss: a small frozen dataclass that maps a step to a scalar."""

    @property
    def needs(self) -> Needs:
        """What it cannot do without."""
        return Needs()

    @property
    def draws(self) -> tuple[str, ...]:
        """Purposes of its random numbers; two terms of a step must not share one."""
        return ()

    def __call__(self, step: StepContext) -> Tensor:
        """Return a scalar tensor with gradient."""
        raise NotImplementedError

    def check(self, size: int) -> None:
        """Refuse generators of `size` px that it does not fit; raises ValueError."""

    def fitted(self, size: int) -> tuple[Term, str | None]:
        """A term for generators of `size` px, and a note where that changes what was asked for."""
        return self, None


@dataclass(frozen=True)
class WeightedTerm:
    """A term with the name under which it is logged and its weight, finite and at least 0."""

    name: str
    term: Term
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.weight, f"the weight of {self.name}", low=0)


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms; terms of weight 0 are not computed.

    Raises:
        ValueError: two terms have one name, which would count one of them twice.
    """

    terms: tuple[WeightedTerm, ...]

    def __post_init__(self) -> None:
        names = self.names
        # Values are kept by name, so the later of the two would be counted for both.
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"an objective has two terms named {double[0]!r}; give each a name of its own")

    def __call__(self, step: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and each term's unweighted value by name."""
        # An ablation saves the term's work too, such as CLIP's passes.
        active = [item for item in self.terms if item.weight]
        if not active:
            raise ValueError("every term has weight 0; give one of them a weight")
        values = {item.name: item.term(step) for item in active}
        weighted = [values[item.name] * item.weight for item in active]
        total = sum(weighted[1:], weighted[0])  # one after the other: the published order of the sum
        # With its graph, a value kept for the log would keep the step's activations too.
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
                # The backward pass that failed has freed its graph.
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

    def adjusted(self, name: str, **settings: Any) -> Objective:
        """Replace settings of the term of that name, such as its crops; an objective without it stays."""
        return Objective(
            tuple(
                # `replace` makes a new term, whose own checks run again.
                replace(item, term=replace(item.term, **settings)) if item.name == name else item  # type: ignore[type-var]
                for item in self.terms
            )
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all terms, also of those with weight 0."""
        return tuple(item.name for item in self.terms)

    @property
    def active(self) -> tuple[Term, ...]:
        """The terms that take part."""
        return tuple(item.term for item in self.terms if item.weight)

    @property
    def needs(self) -> Needs:
        """What the terms that take part need."""
        found = Needs()
        for term in self.active:
            found = found | term.needs
        return found

    def check(self, size: int) -> None:
        """Refuse terms that do not fit a generator of `size` px or each other; raises ValueError."""
        # A draw depends on (seed, step, purpose) alone: one purpose, one value.
        drawn: set[str] = set()
        for term in self.active:
            term.check(size)
            for purpose in term.draws:
                if purpose in drawn:
                    raise ValueError(
                        f"two terms of one step draw random numbers for {purpose!r} and would get the same; "
                        "give one of them another purpose"
                    )
                drawn.add(purpose)

    def describe(self) -> dict[str, Any]:
        """Everything that determines its value, as JSON values."""
        return {
            # Enters the key of a run: a setting that is missing here would let other results pass for these.
            item.name: {"term": type(item.term).__name__, "weight": item.weight, **asdict(item.term)}  # type: ignore[call-overload]
            for item in self.terms
        }


@dataclass(frozen=True)
class StepDraws:
    """Random numbers of one step: draws with the step and a prefix of their purposes filled in."""

    draws: Draws
    step: int
    prefix: str = ""  # "search." keeps a search and a training of one seed from sharing draws

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """See `Draws.normal`."""
        return self.draws.normal(self.step, self.prefix + purpose, shape)

    def uniform(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """See `Draws.uniform`."""
        return self.draws.uniform(self.step, self.prefix + purpose, shape)

    def integers(self, purpose: str, high: int, shape: Sequence[int] = ()) -> Tensor:
        """See `Draws.integers`."""
        return self.draws.integers(self.step, self.prefix + purpose, high, shape)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for library code that wants one."""
        return derived_generator(self.draws, self.step, self.prefix + purpose)


class View:
    """The pictures of one batch in one step; each thing is computed once, on first use.

    Args:
        adapted: renders [N, 3, S, S] with gradient.
        source: renders the same latents with the source generator; None where a step has no source.
        encode: maps (index of a CLIP model, images) to unit features.
        features: maps (of the adapted generator, not the source; a count of convolutions) to what these give,
            see `Generator.render_features`.
        size: number of pictures.
        layers: convolutions of the generator.
    """

    def __init__(
        self,
        adapted: Callable[[], Images],
        source: Callable[[], Images] | None,
        encode: Callable[[int, Images], Tensor],
        features: Callable[[bool, int], list[Tensor]] | None = None,
        size: int = 1,
        layers: int = 0,
    ) -> None:
        self.size, self.layers = size, layers
        self._adapted, self._source, self._encode, self._features = adapted, source, encode, features
        # By CLIP model and generator: several terms read the same features, and CLIP is dear.
        self._clip: dict[tuple[int, bool], Tensor] = {}

    @cached_property
    def adapted(self) -> Images:
        """Images [N, 3, S, S] of the trained generator (in a search: of the latent), with gradient."""
        # Rendered once: the discriminator's logits and all terms share one graph.
        return self._adapted()

    @cached_property
    def source(self) -> Images:
        """Images [N, 3, S, S] of the source generator for the latents of `adapted`, without gradient."""
        if self._source is None:
            raise ValueError("a term compares with source images, but this step renders none")
        with torch.no_grad():
            # A fixed measure, never trained: its pictures need no graph.
            return self._source()

    def clip(self, index: int = 0) -> Tensor:
        """Unit features [N, D] of the adapted images, by one CLIP model."""
        key = (index, True)
        if key not in self._clip:
            self._clip[key] = self._encode(index, self.adapted)
        return self._clip[key]

    def source_clip(self, index: int = 0) -> Tensor:
        """Unit features [N, D] of the source images, by one CLIP model, without gradient."""
        key = (index, False)
        if key not in self._clip:
            with torch.no_grad():
                self._clip[key] = self._encode(index, self.source)
        return self._clip[key]

    def features(self, count: int) -> list[Tensor]:
        """What the first convolutions of the adapted generator give, with gradient; no picture is drawn."""
        return self._layers(True, count)

    def source_features(self, count: int) -> list[Tensor]:
        """What the first convolutions of the source generator give for the same latents, without gradient."""
        with torch.no_grad():
            return self._layers(False, count)

    def _layers(self, adapted: bool, count: int) -> list[Tensor]:
        if self._features is None:
            raise ValueError("a term compares features of the generator, but this step tells none")
        return self._features(adapted, count)


@dataclass
class StepContext:
    """What the terms of one step may read.

    Args:
        goal: the aim and its features.
        views: batches by name.
        draws: random numbers of this step.
        encode: maps (index of a CLIP model, images) to unit features, in the precision of the run.
        logits: maps a discriminator path to the logits of the main batch; None: no discriminator.
        place: which target this step is about: the one whose counterpart a reference batch draws.
        latent: [1, W], for a search.
        mean_latent: [W], for a search.
    """

    goal: AimFeatures
    views: Mapping[str, View]
    draws: StepDraws
    encode: Callable[[int, Images], Tensor]
    logits: Callable[[str], Tensor] | None = None
    place: int = 0
    # In a training both are None.
    latent: Latents | None = None
    mean_latent: Tensor | None = None

    def view(self, name: str = MAIN) -> View:
        """The batch of that name; raises ValueError where the step has none."""
        if name not in self.views:
            raise ValueError(f"a term reads the batch {name!r}; this step has {', '.join(self.views)}")
        return self.views[name]

    def target_clip(self, index: int) -> Tensor:
        """Unit feature [1, D] of the target that this step is about, by one CLIP model."""
        return self.goal.clip[index][self.place : self.place + 1]

    def over_clips(self, loss: Callable[[int], Tensor]) -> Tensor:
        """Sum a loss over the CLIP models by their weights.

        Args:
            loss: maps the index of a CLIP model to a scalar.
        """
        # StyleGAN-NADA and Mind the Gap sum over ViT-B/32 and B/16; the published method has B/32 alone.
        parts = [
            loss(index) if weight == 1 else loss(index) * weight
            for index, (_, weight) in enumerate(self.goal.encoders.clips)
            if weight
        ]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum()
