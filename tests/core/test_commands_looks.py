"""The verb look, and the option --look of the verbs that draw and convert."""

from __future__ import annotations

import json

import pytest
import torch
from command_words import run
from PIL import Image
from tiny_networks import changed, tiny_bundle

from oneshot_core.checkpoints import load, save
from oneshot_core.commands.option_values import look as read_look
from oneshot_core.look_files import load_look


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A generator, its adaptation by style offsets, another by everything, and a stranger."""
    place, source = tmp_path_factory.mktemp("looks"), tiny_bundle(16)
    save(source, place / "source.safetensors")
    source = load(place / "source.safetensors")
    save(changed(source, ".affine.bias"), place / "adapted.safetensors")
    save(changed(source, ("bias", "const")), place / "whole.safetensors")
    save(tiny_bundle(16, seed=9), place / "stranger.safetensors")
    return place


@pytest.fixture
def look_file(folder, capsys, tmp_path):
    path = tmp_path / "pencil.safetensors"
    code, out, err = run(capsys, "look", folder / "source.safetensors", folder / "adapted.safetensors", path)
    assert (code, err) == (0, "")
    assert (
        out.startswith(f"{path}: pencil: 64 numbers, learnt in 7 steps from pencil.png with source")
        and "kB" in out
    )
    return path


def test_a_look_is_written_and_described(folder, capsys, look_file):
    assert load_look(look_file).source == "source.safetensors"
    words = (folder / "source.safetensors", folder / "adapted.safetensors", look_file)
    code, _, err = run(capsys, "look", *words)
    assert code == 2 and "exists" in err
    code, out, _ = run(capsys, "look", *words, "--name", "mine", "--force", "--json")
    assert code == 0 and json.loads(out) == {
        "file": str(look_file), "bytes": look_file.stat().st_size, "name": "mine", "widths": [8] * 8,
    }  # fmt: skip


def test_pairs_that_give_no_look_are_refused(folder, capsys, tmp_path):
    source, out = folder / "source.safetensors", tmp_path / "x.safetensors"
    for adapted, said in (
        ("whole", "first in const"),
        ("stranger", "was not adapted from"),
        ("source", "no look"),
    ):
        code, _, err = run(capsys, "look", source, folder / f"{adapted}.safetensors", out)
        assert code == 2 and said in err and err.count("\n") == 1 and not out.exists()
    code, _, err = run(capsys, "look", source, source, tmp_path / "x.pt")
    assert code == 2 and "must end in .safetensors" in err


def test_pictures_are_drawn_with_looks_and_tell_them(folder, capsys, look_file, tmp_path):
    def drawn(name, *words):
        common = ("--seeds", "3", "--device", "cpu", "--quiet")
        code, _, err = run(capsys, "sample", "--out", tmp_path / name, *common, *words)
        assert code == 0
        return Image.open(tmp_path / name / "seed_000003.png"), err

    source, adapted = folder / "source.safetensors", folder / "adapted.safetensors"
    own, _ = drawn("own", "--generator", adapted)
    looked, err = drawn("looked", "--generator", source, "--look", look_file)
    assert own.tobytes() == looked.tobytes() and err == ""
    plain, _ = drawn("plain", "--generator", source)
    opposite, _ = drawn("both", "--generator", adapted, "--look", f"{look_file}:-1")
    difference = torch.tensor(list(plain.tobytes())).int() - torch.tensor(list(opposite.tobytes())).int()
    assert plain.tobytes() != own.tobytes() and int(difference.abs().max()) <= 1
    told = json.loads(looked.text["oneshot"])
    assert told["looks"][0]["strength"] == 1.0 and told["generator_sha256"] == load(source).provenance.sha256
    _, err = drawn("strange", "--generator", folder / "stranger.safetensors", "--look", look_file)
    assert "not of the family of stranger.safetensors" in err


def test_a_look_is_baked_into_a_file(folder, capsys, look_file, tmp_path):
    out = tmp_path / "baked.safetensors"
    words = ("--look", f"{look_file}:0.25", "--look", f"{look_file}:0.75")
    assert run(capsys, "convert", folder / "source.safetensors", out, *words)[0] == 0
    baked, adapted = (
        load(out).generator.state_dict(),
        load(folder / "adapted.safetensors").generator.state_dict(),
    )
    for name, value in adapted.items():
        torch.testing.assert_close(baked[name], value)
    _, told, _ = run(capsys, "info", out)
    assert "pencil, strength 0.25" in told and "source.safetensors\n" in told and "None" not in told


@pytest.mark.parametrize(
    ("text", "file", "strength"),
    [("a.st", "a.st", 1.0), ("a.st:0.5", "a.st", 0.5), ("a:b.st", "a:b.st", 1.0),
     ("C:\\a.st", "C:\\a.st", 1.0), ("C:\\a.st:-1", "C:\\a.st", -1.0), ("a.st:2", "a.st", 2.0)],
)  # fmt: skip
def test_a_look_is_read_with_its_strength(text, file, strength):
    assert read_look(text) == (file, strength)


@pytest.mark.parametrize("text", ["a.st:2.5", "a.st:nan", "a.st:inf"])
def test_other_strengths_are_refused_before_any_work(text, capsys, tmp_path):
    words = ("--generator", "demo", "--seeds", "0", "--out", tmp_path / "out", "--look", text)
    code, _, err = run(capsys, "sample", *words)
    assert code == 2 and "a number from -1 to 2" in err and not (tmp_path / "out").exists()
