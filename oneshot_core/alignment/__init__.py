"""Alignment of photos: from landmarks of a face to its square, cut out of the photo, and back into it."""

from .crops import align, align_mask
from .detectors import LANDMARKS_LICENCE, DetectorError, find_faces
from .faces import LARGEST, Face, NoFaceError, choose_face, faces_of_comfyui, followed_face
from .landmarks import ffhq_quad, full_frame, three_point_quad
from .paste import paste_back
from .smoothing import smoothed

__all__ = [
    "LARGEST",
    "LANDMARKS_LICENCE",
    "DetectorError",
    "Face",
    "NoFaceError",
    "align",
    "align_mask",
    "choose_face",
    "faces_of_comfyui",
    "ffhq_quad",
    "find_faces",
    "followed_face",
    "full_frame",
    "paste_back",
    "smoothed",
    "three_point_quad",
]
