"""The manifest of a batch: what became of every job, a line for each event, so that it only ever grows.

The first line says what the file is, each further one is a job's whole entry at that moment; of several lines
about one job the last counts. A line ends in its own checksum: what a crash left half-written, or somebody
changed, counts for nothing, and the job runs again. In memory there is of every job its name and where its
last line begins; the line is read when the job is asked for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from ..digests import file_sha256
from ..json_values import Fields, JsonError, parse, told
from ..writing import MARK, atomic_path, claim, explained, set_aside
from .names import same

log = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "oneshot-batch-manifest", 3
FILE_NAME = "manifest.jsonl"
SNAPSHOT_FOLDER = "snapshots"  # a kind of what was made, which people remove to free space
IN_USE = f".batch{MARK}"
PICTURES = "pictures"  # folder of the results' pictures, beside those of the jobs
OPEN, DONE, FAILED, CANCELLED = "open", "done", "failed", "cancelled"
STATUSES = (OPEN, DONE, FAILED, CANCELLED)
MAX_FILES = 10_000
MAX_LINE_BYTES = 16 * 1024**2
BLOCK_BYTES = 1 << 20  # of several entries that are written at once
_SHA256 = re.compile("[0-9a-f]{64}")
# How every line of an entry begins, so that what is known of a million jobs is read without parsing them.
_START = re.compile(rb'\{"job":"((?:[^"\\]|\\.)*)","status":"(\w+)","key":"')
_PICTURE = re.compile(rb'"path":("%s/(?:[^"\\]|\\.)*")' % PICTURES.encode())
_PLAIN = re.compile(r"\w[\w .+-]*(?:/\w[\w .+-]*)*")  # a path that leads nowhere else, as nearly all are
_SUM = b',"checksum":"00000000"}'
# An absolute path in a sentence: its folders, up to the name that is kept.
_PLACE = re.compile(
    r"""(?<![^\s'":;,(<|=\[])(?:[A-Za-z]:|\\\\)?[\\/](?:[^\\/\s'":;,()<>|]+[\\/])+(?=[^\\/\s'":;,()<>|])"""
)


class ManifestError(ValueError):
    """The folder cannot be used for a batch; the message says what to do."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a batch's folder against other batches.

    Raises:
        ManifestError: another process runs a batch there.
    """
    own = claim(folder / IN_USE)
    if own is None:
        raise ManifestError(
            f"another process runs a batch in {folder}; wait until it has ended, or choose another --out"
        )
    try:
        yield
    finally:
        own.release()


class Manifest:
    """What became of every job, in `<folder>/manifest.jsonl`; threads may share it.

    Args:
        folder: of the batch's results; an earlier manifest in it is read.
        plan: name of the plan, kept for the reader.
        fresh: forget the earlier manifest.

    Raises:
        ManifestError: the folder holds a manifest.jsonl that this program, or this version, did not write.
    """

    def __init__(self, folder: Path, plan: str, fresh: bool = False) -> None:
        self.folder, self.path = folder, folder / FILE_NAME
        self._plan = plan
        self._lines: dict[str, int] = {}  # by job: where its line begins, times four, and its status
        self._pictures: dict[int, int] = {}  # by name that is taken: whose; both as short hashes
        self._is_new, self._is_torn = True, False
        self._lock = threading.RLock()
        if self.path.exists() and not fresh:
            self._index()

    def _index(self) -> None:
        """Note where every job's last line is; lines that are damaged are left out."""
        with open(self.path, "rb") as file:
            reason = self._wrong_head(file)
            if not reason:
                damaged = self._index_lines(file)
        if reason:
            set_aside(self.path, reason)
            return
        self._is_new = False
        if damaged:
            log.warning("%s: %d lines are damaged; their jobs count as not done", self.path, damaged)

    def _wrong_head(self, file: BinaryIO) -> str:
        """Say what is damaged in the first line; empty where it is sound.

        Raises:
            ManifestError: it is another program's, or another version's.
        """
        line = file.readline(MAX_LINE_BYTES)
        body = _sound(line)
        if body is None and (FORMAT.encode() in line or not line.strip(b"\0 \r\n\t")):
            return "its first line is damaged"
        try:
            head = Fields(parse(line, FILE_NAME), FILE_NAME)
            found = (head.value("format", None), head.value("format_version", None))
        except JsonError:
            found = (None, None)
        if found != (FORMAT, FORMAT_VERSION):
            raise ManifestError(
                f"{self.path} has the format {told(found[0])}, version {told(found[1])}, wanted {FORMAT} "
                f"{FORMAT_VERSION}; it is no manifest of this program's version: choose another --out, or "
                "add --fresh to replace it"
            )
        return ""

    def _index_lines(self, file: BinaryIO) -> int:
        """Take in the lines from here on; returns how many are damaged."""
        damaged, place, line = 0, file.tell(), b""
        for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
            start = None if _sound(line) is None else _START.match(line)
            name = None if start is None else _text(b'"%s"' % start[1])
            status = "" if start is None else start[2].decode("ascii", "replace")
            if name is None or status not in STATUSES:
                damaged += 1
            else:
                self._note(name, place, status, (_text(one) for one in _PICTURE.findall(line)))
            place += len(line)
        self._is_torn = bool(line) and not line.endswith(b"\n")
        return damaged

    def _note(self, name: str, place: int, status: str, pictures: Iterable[str | None]) -> None:
        self._lines[name] = place * 4 + STATUSES.index(status)
        for path in pictures:
            if path is not None:
                self._pictures[_short(same(path))] = _short(name)

    def last(self, name: str) -> dict[str, Any]:
        """Return what is known of a job, whatever its settings were; empty when nothing, or when damaged."""
        with self._lock:
            found = self._lines.get(name)
        if found is None:
            return {}
        try:
            with open(self.path, "rb") as file:
                file.seek(found // 4)
                line = file.readline(MAX_LINE_BYTES)
            if _sound(line) is None:
                raise JsonError("its line is damaged")
            return _entry(Fields(parse(line, f"{FILE_NAME}: {name}"), f"{FILE_NAME}: {name}"))
        except (JsonError, OSError) as error:
            log.warning(
                "what %s says of %s cannot be used, it counts as not done: %s", self.path, name, error
            )
            return {}

    def entry(self, name: str, key: str) -> dict[str, Any]:
        """Return what is known of a job; empty when nothing, or when its settings were others.

        Args:
            name: of the job.
            key: `Plan.key` of the job as it is now.
        """
        entry = self.last(name)
        return entry if entry.get("key") == key else {}

    def is_done(self, name: str, key: str) -> bool:
        """Tell whether a job is done with these settings and its files are still there as they were.

        A file counts that lies in the folder and has the size and the SHA-256 that were recorded; it is
        hashed only where its time of change is another than the recorded one.
        """
        with self._lock:
            if STATUSES[self._lines.get(name, 0) % 4] != DONE:
                return False
        entry = self.entry(name, key)
        if entry.get("status") != DONE or not (entry.get("files") or entry.get("saved_nothing")):
            return False
        own = self.folder.resolve()
        return all(self._is_sound(file, own) for file in entry.get("files", []))

    def _is_sound(self, file: Mapping[str, Any], own: Path) -> bool:
        path = self.folder / file["path"]
        try:
            if not path.resolve().is_relative_to(own):
                return False
            if "sha256" not in file:
                return path.is_dir() or file.get("kind") == SNAPSHOT_FOLDER
            status = path.stat()
            if not path.is_file() or not status.st_size or status.st_size != file["bytes"]:
                return False
            return status.st_mtime_ns == file.get("changed_ns") or file_sha256(path) == file["sha256"]
        except (OSError, ValueError):
            return False

    def record(self, name: str, entry: Mapping[str, Any]) -> None:
        """Replace what is known of a job: append a line, and see it on the disk.

        Args:
            name: of the job.
            entry: JSON values with `key` and `status`; the time is added, and to each of `files` what tells
                whether it is still the same. Folders in texts are left out, so that the file can be shared.

        Raises:
            WriteError: the disk refuses.
        """
        self.record_all([(name, entry)])

    def record_all(self, entries: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Replace what is known of several jobs; see `record`."""
        now, places = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), _own_places()
        with self._lock, explained(self.path):
            self._begin()
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
            try:
                block, noted = bytearray(), list[tuple[str, int, str, list[str]]]()
                for name, entry in entries:
                    values = self._values(name, entry, now, places)
                    pictures = [file["path"] for file in values.get("files", [])]
                    pictures = [path for path in pictures if path.startswith(f"{PICTURES}/")]
                    noted.append((name, len(block), values["status"], pictures))
                    block += _line(values)
                    if len(block) > BLOCK_BYTES:
                        self._append(handle, block, noted)
                self._append(handle, block, noted)
                os.fsync(handle)
            finally:
                os.close(handle)

    def _begin(self) -> None:
        """Write the first line of a new manifest."""
        if not self._is_new:
            return
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "plan": self._plan}
        with atomic_path(self.path) as temporary:
            temporary.write_bytes(_line(head))
        self._is_new = self._is_torn = False

    def _append(self, handle: int, block: bytearray, noted: list[tuple[str, int, str, list[str]]]) -> None:
        """Write some lines at the end of the file, and empty the block and its notes."""
        ended = b"\n" if self._is_torn else b""  # what a crash left begins no line of ours
        left = memoryview(ended + bytes(block))
        count = len(block)
        while left:
            self._is_torn = True  # until all of it is there: the disk may be full
            left = left[os.write(handle, left) :]
        self._is_torn = False
        place = os.lseek(handle, 0, os.SEEK_CUR) - count  # another process may have appended, too
        for name, start, status, pictures in noted:
            self._note(name, place + start, status, pictures)
        block.clear()
        noted.clear()

    def _values(
        self, name: str, entry: Mapping[str, Any], now: str, places: tuple[str, ...]
    ) -> dict[str, Any]:
        files = {"files": list(map(self._described, entry["files"]))} if "files" in entry else {}
        rest = without_places({key: value for key, value in entry.items() if key != "files"}, places)
        first = {"job": name, "status": rest.pop("status"), "key": rest.pop("key")}
        return {**first, **rest, **files, "updated": now}

    def _described(self, file: Mapping[str, Any]) -> dict[str, Any]:
        """Add to a file what it is now; a folder, such as that of the snapshots, is only there or not."""
        path = self.folder / file["path"]
        if not path.is_file():
            return dict(file)
        status = path.stat()
        sha256 = file.get("sha256") or file_sha256(path)
        return {**file, "bytes": status.st_size, "sha256": sha256, "changed_ns": status.st_mtime_ns}

    def take_picture(self, job: str, path: str) -> bool:
        """Give a job the name of a picture in the batch's folder; False where another job has it."""
        with self._lock:
            return self._pictures.setdefault(_short(same(path)), _short(job)) == _short(job)

    def statuses(self) -> dict[str, str]:
        """Status of every job by name."""
        with self._lock:
            return {name: STATUSES[found % 4] for name, found in self._lines.items()}

    def status(self, name: str) -> str:
        """Status of a job that is known."""
        with self._lock:
            return STATUSES[self._lines[name] % 4]


def _line(values: Mapping[str, Any]) -> bytes:
    """JSON values as a line with its checksum."""
    body = json.dumps(values, separators=(",", ":"), allow_nan=False).encode()[:-1]
    return b'%s,"checksum":"%08x"}\n' % (body, zlib.crc32(body))


def _sound(line: bytes) -> bytes | None:
    """A line without its checksum; None where it does not fit."""
    line = line.rstrip(b"\r\n")
    body, end = line[: -len(_SUM)], line[-len(_SUM) :]
    return body if body and end == b',"checksum":"%08x"}' % zlib.crc32(body) else None


def _text(quoted: bytes) -> str | None:
    """A JSON text; None where it is none."""
    if b"\\" not in quoted and quoted.isascii():  # as nearly all of them are: nothing stands for another
        return quoted[1:-1].decode()
    try:
        return str(parse(quoted, "a text"))
    except JsonError:
        return None


def _short(text: str) -> int:
    """64 bits of a text's hash: of a million texts two are the same once in thirty million times."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _own_places() -> tuple[str, ...]:
    """This folder and the user's, as they begin a path."""
    return tuple(f"{place}{os.sep}" for place in (Path.cwd(), Path.home()) if len(place.parts) > 1)


def without_places(values: Any, places: tuple[str, ...] | None = None) -> Any:
    """Copy JSON values; of each absolute path in their texts only the last part is left.

    Args:
        values: JSON values.
        places: how paths begin that may hold spaces; None: this folder and the user's.
    """
    places = _own_places() if places is None else places
    if isinstance(values, str):
        return _without_places(values, places)
    if isinstance(values, Mapping):
        return {name: without_places(value, places) for name, value in values.items()}
    return [without_places(value, places) for value in values] if isinstance(values, list) else values


def _without_places(text: str, places: tuple[str, ...]) -> str:
    """Paths with spaces are known only where they are the whole text, or begin with one of the places."""
    if "/" not in text and "\\" not in text:
        return text
    for path in (PurePosixPath(text), PureWindowsPath(text)):
        if path.anchor and "\n" not in text and "://" not in text:
            return path.name
    for place in places:
        text = text.replace(place, "")
    return _PLACE.sub("", text)


def _entry(values: Fields) -> dict[str, Any]:
    """Check a job's part of a manifest: what is read of it later has the type that is expected then."""
    values.text("key")
    values.text("status", choices=STATUSES)
    for name in ("server", "error"):
        values.text(name, None)
    values.whole("crashes", 0, default=0)
    values.flag("saved_nothing", False)
    values.texts("warnings", MAX_FILES, [])
    if "prompt_id" in values and not _is_uuid(values.text("prompt_id")):
        raise JsonError(f"{values.what}: prompt_id must be a UUID")
    if "files" in values:
        for file in values.objects("files", MAX_FILES):
            _check_file(file)
    own = ("job", "checksum")
    return {n: values.value(n) for n in values.names() if n not in own and values.value(n) is not None}


def _check_file(file: Fields) -> None:
    path = file.text("path")
    if not _PLAIN.fullmatch(path):
        _check_path(file, path)
    file.text("kind")
    if "sha256" in file:
        if not _SHA256.fullmatch(file.text("sha256")):
            raise JsonError(f"{file.what}: sha256 must have 64 hexadecimal digits")
        file.whole("bytes", 0)
        file.whole("changed_ns", default=0)


def _check_path(file: Fields, path: str) -> None:
    parts = (*PurePosixPath(path).parts, *PureWindowsPath(path).parts)
    if ".." in parts or PurePosixPath(path).is_absolute() or PureWindowsPath(path).anchor or not parts:
        raise JsonError(f"{file.what}: path must lead into the folder, found {path[:100]!r}")


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
