"""The verb batch: the jobs of a plan, one after the other in this process, or on a ComfyUI server."""

from __future__ import annotations

import signal
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..recipe import Recipe
from ..run_folder import kept_record
from ..runners.comfy import BatchWatcher, ServerRun, withdraw
from ..runners.comfy_client import ComfyClient
from ..runners.local import run_here
from ..runners.manifest import DONE, Manifest
from ..runners.plan import Plan, read_plan
from ..runners.server_check import check_server
from ..sampling import parse_seeds
from .adapt import Results, make
from .console import BadInput, Failed, Interrupted, ProgressBar, note, say
from .resources import open_all, out_folder, out_path, prepare, report

SHOWN_FAILURES = 3


def batch(options: Namespace) -> None:
    """`batch`: run a plan's jobs, skip those that are done, and write what became of each."""
    if options.cancel and not options.server:
        raise BadInput("--cancel takes jobs out of a server's queue; name it with --server")
    plan = read_plan(options.plan)
    plan.check(on_server=bool(options.server))
    folder = Path("out") / plan.name if options.out is None else out_path(options.out)
    if options.check:
        _show(plan, folder, options)
        return
    started = time.monotonic()
    manifest = Manifest(out_folder(str(folder)), plan.name, fresh=options.fresh)
    if options.cancel:
        client = ComfyClient(options.server)
        note(f"took {len(withdraw(plan, client, manifest))} jobs out of the queue of {client.server}")
        return
    statuses = (_on_server if options.server else _here)(plan, manifest, options)
    report(options, _summary(manifest, statuses, time.monotonic() - started))
    _complain(plan, manifest, statuses, bool(options.server))


def _show(plan: Plan, folder: Path, options: Namespace) -> None:
    """List the jobs as they would run, and what a server that is to run them says; raises Failed."""
    values = {job.name: job.describe() for job in plan.jobs}
    found = check_server(plan, ComfyClient(options.server)) if options.server else None
    asked = {} if found is None else {"server": found.values()}
    report(options, {"files": {"out": str(folder)}, "jobs": values, **asked})
    if not options.json:
        for name, fields in values.items():
            say(f"{name:<24} " + "  ".join(f"{field}={value}" for field, value in fields.items()))
    if found is None:
        return
    for problem in found.problems:
        note(f"problem: {problem}")
    if found.problems:
        count = len(found.problems)
        raise Failed(f"{count} problem{'s' * (count > 1)} with {found.server}; nothing was sent to it")
    if not options.json:
        say(
            f"{'server':<12} {found.server} is ComfyUI {found.versions['comfyui']} and has all "
            f"{len(found.node_types)} node types and the chosen values; {found.waiting} prompts in its queue"
        )


def _summary(manifest: Manifest, statuses: Mapping[str, str], seconds: float) -> dict[str, Any]:
    counts = dict(Counter(statuses.values()))
    files = {"manifest": str(manifest.path)}
    return {"files": files, "counts": counts, "jobs": dict(statuses), "seconds": round(seconds, 1)}


def _complain(plan: Plan, manifest: Manifest, statuses: Mapping[str, str], on_server: bool) -> None:
    """Say which jobs are not done; raises Failed when there are any."""
    wrong = [job for job in plan.jobs if statuses[job.name] != DONE]
    if not wrong:
        return
    reasons = [
        f"{job.name}: {manifest.entry(job.name, plan.key(job, on_server)).get('error', statuses[job.name])}"
        for job in wrong[:SHOWN_FAILURES]
    ]
    more = f"; and {len(wrong) - SHOWN_FAILURES} more" if len(wrong) > SHOWN_FAILURES else ""
    raise Failed(
        f"{len(wrong)} of {len(plan.jobs)} jobs are not done ({'; '.join(reasons)}{more}); the same command "
        f"runs them again, {manifest.path} says more"
    )


def _here(plan: Plan, manifest: Manifest, options: Namespace) -> dict[str, str]:
    """Run the jobs in this process."""
    device, seeds = prepare(options), parse_seeds(options.seeds)
    results = Results(
        seeds, with_discriminator=not options.without_discriminator, quiet=options.quiet, fresh=options.fresh
    )

    def work(recipe: Recipe, folder: Path) -> dict[str, Any]:
        made = make(recipe, open_all(recipe, device, options), out_folder(str(folder)), results)
        return {"seconds": kept_record(folder)["seconds"], **made}  # also of one that was done already

    return run_here(plan, manifest, work, note, quiet=options.quiet)


class _Bars(BatchWatcher):
    """One progress line for each job that runs."""

    def __init__(self, jobs: int, quiet: bool) -> None:
        self._bar: ProgressBar | None = None
        self._jobs, self._ended, self._quiet = jobs, 0, quiet

    def progress(self, job: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        """Draw the job's line, on a new line when it is another job than before."""
        if self._bar is None or self._bar.label != job:
            self.close()
            self._bar = ProgressBar(job, total, quiet=self._quiet)
        self._bar.total = total
        self._bar.update(min(done, total), losses)

    def finished(self, job: str, entry: Mapping[str, Any]) -> None:
        """Say how a job ended."""
        self.close()
        self._ended += 1
        outcome = str(entry["status"])
        if outcome == DONE:
            outcome = f"{len(entry['files'])} files"
            if self._quiet:
                return
        reason = f": {entry['error']}" if "error" in entry else ""
        note(f"{job}: {outcome}{reason} ({self._ended} of {self._jobs})")

    def message(self, text: str) -> None:
        """Say it on a line of its own."""
        self.close()
        note(text)

    def close(self) -> None:
        """End the line that is being drawn."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _on_server(plan: Plan, manifest: Manifest, options: Namespace) -> dict[str, str]:
    """Let a ComfyUI server run the jobs; Ctrl-C leaves them in its queue."""
    client = ComfyClient(options.server)
    open_jobs = sum(not manifest.is_done(job.name, plan.key(job, on_server=True)) for job in plan.jobs)
    bars = _Bars(open_jobs, options.quiet)
    if not options.quiet:
        note(f"{open_jobs} of {len(plan.jobs)} jobs to run on {client.server}")
    try:
        return ServerRun(plan, client, manifest, bars, options.patience).run()
    except KeyboardInterrupt as stop:
        bars.close()
        raise Interrupted(
            f"{client.server} goes on with what is in its queue; the same command collects the results, with "
            "--cancel it takes the rest out of the queue",
            getattr(stop, "number", signal.SIGINT),
        ) from None
