"""The jobs of a plan that servers take one by one; what one gives back is taken by another."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .jobs import BatchJob, Plan, PlanError
from .manifest import FAILED, OPEN, Manifest

MAX_BLAME = 3  # jobs in a row that failed on a server and then went well on another


class BatchWatcher:
    """What a run tells about; override what is needed."""

    def progress(self, job: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        """A job that runs has done so many of its steps; `total` is an estimate until its last node began."""

    def finished(self, job: str, entry: Mapping[str, Any]) -> None:
        """A job ended; `entry` is its part of the manifest."""

    def message(self, text: str) -> None:
        """Something that the user should know."""


@dataclass
class Taken:
    """A job that a server has taken.

    Args:
        job: of the plan.
        key: see `Plan.key`.
        entry: what the manifest knows of it for this server: where an earlier client queued it, else empty.
        tried: server on which it failed, so that another one is asked whether that is the job's fault.
        stale: prompts of it, as the plan had it before, that are in this server's queue.
    """

    job: BatchJob
    key: str
    entry: dict[str, Any] = field(default_factory=dict)
    tried: str | None = None
    stale: list[str] = field(default_factory=list)


class Pool:
    """The jobs of a plan that are not done; threads may share it.

    Args:
        plan: checked for a server.
        manifest: of the batch.
        watcher: is told of jobs that end without a server.
        servers: that will take jobs; what an earlier client queued on one of them is given to that one.
    """

    def __init__(self, plan: Plan, manifest: Manifest, watcher: BatchWatcher, servers: Sequence[str]) -> None:
        self._manifest, self._watcher, self._servers = manifest, watcher, set(servers)
        self._walk: Iterator[tuple[BatchJob, str]] | None = self._keyed(plan)
        self._reserved = {server: deque[Taken]() for server in servers}
        self._returned: deque[Taken] = deque()
        self._alive: set[str] = set()
        self._blame: Counter[str] = Counter()  # by server: jobs in a row that went well elsewhere
        self._doubted: Counter[str] = (
            Counter()
        )  # by server: jobs that it failed and others have not tried yet
        self._out = 0  # jobs that servers have
        self._changed = threading.Condition(threading.RLock())
        self.stopped = False
        self.broken: Exception | None = None  # why the plan cannot be read to its end
        self.statuses: dict[str, str] = {}  # by job, of those that have ended or were done already

    def _keyed(self, plan: Plan) -> Iterator[tuple[BatchJob, str]]:
        """Jobs that are not done, with their keys; one whose files cannot be read any more has failed."""
        for job in plan.jobs:
            try:
                key = plan.key(job, on_server=True)
            except PlanError as error:
                entry = {"key": "", "status": FAILED, "error": str(error), "settings": job.describe()}
                self._manifest.record(job.name, entry)
                self.statuses[job.name] = FAILED
                self._watcher.finished(job.name, entry)
                continue
            if self._manifest.is_done(job.name, key):
                self.statuses[job.name] = self._manifest.status(job.name)
            else:
                yield job, key

    def take(self, server: str) -> Taken | None:
        """Give a server its next job; None when there is none for it now."""
        with self._changed:
            found = None if self.stopped else self._found(server)
            self._out += found is not None
            return found

    def _found(self, server: str) -> Taken | None:
        if self._reserved[server]:
            return self._reserved[server].popleft()
        if self._doubted[server] >= MAX_BLAME and self._others(server):
            return None  # until others have tried what it failed
        for one in self._returned:
            if one.tried != server or not self._others(server):
                self._returned.remove(one)
                return one
        while self._walk is not None:
            found = self._next()
            if found is None:
                self._walk = None
                break
            one, known = Taken(*found), self._manifest.last(found[0].name)
            owner = str(known.get("server"))
            if not is_open_on(known, owner) or owner not in self._servers:
                return one
            if known["key"] == one.key:
                one.entry = known
            else:
                one.stale.append(str(known["prompt_id"]))
            if owner == server:
                return one
            self._reserved[owner].append(one)
            self._changed.notify_all()
        return None

    def _next(self) -> tuple[BatchJob, str] | None:
        assert self._walk is not None
        try:
            return next(self._walk, None)
        except Exception as error:
            self.broken = error  # a generator that raised looks like one that has come to its end
            self.stop()
            raise

    def end(self, one: Taken, status: str) -> None:
        """Note that a job has ended for good."""
        with self._changed:
            self._out -= 1
            if one.tried is not None:
                self._doubted[one.tried] -= 1
            self.statuses[one.job.name] = status
            self._changed.notify_all()

    def give_back(self, jobs: Sequence[Taken]) -> None:
        """Take jobs back that a server does not finish; another one gets them."""
        with self._changed:
            self._out -= len(jobs)
            for one in jobs:
                crashes = one.entry.get("crashes")
                one.entry = {"crashes": crashes} if crashes else {}
                self._returned.append(one)
            self._changed.notify_all()

    def is_over(self) -> bool:
        """Whether nothing is left, with any server."""
        with self._changed:
            return self.stopped or not self.is_left()

    def is_left(self) -> bool:
        """Whether a job has not ended."""
        with self._changed:
            waiting = self._returned or any(self._reserved.values())
            return bool(self._out or waiting or self._walk is not None)

    def wait(self, seconds: float) -> None:
        """Wait until something changes, at most so long."""
        with self._changed:
            if not self.stopped:
                self._changed.wait(seconds)

    def stop(self) -> None:
        """Give no more jobs."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    # Which servers can be asked ----------------------------------------------------------------------

    def set_alive(self, server: str, alive: bool) -> None:
        """Note whether a server works."""
        with self._changed:
            (self._alive.add if alive else self._alive.discard)(server)
            self._changed.notify_all()

    def has_others(self, server: str) -> bool:
        """Whether another server works."""
        with self._changed:
            return self._others(server)

    def _others(self, server: str) -> bool:
        return bool(self._alive - {server})

    def retire(self, server: str) -> None:
        """Note that a server takes no more jobs; what was queued on it goes to the others."""
        with self._changed:
            self._servers.discard(server)
            self._alive.discard(server)
            self.release(server)

    def release(self, server: str) -> None:
        """Give what an earlier client had queued on a server to the others."""
        with self._changed:
            reserved = self._reserved[server]
            self._out += len(reserved)
            self.give_back(list(reserved))
            reserved.clear()

    def goes_elsewhere(self, server: str, one: Taken) -> bool:
        """Decide what becomes of a job that failed: True where another server is to try it, once."""
        with self._changed:
            if one.tried is None and self._others(server):
                one.tried = server
                self._doubted[server] += 1
                return True
            if one.tried not in (None, server):
                self._blame[str(one.tried)] = 0  # it fails everywhere
            return False

    def went_well(self, server: str, one: Taken) -> None:
        """Note that a server finished a job; one that failed on another server tells against that one."""
        with self._changed:
            self._blame[server] = 0
            if one.tried not in (None, server):
                self._blame[str(one.tried)] += 1

    def is_suspect(self, server: str) -> bool:
        """Whether a server fails what others can do."""
        with self._changed:
            return self._blame[server] >= MAX_BLAME and self._others(server)


def is_open_on(entry: Mapping[str, Any], server: str) -> bool:
    """Whether a job's part of the manifest says that this server has it in its queue."""
    return entry.get("status") == OPEN and entry.get("server") == server and "prompt_id" in entry
