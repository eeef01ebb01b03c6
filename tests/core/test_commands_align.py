"""The verbs align and paste without a detector, and quads as options of others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_words import run
from PIL import Image
from tiny_networks import TinyChoice

from oneshot_core import cli
from oneshot_core import inputs as opening
from oneshot_core.alignment import align, three_point_quad
from oneshot_core.commands import evaluate, resources
from oneshot_core.fingerprints import fingerprint
from oneshot_core.frames import Frame
from oneshot_core.pictures import load_picture
from oneshot_core.pictures.files import open_picture
from oneshot_core.quad_files import load_quad

POINTS = ("100,85", "130,91", "112.5,116")


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Encoders of a few numbers, and one thread."""
    monkeypatch.setattr(opening, "_choice", lambda *_: TinyChoice())
    monkeypatch.setattr(resources, "usable_cores", lambda: 1)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[:200, :240]
    values = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "me.png")
    return tmp_path / "me.png"


def changes(first: Path, second: Path) -> np.ndarray:
    """Per pixel, by how many levels two pictures differ."""
    return abs(np.asarray(open_picture(first)).astype(int) - np.asarray(open_picture(second))).max(axis=-1)


def test_a_photo_is_aligned_by_three_points_and_pasted_back(capsys, tmp_path, photo):
    code, out, _ = run(capsys, "align", photo, "--out", tmp_path / "a", "--size", 96, "--points", *POINTS)
    assert code == 0 and "me.json" in out
    quad, values = load_quad(tmp_path / "a" / "me.json"), json.loads((tmp_path / "a" / "me.json").read_text())
    assert quad == three_point_quad((100, 85), (130, 91), (112.5, 116), 240, 200)
    assert (values["photo"], values["found_by"]) == ("me.png", "three points")
    aligned = open_picture(tmp_path / "a" / "me.png")
    assert np.array_equal(aligned, align(open_picture(photo), quad, 96))
    Image.new("RGB", (50, 50), (255, 0, 0)).save(tmp_path / "edited.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(tmp_path / "mask.png")
    place = ["--photo", photo, "--quad", tmp_path / "a" / "me.json", "--quiet"]
    words = ["paste", tmp_path / "edited.png", *place]
    assert run(capsys, *words, "--out", tmp_path / "all.png")[0] == 0
    assert run(capsys, *words, "--mask", tmp_path / "mask.png", "--out", tmp_path / "half.png")[0] == 0
    assert run(capsys, *words, "--feather", 0, "--out", tmp_path / "hard.png")[0] == 0
    whole, half, hard = (changes(photo, tmp_path / f"{name}.png") for name in ("all", "half", "hard"))
    assert 0.4 < (half > 0).sum() / (whole > 0).sum() < 0.6 and (hard > 50).sum() > 1.15 * (whole > 50).sum()
    x, y = (round(value) for value in quad.centre)
    assert open_picture(tmp_path / "all.png").getpixel((x, y)) == (255, 0, 0)
    left, top, *_ = map(int, quad.bounds)
    assert top > 10 and not whole[:top].any() and not whole[:, :left].any()


def test_what_needs_no_alignment_is_cropped(capsys, tmp_path, photo):
    words = ["align", photo, photo.parent, "--out", tmp_path / "a", "--square", "--size", 100]
    code, _, err = run(capsys, *words)
    assert code == 2 and "several photos are called me" in err
    code, out, _ = run(capsys, *words[:2], *words[3:], "--json")
    assert code == 0 and json.loads(out)["found_by"] == "the middle square"
    assert load_quad(tmp_path / "a" / "me.json").pixels == (20, 0, 220, 200)


def test_folders_are_pasted_frame_by_frame(capsys, tmp_path, photo):
    frames = tmp_path / "frames"
    frames.mkdir()
    for name in ("1", "2"):
        open_picture(photo).save(frames / f"{name}.png")
    assert run(capsys, "align", frames, "--out", tmp_path / "a", "--square", "--size", 64)[0] == 0
    words = ["paste", tmp_path / "a", "--photo", frames, "--quad", tmp_path / "a", "--out", tmp_path / "b"]
    code, out, _ = run(capsys, *words, "--json")
    assert code == 0 and json.loads(out)["count"] == 2
    assert all(changes(photo, tmp_path / "b" / f"{name}.png").max() < 4 for name in ("1", "2"))
    (tmp_path / "a" / "2.json").unlink()
    code, _, err = run(capsys, *words)
    assert code == 2 and "2.png has no photo in" in err
    code, _, err = run(capsys, "paste", tmp_path / "a", "--photo", photo, *words[4:])
    assert code == 2 and "is a folder, so --photo and --quad must be folders too" in err


def test_what_cannot_be_followed_is_refused_in_one_line(capsys, tmp_path, photo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    (tmp_path / "no.json").write_text("{}")
    assert run(capsys, "align", photo, "--out", tmp_path / "a", "--square", "--size", 32)[0] == 0
    quad, out = tmp_path / "a" / "me.json", tmp_path / "new.png"
    paste = ["paste", tmp_path / "a" / "me.png", "--photo", photo, "--quad", quad, "--out", out]
    for words, said in (
        (["align", photo, "--out", tmp_path, "--square"], "lies where its result would be written"),
        (["align", tmp_path / "empty", "--out", "x", "--square"], "holds no picture files"),
        (["align", tmp_path / "none.png", "--out", "x", "--square"], "none.png is not a file"),
        (["align", photo, "--out", "x", "--points", "1,1", "2,2", "3"], "write X,Y in pixels of the photo"),
        (["align", photo, "--out", "x", "--points", "1,1", "2,2", "3,3"], "lie on one line"),
        (["align", photo, tmp_path / "small.png", "--out", "x", "--points", *POINTS], "belong to one photo"),
        (["align", photo, "--out", "x", "--square", "--smooth", "1"], "leave out --points and --square"),
        (["align", photo, "--out", "x", "--square", "--points", *POINTS], "not allowed with"),
        (["align", photo, "--out", "x", "--face", "0"], "must be at least 1"),
        (["align", photo, "--out", "x", "--square", "--size", "9999"], "--size must be from 1 to 4096 px"),
        ([*paste[:-1], tmp_path / "new.jpg"], "--out must end in .png"),
        ([*paste[:-1], photo], "is what the result is made from"),
        ([*paste, "--feather", "0.7"], "must be a number from 0 to 0.5"),
        ([*paste, "--mask", photo], "--mask must be square"),
        ([*paste[:3], tmp_path / "small.png", *paste[4:]], "found in a photo of 240 x 200 px"),
        ([*paste[:5], tmp_path / "no.json", *paste[6:]], "no.json holds no quad that can be read"),
        (["paste", tmp_path / "small.png", *paste[2:]], "picture must have shape"),
    ):
        code, _, err = run(capsys, *words)
        assert code == 2 and said in err, words
    assert not out.exists() and not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_search_sees_the_square_of_the_quad_and_its_recipe_makes_it_again(capsys, files, tmp_path, photo):
    assert run(capsys, "align", photo, "--out", tmp_path / "a", "--size", 64, "--points", *POINTS)[0] == 0
    quad = tmp_path / "a" / "me.json"
    words = ["search", "--generator", files["generator"], "--target", photo, "--steps", 2, "--device", "cpu"]
    assert run(capsys, *words, "--quad", quad, "--out", tmp_path / "one")[0] == 0
    made = json.loads((tmp_path / "one" / "run.json").read_text())["recipe"]
    wanted = load_picture(photo, 64, Frame(quad=load_quad(quad)))
    assert made["inputs"]["target"] == fingerprint({"target": wanted})
    assert made["aim"]["quad"] == load_quad(quad).values()
    again = ["--recipe", tmp_path / "one", "--out", tmp_path / "two"]
    assert run(capsys, *words, *again)[0] == 0
    results = [(tmp_path / name / "reference.safetensors").read_bytes() for name in ("one", "two")]
    assert results[0] == results[1]
    code, _, err = run(capsys, *words, "--quad", quad, "--zoom", 2, "--out", tmp_path / "three")
    assert code == 2 and "a quad says alone which part of the picture is used" in err
    code, _, err = run(capsys, *words[:4], files["target"], "--quad", quad, "--out", tmp_path / "three")
    assert code == 2 and "the quad was found in a photo of 240 x 200 px" in err
    code, out, _ = run(capsys, "info", quad)
    assert code == 0 and "where an aligned picture lies in its photo" in out


def test_an_evaluation_frames_its_target_by_the_quad(capsys, tmp_path, photo):
    assert run(capsys, "align", photo, "--out", tmp_path / "a", "--size", 64, "--points", *POINTS)[0] == 0
    quad = tmp_path / "a" / "me.json"
    words = ["evaluate", "x", "--generator", "demo", "--target", photo, "--out", "y", "--quad", quad]
    options = cli.build_parser().parse_args([str(word) for word in words])
    found = evaluate._target(str(photo), 64, options)
    assert torch.equal(found, load_picture(photo, 64, Frame(quad=load_quad(quad))))
