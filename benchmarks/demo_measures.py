"""What the referee measures: pictures of an adaptation against the same people drawn in the target's look.

The truth can be read in two ways where a look keeps a person's colours: from one picture nobody can tell
whether its background and clothes belong to the look or to the person. `Scene` holds both readings, each
person in the own colours and in the target's, and a result is measured against the one that it is nearer to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from oneshot_core.demo.making.entrance import open_encoder
from oneshot_core.demo.making.faces import FACTORS, draw, factors_from_latents
from oneshot_core.demo.making.truth import demo_judge
from oneshot_core.demo.world import demo_generator
from oneshot_core.features import ClipEncoder
from oneshot_core.latents import z_from_seeds
from oneshot_core.metrics import (
    by_channel,
    diversity,
    kernel_distance,
    own_truth_score,
    retrieval,
    travel,
)
from oneshot_core.networks import Generator
from oneshot_core.tensors import Images, seeded

READER = Path(__file__).parent / "encoders" / "reader.safetensors"
SAMPLES = 64  # latents that are measured, the same for all
SUBSETS, SUBSET = 10, 48  # of the kernel distance
SOURCE, BOUND = "source", "supervised"
ARMS = ("truth", BOUND, "half", "mean truth", "colour matching", SOURCE, "another's truth", "collapse")
_PALETTE = ("background", "clothes")  # factors that may belong to the look
_OWN, _TARGETS = "own colours", "the target's colours"


@dataclass(frozen=True)
class Seen:
    """Pictures as the judge and the reader see them.

    Attributes:
        place: [N, C, 16, 16], the judge's middle map: what is where, and how it is drawn.
        grain: [N, 96], mean and deviation of its early map: strokes and grain, wherever they are.
        both: [N, D], the judge's features.
        read: [N, D], the reader's embedding, of length 1.
        unit: [N, C, 16, 16], the early map with channels of length 1, for distances of pictures.
    """

    place: Tensor
    grain: Tensor
    both: Tensor
    read: Tensor
    unit: Tensor


@lru_cache(maxsize=1)
def reader() -> ClipEncoder:
    """Load the CLIP that no method trains with."""
    return open_encoder(READER)


@torch.no_grad()
def seen(images: Images) -> Seen:
    """Look at pictures, [N, 3, 128, 128]."""
    judge = demo_judge()
    parts = [judge.maps(part) for part in images.split(32)]
    early, place, late = (torch.cat(level) for level in zip(*parts, strict=True))
    both = judge.statistics(early, late)
    read = torch.cat([reader().encode_images(part) for part in images.split(32)])
    unit = F.normalize(F.avg_pool2d(early, 2), dim=1)
    return Seen(place, both[:, : 2 * early.shape[1]], both, read, unit)


@torch.no_grad()
def rendered(generator: Generator, z: Tensor) -> Images:
    """Draw latents with the stored noise."""
    noise = generator.constant_noise()
    return torch.cat([generator.synthesize(generator.map(part), noise) for part in z.split(16)]).clamp(-1, 1)


class Scene:
    """One look and one person on the target, and everything that all arms share.

    Args:
        look: of the drawing program.
        person: 0, 1, ...: who is on the target; every look has people of its own.
        samples: latents that are measured.
    """

    def __init__(self, look: str, person: int, samples: int = SAMPLES) -> None:
        self.look, self.person = look, person
        dimensions = demo_generator().generator.config.z_dim
        self.z = z_from_seeds(range(samples), dimensions)
        self._others = z_from_seeds(range(samples, 2 * samples), dimensions)
        draws = seeded(person, 0, f"referee.target.{look}")
        self.model = factors_from_latents(torch.randn(1, dimensions, generator=draws))
        self.target = draw(self.model, look, seed=0)

    @cached_property
    def truths(self) -> Mapping[str, Images]:
        """The right pictures by reading."""
        return {name: self.drawn(self.z, name) for name in (_OWN, _TARGETS)}

    def drawn(self, z: Tensor, reading: str = _OWN) -> Images:
        """Draw the people of some latents in the scene's look."""
        factors = factors_from_latents(z)
        if reading == _TARGETS:
            columns = [column for column, factor in enumerate(FACTORS) if factor.name in _PALETTE]
            factors[:, columns] = self.model[:, columns]
        return torch.cat([draw(part, self.look, seed=0) for part in factors.split(32)])

    @cached_property
    def source(self) -> Images:
        """The unchanged generator's pictures."""
        return rendered(demo_generator().generator, self.z)

    @cached_property
    def _seen_truths(self) -> Mapping[str, Seen]:
        return {name: seen(images) for name, images in self.truths.items()}

    @cached_property
    def _seen_others(self) -> Mapping[str, Seen]:
        return {name: seen(self.drawn(self._others, name)) for name in (_OWN, _TARGETS)}

    @cached_property
    def _seen_source(self) -> Seen:
        return seen(self.source)

    def arms(self) -> dict[str, Images]:
        """Pictures that no training made, between which a measure must put every result."""
        truth = self.truths[_OWN]
        mean, spread = (_over_pictures(self.target, part) for part in (torch.mean, torch.std))
        own_mean, own_spread = (_over_pictures(self.source, part) for part in (torch.mean, torch.std))
        matched = ((self.source - own_mean) / own_spread * spread + mean).clamp(-1, 1)
        return {
            "truth": truth,
            "half": (self.source + truth) / 2,
            "mean truth": truth.mean(0, keepdim=True).expand_as(truth),
            "colour matching": matched,
            SOURCE: self.source,
            "another's truth": truth.roll(1, 0),
            "collapse": self.target.expand_as(truth),
        }

    def measure(self, images: Images) -> dict[str, float | str]:
        """Measure pictures of this scene's latents, [N, 3, 128, 128]; demo_world.py says what is what."""
        made, source = seen(images), self._seen_source
        scores = {name: own_truth_score(made.place, one.place) for name, one in self._seen_truths.items()}
        reading = max(scores, key=lambda name: scores[name])
        truth, others = self._seen_truths[reading], self._seen_others[reading]
        gone, grain = (
            travel(source.read, made.read, truth.read),
            travel(source.grain, made.grain, truth.grain),
        )
        pool = torch.cat([source.both, others.both])
        middle, scale = pool.mean(0), pool.std(0) + 1e-3
        far, near = (
            kernel_distance((x.both - middle) / scale, (others.both - middle) / scale, SUBSETS, SUBSET)[0]
            for x in (source, made)
        )
        model = reader().encode_images(self.target)
        return {
            "own_truth": scores[reading],
            "reading": reading,
            "retrieval": retrieval(*by_channel(made.place, truth.place)),
            "along": gone.along,
            "off": gone.off,
            "own": gone.own,
            "texture_along": grain.along,
            "texture_off": grain.off,
            "gap_closed": 1 - near / far,
            "diversity": _spread(made) / _spread(truth),
            "clip_i": float((made.read @ model.t()).mean() / (truth.read @ model.t()).mean()),
        }


def _over_pictures(images: Images, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduce each channel over pictures and places, [1, 3, 1, 1]."""
    return reduce(images.transpose(0, 1).flatten(1), dim=1).view(1, 3, 1, 1)


def _spread(pictures: Seen) -> float:
    """Mean distance of two pictures, as LPIPS measures it, in the judge's early map."""
    return diversity(lambda a, b: (a - b).square().sum(1).mean((1, 2)), pictures.unit)
