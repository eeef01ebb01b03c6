"""How good a target's counterpart is: its likeness to the target, beside that of random pictures.

A likeness alone says little: it depends on the encoder and on the look. Random pictures of the same generator
are the scale: what the search has gained over them is what it has found.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .checkpoints import GeneratorBundle
from .features import Encoders, clips_for
from .json_values import Fields
from .latents import Latent
from .networks import Generator
from .precision import PRECISIONS, forward_pass
from .sampling import random_latents
from .tensors import Images, owned

Features: TypeAlias = list[Tensor]  # of one picture: unit features [1, D] per CLIP model
PICTURES = 16  # random pictures, of the seeds 0 to 15
JUDGED = "counterpart"  # in a latent's origin


@dataclass(frozen=True)
class Counterpart:
    """The likeness of a counterpart, and what random pictures reach.

    Args:
        clip: cosine of the CLIP features of counterpart and target, -1 to 1; of several models the mean by
            their weights.
        clip_random: lowest and highest of the random pictures.
        clip_among: lowest of any two random pictures with one another.
        perceptual: LPIPS distance of counterpart and target, from 0.
        perceptual_random: lowest and highest of the random pictures.
        pictures: how many random pictures.
    """

    clip: float
    clip_random: tuple[float, float]
    clip_among: float
    perceptual: float
    perceptual_random: tuple[float, float]
    pictures: int = PICTURES

    def values(self) -> dict[str, Any]:
        """Return all as JSON values."""
        named = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}

    @classmethod
    def of(cls, origin: Mapping[str, Any]) -> Counterpart | None:
        """Read what a latent's origin says of it; None where it says nothing that can be used."""
        try:
            found = Fields(origin, "the origin").object(JUDGED)
            (least, most), (nearest, farthest) = (
                found.numbers(name, 2) for name in ("clip_random", "perceptual_random")
            )
            clip, among, distance = (found.number(one) for one in ("clip", "clip_among", "perceptual"))
            count = found.whole("pictures", 2)
        except ValueError:  # no JSON value of that kind, or not two numbers
            return None
        return cls(clip, (least, most), among, distance, (nearest, farthest), count)

    @property
    def is_outside(self) -> bool:
        """Whether the target seems to be none of the things that the generator draws.

        It is said where the target is less like its counterpart, in CLIP's eyes, than any two random pictures
        of the generator are like one another: both pairs differ in content, and only the first in look too,
        so that a look has to cost more than the widest difference in content does. Nothing in it is an
        absolute number, since cosines of different CLIP models do not compare.

        Chosen on the demo's generator and encoders, with its recipe's search: its eight targets and four own
        pictures of the generator must pass; noise, text, a landscape, patterns, flat colours, a car, a close
        crop and a tiny portrait should not (a simple house passed all the same). These cases chose the rule,
        so they do not measure it. Of others, 16 portraits of other people in 16 looks and 10 pictures without
        a person, it named 2 portraits (neon, woodcut) and 8 pictures (not a tree and a cat). It was not tried
        with a real CLIP.
        """
        return self.clip < self.clip_among

    @property
    def notes(self) -> list[str]:
        """What to tell: the numbers, and a warning where the target seems to be outside."""
        (least, most), (nearest, farthest) = self.clip_random, self.perceptual_random
        lines = [
            f"counterpart: CLIP likeness {self.clip:.2f} ({self.pictures} random pictures: {least:.2f} to "
            f"{most:.2f}), perceptual distance {self.perceptual:.2f} ({nearest:.2f} to {farthest:.2f})"
        ]
        if self.is_outside:
            lines.append(
                f"the target is less like its counterpart ({self.clip:.2f}) than any two random pictures of "
                f"the generator are like one another ({self.clip_among:.2f} or more): the generator seems to "
                "draw no such things, or the look is very far from its own. Frame the subject as its own "
                "pictures show theirs, search longer, or use another generator"
            )
        return lines


def counterpart_notes(latent: Latent) -> list[str]:
    """What to tell of a counterpart, from what its search noted in it; nothing where that is not known."""
    found = Counterpart.of(latent.origin)
    return [] if found is None else found.notes


def judged(
    bundle: GeneratorBundle,
    encoders: Encoders,
    target: Images,
    latent: Latent,
    *,
    mask: Tensor | None = None,
    raw: bool = False,
    precision: str = "float32",
    poll: Callable[[], None] | None = None,
) -> Counterpart:
    """Compare a target with its counterpart, and with random pictures of the same generator.

    One picture at a time, without gradient: 17 forward passes, which takes less memory than a step of the
    search.

    Args:
        bundle: the source generator, on the device of the work.
        encoders: on the same device.
        target: [1, 3, S, S] in [-1, 1].
        latent: the counterpart, one code.
        mask: [1, 1, S, S] in [0, 1], 1 = counts; elsewhere every picture is compared as the target itself.
        raw: the search ran on the generator without averaging.
        precision: of forward passes, as the search's.
        poll: called before every picture; it may raise.
    """
    raw_generator = bundle.raw_generator if raw else None
    scale = _Scale(raw_generator or bundle.generator, encoders, target, mask, precision)
    found: list[tuple[Features, float]] = []
    for one in (latent, *(random_latents(bundle, (seed,)) for seed in range(PICTURES))):
        if poll is not None:
            poll()
        found.append(scale.seen(one))
    (own, perceptual), *others = found
    clips = [scale.cosine(features, scale.features) for features, _ in others]
    among = [scale.cosine(one[0], two[0]) for one, two in itertools.combinations(others, 2)]
    distances = [distance for _, distance in others]
    return Counterpart(
        scale.cosine(own, scale.features),
        (min(clips), max(clips)),
        min(among),
        perceptual,
        (min(distances), max(distances)),
    )


class _Scale:
    """A target as the encoders see it, and pictures that are compared with it."""

    def __init__(
        self, generator: Generator, encoders: Encoders, target: Images, mask: Tensor | None, precision: str
    ) -> None:
        self.generator, self.perceptual, self.precision = generator, encoders.perceptual, precision
        self.clips = clips_for(encoders, PRECISIONS[precision])
        self.weights = [weight for _, weight in encoders.clips]
        self.target = owned(target).to(generator.const)
        self.mask = None if mask is None else owned(mask).to(generator.const)
        with torch.no_grad():
            self.features, self.maps = self._clip(self.target), self.perceptual.features(self.target)

    @torch.no_grad()
    def seen(self, latent: Latent) -> tuple[Features, float]:
        """CLIP features of a latent's picture with the stored noise, and its distance to the target."""
        styles = self.generator.affine(latent.codes(self.generator))
        with forward_pass(self.target.device, self.precision):
            image = self.generator.render(styles, self.generator.constant_noise()).to(self.target)
        image = image if self.mask is None else torch.lerp(self.target, image, self.mask)
        distance = self.perceptual.distance(self.perceptual.features(image), self.maps)
        return self._clip(image), float(distance)

    def cosine(self, one: Features, two: Features) -> float:
        """Likeness of two pictures: the mean over the CLIP models by their weights."""
        cosines = [float((a * b).sum()) for a, b in zip(one, two, strict=True)]
        weighted = (weight * cosine for weight, cosine in zip(self.weights, cosines, strict=True))
        return sum(weighted) / sum(self.weights)

    def _clip(self, image: Images) -> Features:
        with forward_pass(self.target.device, self.precision):
            return [clip.encode_images(image).float() for clip in self.clips]
