"""Which square of a picture is used: zoom and offsets, whole pixels, what a fit does not take."""

from __future__ import annotations

import pytest

from oneshot_core.frames import LARGEST, Frame


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
        (("letterbox", 1, 0, 1), "belong to fit crop: letterbox uses the whole picture"),
    ],
)
def test_what_a_frame_may_not_say(values: tuple, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        Frame(*values)
    assert said in str(refused.value)
