"""A plan on several ComfyUI servers: each takes a job when it is idle, and gives back what it loses."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .answers import Outcome
from .comfy import RETRY_SECONDS, ServerRun, _Open
from .comfy_client import ComfyClient
from .jobs import Plan
from .manifest import FAILED, Manifest
from .server_check import check_server
from .sharing import BatchWatcher, Pool
from .transfer import ComfyError, ServerUnreachable, plain

log = logging.getLogger(__name__)

WINDOW = 2  # prompts in each queue: one runs, one waits, so that the server never idles
GIVE_BACK_SECONDS = 15.0  # a server that is silent for so long gives its jobs to the others
CHECKED_JOBS = 1000  # of the plan, for which a server is asked whether it has what they use
IDLE_SECONDS = 1.0


class LockedWatcher(BatchWatcher):
    """Passes on what several threads tell, one after the other."""

    def __init__(self, watcher: BatchWatcher) -> None:
        self._watcher, self._lock = watcher, threading.Lock()

    def progress(self, job: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        """Pass it on."""
        with self._lock:
            self._watcher.progress(job, done, total, losses)

    def finished(self, job: str, entry: Mapping[str, Any]) -> None:
        """Pass it on."""
        with self._lock:
            self._watcher.finished(job, entry)

    def message(self, text: str) -> None:
        """Pass it on."""
        with self._lock:
            self._watcher.message(text)


class SharedRun(ServerRun):
    """One server's part of a plan; see `ServerRun` and `ManyServers`."""

    window = WINDOW

    def serve(self, absent: ServerUnreachable | None) -> None:
        """Take jobs until there are none left for any server.

        Args:
            absent: why the server did not answer at the start; None: it did, and has what the jobs use.

        Raises:
            ServerUnreachable: it was silent for longer than the patience; its jobs went to others.
            ComfyError: its queue cannot be read, or it came back as something that cannot run the plan.
        """
        server = self._client.server
        try:
            with self._client.events() as events:
                if absent is None:
                    self._versions = self._client.versions()
                    self._pool.set_alive(server, True)
                else:
                    self._wait(absent)
                while not self._pool.is_over():
                    if not self._pool.is_suspect(server):
                        self._fill()
                    elif not self._open:
                        raise ComfyError(f"{server} fails jobs that other servers do; it gets no more")
                    if self._open:
                        self._follow(events)
                    else:
                        self._pool.wait(IDLE_SECONDS)
        finally:
            self._pool.retire(server)
            if not self._pool.stopped:
                self._give_back()

    def _wait(self, error: ServerUnreachable) -> None:
        """Wait until the server answers again; meanwhile the others get its jobs."""
        server, began, given = self._client.server, time.monotonic(), list[str]()
        self._may_be_lost = True
        self._watcher.message(f"{error}; waiting up to {self._patience:.0f} seconds for it")
        while time.monotonic() - began < self._patience and not self._pool.is_over():
            if time.monotonic() - began >= min(GIVE_BACK_SECONDS, self._patience / 2):
                self._pool.set_alive(server, False)
                if self._pool.has_others(server):
                    given += self._give_back()
            self._pool.wait(RETRY_SECONDS)
            try:
                self._versions = self._client.versions()
                if given:  # what it still has of them is another server's now
                    self._client.cancel(given)
            except ServerUnreachable as again:
                error = again
                continue
            except ComfyError as again:  # a proxy's page while the server behind it restarts
                error = ServerUnreachable(str(again))
                continue
            if problems := problems_of(self._plan, self._client):
                raise ComfyError(f"{server} cannot run the plan: {problems[0]}")
            self._watcher.message(f"{server} answers again")
            self._pool.set_alive(server, True)
            return
        if not self._pool.is_over():
            raise error

    def _give_back(self) -> list[str]:
        """Give all jobs back, and return their prompts' ids; one that stops servers has failed in the end."""
        ids = list(self._open)
        for one in list(self._open.values()):
            if one.runs and self._has_crashed(one):
                continue
            del self._open[one.prompt_id]
            one.taken.entry = one.entry
            self._pool.give_back([one.taken])
            self._watcher.message(f"{one.job.name}: given back by {self._client.server}")
        self._pool.release(self._client.server)
        return ids

    def _finish(self, one: _Open, outcome: Outcome) -> None:
        """Fetch the results; what failed here may be tried on another server."""
        if outcome.error is not None and not outcome.interrupted and self._goes_elsewhere(one, outcome.error):
            return
        super()._finish(one, outcome)

    def _close(self, one: _Open, status: str, **values: Any) -> None:
        refused = status == FAILED and not one.is_sent
        if refused and self._goes_elsewhere(one, str(values.get("error"))):
            return
        super()._close(one, status, **values)
        if status != FAILED:
            self._pool.went_well(self._client.server, one.taken)

    def _goes_elsewhere(self, one: _Open, reason: str) -> bool:
        """Give a job that failed to another server, once: it may be this server's fault."""
        if not self._pool.goes_elsewhere(self._client.server, one.taken):
            return False
        self._watcher.message(
            f"{one.job.name}: failed on {self._client.server} ({plain(reason)}); another server tries it"
        )
        del self._open[one.prompt_id]
        one.taken.entry = one.entry
        self._pool.give_back([one.taken])
        return True


class ManyServers:
    """One run of a plan on several servers; see `ServerRun`.

    Args:
        plan: checked for a server.
        clients: of the servers.
        manifest: in the folder of the results.
        watcher: is told what happens.
        patience_seconds: how long a server that stopped answering is waited for.
        poll_seconds: between looks at queue and history; None: as good for the connection.
    """

    def __init__(
        self,
        plan: Plan,
        clients: Sequence[ComfyClient],
        manifest: Manifest,
        watcher: BatchWatcher,
        patience_seconds: float = 600.0,
        poll_seconds: float | None = None,
    ) -> None:
        watcher = LockedWatcher(watcher)
        self._plan, self._clients, self._watcher = plan, clients, watcher
        self._pool = Pool(plan, manifest, watcher, [client.server for client in clients])
        self._runs = [
            SharedRun(plan, client, manifest, watcher, patience_seconds, poll_seconds, self._pool)
            for client in clients
        ]
        self._errors: list[Exception] = []
        self._unfit: set[str] = set()

    def run(self) -> dict[str, str]:
        """Run what is not done yet.

        Returns:
            Status of every job of the plan by name.

        Raises:
            ServerUnreachable, ComfyError: no server can run the plan, or none is left; what is not done stays
                open.
            PlanError, OSError: the plan cannot be read to its end; so, too.
        """
        absent = self._first_look()
        threads = [
            threading.Thread(target=self._serve, args=(run, absent.get(client.server)), daemon=True)
            for run, client in zip(self._runs, self._clients, strict=True)
            if client.server not in self._unfit
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # in slices, so that a signal is heard
                    thread.join(IDLE_SECONDS)
        finally:
            self._pool.stop()
            for thread in threads:
                thread.join()
        if self._pool.broken is not None:
            raise self._pool.broken
        if self._pool.is_left():
            raise self._errors[-1]
        return self._pool.statuses

    def _first_look(self) -> dict[str, ServerUnreachable]:
        """Ask every server whether it can run the plan; returns those that do not answer yet.

        Raises:
            ServerUnreachable, ComfyError: none can.
        """
        absent: dict[str, ServerUnreachable] = {}
        for client in self._clients:
            try:
                client.versions()
                problems = problems_of(self._plan, client)
            except ServerUnreachable as error:
                absent[client.server] = error
                continue
            except ComfyError as error:
                problems = (str(error),)
            if problems:
                self._unfit.add(client.server)
                self._pool.retire(client.server)
                self._watcher.message(f"{client.server} is left out: {problems[0]}")
        if len(absent) + len(self._unfit) < len(self._clients):
            return absent
        if absent:
            raise next(iter(absent.values()))
        raise ComfyError("none of the servers can run the plan; --check says what each lacks")

    def _serve(self, run: SharedRun, absent: ServerUnreachable | None) -> None:
        try:
            run.serve(absent)
        except Exception as error:
            log.debug("a server is left", exc_info=True)
            self._errors.append(error)
            if error is not self._pool.broken:
                self._watcher.message(f"{plain(error)}; the other servers go on")


def problems_of(plan: Plan, client: ComfyClient) -> tuple[str, ...]:
    """Say what a server that answers lacks for the first jobs of a plan."""
    return check_server(plan, client, CHECKED_JOBS).problems
