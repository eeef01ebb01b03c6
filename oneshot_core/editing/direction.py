"""Directions as values: what a text, a component or two latents found, to be added to any latent.

Source: StyleCLIP (arXiv 2103.17249) section 6, GANSpace (arXiv 2004.02546), SeFa (arXiv 2007.06600).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import GeneratorBundle, related
from ..edits import MAX_EDITS, MOST_STRENGTH, STYLE, W_PLUS, LatentEdit, checked_vectors
from ..latents import Latent
from ..ranges import check_number
from ..texts import printable

KINDS = ("w", W_PLUS, STYLE)
MAX_TEXT = 2000  # characters of each text of a direction


def check_told(texts: Mapping[str, object]) -> None:
    """Refuse what a direction cannot say of itself, by its name; raises ValueError."""
    for name, text in texts.items():
        if not isinstance(text, str) or len(text) > MAX_TEXT:
            raise ValueError(f"the {name} of a direction must be at most {MAX_TEXT} characters")


@dataclass(frozen=True)
class Direction:
    """A direction in W, in W+ or in the styles.

    Args:
        kind: "w": one vector for all slots; "w+": one for some slots; "style": one for some styles.
        vectors: what strength 1 adds, [C], by slot or style; of kind "w" only number 0, for all slots. In
            units of the latent itself, not of sigma. Float32, as files keep it, but for tests of parity.
        widths: numbers of each slot or style of the generators it fits: [W] * L, or the styles' channels.
        sigma: standard deviations of what `vectors` change, by the same numbers, each [C], or [1] where one
            number stands for the vector (a component); where strengths count sigmas. Empty: not known.
        mean: means, likewise; for directions that set a coordinate instead of raising it. Empty: not known.
        name: what it is called.
        method: what found it, such as "gradient".
        text: target text, "" where none was used.
        neutral_text: what it is measured from, "" where none was used.
        clip: name of the CLIP that read the texts, "" for none.
        dictionary: hash of the dictionary it was read from, "" for none.
        measured: title of the generator it was measured on.
        fingerprint: SHA-256 of that generator's weights, "" when unknown.
        family: fingerprint of that generator's family, "" when unknown.
    """

    kind: str
    vectors: Mapping[int, Tensor]
    widths: tuple[int, ...]
    sigma: Mapping[int, Tensor] = field(default_factory=dict)
    mean: Mapping[int, Tensor] = field(default_factory=dict)
    name: str = ""
    method: str = ""
    text: str = ""
    neutral_text: str = ""
    clip: str = ""
    dictionary: str = ""
    measured: str = ""
    fingerprint: str = ""
    family: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a direction is in {', '.join(KINDS)}, got {self.kind!r}")
        check_told({name: getattr(self, name) for name in TEXTS})
        if not self.vectors or not any(bool(vector.any()) for vector in self.vectors.values()):
            raise ValueError(f"{self.title} changes nothing; lower its threshold, or choose more channels")
        spread = {*self.vectors, *self.sigma, *self.mean}
        if self.kind == "w" and (spread != {0} or 0 not in self.vectors):
            raise ValueError(f"{self.title} is in w, so it has one vector, number 0")
        self._keep("vectors", self.widths)
        # One number may stand for a whole vector: a component has one deviation.
        for name in ("sigma", "mean"):
            own = getattr(self, name)
            ones = {key: value for key, value in own.items() if tuple(value.shape) == (1,)}
            widths = [1 if key in ones else width for key, width in enumerate(self.widths)]
            self._keep(name, tuple(widths))

    def _keep(self, name: str, widths: tuple[int, ...]) -> None:
        object.__setattr__(self, name, checked_vectors(getattr(self, name), widths, self.title, (1,)))

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"the direction {printable(self.name)}" if self.name else f"a direction in {self.kind}"

    @property
    def channels(self) -> int:
        """Number of values that it changes."""
        return sum(int(vector.count_nonzero()) for vector in self.vectors.values())

    def summary(self) -> str:
        """Say in one line what it is and where it came from."""
        texts = f", {printable(self.neutral_text)!r} to {printable(self.text)!r}" if self.text else ""
        where = f", measured on {printable(self.measured)}" if self.measured else ""
        space = {STYLE: "style space", W_PLUS: "w+", "w": "w"}[self.kind]
        how = f" by {self.method}" if self.method else ""
        name = printable(self.name) or "direction"
        return f"{name}: {self.channels:,} channels of {space}{how}{texts}{where}"

    def at(self, strength: float = 1.0) -> LatentEdit:
        """Make the edit that adds `strength` times the direction; -1000 to 1000."""
        check_number(strength, f"strength of {self.title}", low=-MOST_STRENGTH, high=MOST_STRENGTH)
        vectors = dict(self.vectors)
        if self.kind == "w":
            vectors = dict.fromkeys(range(len(self.widths)), vectors[0])
        space = STYLE if self.kind == STYLE else W_PLUS
        return LatentEdit(space, vectors, self.widths, float(strength), self.name, self.measured)

    def scaled(self, factor: float) -> Direction:
        """The direction times a number; -1 turns it round."""
        check_number(factor, f"factor of {self.title}", low=-MOST_STRENGTH, high=MOST_STRENGTH)
        if factor == 0:
            raise ValueError(f"{self.title} times 0 changes nothing; leave it out, or give another factor")
        name = f"{self.name} ({factor:g})" if self.name and factor != 1 else self.name
        vectors = {index: vector * factor for index, vector in self.vectors.items()}
        # A component's one deviation is that of its vector; those of channels stay what they are.
        sigma = {
            index: value * abs(factor) if self.kind != STYLE and value.numel() == 1 else value
            for index, value in self.sigma.items()
        }
        return replace(self, vectors=vectors, sigma=sigma, name=name[:MAX_TEXT])

    def __neg__(self) -> Direction:
        return self.scaled(-1.0)

    def limited(self, layers: Collection[int]) -> Direction:
        """Keep what it changes in some slots or styles; those of `w` become `w+`.

        Args:
            layers: numbers of slots (w, w+) or styles (style), from 0.

        Raises:
            ValueError: a number that does not exist, or nothing is left.
        """
        wrong = sorted(set(layers) - set(range(len(self.widths))))
        if wrong:
            raise ValueError(f"{self.title} has layers 0 to {len(self.widths) - 1}, got {wrong[0]}")
        if self.kind == "w":
            spread = (dict.fromkeys(layers, part[0]) if part else {} for part in self._parts)
        else:
            spread = ({key: part[key] for key in part if key in layers} for part in self._parts)
        vectors, sigma, mean = spread
        if not vectors:
            raise ValueError(f"{self.title} changes none of the layers {sorted(layers)}; choose others")
        kind = W_PLUS if self.kind == "w" else self.kind
        return replace(self, kind=kind, vectors=vectors, sigma=sigma, mean=mean)

    @property
    def _parts(self) -> tuple[Mapping[int, Tensor], ...]:
        return self.vectors, self.sigma, self.mean


TEXTS = (
    "name", "method", "text", "neutral_text", "clip", "dictionary", "measured", "fingerprint", "family",
)  # fmt: skip


def combine(directions: Sequence[tuple[Direction, float]]) -> Direction:
    """Add directions of one kind up, each times a factor.

    Args:
        directions: at least one, of equal kind and widths; of w and w+, w+ comes out. One whose factor is 0
            is left out.

    Returns:
        Their sum; it keeps the deviations and means that all of them have alike.

    Raises:
        ValueError: none, kinds or widths that differ, families that differ, or a sum that is nothing.
    """
    scaled = [direction.scaled(factor) for direction, factor in directions if factor != 0]
    if not scaled:
        raise ValueError("there is no direction to combine; give at least one, with a factor other than 0")
    return reduce(_sum, scaled)


def _sum(one: Direction, two: Direction) -> Direction:
    if {one.kind, two.kind} == {"w", W_PLUS}:
        one, two = (
            each.limited(range(len(each.widths))) if each.kind == "w" else each for each in (one, two)
        )
    if (one.kind, one.widths) != (two.kind, two.widths):
        raise ValueError(
            f"{one.title} and {two.title} do not fit together: one is in {one.kind} with {sum(one.widths):,} "
            f"numbers, the other in {two.kind} with {sum(two.widths):,}; combine directions of one generator "
            "and one space, or apply them one after the other"
        )
    if one.family and two.family and one.family != two.family:
        raise ValueError(f"{one.title} and {two.title} are of different generators; combine those of one")
    vectors = {
        index: sum(
            (each.vectors[index] for each in (one, two) if index in each.vectors),
            torch.zeros(one.widths[index]),
        )
        for index in {*one.vectors, *two.vectors}
    }
    if not any(bool(vector.any()) for vector in vectors.values()):
        raise ValueError(f"{one.title} and {two.title} cancel each other out; change a factor")
    names = " + ".join(each.name or each.method or each.kind for each in (one, two))
    texts: dict[str, Any] = {key: _common(getattr(one, key), getattr(two, key)) for key in TEXTS}
    texts |= {"name": names[:MAX_TEXT], "method": "combined", "family": one.family or two.family}
    spread: dict[str, Any] = {name: _alike(one, two, name, vectors) for name in ("sigma", "mean")}
    return Direction(one.kind, vectors, one.widths, **spread, **texts)


def _common(one: str, two: str) -> str:
    return one if one == two else ""


def _alike(one: Direction, two: Direction, name: str, vectors: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Deviations or means of a sum: those of the channels, in which both agree where both change a layer.

    That of a component belongs to its own vector, and to no sum.
    """
    kept = {}
    for index in vectors:
        known = [getattr(each, name).get(index) for each in (one, two) if index in each.vectors]
        whole = all(value is not None and value.numel() == one.widths[index] for value in known)
        if whole and one.kind == STYLE and all(torch.equal(value, known[0]) for value in known):
            kept[index] = known[0]
    return kept


def apply_direction(latent: Latent, direction: Direction, strength: float = 1.0) -> Latent:
    """Add a direction to every code of a latent, as an edit that the latent carries.

    Args:
        latent: any space; its code is not changed.
        direction: of a generator of the latent's family.
        strength: how far; negative goes the other way.

    Raises:
        ValueError: the direction is of another family, or the latent carries too many edits.
    """
    if latent.family and direction.family and latent.family != direction.family:
        whose = latent.generator_name or "another generator"
        raise ValueError(
            f"{direction.title} was measured on {printable(direction.measured) or 'another generator'}, and "
            f"the latent belongs to {whose}; use a direction of that generator, or of one adapted from it"
        )
    if len(latent.edits) >= MAX_EDITS:
        raise ValueError(f"the latent carries {MAX_EDITS} edits already; combine directions first")
    told = {"method": "direction", "direction": direction.name, "strength": float(strength)}
    origin: dict[str, Any] = {**told, "edited": latent.origin}
    if "seeds" in latent.origin:  # on top, where they number the samples
        origin["seeds"] = latent.origin["seeds"]
    return replace(latent, origin=origin, edits=(*latent.edits, direction.at(strength)))


def check_direction(direction: Direction, bundle: GeneratorBundle) -> None:
    """Refuse a direction that a generator cannot use.

    Raises:
        ValueError: of another family, or of other widths; it says what both have.
    """
    if not related(bundle, direction.family):
        raise ValueError(
            f"{direction.title} was measured on {printable(direction.measured) or 'another generator'}, "
            f"which is not of the family of {bundle.title}; use that generator, or one adapted from it"
        )
    generator = bundle.generator
    slots = (generator.config.w_dim,) * generator.config.num_layers
    own = generator.style_widths if direction.kind == STYLE else slots
    if direction.widths != own:
        raise ValueError(
            f"{direction.title} does not fit {bundle.title}: it has {len(direction.widths)} layers of "
            f"{sum(direction.widths):,} numbers, the generator {len(own)} of {sum(own):,}"
        )
