"""How the referee decides, and its tables.

The rule, written before the first run:

- A look counts when the judge finds the people of the unchanged source among the truths (mean retrieval of
  the arm "source" over the people) in at least half of the cases; otherwise it cannot measure there.
- Pairs are looks times people on the target. A comparison is the paired difference default - variant of
  own_truth, tested by flipping signs, its interval by a bootstrap that draws whole looks; p values are
  adjusted by Holm over all variants of the table.
- The default is "better" when the adjusted p is below 0.05, the mean difference above 0 and its mean
  retrieval not lower by more than 0.05; "worse" when the variant is better by the same rule; else
  "undecided".
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from oneshot_core.metrics import clustered_interval, holm, sign_flip_p

INCLUSION = 0.5
LEVEL, LOSS = 0.05, 0.05
ARMS = ("truth", "supervised bound", "half", "colour matching", "source", "another's truth", "collapse")
COLUMNS = (
    "own_truth", "retrieval", "along", "off", "own", "texture_along", "texture_off", "gap_closed",
    "diversity", "clip_i",
)  # fmt: skip
Rows = Sequence[dict[str, Any]]


def report(rows: Rows, variants: Sequence[str]) -> str:
    """Lay everything out as Markdown."""
    counted = included(rows)
    looks = list(dict.fromkeys(row["look"] for row in rows))
    left = [look for look in looks if look not in counted]
    some = [row for row in rows if row["look"] in counted]
    parts = [
        f"Looks that count: {', '.join(counted) or 'none'}. "
        f"Left out by the rule: {', '.join(left) or 'none'}.",
        means(some, [*variants, *ARMS]),
        by_look(some, variants),
        curves(some, variants),
    ]
    if len(variants) > 1:
        parts.append(verdicts(some, variants[0], variants[1:]))
    return "\n\n".join(part for part in parts if part)


def included(rows: Rows) -> list[str]:
    """Name the looks that the judge can measure; all of them where no untrained arm was computed."""
    found: dict[str, list[float]] = {row["look"]: [] for row in rows}
    for row in rows:
        if row["variant"] == "source":
            found[row["look"]].append(row["retrieval"])
    return [look for look, values in found.items() if not values or statistics.mean(values) >= INCLUSION]


def means(rows: Rows, names: Sequence[str]) -> str:
    """One line per method and untrained arm: means over looks and people."""
    lines = [_line("", "n", *COLUMNS, "seconds"), "|---" * (len(COLUMNS) + 3) + "|"]
    for name in names:
        some = [row for row in rows if row["variant"] == name]
        if some:
            cells = [f"{statistics.mean(row[column] for row in some):.3f}" for column in COLUMNS]
            seconds = [row["seconds"] for row in some if "seconds" in row]
            lines.append(
                _line(name, len(some), *cells, f"{statistics.median(seconds):.0f}" if seconds else "–")
            )
    return "\n".join(lines)


def by_look(rows: Rows, variants: Sequence[str]) -> str:
    """Own-truth score and retrieval of every method by look."""
    names = [*variants, "source", "supervised bound"]
    lines = [_line("own_truth / retrieval", *names), "|---" * (len(names) + 1) + "|"]
    for look in dict.fromkeys(row["look"] for row in rows):
        cells = []
        for name in names:
            some = [row for row in rows if row["variant"] == name and row["look"] == look]
            pair = [statistics.mean(row[column] for row in some) for column in COLUMNS[:2]] if some else []
            cells.append(" / ".join(f"{value:.2f}" for value in pair) or "–")
        lines.append(_line(look, *cells))
    return "\n".join(lines)


def curves(rows: Rows, variants: Sequence[str]) -> str:
    """Own-truth score and retrieval at a quarter, half and the end of the steps."""
    lines = [_line("own_truth / retrieval at", "1/4", "1/2", "end"), "|---|---|---|---|"]
    for name in variants:
        some = [row for row in rows if row["variant"] == name and len(row.get("curve", {})) == 2]
        if some:
            points = [[*(row["curve"][key] for key in sorted(row["curve"], key=int)), row] for row in some]
            cells = [
                " / ".join(f"{statistics.mean(p[at][column] for p in points):.3f}" for column in COLUMNS[:2])
                for at in range(3)
            ]
            lines.append(_line(name, *cells))
    return "\n".join(lines) if len(lines) > 2 else ""


def verdicts(rows: Rows, first: str, others: Sequence[str]) -> str:
    """Compare the first method with each other one by the rule."""
    found = {name: _differences(rows, first, name) for name in others}
    found = {name: one for name, one in found.items() if one[0]}
    adjusted = holm([sign_flip_p(scores) for scores, _, _ in found.values()])
    lines = [
        _line(f"{first} less", "pairs", "own_truth", "95 % (by look)", "adjusted p", "retrieval", "verdict"),
        "|---" * 7 + "|",
    ]
    for (name, (scores, kept, looks)), p in zip(found.items(), adjusted, strict=True):
        low, high = clustered_interval(scores, looks)
        mean, people = statistics.mean(scores), statistics.mean(kept)
        interval = f"{low:+.3f} to {high:+.3f}"
        cells = (
            len(scores),
            f"{mean:+.3f}",
            interval,
            f"{p:.3f}",
            f"{people:+.3f}",
            verdict(mean, people, p),
        )
        lines.append(_line(name, *cells))
    return "\n".join(lines)


def verdict(mean: float, people: float, p: float) -> str:
    """Apply the rule to a mean difference of own_truth, of retrieval, and the adjusted p."""
    if p >= LEVEL or mean == 0:
        return "undecided"
    sign = 1 if mean > 0 else -1
    if sign * people < -LOSS:
        return "undecided: nearer, but loses people"
    return "better" if sign > 0 else "worse"


def _differences(rows: Rows, first: str, other: str) -> tuple[list[float], list[float], list[str]]:
    """Paired differences of own_truth and retrieval, and each pair's look."""
    place = {(row["variant"], row["look"], row["person"]): row for row in rows}
    pairs = [
        (row, place[other, row["look"], row["person"]])
        for (name, look, person), row in place.items()
        if name == first and (other, look, person) in place
    ]
    differences = [[a[column] - b[column] for a, b in pairs] for column in COLUMNS[:2]]
    return differences[0], differences[1], [a["look"] for a, _ in pairs]


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
