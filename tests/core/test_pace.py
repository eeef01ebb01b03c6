"""The time left: by the pace of late, of the kinds that come, without what happened once."""

from __future__ import annotations

import pytest

from oneshot_core.pace import WINDOW, Pace


class Clock:
    """Shows what it was set to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def left(durations: list[float], total: int, done: int = 0, kinds: str = "", units: int = 1) -> list[float]:
    """Time left after each step of these durations."""
    clock = Clock()
    pace = Pace(total, done, clock)
    found = []
    for index, seconds in enumerate(durations):
        clock.now += seconds
        found.append(pace.left(done + units * (index + 1), kinds[index % len(kinds)] if kinds else ""))
    return found


def test_an_even_pace_is_told_from_the_first_step_to_the_last():
    assert left([2.0] * 4, 4) == [6.0, 4.0, 2.0, 0.0]


def test_it_follows_a_change_of_pace_within_its_window():
    """The mean since the start would still say 90 s after these steps."""
    told = left([10.0] * 50 + [1.0] * WINDOW, 50 + WINDOW + 10)
    assert told[49] == pytest.approx(10.0 * (WINDOW + 10))
    assert told[-1] == pytest.approx(10.0)


def test_one_step_that_took_long_changes_nothing():
    assert left([1.0] * 5 + [300.0] + [1.0], 17)[-2:] == [11.0, 10.0]


def test_every_kind_counts_with_its_own_time():
    """A median of all would say 3 s a step; they take 2.5 on average."""
    assert left([1.0, 3.0, 3.0, 3.0] * 4, 116, kinds="abbb")[-1] == pytest.approx(250.0)


def test_steps_of_an_earlier_session_took_no_time_in_this_one():
    assert left([4.0], 101, done=50) == [200.0]


def test_a_step_may_do_several_units_of_work():
    assert left([4.0, 4.0], 10, units=2) == [16.0, 12.0]
