"""Processes that are killed as soon as they have written so many files, played in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oneshot_core import writing


class Killed(BaseException):
    """Stands for SIGKILL."""


def killed_at(write: int, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Do a work, and be killed as soon as so many files have their names; False: there were fewer."""
    rename, count = writing.rename_patiently, 0

    def dying(source: Path, target: Path) -> None:
        nonlocal count
        if count >= write:  # a dead process writes nothing more, whatever it does at its end
            raise Killed
        rename(source, target)
        count += 1
        if count == write:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(writing, "rename_patiently", dying)
        try:
            work()
        except Killed:
            return True
    return False
