"""How long the rest of a job takes, by the pace of its latest steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from statistics import median

WINDOW = 16  # steps that are looked back on: the methods' schedules repeat within it


class Pace:
    """Estimates the time left from the latest steps, so that it follows a change of pace.

    Args:
        total: units of work in all.
        done: of these, what is done already, by an earlier session for instance.
        clock: in seconds.
    """

    def __init__(self, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._done, self._clock = total, done, clock
        self._last = clock()
        self._steps: deque[tuple[Hashable, float]] = deque(maxlen=WINDOW)

    def left(self, done: int, kind: Hashable = "") -> float:
        """Note the end of a step, and estimate the time left.

        Args:
            done: units of work that are done now, more than before.
            kind: of the step; kinds take different times, and are expected as often as of late.

        Returns:
            Seconds; 0 at the end.
        """
        now = self._clock()
        self._steps.append((kind, (now - self._last) / (done - self._done)))
        self._last, self._done = now, done
        # Medians: a step that saved or waited for another program says nothing about those to come.
        typical = {kind: median(s for other, s in self._steps if other == kind) for kind, _ in self._steps}
        return sum(typical[kind] for kind, _ in self._steps) / len(self._steps) * (self._total - done)
