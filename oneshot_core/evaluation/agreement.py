"""The score by which snapshots of a run are told apart without the truth."""

from __future__ import annotations

from torch import Tensor


def snapshot_score(source: Tensor, made: Tensor, targets: Tensor) -> float:
    """Provisional."""
    from ..metrics import found_again, likeness

    return likeness(made, targets) + found_again(source, made)
