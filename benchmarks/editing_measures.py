"""What the editing benchmark measures: how far the judge sees one factor move, and how far the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from oneshot_core.checkpoints import GeneratorBundle
from oneshot_core.demo.making.faces import FACTORS, draw_looks, factors_from_latents
from oneshot_core.demo.making.pretrain_clip import correlations
from oneshot_core.demo.making.readings import reading_targets
from oneshot_core.demo.making.sentences import READINGS
from oneshot_core.demo.making.truth import demo_judge
from oneshot_core.demo.world import demo_generator
from oneshot_core.editing.global_directions import text_change
from oneshot_core.editing.statistics import StyleStatistics
from oneshot_core.edits import LatentEdit
from oneshot_core.features import ClipEncoder
from oneshot_core.fingerprints import fingerprint
from oneshot_core.latents import Latent, z_from_seeds
from oneshot_core.tensors import Images, seeded

# The judge reads these best off drawn faces (editing_plan.md); the rest of the 25 it is unfit for.
FIT = (
    "skin", "hair_tone", "hair_warmth", "hair_length", "yaw", "light", "background", "clothes", "glasses",
    "beard",
)  # fmt: skip
HUES = ("background", "clothes")  # factors that go round in a circle, of which the texts name two points
PEOPLE, FIRST_PERSON = 24, 40_000  # who is edited, and the seed of the first; no direction is found on them
POPULATION, FIRST_OF_POPULATION = 128, 50_000  # whose spread is the unit of a change
READERS, _READERS_SEED = 256, 88_001
_NAMES = tuple(factor.name for factor in FACTORS)


@torch.no_grad()
def drawn(bundle: GeneratorBundle, latent: Latent) -> Images:
    """Pictures [N, 3, S, S] of latents with all their edits, with the stored noise."""
    generator = bundle.generator
    noise = generator.constant_noise()
    parts = []
    for first in range(0, len(latent.values), 8):
        parts.append(generator.render(latent.part(slice(first, first + 8)).styles(generator), noise))
    return torch.cat(parts).clamp(-1, 1)


@torch.no_grad()
def readings(images: Images) -> Tensor:
    """What the judge reads off pictures, [N, 10] in the order of `FIT`.

    A hue becomes how near it is to blue less how near to orange, which is what the texts are about.
    """
    told = torch.cat([demo_judge()(part)[1] for part in images.split(16)])
    near = dict(zip(READINGS, reading_targets(told).T, strict=True))
    return torch.stack([near[name] if name in HUES else told[:, _NAMES.index(name)] for name in FIT], dim=1)


def people(bundle: GeneratorBundle, first: int, count: int) -> Latent:
    """Untruncated latents of some seeds."""
    z = z_from_seeds(range(first, first + count), bundle.generator.config.z_dim)
    with torch.no_grad():
        return Latent("w", bundle.generator.map_single(z), bundle.family)


def length_of(latent: Latent, statistics: StyleStatistics) -> Tensor:
    """How far its edits move each code, [N]: length of the change of all styles, in the source's sigmas."""
    generator = demo_generator().generator
    with torch.no_grad():
        before, after = (one.styles(generator) for one in (replace(latent, edits=()), latent))
        parts = [
            (new - old) / sigma.to(old).clamp_min(1e-8)
            for old, new, sigma in zip(before, after, statistics.sigma, strict=True)
        ]
    return torch.cat(parts, dim=1).norm(dim=1)


def at_length(latent: Latent, edit: LatentEdit, length: float, statistics: StyleStatistics) -> Latent:
    """A latent with one edit that moves every code equally far; codes that it does not move stay."""
    count = len(latent.values)
    own = {
        key: vector if vector.ndim == 2 else vector.expand(count, -1) for key, vector in edit.vectors.items()
    }
    whole = replace(edit, vectors=own)
    far = length_of(replace(latent, edits=(whole,)), statistics)
    factors = torch.where(far > 1e-6, length / far.clamp_min(1e-6), 0.0)[:, None]
    return replace(latent, edits=(whole.mapped(lambda vector: vector * factors),))


@dataclass(frozen=True)
class Effect:
    """What an edit did, as the judge sees it.

    Args:
        changes: mean change of every factor of `FIT`, in deviations of unedited people.
    """

    changes: Mapping[str, float]

    def selectivity(self, factor: str) -> float:
        """Change of a factor over the mean size of the others' changes."""
        others = [abs(change) for name, change in self.changes.items() if name != factor]
        return self.changes[factor] / max(1e-9, sum(others) / len(others))

    def rank(self, factor: str) -> int:
        """1 where no other factor changed more, whatever the sign; a change the wrong way is last."""
        if self.changes[factor] <= 0:
            return len(self.changes)
        return 1 + sum(abs(change) > self.changes[factor] for change in self.changes.values())


class Stage:
    """A generator whose people are edited and judged.

    Args:
        bundle: the source or an adapted generator.
        statistics: of the source.
        count: people that are edited.
    """

    def __init__(self, bundle: GeneratorBundle, statistics: StyleStatistics, count: int = PEOPLE) -> None:
        self.bundle, self.statistics = bundle, statistics
        self.latent = people(demo_generator(), FIRST_PERSON, count)
        self._known: dict[tuple[str, float], Effect] = {}  # components are chosen for several factors

    @cached_property
    def _before(self) -> Tensor:
        return readings(drawn(self.bundle, self.latent))

    @cached_property
    def _unit(self) -> Tensor:
        population = people(demo_generator(), FIRST_OF_POPULATION, POPULATION)
        return readings(drawn(self.bundle, population)).std(dim=0)

    def effect(self, edit: LatentEdit, length: float) -> Effect:
        """Edit the people at a length, and judge."""
        key = fingerprint({f"{edit.space} {key}": vector for key, vector in edit.vectors.items()}), length
        if key not in self._known:
            self._known[key] = self._effect(edit, length)
        return self._known[key]

    def _effect(self, edit: LatentEdit, length: float) -> Effect:
        some = self.latent
        if edit.count is not None:  # found for the first of them alone
            some = some.part(slice(0, edit.count))
        after = readings(drawn(self.bundle, at_length(some, edit, length, self.statistics)))
        changes = ((after - self._before[: len(after)]) / self._unit).mean(dim=0)
        return Effect(dict(zip(FIT, changes.tolist(), strict=True)))


@torch.no_grad()
def readability(clip: ClipEncoder, factors: Sequence[str] = FIT) -> dict[str, float]:
    """Correlation of picture times text direction with the factor, over 256 drawn faces."""
    z = torch.randn(READERS, demo_generator().generator.config.z_dim, generator=seeded(_READERS_SEED, 0, "z"))
    truth = factors_from_latents(z)
    faces = torch.cat([draw_looks(part, ("plain",), _READERS_SEED)[0][:, 0] for part in truth.split(64)])
    features = torch.cat([clip.encode_images(part) for part in faces.split(64)])
    changes = torch.stack([text_change(clip, *reversed(READINGS[name])) for name in factors])
    targets = dict(zip(READINGS, reading_targets(truth).T, strict=True))
    found = correlations(features @ changes.T, torch.stack([targets[name] for name in factors], dim=1))
    return dict(zip(factors, found.tolist(), strict=True))
