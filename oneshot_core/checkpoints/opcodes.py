"""Decodes pickle streams into instructions, within bounds and without building anything.

Source: opcode semantics of Python's documented pickle protocols 2 to 5 (pickletools).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .stored import ByteRange, CheckpointError, UnsafePickleError

MAX_OPCODES = 400_000  # the largest known files, training snapshots with optimisers, have about 100,000
MAX_TEXT_BYTES = 4_096  # longer texts (embedded source code, binary data as text) stay in the file
MAX_NAME_BYTES = 256
MAX_INTEGER_BYTES = 16
Instruction = tuple[str, Any]


@dataclass(frozen=True)
class LongText:
    """A text that was left in the file because of its length."""

    utf8: ByteRange
    described = "a long text"


class _Cursor:
    """Reads a byte range from front to back through a small window."""

    def __init__(self, data: ByteRange, start: int) -> None:
        self.data, self.position = data, start
        self._window, self._base, self._step = b"", start, 512

    def take(self, count: int) -> bytes:
        begin = self.position - self._base
        if begin + count > len(self._window):
            self._fill(count)
            begin = 0
        self.position += count
        return self._window[begin : begin + count]

    def _fill(self, count: int) -> None:
        if self.position + count > self.data.size:
            raise CheckpointError(
                f"the pickle stream ends at byte {self.data.size} in the middle of an instruction; "
                "the file is truncated: copy or download it again"
            )
        size = min(max(count, self._step), self.data.size - self.position)
        self._window, self._base = self.data.read(self.position, size), self.position
        self._step = min(2 * self._step, 65_536)

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def blob(self, layout: str) -> ByteRange:
        size = self.number(layout)
        part = self.data.part(self.position, size)
        self.position += size
        return part

    def text(self, layout: str) -> str | LongText:
        part = self.blob(layout)
        if part.size > MAX_TEXT_BYTES:
            return LongText(part)
        return _decoded(part.read(0, part.size))

    def integer(self, layout: str) -> int:
        size = self.number(layout)
        if not 0 <= size <= MAX_INTEGER_BYTES:
            raise CheckpointError(
                f"the pickle declares an integer of {size} bytes; at most {MAX_INTEGER_BYTES} are allowed"
            )
        return int.from_bytes(self.take(size), "little", signed=True)

    def line(self) -> str:
        raw = bytearray()
        while (byte := self.take(1)) != b"\n":
            raw += byte
            if len(raw) > MAX_NAME_BYTES:
                raise CheckpointError(f"a name in the pickle is longer than {MAX_NAME_BYTES} bytes")
        return _decoded(bytes(raw))


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"a text in the pickle is not UTF-8: {error}") from error


def _number(layout: str) -> Callable[[_Cursor], Any]:
    return lambda cursor: cursor.number(layout)


# fmt: off
_PLAIN: dict[bytes, Instruction] = {  # without an operand
    code: (name, None) for code, name in {
        b"(": "MARK",          b"N": "NONE",          b"\x88": "NEWTRUE",     b"\x89": "NEWFALSE",
        b"}": "EMPTY_DICT",    b"]": "EMPTY_LIST",    b")": "EMPTY_TUPLE",    b"\x8f": "EMPTY_SET",
        b"t": "TUPLE",         b"\x85": "TUPLE1",     b"\x86": "TUPLE2",      b"\x87": "TUPLE3",
        b"a": "APPEND",        b"e": "APPENDS",       b"s": "SETITEM",        b"u": "SETITEMS",
        b"\x90": "ADDITEMS",   b"\x94": "MEMOIZE",    b"\x93": "STACK_GLOBAL", b"R": "REDUCE",
        b"\x81": "NEWOBJ",     b"b": "BUILD",         b"Q": "BINPERSID",
    }.items()
}
_OPCODES: dict[bytes, tuple[str, Callable[[_Cursor], Any]]] = {
    b"\x80": ("PROTO", _number("<B")),           b"\x95": ("FRAME", _number("<Q")),
    b"G": ("NUMBER", _number(">d")),             b"K": ("NUMBER", _number("<B")),
    b"M": ("NUMBER", _number("<H")),             b"J": ("NUMBER", _number("<i")),
    b"\x8a": ("NUMBER", lambda c: c.integer("<B")),  b"\x8b": ("NUMBER", lambda c: c.integer("<i")),
    b"\x8c": ("TEXT", lambda c: c.text("<B")),   b"X": ("TEXT", lambda c: c.text("<I")),
    b"\x8d": ("TEXT", lambda c: c.text("<Q")),
    b"C": ("DATA", lambda c: c.blob("<B")),      b"B": ("DATA", lambda c: c.blob("<I")),
    b"\x8e": ("DATA", lambda c: c.blob("<Q")),   b"\x96": ("DATA", lambda c: c.blob("<Q")),
    b"h": ("GET", _number("<B")),                b"j": ("GET", _number("<I")),
    b"q": ("PUT", _number("<B")),                b"r": ("PUT", _number("<I")),
    b"c": ("GLOBAL", lambda c: (c.line(), c.line())),
}
# fmt: on
NAMES = frozenset(name for name, _ in (*_PLAIN.values(), *_OPCODES.values()))
_REFUSED = {
    b"i": "INST (imports and calls)",
    b"o": "OBJ (calls a class)",
    b"\x82": "EXT1 (copyreg registry)",
    b"\x83": "EXT2 (copyreg registry)",
    b"\x84": "EXT4 (copyreg registry)",
    b"P": "PERSID (external reference)",
    b"\x92": "NEWOBJ_EX (calls a class)",
    b"\x97": "NEXT_BUFFER (out-of-band data)",
}


def instructions(data: ByteRange, start: int = 0, max_opcodes: int = MAX_OPCODES) -> Iterator[Instruction]:
    """Decode a stream up to and including STOP.

    Args:
        data: where the stream lies.
        start: first byte of the stream within `data`.
        max_opcodes: how many instructions the stream may have.

    Yields:
        (name, operand); the operand of STOP is the position behind it. Texts above 4 KiB and all binary data
        are yielded as ranges of the file, unread.

    Raises:
        CheckpointError: unknown opcode, truncated stream, a length beyond the data, too many instructions.
        UnsafePickleError: an opcode that calls or imports by itself.
    """
    cursor = _Cursor(data, start)
    for _ in range(max_opcodes):
        code = cursor.take(1)
        plain = _PLAIN.get(code)
        if plain is not None:
            yield plain
        elif code == b".":
            yield "STOP", cursor.position
            return
        elif code in _OPCODES:
            name, operand = _OPCODES[code]
            value = operand(cursor)
            if name == "FRAME":
                data.part(cursor.position, value)
            yield name, value
        else:
            raise _unknown(cursor)
    raise CheckpointError(f"the pickle has more than {max_opcodes} instructions, far beyond any network file")


def _unknown(cursor: _Cursor) -> CheckpointError:
    """Say what the byte before the cursor is: an instruction that calls by itself, or none at all."""
    place = cursor.position - 1
    code = cursor.data.read(place, 1)
    if code in _REFUSED:
        return UnsafePickleError(
            f"the pickle uses the opcode {_REFUSED[code]} at byte {place}; network files "
            "do not need it, so the file is refused and nothing in it was run"
        )
    return CheckpointError(
        f"byte {place} of the pickle is {code!r}, which is no instruction of a network "
        "file; the file is damaged or of another kind"
    )
