"""Files of looks: they keep to 40,000 bytes, come back as they were; others and hostile ones are refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from command_words import run
from fuzzing import failures, mutated_json, wrong_error
from safetensors.torch import save_file
from tiny_networks import tiny_bundle

from oneshot_core.checkpoints import CheckpointError, load, save, write_tensors
from oneshot_core.latent_files import load_latent, save_latent
from oneshot_core.latents import Latent
from oneshot_core.look_files import FORMAT, load_look, save_look
from oneshot_core.looks import MAX_TEXT, Look
from oneshot_core.networks import GeneratorConfig

WIDTHS = (8, 8, 8, 4, 4)
LOOK = Look(
    tuple(torch.randn(width) for width in WIDTHS),
    "pencil",
    "f" * 64,
    "ffhq.pt",
    "pencil.png",
    "oneshot_clip",
    300,
)
HEADER = {
    "format": FORMAT, "format_version": 1, "widths": list(WIDTHS), "name": "pencil", "family": "",
    "source": "", "target": "", "method": "", "steps": 0,
}  # fmt: skip
OFFSETS = {"offsets": torch.zeros(sum(WIDTHS))}


def config_f_widths() -> list[int]:
    """Of StyleGAN2 at 1024 px: the inputs of its layers, level by level."""
    channels = (512, 512, 512, 512, 512, 256, 128, 64, 32)
    GeneratorConfig(1024, channels)  # is one
    widths = [channels[0]] * 2
    for before, own in zip(channels, channels[1:], strict=False):
        widths += [before, own, own]
    return widths


def test_what_is_saved_is_loaded(tmp_path):
    loaded = load_look(save_look(LOOK, tmp_path / "look.safetensors"))
    for field in dataclasses.fields(Look):
        if field.name != "offsets":
            assert getattr(loaded, field.name) == getattr(LOOK, field.name)
    assert all(map(torch.equal, loaded.offsets, LOOK.offsets))


def test_the_file_at_1024_px_keeps_to_40_kb_whatever_its_names(tmp_path):
    widths = config_f_widths()
    assert sum(widths) == 9088 and len(widths) == 26
    for text in ("x" * MAX_TEXT, "é" * MAX_TEXT, '"\\' * (MAX_TEXT // 2), "画" * MAX_TEXT):
        long = Look(tuple(map(torch.randn, widths)), text, "f" * 64, text, text, text, 2**53 - 1)
        path = save_look(long, tmp_path / "look.safetensors")
        assert path.stat().st_size <= 40_000
        assert load_look(path).name == text


@pytest.mark.parametrize(
    ("header", "tensors", "words"),
    [
        ({"format": "oneshot-stylegan"}, {}, "no look but a generator"),
        ({"format": "oneshot-latent"}, {}, "no look but a latent"),
        ({"format": "x" * 900}, {}, "no look but a file of the format"),
        ({"format_version": 2}, {}, "format_version 2; this program knows 1"),
        ({"widths": [8, 8]}, {}, "header has 16 numbers"),
        ({"widths": []}, {}, "widths must be"),
        ({"widths": [8] * 65}, {}, "at most 64 entries"),
        ({"widths": [28, 0]}, {}, "widths must be"),
        ({"widths": [2**62, 2**62]}, {}, "widths must be"),
        ({"widths": [True]}, {}, "widths must be"),
        ({"widths": "32"}, {}, "widths must be a list"),
        ({"name": "x" * 81}, {}, "at most 80 characters"),
        ({"name": "a\u001b[2Jb"}, {}, "without control characters"),
        ({"name": ""}, {}, "needs a name"),
        ({"name": 3}, {}, "name must be a text"),
        ({"steps": -1}, {}, "steps must be"),
        ({"steps": 1e9}, {}, "steps must be"),
        ({}, {"offsets": torch.full((32,), float("nan"))}, "finite"),
        ({}, {"offsets": torch.zeros(32, dtype=torch.float64)}, "torch.float64"),
        ({}, {"offsets": torch.zeros(32, dtype=torch.int32)}, "torch.int32"),
        ({}, {"offsets": torch.zeros(4, 8)}, r"shape \[4, 8\]"),
        ({}, {"other": torch.zeros(32)}, "tensor 'offsets' and no other"),
        ({}, {**OFFSETS, "more": torch.zeros(1)}, "tensor 'offsets' and no other"),
    ],
)  # fmt: skip
def test_other_and_damaged_files_are_refused(tmp_path, header, tensors, words):
    path = write_tensors(tmp_path / "x.safetensors", tensors or OFFSETS, {**HEADER, **header})
    with pytest.raises(CheckpointError, match=words) as error:
        load_look(path)
    assert str(error.value).startswith(str(path)) and "\x1b" not in str(error.value)
    assert len(str(error.value)) < 600


def test_files_of_other_programs_are_refused(tmp_path):
    save_file({"offsets": torch.zeros(32)}, tmp_path / "plain.safetensors")
    (tmp_path / "empty.safetensors").touch()
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    np.save(tmp_path / "x.npy", np.zeros(3))
    for name in ("plain.safetensors", "empty.safetensors", "x.pt", "x.npy", "missing.safetensors"):
        with pytest.raises(CheckpointError):
            load_look(tmp_path / name)


def test_other_readers_say_what_a_look_is(tmp_path):
    path = save_look(LOOK, tmp_path / "look.safetensors")
    with pytest.raises(CheckpointError, match="no generator but a look of this project; `sample --look`"):
        load(path)
    with pytest.raises(CheckpointError, match="'oneshot-look'"):
        load_latent(path)
    latent = save_latent(Latent("w", torch.zeros(1, 4)), tmp_path / "latent.safetensors")
    with pytest.raises(CheckpointError, match="no look but a latent"):
        load_look(latent)
    with pytest.raises(CheckpointError, match="no look but a generator; Load StyleGAN2"):
        load_look(save(tiny_bundle(), tmp_path / "generator.safetensors"))


def test_every_header_is_read_or_refused(tmp_path):
    path, found = tmp_path / "x.safetensors", []
    for seed in range(150):
        save_file(OFFSETS, path, {"oneshot": json.dumps(mutated_json(HEADER, seed))})
        found += wrong_error(load_look, path, seed, (CheckpointError,))
    assert found == []


def test_damaged_files_are_read_or_refused(tmp_path):
    sound = save_look(LOOK, tmp_path / "look.safetensors").read_bytes()
    path = tmp_path / "x.safetensors"
    found = [*failures(load_look, sound, path, range(150), (CheckpointError,))]
    found += failures(load_look, sound, path, range(150), (CheckpointError,), head=600)
    assert found == []


def test_info_describes_it(tmp_path, capsys):
    path = save_look(LOOK, tmp_path / "look.safetensors")
    code, out, _ = run(capsys, "info", path, "--json")
    values = json.loads(out)
    assert code == 0 and values["format"] == FORMAT and "a look of this project" in values["what"]
    assert values["details"] == {
        "name": "pencil", "source": "ffhq.pt", "target": "pencil.png", "method": "oneshot_clip", "steps": 300,
        "numbers": 32, "family": "f" * 12,
    }  # fmt: skip
    write_tensors(path, {"offsets": torch.zeros(3)}, HEADER)
    code, out, err = run(capsys, "info", path)
    assert (code, out) == (2, "") and "is no generator but a look" in err and err.count("\n") == 1
