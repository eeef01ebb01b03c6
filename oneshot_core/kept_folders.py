"""Folders below one root, each named by the key of what determines its content: held, limited, swept.

Several processes may share a root; a lock keeps them out of each other's folder. What is there beside such
folders and their locks is somebody else's and is left alone.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .digests import KEY_DIGITS, settings_key
from .writing import claim, holding, remove_stale_temporaries

log = logging.getLogger(__name__)

MARK = "used"  # a file in each folder; its time is that of the last use
LOCK = ".lock"
_OURS = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}(\.damaged-\d+)?")


class KeptFolders:
    """Folders that are kept by their keys.

    Args:
        root: made when the first one is claimed.
        limit_bytes: size beyond which those longest unused are removed; None: no limit.
        what: how messages call one.
    """

    def __init__(self, root: Path | str, limit_bytes: int | None = None, what: str = "result") -> None:
        self.root, self.limit_bytes, self.what = Path(root), limit_bytes, what
        self._claimed: list[Path] = []

    def folder(self, key: str) -> Path:
        """Where something is kept, whether it is there or not."""
        return self.root / key

    @contextmanager
    def claim(self, key: str, poll: Callable[[], None] | None = None) -> Iterator[Path]:
        """Hold a folder against all other processes; wait while another one holds it.

        Args:
            key: `KEY_DIGITS` hex digits.
            poll: called while another process holds it; may raise to give up.

        Yields:
            The folder, which exists.
        """
        folder = self.folder(key)
        self.root.mkdir(parents=True, exist_ok=True)
        with holding(_lock_of(folder), poll):
            self._claimed.append(folder)
            folder.mkdir(exist_ok=True)
            (folder / MARK).touch()
            try:
                yield folder
            finally:
                with suppress(OSError):
                    (folder / MARK).touch()  # work of hours was in use all the time

    @contextmanager
    def held(self, folder: Path) -> Iterator[bool]:
        """Hold a folder without waiting; gives False where another process does."""
        held = claim(_lock_of(folder))
        try:
            yield held is not None
        finally:
            if held is not None:
                held.release()

    def trim(self, shrink: Callable[[Path], int] = lambda _: 0) -> list[Path]:
        """Remove what killed processes left half-made, then what was longest unused, down to the limit.

        Damaged folders that were set aside go before all others; what a process holds stays.

        Args:
            shrink: removes of a folder what can be spared and returns its bytes; tried on all of them, while
                the limit asks for it, before a whole one goes.

        Returns:
            The folders that were removed for the limit.
        """
        if not self.root.is_dir():
            return []
        self._tidy()
        sizes = {folder: _size(folder) for folder in self.root.iterdir() if _OURS.fullmatch(folder.name)}
        total, removed, by_use = sum(sizes.values()), list[Path](), sorted(sizes, key=_last_use)
        for folder in by_use:
            if self.limit_bytes is None or total <= self.limit_bytes:
                return removed
            if ".damaged-" not in folder.name:
                with self.held(folder) as free:
                    freed = shrink(folder) if free else 0
                total -= freed
                sizes[folder] -= freed
        for folder in by_use:
            if self.limit_bytes is None or total <= self.limit_bytes:
                break
            if self._remove_unused(folder):
                total -= sizes[folder]
                removed.append(folder)
                log.info("removed the kept %s %s: all exceed %d bytes", self.what, folder, self.limit_bytes)
        return removed

    def forget(self) -> None:
        """Remove what was claimed here, and the root when nothing else is in it."""
        for folder in self._claimed:
            self._remove_unused(folder)
        with suppress(OSError):
            self.root.rmdir()

    def _tidy(self) -> None:
        """Remove empty folders, locks of killed processes and half-written files."""
        remove_stale_temporaries(self.root)
        for path in list(self.root.iterdir()):
            if _OURS.fullmatch(path.name) and not _holds_anything(path):
                self._remove_unused(path)
            elif path.suffix == LOCK and _OURS.fullmatch(path.stem) and path.is_file():
                held = claim(path)
                if held is not None:
                    held.release()

    def _remove_unused(self, folder: Path) -> bool:
        """Remove a folder unless a process holds it."""
        with self.held(folder) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)
            return free


@dataclass(frozen=True)
class KeptWork:
    """Where a work is saved while it is done.

    Args:
        folder: of this work alone; this process holds it.
        settings: JSON values of everything that determines the result.
    """

    folder: Path
    settings: Mapping[str, Any]


@contextmanager
def kept_work(
    kept: KeptFolders | None,
    settings: Callable[[], Mapping[str, Any]],
    poll: Callable[[], None] | None = None,
) -> Iterator[KeptWork | None]:
    """Hold the folder of a work while it is done; None where nothing is kept.

    Args:
        kept: the folders; trimmed afterwards.
        settings: of the work; asked only where it is kept: to hash networks takes a while.
        poll: called while another process is at the same work; may raise to give up.
    """
    if kept is None:
        yield None
        return
    found = settings()
    with kept.claim(settings_key(found), poll) as folder:
        remove_stale_temporaries(folder)
        yield KeptWork(folder, found)
    kept.trim()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{LOCK}")


def _holds_anything(folder: Path) -> bool:
    """Whether a folder holds more than its mark; one that cannot be read may."""
    try:
        return any(name != MARK for _, _, names in os.walk(folder, onerror=_raised) for name in names)
    except OSError:  # another process removed it, or it may not be read
        return True


def _raised(error: OSError) -> None:
    raise error


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # another process is at work there
            continue
    return total


def _last_use(folder: Path) -> float:
    try:
        return (folder / MARK).stat().st_mtime if ".damaged-" not in folder.name else 0.0
    except OSError:
        return 0.0
