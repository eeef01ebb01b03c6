"""What an adaptation is drawn to where a mask leaves parts of the target out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints import CheckpointError, GeneratorBundle, read_tensors, write_tensors
from ..objective import Aim
from ..pictures import check_mask, masked_target
from ..writing import set_aside

MASKED_FILE = "masked_target.safetensors"
FORMAT, FORMAT_VERSION = "oneshot-masked-target", 1


def counted_aim(aim: Aim, bundle: GeneratorBundle, mask: Tensor, folder: Path | None) -> Aim:
    """Replace what does not count of the target by the source's own picture of the reference.

    A resumed run takes the picture that its folder keeps: drawn again it might differ in its last bits.

    Args:
        aim: with one target and its reference.
        bundle: who draws.
        mask: [1, 1, S, S] in [0, 1], 1 = counts.
        folder: of the run; None: nothing is kept.

    Raises:
        ValueError: the mask does not fit, or the aim has no reference.
    """
    check_mask(mask, bundle.size)
    # The reference is the target's counterpart: only its picture fits into the hole.
    if aim.targets is None or aim.codes is None or len(aim.targets) != 1:
        raise ValueError("a mask needs one target and its reference latent; leave the mask out")
    path = None if folder is None else folder / MASKED_FILE
    # Every reference step compares with it, so a resumed run must see the very same picture.
    kept = None if path is None else _kept(path, aim.targets)
    if kept is None:
        generator = bundle.generator
        with torch.no_grad():
            codes = generator.broadcast(aim.codes.to(generator.const))
            # The stored noise, so that the picture is the same at every call.
            own = generator.synthesize(codes, generator.constant_noise())
        # Where nothing counts, target and adapted picture start out equal but for noise: nothing pulls.
        kept = masked_target(aim.targets, own.to(aim.targets), mask.to(aim.targets))
        if path is not None:
            write_tensors(path, {"target": kept}, {"format": FORMAT, "format_version": FORMAT_VERSION})
    return replace(aim, targets=kept)


def _kept(path: Path, like: Tensor) -> Tensor | None:
    """The picture of an earlier part of the run; one that is damaged is set aside and drawn again."""
    if not path.is_file():
        return None
    try:
        found = read_tensors(path)[0].get("target")
        if found is None or found.shape != like.shape or not bool(found.isfinite().all()):
            raise CheckpointError(f"{path}: holds no picture of {like.shape[-1]} px")
        return found
    except CheckpointError as error:
        set_aside(path, error)
        return None
