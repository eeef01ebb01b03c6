"""What an evaluation says: figures with what they depend on, as text and as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..pictures import Picture, Row, labelled_grid
from ..tensors import Images
from .taking_part import NO_PART, TOOK_PART, UNKNOWN

FORMAT, FORMAT_VERSION = "oneshot-evaluation", 1
LINE = 88  # characters of figures that fit a line of the sheet


@dataclass(frozen=True)
class ClipFigures:
    """What one CLIP model says.

    Args:
        name: of the model.
        part: whether it took part in the adaptation, see `taking_part`.
        likeness: CLIP-I, mean cosine of adapted pictures and targets.
        likeness_source: the same of the source's pictures: what is there without any adaptation.
        direction: mean cosine of a picture's way and the way from the source's mean to the targets' mean.
        found_again: share of adapted pictures whose nearest source picture is their own, less the means.
    """

    name: str
    part: str
    likeness: float
    likeness_source: float
    direction: float
    found_again: float

    @property
    def warning(self) -> str:
        """What its part means for its figures; "" where they can be trusted."""
        if self.part == TOOK_PART:
            return (
                f"CLIP {self.name} took part in the adaptation: its CLIP-I says how well it was optimised, "
                "not how alike they look; judge with another CLIP model"
            )
        if self.part == UNKNOWN:
            return (
                f"whether CLIP {self.name} took part in the adaptation is unknown: the generator does not "
                "say how it was made. If it did, its figures flatter"
            )
        return ""


@dataclass(frozen=True)
class PerceptualFigures:
    """What the perceptual net says.

    Args:
        name: of the net.
        part: whether it took part in the adaptation.
        diversity: IC-LPIPS: mean distance of two pictures of a cluster, mean over clusters with at least two
            pictures; a cluster are the pictures nearest to one of the targets. None: no such cluster.
        diversity_source: of the source's pictures in the same way, the scale.
        members: pictures per cluster that were compared.
        found_again: share of adapted pictures whose nearest source picture is their own, in its maps.
    """

    name: str
    part: str
    diversity: float | None
    diversity_source: float | None
    members: tuple[int, ...]
    found_again: float

    @property
    def warning(self) -> str:
        """What its part means for its figures; "" where they can be trusted."""
        if self.part == NO_PART:
            return ""
        known = "took part in the adaptation" if self.part == TOOK_PART else "may have taken part"
        return f"the perceptual net {self.name} {known}: compare its figures between methods with care"


@dataclass(frozen=True)
class ReferenceFigures:
    """Distances to a set of reference pictures of the target's domain.

    Args:
        name: of the network that gave the features.
        pictures: how many there are.
        kid: mean kernel distance over the subsets.
        kid_deviation: over the subsets; 0 for one.
        subsets: how many.
        subset_size: pictures in each.
        fid: Frechet distance; with few pictures far too large, and only comparable for equal numbers.
    """

    name: str
    pictures: int
    kid: float
    kid_deviation: float
    subsets: int
    subset_size: int
    fid: float


@dataclass(frozen=True)
class Identity:
    """Whether a face-recognition network still sees the same person.

    Args:
        name: of the network.
        cosine: mean of adapted and source picture of the same latent.
        others: the same of two source pictures of different latents: what strangers reach.
    """

    name: str
    cosine: float
    others: float


@dataclass(frozen=True)
class Evaluation:
    """An adapted generator, judged against its source and its targets.

    Args:
        adapted: what messages call it.
        source: the same.
        settings: seeds, psi, classes.
        targets: how many.
        clips: per CLIP model.
        perceptual: of the perceptual net.
        score: by which snapshots of a run are told apart, see `agreement.py`; higher is better.
        references: None where no reference pictures were given.
        identity: None where no face-recognition network was given.
        fingerprints: of generators and encoders, by what they are.
        versions: of the programs.
        pictures: the source's and the adapted generator's first pictures, and the targets.
    """

    adapted: str
    source: str
    settings: Mapping[str, Any]
    targets: int
    clips: tuple[ClipFigures, ...]
    perceptual: PerceptualFigures
    score: float
    references: ReferenceFigures | None
    identity: Identity | None
    fingerprints: Mapping[str, Any]
    versions: Mapping[str, str]
    pictures: tuple[Images, Images, Images]

    @property
    def notes(self) -> list[str]:
        """What to know before trusting the figures."""
        said = [*(one.warning for one in self.clips), self.perceptual.warning]
        return [text for text in said if text]

    @property
    def is_independent(self) -> bool:
        """Whether no CLIP model that judges is known to have taken part."""
        return all(one.part != TOOK_PART for one in self.clips)

    def values(self) -> dict[str, Any]:
        """Return all as JSON values, but for the pictures."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "adapted": self.adapted,
            "source": self.source,
            "pictures": len(self.settings["seeds"]),
            "settings": dict(self.settings),
            "targets": self.targets,
            "clip": [asdict(one) for one in self.clips],
            "perceptual": {**asdict(self.perceptual), "members": list(self.perceptual.members)},
            "score": self.score,
            "references": None if self.references is None else asdict(self.references),
            "identity": None if self.identity is None else asdict(self.identity),
            "notes": self.notes,
            "fingerprints": dict(self.fingerprints),
            "versions": dict(self.versions),
        }

    def text(self) -> str:
        """Return a report of a few lines, every figure with its scale."""
        count = len(self.settings["seeds"])
        by_chance = f"by chance {1 / count:.2f}"
        lines = [
            f"{self.adapted}, beside {self.source}",
            f"{count} latents: seeds {seeds_text(self.settings['seeds'])}, psi {self.settings['psi']:g}; "
            f"{_counted(self.targets, 'target')}",
        ]
        for one in self.clips:
            lines += [
                f"CLIP {one.name} ({_told(one.part)})",
                f"  likeness to the target (CLIP-I): {one.likeness:.3f}; the source's pictures "
                f"{one.likeness_source:.3f}",
                f"  direction: {one.direction:.3f}",
                f"  found again among {count}: {one.found_again:.2f}; {by_chance}",
            ]
        lines += [*_perceptual_lines(self.perceptual, count, by_chance), *self._further_lines()]
        return "\n".join(
            [
                *lines,
                f"score, which tells snapshots of a run apart: {self.score:.3f}",
                *(f"note: {note}" for note in self.notes),
            ]
        )

    def _further_lines(self) -> list[str]:
        lines = []
        if self.references is not None:
            one, count = self.references, len(self.settings["seeds"])
            lines += [
                f"{one.name}, to {one.pictures} reference pictures",
                f"  KID: {one.kid:.5f} ({_counted(one.subsets, 'subset')} of {one.subset_size}, deviation "
                f"{one.kid_deviation:.5f})",
                f"  FID: {one.fid:.2f} ({count} and {one.pictures} pictures; compare only equal numbers)",
            ]
        if self.identity is not None:
            lines.append(
                f"identity ({self.identity.name}): {self.identity.cosine:.3f}; different people "
                f"{self.identity.others:.3f}"
            )
        return lines

    def figures(self) -> list[str]:
        """Return the figures in short, for a sheet."""
        parts = []
        for one in self.clips:
            flag = {TOOK_PART: "!", UNKNOWN: "?"}.get(one.part, "")
            parts += [
                f"CLIP-I {one.likeness:.2f}{flag} (source {one.likeness_source:.2f})",
                f"direction {one.direction:.2f}",
                f"found again {one.found_again:.2f}",
            ]
        if self.perceptual.diversity is not None:
            parts.append(f"IC-LPIPS {self.perceptual.diversity:.2f}{_of(self.perceptual.diversity_source)}")
        if self.references is not None:
            parts += [f"KID {self.references.kid:.4f}", f"FID {self.references.fid:.1f}"]
        if self.identity is not None:
            parts.append(f"identity {self.identity.cosine:.2f}")
        return _wrapped([*parts, f"score {self.score:.2f}"])

    def sheet(self) -> Picture:
        """Lay out the target, the same latents in both looks, and the figures."""
        source, adapted, targets = self.pictures
        rows: list[Row] = [("source", source), (self.adapted, adapted)]
        if len(targets) > 1:
            rows.append(("targets", targets[: len(source)]))
        rows += [(text, None) for text in self.figures()]
        if not self.is_independent:
            rows.append(("! this CLIP took part in the adaptation", None))
        seeds = self.settings["seeds"][: len(source)]
        return labelled_grid(rows, columns=[f"seed {seed}" for seed in seeds], lead=("target", targets[:1]))


def seeds_text(seeds: Sequence[int]) -> str:
    """Write seeds as numbers and ranges, such as 0-63,99."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], seed]
        else:
            parts.append([seed])
    return ",".join("-".join(map(str, part)) for part in parts)


def _perceptual_lines(one: PerceptualFigures, count: int, by_chance: str) -> list[str]:
    members = ", ".join(map(str, one.members))
    if one.diversity is None:
        diversity = f"  diversity (IC-LPIPS): no target has two pictures (members {members})"
    else:
        diversity = (
            f"  diversity (IC-LPIPS, k {len(one.members)}, members {members} of {count}): "
            f"{one.diversity:.3f}{_of(one.diversity_source)}"
        )
    return [
        f"perceptual net {one.name} ({_told(one.part)})",
        diversity,
        f"  found again among {count}: {one.found_again:.2f}; {by_chance}",
    ]


def _of(source: float | None) -> str:
    return "" if source is None else f" (source {source:.2f})"


def _told(part: str) -> str:
    return "whether it took part is unknown" if part == UNKNOWN else f"{part} in the adaptation"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _wrapped(parts: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 3 <= LINE:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return lines
