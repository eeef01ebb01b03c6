"""The snapshots that a store of runs keeps of the run that made a generator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints import CheckpointError, GeneratorBundle
from ..checkpoints.native import opened_file
from ..json_values import Fields, JsonError
from ..run_folder import WORK
from ..store import RunStore
from ..training.loop import snapshot_files


def kept_snapshots(store: RunStore, adapted: GeneratorBundle) -> dict[int, Path]:
    """Find the snapshots of the run that made a generator, by what it says of its making.

    Args:
        store: where runs are kept; of runs that differ in nothing but their steps, all snapshots count.
        adapted: the result of an adaptation, or one of its snapshots.

    Returns:
        Files by step, in their order.

    Raises:
        ValueError: the generator does not say how it was made, or its run is not kept.
    """
    settings = adapted.provenance.history.get("settings")
    if not isinstance(settings, Mapping) or not settings:
        raise ValueError(
            f"{adapted.title} does not say how it was adapted, so that the snapshots of its run cannot be "
            "found: link what One-Shot Adapt gives, or a file in this program's own format"
        )
    found: dict[int, Path] = {}
    for folder in sorted(store.root.iterdir()) if store.root.is_dir() else []:
        files = snapshot_files(folder / WORK) if ".damaged-" not in folder.name else {}
        if files and _settings_of(next(iter(files.values()))) == settings:
            found |= {step: path for step, path in files.items() if _settings_of(path) == settings}
    if not found:
        raise ValueError(
            f"no snapshots of {adapted.title} are kept in {store.root.name}: its run was removed since (the "
            "folder keeps to its size), or was made elsewhere; train it again, or link the generators to "
            "compare one by one"
        )
    return dict(sorted(found.items()))


def _settings_of(path: Path) -> Any:
    """What determined a generator, from its header; None where it does not say or is damaged."""
    try:
        with opened_file(path) as (_, header):
            history = Fields(header, "the header").object("provenance").object("history")
            return history.value("settings", None)
    except (CheckpointError, JsonError):
        return None
