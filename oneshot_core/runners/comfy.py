"""Running a plan on a ComfyUI server: queue what is missing, follow it, fetch the results, over restarts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from ..writing import WriteError
from .answers import Event, Outcome, Report, SavedFile
from .comfy_client import ComfyClient
from .downloads import is_fetched, is_picture
from .events import EventStream
from .jobs import BatchJob, Plan, given
from .manifest import CANCELLED, DONE, FAILED, OPEN, Manifest
from .names import local_name
from .pictures import picture_path
from .sharing import BatchWatcher, Pool, Taken, is_open_on
from .transfer import ComfyError, ServerUnreachable, plain
from .workflow import expected_steps, filled

TRAINING = "OneShotAdapt"
REPORTING = (
    TRAINING, "CLIPLatentSearch", "OneShotApplyLook", "OneShotLoadEncoders", "OneShotLoadLatent",
    "OneShotSaveGenerator",
)  # fmt: skip
MAX_CRASHES = 3
MAX_NODES = 10_000
MAX_BREAKS = 5  # connections that broke over one job, or over the queue, while the server answers otherwise
POLL_SECONDS, SLOW_POLL_SECONDS = 2.0, 10.0  # without and with the websocket
RETRY_SECONDS = 2.0
SLICE_SECONDS = 0.5  # of a wait for events, after which it is seen whether the run was stopped
WINDOW = 1000  # prompts in the queue at once: with them the server goes on alone
_Result = TypeVar("_Result")


@dataclass
class _Open:
    """A job that the server has not finished; its prompt may be there from an earlier client."""

    taken: Taken
    entry: dict[str, Any]
    is_sent: bool = False
    is_new: bool = True  # its prompt's id was made now, so that the server cannot know it
    nodes: dict[str, int] = field(default_factory=dict)  # steps in all by node
    done: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    began: float | None = None
    runs: bool = False
    breaks: dict[str, int] = field(default_factory=dict)  # connections that broke in a row, by what was done

    @property
    def job(self) -> BatchJob:
        return self.taken.job

    @property
    def prompt_id(self) -> str:
        return str(self.entry["prompt_id"])


class ServerRun:
    """One run of a plan on a server.

    Prompt ids are written to the manifest before the prompts are sent, so that a client that was stopped, or
    a server that was restarted, loses nothing: what is in neither the server's queue nor its history is sent
    again, a job that was running when the server stopped at most twice.
    A prompt that disappears while the connection stood was removed by somebody and counts as cancelled.
    What the server answers about one job, or sends as its files, ends that job at most, with one line.

    Args:
        plan: checked for a server.
        client: of the server.
        manifest: in the folder of the results.
        watcher: is told what happens.
        patience_seconds: how long a server that stopped answering is waited for.
        poll_seconds: between looks at queue and history; None: as good for the connection.
        pool: the jobs, shared with other runs; None: all of the plan's.
    """

    window = WINDOW

    def __init__(
        self,
        plan: Plan,
        client: ComfyClient,
        manifest: Manifest,
        watcher: BatchWatcher,
        patience_seconds: float = 600.0,
        poll_seconds: float | None = None,
        pool: Pool | None = None,
    ) -> None:
        self._plan, self._client, self._manifest, self._watcher = plan, client, manifest, watcher
        self._patience, self._poll = patience_seconds, poll_seconds
        self._pool = pool or Pool(plan, manifest, watcher, [client.server])
        self._open: dict[str, _Open] = {}
        self._may_be_lost = True
        self._unread = 0  # looks at the queue in a row that failed
        self._versions: dict[str, str] = {}  # of the server

    def run(self) -> dict[str, str]:
        """Run what is not done yet.

        Returns:
            Status of every job of the plan by name.

        Raises:
            ServerUnreachable: it did not answer at the start, or not within the patience later.
            ComfyError: it is no ComfyUI, or its queue cannot be read; what it has queued stays open.
        """
        self._versions = self._client.versions()
        with self._client.events() as events:
            self._fill()
            while self._open:
                self._follow(events)
                self._fill()
        return self._pool.statuses

    def _follow(self, events: EventStream) -> None:
        """Look at the server once, and listen until it is time to look again."""
        try:
            self._look(events)
            self._listen(events)
        except ServerUnreachable as error:
            self._wait(error)

    def _fill(self) -> None:
        """Take jobs; one that an earlier client sent keeps its prompt id."""
        taken: list[_Open] = []
        while len(self._open) < self.window and (one := self._pool.take(self._client.server)) is not None:
            entry = {
                **one.entry,
                "key": one.key,
                "status": OPEN,
                "server": self._client.server,
                "prompt_id": one.entry.get("prompt_id") or str(uuid.uuid4()),
                "settings": one.job.describe(),
            }
            taken.append(_Open(one, entry, is_new="prompt_id" not in one.entry))
            self._open[entry["prompt_id"]] = taken[-1]
        if taken:
            self._manifest.record_all([(one.job.name, one.entry) for one in taken])

    def _look(self, events: EventStream) -> None:
        """Compare with the server: finish what is in its history, send what it does not know."""
        if events.was_cut():
            self._may_be_lost = True
        queued = self._queued()
        for one in list(self._open.values()):
            if one.prompt_id in queued:
                one.runs, one.is_sent = one.runs or queued[one.prompt_id], True
                continue
            if one.is_new and not one.is_sent:
                self._send(one)
                continue
            outcome = self._tried(one, "look", partial(self._client.history, one.prompt_id))
            if one.prompt_id not in self._open:
                continue
            if outcome is not None:
                self._finish(one, outcome)
            elif self._may_be_lost or not one.is_sent:
                self._send_again(one) if one.runs else self._send(one)
            elif events.was_cut():  # only now: look again at everything
                self._may_be_lost = True
                return
            else:
                self._close(one, CANCELLED, error="somebody removed it from the server's queue or history")
        self._may_be_lost = False

    def _queued(self) -> dict[str, bool]:
        """The queue; a server that answers all but this, again and again, ends the run."""
        try:
            queued = self._client.queued()
        except ComfyError as error:
            self._unread += 1
            if self._unread >= MAX_BREAKS:
                raise ComfyError(f"the queue of {self._client.server} cannot be read: {error}") from error
            raise ServerUnreachable(str(error)) from error
        self._unread = 0
        return queued

    def _tried(self, one: _Open, what: str, work: Callable[[], _Result]) -> _Result | None:
        """Do something for one job; what goes wrong ends this job and no other.

        A broken connection passes through, so that the server is waited for, but not again and again; and so
        does a disk that refuses results: they stay on the server for the next run.
        """
        try:
            result = work()
        except ServerUnreachable as error:
            one.breaks[what] = one.breaks.get(what, 0) + 1
            if one.breaks[what] < MAX_BREAKS:
                raise
            self._close(one, FAILED, error=plain(f"{error} ({MAX_BREAKS} times in a row)"))
            return None
        except WriteError:
            raise
        except (OSError, ValueError) as error:  # refused, or not what it should be; no such file
            self._close(one, FAILED, error=plain(error))
            return None
        one.breaks[what] = 0
        return result

    def _send_again(self, one: _Open) -> None:
        """Queue a job again that was running when the server stopped, but not one that always stops it."""
        if not self._has_crashed(one):
            self._watcher.message(f"{one.job.name}: the server stopped while it ran; queued again")
            self._manifest.record(one.job.name, one.entry)
            self._send(one)

    def _has_crashed(self, one: _Open) -> bool:
        """Count that a server stopped while it ran a job; True where that makes the job's end."""
        crashes = one.entry.get("crashes", 0) + 1
        one.entry["crashes"], one.runs = crashes, False
        if crashes < MAX_CRASHES:
            return False
        self._close(one, FAILED, error=f"the server stopped {crashes} times while it ran this job")
        return True

    def _send(self, one: _Open) -> None:
        """Upload the target and queue the job."""
        one.is_new = False  # even when the answer is lost

        def send() -> tuple[dict[str, int], list[str]]:
            if one.taken.stale:
                self._client.cancel(one.taken.stale)
            image = None if one.job.target is None else self._client.upload_image(one.job.target)
            fields = given(one.job, image)
            workflow = filled(self._plan.workflow or {}, one.job.name, fields, one.job.inputs)
            return expected_steps(workflow), self._client.submit(workflow, one.prompt_id)

        sent = self._tried(one, "send", send)
        if sent is None:
            return
        one.nodes, one.done, one.is_sent = sent[0], {}, True
        if sent[1]:
            one.entry["warnings"] = sent[1]
            self._watcher.message(f"{one.job.name}: the server skips outputs: {'; '.join(sent[1])}")

    def _listen(self, events: EventStream) -> None:
        """Show progress until a prompt ends or the time for the next look has come."""
        seconds = self._poll or (SLOW_POLL_SECONDS if events.live else POLL_SECONDS)
        until = time.monotonic() + seconds
        while self._open and not self._pool.stopped and (left := until - time.monotonic()) > 0:
            event = events.next(min(left, SLICE_SECONDS))
            if event is not None and self._told(event):
                return

    def _told(self, event: Event) -> bool:
        """Take one event; True when a prompt of this run has ended and its history is there."""
        one = self._open.get(event.prompt_id)
        if one is None:
            return False
        if event.kind == "start":
            one.began, one.runs = time.monotonic(), True
        elif event.kind == "cached":
            one.done.update({node: one.nodes[node] for node in event.nodes if node in one.nodes})
        elif event.kind == "progress":
            (node,) = event.nodes
            if node in one.nodes or len(one.nodes) < MAX_NODES:
                one.done[node], one.nodes[node] = event.done, event.total
        elif event.kind == "losses":
            one.losses.update(event.losses)
        else:
            return True
        total = sum(one.nodes.values())
        if total:
            self._watcher.progress(one.job.name, sum(one.done.values()), total, one.losses)
        return False

    def _finish(self, one: _Open, outcome: Outcome) -> None:
        """Fetch the results of a prompt that ended, or say why it failed."""
        one.entry["versions"] = dict(self._versions)
        if outcome.seconds is not None:
            one.entry["seconds"] = outcome.seconds
        if outcome.error is not None:
            self._close(one, CANCELLED if outcome.interrupted else FAILED, error=outcome.error)
            return
        files = self._tried(one, "fetch", lambda: self._fetch(one, outcome.files))
        if files is not None:
            one.entry.update(self._facts(outcome.reports))
            self._close(one, DONE, files=files, **({} if files else {"saved_nothing": True}))

    def _facts(self, reports: Sequence[Report]) -> dict[str, Any]:
        """What the pack's nodes say of a job: last losses of its training, notes, versions.

        Where a workflow trains more than once, the names of the losses begin with the node's id.
        """
        nodes = self._plan.workflow or {}
        own = [one for one in reports if nodes.get(one.node, {}).get("class_type") in REPORTING]
        trained = [one for one in own if nodes[one.node]["class_type"] == TRAINING]
        losses = {
            name if len(trained) == 1 else f"{one.node}.{name}": value
            for one in trained
            for name, value in one.losses.items()
        }
        versions = {name: value for one in own for name, value in one.versions.items()}
        notes = [note for one in own for note in one.notes]
        return {
            "losses": losses,
            "notes": [*dict.fromkeys(notes)],
            "versions": {**self._versions, **versions},
        }

    def _fetch(self, one: _Open, found: Sequence[SavedFile]) -> list[dict[str, Any]]:
        """Download files: pictures to those of the batch, the rest into the job's folder by its own name."""
        wanted = [file for file in found if is_fetched(file.kind, file.filename)]
        left = [f"{plain(file.filename, 100)} was not fetched" for file in found if file not in wanted]
        if left:
            one.entry["warnings"] = [*dict.fromkeys([*one.entry.get("warnings", []), *left])]
        files: list[dict[str, Any]] = []
        for file in wanted:
            path = self._place(one.job, file, [file["path"] for file in files])
            facts = self._client.download(file, self._manifest.folder / path)
            where = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
            files.append({"path": path, "kind": file.kind, "node": file.node, **facts, "on_server": where})
        return files

    def _place(self, job: BatchJob, file: SavedFile, taken: list[str]) -> str:
        """Path of a file in the batch's folder: among the pictures, or in the job's own folder."""
        if is_picture(file.filename):
            return picture_path(self._manifest, job, file.filename, taken)
        start = f"{job.name}/"
        used = [path.removeprefix(start) for path in taken if path.startswith(start)]
        return f"{start}{local_name(file.filename, used)}"

    def _close(self, one: _Open, status: str, **values: Any) -> None:
        del self._open[one.prompt_id]
        if one.began is not None and "seconds" not in one.entry:
            values["seconds"] = round(time.monotonic() - one.began, 1)
        one.entry = {**one.entry, "status": status, **values}
        self._manifest.record(one.job.name, one.entry)
        self._pool.end(one.taken, status)
        self._watcher.finished(one.job.name, one.entry)

    def _wait(self, error: ServerUnreachable) -> None:
        """Wait until the server answers again; then it may have lost its queue."""
        self._may_be_lost = True
        until = time.monotonic() + self._patience
        self._watcher.message(f"{error}; waiting up to {self._patience:.0f} seconds for it")
        while time.monotonic() < until:
            time.sleep(min(RETRY_SECONDS, self._patience))
            try:
                self._versions = self._client.versions()
            except ServerUnreachable as again:
                error = again
            except ComfyError as again:  # a proxy's page while the server behind it restarts
                error = ServerUnreachable(str(again))
            else:
                self._watcher.message(f"{self._client.server} answers again")
                return
        raise error


def withdraw(client: ComfyClient, manifest: Manifest) -> list[str]:
    """Take a batch's open jobs out of a server's queue, whatever the plan is; interrupt the one that runs.

    Returns:
        Names of the jobs that were open on this server.
    """
    names = [name for name, status in manifest.statuses().items() if status == OPEN]
    entries = ((name, manifest.last(name)) for name in names)
    found = {name: entry for name, entry in entries if is_open_on(entry, client.server)}
    if found:
        client.cancel([entry["prompt_id"] for entry in found.values()])
        manifest.record_all([(name, {**entry, "status": CANCELLED}) for name, entry in found.items()])
    return list(found)
