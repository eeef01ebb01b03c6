"""The manifest of a batch: what became of every job; written whole after every change."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ..tensors import atomic_path

FORMAT, FORMAT_VERSION = "oneshot-batch-manifest", 1
FILE_NAME = "manifest.json"
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
        ManifestError: the earlier manifest cannot be read.
    """

    def __init__(self, folder: Path, plan: str, fresh: bool = False) -> None:
        self.folder, self.path = folder, folder / FILE_NAME
        self._plan = plan
        self._jobs: dict[str, dict[str, Any]] = {}
        if self.path.exists() and not fresh:
            self._jobs = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT or values["format_version"] != FORMAT_VERSION:
                raise ValueError
            return {name: dict(entry) for name, entry in values["jobs"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ManifestError(
                f"{self.path} is no manifest of this program's version; choose another --out, or add --fresh "
                "to replace it"
            ) from None

    def entry(self, name: str, key: str) -> dict[str, Any]:
        """Return a copy of what is known of a job; empty when nothing, or when its settings were others.

        Args:
            name: of the job.
            key: `Plan.key` of the job as it is now.
        """
        entry = self._jobs.get(name, {})
        return dict(entry) if entry.get("key") == key else {}

    def is_done(self, name: str, key: str) -> bool:
        """Tell whether a job is done with these settings and its files are still there."""
        entry = self.entry(name, key)
        files = entry.get("files", [])
        return entry.get("status") == DONE and all((self.folder / file["path"]).exists() for file in files)

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
        self._jobs.update({name: {**entry, "updated": now} for name, entry in entries.items()})
        values = {"format": FORMAT, "format_version": FORMAT_VERSION, "plan": self._plan, "jobs": self._jobs}
        text = json.dumps(values, indent=1, allow_nan=False)
        with atomic_path(self.path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def statuses(self) -> dict[str, str]:
        """Status of every job by name."""
        return {name: entry["status"] for name, entry in self._jobs.items()}
