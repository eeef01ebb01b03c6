"""Observers of a run: progress, stopping, checkpoints, snapshots. One that raises stops the run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from ..latent_optimiser import StepProgress
from ..latents import z_from_seeds
from ..networks import Generator
from ..pace import Pace
from ..tensors import Images
from .state import TrainState, state_file

MAX_SAVE_SHARE = 0.05  # of the time of a run that goes into checkpoints
LONGEST_INTERVAL_SECONDS = 300.0  # between two checkpoints, however long one takes
QUICK_STEP_SECONDS = 0.5  # a cancel waits for the end of steps that take less

log = logging.getLogger(__name__)


class RunCancelled(Exception):
    """The run was asked to abort; what its checkpoint callback saved stays."""


class RunStopped(Exception):
    """The run was asked to end early and to give what it has; `train` returns normally."""


@dataclass
class Callback:
    """What `train` tells about; override what is needed.

    `before_phase` comes several times per step, so that a stop is noticed within one phase.
    """

    def started(self, state: TrainState, steps: int) -> None:
        """A run of `steps` steps in all begins or resumes at `state.step`."""

    def before_phase(self, state: TrainState) -> None:
        """A phase of the current step is about to run."""

    def after_step(self, state: TrainState) -> None:
        """A step is done; `state.step` counts it."""

    def finished(self, state: TrainState) -> None:
        """The run ended by itself or by `RunStopped`."""

    def aborted(self, state: TrainState) -> None:
        """The run ended by another exception, which goes on after this; `state.amid_step` may be set."""


@dataclass
class Progress(Callback):
    """Tell a function about every step.

    Args:
        report: called after each step.
        preview_seeds: seeds of the sample row.
    """

    report: Callable[[StepProgress], None]
    preview_seeds: Sequence[int] = (0, 1, 2, 3)
    _steps: int = field(default=0, init=False)
    _pace: Pace = field(default_factory=lambda: Pace(0), init=False)

    def started(self, state: TrainState, steps: int) -> None:
        """Start the clock."""
        self._steps, self._pace = steps, Pace(steps, state.step)

    def after_step(self, state: TrainState) -> None:
        """Report the step."""
        # NaN, unlike itself, marks terms that this step does not compute.
        losses = {name: values[-1] for name, values in state.history.items() if values[-1] == values[-1]}
        eta = self._pace.left(state.step, tuple(losses))
        row = partial(self._row, state.ema)
        self.report(StepProgress(state.step, self._steps, losses, eta, row, notes=state.notes))

    @torch.no_grad()
    def _row(self, generator: Generator) -> Images:
        # The same people in every row, so that only the look changes.
        z = z_from_seeds(self.preview_seeds, generator.config.z_dim).to(generator.const)
        return generator.synthesize(generator.map(z), generator.constant_noise())


@dataclass
class StopSignal(Callback):
    """Stop from another thread: `cancel()` aborts, `stop_and_keep()` ends early with what is there."""

    # Set by the web server's thread while the run has its own.
    _cancelled: threading.Event = field(default_factory=threading.Event, init=False)
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)
    _began: float = field(default=0.0, init=False)
    # Not measured yet counts as slow: the first step is left at its next phase.
    _step_seconds: float = field(default=float("inf"), init=False)

    def cancel(self) -> None:
        """Abort; `train` raises `RunCancelled`.

        Between steps, where `Checkpoints` can save, when steps are quick; else before the next phase.
        """
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to abort."""
        return self._cancelled.is_set()

    def stop_and_keep(self) -> None:
        """End after the current step; `train` returns."""
        self._stopped.set()

    def before_phase(self, state: TrainState) -> None:
        """Raise RunCancelled when asked to."""
        if not state.amid_step:
            self._began = time.monotonic()
        # Left now, the step would be lost: amid a step nothing can be saved.
        elif self._step_seconds < QUICK_STEP_SECONDS:
            return
        self._check(state)

    def after_step(self, state: TrainState) -> None:
        """Raise when asked to."""
        self._step_seconds = time.monotonic() - self._began
        self._check(state)
        # Only here, never amid a step: what it has becomes the result.
        if self._stopped.is_set():
            raise RunStopped(f"the run was stopped at step {state.step}")

    def _check(self, state: TrainState) -> None:
        if self._cancelled.is_set():
            raise RunCancelled(f"the run was cancelled at step {state.step}")


@dataclass
class Poll(Callback):
    """Call a function between steps, where everything can be saved; it raises to end the run."""

    check: Callable[[], None]

    def after_step(self, state: TrainState) -> None:
        """Call it."""
        self.check()


@dataclass
class Checkpoints(Callback):
    """Save the state every so many seconds, and at any end; the state before it is kept until the run's end.

    The state of a 1024 px run has about 1 GB: where saving is slow, the interval grows until saving takes
    about 5 % of the time, but not beyond five minutes.

    Args:
        path: of the state file.
        every_steps: interval in steps, kept exactly; None: by time alone.
        every_seconds: interval in seconds while saving is quick.
    """

    path: Path
    every_steps: int | None = None
    every_seconds: float = 60.0
    _last: float = field(default=0.0, init=False)
    _saved_step: int = field(default=-1, init=False)
    _steps: int = field(default=0, init=False)
    _cost_seconds: float = field(default=0.0, init=False)

    @property
    def interval_seconds(self) -> float:
        """Time from the end of one save to the next, by what the last one took."""
        # The cap bounds what a crash costs, whatever saving costs.
        return max(self.every_seconds, min(self._cost_seconds / MAX_SAVE_SHARE, LONGEST_INTERVAL_SECONDS))

    def started(self, state: TrainState, steps: int) -> None:
        """Start the clock."""
        # What was just restored need not be saved again.
        self._last, self._saved_step, self._steps = time.monotonic(), state.step, steps

    def after_step(self, state: TrainState) -> None:
        """Save when it is due."""
        by_steps = self.every_steps is not None and state.step % self.every_steps == 0
        if by_steps or time.monotonic() - self._last > self.interval_seconds:
            self._save(state)

    def finished(self, state: TrainState) -> None:
        """Save the last step."""
        self._save(state)
        # After stop and keep the run may be queued again; then both states still count.
        if state.step >= self._steps:
            state_file(self.path).forget_previous()

    def aborted(self, state: TrainState) -> None:
        """Save what was done since the last time, unless that took less than saving it would."""
        if time.monotonic() - self._last <= self._cost_seconds:
            return
        try:
            self._save(state)
        except (OSError, FloatingPointError) as error:  # the reason of the end matters more
            log.warning("the last steps of the run were not saved: %s", error)

    def _save(self, state: TrainState) -> None:
        # Amid a step the discriminator is ahead of the generator: resumed, its phase would run twice.
        if state.amid_step or state.step == self._saved_step:
            return
        self._saved_step = state.step  # also when it fails: no second try for this step
        # Not the wall clock: it may be set while a run goes on.
        began = time.monotonic()
        state.save(self.path)
        self._last = time.monotonic()
        self._cost_seconds = self._last - began


@dataclass
class Snapshots(Callback):
    """Hand the averaged generator to a function every so many steps, and at the end."""

    keep: Callable[[TrainState], None]
    every_steps: int = 100
    _kept_step: int = field(default=-1, init=False)

    def after_step(self, state: TrainState) -> None:
        """Hand over when it is due."""
        if state.step % self.every_steps == 0:
            self._keep(state)

    def finished(self, state: TrainState) -> None:
        """Hand over the last step."""
        # A run that ends on a multiple has it already; one that made no step has nothing to show.
        if self._kept_step != state.step and state.step:
            self._keep(state)

    def _keep(self, state: TrainState) -> None:
        self.keep(state)
        self._kept_step = state.step
