"""Targets on the canvas: framed once and passed on as they are; transparency; what the page is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from comfy_pack import needs_comfy, printed
from comfy_server import comfy_folders

SCRIPT = Path(__file__).parent / "frame_targets.py"
pytestmark = needs_comfy()


def told(folder: Path) -> dict[str, Any]:
    """What the script printed."""
    return printed(SCRIPT, folder)


def each_comfy() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("folder", comfy_folders(), ids=lambda folder: folder.name)


@each_comfy()
def test_the_recipe_for_transparency_leaves_it_out(folder: Path) -> None:
    found = told(folder)["transparent"]
    assert found["counts"] == [0, 1]
    assert found["not inverted"] == [1, 0]


@each_comfy()
def test_the_mask_of_an_opaque_picture_is_refused_by_its_size(folder: Path) -> None:
    for said in told(folder)["opaque"].values():
        assert said.startswith("the mask has 64 x 64 px, the target 300 x 200")
        assert "Load Image's mask is 64 x 64 for pictures without transparency" in said


@each_comfy()
def test_what_is_framed_goes_on_unchanged_and_equals_the_command_lines(folder: Path) -> None:
    assert told(folder)["passes_on"] == [True] * 12


@each_comfy()
def test_the_page_is_told_where_the_square_lies(folder: Path) -> None:
    shown = told(folder)["shown"]
    assert shown["ui"]["frame"] == [
        {"width": 300, "height": 200, "left": 288, "top": 94, "side": 12, "fit": "crop", "zoom": 16.0,
         "offset_x": 1.0, "offset_y": 0.0}
    ]  # fmt: skip
    (note,) = shown["ui"]["text"]
    assert "12 x 12 px are used and enlarged 10.7 times" in note
    assert shown["images"] == 1 and shown["shapes"] == [[1, 128, 128, 3], [1, 128, 128], True]


@each_comfy()
def test_zoom_is_refused_at_queue_time_where_the_whole_picture_is_used(folder: Path) -> None:
    fine, letterbox, linked, low = told(folder)["refused"]
    assert fine is True and linked is True
    assert "belong to fit crop: letterbox uses the whole picture" in letterbox
    assert low.startswith("zoom must be a number from 1.0 to 16.0")


@each_comfy()
def test_a_jpeg_that_load_image_lets_pass_although_it_is_cut_off_is_told(folder: Path) -> None:
    """ComfyUI 0.8.0 reads it with Pillow, which leaves grey; 0.33 with FFmpeg, which leaves green."""
    (note,) = told(folder)["cut_off"]
    assert re.match(r"the lower [3-6]\d % of the target are one flat (grey|green), as where the end", note)
