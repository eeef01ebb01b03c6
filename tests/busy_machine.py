"""A machine that may be busy, for the choice of how threads wait: its clock runs as its steps are done."""

from __future__ import annotations

from dataclasses import astuple
from functools import partial

import pytest

from oneshot_core import latent_chunks, search
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
        self._now, self._amid_step = Reading(0.0, 0.0, 0.0), False

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

    def step(self) -> tuple[float, float, float]:
        """Seconds, CPU seconds and delayed seconds of a step."""
        if self.busy:
            return (2.0, 1.0, 0.9) if self.asleep else (12.0, 6.0, 6.5)
        return (1.5, 1.8, 0.01) if self.asleep else (1.0, 1.95, 0.0)

    def read(self) -> Reading:
        """Read the meter, at the beginning and at the end of a step in turn."""
        if self._amid_step:
            parts = zip(astuple(self._now), self.step(), strict=True)
            self._now = Reading(*map(sum, parts))
        self._amid_step = not self._amid_step
        return self._now


@pytest.fixture
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Let search, training and edit believe in a busy machine; their arithmetic is untouched."""
    machine = Machine()
    for module in (loop, search, latent_chunks):
        monkeypatch.setattr(module, "ThreadWatch", partial(ThreadWatch, threads=machine))
    return machine
