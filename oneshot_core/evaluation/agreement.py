"""The score by which snapshots of a run are told apart where nobody knows the truth."""

from __future__ import annotations

from torch import Tensor

from ..metrics import direction, found_again


def snapshot_score(source: Tensor, made: Tensor, targets: Tensor) -> float:
    """How far the look has come, times who is still found again: direction of the change by share found.

    A run that has not begun has no direction, one that collapsed finds nobody again. Of the scores that
    `benchmarks/best_snapshot.py` compares on the demo world, its picks came nearest to the best by the
    own-truth score, on three runs. On a fourth, which chose nothing, it did not beat taking the last step
    (`benchmarks/README.md`): it guards against runs that lose people. With a real CLIP it was not measured.

    Args:
        source: [N, D] features of the source's pictures, of length 1, by the CLIP that judges.
        made: of the adapted pictures, same latents.
        targets: [K, D].

    Returns:
        -1 to 1, higher is better; comparable only for the same latents, targets and CLIP.
    """
    return direction(source, made, targets) * found_again(source, made)
