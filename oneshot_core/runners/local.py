"""A batch in this process: recipes, one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..memory import one_line
from ..recipe import Recipe
from ..run_folder import versions
from .jobs import BatchJob, Plan, PlanError
from .manifest import DONE, FAILED, OPEN, Manifest
from .pictures import keep_copy

logger = logging.getLogger(__name__)

FACTS = ("step", "losses", "seconds", "notes", "versions")
Work = Callable[[Recipe, Path], dict[str, Any]]


def run_here(
    plan: Plan, manifest: Manifest, work: Work, say: Callable[[str], None], quiet: bool = False
) -> dict[str, str]:
    """Run a plan's jobs; one that fails does not stop the others.

    Args:
        plan: the jobs.
        manifest: of the batch; those that it knows as done are skipped.
        work: follows a recipe in a folder, and returns JSON values: the files by what they are, and what the
            manifest is to say besides (`FACTS`).
        say: tells the user a line.
        quiet: say only what failed.

    Returns:
        Status by job.
    """
    statuses = {}
    for number, job in enumerate(plan.jobs, start=1):
        key = key_of(plan, job, manifest, say)
        if key is not None and not manifest.is_done(job.name, key):
            if not quiet:
                say(f"{job.name} ({number} of {len(plan.jobs)})")
            _run(plan, job, key, manifest, work, say)
        statuses[job.name] = manifest.status(job.name)
    return statuses


def key_of(plan: Plan, job: BatchJob, manifest: Manifest, say: Callable[[str], None]) -> str | None:
    """Hash what determines a job's result; where that cannot be read any more, the job has failed: None."""
    try:
        return plan.key(job, on_server=False)
    except PlanError as error:
        manifest.record(job.name, {"key": "", "status": FAILED, "error": str(error), **_settings(job)})
        say(f"{job.name} failed: {error}")
        return None


def _settings(job: BatchJob) -> dict[str, Any]:
    return {"settings": job.describe()}


def begin(manifest: Manifest, job: BatchJob, key: str) -> None:
    """Note that a job's work has begun."""
    manifest.record(job.name, {"key": key, "status": OPEN, **_settings(job)})


def fail(manifest: Manifest, job: BatchJob, key: str, reason: str, **facts: Any) -> None:
    """Note that a job has failed, and why; `facts` are further entries, or another status."""
    manifest.record(job.name, {"key": key, "status": FAILED, **_settings(job), "error": reason, **facts})


def finish(manifest: Manifest, job: BatchJob, key: str, result: Mapping[str, Any]) -> str:
    """Note what a job has made, its picture beside those of the others.

    Args:
        manifest: of the batch.
        job: whose work has ended.
        key: of the job.
        result: what `Work` returned; with `hashes` of files, by path, these are not read again.

    Returns:
        Why it is not done all the same; empty where all is well.

    Raises:
        WriteError: the disk refuses.
    """
    hashes = result.get("hashes", {})
    files = [
        {"path": Path(path).relative_to(manifest.folder).as_posix(), "kind": kind}
        | ({"sha256": hashes[path]} if path in hashes else {})
        for kind, path in result["files"].items()
    ]
    files.append(keep_copy(manifest, job, Path(result["files"]["grid"])))
    facts = {name: result[name] for name in FACTS if name in result}
    done = {"key": key, "status": DONE, **_settings(job), "files": files, **facts}
    manifest.record(job.name, done)
    if manifest.is_done(job.name, key):
        return ""
    reason = f"files of {job.name} are empty or missing; remove its folder to make them anew"
    manifest.record(job.name, {**done, "status": FAILED, "error": reason})
    return reason


def _run(
    plan: Plan, job: BatchJob, key: str, manifest: Manifest, work: Work, say: Callable[[str], None]
) -> None:
    begin(manifest, job, key)
    started = time.monotonic()
    try:
        result = work(plan.recipe(job), manifest.folder / job.name)
        reason = finish(manifest, job, key, result)
    except (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        logger.debug("job %s", job.name, exc_info=True)
        reason = one_line(error)
        seconds = round(time.monotonic() - started, 1)
        fail(manifest, job, key, reason, seconds=seconds, versions=versions())
    if reason:
        say(f"{job.name} failed: {reason}")
