"""Alignment of whole batches of pictures, such as the frames of a video: one quad per picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .alignment import (
    LARGEST,
    Face,
    align,
    choose_face,
    find_faces,
    followed_face,
    paste_back,
    smoothed,
)
from .choices import FEATHER, SMOOTH_FRAMES
from .pictures import to_pillow, to_tensor
from .quads import Quad
from .ranges import check_number
from .tensors import Images, owned

Poll = Callable[[int, int], None]


@dataclass(frozen=True)
class Alignment:
    """Where the aligned pictures of a batch lie in their photos.

    Args:
        quads: one per picture, at least one; all in photos of one size.
        notes: sentences about how they were found.
    """

    quads: tuple[Quad, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.quads:
            raise ValueError("an alignment has at least one quad")
        first = self.quads[0]
        for quad in self.quads:
            quad.check(first.width, first.height)

    def scaled(self, margin: float) -> Alignment:
        """With more around the faces: quads whose sides are `margin` times as long, 0.5 to 4."""
        check_number(margin, "margin", low=0.5, high=4)
        if margin == 1:
            return self
        return replace(self, quads=tuple(quad.scaled(margin) for quad in self.quads))

    def of(self, index: int, count: int) -> Quad:
        """The quad of one of `count` pictures: of as many quads its own, of one quad that one."""
        if len(self.quads) not in (1, count):
            raise ValueError(
                f"the alignment is of {len(self.quads)} pictures, and here are {count}; give as many, or the "
                "alignment of one photo"
            )
        return self.quads[0 if len(self.quads) == 1 else index]


def alignment_of_faces(
    frames: Sequence[Sequence[Face]], which: int | str = LARGEST, sigma: float = SMOOTH_FRAMES
) -> Alignment:
    """Choose a face in every picture of a batch; in a batch of several it is followed and smoothed.

    Args:
        frames: the faces of each picture.
        which: "largest", or a number from left to right, from 1 on, in the first picture that has any.
        sigma: of the smoothing over pictures, in pictures; 0: none.

    Raises:
        NoFaceError: no picture has any.
        ValueError: see `choose_face`.
    """
    if len(frames) == 1:
        (faces,) = frames
        quad = choose_face(faces, which).quad()
        several = f"{len(faces)} faces were found; the {_word(which)} is taken"
        return Alignment((quad,), (several,) if len(faces) > 1 else ())
    found = followed_face(frames, which)
    quads = smoothed([None if face is None else face.quad() for face in found], sigma)
    gaps = sum(face is None for face in found)
    told = f"no face was found in {gaps} of {len(found)} pictures; its place was interpolated there"
    return Alignment(tuple(quads), (told,) if gaps else ())


def _word(which: int | str) -> str:
    return str(which) if isinstance(which, str) else f"number {which} from the left"


def detect_alignment(
    photos: Images, which: int | str = LARGEST, sigma: float = SMOOTH_FRAMES, poll: Poll | None = None
) -> Alignment:
    """Find a face in every picture with dlib, see `find_faces` and `alignment_of_faces`.

    Args:
        photos: [N, 3, H, W] in [-1, 1].
        which: see `choose_face`.
        sigma: of the smoothing.
        poll: told after each picture how many of how many are done; one that raises stops.
    """
    frames = []
    for picture in to_pillow(photos):
        frames.append(find_faces(picture))
        if poll is not None:
            poll(len(frames), len(photos))
    return alignment_of_faces(frames, which, sigma)


def align_batch(photos: Images, alignment: Alignment, size_px: int, poll: Poll | None = None) -> Images:
    """Cut the aligned pictures out: [N, 3, H, W] in [-1, 1] -> [N, 3, size_px, size_px] in [-1, 1]."""
    cut = []
    for index, picture in enumerate(to_pillow(photos)):
        cut.append(to_tensor(align(picture, alignment.of(index, len(photos)), size_px)))
        if poll is not None:
            poll(len(cut), len(photos))
    return torch.cat(cut)


def paste_batch(
    photos: Images,
    pictures: Images,
    alignment: Alignment,
    feather: float = FEATHER,
    mask: Tensor | None = None,
    poll: Poll | None = None,
) -> Images:
    """Put edited pictures back into their photos.

    Args:
        photos: [1 or N, 3, H, W] in [-1, 1]; of one photo every picture is put into it.
        pictures: [N, 3, S, S] in [-1, 1].
        alignment: of the photos: one quad, or one per picture.
        feather: see `paste_back`.
        mask: [1 or N, M, M] in [0, 1], 1 = put back; None: all.
        poll: told after each picture how many of how many are done; one that raises stops.

    Returns:
        [N, 3, H, W].

    Raises:
        ValueError: numbers of photos, pictures, masks and quads that do not fit, or see `paste_back`.
    """
    count = len(pictures)
    for what, given in (("photos", photos), ("masks", mask)):
        if given is not None and len(given) not in (1, count):
            raise ValueError(f"there are {len(given)} {what} for {count} pictures; give one, or as many")
    pasted = []
    for index in range(count):
        own = [None if one is None else one[index % len(one)][None] for one in (photos, mask)]
        assert own[0] is not None
        quad = alignment.of(index, count)
        pasted.append(paste_back(own[0], pictures[index : index + 1], quad, feather, own[1]))
        if poll is not None:
            poll(len(pasted), count)
    return torch.cat(pasted)


def square_masks(masks: Tensor) -> Tensor:
    """Read masks of a canvas, [M, M], [N, M, M] or [N, 1, M, M] in [0, 1], as [N, M, M].

    Raises:
        ValueError: they are not square, as the pictures they belong to are.
    """
    values = owned(masks).cpu().float().reshape(-1, *masks.shape[-2:])
    if values.shape[-1] != values.shape[-2]:
        height, width = values.shape[-2:]
        raise ValueError(
            f"mask must be square, as the picture that is put back is; got {width} x {height} px"
        )
    return values.clamp(0, 1)


def parse_point(text: str) -> tuple[float, float]:
    """Read a point such as "210, 180": pixels from the left and from the top.

    Raises:
        ValueError: it is not two numbers.
    """
    parts = text.replace(",", " ").split()
    try:
        x, y = map(float, parts)
    except ValueError:
        raise ValueError(
            f"a point is two numbers, pixels from the left and from the top, such as 210, 180; got {text!r}"
        ) from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"a point must be finite, got {text!r}")
    return x, y
