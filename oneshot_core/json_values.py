"""JSON from files, headers and servers: parsed within bounds, read as typed values, with one kind of error.

Whoever reads JSON that this process did not write itself goes through here: a damaged or hostile text ends in
`JsonError`, never in a KeyError, TypeError, RecursionError or UnicodeError somewhere later.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

MAX_DEPTH = 64  # far beyond any file of this project; deep values would break whoever walks them
MAX_FILE_BYTES = 64 * 1024**2
_SHOWN_CHARACTERS = 40
_REQUIRED: Any = object()
_Value = TypeVar("_Value")


class JsonError(ValueError):
    """A text that is not the JSON that was expected; the message says where and what is allowed."""


def parse(text: str | bytes, what: str, finite: bool = True) -> Any:
    """Parse a JSON text.

    Args:
        text: the text, or its bytes in UTF-8 with or without a byte order mark.
        what: where it comes from, for messages.
        finite: refuse NaN, Infinity and -Infinity; else they become None, for programs that write them.

    Returns:
        None, booleans, finite numbers, texts that are valid Unicode, lists and dicts, at most 64 deep.

    Raises:
        JsonError: no such text.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        constant = _refuse_constant if finite else lambda _: None
        values = json.loads(text, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise JsonError(f"{what}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except RecursionError:
        raise JsonError(f"{what}: is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:  # also a number with more digits than Python converts
        raise JsonError(f"{what}: is no JSON ({str(error)[:200]})") from error
    _check(values, what)
    return values


def read(path: Path) -> Any:
    """Parse a JSON file; see `parse`.

    Raises:
        JsonError: not a JSON file, or one of more than 64 MiB.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise JsonError(f"{path}: has more than {MAX_FILE_BYTES // 1024**2} MiB, too much for a JSON file")
    return parse(data, str(path))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _check(values: Any, what: str) -> None:
    """Refuse depth, numbers and texts that would break a reader later; walks without recursion."""
    level: list[Any] = [values]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):  # such as 1e999
                raise JsonError(f"{what}: holds a number that is too large")
            elif isinstance(value, str) and not _is_unicode(value):
                raise JsonError(f"{what}: holds a text that is not valid Unicode (half a surrogate pair)")
        if not below:
            return
        level = below
    raise JsonError(f"{what}: is nested more than {MAX_DEPTH} deep")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def told(value: Any) -> str:
    """Say in a few words what a JSON value is; quotes no control characters."""
    if isinstance(value, str):
        return ascii(value[:_SHOWN_CHARACTERS])
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} with {len(value)} entries"
    if value is None or isinstance(value, bool):  # 0 and 1 are equal to false and true, but are not they
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)[:_SHOWN_CHARACTERS]


class Fields:
    """A JSON object whose members are taken by name and type; what is wrong raises JsonError.

    Args:
        values: what should be an object.
        what: where it stands, for messages; members of members get dotted names.

    Raises:
        JsonError: `values` is no object.
    """

    def __init__(self, values: Any, what: str) -> None:
        if not isinstance(values, Mapping):
            raise JsonError(f"{what} must be an object, found {told(values)}")
        self._values, self.what = values, what
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def names(self) -> list[str]:
        """Names of all members."""
        return list(self._values)

    def value(self, name: str, default: Any = _REQUIRED) -> Any:
        """Any JSON value; without a default the member must be there."""
        self._taken.add(name)
        if name in self._values:
            return self._values[name]
        if default is _REQUIRED:
            raise JsonError(f"{self.what} lacks {name!r}")
        return default

    def text(
        self,
        name: str,
        default: Any = _REQUIRED,
        choices: Collection[str] | None = None,
    ) -> str:
        """A text; one of `choices` where they are given."""
        found = self._typed(name, default, lambda value: isinstance(value, str), "a text")
        if choices is not None and found is not default and found not in choices:
            self._refuse(name, f"one of {', '.join(choices)}", found)
        return found

    def whole(
        self, name: str, low: int | None = None, high: int | None = None, default: Any = _REQUIRED
    ) -> int:
        """A whole number from `low` to `high`, both included; a boolean is none."""
        return self._ranged(name, default, lambda value: type(value) is int, "a whole number", low, high)

    def number(
        self, name: str, low: float | None = None, high: float | None = None, default: Any = _REQUIRED
    ) -> float:
        """A finite number from `low` to `high`, both included; a boolean is none."""
        return self._ranged(name, default, _is_number, "a number", low, high)

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        """True or false."""
        return self._typed(name, default, lambda value: isinstance(value, bool), "true or false")

    def items(self, name: str, most: int, default: Any = _REQUIRED) -> list[Any]:
        """A list of at most `most` values of any type."""
        found = self._typed(name, default, lambda value: isinstance(value, list), "a list")
        if found is not default and len(found) > most:
            self._refuse(name, f"a list of at most {most} entries", found)
        return found

    def texts(self, name: str, most: int, default: Any = _REQUIRED) -> list[str]:
        """A list of at most `most` texts."""
        return self._all(name, most, default, lambda value: isinstance(value, str), "texts")

    def numbers(self, name: str, most: int, default: Any = _REQUIRED) -> list[float]:
        """A list of at most `most` finite numbers."""
        return self._all(name, most, default, _is_number, "numbers")

    def object(self, name: str, default: Any = _REQUIRED) -> Fields:
        """An object as Fields of its own; the default is an object's values."""
        return Fields(self.value(name, default), f"{self.what}: {name}")

    def objects(self, name: str, most: int) -> Iterator[Fields]:
        """The objects of a list of at most `most`."""
        for index, value in enumerate(self.items(name, most)):
            yield Fields(value, f"{self.what}: {name}[{index}]")

    def close(self) -> None:
        """Refuse members that nobody took."""
        unknown = sorted(set(map(str, self._values)) - self._taken)
        if unknown:
            allowed = ", ".join(sorted(self._taken))
            raise JsonError(f"{self.what} has the unknown entry {told(unknown[0])}; allowed are {allowed}")

    def _typed(self, name: str, default: Any, fits: Callable[[Any], bool], kind: str) -> Any:
        found = self.value(name, default)
        if found is default and default is not _REQUIRED:
            return found
        if not fits(found):
            self._refuse(name, kind, found)
        return found

    def _ranged(
        self, name: str, default: Any, fits: Callable[[Any], bool], kind: str, low: Any, high: Any
    ) -> Any:
        found = self._typed(name, default, fits, kind)
        if found is default and default is not _REQUIRED:
            return found
        if (low is not None and found < low) or (high is not None and found > high):
            span = f"from {low} to {high}" if None not in (low, high) else f"of at least {low}"
            self._refuse(name, f"{kind} {span}" if low is not None else f"{kind} of at most {high}", found)
        return found

    def _all(self, name: str, most: int, default: Any, fits: Callable[[Any], bool], kind: str) -> Any:
        found = self.items(name, most, default)
        if found is not default and not all(map(fits, found)):
            self._refuse(name, f"a list of {kind}", next(value for value in found if not fits(value)))
        return found

    def _refuse(self, name: str, wanted: str, found: Any) -> None:
        raise JsonError(f"{self.what}: {name} must be {wanted}, found {told(found)}")


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 2**1023
    return type(value) is float and math.isfinite(value)
