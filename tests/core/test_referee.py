"""The referee's rule: what it calls better, which looks count, and that its tables hold what was measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from demo_verdict import COLUMNS, included, report, verdict, verdicts

LOOKS = ("neon", "ink", "comic", "mosaic", "woodcut", "pop art")


def row(look: str, person: int, variant: str, own_truth: float, kept: float = 1.0) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS, 0.5), "look": look, "person": person, "variant": variant, "steps": 4,
        "own_truth": own_truth, "retrieval": kept, "seconds": 3.0,
    }  # fmt: skip


def rows(difference: float, kept: float = 1.0) -> list[dict[str, Any]]:
    """Twelve pairs of six looks; "other" is lower by about `difference` than "default"."""
    found = []
    for number, look in enumerate(LOOKS):
        for person in range(2):
            best = 0.4 + 0.05 * number + 0.01 * person
            found += [row(look, person, name, score) for name, score in ARM_SCORES.items()]
            found.append(row(look, person, "default", best))
            found.append(row(look, person, "other", best - difference * (1 + 0.1 * number), kept))
    return found


ARM_SCORES = {"source": 0.1, "half": 0.6, "collapse": 0.0}


def cells(table: str, first: str, at: int = 0) -> list[str]:
    lines = [line for line in table.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in lines[at].strip("|").split("|")]


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
    assert found[1] == "12" and found[-1] == said
    assert float(found[2]) == pytest.approx(1.25 * difference, abs=1e-3)


def test_the_people_of_a_look_are_one_piece_of_evidence() -> None:
    found = cells(verdicts(rows(0.1), "default", ["other"]), "other")
    assert float(found[4]) == pytest.approx(2 / 2**6, abs=1e-3)  # six looks on one side, not twelve pairs
    few = [one for one in rows(0.1) if one["look"] in LOOKS[:4]]
    assert cells(verdicts(few, "default", ["other"]), "other")[-1] == "undecided"
    assert verdict(0.0, 0.0, 0.001) == "undecided"


def test_p_values_are_adjusted_for_the_number_of_variants() -> None:
    both = rows(0.1) + [{**one, "variant": "third"} for one in rows(0.1) if one["variant"] == "other"]
    found = cells(verdicts(both, "default", ["other", "third"]), "other")
    assert float(found[4]) == pytest.approx(4 / 2**6, abs=1e-3) and found[-1] == "undecided"


@pytest.mark.parametrize(
    ("arm", "change"),
    [("source", {"retrieval": 0.4}), ("half", {"own_truth": -0.1}), ("source", {"own_truth": 0.7})],
)
def test_looks_that_the_measure_cannot_see_do_not_count(arm: str, change: dict[str, float]) -> None:
    blind = [{**one, **change} if (one["variant"], one["look"]) == (arm, "ink") else one for one in rows(0.1)]
    assert included(blind) == [look for look in LOOKS if look != "ink"]
    told = report(blind, ["default", "other"], 2)
    assert "Left out by the rule: ink." in told
    assert cells(told, "default")[1] == "4" and cells(told, "default", 1)[1] == "6"  # held out, known
    assert included([one for one in rows(0.1) if one["variant"] != "source"]) == list(LOOKS)


def test_the_report_shows_means_looks_and_curves() -> None:
    some = rows(0.1)
    for one in some:
        if one["variant"] in ("default", "other"):
            one["curve"] = {"10": {**one, "own_truth": 0.2}, "5": {**one, "own_truth": 0.1}}
    told = report(some, ["default", "other"], 2)
    assert cells(told, "source")[1:3] == ["4", "0.100"] and cells(told, "default")[-1] == "3"
    assert cells(told, "woodcut")[1] in ("0.60 / 1.00", "0.61 / 1.00")  # 0.605
    assert "| default | 0.100 / 1.000 | 0.200 / 1.000 | 0.530 / 1.000 |" in told  # in order of steps
    assert "better" in told.splitlines()[-1]


def test_without_all_rows_there_is_no_verdict_and_a_failed_run_counts_as_nothing() -> None:
    some = [one for one in rows(0.1) if (one["variant"], one["look"], one["person"]) != ("other", "ink", 1)]
    assert "no verdict: other lacks 1 of 12 runs" in report(some, ["default", "other"], 2)
    broken = {"look": "ink", "person": 1, "variant": "other", "key": "", "failed": "NaN"}
    told = report([*some, broken], ["default", "other"], 2)
    assert "| other | 8, 1 failed |" in told and "no verdict" not in told
