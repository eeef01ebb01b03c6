"""The options of the verbs align and paste."""

from __future__ import annotations

import argparse
from typing import Any

from ..choices import ALIGNED_PX, FEATHER, SMOOTH_FRAMES
from ..quads import Point, Quad
from .option_values import filled, number, positive


def add_align(parser: argparse.ArgumentParser) -> None:
    """Add what the verb align asks for, but for how it runs."""
    add = parser.add_argument
    photos = "photos, and folders of them"
    add("photos", type=filled, nargs="+", metavar="PHOTO|DIR", help=photos)
    out = "folder for NAME.png and its quad, NAME.json"
    add("--out", type=filled, required=True, metavar="DIR", help=out)
    size = f"side of the results, the generator's ({ALIGNED_PX})"
    add("--size", type=positive, default=ALIGNED_PX, metavar="PX", help=size)
    how = parser.add_argument_group("where the face is (default: found by dlib, of the extra faces)")
    which = "of several: the largest (default), or a number from 1 on, from left to right"
    how.add_argument("--face", type=_face, default="largest", metavar="largest|N", help=which)
    only = how.add_mutually_exclusive_group()
    points = "the two eyes and the middle of the mouth, in pixels; of one photo; needs no detector"
    only.add_argument("--points", type=_point, nargs=3, metavar="X,Y", help=points)
    square = "the largest square in the middle: for cars, churches, and what is aligned already"
    only.add_argument("--square", action="store_true", help=square)
    frames = (
        "the photos are the frames of a video, in the order of their names: one face is followed, frames "
        "without it lie between their neighbours, and the squares are smoothed over X frames "
        f"({SMOOTH_FRAMES:g} is usual)"
    )
    how.add_argument("--smooth", type=number(0, 1000), metavar="X", help=frames)


def add_paste(parser: argparse.ArgumentParser) -> None:
    """Add what the verb paste asks for, but for how it runs."""

    def name(option: str, metavar: str, text: str, **more: Any) -> None:
        parser.add_argument(option, type=filled, metavar=metavar, help=text, **more)

    name("picture", "PICTURE|DIR", "aligned picture that was edited, or a folder of frames by name")
    name("--photo", "PHOTO|DIR", "the whole photo that it was cut out of", required=True)
    name("--quad", "JSON|DIR", "where it lies: the file that align wrote", required=True)
    name("--out", "PNG|DIR", "new picture, ending in .png", required=True)
    fade = f"how far it fades in from its sides, as a share of its own (0 to 0.5; {FEATHER:g})"
    parser.add_argument("--feather", type=number(0, 0.5), default=FEATHER, metavar="X", help=fade)
    name("--mask", "PICTURE", "square picture, white where the edited one is put back")


def quad(text: str) -> dict[str, Any]:
    """Read a quad's file as JSON values, as a recipe has them."""
    from ..quad_files import load_quad

    try:
        found: Quad = load_quad(filled(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return found.values()


def _face(text: str) -> int | str:
    return text if text == "largest" else positive(text)


def _point(text: str) -> Point:
    x, comma, y = text.partition(",")
    try:
        if not comma:
            raise argparse.ArgumentTypeError
        return number()(x), number()(y)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"write X,Y in pixels of the photo, such as 210,143; got {text!r}"
        ) from None
