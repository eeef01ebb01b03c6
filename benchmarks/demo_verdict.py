"""How the referee decides, and its tables.

The rule, written before the first run:

- A look counts when the measure can see there, by the untrained arms (means over the people):
  own_truth of "half" is above that of "source" and of "collapse", and half of the source's people are found.
- A comparison is the paired difference default - variant of own_truth over looks and people. The people of
  one look are not independent: differences are averaged per look, the test flips signs of looks, the interval
  is a bootstrap that draws whole looks. p values are adjusted by Holm over all variants of the table.
- The default is "better" when the adjusted p is below 0.05, the mean difference above 0 and its mean
  retrieval not lower by more than 0.05; "worse" when the variant is better by the same rule; else
  "undecided". With six variants nothing can be decided by fewer than eight looks.
- A run that fails counts as own_truth 0 and retrieval 0. Without all rows there is no verdict.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from demo_measures import ARMS, BOUND, SOURCE

from oneshot_core.demo.making.faces import HELD_OUT_LOOKS
from oneshot_core.metrics import clustered_interval, holm, sign_flip_p

FOUND = 0.5  # share of the source's people that the judge must find
LEVEL, LOSS = 0.05, 0.05
COLUMNS = (
    "own_truth", "retrieval", "along", "off", "own", "texture_along", "texture_off", "gap_closed",
    "diversity", "clip_i",
)  # fmt: skip
Rows = Sequence[dict[str, Any]]


def report(rows: Rows, variants: Sequence[str], people: int) -> str:
    """Lay everything out as Markdown.

    Args:
        rows: of the wanted looks, people, methods and arms.
        variants: names of the methods; the first is compared with the others.
        people: how many there should be per look.
    """
    rows = [{"own_truth": 0.0, "retrieval": 0.0, **row} if "failed" in row else row for row in rows]
    counted = included(rows)
    looks = list(dict.fromkeys(row["look"] for row in rows))
    left = [look for look in looks if look not in counted]
    some = [row for row in rows if row["look"] in counted]
    parts = [
        f"Looks that count: {', '.join(counted) or 'none'}. "
        f"Left out by the rule: {', '.join(left) or 'none'}."
    ]
    for title, held_out in (("Held out", True), ("Known to the demo's CLIP", False)):
        of_kind = [row for row in some if (row["look"] in HELD_OUT_LOOKS) == held_out]
        if of_kind:
            parts += [f"{title}:", means(of_kind, [*variants, *ARMS])]
    parts += [by_look(some, variants), curves(some, variants)]
    if len(variants) > 1:
        pairs = len(counted) * people
        lacking = {name: pairs - sum(row["variant"] == name for row in some) for name in variants}
        incomplete = {name: count for name, count in lacking.items() if count}
        told = ", ".join(f"{name} lacks {count}" for name, count in incomplete.items())
        parts.append(
            f"Incomplete, no verdict: {told} of {pairs} runs."
            if told
            else verdicts(some, variants[0], variants[1:])
        )
    return "\n\n".join(part for part in parts if part)


def included(rows: Rows) -> list[str]:
    """Name the looks in which the measure can see; all of them where no untrained arm was computed."""
    counted = []
    for look in dict.fromkeys(row["look"] for row in rows):
        arms = {
            name: [row for row in rows if row["look"] == look and row["variant"] == name]
            for name in ("half", SOURCE, "collapse")
        }
        score = {name: _mean(some, "own_truth") for name, some in arms.items() if some}
        if len(score) < len(arms) or (
            score["half"] > max(score[SOURCE], score["collapse"])
            and _mean(arms[SOURCE], "retrieval") >= FOUND
        ):
            counted.append(look)
    return counted


def means(rows: Rows, names: Sequence[str]) -> str:
    """One line per method and untrained arm: means over looks and people, and how many runs failed."""
    lines = [_line("", "n", *COLUMNS, "seconds"), "|---" * (len(COLUMNS) + 3) + "|"]
    for name in names:
        some = [row for row in rows if row["variant"] == name]
        ended = [row for row in some if "failed" not in row]
        if ended:
            cells = [f"{_mean(some if column in COLUMNS[:2] else ended, column):.3f}" for column in COLUMNS]
            seconds = [row["seconds"] for row in ended if "seconds" in row]
            count = (
                str(len(some)) if len(ended) == len(some) else f"{len(some)}, {len(some) - len(ended)} failed"
            )
            lines.append(_line(name, count, *cells, f"{statistics.median(seconds):.0f}" if seconds else "–"))
    return "\n".join(lines)


def by_look(rows: Rows, variants: Sequence[str]) -> str:
    """Own-truth score and retrieval of every method by look."""
    names = [*variants, SOURCE, BOUND]
    lines = [_line("own_truth / retrieval", *names), "|---" * (len(names) + 1) + "|"]
    for look in dict.fromkeys(row["look"] for row in rows):
        cells = []
        for name in names:
            some = [row for row in rows if row["variant"] == name and row["look"] == look]
            cells.append(" / ".join(f"{_mean(some, column):.2f}" for column in COLUMNS[:2]) if some else "–")
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
    adjusted = holm([sign_flip_p(_per_look(scores, looks)) for scores, _, looks in found.values()])
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
    both = [
        (row, place[other, look, person])
        for (name, look, person), row in place.items()
        if name == first and (other, look, person) in place
    ]
    differences = [[a[column] - b[column] for a, b in both] for column in COLUMNS[:2]]
    return differences[0], differences[1], [a["look"] for a, _ in both]


def _per_look(values: Sequence[float], looks: Sequence[str]) -> list[float]:
    """Average what belongs to one look."""
    return [
        statistics.mean(value for value, look in zip(values, looks, strict=True) if look == one)
        for one in dict.fromkeys(looks)
    ]


def _mean(rows: Rows, column: str) -> float:
    return statistics.mean(row[column] for row in rows)


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
