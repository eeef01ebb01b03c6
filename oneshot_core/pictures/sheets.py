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
    target: Images,
    reference: Latent,
    seeds: Sequence[int],
    *,
    psi: float = 1.0,
    target_name: str = "",
) -> Picture:
    """Lay out the target, and below each other the same latents in both looks.

    Args:
        source: who was adapted.
        adapted: the result.
        target: [1, 3, S, S].
        reference: the target's counterpart; the first column, never truncated.
        seeds: the other columns.
        psi: truncation of the seeds.
        target_name: for the label.

    Returns:
        A Pillow image; give it to `save_png` or `pictures.to_tensor`.
    """
    config = SampleConfig(psi=psi)
    ours, codes = sample_with_codes(source, tuple(seeds), config, convert=thumbnails)
    theirs, _ = sample_with_codes(adapted, codes, convert=thumbnails)
    first = [thumbnails(sample(bundle, reference)) for bundle in (source, adapted)]
    rows = [
        ("source generator", torch.cat([first[0], ours])),
        ("adapted generator", torch.cat([first[1], theirs])),
    ]
    return labelled_grid(
        rows,
        columns=["reference", *(f"seed {seed}" for seed in seeds)],
        lead=(f"target: {target_name}" if target_name else "target", target),
    )


@dataclass
class LiveSheet:
    """The sheet of an adaptation that is running: the target, and the same latents in both looks.

    Args:
        source: who is adapted; draws its row once, when the first sheet is wanted.
        target: [1, 3, S, S].
        seeds: of the latents, untruncated.
    """

    source: GeneratorBundle
    target: Images
    seeds: Sequence[int]
    _row: Images | None = field(default=None, init=False)

    def __call__(self, adapted: Images) -> Picture:
        """Lay out the adapted generator's pictures of the seeds so far, [N, 3, S, S]."""
        if self._row is None:
            self._row = thumbnails(sample(self.source, tuple(self.seeds), SampleConfig(psi=1.0)))
        rows = [("source", self._row), ("adapted so far", thumbnails(adapted.float().cpu()))]
        return labelled_grid(rows, lead=("target", self.target))
