"""The manifest of a batch: what became of every job; written whole after every change."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..json_values import Fields, JsonError
from ..saved_states import ForeignRecord, read_record, write_record
from ..writing import set_aside

log = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "oneshot-batch-manifest", 2
FILE_NAME = "manifest.json"
PICTURES = "pictures"  # folder of the results' pictures, beside those of the jobs
OPEN, DONE, FAILED, CANCELLED = "open", "done", "failed", "cancelled"
MAX_FILES = 10_000
_SHA256 = re.compile("[0-9a-f]{64}")
# An absolute path in a sentence: its folders, up to the name that is kept.
_PLACE = re.compile(
    r"""(?<![^\s'":;,(<|=\[])(?:[A-Za-z]:|\\\\)?[\\/](?:[^\\/\s'":;,()<>|]+[\\/])+(?=[^\\/\s'":;,()<>|])"""
)


class ManifestError(ValueError):
    """The folder holds a manifest that this program did not write; the message says what to do."""


class Manifest:
    """What became of every job, in `<folder>/manifest.json`.

    Args:
        folder: of the batch's results; an earlier manifest in it is read.
        plan: name of the plan, kept for the reader.
        fresh: forget the earlier manifest.

    Raises:
        ManifestError: the folder holds a manifest.json that this program, or this version, did not write.
    """

    def __init__(self, folder: Path, plan: str, fresh: bool = False) -> None:
        self.folder, self.path = folder, folder / FILE_NAME
        self._plan = plan
        self._jobs: dict[str, dict[str, Any]] = {}
        if self.path.exists() and not fresh:
            self._jobs = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        """Read the jobs; a manifest that is damaged is set aside, and all jobs count as not done."""
        try:
            jobs = read_record(self.path, FORMAT, FORMAT_VERSION).object("jobs")
            return {name: _entry(jobs.object(name)) for name in jobs.names()}
        except ForeignRecord as error:
            raise ManifestError(
                f"{error}; it is no manifest of this program's version: choose another --out, or add --fresh "
                "to replace it"
            ) from None
        except JsonError as error:
            set_aside(self.path, error)
            return {}

    def entry(self, name: str, key: str) -> dict[str, Any]:
        """Return a copy of what is known of a job; empty when nothing, or when its settings were others.

        Args:
            name: of the job.
            key: `Plan.key` of the job as it is now.
        """
        entry = self._jobs.get(name, {})
        return dict(entry) if entry.get("key") == key else {}

    def is_done(self, name: str, key: str) -> bool:
        """Tell whether a job is done with these settings and its files are still there as they were.

        A file counts that lies in the folder and has the size and the SHA-256 that were recorded; it is
        hashed only where its time of change is another than the recorded one.
        """
        entry = self.entry(name, key)
        if entry.get("status") != DONE or not (entry.get("files") or entry.get("saved_nothing")):
            return False
        return all(self._is_sound(file) for file in entry.get("files", []))

    def _is_sound(self, file: Mapping[str, Any]) -> bool:
        path = self.folder / file["path"]
        try:
            if not path.resolve().is_relative_to(self.folder.resolve()):
                return False
            if "sha256" not in file:
                return path.is_dir()
            status = path.stat()
            if not path.is_file() or not status.st_size or status.st_size != file["bytes"]:
                return False
            return status.st_mtime_ns == file.get("changed_ns") or sha256_of(path) == file["sha256"]
        except (OSError, ValueError):
            return False

    def record(self, name: str, entry: dict[str, Any]) -> None:
        """Replace what is known of a job and write the file.

        Args:
            name: of the job.
            entry: JSON values with `key` and `status`; the time is added, and to each of `files` what tells
                whether it is still the same. Folders in texts are left out, so that the file can be shared.
        """
        self.record_all({name: entry})

    def record_all(self, entries: dict[str, dict[str, Any]]) -> None:
        """Replace what is known of several jobs and write the file once."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for name, entry in entries.items():
            files = {"files": list(map(self._described, entry["files"]))} if "files" in entry else {}
            self._jobs[name] = {**without_places(entry), **files, "updated": now}
        values = {"format": FORMAT, "format_version": FORMAT_VERSION, "plan": self._plan, "jobs": self._jobs}
        write_record(self.path, values)

    def _described(self, file: Mapping[str, Any]) -> dict[str, Any]:
        """Add to a file what it is now; a folder, such as that of the snapshots, is only there or not."""
        path = self.folder / file["path"]
        if not path.is_file():
            return dict(file)
        status = path.stat()
        sha256 = file.get("sha256") or sha256_of(path)
        return {**file, "bytes": status.st_size, "sha256": sha256, "changed_ns": status.st_mtime_ns}

    def paths(self, besides: str) -> list[str]:
        """Paths of all files of all jobs but one, in the batch's folder."""
        entries = [entry for name, entry in self._jobs.items() if name != besides]
        return [file["path"] for entry in entries for file in entry.get("files", [])]

    def statuses(self) -> dict[str, str]:
        """Status of every job by name."""
        return {name: entry["status"] for name, entry in self._jobs.items()}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def without_places(values: Any) -> Any:
    """Copy JSON values; of each absolute path in their texts only the last part is left."""
    if isinstance(values, str):
        return _without_places(values)
    if isinstance(values, Mapping):
        return {name: without_places(value) for name, value in values.items()}
    return [without_places(value) for value in values] if isinstance(values, list) else values


def _without_places(text: str) -> str:
    """Paths with spaces are known only where they are the whole text, or below the user's folder or here."""
    for path in (PurePosixPath(text), PureWindowsPath(text)):
        if path.anchor and "\n" not in text and "://" not in text:
            return path.name
    for place in (Path.cwd(), Path.home()):
        text = text.replace(f"{place}{os.sep}", "") if len(place.parts) > 1 else text
    return _PLACE.sub("", text)


def _entry(values: Fields) -> dict[str, Any]:
    """Check a job's part of a manifest: what is read of it later has the type that is expected then."""
    values.text("key")
    values.text("status", choices=(OPEN, DONE, FAILED, CANCELLED))
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
    return {name: values.value(name) for name in values.names() if values.value(name) is not None}


def _check_file(file: Fields) -> None:
    path = file.text("path")
    parts = (*PurePosixPath(path).parts, *PureWindowsPath(path).parts)
    if ".." in parts or PurePosixPath(path).is_absolute() or PureWindowsPath(path).anchor or not parts:
        raise JsonError(f"{file.what}: path must lead into the folder, found {path[:100]!r}")
    file.text("kind")
    if "sha256" in file:
        if not _SHA256.fullmatch(file.text("sha256")):
            raise JsonError(f"{file.what}: sha256 must have 64 hexadecimal digits")
        file.whole("bytes", 0)
        file.whole("changed_ns", default=0)


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
