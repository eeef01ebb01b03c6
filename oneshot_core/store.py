"""Where runs are kept: below a root in folders named by their keys, or in one folder that the user names.

A run that is asked for again is loaded, after a crash or a cancel it goes on, and what is damaged is set
aside. Several processes may share a store; a lock keeps them out of each other's run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from .digests import KEY_DIGITS
from .kept_folders import KeptFolders
from .recipe import STEM_DIGITS, Recipe
from .run_folder import WORK, Run, RunError, kept_record, remove_state
from .training import STATE_FILE
from .writing import MARK as TEMPORARY
from .writing import claim

IN_USE = f".in-use{TEMPORARY}"
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
        self.root = Path(root)
        self._folders = KeptFolders(root, limit_bytes, "run")

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
        with self._folders.claim(recipe.key(half), poll) as folder:
            run = Run(folder, recipe, recipe.settings(half))
            run.make()
            try:
                run = replace(run, kept=run.open())
            except RunError as error:
                run.set_aside(error)
            if half == "adaptation" and not run.kept:
                self._start_from_fewer_steps(run)
            yield run

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
            with self._folders.held(folder) as free:
                if free:
                    run.take_over(folder)
                    return

    def trim(self) -> list[Path]:
        """Remove what is too much, see `KeptFolders.trim`: first the training states of runs that have ended,
        which only more steps would need, then whole runs.

        Returns:
            The folders of the runs that were removed for the limit.
        """
        return self._folders.trim(remove_state)
