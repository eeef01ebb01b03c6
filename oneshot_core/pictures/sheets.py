"""The picture that shows an adaptation: the target beside the same latents drawn by both generators."""

from __future__ import annotations

from collections.abc import Sequence

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
