"""How torch's CPU threads wait for each other while other programs want the cores too.

The threads share every operation, and wait at its end by spinning: the fastest way while each has a core for
itself. Where another program has pushed one of them off its core, the others burn theirs for nothing, some
thousand times a step: ten times as slow, or worse. Fewer threads would help, but they add sums up in another
order, so that a result would depend on who else was using the machine. Hence their number stays, and they are
made to sleep while they wait. On a machine of its own that is slower, so the choice is made again as the
steps go by.

Source of the mechanism: manual of GNU libgomp, GOMP_SPINCOUNT: where there are more OpenMP threads than CPUs,
threads spin for a moment only before they sleep.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

log = logging.getLogger(__name__)

LEAST_SHARE = 0.6  # of their cores' time that spinning threads get; on a quiet machine it is 0.98
MOST_DELAY = 0.05  # of the time that one thread waits for a core; on a quiet machine it is below 0.01
CALM_SHARE = 0.9  # of one core; sleeping threads get that, and more, where nobody takes cores from them
WINDOW = 6  # steps that are looked back on
TRIAL = 3  # steps that can be compared, until a trial is judged
HOPELESS = 2.0  # times as slow as the other way: ends a trial at once
SLEEP_MARGIN = 1.2  # sleeping may look so much slower: spinning is the way that can become ten times slower
SOONEST_SLEEP, SOONEST_SPIN, LATEST = 1, 8, 128  # steps until the other way is tried

MOST_CPUS = 128  # with more, too many idle threads would be needed
TOLD_GAIN = 1.5  # a step must have become so many times faster
PARALLEL_SIZE = 1 << 17  # elements; torch shares operations on so many out among its threads
USERS_CHOICE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # environment variables that say how threads wait
_LIBRARIES, _DELAYS = Path("/proc/self/maps"), Path("/proc/thread-self/schedstat")


@dataclass(frozen=True)
class Step:
    """What a step took.

    Args:
        kind: steps are compared with others of their kind.
        seconds: by the clock.
        cpu_seconds: of all threads of the process.
        delayed_seconds: in which the thread that works on it could have run, had there been a core for it.
    """

    kind: Hashable
    seconds: float
    cpu_seconds: float
    delayed_seconds: float = 0.0


class WaitChoice:
    """Decides from the steps so far whether threads sleep or spin in the next one.

    A sign starts a trial of the other way: threads do not get the cores that they want, or they sleep and
    nobody takes cores from them. What was faster over a few steps stays. A way that lost is tried again after
    ever more steps.

    Args:
        threads: how many there are.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.asleep = False
        self.gain: tuple[float, float] | None = None  # seconds a step, spinning and then sleeping
        self._steps: deque[Step] = deque(maxlen=WINDOW)  # the latest, since the last change
        self._count = 0  # of steps since then
        self._warm = False  # whether a step has been done
        self._rival: list[Step] = []  # while a trial goes on: the latest of the other way
        self._patience = {False: SOONEST_SLEEP, True: SOONEST_SPIN}  # steps, while awake and while asleep

    def told(self, step: Step) -> None:
        """Take a step into account; `asleep` says how the next one is done."""
        self._steps.append(step)
        self._count += 1
        if self._rival:
            self._judge()
        elif self._count >= self._patience[self.asleep] and self._sign():
            rival = list(self._steps)
            self._change()
            self._rival = rival
        self._warm = True

    def _change(self) -> None:
        self.asleep = not self.asleep
        self._steps.clear()
        self._count, self._rival = 0, []

    def _sign(self) -> bool:
        """Whether the other way may be faster."""
        seconds = sum(step.seconds for step in self._steps)
        cpu_seconds = sum(step.cpu_seconds for step in self._steps)
        delayed = sum(step.delayed_seconds for step in self._steps) > MOST_DELAY * seconds
        if self.asleep:
            return cpu_seconds > CALM_SHARE * seconds and not delayed
        # The first step of all prepares much by one thread.
        crowded = self._warm and cpu_seconds < LEAST_SHARE * self.threads * seconds
        return crowded or delayed

    def _judge(self) -> None:
        """End the trial, once there is enough to compare; keep what was faster."""
        count, spent, expected = self._compared()
        if count < TRIAL and spent <= HOPELESS * expected:
            return
        if spent <= (SLEEP_MARGIN if self.asleep else 1.0) * expected:
            self._rival = []
            if self.asleep and self.gain is None:
                self.gain = expected / count, spent / count
        else:
            self._change()
            if not self.asleep:
                self._patience[False] = min(4 * self._patience[False], LATEST)
        if self.asleep:  # each time that spinning was no good
            self._patience[True] = min(2 * self._patience[True], LATEST)
            self._patience[False] = SOONEST_SLEEP

    def _compared(self) -> tuple[int, float, float]:
        """How many steps of the trial can be compared, their seconds, and those of the other way."""
        before: defaultdict[Hashable, list[float]] = defaultdict(list)
        for step in self._rival:
            before[step.kind].append(step.seconds)
        spent = expected = 0.0
        steps = [step for step in self._steps if step.kind in before]
        # All kinds together, rather than no verdict where few are alike.
        if len(steps) < TRIAL and len(self._steps) == WINDOW:
            steps, before = list(self._steps), defaultdict(lambda: [step.seconds for step in self._rival])
        for step in steps:
            spent += step.seconds
            # Not the median: what makes spinning slow is that some steps take ten times as long.
            expected += sum(before[step.kind]) / len(before[step.kind])
        return len(steps), spent, expected


@dataclass(frozen=True)
class Reading:
    """What the process has taken so far; see `Step`."""

    seconds: float
    cpu_seconds: float
    delayed_seconds: float


class TorchThreads:
    """The threads of torch that serve the thread which makes this (Linux, GNU's OpenMP)."""

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self._over = threading.Event()
        self._idle: threading.Thread | None = None

    def read(self) -> Reading:
        """Read the clock, and what the process has taken."""
        try:  # nanoseconds on a core, nanoseconds of waiting for one
            delayed = int(_DELAYS.read_bytes().split()[1]) * 1e-9
        except (OSError, IndexError, ValueError):  # a kernel that does not count them
            delayed = 0.0
        return Reading(time.monotonic(), time.process_time(), delayed)

    def sleep(self) -> None:
        """Let them sleep while they wait: idle threads are made, so that there are more than CPUs."""
        if self._idle is None:
            ready = threading.Event()
            self._over.clear()
            self._idle = threading.Thread(target=self._be_idle, args=(ready,), daemon=True)
            self._idle.start()
            ready.wait()

    def spin(self) -> None:
        """Let them spin while they wait, as they do by themselves; the idle threads end."""
        if self._idle is not None:
            self._over.set()
            self._idle.join()
            self._idle = None

    def _be_idle(self, ready: threading.Event) -> None:
        try:
            # OpenMP has a team of threads for each thread; this one's stays until this one ends.
            torch.set_num_threads(cpus() + 1)
            torch.ones(PARALLEL_SIZE).add_(1)
        finally:
            torch.set_num_threads(self.count)  # torch remembers the last number for threads to come
            ready.set()
        self._over.wait()


def can_sleep() -> bool:
    """Whether `TorchThreads` can choose: GNU's OpenMP on Linux, and the user has not chosen."""
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in USERS_CHOICE):
        return False
    if cpus() > MOST_CPUS:
        return False
    try:
        libraries = _LIBRARIES.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "/libgomp" in libraries and not any(name in libraries for name in ("/libiomp5", "/libomp."))


def cpus() -> int:
    """CPUs that this process may use, as OpenMP counts them: a container may have few of the machine's."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # no such question there
        return os.cpu_count() or 1


class ThreadWatch:
    """Watches the steps of a job on a CPU, and lets its threads sleep or spin; within a `with` block.

    Nothing is done on other devices, with one thread, or where threads cannot be made to sleep.

    Args:
        device: of the job.
        work: what the steps are steps of, for the note.
        threads: those of the job; None: torch's, where `can_sleep` says so.
    """

    def __init__(self, device: torch.device, work: str, threads: TorchThreads | None = None) -> None:
        if threads is None and device.type == "cpu" and can_sleep():
            threads = TorchThreads()
        self._threads = threads if threads is not None and threads.count > 1 else None
        self._choice = WaitChoice(threads.count if threads is not None else 1)
        self._work = work
        self._began = Reading(0.0, 0.0, 0.0)
        self._first = 0  # step in which they slept

    def begin(self) -> None:
        """A step begins."""
        if self._threads is not None:
            self._began = self._threads.read()

    def end(self, number: int, kind: Hashable = "") -> None:
        """The step has ended.

        Args:
            number: of the step, from 1.
            kind: steps are compared with others of their kind.
        """
        if self._threads is None:
            return
        began, now, slept = self._began, self._threads.read(), self._choice.asleep
        if slept:
            self._first = self._first or number
        self._choice.told(
            Step(
                kind,
                now.seconds - began.seconds,
                now.cpu_seconds - began.cpu_seconds,
                now.delayed_seconds - began.delayed_seconds,
            )
        )
        if self._choice.asleep != slept:
            way = "sleep" if self._choice.asleep else "spin"
            log.info("from step %d of the %s on, threads %s while they wait", number + 1, self._work, way)
            (self._threads.sleep if self._choice.asleep else self._threads.spin)()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, if anything: a small gain is not worth a line."""
        if self._choice.gain is None:
            return ()
        before, after = self._choice.gain
        if before < TOLD_GAIN * after:
            return ()
        return (
            f"other programs kept the CPU busy: from step {self._first} of the {self._work} on its threads "
            f"slept while they waited ({after:.2g} s a step, {before:.2g} s before); the result is the same",
        )

    def __enter__(self) -> ThreadWatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._threads is not None:
            self._threads.spin()
