"""Settings of an evaluation, and who judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Tensor

from ..features import Encoders, EncodersOnDemand
from ..ranges import check_number
from ..sampling import SampleConfig
from ..tensors import Images

SEEDS, PSI = tuple(range(64)), 1.0
MOST_SEEDS = 5_000  # distances of all features to all others are held at once
SHOWN = 8  # pictures of a row in the sheet

Poll = Callable[[], None]
ShareDone = Callable[[int, int], None]


@dataclass(frozen=True)
class EvaluationConfig:
    """Which pictures are judged, and how they are drawn."""

    seeds: tuple[int, ...] = SEEDS  # at least two: who is found again, and diversity, need others
    psi: float = PSI  # truncation; what cuts variety also hides what an adaptation did to it
    classes: tuple[int, ...] = ()  # of conditional generators, one for all or one per seed; default class 0
    batch_size: int = 8  # pictures at a time; does not change the figures
    shown: int = SHOWN  # of them in the sheet

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        object.__setattr__(self, "classes", tuple(self.classes))
        if not 2 <= len(self.seeds) <= MOST_SEEDS:
            raise ValueError(
                f"seeds must be 2 to {MOST_SEEDS:,}, got {len(self.seeds)}: figures of one picture say "
                "nothing, such as 0-63"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must all differ: equal pictures cannot be told apart")
        check_number(self.psi, "psi (usually 0.5 to 1)", low=-10, high=10)
        if self.psi == 0:
            raise ValueError("psi must not be 0: all pictures are the mean picture then")
        if self.shown < 1:
            raise ValueError(f"shown must be at least 1, got {self.shown}")
        self.sampling()

    def sampling(self) -> SampleConfig:
        """How the pictures are drawn: with the stored noise."""
        return SampleConfig(psi=self.psi, batch_size=self.batch_size)

    def describe(self) -> dict[str, Any]:
        """Return what decides about the figures as JSON values."""
        values = asdict(self)
        return {
            name: list(values[name]) if name != "psi" else self.psi for name in ("seeds", "psi", "classes")
        }


class Network(Protocol):
    """Features of pictures by a network that is given, such as Inception."""

    name: str

    def __call__(self, images: Images) -> Tensor:
        """Return [N, D] of pictures [N, 3, S, S] in [-1, 1], on any device."""


@dataclass(frozen=True)
class Judges:
    """Who judges; the encoders lie where the source generator does.

    Args:
        encoders: CLIP models, of which each says its figures, and the perceptual net.
        inception: for KID and FID, where reference pictures are given; see `load_inception`.
        faces: for identity; see `load_faces`.
    """

    encoders: Encoders | EncodersOnDemand
    inception: Network | None = None
    faces: Network | None = None
