"""States of computations and records about them, checked when they are read; what is damaged is set aside.

A state is a file of tensors with its step, its settings and one curve per logged name; beside it lies the
state before it, from which a computation goes on when the newest is damaged. A record is a JSON file with a
checksum.
"""

from __future__ import annotations

import json
import logging
import math
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from .checkpoints import CheckpointError, read_tensors, write_tensors
from .json_values import Fields, JsonError, read, told
from .writing import atomic_path, remove_stale_temporaries, set_aside

log = logging.getLogger(__name__)

Made = TypeVar("Made", covariant=True)

HISTORY = "history."
MAX_CURVES = 1000
SAVE_SECONDS = 30.0  # between two saved states of work that is followed here
CHECKSUM = "checksum"


class StateError(CheckpointError):
    """A saved state that cannot go on: damaged, no saved state at all, or one with other settings."""


class DamagedState(StateError):
    """A saved state whose content is not what was written, or does not fit together."""


@dataclass(frozen=True)
class SavedState:
    """What a computation needs to go on.

    Args:
        step: steps done.
        settings: JSON values of everything that determines the result.
        tensors: by name, all of finite numbers.
        history: per logged name the value of each step, in the order in which the names came up.
    """

    step: int
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    history: Mapping[str, list[float]]


@dataclass(frozen=True)
class StateFile:
    """A state on disk and the one before it.

    Args:
        path: of the newest state.
        format: what kind of state it is, such as "oneshot-run".
        version: of that format.
        what: how users call it, for messages.
    """

    path: Path
    format: str
    version: int
    what: str

    @property
    def previous(self) -> Path:
        """Where the state before the newest lies."""
        return self.path.with_name(f"{self.path.stem}.previous{self.path.suffix}")

    @property
    def exists(self) -> bool:
        """Whether there is a state to go on from, sound or not."""
        return self.path.is_file() or self.previous.is_file()

    def size(self) -> int:
        """Bytes of the state and the one before it."""
        return sum(path.stat().st_size for path in (self.path, self.previous) if path.is_file())

    def save(self, state: SavedState) -> None:
        """Write a state; the newest so far is kept beside it.

        Raises:
            WriteError: the disk refuses; the newest so far is left alone.
        """
        curves = {
            f"{HISTORY}{name}": torch.tensor(v, dtype=torch.float64) for name, v in state.history.items()
        }
        header = {
            "format": self.format,
            "format_version": self.version,
            "step": state.step,
            "settings": state.settings,
            "history": list(state.history),
        }
        if self.path.is_file():  # so that never more than two are on the disk
            self.previous.unlink(missing_ok=True)
        write_tensors(self.path, {**state.tensors, **curves}, header, keep=self.previous)

    def load(self, restore: Callable[[Path], None]) -> bool:
        """Go on from the newest sound state; damaged ones are set aside with a note in the log.

        Args:
            restore: reads a file and raises DamagedState, without having changed anything, when it is bad.

        Returns:
            Whether there was one; if not, the computation starts anew.
        """
        damaged = False
        for path in (self.path, self.previous):
            if path.is_file():
                try:
                    restore(path)
                    return True
                except DamagedState as error:
                    set_aside(path, error)
                    damaged = True
        if damaged:
            log.warning("no sound state is left in %s; its computation starts anew", self.path.parent)
        return False

    def forget_previous(self) -> None:
        """Remove the state before the newest: the computation has come to its end."""
        if self.path.is_file():
            self.previous.unlink(missing_ok=True)

    def forget_damaged(self) -> None:
        """Remove states that were set aside."""
        for path in self.path.parent.glob(f"{self.path.stem}*.damaged*"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all states, those that were set aside too."""
        for path in self.path.parent.glob(f"{self.path.stem}*{self.path.suffix}"):
            if path.name in (self.path.name, self.previous.name) or ".damaged" in path.name:
                path.unlink(missing_ok=True)

    def read(
        self,
        path: Path,
        settings: Mapping[str, Any],
        required: Mapping[str, Tensor] | Callable[[int], Mapping[str, Tensor]],
        groups: Iterable[Mapping[str, Tensor]] = (),
        allow_nan: bool = False,
    ) -> SavedState:
        """Read a state and check that all of it fits together.

        Args:
            path: of the newest state or the one before it.
            settings: of the computation that wants to go on.
            required: tensors that must be there, in shape and type; or a function of the steps done, where
                their shape depends on it.
            groups: tensors that are there together or not at all, such as the moments of one parameter.
            allow_nan: whether curves have NaN where a step does not compute a value.

        Raises:
            DamagedState: the file is damaged, or its parts do not fit together.
            StateError: it is another kind of file or version, or has other settings; the message names the
                first that differ.
        """
        try:
            tensors, header = read_tensors(path)
        except CheckpointError as error:
            raise DamagedState(str(error)) from error
        found = (header.get("format"), header.get("format_version"))
        if found != (self.format, self.version):
            raise StateError(
                f"{path} is not {self.what} of version {self.version} (found {told(found[0])}, version "
                f"{told(found[1])}); remove it, or use another folder"
            )
        try:
            fields = Fields(header, "the header")
            fields.object("settings")
            differing = differences(header["settings"], dict(settings))
            step = fields.whole("step", 0)
            names = fields.texts("history", MAX_CURVES)
        except JsonError as error:
            raise DamagedState(f"{path}: {error}") from error
        if differing:
            raise StateError(
                f"{path} belongs to {self.what} with other settings ({', '.join(differing[:4])} differ); "
                "use the same settings, or another folder"
            )
        curves = {name: tensors.pop(f"{HISTORY}{name}", None) for name in names}
        wanted = required(step) if callable(required) else required
        reason = _wrong_curves(curves, step, allow_nan) or _wrong_tensors(tensors, wanted, groups)
        if reason:
            raise DamagedState(f"{path}: {reason}")
        history = {name: curve.tolist() for name, curve in curves.items() if curve is not None}
        return SavedState(step, settings, tensors, history)


class Resumable(Protocol[Made]):
    """Steps that can be saved after each of them, and gone on with."""

    def run(self, callbacks: Sequence[Callable[[Any], None]]) -> Made:
        """Do the steps that are left; callbacks are called after each."""

    def save(self, states: StateFile) -> None:
        """Write the state; nothing amid a step."""

    def restore(self, states: StateFile, path: Path) -> None:
        """Go on from a file; one that raises DamagedState has changed nothing."""


def run_saved(
    work: Resumable[Made],
    states: StateFile | None,
    callbacks: Sequence[Callable[[Any], None]],
) -> Made:
    """Do steps, from the state that is there on, and save from time to time and at any end.

    Args:
        work: the steps.
        states: where; None: nothing is written.
        callbacks: called after every step; one that raises ends the work.
    """
    if states is None:
        return work.run(callbacks)
    remove_stale_temporaries(states.path.parent)
    states.load(lambda path: work.restore(states, path))
    saved = time.monotonic()

    def save(_: Any) -> None:
        nonlocal saved
        if time.monotonic() - saved > SAVE_SECONDS:
            work.save(states)
            saved = time.monotonic()

    try:
        # It comes last: a step is saved when everybody has been told of it.
        return work.run([*callbacks, save])
    finally:
        work.save(states)


def _wrong_curves(curves: Mapping[str, Tensor | None], step: int, allow_nan: bool) -> str | None:
    """Say what is wrong with the curves of a state, None where all is well."""
    for name, curve in curves.items():
        if curve is None or curve.dtype != torch.float64 or curve.shape != (step,):
            length = "none" if curve is None else f"shape {list(curve.shape)}"
            return f"it has done {step} steps, but the curve of {name!r} has {length}"
        if bool(torch.isinf(curve).any()) or (not allow_nan and bool(torch.isnan(curve).any())):
            return f"the curve of {name!r} is not finite"
    if step and not curves:
        return f"it has done {step} steps, but it has no curves"
    return None


def _wrong_tensors(
    tensors: Mapping[str, Tensor], required: Mapping[str, Tensor], groups: Iterable[Mapping[str, Tensor]]
) -> str | None:
    """Say what is wrong with the tensors of a state, None where all is well."""
    wanted = dict(required)
    for group in groups:
        if any(name in tensors for name in group):
            wanted |= group
    missing, strange = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or strange:
        return f"{missing[0][:80]!r} is missing" if missing else f"{strange[0][:80]!r} does not belong there"
    for name, like in wanted.items():
        value = tensors[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            return (
                f"{name} has shape {list(value.shape)} and type {value.dtype}, wanted {list(like.shape)} and "
                f"{like.dtype}"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return f"{name} is not made of finite numbers"
    return None


def differences(saved: Any, wanted: Any, path: str = "") -> list[str]:
    """Name the settings in which two JSON values differ, as dotted paths."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        found: list[str] = []
        for key in sorted(set(saved) | set(wanted)):
            found += differences(saved.get(key), wanted.get(key), f"{path}.{key}" if path else key)
        return found
    return [] if saved == wanted else [path]


# Records ----------------------------------------------------------------------------------------------


class ForeignRecord(JsonError):
    """A JSON file of another kind or version than the one that is wanted."""


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file with a checksum; atomic.

    Args:
        path: final name.
        values: JSON values with `format` and `format_version`.
    """
    with atomic_path(path) as temporary:
        text = json.dumps({**values, CHECKSUM: _sum(values)}, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_record(path: Path, format: str, version: int) -> Fields:
    """Read a file of `write_record`.

    Raises:
        ForeignRecord: its format or version is another one.
        JsonError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        values = read(path)
        fields = Fields(values, str(path))
    except JsonError as error:
        if _is_ours(path, format):
            raise
        raise ForeignRecord(str(error)) from error
    found = (fields.value("format", None), fields.value("format_version", None))
    if found != (format, version):
        raise ForeignRecord(
            f"{path}: has the format {told(found[0])}, version {told(found[1])}; wanted {format!r} {version}"
        )
    rest = {name: value for name, value in values.items() if name != CHECKSUM}
    if fields.text(CHECKSUM) != _sum(rest):
        raise JsonError(f"{path}: is damaged, or another program changed it (its checksum does not fit)")
    return fields


def _is_ours(path: Path, format: str) -> bool:
    """Whether a file that is no JSON is what is left of a record: it names the format, or is blank."""
    with open(path, "rb") as file:
        start = file.read(4096)
    return format.encode() in start or not start.strip(b"\0 \r\n\t")


def _sum(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{zlib.crc32(text.encode()):08x}"


def finite(values: Iterable[float]) -> list[float | None]:
    """Replace what JSON does not know, NaN and infinity, by None."""
    return [value if math.isfinite(value) else None for value in values]


def curves_of(fields: Fields, length: int | None = None) -> dict[str, list[float]]:
    """Read loss curves, an object of lists of numbers, with NaN where there is null.

    Args:
        fields: the object.
        length: that all have; None: any.

    Raises:
        JsonError: not such an object.
    """
    curves = {}
    for name in fields.names():
        values = fields.items(name, 10_000_000)
        bad = [
            value
            for value in values
            if value is not None and type(value) is not float and not _is_small(value)
        ]
        if bad or length not in (None, len(values)):
            reason = f"holds {told(bad[0])}" if bad else f"has {len(values)} values, wanted {length}"
            raise JsonError(f"{fields.what}: {told(name)} {reason}; it must be a list of numbers")
        curves[name] = [math.nan if v is None else float(v) for v in values]
    return curves


def _is_small(value: Any) -> bool:
    """Whether a JSON value is a whole number that a float holds."""
    return type(value) is int and abs(value) < 2**53
