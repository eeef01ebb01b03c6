"""Cut the square of a quad out of a photo, as the pictures of FFHQ were made.

Source: the preparation of FFHQ (NVlabs/ffhq-dataset), as omertov/encoder4editing utils/alignment.py has it;
written from the formulas in the README of the recordings that the tests compare with. The Gaussian follows
scipy.ndimage's rule, without scipy.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Image as Picture

from ..quads import Quad

MOST_OUT_PX = 4096
OVERSAMPLING = 4  # FFHQ: 4096 px, made smaller to 1024
BORDER, LEAST_BORDER_PX = 0.1, 3  # of the side, that is kept around the quad
SLACK_PX = 4  # of the border that may be missing before the photo is continued
PAD, BLUR = 0.3, 0.02  # of the side: margin that is made up, and the deviation of its blur
TRUNCATE = 4.0  # deviations that the Gaussian reaches to each side
Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom
Corners: TypeAlias = NDArray[np.float64]  # [4, 2]
Floats: TypeAlias = NDArray[np.float32]


def align(photo: Picture, quad: Quad, out_px: int, transform_px: int | None = None) -> Picture:
    """Cut the square of a quad out of a photo, in FFHQ's steps.

    A photo much larger than the result is made smaller first; where the quad leaves it, it is continued by
    its mirror image, which fades into a blur and the median colour. An upright square of whole pixels within
    the photo, as of a picture that is aligned already, is cut and resized without any of this.

    Args:
        photo: RGB.
        quad: found in this photo.
        out_px: side of the result, 1 to 4096.
        transform_px: side that the quad is sampled at before it is made smaller; None: four times `out_px`,
            as FFHQ has it. `out_px` itself is what encoder4editing does.

    Returns:
        An RGB picture of out_px x out_px px.

    Raises:
        ValueError: a photo of another size than the quad's, or sizes out of range.
    """
    return _aligned(photo.convert("RGB"), quad, out_px, transform_px)


def align_mask(mask: Picture, quad: Quad, out_px: int) -> Picture:
    """Cut a photo's mask as `align` cuts the photo; where that is continued, so is the mask, unblurred.

    Args:
        mask: of the photo's size, mode "F", in [0, 1].
        quad: see `align`.
        out_px: the same.

    Returns:
        Mode "F", in [0, 1].
    """
    cut = np.asarray(_aligned(mask, quad, out_px, None)).clip(0, 1)  # Lanczos overshoots
    return Image.fromarray(cut)


def _aligned(picture: Picture, quad: Quad, out_px: int, transform_px: int | None) -> Picture:
    transform_px = out_px * OVERSAMPLING if transform_px is None else transform_px
    if not 1 <= out_px <= MOST_OUT_PX or not out_px <= transform_px <= MOST_OUT_PX * OVERSAMPLING:
        raise ValueError(
            f"the side of an aligned picture must be from 1 to {MOST_OUT_PX} px, and that of its transform "
            f"from there to {MOST_OUT_PX * OVERSAMPLING}; got {out_px} and {transform_px}"
        )
    quad.check(*picture.size)
    if quad.pixels is not None:
        return picture.resize((out_px, out_px), Image.Resampling.BILINEAR, box=quad.pixels)
    corners, side = np.array(quad.corners, dtype=np.float64), quad.side
    shrink = math.floor(side / out_px / 2)
    if shrink > 1:
        size = tuple(max(1, round(length / shrink)) for length in picture.size)
        picture = picture.resize(size, Image.Resampling.LANCZOS)  # type: ignore[arg-type]
        corners, side = corners / shrink, side / shrink
    border = _border(side)
    picture, corners = _cropped(picture, corners, border)
    picture, corners = _continued(picture, corners, border, side)
    cut = picture.transform(
        (transform_px, transform_px),
        Image.Transform.QUAD,
        tuple((corners + 0.5).flatten().tolist()),  # Pillow counts from a pixel's corner
        Image.Resampling.BILINEAR,
    )
    return cut if transform_px == out_px else cut.resize((out_px, out_px), Image.Resampling.LANCZOS)


def _border(side: float) -> int:
    return max(round(BORDER * side), LEAST_BORDER_PX)


def _box(corners: Corners) -> Box:
    """Upright box of whole pixels around corners: left, top, right, bottom."""
    left, top = (int(value) for value in np.floor(corners.min(axis=0)))
    right, bottom = (int(value) for value in np.ceil(corners.max(axis=0)))
    return left, top, right, bottom


def _cropped(picture: Picture, corners: Corners, border: int) -> tuple[Picture, Corners]:
    """Leave out what is farther from the quad than the border."""
    box = _crop_box(corners, picture.size, border)
    if box == (0, 0, *picture.size):
        return picture, corners
    return picture.crop(box), corners - box[:2]


def _crop_box(corners: Corners, size: tuple[int, int], border: int) -> Box:
    left, top, right, bottom = _box(corners)
    return (
        max(left - border, 0),
        max(top - border, 0),
        min(right + border, size[0]),
        min(bottom + border, size[1]),
    )


def _continued(picture: Picture, corners: Corners, border: int, side: float) -> tuple[Picture, Corners]:
    """Continue the photo where the quad leaves it: mirrored, fading into a blur and the median colour."""
    pad = _margins(corners, picture.size, border, side)
    if pad is None:
        return picture, corners
    left, top, right, bottom = pad
    values = np.asarray(picture, dtype=np.float32)
    margins = ((top, bottom), (left, right), (0, 0))[: values.ndim]
    values = np.pad(values, margins, mode="reflect")
    moved = corners + np.array([left, top])
    if values.ndim == 2:  # a mask
        return Image.fromarray(values), moved
    height, width = values.shape[:2]
    outside = _outside(np.arange(width), np.arange(height), (width, height), pad)[..., None]
    values += (blurred(values, BLUR * side) - values) * _blur_share(outside)
    values += (np.median(values, axis=(0, 1)) - values) * np.clip(outside, 0, 1)
    return Image.fromarray(np.uint8(np.clip(np.rint(values), 0, 255))), moved


def _margins(corners: Corners, size: tuple[int, int], border: int, side: float) -> Box | None:
    """How far a photo is continued to the left, top, right and bottom; None where the quad lies within it."""
    left, top, right, bottom = _box(corners)
    pad = [max(one + border, 0) for one in (-left, -top, right - size[0], bottom - size[1])]
    if max(pad) <= border - SLACK_PX:
        return None
    left, top, right, bottom = (max(one, round(PAD * side)) for one in pad)
    return left, top, right, bottom


def _outside(x: NDArray[Any], y: NDArray[Any], size: tuple[int, int], pad: Box) -> Floats:
    """How far columns x and rows y of a continued photo lie outside: 1 at its end, 0 at the photo's edge."""
    left, top, right, bottom = pad
    across = np.minimum(x / left, (size[0] - 1 - x) / right)
    down = np.minimum(y / top, (size[1] - 1 - y) / bottom)
    return (1 - np.minimum(across[None], down[:, None])).astype(np.float32)


def _blur_share(outside: Floats) -> Floats:
    return np.clip(3 * outside + 1, 0, 1)


def blur_share(quad: Quad, x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Return how much of the blur `align` put into a photo's pixels: 1 at an edge that the quad leaves.

    It ends within the photo a third as far from the edge as the photo was continued beyond it.

    Args:
        quad: of the photo.
        x: columns, [w].
        y: rows, [h].

    Returns:
        [h, w], 0 where the pixels stay as they are.
    """
    corners, border = np.array(quad.corners), _border(quad.side)
    box = _crop_box(corners, (quad.width, quad.height), border)
    size = (box[2] - box[0], box[3] - box[1])
    pad = None if quad.pixels else _margins(corners - box[:2], size, border, quad.side)
    if pad is None:
        return np.zeros((len(y), len(x)), dtype=np.float32)
    left, top, right, bottom = pad
    whole = (size[0] + left + right, size[1] + top + bottom)
    return _blur_share(_outside(x - box[0] + left, y - box[1] + top, whole, pad))


def blurred(values: Floats, sigma: float) -> Floats:
    """Blur the first two axes by a Gaussian, as scipy.ndimage's gaussian_filter with its defaults.

    Args:
        values: [H, W, C].
        sigma: deviation in pixels; the kernel ends int(4 sigma + 0.5) from its middle, and beyond the edge
            the picture is mirrored, edge pixels twice.

    Returns:
        The same shape.
    """
    reach = int(TRUNCATE * sigma + 0.5)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    weights = (weights / weights.sum()).float()
    channels = [_along(_along(values[..., one], weights).T, weights).T for one in range(values.shape[-1])]
    return np.stack(channels, axis=-1)


def _along(values: Floats, weights: torch.Tensor) -> Floats:
    """Convolve the last axis with weights of odd number, by Fourier transforms: kernels have hundreds."""
    reach, length = len(weights) // 2, values.shape[-1]
    padded = torch.from_numpy(np.pad(values, ((0, 0), (reach, reach)), mode="symmetric"))
    span = _quick_length(padded.shape[-1])
    product = torch.fft.rfft(padded, span) * torch.fft.rfft(weights, span)
    return torch.fft.irfft(product, span)[..., 2 * reach : 2 * reach + length].numpy()


def _quick_length(least: int) -> int:
    """Return the next number without prime factors above 5, whose Fourier transforms are quick."""
    length = least
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
