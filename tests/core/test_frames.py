"""Which square of a picture is used: zoom and offsets, whole pixels, what a fit does not take."""

from __future__ import annotations

import pytest

from oneshot_core.frames import LARGEST, Frame
from oneshot_core.quads import Quad


@pytest.mark.parametrize(
    ("frame", "square"),
    [
        (LARGEST, (20, 0, 61)),  # (101 - 61) // 2
        (Frame(offset_x=-1), (0, 0, 61)),
        (Frame(offset_x=1, offset_y=1), (40, 0, 61)),
        (Frame(zoom=2), (35, 15, 30)),
        (Frame(zoom=2, offset_x=1, offset_y=-1), (71, 0, 30)),
        (Frame(zoom=16, offset_x=0.5), (72, 28, 4)),
        (Frame("letterbox"), (0, -20, 101)),
        (Frame("stretch"), (0, -20, 101)),
    ],
)
def test_the_square_lies_in_whole_pixels(frame: Frame, square: tuple[int, int, int]) -> None:
    assert frame.square(101, 61) == square
    left, top, side = square
    whole = frame.fit != "crop"
    assert frame.used(101, 61) == ((0, 0, 101, 61) if whole else (left, top, left + side, top + side))
    told = frame.describe(101, 61)
    assert (told["left"], told["top"], told["side"]) == square
    assert {name: told[name] for name in ("width", "height", "zoom", "fit")} == {
        "width": 101, "height": 61, "zoom": frame.zoom, "fit": frame.fit,
    }  # fmt: skip


TURNED = Quad(((50.5, -10.0), (20.0, 25.5), (55.5, 56.0), (86.0, 20.5)), 101, 61)


def test_a_quad_lies_where_it_lies() -> None:
    upright = Frame(quad=Quad.square(20, 3, 33, 101, 61))
    assert upright.square(101, 61) == (20, 3, 33) and upright.used(101, 61) == (20, 3, 53, 36)
    frame = Frame(quad=TURNED)
    assert frame.square(101, 61) == (30, 0, 47) and frame.used(101, 61) == (20, 0, 87, 57)
    assert frame.describe(101, 61)["corners"] == [list(corner) for corner in TURNED.corners]
    assert "corners" not in LARGEST.describe(101, 61)
    assert str(frame) == "aligned by a quad of 47 px around (53, 23)"
    for asked in (frame.square, frame.used, frame.describe):
        with pytest.raises(ValueError, match="found in a photo of 101 x 61 px, this one has 61 x 101"):
            asked(61, 101)


def test_the_square_never_leaves_the_picture() -> None:
    for width, height in ((1, 1), (3, 7), (7, 3), (640, 427)):
        for zoom in (1, 1.3, 2.5, 16):
            for offset in (-1, -0.999, -0.3, 0, 0.3, 0.999, 1):
                left, top, right, bottom = Frame("crop", zoom, offset, -offset).used(width, height)
                assert 0 <= left < right <= width and 0 <= top < bottom <= height
                assert right - left == bottom - top


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("zoom",), "fit must be one of crop, stretch, letterbox, got 'zoom'"),
        (("crop", 0.9), "zoom must be a number from 1 to 16, got 0.9"),
        (("crop", float("nan")), "zoom must be a number from 1 to 16, got nan"),
        (("crop", 1, 1.5), "offset_x must be a number from -1 to 1, got 1.5"),
        (("crop", 1, 0, True), "offset_y must be a number from -1 to 1, got True"),
        (("stretch", 2), "zoom, offset_x and offset_y belong to fit crop: stretch uses the whole picture"),
        (("crop", 2, 0, 0, TURNED), "a quad says alone which part of the picture is used"),
        (("stretch", 1, 0, 0, TURNED), "leave fit at crop, zoom at 1, offset_x and offset_y at 0"),
        (("letterbox", 1, 0, 1), "belong to fit crop: letterbox uses the whole picture"),
    ],
)
def test_what_a_frame_may_not_say(values: tuple, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        Frame(*values)
    assert said in str(refused.value)
