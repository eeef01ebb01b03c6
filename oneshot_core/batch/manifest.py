"""The manifest of a batch: what became of every job; written whole after every change."""

from __future__ import annotations

import logging
import time
import zlib
from pathlib import Path
from typing import Any

from ..checkpoints import CheckpointError, verify
from ..json_values import Fields, JsonError
from ..saved_states import ForeignRecord, read_record, write_record
from ..writing import set_aside

log = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "oneshot-batch-manifest", 2
FILE_NAME = "manifest.json"
MAX_FILES = 100_000  # of one job
GENERATOR = ".safetensors"
FULL = (".png", ".json", ".pt", ".pth")  # suffixes of files that are never empty
OPEN, DONE, FAILED, CANCELLED = "open", "done", "failed", "cancelled"


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
        """Tell whether a job is done with these settings and its files are still there and whole."""
        entry = self.entry(name, key)
        files = entry.get("files", [])
        return entry.get("status") == DONE and all(
            _is_whole(self.folder / file["path"], file.get("crc32")) for file in files
        )

    def record(self, name: str, entry: dict[str, Any]) -> None:
        """Replace what is known of a job and write the file.

        Args:
            name: of the job.
            entry: JSON values with `key` and `status`; the time is added.
        """
        self.record_all({name: entry})

    def record_all(self, entries: dict[str, dict[str, Any]]) -> None:
        """Replace what is known of several jobs and write the file once."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for name, entry in entries.items():
            self._jobs[name] = {**entry, "updated": now}
            if entry.get("status") == DONE:
                self._jobs[name]["files"] = [self._summed(file) for file in entry.get("files", [])]
        values = {"format": FORMAT, "format_version": FORMAT_VERSION, "plan": self._plan, "jobs": self._jobs}
        write_record(self.path, values)

    def _summed(self, file: dict[str, Any]) -> dict[str, Any]:
        """Add the checksum of a generator's file, by which a later run knows that it is whole."""
        path = self.folder / file["path"]
        return {**file, "crc32": _crc32(path)} if path.suffix == GENERATOR and path.is_file() else file

    def statuses(self) -> dict[str, str]:
        """Status of every job by name."""
        return {name: entry["status"] for name, entry in self._jobs.items()}


def _entry(fields: Fields) -> dict[str, Any]:
    """What is known of a job, the members that are used here checked."""
    entry = {name: fields.value(name) for name in fields.names()}
    fields.text("key")
    fields.text("status", choices=(OPEN, DONE, FAILED, CANCELLED))
    for file in fields.objects("files", MAX_FILES) if "files" in fields else ():
        file.text("path")
        file.text("crc32", "")
    fields.text("error", "")
    return entry


def _is_whole(path: Path, crc32: str | None) -> bool:
    """Whether a result is there, and neither empty nor damaged.

    Args:
        path: of the result, which may be a folder.
        crc32: of the file when its job was done; a generator that was trained further since then has another.
    """
    if path.suffix == GENERATOR and path.is_file():
        if crc32 is not None and _crc32(path) == crc32:
            return True
        try:
            verify(path)
        except CheckpointError as error:
            log.warning("a result of an earlier run is damaged, its job runs again: %s", error)
            return False
    elif path.suffix in FULL and path.is_file():
        return path.stat().st_size > 0
    return path.exists()


def _crc32(path: Path) -> str:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
