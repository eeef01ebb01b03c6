"""The manifest of a batch: damaged results are not done, a damaged manifest is set aside."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fuzzing import failures
from manifests import lines_of
from PIL import Image

from oneshot_core.checkpoints import write_tensors
from oneshot_core.runners.manifest import DONE, FAILED, Manifest, ManifestError, held
from oneshot_core.writing import WriteError


def test_an_empty_or_damaged_result_is_not_done(tmp_path):
    manifest = Manifest(tmp_path, "p")
    write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(9)}, {"format": "x", "format_version": 1})
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "folder").mkdir()
    files = [{"path": name, "kind": "x"} for name in ("a.safetensors", "a.png", "folder")]
    manifest.record("a", {"key": "k", "status": DONE, "files": files})
    assert manifest.is_done("a", "k")
    sound = (tmp_path / "a.safetensors").read_bytes()
    for damaged in (b"", sound[:-1], sound[:-2] + b"\x00\x00"):
        (tmp_path / "a.safetensors").write_bytes(damaged)
        assert not manifest.is_done("a", "k")
    (tmp_path / "a.safetensors").write_bytes(sound)
    (tmp_path / "a.png").write_bytes(b"")
    assert not manifest.is_done("a", "k")


def test_a_manifest_whose_first_line_is_damaged_is_set_aside(tmp_path, caplog):
    Manifest(tmp_path, "p").record("x", {"key": "k", "status": DONE, "files": [{"path": "x", "kind": "y"}]})
    path = tmp_path / "manifest.jsonl"
    sound = path.read_bytes()
    for damaged in (b"", sound[:80], sound.replace(b'"plan":"p"', b'"plan":"q"'), bytes(200)):
        path.write_bytes(damaged)
        assert Manifest(tmp_path, "p").statuses() == {}
        assert not path.exists() and "set aside as manifest.damaged.jsonl" in caplog.text


def test_a_damaged_line_costs_its_own_job_alone(tmp_path, caplog):
    manifest = Manifest(tmp_path, "p")
    (tmp_path / "folder").mkdir()
    done = {"key": "k", "status": DONE, "files": [{"path": "folder", "kind": "x"}]}
    manifest.record_all([(name, {**done, "step": 3}) for name in ("a", "b", "c")])
    head, *lines = manifest.path.read_bytes().splitlines(keepends=True)
    changed = lines[1].replace(b'"step":3', b'"step":4')
    for middle in (changed, b"\n", b"\0" * 50 + b"\n", b"[" * 9000 + b"\n", lines[1][:20] + b"\n"):
        manifest.path.write_bytes(b"".join((head, lines[0], middle, lines[2])))
        again = Manifest(tmp_path, "p")
        assert again.statuses() == {"a": DONE, "c": DONE} and "1 lines are damaged" in caplog.text
        assert [again.is_done(name, "k") for name in ("a", "b", "c")] == [True, False, True]


@pytest.mark.parametrize("cut", [1, 2, 30, 200])
def test_a_line_that_a_crash_left_half_written_does_not_spoil_the_next(tmp_path, cut):
    manifest = Manifest(tmp_path, "p")
    for name in ("a", "b"):
        manifest.record(name, {"key": "k", "status": FAILED, "error": "e" * 200})
    manifest.path.write_bytes(manifest.path.read_bytes()[:-cut])
    again = Manifest(tmp_path, "p")
    known = {"a": FAILED} | ({"b": FAILED} if cut == 1 else {})  # only its end of line was lost
    assert again.statuses() == known
    for name in ("c", "d"):
        again.record(name, {"key": "k", "status": FAILED, "error": name})
    assert again.last("c")["error"] == "c" and again.last("d")["error"] == "d"
    assert Manifest(tmp_path, "p").statuses() == {**known, "c": FAILED, "d": FAILED}


def test_it_grows_by_a_line_for_each_event_and_the_last_counts(tmp_path):
    manifest = Manifest(tmp_path, "p")
    sizes = []
    for error in ("one", "two", "three"):
        manifest.record("a", {"key": "k", "status": FAILED, "error": error})
        sizes.append(manifest.path.read_bytes())
    assert sizes[1].startswith(sizes[0]) and sizes[2].startswith(sizes[1])
    assert [line["error"] for line in lines_of(tmp_path)] == ["one", "two", "three"]
    for one in (manifest, Manifest(tmp_path, "p")):
        assert one.entry("a", "k")["error"] == "three" and one.entry("a", "other") == {}


WRITES = """
import sys
from pathlib import Path
from oneshot_core.runners.manifest import Manifest
manifest = Manifest(Path(sys.argv[1]), "p")
for number in range(200):
    name = f"{sys.argv[2]}{number}"
    manifest.record(name, {"key": "k", "status": "failed", "error": "e" * number})
    assert manifest.last(name)["error"] == "e" * number
"""


def test_two_processes_that_write_at_once_lose_no_line(tmp_path):
    Manifest(tmp_path, "p").record("first", {"key": "k", "status": DONE, "files": []})
    words = [sys.executable, "-c", WRITES, str(tmp_path)]
    both = [subprocess.Popen([*words, name], cwd=Path(__file__).parents[2]) for name in ("a", "b")]
    assert [one.wait(60) for one in both] == [0, 0]
    assert len(Manifest(tmp_path, "p").statuses()) == 401


def test_a_folder_takes_one_batch_at_a_time(tmp_path):
    with held(tmp_path):
        with pytest.raises(ManifestError, match="another process runs a batch"), held(tmp_path):
            pass
    with held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_costs_no_line_that_was_there(tmp_path, monkeypatch):
    manifest = Manifest(tmp_path, "p")
    manifest.record("a", {"key": "k", "status": FAILED, "error": "a"})
    write = os.write

    def half(handle: int, data: memoryview) -> int:
        if len(data) > 100:
            return write(handle, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(WriteError, match="the disk is full"):
            manifest.record("b", {"key": "k", "status": FAILED, "error": "b" * 300})
    manifest.record("c", {"key": "k", "status": FAILED, "error": "c"})
    for one in (manifest, Manifest(tmp_path, "p")):
        assert one.last("a")["error"] == "a" and one.last("c")["error"] == "c" and one.last("b") == {}


def test_damaged_manifests_end_in_one_kind_of_error(tmp_path):
    entry = {"key": "k", "status": DONE, "files": [{"path": "x", "kind": "y"}], "error": "e"}
    Manifest(tmp_path, "p").record("x", entry)
    path = tmp_path / "manifest.jsonl"

    def read(_: Path) -> None:
        manifest = Manifest(tmp_path, "p")
        manifest.statuses()
        manifest.is_done("x", "k")

    assert list(failures(read, path.read_bytes(), path, range(300), (ManifestError,))) == []
