"""`info` says what a file is that is no generator, and what reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from oneshot_core import cli, recipe, run_folder, search
from oneshot_core.checkpoints import native, write_tensors
from oneshot_core.commands.identify import identified
from oneshot_core.demo import world
from oneshot_core.demo.making import judge
from oneshot_core.editing import (
    dictionary_files,
    direction_files,
    finite_differences,
    mapper_files,
    mapper_training,
)
from oneshot_core.features import identity, perceptual
from oneshot_core.inversion import e4e
from oneshot_core.latent_files import FORMAT as LATENT_FORMAT
from oneshot_core.latent_files import save_latent
from oneshot_core.latents import Latent
from oneshot_core.look_files import FORMAT as LOOK_FORMAT
from oneshot_core.runners import manifest, plan
from oneshot_core.training import state

WRITTEN = {
    LATENT_FORMAT, search.STATE_FORMAT, state.STATE_FORMAT, perceptual.FORMAT, world.CLIP_FORMAT,
    judge.FORMAT, LOOK_FORMAT,
    dictionary_files.DICTIONARY_FORMAT, dictionary_files.STATISTICS_FORMAT, finite_differences.STATE_FORMAT,
    direction_files.FORMAT,
}  # fmt: skip
WRITTEN |= {mapper_files.FORMAT, mapper_training.STATE_FORMAT, e4e.FORMAT, identity.FORMAT}


def info(capsys: pytest.CaptureFixture[str], path: Path, *more: str) -> tuple[int, str, str]:
    code = cli.main(["info", str(path), *more])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_table_has_every_format_that_is_written() -> None:
    assert set(native.OTHER_FILES) == WRITTEN


def test_every_verb_that_is_named_exists() -> None:
    texts = " ".join(native.OTHER_FILES.values())
    assert set(re.findall(r"`(\w+)", texts)) <= set(cli.VERBS)


@pytest.mark.parametrize("kind", sorted(WRITTEN - {LATENT_FORMAT, LOOK_FORMAT}))
def test_tensor_files(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tensors(
        tmp_path / "x.safetensors", {"a": torch.ones(2)}, {"format": kind, "format_version": 1, "step": 7}
    )
    code, out, _ = info(capsys, path, "--json")
    values = json.loads(out)
    assert code == 0 and values["format"] == kind and values["what"] == native.OTHER_FILES[kind]
    assert values["details"]["step"] == 7 and values["notes"] == []


def test_latents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_latent(Latent("w+", torch.randn(3, 8, 16), "f" * 64, {}), tmp_path / "x.safetensors")
    code, out, _ = info(capsys, path)
    assert code == 0 and "a latent of this project" in out and "sample --latent" in out
    assert "w+" in out and "[3, 8, 16]" in out


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": plan.FORMAT, "format_version": 1, "jobs": [{}, {}]}, "a batch plan; `batch` runs it"),
        ({"format": manifest.FORMAT, "jobs": {}}, "the manifest of a batch"),
        ({"format": run_folder.FORMAT}, "the record of a run"),
        ({"format": recipe.FORMAT}, "a recipe; `adapt --recipe` follows it"),
        ({"nodes": [], "links": []}, "as its page saves it"),
        ({"1": {"class_type": "A", "inputs": {}}}, "in the API form"),
        ({"format": 3}, "of no format of this project"),
        ({}, "of no format of this project"),
        ([1, 2], "a list with 2 entries"),
    ],
)
def test_json_files(values: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("\n " + json.dumps(values))
    code, out, err = info(capsys, tmp_path / "x.json")
    assert code == 0 and said in out and err == ""


def test_a_broken_json_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_text('{"format": ')
    code, out, err = info(capsys, tmp_path / "plan.json")
    assert code == 2 and out == "" and "is no JSON" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (manifest.FILE_NAME, "results of `batch`"),
        ("run.json", "a folder of results: "),
    ],
)
def test_folders(name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text("{}")
    code, out, _ = info(capsys, tmp_path)
    assert code == 0 and said in out


def test_what_is_nothing_of_these_keeps_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "x.txt").write_text("hello")
    torch.save({"visual.transformer.resblocks.0.ln_1.weight": torch.ones(2)}, tmp_path / "x.pt")
    for path in (tmp_path / "x.png", tmp_path / "x.txt", tmp_path / "x.pt", tmp_path, tmp_path / "none"):
        if path.exists() and path.suffix != ".pt":
            assert identified(path) is None
        code, out, err = info(capsys, path)
        assert (code, out) == (2, "") and err.count("\n") == 1, (path, out)
    assert "--clip" in info(capsys, tmp_path / "x.pt")[2]


def test_texts_of_a_file_do_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x\x1b[2J.json"
    path.write_text('{"format": "\\u001b[31m"}')
    _, out, err = info(capsys, path)
    assert "\x1b" not in out + err and r"x\x1b[2J.json" in out
