"""The verb batch: the jobs of a plan, one after the other in this process, or on a ComfyUI server."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runners.comfy_client import ComfyClient
from ..runners.manifest import DONE, FAILED, OPEN, Manifest
from ..runners.plan import BatchJob, Plan, read_plan
from ..runners.server_run import BatchWatcher, ServerRun, withdraw
from .adapt import open_job, run_job
from .console import BadInput, Failed, Interrupted, ProgressBar, note, one_line, say
from .resources import out_folder, out_path, report

logger = logging.getLogger(__name__)

OWN_OPTIONS = (
    "generator",
    "target",
    "out",
    "seed",
    "steps",
    "device",
    "threads",
    "json",
    "quiet",
    "debug",
    "fresh",
)
SHOWN_FAILURES = 3


def batch(options: Namespace) -> None:
    """`batch`: run a plan's jobs, skip those that are done, and write what became of each."""
    if options.cancel and not options.server:
        raise BadInput("--cancel takes jobs out of a server's queue; name it with --server")
    plan = read_plan(options.plan)
    plan.check(on_server=bool(options.server))
    folder = Path("out") / plan.name if options.out is None else out_path(options.out)
    work = (
        None if options.server else {job.name: adapt_options(plan, job, folder, options) for job in plan.jobs}
    )
    if options.check:
        _show(plan, folder, options)
        return
    started = time.monotonic()
    manifest = Manifest(out_folder(str(folder)), plan.name, fresh=options.fresh)
    if options.cancel:
        client = ComfyClient(options.server)
        note(f"took {len(withdraw(plan, client, manifest))} jobs out of the queue of {client.server}")
        return
    if work is None:
        statuses = _on_server(plan, manifest, options)
    else:
        statuses = _here(plan, manifest, work, options)
    report(options, _summary(manifest, statuses, time.monotonic() - started))
    _complain(plan, manifest, statuses, bool(options.server))


def _show(plan: Plan, folder: Path, options: Namespace) -> None:
    """List the jobs as they would run."""
    values = {job.name: job.describe() for job in plan.jobs}
    report(options, {"files": {"out": str(folder)}, "jobs": values})
    if not options.json:
        for name, fields in values.items():
            say(f"{name:<24} " + "  ".join(f"{field}={value}" for field, value in fields.items()))


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


def adapt_options(plan: Plan, job: BatchJob, folder: Path, options: Namespace) -> Namespace:
    """Build the options of `oneshot adapt` for a job.

    Args:
        plan: of the job.
        job: with target and generator.
        folder: the job's results go to a folder in it, named as the job.
        options: those of `batch`: device, threads, quiet, fresh; `parse` reads a command line.

    Raises:
        BadInput: `adapt` does not know an option of the job, or not such a value.
    """
    file = plan.generator_file(job)
    words = [
        "adapt",
        f"--generator={file or job.generator}",
        f"--target={job.target}",
        f"--out={folder / job.name}",
    ]
    words += [
        f"--{name}={value}" for name, value in (("seed", job.seed), ("steps", job.steps)) if value is not None
    ]
    words += [f"--device={options.device}"] + ([f"--threads={options.threads}"] if options.threads else [])
    words += [f"--{name}" for name in ("quiet", "fresh") if getattr(options, name)]
    for name, value in job.options.items():
        if name.replace("-", "_") in OWN_OPTIONS:
            raise BadInput(
                f"job {job.name!r}: {name!r} is no option of a job; it is a field, or batch's own option"
            )
        words += list(_words(f"--{name.replace('_', '-')}", value))
    return _parsed(job, words, options.parse)


def _words(name: str, value: Any) -> Iterator[str]:
    """Write a JSON value as options: true as a flag, an object as NAME=VALUE each, a list as one each."""
    if value is True:
        yield name
    elif isinstance(value, dict):
        yield from (f"{name}={key}={one}" for key, one in value.items())
    elif isinstance(value, list):
        yield from (f"{name}={one}" for one in value)
    elif value is not False and value is not None:
        yield f"{name}={value}"


def _parsed(job: BatchJob, words: Sequence[str], parse: Callable[[Sequence[str]], Namespace]) -> Namespace:
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            return parse(words)
    except SystemExit:
        reason = told.getvalue().strip().rpartition("error: ")[2]
        raise BadInput(f"job {job.name!r}: {reason}") from None


def _here(
    plan: Plan, manifest: Manifest, work: Mapping[str, Namespace], options: Namespace
) -> dict[str, str]:
    """Run the jobs in this process; one that fails does not stop the others."""
    statuses = {}
    for number, job in enumerate(plan.jobs, start=1):
        key = plan.key(job, on_server=False)
        if not manifest.is_done(job.name, key):
            if not options.quiet:
                note(f"{job.name} ({number} of {len(plan.jobs)})")
            _run_here(job, key, manifest, work[job.name])
        statuses[job.name] = str(manifest.entry(job.name, key)["status"])
    return statuses


def _run_here(job: BatchJob, key: str, manifest: Manifest, words: Namespace) -> None:
    entry: dict[str, Any] = {"key": key, "status": OPEN, "settings": job.describe()}
    manifest.record(job.name, entry)
    try:
        result = run_job(*open_job(words))
    except (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        logger.debug("job %s", job.name, exc_info=True)
        manifest.record(job.name, {**entry, "status": FAILED, "error": one_line(error)})
        note(f"{job.name} failed: {one_line(error)}")
        return
    files = [
        {"path": Path(path).relative_to(manifest.folder).as_posix(), "kind": kind}
        for kind, path in result["files"].items()
    ]
    facts: dict[str, Any] = {name: result[name] for name in ("step", "losses", "seconds") if name in result}
    done = {**entry, "status": DONE, "files": files, **facts}
    manifest.record(job.name, done)
    if not manifest.is_done(job.name, key):  # what an earlier run left there may be damaged
        reason = f"files of {job.name} are empty or missing; add --fresh to make them anew"
        manifest.record(job.name, {**done, "status": FAILED, "error": reason})
        note(f"{job.name} failed: {reason}")


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
