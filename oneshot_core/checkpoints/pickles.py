"""An own, inert pickle machine: a scanner and an interpreter that can build data and nothing else.

No class is imported and no foreign function is called. A global name in the stream is looked up in an exact
allow-list of (module, name) pairs; what stands there is a function of this package. The stream is scanned
once from end to end before anything is built, so a refused name far behind in a large file costs nothing.

Source: opcode semantics of Python's documented pickle protocols 2 to 5 (pickletools); attack list in
checkpoints.md F.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .stored import ByteRange, CheckpointError, UnsafePickleError, describe

MAX_OPCODES = 400_000  # the largest known files, training snapshots with optimisers, have about 100,000
MAX_CALLS = 50_000  # one per tensor, array or ordered dict; the same files have about 6,000
MAX_TEXT_BYTES = 4_096  # longer texts (embedded source code, binary data as text) stay in the file
MAX_NAME_BYTES = 256
MAX_INTEGER_BYTES = 16
MAX_KEY = 2**63  # old optimiser states are keyed by memory addresses
_MARK = object()
Name = tuple[str, str]
Instruction = tuple[str, Any, int]


@dataclass(frozen=True)
class Global:
    """A name in the stream; a token without any behaviour."""

    module: str
    name: str


@dataclass(frozen=True)
class LongText:
    """A text that was left in the file because of its length."""

    utf8: ByteRange


class Inert:
    """Base of the stand-ins that may receive a state by the BUILD opcode."""

    def build(self, state: Any) -> None:
        """Take the state; the default refuses it."""
        raise UnsafePickleError(f"the pickle sets the state of {describe(self)}, which has none")


@dataclass(frozen=True)
class Rules:
    """What a stream may name, and what this package does instead of calling it."""

    calls: Mapping[Name, Callable[..., Any]] = field(default_factory=dict)  # REDUCE: own functions
    makes: Mapping[Name, Callable[[], Any]] = field(default_factory=dict)  # NEWOBJ: own stand-ins
    tokens: frozenset[Name] = frozenset()  # names that only occur as arguments
    persistent: Callable[[Any], Any] | None = None  # BINPERSID: storages of torch files
    max_opcodes: int = MAX_OPCODES

    def allows(self, name: Name) -> bool:
        """Whether the pair is on the list."""
        return name in self.calls or name in self.makes or name in self.tokens


class _Cursor:
    """Reads a byte range from front to back through a small window."""

    def __init__(self, data: ByteRange, start: int) -> None:
        self.data, self.position = data, start
        self._window, self._base, self._step = b"", start, 512

    def take(self, count: int) -> bytes:
        begin = self.position - self._base
        if begin + count > len(self._window):
            if self.position + count > self.data.size:
                raise CheckpointError(
                    f"the pickle stream ends at byte {self.data.size} in the middle of an instruction; "
                    "the file is truncated: copy or download it again"
                )
            size = min(max(count, self._step), self.data.size - self.position)
            self._window, self._base, begin = self.data.read(self.position, size), self.position, 0
            self._step = min(2 * self._step, 65_536)
        self.position += count
        return self._window[begin : begin + count]

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


def _nothing(_: _Cursor) -> None:
    return None


def _number(layout: str) -> Callable[[_Cursor], Any]:
    return lambda cursor: cursor.number(layout)


# fmt: off
_OPCODES: dict[bytes, tuple[str, Callable[[_Cursor], Any]]] = {
    b"\x80": ("PROTO", _number("<B")),           b"\x95": ("FRAME", _number("<Q")),
    b".": ("STOP", _nothing),                    b"(": ("MARK", _nothing),
    b"N": ("NONE", _nothing),                    b"\x88": ("NEWTRUE", _nothing),
    b"\x89": ("NEWFALSE", _nothing),             b"G": ("NUMBER", _number(">d")),
    b"K": ("NUMBER", _number("<B")),             b"M": ("NUMBER", _number("<H")),
    b"J": ("NUMBER", _number("<i")),
    b"\x8a": ("NUMBER", lambda c: c.integer("<B")),  b"\x8b": ("NUMBER", lambda c: c.integer("<i")),
    b"\x8c": ("TEXT", lambda c: c.text("<B")),   b"X": ("TEXT", lambda c: c.text("<I")),
    b"\x8d": ("TEXT", lambda c: c.text("<Q")),
    b"C": ("DATA", lambda c: c.blob("<B")),      b"B": ("DATA", lambda c: c.blob("<I")),
    b"\x8e": ("DATA", lambda c: c.blob("<Q")),   b"\x96": ("DATA", lambda c: c.blob("<Q")),
    b"}": ("EMPTY_DICT", _nothing),              b"]": ("EMPTY_LIST", _nothing),
    b")": ("EMPTY_TUPLE", _nothing),             b"\x8f": ("EMPTY_SET", _nothing),
    b"t": ("TUPLE", _nothing),                   b"\x85": ("TUPLE1", _nothing),
    b"\x86": ("TUPLE2", _nothing),               b"\x87": ("TUPLE3", _nothing),
    b"a": ("APPEND", _nothing),                  b"e": ("APPENDS", _nothing),
    b"s": ("SETITEM", _nothing),                 b"u": ("SETITEMS", _nothing),
    b"\x90": ("ADDITEMS", _nothing),
    b"h": ("GET", _number("<B")),                b"j": ("GET", _number("<I")),
    b"q": ("PUT", _number("<B")),                b"r": ("PUT", _number("<I")),
    b"\x94": ("MEMOIZE", _nothing),
    b"c": ("GLOBAL", lambda c: (c.line(), c.line())),  b"\x93": ("STACK_GLOBAL", _nothing),
    b"R": ("REDUCE", _nothing),                  b"\x81": ("NEWOBJ", _nothing),
    b"b": ("BUILD", _nothing),                   b"Q": ("BINPERSID", _nothing),
}
# fmt: on
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
        (name, operand, position behind the instruction). Texts above 4 KiB and all binary data are yielded
        as ranges of the file, unread.

    Raises:
        CheckpointError: unknown opcode, truncated stream, a length beyond the data, too many instructions.
        UnsafePickleError: an opcode that calls or imports by itself.
    """
    cursor = _Cursor(data, start)
    for _ in range(max_opcodes):
        code = cursor.take(1)
        if code in _REFUSED:
            raise UnsafePickleError(
                f"the pickle uses the opcode {_REFUSED[code]} at byte {cursor.position - 1}; network files "
                "do not need it, so the file is refused and nothing in it was run"
            )
        if code not in _OPCODES:
            raise CheckpointError(
                f"byte {cursor.position - 1} of the pickle is {code!r}, which is no instruction of a network "
                "file; the file is damaged or of another kind"
            )
        name, operand = _OPCODES[code]
        value = operand(cursor)
        if name == "FRAME":
            data.part(cursor.position, value)
        yield name, value, cursor.position
        if name == "STOP":
            return
    raise CheckpointError(f"the pickle has more than {max_opcodes} instructions, far beyond any network file")


def scan(data: ByteRange, rules: Rules, start: int = 0) -> int:
    """Check a whole stream without building anything.

    Args:
        data: where the stream lies.
        rules: the names it may use.
        start: first byte of the stream within `data`.

    Returns:
        Position behind the STOP instruction.

    Raises:
        UnsafePickleError: a name outside the allow-list, or one that is computed instead of written out.
        CheckpointError: see `instructions`; also a memo index larger than the number of instructions.
    """
    memo: dict[int, Any] = {}
    recent: list[Any] = [None, None]  # the texts of the last two pushes, None where one is no plain text
    end = start
    for count, (name, operand, position) in enumerate(instructions(data, start, rules.max_opcodes)):
        end = position
        if name == "TEXT":
            recent = [recent[1], operand]
        elif name == "GET":
            recent = [recent[1], memo.get(operand)]
        elif name in ("PUT", "MEMOIZE"):
            index = len(memo) if name == "MEMOIZE" else operand
            if index > count:
                raise CheckpointError(
                    f"the pickle writes memo slot {index} as instruction {count}; it is damaged or hostile"
                )
            memo[index] = recent[1]
        elif name not in ("PROTO", "FRAME"):
            if name in ("GLOBAL", "STACK_GLOBAL"):
                _check_name(tuple(operand or recent), rules)
            recent = [None, None]
    return end


def _check_name(name: tuple[Any, ...], rules: Rules) -> None:
    module, attribute = name
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise UnsafePickleError(
            "the pickle computes the name of a global instead of writing it out; refused, nothing was run"
        )
    if not rules.allows((module, attribute)):
        raise UnsafePickleError(
            f"the pickle asks for {module[:80]!r} {attribute[:80]!r}, which no network file needs; it is "
            "refused and nothing in it was run. If you trust its origin, convert it there to safetensors"
        )


class Machine:
    """Interprets one scanned stream; builds dicts, lists, tuples, sets, texts, numbers and stand-ins."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._calls = 0

    def run(self, data: ByteRange, start: int = 0) -> Any:
        """Return the stream's value; `scan` must have passed it."""
        for name, operand, _ in instructions(data, start, self._rules.max_opcodes):
            if name == "STOP":
                value = self._pop()
                if self._stack:
                    raise CheckpointError("the pickle leaves values behind; it is damaged or hostile")
                return value
            getattr(self, f"_{name.lower()}")(operand)
        raise AssertionError("instructions ends with STOP")

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise CheckpointError("the pickle takes a value from an empty stack; it is damaged or hostile")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        value = self._pop()
        self._stack.append(value)
        if type(value) is not kind:
            raise CheckpointError(
                f"the pickle adds items to {describe(value)} as if it were a {kind.__name__}"
            )
        return value

    def _items(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        items: list[Any] = []
        while self._stack:
            value = self._stack.pop()
            if value is _MARK:
                return items[::-1]
            items.append(value)
        raise CheckpointError("the pickle closes a group that it never opened; it is damaged or hostile")

    def _proto(self, version: int) -> None:
        if version > 5:
            raise CheckpointError(f"the pickle has protocol {version}; protocols 2 to 5 are known")

    def _frame(self, _: int) -> None:
        """Frames only tell how far to read ahead."""

    def _mark(self, _: None) -> None:
        self._stack.append(_MARK)

    def _none(self, _: None) -> None:
        self._stack.append(None)

    def _newtrue(self, _: None) -> None:
        self._stack.append(True)

    def _newfalse(self, _: None) -> None:
        self._stack.append(False)

    def _literal(self, value: Any) -> None:
        self._stack.append(value)

    _number = _text = _data = _literal

    def _empty_dict(self, _: None) -> None:
        self._stack.append({})

    def _empty_list(self, _: None) -> None:
        self._stack.append([])

    def _empty_tuple(self, _: None) -> None:
        self._stack.append(())

    def _empty_set(self, _: None) -> None:
        self._stack.append(set())

    def _tuple(self, _: None) -> None:
        self._stack.append(tuple(self._items()))

    def _tuple1(self, _: None) -> None:
        self._stack.append((self._pop(),))

    def _tuple2(self, _: None) -> None:
        second, first = self._pop(), self._pop()
        self._stack.append((first, second))

    def _tuple3(self, _: None) -> None:
        third, second, first = self._pop(), self._pop(), self._pop()
        self._stack.append((first, second, third))

    def _append(self, _: None) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _appends(self, _: None) -> None:
        items = self._items()
        self._top(list).extend(items)

    def _setitem(self, _: None) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict).update(pairs_of([key, value]))

    def _setitems(self, _: None) -> None:
        items = self._items()
        self._top(dict).update(pairs_of(items))

    def _additems(self, _: None) -> None:
        items = self._items()
        self._top(set).update(scalar(item) for item in items)

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise CheckpointError(f"the pickle reads memo slot {index}, which it never wrote")
        self._stack.append(self._memo[index])

    def _put(self, index: int) -> None:
        value = self._pop()
        self._stack.append(value)
        self._memo[index] = value

    def _memoize(self, _: None) -> None:
        self._put(len(self._memo))

    def _global(self, name: Name) -> None:
        _check_name(name, self._rules)
        self._stack.append(Global(*name))

    def _stack_global(self, _: None) -> None:
        attribute, module = self._pop(), self._pop()
        self._global((module, attribute))

    def _reduce(self, _: None) -> None:
        arguments, function = self._pop(), self._pop()
        self._stack.append(self._called(self._rules.calls, function, arguments))

    def _newobj(self, _: None) -> None:
        arguments, kind = self._pop(), self._pop()
        self._stack.append(self._called(self._rules.makes, kind, arguments))

    def _called(self, table: Mapping[Name, Callable[..., Any]], target: Any, arguments: Any) -> Any:
        if not isinstance(target, Global) or not isinstance(arguments, tuple):
            raise UnsafePickleError(f"the pickle calls {describe(target)}; refused, nothing was run")
        if (function := table.get((target.module, target.name))) is None:
            raise UnsafePickleError(
                f"the pickle calls {target.module} {target.name} in a way that no network file does; "
                "refused, nothing was run"
            )
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise CheckpointError(
                f"the pickle makes more than {MAX_CALLS} objects, far beyond any network file"
            )
        try:
            return function(*arguments)
        except TypeError as error:
            raise CheckpointError(
                f"{target.module} {target.name} has unusable arguments in the pickle ({error}); it is damaged"
            ) from error

    def _build(self, _: None) -> None:
        state = self._pop()
        target = self._pop()
        self._stack.append(target)
        if isinstance(target, Inert):
            target.build(state)
        elif not (type(target) is dict and isinstance(state, dict)):
            # ordered dicts carry attributes such as `_metadata`, which are of no use here and are dropped
            raise UnsafePickleError(
                f"the pickle sets attributes of {describe(target)}; refused, nothing was run"
            )

    def _binpersid(self, _: None) -> None:
        if self._rules.persistent is None:
            raise UnsafePickleError("the pickle refers to data outside of it, which only torch files may do")
        self._stack.append(self._rules.persistent(self._pop()))


def scalar(value: Any) -> Any:
    """Return a value that may serve as a key; raises CheckpointError for what is slow or endless to hash."""
    if value is None or type(value) in (str, bool) or (type(value) is int and abs(value) < MAX_KEY):
        return value
    raise CheckpointError(f"the pickle uses {describe(value)} as a key; allowed are texts and whole numbers")


def pairs_of(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Group a flat list into (key, value) pairs."""
    if len(items) % 2:
        raise CheckpointError("the pickle sets a key without a value; it is damaged")
    return ((scalar(key), value) for key, value in zip(items[::2], items[1::2], strict=True))


def load(data: ByteRange, rules: Rules, start: int = 0) -> tuple[Any, int]:
    """Scan a stream, then build its value.

    Returns:
        The value, and the position behind the stream.

    Raises:
        UnsafePickleError: it names or calls something outside `rules`.
        CheckpointError: it is damaged, truncated or too large.
    """
    end = scan(data, rules, start)
    return Machine(rules).run(data, start), end
