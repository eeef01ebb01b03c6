"""From landmarks of a face to FFHQ's quad.

Source: the preparation of FFHQ (NVlabs/ffhq-dataset), which editing.md 4.5 states as formulas.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..frames import LARGEST, Frame
from ..quads import Quad

# Landmarks by how many a face has: those of the eye on the picture's left, of the other, and of the mouth's
# corners. A face's eye is the mean of its points, its mouth the mean of the corners.
_MESH = ([33, 160, 158, 133, 153, 144], [362, 385, 387, 263, 373, 380], [61, 291])
POINTS: dict[int, tuple[list[int], list[int], list[int]]] = {
    5: ([0], [1], [3, 4]),  # eyes, nose, mouth's corners, as MTCNN and RetinaFace give them
    68: ([36, 37, 38, 39, 40, 41], [42, 43, 44, 45, 46, 47], [48, 54]),  # iBUG 300-W, as dlib gives them
    468: _MESH,  # MediaPipe's
    478: _MESH,  # with irises
}
WIDTH_OF_EYES, WIDTH_OF_FACE, DOWN = 2.0, 1.8, 0.1  # see `three_point_quad`
LEAST_SPREAD = 0.05  # how far the mouth is from the line through the eyes, over how far from the middle


def ffhq_quad(landmarks: Any, width: int, height: int) -> Quad:
    """Return the square of a face as FFHQ's pictures show it.

    Args:
        landmarks: [N, 2], x and y in pixels of the photo; N is 68 (dlib), 468 or 478 (MediaPipe's mesh), or 5
            (eyes, nose, corners of the mouth). An array, a tensor or a list.
        width: of the photo.
        height: the same.

    Raises:
        ValueError: another number of landmarks, not finite, or no face's.
    """
    points = as_points(landmarks)
    if len(points) not in POINTS:
        known = ", ".join(map(str, sorted(POINTS)))
        raise ValueError(
            f"a face has {known} landmarks, got {len(points)}; use another detector, or three points"
        )
    left, right, mouth = (points[indices] for indices in POINTS[len(points)])
    return three_point_quad(left.mean(axis=0), right.mean(axis=0), mouth.mean(axis=0), width, height)


def three_point_quad(left_eye: Any, right_eye: Any, mouth: Any, width: int, height: int) -> Quad:
    """Return the square of a face of which three points are known.

    With a from one eye to the other and b from their middle to the mouth, half a side is a + (b_y, -b_x),
    made max(2.0 |a|, 1.8 |b|) long; the centre lies 0.1 b below the middle of the eyes.

    Args:
        left_eye: centre of the eye on the picture's left, x and y in pixels; the eyes may be swapped, since
            the mouth tells which is which.
        right_eye: centre of the other.
        mouth: the middle between its corners.
        width: of the photo.
        height: the same.

    Raises:
        ValueError: points on one line, or not finite.
    """
    first, second, third = as_points((left_eye, right_eye, mouth))
    across, down = second - first, third - (first + second) * 0.5
    turn = float(across[0] * down[1] - across[1] * down[0])
    if abs(turn) <= LEAST_SPREAD * np.hypot(*across) * np.hypot(*down):
        raise ValueError(
            "the eyes and the mouth lie on one line, or on one another, so they show no face: "
            f"{[list(map(float, point)) for point in (first, second, third)]}; mark two eyes and the mouth"
        )
    if turn < 0:
        first, second, across = second, first, -across
    eyes = (first + second) * 0.5
    half = across + np.array([down[1], -down[0]])
    half /= np.hypot(*half)
    half *= max(np.hypot(*across) * WIDTH_OF_EYES, np.hypot(*down) * WIDTH_OF_FACE)
    below = np.array([-half[1], half[0]])
    centre = eyes + down * DOWN
    corners = (centre - half - below, centre - half + below, centre + half + below, centre + half - below)
    return Quad.at(corners, width, height)


def full_frame(width: int, height: int, how: Frame = LARGEST) -> Quad:
    """Return the quad of a picture that needs no alignment: aligned already, or a car or church.

    Args:
        width: of the picture.
        height: the same.
        how: which square; the largest one in the middle. Of fit "crop".

    Raises:
        ValueError: a frame that takes the whole picture is no square of it, unless the picture is one.
    """
    if how.quad is not None:
        how.quad.check(width, height)
        return how.quad
    left, top, side = how.square(width, height)
    if left < 0 or top < 0:
        raise ValueError(f"only a square of the picture can be pasted back, not the fit {how.fit}; take crop")
    return Quad.square(left, top, side, width, height)


def as_points(values: Any) -> NDArray[np.float64]:
    """Return points as an array [N, 2]; raises ValueError for another shape or what is not finite."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("landmarks must be pairs of numbers, x and y in pixels of the photo") from None
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(
            f"landmarks must be finite and of shape [N, 2], x and y in pixels; got {list(points.shape)}"
        )
    return points
