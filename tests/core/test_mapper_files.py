"""Files of mappers: the own ones, StyleCLIP's checkpoints, and what is refused."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from stand_ins import tiny_bundle

from oneshot_core.checkpoints import CheckpointError, UnsafePickleError, read_tensors, save, write_tensors
from oneshot_core.editing import LatentMapper, apply_mapper, load_mapper, save_mapper
from oneshot_core.editing.mapper import fresh_net, levels_groups, style_groups
from oneshot_core.sampling import random_latents

BUNDLE = tiny_bundle(16)
WIDE = 8


def own(space: str = "w+", **settings) -> LatentMapper:
    widths = BUNDLE.generator.style_widths if space == "style" else (7,) * 6
    groups = style_groups(len(widths)) if space == "style" else levels_groups(6)
    net = fresh_net(space, widths, groups, 1).eval().requires_grad_(False)
    told = {"text": "a hat", "neutral_text": "a head", "clip": "demo", "measured": "tiny"}
    return LatentMapper(net, 0.25, **told, fingerprint="f" * 64, family=BUNDLE.family, **settings)


def weights(*groups: str, width: int = WIDE) -> dict[str, torch.Tensor]:
    """A state dict as StyleCLIP's, with a decoder of 64 px beside it."""
    found = {}
    for number, group in enumerate(groups):
        for layer in range(1, 5):
            found[f"mapper.{group}.mapping.{layer}.weight"] = torch.full((width, width), number + layer / 10)
            found[f"mapper.{group}.mapping.{layer}.bias"] = torch.zeros(width)
    decoder = {f"decoder.to_rgbs.{level}.bias": torch.zeros(1, 3, 1, 1) for level in range(4)}
    return {**found, **decoder}


def written(path: Path, state: object, **options: object) -> Path:
    torch.save(
        {"state_dict": state, "opts": {"lambda_id": 0.1, "work_in_stylespace": False, **options}}, path
    )
    return path


@pytest.mark.parametrize("space", ["w+", "style"])
def test_a_mapper_survives_its_file(space, tmp_path):
    mapper = own(space)
    read = load_mapper(save_mapper(mapper, tmp_path / "mapper.safetensors"))
    assert dataclasses.replace(read, net=mapper.net) == mapper
    assert (read.net.space, read.net.widths, read.net.groups) == (
        space, mapper.net.widths, mapper.net.groups,
    )  # fmt: skip
    latent = random_latents(BUNDLE, [1, 2])
    first, second = (apply_mapper(BUNDLE, one, latent).edits[0] for one in (mapper, read))
    assert all(torch.equal(first.vectors[key], second.vectors[key]) for key in first.vectors)
    assert not any(value.requires_grad for value in read.net.parameters())


def test_a_checkpoint_of_the_published_program_is_read(tmp_path):
    levels = ("course_mapping", "medium_mapping", "fine_mapping")
    path = written(tmp_path / "m.pt", weights(*levels), stylegan_size=1024, description="surprised")
    mapper = load_mapper(path)
    assert (mapper.space, mapper.step, mapper.text) == ("w+", 0.1, "surprised")
    assert mapper.net.widths == (WIDE,) * 18 and mapper.net.groups == levels_groups(18)
    assert float(mapper.net.state_dict()["medium_mapping.mapping.3.weight"][0, 0]) == pytest.approx(1.3)
    assert mapper.family == "" and "which generator it was trained with" in mapper.notes[-1]


@pytest.mark.parametrize(
    ("groups", "options", "slots", "known"),
    [
        (("course_mapping",), {"stylegan_size": 256}, 14, levels_groups(14, medium=False, fine=False)),
        (("medium_mapping", "fine_mapping"), {}, 10, levels_groups(10, coarse=False)),
        (("mapping",), {"stylegan_size": "large"}, 10, {"mapping": tuple(range(10))}),
    ],
)
def test_groups_and_slots_follow_from_names(groups, options, slots, known, tmp_path):
    mapper = load_mapper(written(tmp_path / "m.pt", weights(*groups), **options))
    assert len(mapper.net.widths) == slots and mapper.net.groups == known


def test_a_size_that_nothing_tells_is_assumed_and_said(tmp_path):
    state = {key: value for key, value in weights("mapping").items() if key.startswith("mapper.")}
    mapper = load_mapper(written(tmp_path / "m.pt", state))
    assert len(mapper.net.widths) == 18 and "18 slots (1024 px) were assumed" in mapper.notes[0]
    bare = {key.removeprefix("mapper."): value for key, value in state.items()}
    save_file(bare, tmp_path / "m.safetensors")
    assert load_mapper(tmp_path / "m.safetensors").net.groups == mapper.net.groups


@pytest.mark.parametrize("colours", [False, True], ids=["convolutions", "all"])
def test_a_mapper_of_styles_is_read(colours, tmp_path):
    numbers = [index for index in range(8) if colours or index % 3 != 1]
    state = weights(*(f"mapper_{index}" for index in numbers))
    wide = weights("mapper_6", width=4) | (weights("mapper_7", width=4) if colours else {})
    mapper = load_mapper(written(tmp_path / "m.pt", state | wide, work_in_stylespace=True))
    assert mapper.space == "style" and mapper.net.widths == (8, 8, 8, 8, 8, 8, 4, 4)
    assert sorted(key for keys in mapper.net.groups.values() for key in keys) == numbers


class Calls:
    """A pickle that would run something."""

    def __reduce__(self):
        return print, ("run",)


def test_what_is_no_mapper_is_refused(tmp_path, capsys):
    state = weights("course_mapping")
    lacking = {key: value for key, value in state.items() if "mapping.3.bias" not in key}
    shaped = {**state, "mapper.course_mapping.mapping.2.weight": torch.zeros(WIDE, 3)}
    broken = {**state, "mapper.course_mapping.mapping.2.bias": torch.full((WIDE,), torch.nan)}
    strange = {**state, "mapper.attention.weight": torch.zeros(3)}
    styles = weights("mapper_0", "mapper_3")
    headless = {key: value for key, value in state.items() if "mapping.1.weight" not in key}
    for number, (given, said) in enumerate((
        (lacking, "lacks course_mapping.mapping.3.bias"),
        (shaped, r"mapping.2.weight is torch.float32 of shape \[8, 3\], wanted \[8, 8\]"),
        (broken, "is a broken mapper: course_mapping.mapping.2.bias is not made of finite"),
        (strange, "holds 'mapper.attention.weight', which no mapper of StyleCLIP has"),
        (styles, "it lacks mapper_2"),
        (headless, "course_mapping has no first layer"),
        ({"decoder.to_rgbs.0.bias": torch.zeros(3)}, "holds no weights mapper"),
        (weights("mapper_99"), "has an MLP 'mapper_99'"),
    )):  # fmt: skip
        with pytest.raises(CheckpointError, match=said):
            load_mapper(written(tmp_path / f"{number}.pt", given))
    torch.save(torch.zeros(3), tmp_path / "t.pt")
    with pytest.raises(CheckpointError, match="no mapper; give a checkpoint of StyleCLIP's mapper"):
        load_mapper(tmp_path / "t.pt")
    torch.save({"state_dict": state, "opts": Calls()}, tmp_path / "c.pt", pickle_module=pickle)
    with pytest.raises(UnsafePickleError):
        load_mapper(tmp_path / "c.pt")
    assert capsys.readouterr().out == ""
    with pytest.raises(CheckpointError, match="check the path"):
        load_mapper(tmp_path / "none.pt")


def test_own_files_that_are_damaged_are_refused(tmp_path):
    path = save_mapper(own(), tmp_path / "mapper.safetensors")
    tensors, header = read_tensors(path)
    first = header["groups"][0]
    for change, said in (
        ({"format_version": 9}, "format_version 9; this program knows 1"),
        ({"groups": [{**first, "keys": [0, 99]}]}, "is a damaged mapper .*below 6"),
        ({"groups": [{**first, "name": "../x"}]}, "is a damaged mapper .*a name each"),
        ({"groups": [first]}, "also holds 'medium_mapping.mapping.1.bias'"),
        ({"step": "far"}, "is a damaged mapper .*step"),
        ({"space": "z"}, "is a damaged mapper .*space"),
    ):
        write_tensors(path, tensors, {**header, **change})
        with pytest.raises(CheckpointError, match=said):
            load_mapper(path)
    save(BUNDLE, path)
    with pytest.raises(CheckpointError, match="is no mapper but a generator; Load StyleGAN2 reads it"):
        load_mapper(path)
