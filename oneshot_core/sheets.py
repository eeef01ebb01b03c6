"""The picture that shows an adaptation: the target beside the same latents drawn by both generators."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .checkpoints import GeneratorBundle
from .latents import Latent
from .pictures import Picture, labelled_grid
from .sampling import SampleConfig, sample, sample_with_codes
from .tensors import Images


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
    ours, codes = sample_with_codes(source, tuple(seeds), SampleConfig(psi=psi))
    rows = [
        ("source generator", torch.cat([sample(source, reference), ours])),
        ("adapted generator", torch.cat([sample(adapted, reference), sample(adapted, codes)])),
    ]
    return labelled_grid(
        rows,
        columns=["reference", *(f"seed {seed}" for seed in seeds)],
        lead=(f"target: {target_name}" if target_name else "target", target),
    )
