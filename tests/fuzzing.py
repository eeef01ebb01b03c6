"""Blind damage for fuzz tests: flipped bits, cut, doubled, swapped pieces, telling bytes, odd JSON values."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TELLING = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x5B,
    0x7B,
    0x22,
    0x2E,
    0x80,
)  # with brackets, quotes, pickle's STOP and PROTO
MAX_PIECE = 64
# Seeds of the long runs, apart from those of the short ones; hours of them: ONESHOT_FUZZ_ROUNDS=20000.
LONG = range(10_000, 10_000 + int(os.environ.get("ONESHOT_FUZZ_ROUNDS", "200")))


def damaged(data: bytes, seed: int, head: int | None = None) -> bytes:
    """Damage data in one to four ways, decided by the seed alone.

    Args:
        data: sound bytes.
        seed: of the damage.
        head: damage only the first bytes, where headers are; None: anywhere.
    """
    rng = random.Random(seed)
    values = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        reach = max(1, min(len(values), head or len(values)))
        place, size = rng.randrange(reach), rng.randint(1, MAX_PIECE)
        way = rng.randrange(7)
        if way == 0 and values:
            values[place] ^= 1 << rng.randrange(8)
        elif way == 1 and values:
            values[place] = rng.choice(TELLING)
        elif way == 2:
            del values[place : place + size]
        elif way == 3:
            values[place:place] = values[place : place + size]
        elif way == 4:
            values[place : place + size] = rng.randbytes(min(size, max(0, len(values) - place)))
        elif way == 5:
            other = rng.randrange(reach)
            values[place : place + size] = values[other : other + size]
        else:
            del values[max(1, place) :]
    return bytes(values)


def failures(
    read: Callable[[Path], Any],
    sound: bytes,
    path: Path,
    seeds: range,
    allowed: tuple[type[BaseException], ...],
    head: int | None = None,
) -> Iterator[str]:
    """Read damaged variants of a file; yield one line for each that ended in an error of another kind.

    Args:
        read: the reader under test.
        sound: bytes of a sound file.
        path: where each variant is written; its suffix is what the reader expects.
        seeds: one variant each.
        allowed: errors that say to the user what is wrong.
        head: see `damaged`.
    """
    for seed in seeds:
        path.write_bytes(damaged(sound, seed, head))
        yield from wrong_error(read, path, seed, allowed)


def wrong_error(
    read: Callable[[Path], Any], path: Path, seed: int, allowed: tuple[type[BaseException], ...]
) -> Iterator[str]:
    """Read one file; yield a line when that ended in an error of another kind than the allowed ones."""
    try:
        read(path)
    except allowed:
        return
    except Exception as error:  # noqa: BLE001 - whatever else comes out is what the test looks for
        yield f"seed {seed}: {type(error).__name__}: {str(error)[:160]}"


def mutated_json(values: Any, seed: int) -> Any:
    """Copy JSON values with one member replaced by a value of another type, removed, or nested deeply."""
    rng = random.Random(seed)
    places = list(_places(values, ()))
    where = rng.choice(places)
    deep: Any = []
    for _ in range(rng.choice((3, 200))):
        deep = [deep]
    odd = rng.choice([None, True, -1, 0, 2**70, 1.5, 1e308, "", "x", "\x1b[31m", [], {}, [1], {"a": 1}, deep])
    return _replaced(values, where, odd, remove=rng.random() < 0.2)


def _places(values: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in items:
        yield from _places(value, (*path, key))


def _replaced(values: Any, path: tuple[Any, ...], odd: Any, remove: bool) -> Any:
    if not path:
        return odd
    key, *rest = path
    pairs = list(values.items()) if isinstance(values, dict) else list(enumerate(values))
    kept = [
        (name, _replaced(value, tuple(rest), odd, remove) if name == key else value)
        for name, value in pairs
        if not (remove and not rest and name == key)
    ]
    return dict(kept) if isinstance(values, dict) else [value for _, value in kept]
