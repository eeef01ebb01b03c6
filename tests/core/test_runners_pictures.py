"""Names of a batch's pictures: those of the targets, and none is given twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from oneshot_core.demo.world import target_path
from oneshot_core.runners.manifest import DONE, Manifest
from oneshot_core.runners.pictures import keep_copy, picture_path, stem_of
from oneshot_core.runners.plan import BatchJob


@pytest.mark.parametrize(
    ("name", "target", "stem"),
    [
        ("sketch", "sketch.png", "sketch"),
        ("Sketch-seed1", "sketch.png", "Sketch-seed1"),
        ("two", "a/sketch.png", "sketch-two"),
        ("two", None, "two"),
        ("sketches", "sketch.png", "sketch-sketches"),
        ("sketch -1", "sketch (1).png", "sketch -1"),
        ("comic", target_path("comic"), "comic"),
        ("x", target_path("oil painting"), "oil painting-x"),
    ],
)
def test_a_picture_is_called_by_its_target_and_job(name, target, stem):
    assert stem_of(BatchJob(name, None if target is None else Path(target))) == stem


def test_no_name_is_given_twice(tmp_path):
    """Not between jobs whose names join to the same, nor where only the case differs."""
    manifest = Manifest(tmp_path, "p")
    first, second = BatchJob("b", Path("a.png")), BatchJob("A-B", Path("z/a.png"))
    paths = []
    for job in (first, second, BatchJob("a", Path("a.png"))):
        paths.append(picture_path(manifest, job, ".png"))
        manifest.record(job.name, {"key": "k", "status": DONE, "files": [{"path": paths[-1], "kind": "x"}]})
    assert paths == ["pictures/a-b.png", "pictures/2_A-B.png", "pictures/a.png"]
    assert picture_path(manifest, first, ".png") == paths[0]  # its own may be replaced
    assert picture_path(manifest, first, "b.png", ["pictures/a-b_b.png"]) == "pictures/2_a-b_b.png"
    assert picture_path(manifest, first, "a-b_00001_.png") == "pictures/a-b_00001_.png"


def test_a_copy_lies_among_the_pictures_and_is_watched(tmp_path):
    manifest, job = Manifest(tmp_path, "p"), BatchJob("a", Path("a.png"))
    Image.new("RGB", (3, 2)).save(tmp_path / "grid.png")
    file = keep_copy(manifest, job, tmp_path / "grid.png")
    assert file == {"path": "pictures/a.png", "kind": "picture"}
    manifest.record("a", {"key": "k", "status": DONE, "files": [file]})
    assert manifest.is_done("a", "k")
    (tmp_path / "pictures" / "a.png").write_bytes(b"x")
    assert not manifest.is_done("a", "k")
