"""Quads: what they are, what is refused, as JSON and in files."""

from __future__ import annotations

import json
import math

import pytest

from oneshot_core.json_values import JsonError
from oneshot_core.quad_files import load_quad, save_quad
from oneshot_core.quads import Quad

CORNERS = ((10.0, 12.5), (14.0, 60.0), (62.0, 57.0), (58.0, 9.0))
QUAD = Quad(CORNERS, 100, 80)


def test_measures():
    sides = (math.hypot(4, 47.5), math.hypot(48, 3), math.hypot(4, 48), math.hypot(48, 3.5))
    assert QUAD.side == pytest.approx(sum(sides) / 4)
    assert QUAD.centre == (36.0, 34.625)
    assert QUAD.bounds == (10.0, 9.0, 62.0, 60.0)
    assert str(QUAD) == "of 48 px around (36, 35)"


@pytest.mark.parametrize(
    ("quad", "pixels"),
    [
        (Quad.square(0, 0, 80, 100, 80), (0, 0, 80, 80)),
        (Quad.square(20, 7, 33, 100, 80), (20, 7, 53, 40)),
        (Quad.square(-1, 0, 80, 100, 80), None),  # leaves the photo
        (Quad.square(21, 1, 80, 100, 80), None),
        (QUAD, None),
        (Quad.at(((0, 0), (0, 40), (40, 40), (40, 0)), 100, 80), None),  # halves of pixels
        (Quad.at(((39.5, -0.5), (-0.5, -0.5), (-0.5, 39.5), (39.5, 39.5)), 100, 80), None),  # turned
        (Quad.at(((-0.5, -0.5), (-0.5, 39.5), (49.5, 39.5), (49.5, -0.5)), 100, 80), None),  # no square
    ],
)
def test_only_upright_squares_of_whole_pixels_are_cut_without_resampling(quad, pixels):
    assert quad.pixels == pixels


@pytest.mark.parametrize(
    ("corners", "said"),
    [
        (((0, 0), (0, 40), (40, 40)), "four corners"),
        (((0, 0), (0, 40), (40, 40), (40, 0, 1)), "four corners"),
        (((0, 0), (0, math.nan), (40, 40), (40, 0)), "y of a quad's corner must be .* from -400 to 480"),
        (((0, 0), (0, 40), (40, 40), (1e9, 0)), "x of a quad's corner must be .* from -400 to 500"),
        (((0, 0), (40, 0), (40, 40), (0, 40)), "picture's top left, bottom left,"),  # mirrored
        (((0, 0), (40, 40), (0, 40), (40, 0)), "folded, mirrored or thin"),
        (((0, 0), (0, 40), (40, 40), (1, 39)), "folded, mirrored or thin"),  # not convex
        (((0, 0), (0, 1), (80, 1), (80, 0)), "folded, mirrored or thin"),
        (((0, 0), (0, 3), (3, 3), (3, 0)), "a side of at least 4 px of the photo, got 3"),
        (((200, 0), (200, 40), (240, 40), (240, 0)), "lies outside its photo of 100 x 80 px"),
    ],
)  # fmt: skip
def test_what_is_no_quad_is_refused(corners, said):
    with pytest.raises(ValueError, match=said):
        Quad(corners, 100, 80)
    with pytest.raises(ValueError, match="width of the photo must be a whole number"):
        Quad(CORNERS, 0, 80)
    with pytest.raises(ValueError, match="height of the photo must be a whole number"):
        Quad(CORNERS, 100, 80.0)


def test_a_turned_quad_is_one():
    for degrees in range(0, 360, 15):
        turn = math.radians(degrees)
        x, y = 20 * math.cos(turn), 20 * math.sin(turn)
        half, below = (x, y), (-y, x)
        signs = ((-1, -1), (-1, 1), (1, 1), (1, -1))
        corners = [[50 + a * half[i] + b * below[i] for i in (0, 1)] for a, b in signs]
        assert Quad.at(corners, 100, 100).side == pytest.approx(40)


def test_another_photo_is_refused():
    QUAD.check(100, 80)
    with pytest.raises(ValueError, match="found in a photo of 100 x 80 px, this one has 80 x 100"):
        QUAD.check(80, 100)


def test_json_keeps_every_bit():
    quad = Quad.at([[x / 3, y / 7] for x, y in CORNERS], 100, 80)
    assert Quad.of(json.loads(json.dumps(quad.values()))) == quad


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"corners": [[0, 0]]}, "four lists of two numbers"),
        ({"corners": [[0, 0], [0, 40], [40, "40"], [40, 0]]}, "four lists of two numbers"),
        ({"corners": [[0, 0], [0, 40], [40, True], [40, 0]]}, "four lists of two numbers"),
        ({"corners": [[0, 0], [40, 0], [40, 40], [0, 40]]}, "folded, mirrored"),
        ({"corners": 3}, "must be a list"),
        ({"width": 0}, "width must be a whole number from 1"),
        ({"height": 80.5}, "height must be a whole number"),
        ({"sides": 4}, "unknown entry 'sides'"),
    ],
)
def test_wrong_json_is_refused(change, said):
    with pytest.raises(JsonError, match=said):
        Quad.of({**QUAD.values(), **change})


def test_files(tmp_path):
    path = save_quad(QUAD, tmp_path / "me.json", photo="/home/ann/me.jpg", found_by="dlib")
    assert load_quad(path) == QUAD
    assert json.loads(path.read_text())["photo"] == "me.jpg"
    with pytest.raises(ValueError, match=r"there is no quad .*other.json; `oneshot align` writes one"):
        load_quad(tmp_path / "other.json")
    for text in (
        "{}",
        "[]",
        '{"format": "oneshot-quad"}',
        "\x00",
        '{"format": "oneshot-recipe", "quad": {}}',
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"me.json holds no quad that can be read"):
            load_quad(path)
