"""Numbers that users set: finite and within their range, or refused by name; imports nothing heavy."""

from __future__ import annotations

import math

MOST_RATE = 1000.0  # of an optimiser; far beyond any of use, and within what float32 can compute with


def check_number(
    value: float,
    name: str,
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
) -> float:
    """Return a number that is finite and in range.

    Args:
        value: what was given.
        name: how the user calls it.
        low: smallest allowed value; None: no bound.
        high: largest allowed value; None: no bound.
        above: what it must exceed; None: no bound.

    Raises:
        ValueError: it is NaN, infinite, out of range or no number; the message says what is allowed.
    """
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    right = right and (low is None or value >= low) and (high is None or value <= high)
    if not right or (above is not None and not value > above):
        raise ValueError(f"{name} must be {allowed(low, high, above)}, got {value}")
    return value


def allowed(low: float | None, high: float | None, above: float | None) -> str:
    """Say in words what a range allows."""
    if above is not None:
        lowest = "positive" if above == 0 else f"above {above:g}"
        return f"{lowest} and finite" if high is None else f"{lowest} and at most {high:g}"
    if low is not None and high is not None:
        return f"a number from {low:g} to {high:g}"
    if low is not None:
        return f"a finite number of at least {low:g}"
    return "a finite number" if high is None else f"a finite number of at most {high:g}"
