"""A batch on a Ray cluster: each recipe is a task, on one GPU or a part of one, or on CPUs.

Results, training states and the manifest lie in one folder that all nodes see; a task that is lost with its
worker, its node or the whole cluster is handed out again and goes on from the last state that was saved.
Ray itself is used by another process (`ray_driver.py`), which is started again when the cluster was lost.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..memory import one_line
from ..writing import MARK, claim
from .jobs import BatchJob, Plan
from .local import begin, fail, finish, key_of
from .manifest import CANCELLED, Manifest
from .sharing import BatchWatcher

log = logging.getLogger(__name__)

LOCAL = "local"  # a cluster of this machine, for one run
WINDOW = 1000  # jobs that Ray has at a time: enough that a cluster can see how much it should grow
MAX_CRASHES = 3
MAX_MISPLACED = 10
MAX_FRUITLESS = 3  # clusters in a row that were lost before a job ended
SILENCE_SECONDS = 60.0  # of the other process; then the cluster is taken for lost
STOP_SECONDS = 40.0  # for it to end: tasks between two steps, then the cluster that it started
RETRY_SECONDS = 2.0
ROOT = Path(__file__).parents[2]  # where the package lies, here and, by this path or installed, on the nodes


class ClusterError(OSError):
    """A cluster that cannot run the batch, or that was lost and did not come back; jobs stay open."""


@dataclass(frozen=True)
class RayTask:
    """What every task is told beside its recipe.

    Args:
        gpus: GPUs of each, such as 1 or 0.25; 0: it computes on CPUs; None: 1 where the cluster has any.
        cpus: CPU cores of each, and threads: on CPUs the result's last bits depend on their number.
        seeds: samples in the grid.
        with_discriminator: whether the results' files hold it.
        fresh: throw an earlier run of a job away.
        offline: never download weights.
    """

    gpus: float | None = None
    cpus: int = 1
    seeds: tuple[int, ...] = tuple(range(8))
    with_discriminator: bool = True
    fresh: bool = False
    offline: bool = False

    def __post_init__(self) -> None:
        if self.gpus is not None and not (0 <= self.gpus < 1 or float(self.gpus).is_integer()):
            raise ValueError(
                f"gpus must be a whole number or a part of one GPU, such as 0.25, got {self.gpus}"
            )

    def values(self) -> dict[str, Any]:
        """What of it goes with each job."""
        return {
            "seeds": list(self.seeds),
            "with_discriminator": self.with_discriminator,
            "threads": self.cpus,
            "offline": self.offline,
        }


@dataclass
class _Job:
    """A job that Ray has."""

    job: BatchJob
    key: str
    fresh: bool
    crashes: int = 0
    misplaced: int = 0  # times that a node could not do it


@dataclass
class _Driver:
    """The other process; see `ray_driver`."""

    process: subprocess.Popen[str]
    errors: Path
    place: str | None
    events: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)

    @classmethod
    def started(cls, settings: Mapping[str, Any]) -> _Driver:
        """Start it, in a session of its own, so that a Ctrl-C is not its own to handle."""
        handle, errors = tempfile.mkstemp(prefix="oneshot-ray-", suffix=".log")
        place = None
        if settings["address"] == LOCAL:  # Ray's sockets need short names
            place = tempfile.mkdtemp(prefix="oneshot-ray-", dir="/tmp" if os.name == "posix" else None)
        with os.fdopen(handle, "wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "oneshot_core.runners.ray_driver"],
                cwd=ROOT,
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                text=True,
                start_new_session=True,
            )
        found = cls(process, Path(errors), place)
        threading.Thread(target=found._read, daemon=True).start()
        found.send({**settings, "place": place, "log": str(errors)})
        return found

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.put(json.loads(line))
        self.events.put({"event": "over"})

    def send(self, values: Mapping[str, Any]) -> None:
        """Tell it something; where it is gone, its end says so."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(values) + "\n")
            self.process.stdin.flush()
        except OSError:
            return

    def next(self, seconds: float) -> dict[str, Any] | None:
        """Wait for an event; None after so many seconds without one."""
        try:
            return self.events.get(timeout=seconds)
        except queue.Empty:
            return None

    def last_words(self) -> str:
        """What it wrote last."""
        lines = self.errors.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")

    def end(self, patiently: bool) -> None:
        """End it and all that it started; patiently: its tasks end between two steps."""
        if patiently:
            self.send({"stop": True})
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()  # it stops for that, too
        except OSError:
            pass
        try:
            self.process.wait(STOP_SECONDS if patiently else RETRY_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        if os.name == "posix":  # a cluster that it started shares its session, and its death
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        else:
            self.process.kill()
        self.process.wait()
        self.errors.unlink(missing_ok=True)
        if self.place is not None:
            shutil.rmtree(self.place, ignore_errors=True)


class RayRun:
    """One run of a plan on a Ray cluster.

    Args:
        plan: checked for runs here; its folder and its files' names are absolute.
        manifest: in a folder that all nodes see, by an absolute path, too.
        watcher: is told what happens.
        address: "auto", "HOST:PORT", "ray://HOST:PORT"; "local": a cluster of this machine, for this run.
        task: what every task is told.
        cores: of a local cluster.
        patience_seconds: how long a cluster that was lost is waited for.

    Raises:
        ValueError: Ray is not installed.
    """

    def __init__(
        self,
        plan: Plan,
        manifest: Manifest,
        watcher: BatchWatcher,
        address: str = "auto",
        task: RayTask = RayTask(),
        cores: int = 1,
        patience_seconds: float = 600.0,
    ) -> None:
        if find_spec("ray") is None:
            raise ValueError(
                'batches on a Ray cluster need the package ray; install it, or the extra "ray": '
                "pip install oneshot-stylegan[ray]"
            )
        self._plan, self._manifest, self._watcher, self._task = plan, manifest, watcher, task
        self._address, self._cores, self._patience = address, cores, patience_seconds
        self._jobs: dict[str, _Job] = {}  # that Ray has, by name
        self._left: Iterator[_Job] | None = self._walk()
        self._ended_since_start = 0
        self._fruitless = 0
        self._heard = 0.0
        self._unfit_nodes: set[str] = set()
        self._gpus = task.gpus  # of each job; from the first cluster on, whatever a later one lacks
        self.opened = 0  # how often a worker read networks from files
        self.statuses: dict[str, str] = {}

    def _walk(self) -> Iterator[_Job]:
        """Jobs that are not done."""
        for job in self._plan.jobs:
            key = key_of(self._plan, job, self._manifest, self._watcher.message)
            if key is not None and not self._manifest.is_done(job.name, key):
                yield _Job(job, key, self._task.fresh)
            else:
                self.statuses[job.name] = self._manifest.status(job.name)

    def run(self) -> dict[str, str]:
        """Run what is not done yet.

        Returns:
            Status of every job of the plan by name.

        Raises:
            ClusterError: no cluster, one that cannot run the batch, or one that was lost for too long.
        """
        held = claim(self._manifest.folder / f".shared{MARK}")  # what tasks look for
        assert held is not None, "whoever runs a batch holds its folder"
        try:
            self._fill(None)
            while self._jobs:
                self._on_cluster(str(held.path))
        finally:
            held.release()
        return self.statuses

    def _on_cluster(self, probe: str) -> None:
        """Join or start a cluster and use it until all jobs have ended, or it is lost."""
        driver = self._joined(probe)
        patiently = True
        try:
            for one in self._jobs.values():
                self._hand_out(driver, one)
            while self._jobs:
                event = driver.next(1.0)
                if event is None and time.monotonic() - self._heard < SILENCE_SECONDS:
                    continue
                if event is None or event["event"] in ("over", "failed"):
                    patiently = False
                    self._note_loss(str((event or {}).get("reason") or driver.last_words()))
                    return
                self._heard = time.monotonic()
                self._take(driver, event)
        finally:
            driver.end(patiently)

    def _joined(self, probe: str) -> _Driver:
        """Start the other process and wait until it has a cluster; try again within the patience."""
        settings = {
            "address": self._address, "gpus": self._gpus, "cpus": self._task.cpus, "cores": self._cores,
            "probe": probe,
        }  # fmt: skip
        until = time.monotonic() + self._patience
        first = not self._fruitless and not self._ended_since_start
        while True:
            driver = _Driver.started(settings)
            try:
                event = self._first_word(driver)
            except BaseException:
                driver.end(patiently=False)
                raise
            if event["event"] == "ready":
                self._ended_since_start, self._heard = 0, time.monotonic()
                self._gpus = event["gpus"]
                self._watcher.message(_told_cluster(event))
                return driver
            reason = str(event.get("reason") or driver.last_words())
            driver.end(patiently=False)
            if first or time.monotonic() > until:  # one that was restarted gets its nodes one by one
                raise ClusterError(f"the Ray cluster {self._address} cannot be used: {reason}")
            time.sleep(RETRY_SECONDS)

    def _first_word(self, driver: _Driver) -> dict[str, Any]:
        while True:
            event = driver.next(1.0)
            if event is not None and event["event"] == "note":
                self._watcher.message(str(event["text"]))
            elif event is not None:
                return event

    def _note_loss(self, words: str) -> None:
        """The cluster is gone: what it had is handed out again; its jobs are not to blame."""
        self._fruitless = 0 if self._ended_since_start else self._fruitless + 1
        if self._fruitless >= MAX_FRUITLESS:
            raise ClusterError(
                f"{self._fruitless} Ray clusters in a row were lost before a job ended: {words}"
            )
        self._watcher.message(
            f"the Ray cluster is lost ({words}); waiting up to {self._patience:.0f} seconds for it"
        )

    def _hand_out(self, driver: _Driver, one: _Job) -> None:
        recipe = self._plan.recipe(one.job).values()
        place = {"folder": str(self._manifest.folder / one.job.name), "fresh": one.fresh}
        driver.send({"job": one.job.name, "recipe": recipe, **place, **self._task.values()})

    def _fill(self, driver: _Driver | None) -> None:
        """Take further jobs of the plan, as many as Ray may have."""
        while self._left is not None and len(self._jobs) < WINDOW:
            one = next(self._left, None)
            if one is None:
                self._left = None
                return
            self._jobs[one.job.name] = one
            if driver is not None:
                self._hand_out(driver, one)

    def _take(self, driver: _Driver, event: Mapping[str, Any]) -> None:
        """Take in what the other process tells."""
        one = self._jobs.get(event.get("job", ""))
        kind = event["event"]
        if one is None:  # a sign of life, or a late word of a job that has ended
            return
        log.debug("%s: %s", one.job.name, event)
        if kind == "started":
            begin(self._manifest, one.job, one.key)
        elif kind == "progress":
            one.fresh = False  # what was there is thrown away; from now on it is this run's
            self._watcher.progress(one.job.name, event["done"], event["total"], event["losses"])
        elif kind == "opened":
            self.opened += event["count"]
        elif kind == "lost":
            self._lost(driver, one, str(event["reason"]))
        elif kind == "ended" and "unfit" in event["result"]:
            self._unfit(driver, one, event["result"])
        elif kind == "ended":
            self._end(one, event["result"])
            self._fill(driver)

    def _lost(self, driver: _Driver, one: _Job, reason: str) -> None:
        """A worker is gone: its job goes on from its last saved state, on another worker."""
        one.crashes += 1
        if one.crashes < MAX_CRASHES:
            self._watcher.message(f"{one.job.name}: its worker is gone ({reason}); handed out again")
            self._hand_out(driver, one)
            return
        self._close(one, f"its worker was lost {one.crashes} times: {reason}")
        self._fill(driver)

    def _unfit(self, driver: _Driver, one: _Job, result: Mapping[str, Any]) -> None:
        """A node cannot do any job: this one goes to others, though not for ever."""
        one.misplaced += 1
        if one.misplaced < MAX_MISPLACED:
            if result["node"] not in self._unfit_nodes:
                self._unfit_nodes.add(str(result["node"]))
                self._watcher.message(f"{result['unfit']}; its jobs are handed out again")
            self._hand_out(driver, one)
            return
        self._close(one, str(result["unfit"]))
        self._fill(driver)

    def _end(self, one: _Job, result: Mapping[str, Any]) -> None:
        if result.get("cancelled"):
            self._close(one, "somebody cancelled its task in the cluster", status=CANCELLED)
            return
        if "error" in result:
            facts = {name: result[name] for name in ("seconds", "versions") if name in result}
            self._close(one, str(result["error"]), **facts)
            return
        try:
            reason = finish(self._manifest, one.job, one.key, result)
        except (ValueError, OSError) as error:  # such as a file that is not here
            reason = one_line(error)
            fail(self._manifest, one.job, one.key, reason)
        self._ended(one)

    def _close(self, one: _Job, reason: str, **facts: Any) -> None:
        fail(self._manifest, one.job, one.key, reason, **facts)
        self._ended(one)

    def _ended(self, one: _Job) -> None:
        del self._jobs[one.job.name]
        self._ended_since_start += 1
        entry = self._manifest.last(one.job.name)
        self.statuses[one.job.name] = str(entry["status"])
        self._watcher.finished(one.job.name, entry)


def _told_cluster(event: Mapping[str, Any]) -> str:
    counts = [f"{event['resources'][name]:g} {name}s" for name in ("GPU", "CPU") if event["resources"][name]]
    each = f"{event['gpus']:g} GPU for each job" if event["gpus"] else "jobs compute on CPUs"
    return f"on a Ray cluster of {' and '.join(counts)}; {each}"
