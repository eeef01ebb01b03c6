"""The pictures of a batch's results: all in one folder, each named by its target."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..writing import atomic_path
from .jobs import BatchJob
from .manifest import PICTURES, Manifest
from .names import free_name, safe_name, same
from .targets import name_of


def stem_of(job: BatchJob) -> str:
    """Start of the names of a job's pictures: its target's, and its own where that does not begin with it."""
    if job.target is None:
        return job.name
    target = safe_name(name_of(job.target))
    begins = same(job.name) == same(target) or same(job.name).startswith(same(f"{target}-"))
    return job.name if begins else f"{target}-{job.name}"


def picture_path(manifest: Manifest, job: BatchJob, name: str, taken: Collection[str] = ()) -> str:
    """Name a picture of a job, so that none of another job is replaced.

    Args:
        manifest: of the batch, in which the name is taken; those of other jobs' pictures are not given again.
        job: whose picture it is.
        name: what follows its stem, such as "adapted_00001_.png"; or an ending alone, such as ".png".
        taken: paths of this job's pictures so far.

    Returns:
        Path in the batch's folder.
    """
    stem = stem_of(job)
    whole = f"{stem}{name}" if name.startswith(".") else f"{stem}_{name}"
    if same(name).startswith(same(stem)):
        whole = name
    own = {same(path) for path in taken}

    def take(chosen: str) -> bool:
        path = f"{PICTURES}/{chosen}"
        return same(path) not in own and manifest.take_picture(job.name, path)

    return f"{PICTURES}/{free_name(whole, take)}"


def keep_copy(manifest: Manifest, job: BatchJob, picture: Path) -> dict[str, Any]:
    """Copy a picture of a job to where those of the batch are; returns its part of the manifest's files.

    Raises:
        WriteError: the disk refuses.
    """
    path = picture_path(manifest, job, picture.suffix)
    with atomic_path(manifest.folder / path) as temporary:
        shutil.copyfile(picture, temporary)
    return {"path": path, "kind": "picture"}
