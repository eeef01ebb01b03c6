"""The verb batch: the jobs of a plan, one after the other in this process, or on ComfyUI servers."""

from __future__ import annotations

import signal
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ..inputs import OpenNetworks
from ..recipe import Recipe
from ..runners.comfy import ServerRun, withdraw
from ..runners.comfy_client import ComfyClient
from ..runners.jobs import Plan
from ..runners.local import run_here
from ..runners.manifest import DONE, Manifest, held
from ..runners.many import ManyServers
from ..runners.plan import read_plan
from ..runners.ray import RayRun, RayTask
from ..runners.results import Results, make
from ..runners.server_check import check_server
from ..runners.sharing import BatchWatcher
from ..sampling import parse_seeds
from ..store import FolderStore
from .console import BadInput, Failed, Interrupted, ProgressBar, note, say
from .following import followed
from .resources import open_all, out_folder, out_path, prepare, report, usable_cores

SHOWN_FAILURES = 3


def batch(options: Namespace) -> None:
    """`batch`: run a plan's jobs, skip those that are done, and write what became of each."""
    servers = [ComfyClient(address) for address in options.servers]
    if options.cancel and not servers:
        raise BadInput("--cancel takes jobs out of a server's queue; name it with --server")
    if len({client.server for client in servers}) < len(servers):
        raise BadInput("--server names a server twice; name each once")
    if options.ray and servers:
        raise BadInput("--ray and --server are two places to run the jobs; name one")
    # Nodes of a cluster work in folders of their own.
    plan = read_plan(Path(options.plan).absolute() if options.ray else options.plan)
    if not options.cancel:
        plan.check(on_server=bool(servers))
    folder = Path("out") / plan.name if options.out is None else out_path(options.out)
    if options.check:
        _show(plan, folder, servers, options)
        return
    started = time.monotonic()
    folder = out_folder(str(folder.absolute() if options.ray else folder))
    if options.cancel:
        with held(folder):
            manifest = Manifest(folder, plan.name)
            for client in servers:
                note(f"took {len(withdraw(client, manifest))} jobs out of the queue of {client.server}")
        return
    with held(folder):
        manifest = Manifest(folder, plan.name, fresh=options.fresh)
        if servers:
            statuses = _on_servers(plan, servers, manifest, options)
        elif options.ray:
            statuses = _on_cluster(plan, manifest, options)
        else:
            statuses = _here(plan, manifest, options)
    report(options, _summary(manifest, statuses, time.monotonic() - started))
    _complain(manifest, statuses)


def _show(plan: Plan, folder: Path, servers: list[ComfyClient], options: Namespace) -> None:
    """List the jobs as they would run, and what servers that are to run them say; raises Failed."""
    found = [check_server(plan, client) for client in servers]
    if options.json:
        asked: dict[str, Any] = {"servers": [one.values() for one in found]} if len(found) > 1 else {}
        asked |= {"server": found[0].values()} if len(found) == 1 else {}
        values = {job.name: job.describe() for job in plan.jobs}
        report(options, {"files": {"out": str(folder)}, "jobs": values, **asked})
    else:
        report(options, {"files": {"out": str(folder)}})
        for job in plan.jobs:
            fields = job.describe().items()
            say(f"{job.name:<24} " + "  ".join(f"{field}={value}" for field, value in fields))
    for one in found:
        begins = "problem" if len(found) == 1 else f"problem with {one.server}"
        for problem in one.problems:
            note(f"{begins}: {problem}")
    wrong = [one for one in found if one.problems]
    if wrong:
        count, names = sum(len(one.problems) for one in wrong), ", ".join(one.server for one in wrong)
        raise Failed(f"{count} problem{'s' * (count > 1)} with {names}; nothing was sent to it")
    for one in found if not options.json else ():
        say(
            f"{'server':<12} {one.server} is ComfyUI {one.versions['comfyui']} and has all "
            f"{len(one.node_types)} node types and the chosen values; {one.waiting} prompts in its queue"
        )


def _summary(manifest: Manifest, statuses: Mapping[str, str], seconds: float) -> dict[str, Any]:
    counts = dict(Counter(statuses.values()))
    files = {"manifest": str(manifest.path)}
    return {"files": files, "counts": counts, "jobs": dict(statuses), "seconds": round(seconds, 1)}


def _complain(manifest: Manifest, statuses: Mapping[str, str]) -> None:
    """Say which jobs are not done; raises Failed when there are any."""
    count = sum(status != DONE for status in statuses.values())
    if not count:
        return
    wrong = islice((name for name, status in statuses.items() if status != DONE), SHOWN_FAILURES)
    reasons = [f"{name}: {manifest.last(name).get('error', statuses[name])}" for name in wrong]
    more = f"; and {count - SHOWN_FAILURES} more" if count > SHOWN_FAILURES else ""
    raise Failed(
        f"{count} of {len(statuses)} jobs are not done ({'; '.join(reasons)}{more}); the same command "
        f"runs them again, {manifest.path} says more"
    )


def _here(plan: Plan, manifest: Manifest, options: Namespace) -> dict[str, str]:
    """Run the jobs in this process."""
    device, networks = prepare(options), OpenNetworks()
    results = Results(parse_seeds(options.seeds), with_discriminator=not options.without_discriminator)

    def work(recipe: Recipe, folder: Path) -> dict[str, Any]:
        inputs = open_all(recipe, device, options, networks=networks)
        store = FolderStore(out_folder(str(folder)), options.fresh)
        return make(recipe, inputs, store, results, partial(followed, quiet=options.quiet), note)

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


class _Overall(BatchWatcher):
    """One progress line for all jobs of several servers, or of a cluster."""

    def __init__(self, jobs: int, quiet: bool) -> None:
        self._bar, self._jobs, self._ended = ProgressBar("jobs", jobs, quiet=quiet), jobs, 0
        self._quiet = quiet

    def finished(self, job: str, entry: Mapping[str, Any]) -> None:
        """Count it, and say why where it is not done."""
        self._ended += 1
        if entry["status"] != DONE:
            self.message(f"{job}: {entry['status']}: {entry.get('error', '')}")
        losses = {name: value for name, value in entry.get("losses", {}).items() if value is not None}
        self._bar.update(self._ended, losses)

    def message(self, text: str) -> None:
        """Say it on a line of its own."""
        self._bar.close()
        note(text)

    def close(self) -> None:
        """End the line that is being drawn."""
        self._bar.close()


def _on_servers(
    plan: Plan, clients: list[ComfyClient], manifest: Manifest, options: Namespace
) -> dict[str, str]:
    """Let ComfyUI servers run the jobs; Ctrl-C leaves them in their queues."""
    names = ", ".join(client.server for client in clients)
    done = sum(status == DONE for status in manifest.statuses().values())
    if not options.quiet:
        note(f"{len(plan.jobs)} jobs on {names}" + (f"; {done} were done before" if done else ""))
    bars = (_Bars if len(clients) == 1 else _Overall)(len(plan.jobs) - done, options.quiet)
    try:
        if len(clients) == 1:
            return ServerRun(plan, clients[0], manifest, bars, options.patience).run()
        return ManyServers(plan, clients, manifest, bars, options.patience).run()
    except KeyboardInterrupt as stop:
        bars.close()
        goes = (
            "go on with what is in their queues" if len(clients) > 1 else "goes on with what is in its queue"
        )
        raise Interrupted(
            f"{names} {goes}; the same command collects the results, with "
            "--cancel it takes the rest out of the queue",
            getattr(stop, "number", signal.SIGINT),
        ) from None
    finally:
        bars.close()


def _on_cluster(plan: Plan, manifest: Manifest, options: Namespace) -> dict[str, str]:
    """Let a Ray cluster run the jobs; Ctrl-C ends them there, and their states stay."""
    done = sum(status == DONE for status in manifest.statuses().values())
    if not options.quiet:
        note(f"{len(plan.jobs)} jobs" + (f"; {done} were done before" if done else ""))
    task = RayTask(
        gpus=0.0 if options.device == "cpu" else options.gpus,
        cpus=options.threads or 1,
        seeds=parse_seeds(options.seeds),
        with_discriminator=not options.without_discriminator,
        fresh=options.fresh,
        offline=options.offline,
    )
    bar = _Overall(len(plan.jobs) - done, options.quiet)
    try:
        return RayRun(plan, manifest, bar, options.ray, task, usable_cores(), options.patience).run()
    except KeyboardInterrupt as stop:
        bar.close()
        raise Interrupted(
            "the tasks were ended, nothing of them is left on the cluster; the same command goes on from "
            "what they had saved",
            getattr(stop, "number", signal.SIGINT),
        ) from None
    finally:
        bar.close()
