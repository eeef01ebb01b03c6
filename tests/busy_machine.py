"""A machine that may be busy, for the choice of how threads wait: its clock runs as its steps are done."""

from __future__ import annotations

from functools import partial

import pytest

from oneshot_core import editing, search
from oneshot_core.threads import Reading, ThreadWatch, TorchThreads
from oneshot_core.training import loop


class Machine(TorchThreads):
    """Two threads whose steps take a second spinning and 1.5 sleeping; while others keep it busy, 12 and 2.

    Args:
        busy: whether others do; may be changed.
    """

    def __init__(self, busy: bool = True) -> None:
        super().__init__()
        self.count, self.busy, self.asleep = 2, busy, False
        self.log: list[str] = []
        self._now, self._amid_step = Reading(0.0, 0.0, 0), False

    def sleep(self) -> None:
        """Threads sleep from now on."""
        assert not self.asleep
        self.asleep = True
        self.log.append("sleep")

    def spin(self) -> None:
        """Threads spin from now on."""
        if self.asleep:
            self.log.append("spin")
        self.asleep = False

    def step(self) -> tuple[float, float, int]:
        """Seconds, CPU seconds and preemptions of a step."""
        if self.busy:
            return (2.0, 1.0, 6000) if self.asleep else (12.0, 6.0, 1800)
        return (1.5, 1.8, 10) if self.asleep else (1.0, 1.95, 5)

    def read(self) -> Reading:
        """Read the meter, at the beginning and at the end of a step in turn."""
        if self._amid_step:
            now, (seconds, cpu_seconds, preemptions) = self._now, self.step()
            self._now = Reading(
                now.seconds + seconds, now.cpu_seconds + cpu_seconds, now.preemptions + preemptions
            )
        self._amid_step = not self._amid_step
        return self._now


@pytest.fixture
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Let search, training and edit believe in a busy machine; their arithmetic is untouched."""
    machine = Machine()
    for module in (loop, search, editing):
        monkeypatch.setattr(module, "ThreadWatch", partial(ThreadWatch, threads=machine))
    return machine
