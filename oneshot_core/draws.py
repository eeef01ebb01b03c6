"""Where random numbers come from: a draw is a pure function of (seed, step, purpose), made on the CPU.

Search and training ask a `Draws` object for every number they need. `SeededDraws` makes them; `RecordedDraws`
plays
recorded ones back through the same code path, which is how parity with the original program is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .tensors import seeded


class Draws(Protocol):
    """A source of random numbers; the same (step, purpose) always gives the same values."""

    def normal(self, step: int, purpose: str, shape: Sequence[int]) -> Tensor:
        """Standard normal float32 values of the given shape, on the CPU."""
        ...

    def uniform(self, step: int, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """Uniform float32 values in [0, 1), on the CPU."""
        ...

    def integers(self, step: int, purpose: str, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Uniform int64 values in [0, high), on the CPU."""
        ...


@dataclass(frozen=True)
class SeededDraws:
    """Draws that depend on the seed, the step and the purpose only, never on what was drawn before."""

    seed: int

    def normal(self, step: int, purpose: str, shape: Sequence[int]) -> Tensor:
        """See `Draws.normal`."""
        return torch.randn(tuple(shape), generator=seeded(self.seed, step, purpose))

    def uniform(self, step: int, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """See `Draws.uniform`."""
        return torch.rand(tuple(shape), generator=seeded(self.seed, step, purpose))

    def integers(self, step: int, purpose: str, high: int, shape: Sequence[int] = ()) -> Tensor:
        """See `Draws.integers`."""
        return torch.randint(high, tuple(shape), generator=seeded(self.seed, step, purpose))


@dataclass(frozen=True)
class RecordedDraws:
    """Draws played back from a table (step, purpose) -> values.

    Raises:
        ValueError: a draw is asked for that was not recorded, or with another shape.
    """

    table: Mapping[tuple[int, str], Tensor]

    def _recorded(self, step: int, purpose: str, shape: Sequence[int]) -> Tensor:
        values = self.table.get((step, purpose))
        if values is None:
            raise ValueError(f"no draw was recorded for step {step}, purpose {purpose!r}")
        if tuple(values.shape) != tuple(shape):
            raise ValueError(
                f"the draw of step {step}, purpose {purpose!r} has shape {list(values.shape)}, needed "
                f"{list(shape)}"
            )
        return values

    def normal(self, step: int, purpose: str, shape: Sequence[int]) -> Tensor:
        """See `Draws.normal`."""
        return self._recorded(step, purpose, shape)

    def uniform(self, step: int, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """See `Draws.uniform`."""
        return self._recorded(step, purpose, shape)

    def integers(self, step: int, purpose: str, high: int, shape: Sequence[int] = ()) -> Tensor:
        """See `Draws.integers`."""
        return self._recorded(step, purpose, shape)


def derived_generator(draws: Draws, step: int, purpose: str) -> torch.Generator:
    """Return a CPU generator seeded by one draw, for library code that wants a generator."""
    generator = torch.Generator(device="cpu")
    return generator.manual_seed(int(draws.integers(step, purpose, 2**31)))
