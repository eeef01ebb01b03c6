"""Many codes that are optimised chunk by chunk, each as if it were alone; under inversion and text edit.

A chunk is saved while it is worked on and when it is done, in a file of its own, so that a stopped work goes
on in the middle of a chunk and computes no other again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from . import saved_states
from .kept_folders import KeptWork
from .latent_optimiser import LatentOptimiser, StepProgress
from .pace import Pace
from .saved_states import DamagedState, SavedState, StateError, StateFile
from .tensors import Images, is_finite, owned
from .threads import ThreadWatch

log = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "oneshot-codes", 1


class Chunk(Protocol):
    """Codes that are optimised at once."""

    first: int  # position of the first of them in the batch
    optimiser: LatentOptimiser

    def update(self, step: int) -> tuple[Images, dict[str, Tensor]]:
        """Do step 0, 1, ...; return the pictures [n, 3, S, S] before it and each term's values [n] or [1]."""


AnyChunk = TypeVar("AnyChunk", bound=Chunk)
Finished = TypeVar("Finished")


@dataclass(frozen=True)
class ChunkedWork:
    """How much is to be done.

    Args:
        what: "edit" or "inversion", for messages.
        steps: optimiser rounds per code.
        count: codes in all.
        size: of a chunk.
        device: that computes.
        saved: where chunks are saved; None: nothing is written.
    """

    what: str
    steps: int
    count: int
    size: int
    device: torch.device
    saved: KeptWork | None = None


def optimise_chunks(
    work: ChunkedWork,
    make: Callable[[int], AnyChunk],
    finish: Callable[[AnyChunk], Finished],
    callbacks: Sequence[Callable[[StepProgress], None]],
) -> tuple[list[Finished], dict[str, list[float]]]:
    """Optimise codes chunk by chunk, or go on with what is saved.

    Args:
        work: how much, and where it is saved.
        make: gives the chunk that begins at a position.
        finish: takes what is wanted of a chunk that is done, whose memory is given back then.
        callbacks: called after every step; may raise.

    Returns:
        What `finish` gave of each chunk, and the mean loss of all codes per term and step.

    Raises:
        StateError: the folder holds the states of another work.
    """
    sums: dict[str, list[float]] = {}
    finished: list[Finished] = []
    done, steps = 0, work.steps * work.count
    pace: Pace | None = None
    with ThreadWatch(work.device, work.what) as watch:
        for index, first in enumerate(range(0, work.count, work.size)):
            running = _Running(make(first), work)
            chunk, count = running.chunk, len(running.chunk.optimiser.codes)
            done += running.step * count
            try:
                while running.step < work.steps:
                    pace = pace or Pace(steps, done)
                    watch.begin()
                    images, losses = running.update()
                    watch.end(index * work.steps + running.step, count)
                    done += count
                    codes = chunk.optimiser.codes
                    now = StepProgress(
                        done, steps, losses, pace.left(done), partial(torch.clone, images), owned(codes),
                        chunk.first, watch.notes, codes.grad,
                    )  # fmt: skip
                    for callback in callbacks:
                        callback(now)
                    running.save_now_and_then()
            finally:
                running.save()
            for name, values in running.history.items():
                # Summed over chunks, so the curve is that of all codes whatever their size.
                share = [value * count / work.count for value in values]
                before = sums.get(name, [0.0] * work.steps)
                sums[name] = [one + other for one, other in zip(before, share, strict=True)]
            finished.append(finish(chunk))
    return finished, sums


class _Running:
    """A chunk, how far it is, and its state on the disk."""

    def __init__(self, chunk: Any, work: ChunkedWork) -> None:
        self.chunk, self._work = chunk, work
        self.step, self._saved_step = 0, -1
        self.history: dict[str, list[float]] = {}  # per term the mean of every step
        self._saved_at = time.monotonic()
        self._states: StateFile | None = None
        if work.saved is not None:
            self._settings = {
                **work.saved.settings,
                "first": chunk.first,
                "count": len(chunk.optimiser.codes),
            }
            path = work.saved.folder / f"codes_{chunk.first}.safetensors"
            self._states = StateFile(path, FORMAT, FORMAT_VERSION, f"a saved {work.what}")
            self._states.load(self._restore)

    def update(self) -> tuple[Images, dict[str, float]]:
        """Do a step; return the pictures before it and each term's mean."""
        images, losses = self.chunk.update(self.step)
        means = {name: float(values.mean()) for name, values in losses.items()}
        for name, value in means.items():
            self.history.setdefault(name, []).append(value)
        self.step += 1
        self.chunk.optimiser.amid_step = False
        return images, means

    def save_now_and_then(self) -> None:
        """Save, when that was long ago."""
        if time.monotonic() - self._saved_at > saved_states.SAVE_SECONDS:
            self.save()
            self._saved_at = time.monotonic()

    def save(self) -> None:
        """Write the state; atomic. Nothing amid a step, no step twice, and never what is not finite."""
        optimiser = self.chunk.optimiser
        if self._states is None or optimiser.amid_step or self.step in (0, self._saved_step):
            return
        tensors = optimiser.state()
        if not all(map(is_finite, tensors.values())):
            log.warning(
                "the %s is not finite after step %d; its saved state was left", self._work.what, self.step
            )
            return
        self._states.save(SavedState(self.step, self._settings, tensors, self.history))
        self._saved_step = self.step
        if self.step == self._work.steps:
            self._states.forget_previous()

    def _restore(self, path: Path) -> None:
        """Go on from a state; a bad one changes nothing.

        Raises:
            DamagedState: a StateError too: the file is damaged, or its parts do not fit together.
            StateError: it has other settings.
        """
        assert self._states is not None
        required, moments = self.chunk.optimiser.like_state()
        saved = self._states.read(path, self._settings, required, [moments])
        if saved.step > self._work.steps:
            raise StateError(f"{path} holds {saved.step} steps, asked for {self._work.steps}")
        if not saved.step or not set(moments) <= set(saved.tensors):
            raise DamagedState(f"{path}: it has no step, or no moments of it")
        self.step = self._saved_step = saved.step
        self.history = {name: list(values) for name, values in saved.history.items()}
        self.chunk.optimiser.restore(saved.tensors)
