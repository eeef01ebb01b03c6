"""Readers of what stands behind an option of the command line; each refuses what the option does not take."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..choices import LOOK_STRENGTHS
from ..frames import MOST_ZOOM
from ..ranges import MOST_RATE, allowed, check_number

MOST_FACTOR, MOST_LAYERS = 1000.0, 64


def number(
    low: float | None = None, high: float | None = None, above: float | None = None
) -> Callable[[str], float]:
    """Make a reader of finite numbers in a range."""

    def read(text: str) -> float:
        try:
            return check_number(float(text), "it", low, high, above=above)
        except ValueError:
            wanted = allowed(low, high, above)
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}") from None

    return read


def weight(text: str) -> tuple[str, float]:
    """Read NAME=VALUE, the value finite."""
    name, _, value = text.partition("=")
    try:
        return name, number(low=0)(value if name else "")
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"write NAME=VALUE with a finite number of at least 0, such as patch=0.5; got {text!r}"
        ) from None


def shares(text: str) -> tuple[float, ...]:
    """Read a list of positive weights separated by commas."""
    try:
        return tuple(number(above=0)(part) for part in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"write positive numbers separated by commas, such as 1,0.5; got {text!r}"
        ) from None


def schedule(text: str) -> dict[str, int]:
    """Read R:N, reference steps to random steps, as a recipe has them."""
    try:
        reference, random = (int(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"write REFERENCE:RANDOM steps, such as 1:3 or 3:1; got {text!r}"
        ) from None
    return {"reference": reference, "random": random}


def slots(text: str) -> tuple[int, int]:
    """Read A-B, both ends included, as (first, after the last)."""
    low, dash, high = text.partition("-")
    try:
        first, last = int(low), int(high if dash else low)
    except ValueError:
        raise argparse.ArgumentTypeError(f"write slots as 4-7 or 4; got {text!r}") from None
    if last < first:
        raise argparse.ArgumentTypeError(f"write the lower slot first, as in 4-7; got {text!r}")
    return first, last + 1


def numbers(text: str) -> list[float]:
    """Read a list of truncations separated by commas."""
    try:
        return [number(-10, 10)(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"write numbers from -10 to 10 separated by commas, such as 0,0.5,1; got {text!r}"
        ) from None


def look(text: str) -> tuple[str, float]:
    """Read FILE or FILE:STRENGTH; a colon before anything but a number belongs to the file's name."""
    return _file_and_number(text, "STRENGTH", LOOK_STRENGTHS)


def factor(text: str) -> tuple[str, float]:
    """Read FILE or FILE:FACTOR, as `look`."""
    return _file_and_number(text, "FACTOR", (-MOST_FACTOR, MOST_FACTOR))


def layers(text: str) -> tuple[int, ...]:
    """Read numbers and ranges such as 0-8,11; ranges include both ends."""
    found = list[int]()
    for part in text.split(","):
        first, end = slots(part)
        if end - first > MOST_LAYERS:
            raise argparse.ArgumentTypeError(f"no generator has so many layers, got {text!r}")
        found += range(first, end)
    return tuple(found)


def _file_and_number(text: str, what: str, ends: tuple[float, float]) -> tuple[str, float]:
    file, colon, last = text.rpartition(":")
    try:
        strength = float(last) if colon else None
    except ValueError:
        strength = None
    if strength is None:
        return filled(text), 1.0
    try:
        return filled(file), check_number(strength, "it", *ends)
    except ValueError:
        wanted = allowed(*ends, None)
        raise argparse.ArgumentTypeError(
            f"write FILE or FILE:{what}, the {what.lower()} {wanted}; got {text!r}"
        ) from None


def positive(text: str) -> int:
    """Read a whole number from 1 on."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


RATE, ZOOM = number(above=0, high=MOST_RATE), number(1, MOST_ZOOM)


def filled(text: str) -> str:
    """Read a name of a file, folder or address, which an unset variable of a script leaves empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a name, or leave the option out")
    return text
