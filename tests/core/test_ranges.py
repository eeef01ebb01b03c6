"""Numbers in range: what passes, what is refused, and in which words."""

from __future__ import annotations

import math

import pytest

from oneshot_core.ranges import check_number


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None])
def test_what_is_no_finite_number_is_refused_whatever_the_range(value):
    for bounds in ({}, {"low": 0}, {"low": 0, "high": 1}, {"above": 0}):
        with pytest.raises(ValueError, match=f"^rate must be .*, got {value}$"):
            check_number(value, "rate", **bounds)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "words"),
    [
        ({"low": 0}, (0, 0.0, 1e300), (-1e-9,), "a finite number of at least 0"),
        ({"high": 2}, (2, -5), (2.1,), "a finite number of at most 2"),
        ({"low": -1, "high": 2}, (-1, 0.5, 2), (-1.1, 2.1), "a number from -1 to 2"),
        ({"above": 0}, (1e-9, 7), (0, -1), "positive and finite"),
        ({"above": 0, "high": 3}, (3,), (0, 3.1), "positive and at most 3"),
        ({"above": 2}, (2.5,), (2,), "above 2 and finite"),
    ],
)
def test_bounds(bounds, inside, outside, words):
    assert [check_number(value, "rate", **bounds) for value in inside] == list(inside)
    for value in outside:
        with pytest.raises(ValueError, match=f"rate must be {words}, got {value}"):
            check_number(value, "rate", **bounds)
