"""From a picture file to the square that a generator draws, and what of it counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..alignment import align, align_mask
from ..frames import LARGEST, LETTERBOX, Frame
from ..tensors import Images, check_finite, check_shape
from .files import frames_notes, open_picture
from .target_notes import target_notes

Picture: TypeAlias = Image.Image


@dataclass(frozen=True)
class Target:
    """A target as a search and an adaptation take it.

    Args:
        image: [1, 3, S, S] in [-1, 1].
        mask: [1, 1, S, S] in [0, 1], 1 = counts; None: all of it counts.
        notes: sentences about what was left out or is doubtful.
    """

    image: Images
    mask: Tensor | None
    notes: tuple[str, ...] = ()


def frame(picture: Picture, size_px: int, how: Frame = LARGEST) -> Images:
    """Fit a picture to a square: what the command line and the canvas both do with a target.

    Args:
        picture: RGB, as `open_picture` gives it.
        size_px: side S of the result, the generator's.
        how: which square of it, and how.

    Returns:
        [1, 3, S, S] float32 in [-1, 1], resized with Pillow's antialiased bilinear filter, or cut out as
        `alignment.align` does; its values are those of 8-bit colours, and one that is framed already stays as
        it is.

    Raises:
        ValueError: a quad of a picture of another size.

    Source: cyclomon/OneshotCLIP train_oneshot.py (methods.md A, "target").
    """
    values = torch.from_numpy(np.array(_framed(picture, size_px, how), dtype=np.uint8))  # [S, S, 3]
    return values.permute(2, 0, 1)[None].float().div(255).sub(0.5).div(0.5).contiguous()


def frame_mask(mask: Tensor | None, picture: Picture, size_px: int, how: Frame = LARGEST) -> Tensor | None:
    """Fit the mask of a picture as `frame` fits the picture; the bars of "letterbox" never count.

    Where a quad leaves the picture, which is mirrored there, the mask is mirrored too.

    Args:
        mask: [1, 1, H, W] in [0, 1], 1 = counts, of the picture's size; None: all of the picture counts.
        picture: what it belongs to.
        size_px: side S of the result.
        how: see `frame`.

    Returns:
        [1, 1, S, S] in [0, 1] in steps of 1/255, 1 = counts; None where everything counts.

    Raises:
        ValueError: a mask of another size, with values outside [0, 1], or one that is 0 everywhere.
    """
    width, height = picture.size
    if mask is None:
        if how.fit != LETTERBOX:
            return None
        mask = torch.ones(1, 1, height, width)
    if mask.shape[-2:] != (height, width):
        raise ValueError(
            f"the mask has {mask.shape[-1]} x {mask.shape[-2]} px, the target {width} x {height}; give a "
            "mask of the target's size"
        )
    # As a picture file would hold it: ComfyUI's loaders give values whose last bits depend on the version.
    # So is the result, which is framed once more where it goes on over a wire.
    fitted = _in_levels(fit_mask(_in_levels(mask.clamp(0, 1)), size_px, how))
    return None if float(fitted.min()) == 1 else check_mask(fitted)


def _in_levels(mask: Tensor) -> Tensor:
    return mask.mul(255).round().div(255)


def framed_target(picture: Picture, size_px: int, how: Frame = LARGEST, mask: Tensor | None = None) -> Target:
    """Make a target of a picture; args and errors as `frame` and `frame_mask`."""
    notes = target_notes(picture, size_px, how)
    return Target(frame(picture, size_px, how), frame_mask(mask, picture, size_px, how), tuple(notes))


def load_picture(path: Path | str, size_px: int, how: Frame = LARGEST) -> Images:
    """Read a picture file and fit it to a square.

    The camera's rotation mark is applied, embedded colour profiles are converted to sRGB, transparent parts
    become white, greyscale, palette, CMYK and 16-bit pictures become 8-bit RGB, and of an animation the first
    frame is taken.

    Args:
        path: PNG, JPEG, WebP, AVIF, BMP, GIF, PPM or TIFF, told by content, not by suffix.
        size_px: see `frame`, as the result.
        how: see `frame`.

    Raises:
        PictureError: no such file, no picture, a damaged or a too large one.
    """
    return frame(open_picture(path), size_px, how)


def load_target(
    path: Path | str, size_px: int, how: Frame = LARGEST, mask: Path | str | None = None
) -> Target:
    """Read a target and which part of it counts.

    Args:
        path: see `load_picture`.
        size_px: side S of the results.
        how: see `frame`.
        mask: a picture file of the same size, white where the target counts; None: all of it counts.

    Raises:
        PictureError: see `load_picture`.
        ValueError: see `frame_mask`.
    """
    picture, values = open_picture(path), None
    if mask is not None:
        levels = np.array(open_picture(mask).convert("L"), dtype=np.uint8)
        values = torch.from_numpy(levels)[None, None].float() / 255
    target = framed_target(picture, size_px, how, values)
    return replace(target, notes=(*frames_notes(path), *target.notes))


def _framed(picture: Picture, size_px: int, how: Frame) -> Picture:
    if size_px < 1:
        raise ValueError(f"size must be at least 1 px, got {size_px}")
    if how.quad is not None:
        cut = align if picture.mode == "RGB" else align_mask
        return cut(picture, how.quad, size_px)
    width = height = size_px
    if how.fit == LETTERBOX:
        scale = size_px / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
    inner = picture.resize((width, height), Image.Resampling.BILINEAR, box=how.used(*picture.size))
    if inner.size == (size_px, size_px):
        return inner
    framed = Image.new(inner.mode, (size_px, size_px))  # 0: black, or "does not count"
    framed.paste(inner, ((size_px - width) // 2, (size_px - height) // 2))
    return framed


def fit_mask(mask: Tensor, size_px: int, how: Frame = LARGEST) -> Tensor:
    """Fit a mask as `frame` fits its picture; the bars of "letterbox" do not count.

    Args:
        mask: [1, 1, H, W] in [0, 1], 1 = counts, H and W those of the picture; ones where only the bars are
            to be left out.
        size_px: side S of the result.
        how: how the picture was fitted.

    Returns:
        [1, 1, S, S] in [0, 1].

    Raises:
        ValueError: another shape, values outside [0, 1], or nothing counts.
    """
    check_mask(mask)
    picture = Image.fromarray(mask[0, 0].detach().cpu().float().numpy())  # mode "F", the same filter
    values = torch.from_numpy(np.array(_framed(picture, size_px, how)))
    return check_mask(values[None, None].clamp(0, 1).to(mask))


def check_mask(mask: Tensor, size_px: int | None = None) -> Tensor:
    """Return a mask [1, 1, S, S] of pictures of `size_px`, None: of any size.

    Raises:
        ValueError: another shape, values outside [0, 1], or nothing counts.
    """
    check_shape(mask, "mask", (1, 1, size_px, size_px))
    check_finite(mask, "the mask", "give another mask, or leave it out")
    low, high = float(mask.min()), float(mask.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"a mask holds values from 0 (ignored) to 1 (counts), got {low:g} to {high:g}")
    if high == 0:
        raise ValueError(
            "the mask is 0 everywhere, so nothing of the target counts; invert it, or leave it out"
        )
    return mask


def masked_target(target: Images, reconstruction: Images, mask: Tensor) -> Images:
    """Fill what does not count of a target with the source's own picture, so that nothing pulls there.

    Args:
        target: [1, 3, S, S].
        reconstruction: [1, 3, S, S], the source generator's picture of the reference latent.
        mask: [1, 1, S, S] in [0, 1], 1 = counts.

    Returns:
        [1, 3, S, S] like `target`: what an adaptation takes as its target.

    Source: methods.md Q17, where the published code blackens rows of a stretched car in its search alone.
    """
    check_shape(reconstruction, "reconstruction", tuple(target.shape))
    mask = check_mask(mask, target.shape[-1]).to(target)
    return mask * target + (1 - mask) * reconstruction.to(target)
