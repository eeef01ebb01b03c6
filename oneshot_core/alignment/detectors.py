"""Find faces and their 68 landmarks by dlib, where it is installed; nothing is downloaded.

The model of the landmarks is a file of the package face-recognition-models. That package says CC0, but the
model learnt from the iBUG 300-W pictures, which are said to be for non-commercial use.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Image as Picture

from .faces import OTHER_WAYS, Face

MODEL = "shape_predictor_68_face_landmarks.dat"
MODEL_PACKAGE = "face_recognition_models"
LANDMARKS_LICENCE = (
    "the 68 landmarks come from a model that learnt from iBUG 300-W, whose pictures are said to be for "
    "non-commercial use"
)
MOST_DETECT_PX = 1600  # of the longer side of what is looked through; faces are found from 1/40 of it on
UPSAMPLING = 1  # doublings before, as the preparation of FFHQ does: faces of 40 px are found, not only of 80


class DetectorError(ValueError):
    """No detector can be used; the message says what to install, and what can be done without one."""


def find_faces(photo: Picture, model: Path | str | None = None) -> list[Face]:
    """Find the faces in a photo.

    Args:
        photo: RGB, upright.
        model: a file shape_predictor_68_face_landmarks.dat; None: that of face-recognition-models.

    Returns:
        From left to right, each with 68 landmarks in pixels; empty where none was found.

    Raises:
        DetectorError: dlib or the model is missing or damaged.

    Source: dlib's frontal face detector and shape predictor, as FFHQ's preparation calls them; larger photos
    are made smaller for the first.
    """
    detector, predictor = _models(str(model_file(model)))
    import dlib

    photo = photo.convert("RGB")
    scale = max(1.0, max(photo.size) / MOST_DETECT_PX)
    size = tuple(max(1, round(side / scale)) for side in photo.size)
    small = photo if scale == 1 else photo.resize(size, Image.Resampling.BILINEAR)  # type: ignore[arg-type]
    boxes, scores, _ = detector.run(np.array(small), UPSAMPLING, 0.0)
    pixels, found = np.array(photo), []
    for box, score in zip(boxes, scores, strict=True):
        ends = [round(end * scale) for end in (box.left(), box.top(), box.right(), box.bottom())]
        shape = predictor(pixels, dlib.rectangle(*ends))
        landmarks = tuple((float(part.x), float(part.y)) for part in shape.parts())
        left, top, right, bottom = map(float, ends)
        found.append(Face(landmarks, (left, top, right, bottom), *photo.size, score=float(score)))
    return sorted(found, key=lambda face: face.centre)


def model_file(given: Path | str | None = None) -> Path:
    """Return the file of the landmarks' model, and see that dlib is there; without running the package.

    Args:
        given: see `find_faces`.

    Raises:
        DetectorError: one of them is missing.
    """
    if find_spec("dlib") is None:
        raise DetectorError(
            "finding faces needs the packages dlib-bin and face-recognition-models, which are not installed: "
            "pip install dlib-bin face-recognition-models (or oneshot-stylegan[faces]). Without them "
            f"{OTHER_WAYS}"
        )
    if given is not None:
        path = Path(given).expanduser()
        if not path.is_file():
            raise DetectorError(f"the model of landmarks {path} is not a file; give dlib's {MODEL}")
        return path
    spec = find_spec(MODEL_PACKAGE)  # its import needs pkg_resources, which newer setuptools lack
    folders = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    for folder in folders:
        if (folder / "models" / MODEL).is_file():
            return folder / "models" / MODEL
    raise DetectorError(
        f"dlib is there, but not its model {MODEL}: pip install face-recognition-models (or "
        f"oneshot-stylegan[faces]). Without it {OTHER_WAYS}"
    )


@cache
def _models(model: str) -> tuple[Any, Any]:
    """The detector and the predictor, read once."""
    import dlib

    try:
        return dlib.get_frontal_face_detector(), dlib.shape_predictor(model)
    except RuntimeError as error:
        raise DetectorError(
            f"{model} cannot be read as a model of landmarks ({' '.join(str(error).split())[:160]}); install "
            "face-recognition-models again"
        ) from error
