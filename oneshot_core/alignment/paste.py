"""Put the picture of a quad back into its photo."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import FEATHER
from ..quads import Quad
from ..ranges import check_number
from ..tensors import Images, check_finite, check_shape
from .crops import blur_share

# Pixels of the picture, once it is made smaller, per pixel of the photo: with 1 a face that is put back
# unchanged loses detail, with 1.5 what is finer than the photo's pixels shows as noise.
DENSITY = 1.25


def paste_back(
    photo: Images, picture: Images, quad: Quad, feather: float = FEATHER, mask: Tensor | None = None
) -> Images:
    """Put an aligned picture, edited since, back to where it was cut out.

    Args:
        photo: [1, 3, H, W] in [-1, 1], the whole one that the quad was found in.
        picture: [1, 3, S, S] in [-1, 1]; S need not be the side of the quad.
        quad: where it lies.
        feather: how far the picture fades in from each side of the quad, as a share of its side, 0 to 0.5.
            Where the quad leaves the photo, it fades towards the photo's edge as `align` blurred it there.
        mask: what is put back, in the picture's square, [1, 1, M, M], [1, M, M] or [M, M] in [0, 1] with 1 =
            changed; None: all.

    Returns:
        [1, 3, H, W] like `photo`; pixels outside of the quad, and where nothing is put back, are the photo's
        bit for bit.

    Raises:
        ValueError: another shape, not finite, a photo of another size than the quad's.
    """
    check_shape(photo, "photo", (1, 3, None, None))
    check_shape(picture, "picture", (1, 3, picture.shape[-1], picture.shape[-1]))
    check_number(feather, "feather", 0, 0.5)
    check_finite(picture, "the picture")
    height, width = photo.shape[-2:]
    quad.check(width, height)
    left, top, right, bottom = _region(quad)
    places = _places(quad, left, top, right, bottom)  # [h, w, 2]
    columns, rows = np.arange(left, right), np.arange(top, bottom)
    weight = _faded(places, feather).float() * (1 - torch.from_numpy(blur_share(quad, columns, rows)))
    if mask is not None:
        weight = weight * _warped(_as_mask(mask), places, quad.side, "bilinear")[0, 0].clamp(0, 1)
    within = weight > 0
    new = _warped(picture, places, quad.side, "bicubic")[0].clamp(-1, 1)  # cubic filters overshoot
    old = photo[0, :, top:bottom, left:right]
    mixed = torch.lerp(old.to(new), new, weight).to(photo)
    result = photo.detach().clone()
    result[0, :, top:bottom, left:right] = torch.where(within.to(photo.device), mixed, old)
    return result


def _region(quad: Quad) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the photo's pixels that the quad can reach."""
    left, top, right, bottom = quad.bounds
    return (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(quad.width, math.ceil(right) + 1),
        min(quad.height, math.ceil(bottom) + 1),
    )


def _places(quad: Quad, left: int, top: int, right: int, bottom: int) -> Tensor:
    """Where pixels of the photo lie in the picture, [h, w, 2]: x and y from 0 to 1 within it.

    A point (u, v) of the picture lies at p = A + u B + v C + u v D, as Pillow's transform has it. The cross
    product of p - A - v C with B + v D vanishes, a quadratic equation in v, for a square a linear one:
    v^2 (C x D) + v (C x B - (p - A) x D) + B x (p - A) = 0.
    """
    corners = torch.tensor(quad.corners, dtype=torch.float64)
    start, down, across = corners[0], corners[1] - corners[0], corners[3] - corners[0]
    skew = corners[0] - corners[1] + corners[2] - corners[3]
    x = torch.arange(left, right, dtype=torch.float64) - start[0]
    y = torch.arange(top, bottom, dtype=torch.float64) - start[1]
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    square = _cross(down, skew)
    linear = _cross(down, across) - _cross(points, skew)
    constant = _cross(across, points)
    discriminant = linear.square() - 4 * square * constant
    # The root that stays finite where `square` vanishes; `linear` is negative within the quad.
    v = 2 * constant / (discriminant.clamp_min(0).sqrt() - linear)
    edge = across + v[..., None] * skew
    u = ((points - v[..., None] * down) * edge).sum(-1) / edge.square().sum(-1)
    outside = (discriminant < 0) | (linear >= 0)
    return torch.stack([u, v], dim=-1).masked_fill(outside[..., None], -1.0)


def _cross(first: Tensor, second: Tensor) -> Tensor:
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


def _faded(places: Tensor, feather: float) -> Tensor:
    """Weight of the picture, [h, w]: 0 outside of it, 1 within, between them a smooth step."""
    depth = torch.minimum(places, 1 - places)  # to the nearer side, across and down
    if feather == 0:
        return (depth >= 0).all(dim=-1).to(places)
    share = (depth / feather).clamp(0, 1)
    return (share.square() * (3 - 2 * share)).prod(dim=-1)


def _as_mask(mask: Tensor) -> Tensor:
    side = mask.shape[-1]
    if mask.ndim not in (2, 3, 4) or mask.numel() != side * side:
        raise ValueError(f"the mask of an aligned picture must have shape [M, M], got {list(mask.shape)}")
    check_finite(mask, "the mask")
    low, high = float(mask.min()), float(mask.max())
    if low < 0 or high > 1:
        raise ValueError(f"a mask holds values from 0 (kept) to 1 (changed), got {low:g} to {high:g}")
    return mask.reshape(1, 1, side, side)


def _warped(values: Tensor, places: Tensor, side: float, how: str) -> Tensor:
    """Sample a square [1, C, S, S] at places of the photo; one of more pixels is made smaller before."""
    values = values.detach().cpu().float()
    target = math.ceil(DENSITY * side)
    if target < values.shape[-1]:
        values = F.interpolate(values, (target, target), mode=how, antialias=True)
    grid = (places * 2 - 1).float()[None]
    return F.grid_sample(values, grid, mode=how, padding_mode="border", align_corners=False)
