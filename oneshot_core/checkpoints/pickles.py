"""An own, inert pickle machine: a scanner and an interpreter that can build data and nothing else.

No class is imported and no foreign function is called. A global name in the stream is looked up in an exact
allow-list of (module, name) pairs; what stands there is a function of this package. The stream is scanned
once from end to end before anything is built, so a refused name far behind in a large file costs nothing.

Source: opcode semantics of Python's documented pickle protocols 2 to 5 (pickletools); attack list in
checkpoints.md F.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .opcodes import MAX_OPCODES, NAMES, Instruction, instructions
from .stored import ByteRange, CheckpointError, UnsafePickleError, describe

_PYTHONS_OWN = sys.stdlib_module_names | {"__builtin__", "commands", "copy_reg", "exceptions", "os2emxpath"}
MAX_CALLS = 50_000  # one per tensor, array or ordered dict; the same files have about 6,000
MAX_KEY = 2**63  # old optimiser states are keyed by memory addresses
_MARK = object()
Name = tuple[str, str]


@dataclass(frozen=True)
class Global:
    """A name in the stream; a token without any behaviour."""

    module: str
    name: str

    @property
    def described(self) -> str:
        """What it is, in a user's words."""
        return f"the name {self.module[:80]} {self.name[:80]}"


class Inert:
    """Base of the stand-ins that may receive a state by the BUILD opcode."""

    described = "an object"  # in a user's words
    takes_items = False  # whether items may be added to it as to a dict or a list; they are dropped

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
    foreign: Callable[[str], Inert] | None = None  # NEWOBJ without arguments of a class outside the list
    max_opcodes: int = MAX_OPCODES

    def allows(self, name: Name) -> bool:
        """Whether the pair is on the list."""
        return name in self.calls or name in self.makes or name in self.tokens

    def is_foreign(self, name: Name) -> bool:
        """Whether the pair is outside the list and may be the class of an empty object.

        Never one of Python's own modules: no network keeps objects of them, hostile files name them.
        """
        if self.foreign is None or self.allows(name):
            return False
        module, attribute = name
        parts = module.split(".")
        return parts[0] not in _PYTHONS_OWN and all(part.isidentifier() for part in (*parts, attribute))


def scan(data: ByteRange, rules: Rules, start: int = 0) -> list[Instruction]:
    """Check a whole stream without building anything.

    Args:
        data: where the stream lies.
        rules: the names it may use.
        start: first byte of the stream within `data`.

    Returns:
        Its instructions; the operand of the last one is the position behind the stream.

    Raises:
        UnsafePickleError: a name outside the allow-list, or one that is computed instead of written out.
        CheckpointError: see `instructions`; also a memo index larger than the number of instructions.
    """
    program: list[Instruction] = []
    memo: dict[int, Any] = {}
    recent: list[Any] = [None, None]  # the last two pushes: a text, a foreign name, None for all else
    use = _ForeignUse()
    nothing = recent
    for instruction in instructions(data, start, rules.max_opcodes):
        name, operand = instruction
        if use.name is not None:
            use.follow(name)
        if name == "TEXT":
            recent = [recent[1], operand]
        elif name == "GET":
            recent = [recent[1], memo.get(operand)]
            use.begin(recent)
        elif name in ("PUT", "MEMOIZE"):
            index = len(memo) if name == "MEMOIZE" else operand
            if index > len(program):
                raise CheckpointError(
                    f"the pickle writes memo slot {index} as instruction {len(program)}; it is damaged or "
                    "hostile"
                )
            memo[index] = recent[1]
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            recent = [recent[1], _checked_name(tuple(operand or recent), rules)]
            use.begin(recent)
        elif name not in ("PROTO", "FRAME"):
            recent = nothing
        program.append(instruction)
    return program


_AS_CLASS = ("EMPTY_TUPLE", "NEWOBJ")
_AS_MODULE = ("SOURCE", "SOURCE", "TUPLE", "BINPERSID", *_AS_CLASS)  # ("module", class, file, source)


class _ForeignUse:
    """Follows a name from outside the list: all it may do is to make an empty object, which stays data.

    It must stand right before `()` and NEWOBJ; in the older torch container the first use of a module's class
    is wrapped into a reference that also names its source. Called, kept or passed on it is refused.
    """

    def __init__(self) -> None:
        self.name: Global | None = None  # whose use is not complete yet
        self._ways: list[tuple[str, ...]] = []

    def begin(self, recent: list[Any]) -> None:
        """Look at the last two pushes: a name from outside the list must be used by the next instructions."""
        if isinstance(recent[1], Global):
            self.name = recent[1]
            self._ways = [_AS_CLASS, _AS_MODULE] if recent[0] == "module" else [_AS_CLASS]

    def follow(self, instruction: str) -> None:
        """Refuse the name if the instruction is not the expected one."""
        if self.name is None or instruction in ("PUT", "MEMOIZE", "FRAME"):
            return
        step = "SOURCE" if instruction in ("NONE", "TEXT", "GET") else instruction
        self._ways = [way[1:] for way in self._ways if way[0] == step]
        if not self._ways:
            raise _refused(self.name)
        if not all(self._ways):
            self.name = None


def _refused(name: Global) -> UnsafePickleError:
    return UnsafePickleError(
        f"the pickle asks for {name.module[:80]!r} {name.name[:80]!r}, which no network file needs; it is "
        "refused and nothing in it was run. If you trust where it comes from, save the state_dict of the "
        "generator there and load that"
    )


def _checked_name(name: tuple[Any, ...], rules: Rules) -> Global | None:
    """Return a name from outside the list that may stand for a class, None for one on the list."""
    module, attribute = name
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise UnsafePickleError(
            "the pickle computes the name of a global instead of writing it out; refused, nothing was run"
        )
    if rules.allows((module, attribute)):
        return None
    if not rules.is_foreign((module, attribute)):
        raise _refused(Global(module, attribute))
    return Global(module, attribute)


class Machine:
    """Interprets one scanned stream; builds dicts, lists, tuples, sets, texts, numbers and stand-ins."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._calls = 0

    def run(self, program: list[Instruction]) -> Any:
        """Return the value of a stream that `scan` has passed."""
        handlers = {name: getattr(self, f"_{name.lower()}") for name in NAMES}
        for name, operand in program[:-1]:
            handlers[name](operand)
        value = self._pop()
        if self._stack:
            raise CheckpointError("the pickle leaves values behind; it is damaged or hostile")
        return value

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise CheckpointError("the pickle takes a value from an empty stack; it is damaged or hostile")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        value = self._pop()
        self._stack.append(value)
        if isinstance(value, Inert) and value.takes_items:
            return kind()
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
        _checked_name(name, self._rules)
        self._stack.append(Global(*name))

    def _stack_global(self, _: None) -> None:
        attribute, module = self._pop(), self._pop()
        self._global((module, attribute))

    def _reduce(self, _: None) -> None:
        arguments, function = self._pop(), self._pop()
        self._stack.append(self._called(self._rules.calls, function, arguments))

    def _newobj(self, _: None) -> None:
        arguments, kind = self._pop(), self._pop()
        if isinstance(kind, Global) and self._rules.is_foreign((kind.module, kind.name)):
            if type(arguments) is not tuple or arguments:
                raise _refused(kind)
            self._count_object()
            assert self._rules.foreign is not None
            self._stack.append(self._rules.foreign(f"{kind.module}.{kind.name}"))
        else:
            self._stack.append(self._called(self._rules.makes, kind, arguments))

    def _count_object(self) -> None:
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise CheckpointError(
                f"the pickle makes more than {MAX_CALLS} objects, far beyond any network file"
            )

    def _called(self, table: Mapping[Name, Callable[..., Any]], target: Any, arguments: Any) -> Any:
        if not isinstance(target, Global) or not isinstance(arguments, tuple):
            raise UnsafePickleError(f"the pickle calls {describe(target)}; refused, nothing was run")
        if (function := table.get((target.module, target.name))) is None:
            raise UnsafePickleError(
                f"the pickle calls {target.module[:80]} {target.name[:80]} in a way that no network file "
                "does; refused, nothing was run"
            )
        self._count_object()
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
    program = scan(data, rules, start)
    return Machine(rules).run(program), program[-1][1]
