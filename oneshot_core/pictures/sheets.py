"""The picture that shows an adaptation: the target beside the same latents drawn by both generators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..checkpoints import GeneratorBundle
from ..latents import Latent
from ..sampling import SampleConfig, sample, sample_with_codes
from ..tensors import Images
from . import Picture, labelled_grid, thumbnails


def adaptation_sheet(
    source: GeneratorBundle,
    adapted: GeneratorBundle,
    target: Images | None,
    reference: Latent | None,
    seeds: Sequence[int],
    *,
    psi: float = 1.0,
    target_name: str = "",
) -> Picture:
    """Lay out the target, and below each other the same latents in both looks.

    Args:
        source: who was adapted.
        adapted: the result.
        target: [M, 3, S, S], of which the first is shown; None where the aim is a text.
        reference: the target's counterpart; the first column, never truncated. None: no such column.
        seeds: the other columns.
        psi: truncation of the seeds.
        target_name: for the label.

    Returns:
        A Pillow image; give it to `save_png` or `pictures.to_tensor`.
    """
    config = SampleConfig(psi=psi)
    ours, codes = sample_with_codes(source, tuple(seeds), config, convert=thumbnails)
    theirs, _ = sample_with_codes(adapted, codes, convert=thumbnails)
    columns = [f"seed {seed}" for seed in seeds]
    if reference is not None:
        ours, theirs = (
            torch.cat([thumbnails(sample(bundle, reference))[:1], row])
            for bundle, row in ((source, ours), (adapted, theirs))
        )
        columns = ["reference", *columns]
    rows = [("source generator", ours), ("adapted generator", theirs)]
    label = f"target: {target_name}" if target_name else "target"
    return labelled_grid(rows, columns=columns, lead=None if target is None else (label, target[:1]))


@dataclass
class LiveSheet:
    """The sheet of an adaptation that is running: the target, and the same latents in both looks.

    Args:
        source: who is adapted; draws its row once, when the first sheet is wanted.
        target: [M, 3, S, S], of which the first is shown; None where the aim is a text.
        seeds: of the latents, untruncated.
    """

    source: GeneratorBundle
    target: Images | None
    seeds: Sequence[int]
    _row: Images | None = field(default=None, init=False)

    def __call__(self, adapted: Images) -> Picture:
        """Lay out the adapted generator's pictures of the seeds so far, [N, 3, S, S]."""
        if self._row is None:
            self._row = thumbnails(sample(self.source, tuple(self.seeds), SampleConfig(psi=1.0)))
        rows = [("source", self._row), ("adapted so far", thumbnails(adapted.float().cpu()))]
        return labelled_grid(rows, lead=None if self.target is None else ("target", self.target[:1]))
