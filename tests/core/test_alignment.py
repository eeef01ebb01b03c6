"""Alignment on drawn pictures: landmarks, cutting out, putting back, faces, videos; no detector."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from oneshot_core.alignment import (
    Face,
    NoFaceError,
    align,
    align_mask,
    choose_face,
    faces_of_comfyui,
    ffhq_quad,
    followed_face,
    full_frame,
    paste_back,
    smoothed,
    three_point_quad,
)
from oneshot_core.alignment.crops import blurred
from oneshot_core.alignment.landmarks import POINTS
from oneshot_core.alignment.paste import _places
from oneshot_core.frames import Frame
from oneshot_core.pictures import to_tensor, to_uint8
from oneshot_core.quads import Quad

SIZE = (240, 200)
FACE = ((100.0, 85.0), (130.0, 91.0)), (112.0, 116.0)  # eyes and mouth
INSIDE = three_point_quad(*FACE[0], FACE[1], *SIZE)  # wholly within the photo
CUT = three_point_quad((30, 30), (80, 22), (60, 70), *SIZE)  # reaches beyond two of its edges


def photo(width: int = SIZE[0], height: int = SIZE[1]) -> Image.Image:
    """Waves of colour, without an edge that no resampling could keep."""
    y, x = np.mgrid[:height, :width].astype(float)
    parts = (np.sin(x / 9 + y / 17), np.cos(x / 13 - y / 7), np.sin(x / 11) * np.cos(y / 8))
    return Image.fromarray((127.5 + 110 * np.stack(parts, axis=-1)).round().astype(np.uint8))


def landmarks(count: int, eyes: tuple, mouth: tuple) -> np.ndarray:
    """Points of a face whose means are the given ones, whatever else they are."""
    points = np.full((count, 2), 7.0)
    for places, (x, y) in zip(POINTS[count], (*eyes, mouth), strict=True):
        spread = np.arange(len(places)) - (len(places) - 1) / 2
        points[places] = np.stack([x + spread, y - 2 * spread], axis=1)
    return points


# Landmarks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", sorted(POINTS))
def test_every_kind_of_landmarks_gives_the_quad_of_the_same_three_points(count):
    points = landmarks(count, *FACE)
    for given in (points, points.tolist(), torch.from_numpy(points).float()):
        np.testing.assert_allclose(ffhq_quad(given, *SIZE).corners, INSIDE.corners, atol=1e-3)


def test_the_square_of_an_upright_face_is_the_formulas():
    quad = three_point_quad((100, 80), (140, 80), (120, 110), *SIZE)
    half = max(2.0 * 40, 1.8 * 30)
    assert quad.centre == pytest.approx((120, 83)) and quad.side == pytest.approx(2 * half)
    np.testing.assert_allclose(quad.corners[0], (120 - half, 83 - half))
    np.testing.assert_allclose(quad.corners[2], (120 + half, 83 + half))


def test_eyes_may_be_swapped_and_faces_turned():
    for degrees in range(0, 360, 30):
        turn = math.radians(degrees)
        matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        left, right, mouth = (np.array([500, 500]) + matrix @ point for point in ((-20, 0), (20, 3), (2, 30)))
        quad = three_point_quad(left, right, mouth, 1000, 1000)
        swapped = three_point_quad(right, left, mouth, 1000, 1000)
        np.testing.assert_allclose(swapped.corners, quad.corners, atol=1e-9)
        up = np.array(quad.corners[0]) + quad.corners[3] - np.array(quad.corners[1]) - quad.corners[2]
        assert up @ (mouth - (left + right) / 2) < 0  # the mouth lies below, as the picture shows it


def test_what_shows_no_face_is_refused():
    for points in (((1, 1), (5, 1), (9, 1)), ((1, 1), (1, 1), (3, 3)), ((1, 1), (5, 1), (3, 1))):
        with pytest.raises(ValueError, match="lie on one line, or on one another"):
            three_point_quad(*points, *SIZE)
    for points, said in (
        (np.zeros((12, 2)), "a face has 5, 68, 468, 478 landmarks, got 12"),
        (np.zeros((68, 3)), r"of shape \[N, 2\].*got \[68, 3\]"),
        (np.full((68, 2), np.inf), "must be finite"),
        ("face", "must be pairs of numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            ffhq_quad(points, *SIZE)


def test_the_whole_frame():
    assert full_frame(240, 200).pixels == (20, 0, 220, 200)
    assert full_frame(240, 200, Frame("crop", 2, -1, 1)).pixels == (0, 100, 100, 200)
    assert full_frame(*SIZE, Frame(quad=INSIDE)) == INSIDE
    assert full_frame(200, 200, Frame("stretch")).pixels == (0, 0, 200, 200)
    with pytest.raises(ValueError, match="not the fit letterbox"):
        full_frame(240, 200, Frame("letterbox"))


# Cutting out ---------------------------------------------------------------------------------------------


def test_what_is_aligned_already_is_only_resized():
    picture = photo(200, 200)
    assert np.array_equal(align(picture, full_frame(200, 200), 200), picture)
    smaller = picture.resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(align(picture, full_frame(200, 200), 64), smaller)


@pytest.mark.parametrize(
    "shrink", [1, 5]
)  # a photo that is much larger than the result is made smaller first
def test_a_quad_is_cut_out_where_it_lies(shrink):
    """Each channel of the photo rises evenly: what is cut out is known without resampling."""
    width, height = SIZE[0] * shrink, SIZE[1] * shrink
    y, x = np.mgrid[:height, :width] / shrink
    picture = Image.fromarray(np.stack([x, y, 255 - x], axis=-1).round().astype(np.uint8))
    points = [(a * shrink, b * shrink) for a, b in (*FACE[0], FACE[1])]
    quad = three_point_quad(*points, width, height)
    out = 64
    places = (np.arange(out) + 0.5) / out
    corners = np.array(quad.corners) / shrink
    across = corners[0] + places[:, None] * (corners[3] - corners[0])
    wanted = across[None] + places[:, None, None] * (corners[1] - corners[0])
    found = np.asarray(align(picture, quad, out)).astype(float)
    assert abs(found[..., 0] - wanted[..., 0]).max() < 1.5 and abs(found[..., 1] - wanted[..., 1]).max() < 1.5


def test_the_photo_goes_on_where_the_quad_leaves_it():
    aligned = np.asarray(align(photo(), CUT, 128)).astype(float)
    assert aligned.min() > 5 and aligned[:8].std() < aligned[64:].std()  # no black; less and less is shown
    white = Image.new("L", SIZE, 255).convert("RGB")
    assert (np.asarray(align(white, CUT, 64)) == 255).all()


def test_a_mask_is_cut_out_like_its_photo():
    shown = Image.new("RGB", SIZE)
    shown.paste((255, 255, 255), (0, 60, 150, 200))
    mask = Image.fromarray(np.asarray(shown.convert("L"), dtype=np.float32) / 255)
    cut = np.asarray(align_mask(mask, INSIDE, 64))
    assert cut.dtype == np.float32 and 0 <= cut.min() and cut.max() <= 1 and 0.2 < cut.mean() < 0.9
    assert abs(cut - np.asarray(align(shown, INSIDE, 64).convert("L")) / 255).max() < 0.05
    beyond = np.asarray(align_mask(mask, CUT, 64))
    assert 0 < beyond.mean() < 1 and ((beyond < 0.01) | (beyond > 0.99)).mean() > 0.9  # mirrored, not blurred


@pytest.mark.parametrize(("out", "transform"), [(0, None), (5000, None), (64, 32), (64, 1 << 20)])
def test_sizes_out_of_range_are_refused(out, transform):
    with pytest.raises(ValueError, match="the side of an aligned picture must be from 1 to 4096 px"):
        align(photo(), INSIDE, out, transform)
    with pytest.raises(ValueError, match="found in a photo of 240 x 200 px"):
        align(photo(200, 240), INSIDE, 64)


def test_the_blur_is_the_direct_sum():
    values = np.random.default_rng(0).random((23, 31, 2), dtype=np.float32)
    for sigma in (0.4, 1.7, 9.0):  # the last reaches beyond the picture and back
        reach = int(4 * sigma + 0.5)
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        wanted = np.pad(values.astype(float), ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
        for axis in (0, 1):
            wanted = np.apply_along_axis(np.convolve, axis, wanted, weights / weights.sum(), "valid")
        np.testing.assert_allclose(blurred(values, sigma), wanted, atol=1e-5)


# Putting back --------------------------------------------------------------------------------------------


def inner(quad: Quad, margin: float = 0.0) -> torch.Tensor:
    """Which pixels of the photo lie within the quad, [H, W]."""
    places = _places(quad, 0, 0, quad.width, quad.height)
    return ((places >= margin) & (places <= 1 - margin)).all(dim=-1)


@pytest.mark.parametrize(
    ("quad", "out", "mean", "most"),  # levels of 255 that it may differ by
    [
        (INSIDE, 48, 1, 6),
        (INSIDE, 160, 0.6, 4),
        (INSIDE, 512, 0.6, 4),
        (CUT, 160, 1.2, 9),
        (CUT, 512, 1.2, 9),
    ],
)
def test_what_was_cut_out_comes_back_and_the_rest_is_untouched(quad, out, mean, most):
    whole = to_tensor(photo())
    back = paste_back(whole, to_tensor(align(photo(), quad, out)), quad)
    outside = ~inner(quad)
    assert torch.equal(back[..., outside], whole[..., outside])
    error = (back - whole)[..., inner(quad)].abs() * 127.5
    assert float(error.mean()) < mean and float(error.max()) < most


def test_an_upright_square_of_whole_pixels_comes_back_bit_for_bit():
    whole, quad = to_tensor(photo()), Quad.square(31, 42, 90, *SIZE)
    back = paste_back(whole, to_tensor(align(photo(), quad, 90)), quad, feather=0)
    assert torch.equal(to_uint8(back), to_uint8(whole))


def test_a_new_picture_fades_in_from_the_sides():
    whole, red = torch.zeros(1, 3, 200, 240), torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1)
    for feather in (0.0, 0.1, 0.5):
        back = paste_back(whole, red.expand(1, 3, 64, 64), INSIDE, feather)
        weight, full = back[0, 0], inner(INSIDE, feather)
        assert torch.allclose(back[..., full], red.reshape(1, 3, 1).expand(1, 3, int(full.sum())), atol=1e-6)
        assert float(weight.min()) >= 0 and not weight[~inner(INSIDE)].any()
        if feather:
            between = inner(INSIDE, 0.02) & ~inner(INSIDE, 0.9 * feather)
            assert (weight[between] > 0).all() and (weight[between] < 1).all()
            assert float(weight.diff(dim=0).abs().max()) < 2 / (feather * INSIDE.side)


def test_a_mask_says_what_is_put_back():
    whole, new = torch.zeros(1, 3, 200, 240), torch.ones(1, 3, 128, 128)
    mask = torch.zeros(32, 32)
    mask[:, 16:] = 1
    back = [paste_back(whole, new, INSIDE, 0.1, one) for one in (mask, mask[None], mask[None, None])]
    assert torch.equal(back[0], back[1]) and torch.equal(back[0], back[2])
    places = _places(INSIDE, 0, 0, *SIZE)
    left, right = inner(INSIDE) & (places[..., 0] < 0.45), inner(INSIDE, 0.12) & (places[..., 0] > 0.55)
    assert not back[0][..., left].any() and (back[0][..., right] > 0.999).all()
    assert torch.equal(paste_back(whole, new, INSIDE, mask=torch.zeros(8, 8)), whole)


def test_a_large_picture_is_put_back_without_moire():
    """Stripes finer than the photo's pixels become their mean; sampled at points they would be noise."""
    stripes = torch.ones(1, 3, 1024, 1024)
    stripes[..., ::2] = -1
    back = paste_back(torch.zeros(1, 3, 200, 240), stripes, INSIDE)
    assert float(back.abs().max()) < 0.02


def test_any_convex_quad_is_filled():
    quad = Quad.at(((30, 20), (42, 170), (200, 150), (170, 35)), *SIZE)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, 65)[1::2] for _ in "yx"), indexing="ij")
    ramp = torch.stack([x, y, x * 0])[None]
    back = paste_back(torch.full((1, 3, 200, 240), 0.5), ramp, quad, feather=0)
    for row, column in ((90, 120), (60, 80), (130, 150)):
        u, v = ((float(value) + 1) / 2 for value in back[0, :2, row, column])
        corners = np.array(quad.corners)
        place = (1 - v) * ((1 - u) * corners[0] + u * corners[3]) + v * (
            (1 - u) * corners[1] + u * corners[2]
        )
        np.testing.assert_allclose(place, (column, row), atol=0.5)
    assert torch.equal(back[..., ~inner(quad)], torch.full_like(back[..., ~inner(quad)], 0.5))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"photo": torch.zeros(1, 3, 240, 200)}, "found in a photo of 240 x 200 px, this one has 200 x 240"),
        ({"photo": torch.zeros(2, 3, 200, 240)}, r"photo must have shape \[1, 3, any, any\]"),
        ({"picture": torch.zeros(1, 3, 32, 64)}, r"picture must have shape \[1, 3, 64, 64\]"),
        ({"picture": torch.full((1, 3, 8, 8), math.nan)}, "the picture is not made of finite numbers"),
        ({"feather": 0.6}, "feather must be a number from 0 to 0.5"),
        ({"mask": torch.zeros(8, 9)}, r"must have shape \[M, M\], got \[8, 9\]"),
        ({"mask": torch.full((8, 8), 2.0)}, "from 0 .kept. to 1 .changed., got 2 to 2"),
    ],
)
def test_what_cannot_be_put_back_is_refused(change, said):
    given = {
        "photo": torch.zeros(1, 3, 200, 240),
        "picture": torch.zeros(1, 3, 64, 64),
        "quad": INSIDE,
        **change,
    }
    with pytest.raises(ValueError, match=said):
        paste_back(**given)


def test_it_works_within_inference_mode_and_changes_no_input():
    with torch.inference_mode():
        whole, new = torch.zeros(1, 3, 200, 240), torch.ones(1, 3, 64, 64)
        assert float(paste_back(whole, new, INSIDE).max()) == 1
        assert not whole.any()


# Faces ---------------------------------------------------------------------------------------------------


def face(x: float, y: float, size: float, score: float = 1.0) -> Face:
    """A face around (x, y)."""
    eyes = ((x - size / 4, y - size / 6), (x + size / 4, y - size / 6))
    points = landmarks(68, eyes, (x, y + size / 4))
    box = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    return Face(tuple(map(tuple, points.tolist())), box, 400, 300, score)


def test_a_face_is_chosen():
    faces = [face(200, 100, 60), face(60, 90, 40), face(320, 120, 50), face(350, 20, 61, score=0.1)]
    assert choose_face(faces) is faces[0]  # the largest one is hardly a face
    assert [choose_face(faces, number) for number in (1, 2, 3)] == [faces[1], faces[0], faces[2]]
    with pytest.raises(
        ValueError, match="face 5 was asked for, but 4 faces were found in a.png; take the largest"
    ):
        choose_face(faces, 5, "a.png")
    with pytest.raises(ValueError, match="but one face was found in the photo"):
        choose_face(faces[:1], 2)
    for which in (0, -1, "smallest", True, 1.0):
        with pytest.raises(ValueError, match="a face is the largest, or a number from 1 on"):
            choose_face(faces, which)
    with pytest.raises(NoFaceError, match=r"no face was found in a.png; mark the eyes and the mouth by hand"):
        choose_face([], where="a.png")


def test_a_face_is_followed_through_a_video():
    walk = [face(100 + 10 * step, 100, 40) for step in range(6)]
    other = [face(300 - 10 * step, 100, 44) for step in range(6)]
    frames = [[one, two] for one, two in zip(walk, other, strict=True)]
    assert followed_face(frames, 1) == walk and followed_face(frames) == other
    frames[2] = frames[2][1:]  # the one is hidden for a moment, the other does not become it
    assert followed_face(frames, 1) == [*walk[:2], None, *walk[3:]]
    assert followed_face([[], *frames[3:]], 1) == [None, *walk[3:]]
    with pytest.raises(NoFaceError, match="any of 2 frames"):
        followed_face([[], []])


def test_quads_of_a_video_are_filled_in_and_smoothed():
    quads = [face(100 + 4 * step, 100, 40).quad() for step in range(9)]
    holes = [None if step in (0, 3, 4, 8) else quad for step, quad in enumerate(quads)]
    filled = smoothed(holes, 0)
    np.testing.assert_allclose([one.corners for one in filled[1:8]], [one.corners for one in quads[1:8]])
    assert (filled[0], filled[8]) == (quads[1], quads[7])
    with pytest.raises(NoFaceError, match=r"4 of 9 frames \(1, 4, 5, 9\)"):
        smoothed(holes, 0, fill=False)
    with pytest.raises(NoFaceError):
        smoothed([None, None])
    rng = np.random.default_rng(0)
    trembling = [face(200 + rng.normal(), 100 + rng.normal(), 40).quad() for _ in range(60)]
    still = smoothed(trembling, 3)
    moves = [np.diff([one.centre for one in some], axis=0).std() for some in (trembling, still)]
    assert moves[1] < 0.1 * moves[0]
    for one in still:
        sides = [math.dist(one.corners[i], one.corners[i - 1]) for i in range(4)]
        assert max(sides) - min(sides) < 1e-9  # still squares
    assert smoothed(quads[:1], 5) == quads[:1]
    with pytest.raises(ValueError, match="found in a photo of 240 x 200 px, this one has 400 x 300"):
        smoothed([quads[0], INSIDE])
    with pytest.raises(ValueError, match="the smoothing of quads must be"):
        smoothed(quads, math.nan)


def test_smoothing_keeps_a_steady_motion_but_at_the_ends():
    steady = [face(60 + 4 * step, 100, 40).quad() for step in range(40)]
    middle = smoothed(steady, 2)[8:-8]
    np.testing.assert_allclose(
        [one.corners for one in middle], [one.corners for one in steady[8:-8]], atol=1e-3
    )


def test_landmarks_of_comfyui():
    """The structure of its nodes' source; arrays and plain lists."""
    points = landmarks(478, *FACE).astype(np.float32)
    found = {
        "landmarks_xy": points,
        "bbox_xyxy": np.array([80, 50, 160, 140], dtype=np.float32),
        "score": 0.9,
        "landmarks_3d": np.zeros((478, 3)),
        "presence": 3.0,
        "blendshapes": {},
    }
    value = {"frames": [[found], []], "image_size": (200, 240), "connection_sets": {}}
    (first,), none = faces_of_comfyui(value)
    assert none == [] and (first.width, first.height, first.score) == (240, 200, 0.9)
    assert first.box == (80, 50, 160, 140) and first.size == pytest.approx(math.sqrt(80 * 90))
    np.testing.assert_allclose(first.quad().corners, INSIDE.corners, atol=1e-3)
    plain = {"frames": [[{"landmarks_xy": points.tolist()}]], "image_size": [200, 240]}
    assert faces_of_comfyui(plain)[0][0].landmarks == first.landmarks
    for wrong in (
        {},
        {"frames": [[{}]], "image_size": (1, 1)},
        {"frames": 3, "image_size": (1, 1)},
        None,
        [1],
    ):
        with pytest.raises(ValueError, match="no face landmarks as ComfyUI 0.33 gives them"):
            faces_of_comfyui(wrong)
