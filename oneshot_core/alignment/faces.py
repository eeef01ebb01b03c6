"""Faces that a detector found: which one is meant, in one photo and through the frames of a video."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..choices import LARGEST
from ..quads import Point, Quad
from .landmarks import as_points, ffhq_quad

DOUBTFUL = 0.25  # of the surest one's score: what is less sure is not the largest face, whatever its size
OTHER_WAYS = (
    "mark the eyes and the mouth by hand, or give landmarks of another detector, such as ComfyUI's own; of a "
    "picture that is aligned already, or of a car or church, take the middle square"
)


class NoFaceError(ValueError):
    """No face was found; the message says what else can be done."""

    def __init__(self, where: str = "the photo") -> None:
        super().__init__(f"no face was found in {where}; {OTHER_WAYS}")


@dataclass(frozen=True)
class Face:
    """A face in a photo.

    Args:
        landmarks: x and y of each in pixels of the photo; 68, 468, 478 or 5, see `ffhq_quad`.
        box: left, top, right and bottom of the face as its detector draws it.
        width: of the photo.
        height: the same.
        score: of the detector; higher is surer, scales differ.
    """

    landmarks: tuple[Point, ...]
    box: tuple[float, float, float, float]
    width: int
    height: int
    score: float = 0.0

    @property
    def size(self) -> float:
        """Mean side of the box, in pixels."""
        left, top, right, bottom = self.box
        return math.sqrt(max(0.0, right - left) * max(0.0, bottom - top))

    @property
    def centre(self) -> Point:
        """Middle of the box."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    def quad(self) -> Quad:
        """FFHQ's square of it; raises ValueError where the landmarks show no face."""
        return ffhq_quad(self.landmarks, self.width, self.height)


def choose_face(faces: Sequence[Face], which: int | str = LARGEST, where: str = "the photo") -> Face:
    """Return one of the faces of a photo.

    Args:
        faces: all that were found.
        which: "largest", of those that are not much less sure than the surest; or its number from left to
            right, from 1 on.
        where: what they were found in, for messages.

    Raises:
        NoFaceError: there is none.
        ValueError: there are fewer.
    """
    if which != LARGEST and (type(which) is not int or which < 1):
        raise ValueError(f"a face is the {LARGEST}, or a number from 1 on, from left to right; got {which!r}")
    if not faces:
        raise NoFaceError(where)
    if which == LARGEST:
        least = DOUBTFUL * max(face.score for face in faces)
        return max((face for face in faces if face.score >= least), key=lambda face: face.size)
    assert isinstance(which, int)
    if which > len(faces):
        count = "one face was" if len(faces) == 1 else f"{len(faces)} faces were"
        raise ValueError(
            f"face {which} was asked for, but {count} found in {where}; take the largest, or a number from 1 "
            f"to {len(faces)}, from left to right"
        )
    return sorted(faces, key=lambda face: face.centre)[which - 1]


def followed_face(frames: Sequence[Sequence[Face]], which: int | str = LARGEST) -> list[Face | None]:
    """Follow one face through the frames of a video.

    Args:
        frames: the faces of each frame.
        which: see `choose_face`, of the first frame that has any.

    Returns:
        Per frame the face nearest to where it was last, None where there is none within its size, times the
        frames since then.

    Raises:
        NoFaceError: no frame has any.
        ValueError: see `choose_face`.
    """
    start = next((index for index, faces in enumerate(frames) if faces), len(frames))
    found: list[Face | None] = [None] * len(frames)
    last = choose_face([] if start == len(frames) else frames[start], which, f"any of {len(frames)} frames")
    seen = start
    for index in range(start, len(frames)):
        near = [(math.dist(face.centre, last.centre), place) for place, face in enumerate(frames[index])]
        if near and min(near)[0] <= last.size * max(1, index - seen):
            last = found[index] = last if index == start else frames[index][min(near)[1]]
            seen = index
    return found


def faces_of_comfyui(value: Any) -> list[list[Face]]:
    """Read what ComfyUI's own face detection gives: the socket FACE_LANDMARKS, of ComfyUI 0.33.

    Args:
        value: a mapping with "frames", per picture a list of faces, each with "landmarks_xy" [N, 2] in pixels
            and, where they are, "bbox_xyxy" and "score"; and "image_size", height and width.

    Returns:
        Per picture its faces; those without landmarks that `ffhq_quad` knows raise.

    Raises:
        ValueError: another structure, as of another version.

    Source: ComfyUI comfy_extras/nodes_mediapipe.py, MediaPipeFaceLandmarker.
    """
    try:
        height, width = (int(side) for side in value["image_size"])
        return [[_face(face, width, height) for face in frame] for frame in value["frames"]]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            "these are no face landmarks as ComfyUI 0.33 gives them, frames with landmarks_xy and image_size "
            f"({type(error).__name__}: {error}); use the output of Detect Face Landmarks"
        ) from error


def _face(values: Mapping[str, Any], width: int, height: int) -> Face:
    points = as_points(values["landmarks_xy"])
    box = values.get("bbox_xyxy")
    if box is None:
        box = (*points.min(axis=0), *points.max(axis=0))
    left, top, right, bottom = map(float, box)
    landmarks = tuple((float(x), float(y)) for x, y in points)
    return Face(landmarks, (left, top, right, bottom), width, height, float(values.get("score", 0.0)))
