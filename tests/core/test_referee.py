"""The referee's rule: what it calls better, which looks count, and that its tables hold what was measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from demo_verdict import COLUMNS, included, report, verdict, verdicts

LOOKS = ("ink", "comic", "pop art", "woodcut")


def row(look: str, person: int, variant: str, own_truth: float, kept: float = 1.0) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS, 0.5), "look": look, "person": person, "variant": variant, "steps": 4,
        "own_truth": own_truth, "retrieval": kept, "seconds": 3.0,
    }  # fmt: skip


def rows(difference: float, kept: float = 1.0) -> list[dict[str, Any]]:
    """Eight pairs; "other" is lower by about `difference` than "default"."""
    found = []
    for number, look in enumerate(LOOKS):
        for person in range(2):
            best = 0.4 + 0.05 * number + 0.01 * person
            found += [row(look, person, "default", best), row(look, person, "source", 0.1)]
            found.append(row(look, person, "other", best - difference * (1 + 0.1 * number), kept))
    return found


def cells(table: str, first: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("difference", "kept", "said"),
    [
        (0.1, 1.0, "better"),
        (-0.1, 1.0, "worse"),
        (0.1, 1.1, "undecided: nearer, but loses people"),  # the default finds 0.1 fewer people again
        (-0.1, 0.9, "undecided: nearer, but loses people"),
        (0.1, 1.04, "better"),
    ],
)
def test_better_is_nearer_without_losing_people(difference: float, kept: float, said: str) -> None:
    found = cells(verdicts(rows(difference, kept), "default", ["other"]), "other")
    assert found[1] == "8" and found[-1] == said
    assert float(found[2]) == pytest.approx(1.15 * difference, abs=1e-3)
    assert float(found[4]) == pytest.approx(2 / 2**8, abs=1e-3)  # all of eight on one side


def test_few_or_mixed_pairs_are_undecided() -> None:
    mixed = [one for one in rows(0.1) if one["person"] == 0]
    assert cells(verdicts(mixed, "default", ["other"]), "other")[-1] == "undecided"  # 2 of 16 at best
    assert verdict(0.0, 0.0, 0.001) == "undecided"


def test_p_values_are_adjusted_for_the_number_of_variants() -> None:
    both = rows(0.1) + [{**one, "variant": "third"} for one in rows(0.1) if one["variant"] == "other"]
    assert float(cells(verdicts(both, "default", ["other", "third"]), "other")[4]) == pytest.approx(
        4 / 2**8, abs=1e-3
    )


def test_looks_in_which_the_judge_finds_nobody_do_not_count() -> None:
    blind = [
        {**one, "retrieval": 0.4} if (one["variant"], one["look"]) == ("source", "ink") else one
        for one in rows(0.1)
    ]
    assert included(blind) == ["comic", "pop art", "woodcut"]
    told = report(blind, ["default", "other"])
    assert "Left out by the rule: ink." in told and cells(told, "default")[1] == "6"
    assert included([one for one in rows(0.1) if one["variant"] != "source"]) == list(LOOKS)


def test_the_report_shows_means_looks_and_curves() -> None:
    some = rows(0.1)
    for one in some:
        if one["variant"] != "source":
            one["curve"] = {"10": {**one, "own_truth": 0.2}, "5": {**one, "own_truth": 0.1}}
    told = report(some, ["default", "other"])
    assert cells(told, "source")[1:3] == ["8", "0.100"] and cells(told, "source")[-1] == "3"
    assert cells(told, "woodcut")[1] == "0.56 / 1.00"
    assert "| default | 0.100 / 1.000 | 0.200 / 1.000 | 0.480 / 1.000 |" in told  # in order of steps
