"""How long and how a preset is trained: what does not belong to the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..choices import STEPS
from ..precision import check_precision, precision_setting
from ..ranges import check_number


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run that do not belong to the method."""

    steps: int = STEPS  # optimiser rounds; the published code does 2001
    seed: int = 0
    snapshot_every_steps: int = 100
    checkpoint_every_steps: int | None = None  # None: by time alone
    checkpoint_every_seconds: float = 60.0  # longer, up to 5 minutes, where saving takes over 5 % of that
    precision: str = "float32"  # of forward passes; "bfloat16": autocast, for devices that are fast in it

    def __post_init__(self) -> None:
        check_precision(self.precision)
        for name in ("steps", "snapshot_every_steps", "checkpoint_every_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        check_number(self.checkpoint_every_seconds, "checkpoint_every_seconds", above=0)

    def check_snapshot(self, step: int) -> None:
        """Refuse a step of which this run will keep no snapshot; raises ValueError."""
        if step and step != self.steps and (step > self.steps or step % self.snapshot_every_steps):
            raise ValueError(
                f"there will be no snapshot of step {step}: a run of {self.steps} steps keeps {self._kept()}"
            )

    def _kept(self) -> str:
        """Which snapshots there will be, in words."""
        every = range(self.snapshot_every_steps, self.steps, self.snapshot_every_steps)
        first = [str(step) for step in every[:4]]
        return ", ".join([*first, *(["..."] if len(every) > len(first) else []), str(self.steps)])

    def describe(self) -> dict[str, Any]:
        """Return what of it determines the result, but for the number of steps, as JSON values."""
        return {"seed": self.seed, **precision_setting(self.precision)}
