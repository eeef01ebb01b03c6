"""Several generators of one source beside each other: the sheet by which a person picks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..checkpoints import GeneratorBundle, load
from ..pictures import Picture, Row, labelled_grid
from .figures import Evaluation
from .referee import Referee

FORMAT, FORMAT_VERSION = "oneshot-comparison", 1

Opened: TypeAlias = "tuple[str, Callable[[], GeneratorBundle]]"  # a row's name, and who gives its generator


@dataclass(frozen=True)
class Comparison:
    """Generators that were judged by the same latents.

    Args:
        rows: name and evaluation, in the order given.
    """

    rows: tuple[tuple[str, Evaluation], ...]

    @property
    def best(self) -> int:
        """Which row has the highest score; the first of equal ones."""
        return best_of([one.score for _, one in self.rows])

    def values(self) -> dict[str, Any]:
        """Return all as JSON values, but for the pictures."""
        rows = [{"name": name, **one.values()} for name, one in self.rows]
        return {"format": FORMAT, "format_version": FORMAT_VERSION, "rows": rows, "best": self.best}

    def text(self) -> str:
        """Return a line of figures per row, and what to know about them."""
        _, first = self.rows[0]
        *_, last = first.text().splitlines()[:2]
        lines = [last, *(f"{name}: {' · '.join(one.figures())}" for name, one in self.rows)]
        lines.append(f"highest score: {self.rows[self.best][0]}")
        notes = dict.fromkeys(note for _, one in self.rows for note in one.notes)
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])

    def sheet(self) -> Picture:
        """Lay out the target, the source's row and a row per generator with its figures."""
        source, _, targets = self.rows[0][1].pictures
        rows: list[Row] = [("source", source)]
        for index, (name, one) in enumerate(self.rows):
            mark = " (highest score)" if index == self.best and len(self.rows) > 1 else ""
            rows += [(f"{name}{mark}", one.pictures[1]), *((text, None) for text in one.figures())]
        if not all(one.is_independent for _, one in self.rows):
            rows.append(("! this CLIP took part in the adaptation", None))
        seeds = self.rows[0][1].settings["seeds"][: len(source)]
        return labelled_grid(rows, columns=[f"seed {seed}" for seed in seeds], lead=("target", targets[:1]))


def best_of(scores: Sequence[float]) -> int:
    """Place of the highest score; the first of equal ones."""
    return max(range(len(scores)), key=lambda index: (scores[index], -index))


def compare(referee: Referee, rows: Sequence[Opened]) -> Comparison:
    """Judge several generators of one source.

    Args:
        referee: made for so many rows.
        rows: at least one; each generator is asked for when its turn comes, so that snapshots need not be in
            memory together.

    Raises:
        ValueError: no rows, or see `Referee.judge`; then the message begins with the row's name.
    """
    if not rows:
        raise ValueError("nothing to compare; give at least one adapted generator")
    judged = []
    for name, open_ in rows:
        bundle = open_()
        try:
            judged.append((name, referee.judge(bundle)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return Comparison(tuple(judged))


def snapshot_rows(
    files: Mapping[int, Path], place: Callable[[GeneratorBundle], GeneratorBundle] | None = None
) -> list[Opened]:
    """Rows of a run's snapshots, in the order of their steps.

    Args:
        files: by step.
        place: puts a loaded generator where the source is; None: it stays on the CPU.
    """

    def opener(path: Path) -> Callable[[], GeneratorBundle]:
        return lambda: load(path) if place is None else place(load(path))

    return [(f"step {step}", opener(path)) for step, path in sorted(files.items())]


def snapshot_scores(
    referee: Referee,
    files: Mapping[int, Path],
    place: Callable[[GeneratorBundle], GeneratorBundle] | None = None,
) -> dict[int, float]:
    """Score the snapshots of a run; see `agreement.py` for what that is worth.

    Args:
        referee: made for so many rows.
        files: snapshots by step, at least one.
        place: see `snapshot_rows`.

    Returns:
        Scores by step, in the order of the steps.
    """
    if not files:
        raise ValueError("the run keeps no snapshot; keep some (snapshot_every), or take the last step")
    rows = snapshot_rows(files, place)
    return {step: referee.score(open_()) for step, (_, open_) in zip(sorted(files), rows, strict=True)}


def best_step(scores: Mapping[int, float]) -> int:
    """The step with the highest score; the first of equal ones."""
    return list(scores)[best_of(list(scores.values()))]
