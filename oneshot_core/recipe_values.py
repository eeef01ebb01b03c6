"""Parts of a recipe from JSON values and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from .json_values import Fields
from .quads import Quad

MOST_AIMS = 64  # pictures and texts of one aim
WHEN_GIVEN = {
    "told": "when given"
}  # of an entry that older recipes lack: without it, theirs stay as they are

_Part = TypeVar("_Part")


def plain(part: Any) -> dict[str, Any]:
    """A part of a recipe as JSON values, by entry; without entries that are only told when they are given."""
    values = {one.name: (getattr(part, one.name), one.metadata) for one in fields(part)}
    told = {name: value for name, (value, how) in values.items() if value is not None or how != WHEN_GIVEN}
    return {name: _json(value) for name, value in told.items()}


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Quad):
        return value.values()
    return list(value) if isinstance(value, tuple) else value


_READERS: dict[str, Callable[[Fields, str], Any]] = {  # by how a field is declared
    "int": lambda given, name: given.whole(name),
    "float": lambda given, name: float(given.number(name)),
    "bool": lambda given, name: given.flag(name),
    "str": lambda given, name: given.text(name),
    "Quad": lambda given, name: Quad.of(given.value(name)),
    "Mapping[str, float]": lambda given, name: _numbers(given.object(name)),
    "tuple[str, ...]": lambda given, name: tuple(given.texts(name, MOST_AIMS)),
    "tuple[float, ...]": lambda given, name: tuple(map(float, given.numbers(name, MOST_AIMS))),
    "Mapping[str, int]": lambda given, name: {
        key: given.object(name).whole(key) for key in given.object(name).names()
    },
}


def _numbers(given: Fields) -> dict[str, float]:
    return {name: float(given.number(name, low=0)) for name in given.names()}


def changed(part: _Part, given: Fields) -> _Part:
    """Change a part of a recipe by JSON values; tables of weights are merged name by name."""
    changes: dict[str, Any] = {}
    for one in fields(part):  # type: ignore[arg-type]
        if one.name not in given.names():
            given.value(one.name, None)  # now it is known
            continue
        kind, _, optional = str(one.type).partition(" | ")
        if given.value(one.name) is None and optional:
            changes[one.name] = None
            continue
        found = _READERS[kind](given, one.name)
        changes[one.name] = {**getattr(part, one.name), **found} if isinstance(found, dict) else found
    given.close()
    return replace(part, **changes)  # type: ignore[type-var]


def nested(entries: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values of a recipe from values by entry, such as {"method.weights.patch": 0.5}."""
    values: dict[str, Any] = {}
    for entry, value in entries.items():
        *parts, last = entry.split(".")
        place = values
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return values
