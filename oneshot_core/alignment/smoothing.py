"""Quads of the frames of a video: gaps filled, trembling smoothed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..choices import SMOOTH_FRAMES
from ..quads import Quad
from ..ranges import check_number
from .faces import NoFaceError

MOST_SMOOTH = 1000.0
TRUNCATE = 4.0  # deviations that the Gaussian reaches to each side


def smoothed(quads: Sequence[Quad | None], sigma: float = SMOOTH_FRAMES, *, fill: bool = True) -> list[Quad]:
    """Smooth quads over time, so that a face keeps still in its square.

    A mean of FFHQ's quads is a square again: all their corners are linear in the centre and half a side.

    Args:
        quads: one per frame, of one size of photo; None where no face was found.
        sigma: deviation of the Gaussian over time, in frames; 0 leaves the quads as they are. At the ends the
            weights of the frames that are there are made to sum to 1.
        fill: put what lies between its neighbours, frame by frame, where there is none, at the ends the
            nearest; False: refuse such frames.

    Returns:
        One per frame.

    Raises:
        NoFaceError: there is none at all.
        ValueError: frames without a face that are not to be filled, or photos of several sizes.
    """
    check_number(sigma, "the smoothing of quads", 0, MOST_SMOOTH)
    known = [index for index, quad in enumerate(quads) if quad is not None]
    found = [quad for quad in quads if quad is not None]
    if not found:
        raise NoFaceError(f"any of {len(quads)} frames")
    if len(found) < len(quads) and not fill:
        missing = [str(index + 1) for index, quad in enumerate(quads) if quad is None]
        raise NoFaceError(f"{len(missing)} of {len(quads)} frames ({', '.join(missing[:8])})")
    width, height = found[0].width, found[0].height
    for quad in found:
        quad.check(width, height)
    corners = np.array([quad.corners for quad in found]).reshape(len(found), 8)
    places = np.arange(len(quads))
    tracks = [np.interp(places, known, track) for track in corners.T]
    if sigma:
        tracks = [_gaussian(track, sigma) for track in tracks]
    return [Quad.at(frame.reshape(4, 2).tolist(), width, height) for frame in np.stack(tracks, axis=1)]


def _gaussian(track: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    reach = min(len(track) - 1, int(TRUNCATE * sigma + 0.5))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    middle = slice(reach, reach + len(track))
    total = np.convolve(np.ones_like(track), weights)[middle]
    return np.convolve(track, weights)[middle] / total
