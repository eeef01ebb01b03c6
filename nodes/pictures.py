"""Pictures between ComfyUI's form and the engine's."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from .. import oneshot_core as core


def to_core(image: Tensor) -> Tensor:
    """ComfyUI's IMAGE [N, H, W, C] in [0, 1] -> [N, 3, H, W] in [-1, 1], float32 on the CPU, an own copy.

    Raises:
        ValueError: not a picture of 1, 3 or 4 channels.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(f"an image must have shape [N, H, W, 3], got {list(image.shape)}")
    values = core.owned(image).cpu().float()
    if values.shape[-1] == 4:
        values = values[..., :3] * values[..., 3:] + 1 - values[..., 3:]
    if values.shape[-1] == 1:
        values = values.expand(-1, -1, -1, 3)
    return (values.permute(0, 3, 1, 2) * 2 - 1).contiguous()


def framed(
    image: Tensor, mask: Tensor | None, size: int, how: core.Frame
) -> tuple[Tensor, Tensor | None, list[str]]:
    """Make the target of an IMAGE and a MASK, as the command line makes it of files.

    Args:
        image: [N, H, W, C] in [0, 1]; the first picture counts.
        mask: [N, H, W] in [0, 1], 1 = counts; the first counts.
        size: of the generator.
        how: which square of the picture.

    Returns:
        The target [1, 3, size, size], where it counts [1, 1, size, size] or None, and notes on what was left
        out or is doubtful.

    Raises:
        ValueError: the mask is not as large as the picture, or black everywhere.
    """
    notes = []
    if image.shape[0] > 1:
        notes.append(f"the target is a batch of {image.shape[0]} pictures; the first is used")
    if image.shape[-1] == 4:
        notes.append("the target's transparency was laid on white")
    (picture,) = core.to_pillow(to_core(image[:1]))
    values = None
    if mask is not None:
        values = core.owned(mask).cpu().float().reshape(-1, 1, *mask.shape[-2:])[:1].clamp(0, 1)
    try:
        target = core.framed_target(picture, size, how, values)
    except ValueError as error:
        if mask is None or mask.shape[-2:] == image.shape[1:3]:
            raise
        raise ValueError(
            f"{error}. Load Image's mask is 64 x 64 for pictures without transparency, and white where they "
            "are transparent: leave it out, or invert it"
        ) from None
    return target.image, target.mask, [*notes, *target.notes]


def framed_batch(
    images: Tensor, mask: Tensor | None, size: int, how: core.Frame
) -> tuple[Tensor, Tensor | None, list[str]]:
    """Make targets of all pictures of an IMAGE, [M, 3, size, size]; else as `framed`.

    Raises:
        ValueError: see `framed`; or a mask, or bars that do not count, with several pictures.
    """
    if len(images) == 1:
        return framed(images, mask, size, how)
    made = [framed(one, None, size, how) for one in images.split(1)]
    if mask is not None or any(area is not None for _, area, _ in made):
        raise ValueError(
            "a mask, or the bars of the fit letterbox, belong to one target; leave them out, or give one"
        )
    notes = list(dict.fromkeys(note for _, _, some in made for note in some))
    return torch.cat([picture for picture, _, _ in made]), None, notes


def strip(images: Tensor) -> Image.Image:
    """Lay a batch side by side as one picture."""
    (picture,) = core.to_pillow(torch.cat(list(images), dim=2)[None])
    return picture
