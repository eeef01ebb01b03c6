"""A real photo, by dlib: a face found, aligned and put back; and what is said without a detector.

What needs the packages dlib-bin, face-recognition-models (the extra faces) and scikit-image, for its photo of
an astronaut, is skipped where they are missing.
"""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from command_words import run
from PIL import Image

from oneshot_core.alignment import (
    DetectorError,
    Face,
    NoFaceError,
    align,
    choose_face,
    detectors,
    find_faces,
    paste_back,
)
from oneshot_core.alignment.detectors import model_file
from oneshot_core.alignment.paste import _places
from oneshot_core.pictures import to_tensor
from oneshot_core.pictures.files import open_picture
from oneshot_core.quad_files import load_quad

MISSING = [name for name in ("dlib", "face_recognition_models", "skimage") if find_spec(name) is None]
with_detector = pytest.mark.skipif(
    bool(MISSING), reason=f"NO REAL PHOTO IS TESTED: {', '.join(MISSING)} missing (pip install -e .[dev])"
)


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    """A portrait of Eileen Collins, by NASA: 512 x 512 px, the face in the upper middle."""
    from skimage import data

    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="module")
def face(astronaut: Image.Image) -> Face:
    return choose_face(find_faces(astronaut))


@with_detector
def test_the_face_is_found(astronaut: Image.Image, face: Face) -> None:
    found = find_faces(astronaut)
    assert face in found and found == sorted(found, key=lambda one: one.centre)
    assert math.dist(face.centre, (222, 120)) < 20 and 70 < face.size < 130 and face.score > 0.5
    assert len(face.landmarks) == 68 and (face.width, face.height) == (512, 512)
    eyes = np.array(face.landmarks[36:48])
    assert (abs(eyes - (222, 110)) < (35, 20)).all()


@with_detector
def test_the_face_stands_upright_in_its_square(face: Face, astronaut: Image.Image) -> None:
    """What FFHQ's pictures have in common: eyes level a little above the middle, the mouth below it."""
    (again,) = find_faces(align(astronaut, face.quad(), 256))
    points = np.array(again.landmarks) / 256
    left, right, mouth = points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[[48, 54]].mean(axis=0)
    assert abs(left[1] - right[1]) < 0.03 and 0.4 < left[1] < 0.52
    assert 0.3 < left[0] < 0.42 and 0.58 < right[0] < 0.7 and 0.6 < mouth[1] < 0.75
    corners = np.array(again.quad().corners)
    assert abs(corners - ((0, 0), (0, 256), (256, 256), (256, 0))).max() < 0.06 * 256


@pytest.mark.slow
@with_detector
def test_a_larger_photo_has_the_same_face(face: Face, astronaut: Image.Image) -> None:
    larger = choose_face(find_faces(astronaut.resize((3072, 3072), Image.Resampling.BICUBIC)))
    corners = np.array(larger.quad().corners) / 6
    assert abs(corners - face.quad().corners).max() < 0.05 * face.quad().side


@with_detector
@pytest.mark.parametrize(("out", "mean", "psnr"), [(256, 2, 37), (1024, 2, 37)])
def test_an_aligned_photo_is_put_back(
    astronaut: Image.Image, face: Face, out: int, mean: float, psnr: float
) -> None:
    photo, quad = to_tensor(astronaut), face.quad()
    back = paste_back(photo, to_tensor(align(astronaut, quad, out)), quad)
    places = _places(quad, 0, 0, 512, 512)
    within = ((places >= 0) & (places <= 1)).all(dim=-1)
    assert torch.equal(back[..., ~within], photo[..., ~within])
    error = (back - photo)[..., within] * 127.5
    assert float(error.abs().mean()) < mean
    assert 20 * math.log10(255 / float(error.square().mean().sqrt())) > psnr


@with_detector
def test_the_verbs_align_a_photo_and_put_it_back(capsys, tmp_path: Path, astronaut: Image.Image) -> None:
    photo, aligned = tmp_path / "me.png", tmp_path / "aligned"
    astronaut.save(photo)
    code, out, err = run(capsys, "align", photo, "--out", aligned, "--size", 128, "--json")
    assert code == 0 and "non-commercial" in err
    assert json.loads(out)["found_by"] == "dlib, 68 landmarks"
    picture, quad = aligned / "me.png", aligned / "me.json"
    assert np.array_equal(open_picture(picture), align(astronaut, load_quad(quad), 128))
    words = ["paste", picture, "--photo", photo, "--quad", quad, "--out", tmp_path / "back.png", "--quiet"]
    assert run(capsys, *words)[0] == 0
    assert abs(np.asarray(open_picture(tmp_path / "back.png")).astype(int) - astronaut).mean() < 1


@with_detector
def test_a_video_is_followed_by_the_verb(capsys, tmp_path: Path, astronaut: Image.Image) -> None:
    """Frames that move, one of them black: its square lies between those of its neighbours."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(4):
        moved = Image.new("RGB", (400, 300))
        if index != 2:
            moved.paste(astronaut, (20 * index - 60, 0))
        moved.save(frames / f"{index}.png")
    code, _, err = run(capsys, "align", frames, "--out", tmp_path / "out", "--size", 64, "--smooth", 0)
    assert code == 0 and "no face was found in 1 of 4 frames (2.png); it is interpolated there" in err
    quads = [load_quad(tmp_path / "out" / f"{index}.json") for index in range(4)]
    np.testing.assert_allclose(quads[2].centre, np.add(quads[1].centre, quads[3].centre) / 2)
    assert quads[3].centre[0] - quads[0].centre[0] == pytest.approx(60, abs=8)
    code, _, err = run(capsys, "align", frames, "--out", tmp_path / "each", "--size", 64, "--quiet")
    assert code == 0 and "2.png: no face was found, it is left out" in err
    assert sorted(path.name for path in (tmp_path / "each").glob("*.json")) == ["0.json", "1.json", "3.json"]


@with_detector
def test_no_face_is_said(capsys, tmp_path: Path) -> None:
    empty = Image.new("RGB", (200, 150), (90, 120, 60))
    assert find_faces(empty) == []
    with pytest.raises(NoFaceError):
        choose_face(find_faces(empty))
    empty.save(tmp_path / "meadow.png")
    code, _, err = run(capsys, "align", tmp_path / "meadow.png", "--out", tmp_path / "out", "--quiet")
    assert code == 2 and "no face was found in meadow.png; mark the eyes and the mouth by hand" in err


@with_detector
def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.dat"
    broken.write_bytes(b"no model")
    with pytest.raises(DetectorError, match=r"broken.dat cannot be read as a model of landmarks"):
        find_faces(Image.new("RGB", (50, 50)), broken)
    with pytest.raises(DetectorError, match="is not a file; give dlib's shape_predictor_68"):
        model_file(tmp_path / "none.dat")


def test_what_is_missing_is_said_with_the_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "find_spec", lambda name: None)
    with pytest.raises(DetectorError, match=r"pip install dlib-bin face-recognition-models.*middle square"):
        find_faces(Image.new("RGB", (50, 50)))
    monkeypatch.setattr(detectors, "find_spec", lambda name: None if "models" in name else object())
    with pytest.raises(DetectorError, match=r"dlib is there, but not its model .*\[faces\]"):
        find_faces(Image.new("RGB", (50, 50)))
