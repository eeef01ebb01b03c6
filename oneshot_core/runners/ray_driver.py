"""The process that talks to Ray for a batch: lines of JSON come in and go out, so that the batch has no Ray.

Ray ends the processes that use it when its head is gone, writes to their output and handles their signals;
`runners/ray.py` starts this one, and starts another when it has ended so. It is run as a module:
`python -m oneshot_core.runners.ray_driver`.

In: `{"address", "gpus", "cpus", "cores", "place", "log", "probe"}` first, then a job's values for each task
(see `ray_task.follow`), or `{"stop": true}`; the end of the input stops it, too.
Out: `{"event": ...}`, one of ready, refused, failed, alive, started, opened, note, progress, ended, lost.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from ..run_folder import versions
from . import ray_task
from .ray import LOCAL

STORE_BYTES = 100 * 2**20  # of objects in a cluster of this machine: there are only texts
ROUND_SECONDS = 0.3  # of a wait for tasks that end
ALIVE_SECONDS = 2.0  # between two signs of life
PROBE_SECONDS = 180.0  # a cluster may have to start a node first
STOP_SECONDS = 15.0  # for tasks to end between two steps
EVENTS_SECONDS = 10.0  # for the actor to answer
SURE_SECONDS = 2.0  # after a loss the cluster must answer: else it was the cluster that was lost
LEAVE_SECONDS = 10.0  # for Ray to end a cluster in order; on a busy machine it takes its time
LOST_SECONDS = 30.0  # without any answer: Ray itself would go on waiting for a head that was restarted
EXIT_FAILED, EXIT_REFUSED, EXIT_LOST = 1, 3, 4


class Driver:
    """Hands jobs to Ray and tells what comes of them.

    Args:
        ray: the package.
        out: where events go.
        settings: the first line; see the module.
    """

    def __init__(self, ray: Any, out: TextIO, settings: Mapping[str, Any]) -> None:
        self._ray, self._out = ray, out
        resources = ray.cluster_resources()
        has_gpus = resources.get("GPU", 0) > 0
        gpus = settings["gpus"] if settings["gpus"] is not None else float(has_gpus)
        if gpus and not has_gpus:
            raise Refused("the cluster has no GPU; --gpus 0 computes on its CPUs")
        self._device = "cuda" if gpus else "cpu"
        wanted = {"num_gpus": gpus, "num_cpus": settings["cpus"], "max_retries": 0}
        # A worker keeps its networks for the next task; Ray would end one with a GPU after each.
        self._follow = ray.remote(**wanted, max_calls=0)(ray_task.follow)
        self._events = ray.remote(num_cpus=0, max_restarts=-1)(ray_task.Events).remote()
        self._tasks: dict[Any, str] = {}  # by reference: the job
        self._losses: list[tuple[float, dict[str, Any]]] = []  # not told yet, and since when they are known
        self._heard, self._answered = 0.0, time.monotonic()
        self._probe = settings["probe"]
        for text in ray.get(self._probes(gpus, settings["cpus"]), timeout=PROBE_SECONDS):
            self._check(json.loads(text))
        self.say("ready", resources={name: resources.get(name, 0) for name in ("CPU", "GPU")}, gpus=gpus)

    def _probes(self, gpus: float, cpus: float) -> list[Any]:
        """Tasks that look around, one on each node that jobs can run on; they find a place on a full one."""
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        able = [
            node["NodeID"]
            for node in self._ray.nodes()
            if node["Alive"]
            and node["Resources"].get("GPU", 0) >= gpus
            and node["Resources"].get("CPU", 0) >= cpus
        ]
        # A cluster that has yet to grow has none of them.
        places = [affinity(node, soft=False) for node in able] or ["DEFAULT"]
        settings = {"num_cpus": 0, "max_retries": 2}
        looks = [self._ray.remote(**settings, scheduling_strategy=place)(ray_task.probe) for place in places]
        return [look.remote(self._probe) for look in looks]

    def _check(self, told: Mapping[str, Any]) -> None:
        if not told["sees_folder"]:
            raise Refused(ray_task.unseen(told["node"], self._probe))
        own = versions()
        differing = [f"{name} {told['versions'].get(name)} ({own[name]} here)" for name in own
                     if told["versions"].get(name) != own[name]]  # fmt: skip
        if differing:
            self.say("note", text=f"{told['node']} has other versions: {', '.join(differing)}")

    def say(self, event: str, **values: Any) -> None:
        """Tell an event."""
        self._out.write(json.dumps({"event": event, **values}) + "\n")
        self._out.flush()

    def start(self, values: dict[str, Any]) -> None:
        """Hand a job to Ray."""
        text = json.dumps({**values, "device": self._device, "probe": self._probe})
        self._tasks[self._follow.remote(text, _tell_to(self._events))] = values["job"]

    def look(self) -> None:
        """Wait a moment for tasks that end, and tell of them and of what the others say."""
        ray, ended = self._ray, []
        if self._tasks:
            ended, _ = ray.wait(list(self._tasks), num_returns=1, timeout=ROUND_SECONDS)
            if ended:  # as many as there are
                ended, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        else:
            time.sleep(ROUND_SECONDS)
        self._pass_on()  # before the ends, as it happened
        for task in ended:
            self._end(self._tasks.pop(task), task)
        if time.monotonic() - self._heard > ALIVE_SECONDS:
            self._heard = time.monotonic()
            self.say("alive")

    def _pass_on(self) -> None:
        errors, asked = self._ray.exceptions, time.monotonic()
        try:
            for text in self._ray.get(self._events.take.remote(), timeout=EVENTS_SECONDS):
                self._out.write(text + "\n")
        except (errors.RayActorError, errors.GetTimeoutError) as error:
            if time.monotonic() - self._answered > LOST_SECONDS:
                raise ClusterLost(_last_line(error, first=True)) from error
            return  # it was killed and is being restarted
        self._answered = time.monotonic()
        self._out.flush()
        while self._losses and self._losses[0][0] + SURE_SECONDS < asked:
            self.say(**self._losses.pop(0)[1])

    def _end(self, job: str, task: Any) -> None:
        """Tell a result at once, but a loss when the cluster has answered since: one that is dying loses
        all its tasks, and hands out again what it gets meanwhile, to lose it again."""
        errors = self._ray.exceptions
        try:
            result = json.loads(self._ray.get(task))
        except errors.TaskCancelledError:
            self._lose(event="ended", job=job, result={"cancelled": True})
            return
        except errors.RayTaskError as error:
            result = {"error": _last_line(error)}
        except errors.RayError as error:  # the worker, its node or its memory is gone
            self._lose(event="lost", job=job, reason=_last_line(error, first=True))
            return
        self.say("ended", job=job, result=result)

    def _lose(self, **event: Any) -> None:
        self._losses.append((time.monotonic(), event))

    def stop(self) -> None:
        """End all tasks, between two steps where they can."""
        ray = self._ray
        for task in self._tasks:
            ray.cancel(task, force=False)
        if self._tasks:
            ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=STOP_SECONDS)
        for task in self._tasks:
            with suppress(ValueError):
                ray.cancel(task, force=True)
        with suppress(ray.exceptions.RayError):
            ray.kill(self._events)


class Refused(Exception):
    """The cluster cannot run the batch; the message says why and what to do."""


class ClusterLost(Exception):
    """The cluster does not answer any more; the message says what Ray said last."""


class _Telling:
    """Calls the actor; this, and no closure, goes with a task."""

    def __init__(self, events: Any) -> None:
        self._events = events

    def __call__(self, text: str) -> None:
        self._events.tell.remote(text)


def _tell_to(events: Any) -> _Telling:
    return _Telling(events)


def _last_line(error: BaseException, first: bool = False) -> str:
    """One line of what Ray says, which writes tracebacks; the last, or the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0 if first else -1][:400] if lines else type(error).__name__


def _opened(settings: Mapping[str, Any]) -> Any:
    """Join a cluster, or start one on this machine, of so many cores, in a folder that is given."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if settings["address"] != LOCAL:
        ray.init(address=settings["address"], **quiet)
        return ray
    own = {"include_dashboard": False, "object_store_memory": STORE_BYTES, "_temp_dir": settings["place"]}
    ray.init(num_cpus=settings["cores"], **own, **quiet)
    return ray


def _read_lines(lines: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        lines.put(json.loads(line))
    lines.put({"stop": True})


def serve(out: TextIO, settings: Mapping[str, Any]) -> int:
    """Read jobs until the end; returns the exit code."""
    lines: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_lines, args=(lines,), daemon=True).start()
    try:
        driver = Driver(_opened(settings), out, settings)
    except Exception as error:  # noqa: BLE001 - whatever Ray says, its caller tells it
        kind = "refused" if isinstance(error, (Refused, ImportError)) else "failed"
        causes = dict.fromkeys(_last_line(one, first=True) for one in (error, error.__cause__) if one)
        out.write(json.dumps({"event": kind, "reason": "; ".join(causes)}) + "\n")
        out.flush()
        return EXIT_REFUSED
    try:
        while True:
            while not lines.empty():
                values = lines.get()
                if values.get("stop"):
                    driver.stop()
                    return 0
                driver.start(values)
            driver.look()
    except BrokenPipeError:  # its caller was killed
        driver.stop()
        return 0
    except ClusterLost as error:
        driver.say("failed", reason=f"it does not answer: {error}")
        return EXIT_LOST


def _leave(settings: Mapping[str, Any], code: int) -> None:
    """Leave the cluster; of one that was started here nothing stays, though its caller may be gone."""
    if code == 0:  # else the caller reads it
        Path(settings["log"]).unlink(missing_ok=True)
    if code != EXIT_LOST:  # to leave it in order, Ray would wait for it
        leaving = threading.Thread(target=_shut_down, daemon=True)
        leaving.start()
        leaving.join(LEAVE_SECONDS)
    if settings["place"] is not None:
        shutil.rmtree(settings["place"], ignore_errors=True)
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            # Ray's agents outlive their cluster: they tell it for a minute that it is gone.
            os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(code)


def _shut_down() -> None:
    with suppress(Exception):
        sys.modules["ray"].shutdown()


def main() -> None:
    """Keep the output for events: what Ray and its workers print goes to the errors."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    settings = json.loads(sys.stdin.readline())
    try:
        code = serve(out, settings)
    except Exception:  # noqa: BLE001 - its caller reads the last line of the log
        traceback.print_exc()
        code = EXIT_FAILED
    with suppress(BrokenPipeError):
        out.close()
    _leave(settings, code)


if __name__ == "__main__":
    main()
