"""What a ComfyUI server's answers and events mean, read as typed values; nothing in them is believed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from ..json_values import Fields, JsonError, parse, told
from .transfer import ComfyError, plain

MAX_PROMPTS = 100_000
MAX_NODES = 10_000
MAX_FILES = 10_000
MAX_NAME = 255
MAX_SUBFOLDER = 1000
MAX_OBJECTIONS = 20
MAX_CURVES = 100
MAX_NOTES = 100
MAX_STEPS = 10**9


class AnswerError(ComfyError):
    """An answer is not what ComfyUI answers; the message says what was found."""


@dataclass(frozen=True)
class SavedFile:
    """A file that a prompt saved.

    Args:
        node: id of the node.
        kind: name under which the node reports it, such as "generators" or "images".
        filename: without a folder.
        subfolder: below the server's folder of that type.
        type: "output"; the server's other folders are "temp" and "input".
    """

    node: str
    kind: str
    filename: str
    subfolder: str = ""
    type: str = "output"


@dataclass(frozen=True)
class Report:
    """What a node of this pack says of its work beside its files.

    Args:
        node: id of the node.
        losses: last value of each curve.
        notes: sentences about what was assumed or changed.
        versions: of what its numbers depend on, by name.
    """

    node: str
    losses: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a prompt ended.

    Args:
        files: what it saved for good: files of type "output", such as generators and images.
        error: why it failed; None when it succeeded.
        interrupted: whether a user ended it.
        reports: of the nodes that say something.
        seconds: from its start to its end; None where the server does not say.
    """

    files: tuple[SavedFile, ...] = ()
    error: str | None = None
    interrupted: bool = False
    reports: tuple[Report, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class Choice:
    """What an input that is chosen from a list may be.

    Args:
        values: of the list.
        is_upload: files of a folder, of which the list has those that lie in no subfolder.
    """

    values: tuple[Any, ...]
    is_upload: bool = False

    def allows(self, value: Any) -> bool:
        """Tell whether the value is in the list, or may be although the list does not have it."""
        # Such as "folder/a.png" and "a.png [output]".
        elsewhere = isinstance(value, str) and ("/" in value or value.endswith("]"))
        return value in self.values or (self.is_upload and elsewhere)


@dataclass(frozen=True)
class Event:
    """Something that happened to a prompt.

    Args:
        kind: "start", "cached", "progress", "losses" or "end".
        prompt_id: of the prompt.
        nodes: ids of the nodes that came from the cache, or of the one that progresses.
        done: steps done, for "progress".
        total: steps in all.
        losses: last value of each curve, for "losses".
    """

    kind: str
    prompt_id: str
    nodes: tuple[str, ...] = ()
    done: int = 0
    total: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except JsonError as error:
        raise AnswerError(f"the server's answer about {what} is not ComfyUI's: {plain(error)}") from None


def _fields(text: bytes | str, what: str) -> Fields:
    """ComfyUI writes numbers that are not finite, such as a node's `is_changed`; they count as nothing."""
    return Fields(parse(text, what, finite=False), what)


def versions(text: bytes) -> dict[str, str]:
    """Read versions of ComfyUI ("unknown" where it does not say), torch and Python from /system_stats."""
    with _reading("itself"):
        system = _fields(text, "/system_stats").object("system")
        found = {"comfyui": system.text("comfyui_version", "unknown")}
        found |= {"torch": system.text("pytorch_version", ""), "python": system.text("python_version", "")}
    return {name: plain(value.split(" ")[0], 40) for name, value in found.items() if value}


def choices(text: bytes, class_type: str) -> dict[str, Choice] | None:
    """Read the inputs of a node type that are chosen from a list, from what /object_info/TYPE answers.

    Returns:
        By input; None where the server has no such node type.
    """
    with _reading(f"the node type {class_type}"):
        values = _fields(text, "/object_info")
        if class_type not in values:
            return None
        inputs, found = values.object(class_type).object("input"), dict[str, Choice]()
        for group in ("required", "optional"):
            specs = inputs.object(group) if group in inputs else Fields({}, group)
            for name in specs.names():
                choice = _choice(specs.value(name))
                if choice is not None:
                    found[name] = choice
    return found


def _choice(spec: Any) -> Choice | None:
    """The list in an input's description: [[VALUE, ...], {}], or [KIND, {"options": [VALUE, ...]}].

    Where a choice brings inputs of its own, its value is {"key": VALUE}.
    """
    kind, more = (*spec, None, None)[:2] if isinstance(spec, list) else (None, None)
    settings = more if isinstance(more, dict) else {}
    listed = kind if isinstance(kind, list) else settings.get("options")
    if not isinstance(listed, list):
        return None  # a number, a text, a link, or a list that the page fetches from elsewhere
    values = [one.get("key") if isinstance(one, dict) else one for one in listed]
    plain_ones = tuple(one for one in values if isinstance(one, str | int | float))
    return Choice(plain_ones, bool(settings.get("image_upload")))


def queued(text: bytes) -> dict[str, bool]:
    """Ids of the prompts that wait (False) or run (True), from what /queue answers."""
    with _reading("its queue"):
        values = _fields(text, "/queue")
        waiting, running = ([_prompt_id(item, name) for item in values.items(name, MAX_PROMPTS)]
                            for name in ("queue_pending", "queue_running"))  # fmt: skip
    return dict.fromkeys(waiting, False) | dict.fromkeys(running, True)


def _prompt_id(item: Any, where: str) -> str:
    if not isinstance(item, list) or len(item) < 2 or not isinstance(item[1], str):
        raise JsonError(f"{where} must hold lists with a number and a prompt's id, found {told(item)}")
    return item[1]


def outcome(text: bytes, prompt_id: str) -> Outcome | None:
    """Read how a prompt ended, from what /history/ID answers; None when it has not ended."""
    with _reading("a prompt that ended"):
        values = _fields(text, "/history")
        if prompt_id not in values:
            return None
        record = values.object(prompt_id)
        error, interrupted = _failure(record)
        seconds = _seconds(record)
        if error is not None:
            return Outcome((), error, interrupted, seconds=seconds)
        files, reports = tuple(dict.fromkeys(_saved_files(record))), tuple(_reports(record))
        return Outcome(files, reports=reports, seconds=seconds)


def _failure(record: Fields) -> tuple[str | None, bool]:
    """Why a prompt failed, None when it succeeded, and whether a user interrupted it."""
    status = record.object("status") if "status" in record else Fields({}, "status")
    if status.value("status_str", None) == "success":
        return None, False
    for message in reversed(status.items("messages", MAX_NODES, [])):
        if not isinstance(message, list) or len(message) != 2 or not isinstance(message[1], dict):
            continue  # name and values; others say nothing
        name, values = message
        where = f"node {plain(values.get('node_id'), 40)} ({plain(values.get('node_type'), 80)})"
        if name == "execution_interrupted":
            return f"interrupted in {where}", True
        if name == "execution_error":
            reason = plain(values.get("exception_message", ""))
            return f"{where}: {plain(values.get('exception_type'), 80)}: {reason}", False
    return "it did not finish and the server does not say why", False


def _seconds(record: Fields) -> float | None:
    """Time between the first and the last thing that a prompt's messages tell; they count milliseconds."""
    status = record.object("status") if "status" in record else Fields({}, "status")
    pairs = [one for one in status.items("messages", MAX_NODES, []) if isinstance(one, list)]
    said = [one[1] for one in pairs if len(one) == 2 and isinstance(one[1], dict)]
    times = [values.get("timestamp") for values in said]
    known = [time for time in times if type(time) is int and 0 < time < 2**53]
    return round((max(known) - min(known)) / 1000, 1) if len(known) > 1 else None


def _reports(record: Fields) -> Iterator[Report]:
    """What nodes say beside their files; other packs may use the same names for something else."""
    outputs = record.object("outputs", {})
    for node in outputs.names():
        output = outputs.object(node)
        curves, known, notes = (output.value(name, None) for name in ("losses", "versions", "notes"))
        texts = [plain(one) for one in notes if isinstance(one, str)] if isinstance(notes, list) else []
        report = Report(node, _last_values(_first(curves)), tuple(texts[:MAX_NOTES]), _texts(_first(known)))
        if report != Report(node):
            yield report


def _first(values: Any) -> Any:
    """First of a list, which is how ComfyUI hands a node's values on; None where there is none."""
    return values[0] if isinstance(values, list) and values else None


def _texts(values: Any) -> dict[str, str]:
    """The texts of an object, each cut to a line; what is none is left out."""
    pairs = list(values.items())[:MAX_NOTES] if isinstance(values, dict) else []
    return {plain(name, 40): plain(value, 40) for name, value in pairs if isinstance(value, str)}


def _saved_files(record: Fields) -> Iterator[SavedFile]:
    outputs, count = record.object("outputs", {}), 0
    for node in outputs.names():
        output = outputs.object(node)
        for kind in output.names():
            items = output.value(kind)
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and item.get("type") == "output":
                    count += 1
                    if count > MAX_FILES:
                        raise JsonError(f"a prompt saved more than {MAX_FILES} files")
                    yield _saved_file(node, kind, Fields(item, f"a file of node {plain(node, 40)}"))


def _saved_file(node: str, kind: str, values: Fields) -> SavedFile:
    name, subfolder = values.text("filename"), values.text("subfolder", "")
    if not name or len(name) > MAX_NAME or set(name) & {"/", "\\", "\0"} or name in (".", ".."):
        raise JsonError(f"{values.what} has the name {told(name)}, which is no plain file name")
    parts = (*PurePosixPath(subfolder).parts, *PureWindowsPath(subfolder).parts)
    rooted = PurePosixPath(subfolder).is_absolute() or PureWindowsPath(subfolder).anchor
    if len(subfolder) > MAX_SUBFOLDER or ".." in parts or rooted or "\0" in subfolder:
        raise JsonError(f"{values.what} has the subfolder {told(subfolder)}, which leads out of its folder")
    if len(node) > MAX_NAME or len(kind) > MAX_NAME or not (node + kind).isprintable():
        raise JsonError(f"{values.what} has an id or a kind that ComfyUI does not write, {told(node + kind)}")
    return SavedFile(node, kind, name, subfolder)


def objections(text: bytes) -> list[str]:
    """What the server objects to although it runs the rest, from what /prompt answers: a line per input."""
    with _reading("a workflow that was sent"):
        return _node_errors(_fields(text, "/prompt"))


def _node_errors(values: Fields) -> list[str]:
    """Lines about inputs; ComfyUI gives an empty list or object where there are none."""
    found: list[str] = []
    if not values.value("node_errors", None):
        return found
    errors = values.object("node_errors")
    for node in errors.names():
        one = errors.object(node)
        name = f"node {plain(node, 40)} ({plain(one.value('class_type', '?'), 80)})"
        for error in one.objects("errors", MAX_NODES):
            told_of = f"{plain(error.value('message', ''))}: {plain(error.value('details', ''))}"
            found.append(f"{name}: {told_of}")
    more = len(found) - MAX_OBJECTIONS
    return found if more <= 0 else [*found[:MAX_OBJECTIONS], f"and {more} more"]


def uploaded(text: bytes) -> str:
    """What `LoadImage` takes as `image`, from what /upload/image answers."""
    with _reading("a picture that was sent"):
        values = _fields(text, "/upload/image")
        name, subfolder = values.text("name"), values.text("subfolder", "")
        if not name or len(name) > MAX_NAME or len(subfolder) > MAX_SUBFOLDER:
            raise JsonError(f"/upload/image names the picture {told(name)} in {told(subfolder)}")
    return f"{subfolder}/{name}" if subfolder else name


def refusal(body: bytes) -> str:
    """What an error answer says where it is ComfyUI's, else nothing."""
    try:
        values = _fields(body, "an error")
        lines = _node_errors(values)
        top = values.object("error")
        said = f"{plain(top.text('message'))} {plain(top.value('details', ''))}".strip()
    except JsonError:
        return ""
    return "; ".join(lines) or said


def event(text: str) -> Event | None:
    """Read an event of the websocket; None for what is no event, damaged, or of no interest here."""
    try:
        values = _fields(text, "an event")
        kind, data = values.text("type"), values.object("data")
        reader = _EVENTS.get(kind)
        return None if reader is None else reader(data, data.text("prompt_id"))
    except JsonError:
        return None


def _cached(data: Fields, prompt_id: str) -> Event:
    return Event("cached", prompt_id, tuple(data.texts("nodes", MAX_NODES)))


def _executing(data: Fields, prompt_id: str) -> Event | None:
    return None if data.value("node") is not None else Event("end", prompt_id)


def _progress(data: Fields, prompt_id: str) -> Event:
    done, total = (int(data.number(name, 0, MAX_STEPS)) for name in ("value", "max"))
    return Event("progress", prompt_id, (data.text("node"),), min(done, total), total)


def _losses(data: Fields, prompt_id: str) -> Event:
    data.object("points")
    return Event("losses", prompt_id, losses=_last_values(data.value("points")))


def _last_values(curves: Any) -> dict[str, float]:
    """Last value of each curve {name: [[step, value], ...]}; what is no such curve is left out."""
    last: dict[str, float] = {}
    for name, pairs in list(curves.items())[:MAX_CURVES] if isinstance(curves, dict) else ():
        pair = pairs[-1] if isinstance(pairs, list) and pairs else None
        if isinstance(pair, list) and len(pair) == 2 and type(pair[1]) in (int, float):
            if re.fullmatch(r"\w{1,40}", name) and abs(pair[1]) < 1e30:
                last[name] = float(pair[1])
    return last


_EVENTS: dict[str, Callable[[Fields, str], Event | None]] = {
    "execution_start": lambda _, prompt_id: Event("start", prompt_id),
    "execution_cached": _cached,
    "progress": _progress,
    "oneshot.loss": _losses,
    "executing": _executing,
}
