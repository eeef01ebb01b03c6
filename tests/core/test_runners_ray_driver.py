"""What the process that talks to Ray tells of tasks that end, with a Ray that the test plays."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from oneshot_core.run_folder import versions
from oneshot_core.runners import ray_driver, ray_task
from oneshot_core.runners.ray_driver import ClusterLost, Driver, Refused

SETTINGS = {
    "address": "auto",
    "gpus": None,
    "cpus": 1,
    "cores": 1,
    "place": None,
    "log": "",
    "probe": __file__,
}


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class TaskCancelledError(RayError):
    pass


class RayActorError(RayError):
    pass


class GetTimeoutError(RayError):
    pass


class PlayedRay:
    """A cluster: what a reference gives is what its call gives; tasks end when the test says so."""

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayTaskError=RayTaskError,
        TaskCancelledError=TaskCancelledError,
        RayActorError=RayActorError,
        GetTimeoutError=GetTimeoutError,
    )

    def __init__(self, resources: dict[str, float] | None = None) -> None:
        self.resources = resources or {"CPU": 2.0}
        self.results: dict[str, Callable[[], Any]] = {}  # of tasks that have ended, by job
        self.told: list[str] = []  # by tasks
        self.answers = True
        self.asked: dict[str, Any] = {}  # of every task
        self.cancelled: list[tuple[str, bool]] = []
        self.probed: list[str] = []  # nodes that were asked whether they see the folder
        self.blind = ""  # the one that does not

    util = SimpleNamespace(
        scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
    )

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "Alive": name != "dead", "Resources": self.resources if name != "poor" else {}}
            for name in ("one", "two", "poor", "dead")
        ]

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **settings: Any) -> Callable[[Any], Any]:
        def made(what: Any) -> Any:
            if what is ray_task.follow:
                self.asked = settings
                return SimpleNamespace(remote=lambda text, _: json.loads(text)["job"])
            if what is ray_task.probe:
                place = settings["scheduling_strategy"]
                self.probed.append(place)
                seen = {"node": place, "versions": versions(), "sees_folder": place != self.blind}
                return SimpleNamespace(remote=lambda _: lambda: json.dumps(seen))
            actor = SimpleNamespace(take=SimpleNamespace(remote=lambda: self._take))
            return SimpleNamespace(remote=lambda: actor)

        return made

    def _take(self) -> list[str]:
        if not self.answers:
            raise RayActorError("The actor died")
        taken, self.told = self.told, []
        return taken

    def get(self, reference: Any, timeout: float | None = None) -> Any:
        if isinstance(reference, list):
            return [one() for one in reference]
        return self.results.pop(reference)() if isinstance(reference, str) else reference()

    def wait(self, tasks: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        return [one for one in tasks if one in self.results], []

    def cancel(self, task: str, force: bool) -> None:
        self.cancelled.append((task, force))

    def kill(self, actor: Any) -> None:
        raise RayActorError("it is gone")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test turns."""
    clock = [100.0]
    played = SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda _: None)
    monkeypatch.setattr(ray_driver, "time", played)
    return clock


def driven(ray: PlayedRay, *jobs: str) -> tuple[Driver, Callable[[], list[dict[str, Any]]]]:
    out = io.StringIO()
    driver = Driver(ray, out, SETTINGS)
    for job in jobs:
        driver.start({"job": job})

    def said() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in out.getvalue().splitlines()]
        return [line for line in lines if line["event"] not in ("alive", "ready")]

    return driver, said


def failing(error: Exception) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


def test_results_are_told_at_once_after_what_the_task_said(now):
    ray = PlayedRay()
    driver, said = driven(ray, "a", "b", "c")
    ray.told = ['{"event": "started", "job": "a"}']
    ray.results = {"a": lambda: '{"step": 2}', "b": failing(RayTaskError("Traceback\nValueError: no"))}
    driver.look()
    assert said() == [
        {"event": "started", "job": "a"},
        {"event": "ended", "job": "a", "result": {"step": 2}},
        {"event": "ended", "job": "b", "result": {"error": "ValueError: no"}},
    ]
    driver.stop()  # an actor that is gone is no error
    assert ray.cancelled == [("c", False), ("c", True)]


def test_a_loss_is_told_when_the_cluster_has_answered_since(now):
    ray = PlayedRay()
    driver, said = driven(ray, "a", "b")
    ray.results = {"a": failing(RayError("The worker died\nby a signal")), "b": failing(TaskCancelledError())}
    driver.look()
    now[0] += ray_driver.SURE_SECONDS / 2
    driver.look()
    assert said() == []  # what answers may be about to die, too
    now[0] += ray_driver.SURE_SECONDS
    driver.look()
    assert said() == [
        {"event": "lost", "job": "a", "reason": "The worker died"},
        {"event": "ended", "job": "b", "result": {"cancelled": True}},
    ]
    driver.look()
    assert len(said()) == 2


def test_what_a_dying_cluster_loses_is_never_told(now):
    ray = PlayedRay()
    driver, said = driven(ray, "a")
    ray.results, ray.answers = {"a": failing(RayError("The worker died"))}, False
    driver.look()
    now[0] += ray_driver.LOST_SECONDS / 2
    driver.look()
    now[0] += ray_driver.LOST_SECONDS
    with pytest.raises(ClusterLost, match="The actor died"):
        driver.look()
    assert said() == []


def test_gpus_of_a_task(now):
    ray = PlayedRay({"CPU": 8.0, "GPU": 2.0})
    driven(ray)
    assert ray.asked == {"num_gpus": 1.0, "num_cpus": 1, "max_retries": 0, "max_calls": 0}
    with pytest.raises(Refused, match="no GPU; --gpus 0"):
        Driver(PlayedRay(), io.StringIO(), {**SETTINGS, "gpus": 0.5})


def test_every_node_that_jobs_can_run_on_is_asked_for_the_folder(now):
    ray = PlayedRay({"CPU": 8.0, "GPU": 2.0})
    driven(ray)
    assert ray.probed == ["one", "two"]
    ray.blind = "two"
    with pytest.raises(Refused, match="two, a node of the cluster, does not see the folder"):
        driven(ray)


def test_a_caller_that_was_killed_ends_it(now, monkeypatch):
    ray = PlayedRay()
    monkeypatch.setattr(ray_driver, "_opened", lambda _: ray)
    monkeypatch.setattr(ray_driver, "_read_lines", lambda _: None)  # no word that it is to stop

    class Closed(io.StringIO):
        def flush(self) -> None:
            if '"alive"' in self.getvalue():
                raise BrokenPipeError

    assert ray_driver.serve(Closed(), SETTINGS) == 0
