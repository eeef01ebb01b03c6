"""A batch in this process: recipes, one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..memory import one_line
from ..recipe import Recipe
from ..run_folder import versions
from .manifest import DONE, FAILED, OPEN, Manifest
from .pictures import keep_copy
from .plan import BatchJob, Plan

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
        key = plan.key(job, on_server=False)
        if not manifest.is_done(job.name, key):
            if not quiet:
                say(f"{job.name} ({number} of {len(plan.jobs)})")
            _run(plan, job, key, manifest, work, say)
        statuses[job.name] = str(manifest.entry(job.name, key)["status"])
    return statuses


def _run(
    plan: Plan, job: BatchJob, key: str, manifest: Manifest, work: Work, say: Callable[[str], None]
) -> None:
    entry: dict[str, Any] = {"key": key, "status": OPEN, "settings": job.describe()}
    manifest.record(job.name, entry)
    started = time.monotonic()
    try:
        result = work(plan.recipe(job), manifest.folder / job.name)
        files = [
            {"path": Path(path).relative_to(manifest.folder).as_posix(), "kind": kind}
            for kind, path in result["files"].items()
        ]
        files.append(keep_copy(manifest, job, Path(result["files"]["grid"])))
    except (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        logger.debug("job %s", job.name, exc_info=True)
        facts = {"seconds": round(time.monotonic() - started, 1), "versions": versions()}
        manifest.record(job.name, {**entry, "status": FAILED, "error": one_line(error), **facts})
        say(f"{job.name} failed: {one_line(error)}")
        return
    facts = {name: result[name] for name in FACTS if name in result}
    done = {**entry, "status": DONE, "files": files, **facts}
    manifest.record(job.name, done)
    if not manifest.is_done(job.name, key):  # what an earlier run left there may be damaged
        reason = f"files of {job.name} are empty or missing; add --fresh to make them anew"
        manifest.record(job.name, {**done, "status": FAILED, "error": reason})
        say(f"{job.name} failed: {reason}")
