"""Where runs are kept: below a root in folders named by their keys, or in one folder that the user names.

A run that is asked for again is loaded, after a crash or a cancel it goes on, and what is damaged is set
aside. Several processes may share a store; a lock keeps them out of each other's run.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from .recipe import KEY_DIGITS, STEM_DIGITS, Recipe
from .run_folder import MARK, WORK, Run, RunError, kept_record, remove_state
from .training import STATE_FILE
from .writing import MARK as TEMPORARY
from .writing import claim, remove_stale_temporaries

log = logging.getLogger(__name__)

LOCK, IN_USE = ".lock", f".in-use{TEMPORARY}"
POLL_SECONDS = 0.2
_RUN = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}(\.damaged-\d+)?")  # folders of all other names are not ours
HOLD_TRIES, HOLD_SECONDS = 5, 0.1  # whoever only looks for leftovers lets go at once


class Store(Protocol):
    """Somewhere to keep runs."""

    def claim(self, recipe: Recipe, half: str = "", poll: Callable[[], None] | None = None) -> Any:
        """Context manager that yields the run's `Run`, locked and made."""

    def trim(self) -> Any:
        """Remove what is too much."""


class FolderStore:
    """The one folder that the user names.

    Args:
        folder: made when it is claimed.
        fresh: throw away what an earlier run left there.
        patience_seconds: how long another process is waited for that is at work there, or was killed on
            another machine, whose lock a file server gives up only after a while.
    """

    def __init__(
        self, folder: Path | str, fresh: bool = False, patience_seconds: float = HOLD_TRIES * HOLD_SECONDS
    ) -> None:
        self.folder, self.fresh, self.patience_seconds = Path(folder), fresh, patience_seconds

    @contextmanager
    def claim(self, recipe: Recipe, half: str = "", poll: Callable[[], None] | None = None) -> Iterator[Run]:
        """Lock the folder for a run; see `RunStore.claim`.

        Raises:
            RunError: another process is at work there, or it holds something else.
        """
        run = Run(self.folder, recipe, recipe.settings(half), named=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + self.patience_seconds
        while (held := claim(self.folder / IN_USE)) is None and time.monotonic() < until:
            time.sleep(HOLD_SECONDS)
            if poll is not None:
                poll()
        if held is None:
            raise RunError(
                f"another process is at work in {self.folder}; wait until it has ended, or choose another "
                "folder"
            )
        try:
            if self.fresh:
                run.clear()
            run = replace(run, kept=run.open())  # before anything is written there
            run.make()
            yield run
        finally:
            held.release()

    def trim(self) -> None:
        """Nothing: the folder is the user's."""


class RunStore:
    """Folders of runs below one root, each named by its recipe's key.

    Args:
        root: made when the first run is claimed.
        limit_bytes: size beyond which the runs longest unused are removed; None: no limit.
    """

    def __init__(self, root: Path | str, limit_bytes: int | None = None) -> None:
        self.root, self.limit_bytes = Path(root), limit_bytes

    @contextmanager
    def claim(self, recipe: Recipe, half: str = "", poll: Callable[[], None] | None = None) -> Iterator[Run]:
        """Lock the folder of a run.

        Args:
            recipe: bound to its inputs.
            half: which half of it is kept there; see `Recipe.settings`.
            poll: called while another process holds the run; it may raise to give up.

        Yields:
            The run, whose folder exists, with the record that was there.
        """
        folder = self.root / recipe.key(half)
        self.root.mkdir(parents=True, exist_ok=True)
        while (held := claim(_lock_of(folder))) is None:
            time.sleep(POLL_SECONDS)
            if poll is not None:
                poll()
        try:
            run = Run(folder, recipe, recipe.settings(half))
            run.make()
            try:
                run = replace(run, kept=run.open())
            except RunError as error:
                run.set_aside(error)
            if half == "adaptation" and not run.kept:
                self._start_from_fewer_steps(run)
            yield run
        finally:
            with suppress(OSError):
                (folder / MARK).touch()  # a run of hours was in use all the time
            held.release()

    def _start_from_fewer_steps(self, run: Run) -> None:
        """Let a run go on from the longest one that differs from it in nothing but fewer steps."""
        found = []
        for folder in self.root.glob(f"{run.folder.name[:STEM_DIGITS]}*"):
            if len(folder.name) != KEY_DIGITS or folder == run.folder:
                continue
            with suppress(RunError):
                step = kept_record(folder).get("step", 0)
                if 0 < step <= run.recipe.training.steps and (folder / WORK / STATE_FILE).is_file():
                    found.append((step, folder))
        for _, folder in sorted(found, reverse=True):
            with _held(folder) as free:
                if free:
                    run.take_over(folder)
                    return

    def trim(self) -> list[Path]:
        """Remove what killed processes left half-made, then what was longest unused, down to the limit.

        First the training states of runs that have ended, which only more steps would need, then whole runs.
        Damaged folders that were set aside go before all others; a run that a process holds stays.

        Returns:
            The folders of the runs that were removed for the limit.
        """
        if not self.root.is_dir():
            return []
        self._tidy()
        sizes = {folder: _size(folder) for folder in self.root.iterdir() if _RUN.fullmatch(folder.name)}
        total, removed, by_use = sum(sizes.values()), [], sorted(sizes, key=_last_use)
        for folder in by_use:
            if self.limit_bytes is None or total <= self.limit_bytes:
                break
            if ".damaged-" not in folder.name:
                total -= (freed := _remove_state(folder))
                sizes[folder] -= freed
        for folder in by_use:
            if self.limit_bytes is None or total <= self.limit_bytes:
                break
            if _remove_unused(folder):
                total -= sizes[folder]
                removed.append(folder)
                log.info("removed the kept run %s: the store exceeds %d bytes", folder, self.limit_bytes)
        return removed

    def _tidy(self) -> None:
        """Remove empty runs, locks of killed processes and half-written files."""
        remove_stale_temporaries(self.root)
        for path in list(self.root.iterdir()):
            if _RUN.fullmatch(path.name) and not _holds_anything(path):
                _remove_unused(path)
            elif path.suffix == LOCK and _RUN.fullmatch(path.stem) and path.is_file():
                held = claim(path)
                if held is not None:
                    held.release()


def _holds_anything(folder: Path) -> bool:
    """Whether a run's folder holds more than its mark; one that cannot be read may."""
    try:
        return any(name != MARK for _, _, names in os.walk(folder, onerror=_raised) for name in names)
    except OSError:  # another process removed it, or it may not be read
        return True


def _raised(error: OSError) -> None:
    raise error


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a run's folder; gives False where another process does."""
    held = claim(_lock_of(folder))
    try:
        yield held is not None
    finally:
        if held is not None:
            held.release()


def _remove_unused(folder: Path) -> bool:
    """Remove a run's folder unless a process holds it."""
    with _held(folder) as free:
        if free:
            shutil.rmtree(folder, ignore_errors=True)
        return free


def _remove_state(folder: Path) -> int:
    """Remove the training state of a run that has ended, unless a process holds it."""
    with _held(folder) as free:
        return remove_state(folder) if free else 0


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{LOCK}")


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
