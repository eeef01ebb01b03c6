"""Which pictures a plan means: files beside it, patterns of files, and the shipped ones by their look."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from ..choices import DEMO_TARGET, TARGET_LOOKS
from ..demo.world import target_path
from ..json_values import told

_LOOKS = {target_path(look): look for look in TARGET_LOOKS}


class TargetError(ValueError):
    """A picture that is not there; the message says what was looked for, and where."""


def find_target(folder: Path, name: str, where: str, look: bool = True) -> Path:
    """Find the one picture that a name means.

    Args:
        folder: of the plan; relative names start there.
        name: of a file, or `demo:LOOK` for a shipped picture.
        where: the name stands, for the message.
        look: whether the file is there; a shipped one always is.

    Raises:
        TargetError: there is no such file or look.
    """
    if name.startswith(DEMO_TARGET):
        return _shipped(name, where)
    path = folder / name
    if look and not is_file(path):
        raise TargetError(f"{where}: the target {path} is not a file")
    return path


def find_targets(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Find the pictures of patterns, sorted within each, each once; see `find_target`.

    Raises:
        TargetError: a pattern without a file.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        if pattern.startswith(DEMO_TARGET):
            found[_shipped(pattern, "grid")] = None
            continue
        try:
            names = glob.glob(str(Path(glob.escape(str(folder))) / pattern), recursive=True)
        except (OSError, ValueError, re.error):  # a pattern that no file can match
            names = []
        matches = sorted(path for path in map(Path, names) if is_file(path))
        if not matches:
            raise TargetError(f"no file matches the targets {told(pattern)} in {folder.resolve()}")
        found.update(dict.fromkeys(matches))
    return list(found)


def name_of(target: Path) -> str:
    """What results are called after: the look of a shipped picture, else the file's name without ending."""
    return _LOOKS.get(target, target.stem)


def text_of(target: Path) -> str:
    """Write a target as recipes do: `demo:LOOK` for a shipped picture, else its path."""
    return f"{DEMO_TARGET}{_LOOKS[target]}" if target in _LOOKS else str(target)


def is_file(path: Path) -> bool:
    """Tell whether a file is there; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _shipped(name: str, where: str) -> Path:
    try:
        return target_path(name.removeprefix(DEMO_TARGET))
    except ValueError as error:
        raise TargetError(f"{where}: {error}") from None
