"""Edits that latents carry: where they come in, what they refuse, how they travel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_networks import tiny_bundle

from oneshot_core.checkpoints import CheckpointError
from oneshot_core.copies import private_copy
from oneshot_core.edits import LatentEdit, edited_codes, edited_styles, part_of
from oneshot_core.inputs import Inputs
from oneshot_core.interpolation import interpolate, join_latents
from oneshot_core.latent_files import load_latent, save_latent
from oneshot_core.latents import Latent
from oneshot_core.pairs import sample_pairs
from oneshot_core.sampling import SampleConfig, mix_table, random_latents, sample, sample_with_codes

BUNDLE = tiny_bundle()
SEEDS = [3, 4, 5]
W = BUNDLE.generator.config.w_dim
SLOTS = (W,) * BUNDLE.num_layers
WIDTHS = tuple(len(layer.bias) for layer in BUNDLE.generator.affine_layers())


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


STYLE = LatentEdit(
    "style", {2: rows(WIDTHS[2]), 4: rows(WIDTHS[4], seed=1)}, WIDTHS, 0.5, "smile", "face.pkl"
)
CODE = LatentEdit("w+", {1: rows(W), 3: rows(W, seed=2)}, SLOTS, -2.0)
EACH = LatentEdit("style", {0: rows(3, WIDTHS[0])}, WIDTHS)


def latent(*edits: LatentEdit) -> Latent:
    return replace(random_latents(BUNDLE, SEEDS), edits=edits)


@torch.no_grad()
def drawn(codes: torch.Tensor, *edits: LatentEdit, by=BUNDLE.generator) -> torch.Tensor:
    return by.render(edited_styles(by.affine(codes), edits), by.constant_noise())


@torch.no_grad()
def codes_of(config: SampleConfig) -> torch.Tensor:
    return sample_with_codes(BUNDLE, SEEDS, config)[1].values


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_edits_come_last_whatever_the_chunks(batch: int):
    config = SampleConfig(psi=0.6, replace_from=2, batch_size=batch)
    codes = edited_codes(codes_of(config), [CODE])
    assert not torch.equal(codes[:, 3], codes_of(config)[:, 3])  # a replaced slot is edited all the same
    images, kept = sample_with_codes(BUNDLE, latent(STYLE, CODE, EACH), config)
    torch.testing.assert_close(images, drawn(codes, STYLE, EACH), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kept.values, codes)
    assert [edit.name for edit in kept.edits] == ["smile", ""]
    again = sample(BUNDLE, kept, SampleConfig(keep_codes=True))
    torch.testing.assert_close(again, images, rtol=1e-4, atol=1e-4)


def test_a_pair_gets_the_same_edits_through_the_affines_of_each():
    adapted = replace(BUNDLE, generator=private_copy(BUNDLE.generator, "cpu"))
    with torch.no_grad():
        adapted.generator.affine_layers()[2].weight.mul_(1.5)
        adapted.generator.affine_layers()[4].bias.add_(0.3)
    config = SampleConfig(psi=0.7, replace_from=2, batch_size=2)
    pairs = sample_pairs(BUNDLE, adapted, latent(CODE, STYLE), config)
    plain, replaced = codes_of(replace(config, replace_from=None)), codes_of(config)
    source = drawn(edited_codes(plain, [CODE]), STYLE)
    theirs = drawn(edited_codes(replaced, [CODE]), STYLE, by=adapted.generator)
    torch.testing.assert_close(pairs.source, source, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pairs.adapted, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sample(adapted, pairs.latent), pairs.adapted, rtol=1e-4, atol=1e-4)


def test_file_keeps_edits_and_version_1_has_none(tmp_path: Path):
    given = latent(STYLE, CODE, EACH)
    read = load_latent(save_latent(given, tmp_path / "a.safetensors"))
    assert [(e.space, e.strength, e.name, e.measured, e.widths) for e in read.edits] == [
        (e.space, e.strength, e.name, e.measured, e.widths) for e in given.edits
    ]
    assert torch.equal(sample(BUNDLE, read), sample(BUNDLE, given))


def test_damaged_edits_are_refused(tmp_path: Path):
    from oneshot_core.checkpoints import write_tensors

    entry = {"space": "style", "widths": list(WIDTHS), "strength": 1.0, "name": "", "measured": ""}
    head = {"format": "oneshot-latent", "format_version": 2, "space": "z", "family": "", "origin": {}}
    values = {"latent": rows(2, W), "edit.0.2": rows(WIDTHS[2])}
    for edits, tensors, told in [
        ([{**entry, "strength": 1e9}], values, "strength"),
        ([{**entry, "space": "z"}], values, "space"),
        ([{**entry, "widths": [3]}], values, "belongs to nothing"),
        ([], values, "belongs to nothing"),
        ([entry], {**values, "edit.0.2": rows(WIDTHS[2] + 1)}, "numbers for number 2"),
        ([entry], {**values, "edit.0.2": torch.full((WIDTHS[2],), torch.nan)}, "finite"),
        ([entry], {**values, "edit.0.2": rows(5, WIDTHS[2])}, "made for 5 codes"),
    ]:
        write_tensors(tmp_path / "bad.safetensors", tensors, {**head, "edits": edits})
        with pytest.raises(CheckpointError, match=told):
            load_latent(tmp_path / "bad.safetensors")
    write_tensors(tmp_path / "old.safetensors", {"latent": rows(2, W)}, {**head, "format_version": 1})
    assert load_latent(tmp_path / "old.safetensors").edits == ()


def test_other_generators_and_counts_are_refused():
    with pytest.raises(ValueError, match=r"does not fit .* made for \d+ layers"):
        sample(BUNDLE, latent(replace(STYLE, widths=(*WIDTHS, 8))))
    with pytest.raises(ValueError, match="made for 3 codes, and this latent has 1"):
        replace(latent(), values=latent().values[:1], edits=(EACH,))
    for wrong, told in [
        ({"space": "z"}, "in w\\+ or style"),
        ({"vectors": {99: rows(4)}}, "number 99 of"),
        ({"strength": float("nan")}, "strength of the edit smile"),
        ({"vectors": {0: rows(2, WIDTHS[0]), 2: rows(3, WIDTHS[2])}}, "2 and 3 codes"),
    ]:
        with pytest.raises(ValueError, match=told):
            replace(STYLE, **wrong)


def test_who_takes_codes_alone_gets_them_or_refuses():
    found = replace(latent(), space="w", values=rows(1, W))
    folded = replace(found, edits=(CODE,)).folded()
    assert folded.space == "w+" and not folded.edits
    torch.testing.assert_close(folded.values, edited_codes(BUNDLE.generator.broadcast(found.values), [CODE]))
    with pytest.raises(ValueError, match="the edit smile.*an adaptation's reference uses codes alone"):
        Inputs(BUNDLE, None, reference=replace(found, edits=(STYLE,)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="codes alone"):
        replace(found, edits=(STYLE,)).codes(BUNDLE.generator)


def test_parts_walks_and_tables_carry_edits():
    one = latent(EACH, STYLE).part(slice(1, 2))
    assert torch.equal(one.edits[0].vectors[0], EACH.vectors[0][1:2])
    assert one.origin["seeds"] == SEEDS[1:2] and latent().part(slice(2)).origin["seeds"] == SEEDS[:2]
    assert torch.equal(part_of([STYLE], slice(1, 2))[0].vectors[2], STYLE.vectors[2])
    for space in ("w", "z"):
        walk = interpolate(BUNDLE, latent(EACH, CODE), 4, space=space)
        own = walk.edits[0].vectors[0]
        torch.testing.assert_close(own[2], torch.lerp(EACH.vectors[0][0], EACH.vectors[0][1], 0.5))
        ends = sample(BUNDLE, walk)[::4]
        torch.testing.assert_close(ends, sample(BUNDLE, latent(EACH, CODE)), rtol=1e-4, atol=1e-4)
    table = mix_table(BUNDLE, latent(EACH), [9, 10], SampleConfig(mix_from=BUNDLE.num_layers))
    torch.testing.assert_close(table[2][1], sample(BUNDLE, latent(EACH))[2], rtol=1e-4, atol=1e-4)


def test_joined_latents_keep_their_own_edits():
    plain, edited = random_latents(BUNDLE, SEEDS), latent(STYLE, CODE, EACH)
    joined = join_latents(BUNDLE, [plain, edited], psi=0.7)
    config = SampleConfig(psi=0.7)
    expected = torch.cat([sample(BUNDLE, one, config) for one in (plain, edited)])
    drawn = sample(BUNDLE, joined, SampleConfig(keep_codes=True))
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)
    assert joined.origin["seeds"] == SEEDS * 2
    walk = interpolate(BUNDLE, joined.part(slice(0, 4, 3)), 2)  # from a person to the same, edited
    half = replace(latent(*(replace(edit, strength=edit.strength / 2) for edit in (STYLE, CODE, EACH)))).part(
        slice(1)
    )
    ends = sample(BUNDLE, half, config)
    torch.testing.assert_close(sample(BUNDLE, walk)[1:2], ends, rtol=1e-4, atol=1e-4)
