"""Alignment of batches: numbers that fit, a face that is followed, photos that come back."""

from __future__ import annotations

import pytest
import torch

from oneshot_core.aligned_batches import (
    Alignment,
    align_batch,
    alignment_of_faces,
    parse_point,
    paste_batch,
    square_masks,
)
from oneshot_core.alignment import Face, NoFaceError, full_frame, three_point_quad
from oneshot_core.quads import Quad

PHOTO = torch.rand(3, 3, 60, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1


def face(x: float, y: float, side: float = 20.0) -> Face:
    """Eyes, nose and mouth of an upright face around a point."""
    points = ((-4, -3), (4, -3), (0, 1), (-3, 5), (3, 5))
    landmarks = tuple((x + a * side / 20, y + b * side / 20) for a, b in points)
    return Face(landmarks, (x - side / 2, y - side / 2, x + side / 2, y + side / 2), 80, 60, 1.0)


def test_of_several_faces_one_is_taken_and_said():
    small, large = face(20, 30, 16), face(55, 30)
    found = alignment_of_faces([[small, large]])
    assert found.quads == (large.quad(),) and found.notes == ("2 faces were found; the largest is taken",)
    assert alignment_of_faces([[small, large]], 1).quads == (small.quad(),)
    with pytest.raises(NoFaceError, match="no face was found"):
        alignment_of_faces([[]])


def test_a_face_is_followed_through_frames_and_gaps_are_told():
    frames = [[face(30, 30), face(60, 30)], [], [face(34, 30), face(60, 31)]]
    found = alignment_of_faces(frames, 1, sigma=0)
    assert [quad.centre[0] for quad in found.quads] == pytest.approx(
        [frames[0][0].quad().centre[0], frames[0][0].quad().centre[0] + 2, frames[2][0].quad().centre[0]]
    )
    assert found.notes == ("no face was found in 1 of 3 pictures; its place was interpolated there",)
    still = alignment_of_faces(frames, 1, sigma=5)
    moved = still.quads[2].centre[0] - still.quads[0].centre[0]
    assert 0 < moved < 4  # calmer than the 4 px that the face moves


def test_what_is_cut_out_and_pasted_back_is_the_photo():
    told: list[tuple[int, int]] = []
    alignment = Alignment((full_frame(80, 60),))
    cut = align_batch(PHOTO, alignment, 60, lambda *now: told.append(now))
    assert cut.shape == (3, 3, 60, 60) and told == [(1, 3), (2, 3), (3, 3)]
    back = paste_batch(PHOTO, cut, alignment, feather=0.0)
    torch.testing.assert_close(back, PHOTO, atol=1 / 127, rtol=0)  # the cut has 8 bits
    assert torch.equal(back[..., :9], PHOTO[..., :9])


def test_one_photo_takes_many_pictures_and_masks():
    alignment = Alignment((three_point_quad((34, 24), (44, 24), (39, 34), 80, 60),))
    pictures = torch.stack([torch.full((3, 32, 32), value) for value in (-1.0, 0.0, 1.0)])
    mask = torch.zeros(3, 32, 32)
    mask[2] = 1
    pasted = paste_batch(PHOTO[:1], pictures, alignment, 0.1, mask)
    assert torch.equal(pasted[0], PHOTO[0]) and torch.equal(pasted[1], PHOTO[0])
    x, y = (round(value) for value in alignment.quads[0].centre)
    assert pasted[2, :, y, x].tolist() == pytest.approx([1, 1, 1])


def test_numbers_that_do_not_fit_are_refused():
    quad = full_frame(80, 60)
    with pytest.raises(ValueError, match="the alignment is of 2 pictures, and here are 3"):
        align_batch(PHOTO, Alignment((quad, quad)), 60)
    with pytest.raises(ValueError, match="there are 2 photos for 3 pictures"):
        paste_batch(PHOTO[:2], PHOTO[..., :60], Alignment((quad,)))
    with pytest.raises(ValueError, match="at least one quad"):
        Alignment(())
    with pytest.raises(ValueError, match="was found in a photo of 50 x 50"):
        Alignment((quad, Quad.square(0, 0, 50, 50, 50)))

    def stop(*_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        paste_batch(PHOTO, PHOTO[..., :60], Alignment((quad,)), poll=stop)


def test_points_and_masks_are_read():
    assert parse_point(" 210, 180.5 ") == (210, 180.5) == parse_point("210 180.5")
    for wrong in ("", "1", "1,2,3", "a, b", "nan, 1"):
        with pytest.raises(ValueError, match="a point"):
            parse_point(wrong)
    assert square_masks(torch.full((2, 1, 4, 4), 2.0)).tolist() == torch.ones(2, 4, 4).tolist()
    with pytest.raises(ValueError, match="mask must be square"):
        square_masks(torch.ones(2, 4, 5))


def test_a_margin_shows_more_around_the_face():
    (quad,) = Alignment((three_point_quad((34, 24), (44, 24), (39, 34), 80, 60),)).scaled(1.4).quads
    plain = three_point_quad((34, 24), (44, 24), (39, 34), 80, 60)
    assert quad.side == pytest.approx(1.4 * plain.side) and quad.centre == pytest.approx(plain.centre)
    with pytest.raises(ValueError, match="margin"):
        Alignment((plain,)).scaled(9)
