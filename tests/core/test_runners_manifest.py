"""The manifest of a batch: damaged results are not done, a damaged manifest is set aside."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from fuzzing import failures, mutated_json
from PIL import Image

from oneshot_core.checkpoints import write_tensors
from oneshot_core.runners.manifest import DONE, Manifest, ManifestError
from oneshot_core.saved_states import write_record


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


def test_a_damaged_manifest_is_set_aside(tmp_path, caplog):
    Manifest(tmp_path, "p").record("x", {"key": "k", "status": DONE, "files": [{"path": "x"}], "step": 3})
    path = tmp_path / "manifest.json"
    sound = path.read_bytes()
    for damaged in (b"", sound[:80], sound.replace(b'"step": 3', b'"step": 4')):
        path.write_bytes(damaged)
        assert Manifest(tmp_path, "p").statuses() == {}
        assert not path.exists() and "set aside as manifest.damaged.json" in caplog.text


def test_damaged_manifests_end_in_one_kind_of_error(tmp_path):
    entry = {"key": "k", "status": DONE, "files": [{"path": "x", "kind": "y"}], "error": "e"}
    Manifest(tmp_path, "p").record("x", entry)
    path = tmp_path / "manifest.json"

    def read(_: Path) -> None:
        manifest = Manifest(tmp_path, "p")
        manifest.statuses()
        manifest.is_done("x", "k")

    assert list(failures(read, path.read_bytes(), path, range(300), (ManifestError,))) == []
    values = {"format": "oneshot-batch-manifest", "format_version": 2, "plan": "p", "jobs": {"x": entry}}
    for seed in range(200):
        odd = mutated_json(values, seed)
        if isinstance(odd, dict):
            write_record(path, odd)
            with suppress(ManifestError):
                read(path)
