"""What runs on a Ray cluster's nodes: a recipe per task, and the actor to which tasks tell how far they are.

A task gets texts and returns a text: a recipe's JSON, where it is worked on, what came of it. Networks that a
worker process has opened serve its next tasks, so that weights reach a node once and not once per task.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ..digests import file_sha256
from ..inputs import OpenNetworks, open_inputs
from ..latent_optimiser import StepProgress
from ..memory import keep_freed_memory, one_line
from ..recipe import Recipe
from ..run_folder import RunError, versions
from ..store import FolderStore
from ..training import Progress, RunCancelled, StopSignal
from .results import Follow, Results, make

EVENT_SECONDS = 1.0  # between two words of a job about its steps
MOST_EVENTS = 10_000  # that wait; of more the oldest are lost
LOCK_SECONDS = (
    150.0  # that a folder is waited for: a node that is gone holds it until the file server notices
)
UNFIT_SECONDS = 30.0  # that a node which cannot do a job keeps it, so that others get the rest
NETWORKS = OpenNetworks()  # of this worker process


class UnseenStorage(RunError):
    """A node that does not share the results' storage; no job is to blame."""


class Events:
    """Words of tasks that wait to be taken; the driver takes them."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque(maxlen=MOST_EVENTS)

    def tell(self, text: str) -> None:
        """Add one."""
        self._waiting.append(text)

    def take(self) -> list[str]:
        """Take all."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


def probe(path: str) -> str:
    """Say who computes here, and whether a file is seen, as JSON; for a task before all others."""
    return json.dumps(
        {"node": socket.gethostname(), "versions": versions(), "sees_folder": Path(path).is_file()}
    )


def unseen(node: str, probe: str) -> str:
    """Say that a node does not share the results' storage."""
    return (
        f"{node}, a node of the cluster, does not see the folder of the results ({Path(probe).parent}); "
        "give an --out on storage that all nodes share"
    )


def follow(text: str, tell: Callable[[str], Any]) -> str:
    """Follow one recipe in its folder on shared storage, or go on with what is there.

    Args:
        text: JSON of `job` (a name), `recipe`, `folder`, `seeds`, `with_discriminator`, `fresh`, `device`,
            `threads`, `offline` and `probe`, a file that shows whether the storage is shared.
        tell: takes events, JSON too.

    Returns:
        JSON: what `make` returns, with the SHA-256 of every file; or `error`, `seconds` and `versions`; or
        `unfit` and `node`, where another node is to do it.
    """
    values = json.loads(text)
    started, stop = time.monotonic(), StopSignal()

    def say(event: str, **more: Any) -> None:
        tell(json.dumps({"event": event, "job": values["job"], **more}))

    say("started", node=socket.gethostname(), pid=os.getpid())
    try:
        with _cancelling(stop):
            made = _made(values, say, stop)
    except RunCancelled:
        return json.dumps({"cancelled": True})
    except UnseenStorage as error:
        time.sleep(UNFIT_SECONDS)  # meanwhile this node takes no other job to give back
        return json.dumps({"unfit": str(error), "node": socket.gethostname()})
    except (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        facts = {"seconds": round(time.monotonic() - started, 1), "versions": versions()}
        return json.dumps({"error": one_line(error), **facts})
    hashes = {path: file_sha256(Path(path)) for path in made["files"].values() if Path(path).is_file()}
    return json.dumps({**made, "hashes": hashes})


@contextmanager
def _cancelling(stop: StopSignal) -> Iterator[None]:
    """End between two steps when Ray cancels the task, so that all of them are saved; Ray interrupts it."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop.cancel()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _made(values: Mapping[str, Any], say: Callable[..., None], stop: StopSignal) -> dict[str, Any]:
    if not Path(values["probe"]).is_file():  # else results would be written where nobody looks
        raise UnseenStorage(unseen(socket.gethostname(), values["probe"]))
    torch.set_num_threads(values["threads"])
    device = torch.device(values["device"])
    if device.type == "cpu":
        keep_freed_memory()
    recipe, before = Recipe.of(values["recipe"]), NETWORKS.opened
    inputs = open_inputs(recipe, device, allow_download=not values["offline"], networks=NETWORKS)
    if NETWORKS.opened > before:
        say("opened", node=socket.gethostname(), pid=os.getpid(), count=NETWORKS.opened - before)
    store = FolderStore(Path(values["folder"]), values["fresh"], patience_seconds=LOCK_SECONDS)
    results = Results(tuple(values["seeds"]), with_discriminator=values["with_discriminator"])
    return make(recipe, inputs, store, results, _telling(say, stop), lambda line: say("note", text=line))


def _telling(say: Callable[..., None], stop: StopSignal) -> Follow:
    """Callbacks of a run that tell its steps and losses, and end it when it is to stop."""

    @contextmanager
    def followed(recipe: Recipe, folder: Path) -> Iterator[dict[str, Any]]:
        searching, steps = recipe.search.steps, recipe.training.steps
        told = 0.0

        def progress(now: StepProgress, before: int) -> None:
            nonlocal told
            if time.monotonic() - told < EVENT_SECONDS and now.step not in (1, now.steps):
                return
            told = time.monotonic()
            losses = {name: value for name, value in now.losses.items() if not name.endswith("_score")}
            say("progress", done=before + now.step, total=searching + steps, losses=losses)

        def poll() -> None:
            if stop.is_cancelled:
                raise RunCancelled("the task was cancelled")

        def searched(now: StepProgress) -> None:
            progress(now, 0)
            poll()

        trained = Progress(lambda now: progress(now, searching))
        yield {"search_callbacks": [searched], "callbacks": [trained, stop], "poll": poll}

    return followed
