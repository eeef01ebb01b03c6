"""What is said of a target that is accepted: too small for its generator, or cut off."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from oneshot_core.frames import LARGEST, Frame
from oneshot_core.pictures.target_notes import target_notes
from oneshot_core.quads import Quad

GREY, GREEN = (128, 128, 128), (0, 135, 0)


def busy(width: int = 320, height: int = 240) -> Image.Image:
    """A picture of many colours."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def ending_in(colour: tuple[int, ...], share: float, picture: Image.Image | None = None) -> Image.Image:
    """A picture whose lower part is one colour."""
    picture = picture or busy()
    picture.paste(colour, (0, round(picture.height * (1 - share)), *picture.size))
    return picture


@pytest.mark.parametrize(
    ("size", "frame", "used", "times"),
    [
        ((96, 120), LARGEST, "96 x 96", "5.3"),
        ((512, 512), Frame(zoom=8), "64 x 64", "8.0"),
        ((120, 700), Frame("stretch"), "120 x 700", "4.3"),
        ((120, 100), Frame("letterbox"), "120 x 100", "4.3"),
        ((400, 300), Frame(quad=Quad.square(9, 9, 100, 400, 300)), "100 x 100", "5.1"),
    ],
)
def test_a_tiny_target_is_said_to_be_enlarged(size, frame, used, times) -> None:
    (note,) = target_notes(busy(*size), 512, frame)
    assert f"{used} px are used and enlarged {times} times for the generator's 512 px" in note


def test_a_target_of_a_quarter_of_the_size_passes_without_a_word() -> None:
    assert target_notes(busy(128, 200), 512, LARGEST) == []
    assert target_notes(busy(64, 130), 512, Frame("letterbox")) == []


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_is_cut_off_is_seen_where_a_tolerant_loader_let_it_pass(
    mode: str, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    # A progressive file is cut in its first scan, a later cut leaves the whole picture coarse.
    busy().convert(mode).save(out, "JPEG", progressive=progressive)
    data = out.getvalue()[: len(out.getvalue()) // (10 if progressive else 2)]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (note,) = target_notes(Image.open(io.BytesIO(data)).convert("RGB"), 256, LARGEST)
    share = int(note.split()[2])
    assert 10 < share < 70
    assert note.endswith("one flat grey, as where the end of a JPEG file is missing; is the file cut off?")


def test_a_png_that_is_cut_off_ends_in_black_which_bars_do_too(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    busy().save(out, "PNG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    picture = Image.open(io.BytesIO(out.getvalue()[: len(out.getvalue()) // 2])).convert("RGB")
    assert np.asarray(picture)[-40:].max() == 0
    assert target_notes(picture, 256, LARGEST) == []


def test_what_newer_comfyuis_leave_of_a_cut_jpeg_is_seen() -> None:
    (note,) = target_notes(ending_in(GREEN, 0.43), 256, LARGEST)
    assert note.startswith("the lower 43 % of the target are one flat green")
    assert target_notes(Image.new("RGB", (256, 256), GREY), 256, LARGEST)[0].startswith("the lower 100 %")


@pytest.mark.parametrize(
    "picture",
    [
        busy(),
        ending_in((0, 0, 0), 0.3),  # a letterbox
        ending_in((255, 255, 255), 0.5),  # paper
        ending_in((127, 128, 128), 0.4),
        ending_in(GREY, 0.05),  # a thin border
        ending_in((129, 128, 128), 0.4, Image.new("RGB", (320, 240), GREY)),
    ],
)
def test_other_flat_ends_pass_without_a_word(picture: Image.Image) -> None:
    assert target_notes(picture, 256, LARGEST) == []


def test_one_other_pixel_in_a_row_ends_the_flat_part() -> None:
    picture = ending_in(GREY, 0.5)
    picture.putpixel((300, 200), (128, 128, 129))
    assert target_notes(picture, 256, LARGEST)[0].startswith("the lower 16 %")
