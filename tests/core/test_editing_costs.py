"""The costs' benchmark: what counts as a unit, what is reckoned from it, and the referee's small rule."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import editing_costs  # noqa: E402 - a script, not a package
import editing_costs_methods as methods  # noqa: E402
import search_and_parts  # noqa: E402

sys.path.pop(0)


def marked(monkeypatch: pytest.MonkeyPatch, *marks: tuple[str, int, float]) -> methods.Costs:
    costs = methods.Costs()
    for unit, count, when in marks:
        monkeypatch.setattr(costs, "elapsed", lambda when=when: (2 * when, when))
        costs.mark(unit, count)
    return costs


def test_a_unit_lasts_from_the_mark_before_to_its_last(monkeypatch: pytest.MonkeyPatch):
    units = marked(monkeypatch, ("sample", 4, 10.0), ("sample", 4, 14.0), ("channel", 1, 20.0)).units()
    assert units["sample"] == {"wall": 2.0, "cpu": 1.0, "count": 8}
    assert units["channel"] == {"wall": 12.0, "cpu": 6.0, "count": 1}


def test_a_method_is_stopped_after_enough_of_a_kind():
    costs = methods.Costs()
    costs.mark("step", most=2)
    costs.mark("other", most=2)
    with pytest.raises(methods.Enough):
        costs.mark("step", most=2)


def test_the_whole_is_what_is_done_once_and_the_default_number_of_units():
    row = {
        "method": "optimisation, W+", "units": {"step": {"cpu": 3.0, "wall": 4.0, "count": 2}}, "cpu": 11.0,
        "peak_mb": 2000, "prepared_mb": 900,
    }  # fmt: skip
    cells = [cell.strip() for cell in editing_costs._row_line(row).strip("|").split("|")]
    steps = methods.METHODS["optimisation, W+"].defaults["step"]
    assert cells[1:3] == ["step 3.00 (4.0)", "5.0"]
    assert cells[4] == f"{5 + 3 * steps:,.0f} s" and cells[5] == "2,000 (900)"


@pytest.mark.slow
def test_a_method_is_measured_and_its_row_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # for the process of its own
    editing_costs.compute(["SeFa"], 16, 1, tmp_path)
    (row,) = editing_costs.read_rows(tmp_path).values()
    assert row["units"]["run"]["count"] == 1 and row["peak_mb"] >= row["prepared_mb"] > 0
    assert "| SeFa | run " in editing_costs.report(editing_costs.read_rows(tmp_path), 16, 1)


def test_only_more_than_another_seed_changes_is_a_hint():
    assert search_and_parts.hint(0.05, 0.0) == "hint for"
    assert search_and_parts.hint(0.049, 0.0) == search_and_parts.hint(-0.031, 0.0)
    assert search_and_parts.hint(-0.04, 0.0) == search_and_parts.hint(0.1, -0.05) == "hint against"
