"""Directions as values: arithmetic, limits, files, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_networks import tiny_bundle

from oneshot_core.checkpoints import CheckpointError, write_tensors
from oneshot_core.editing import (
    Direction,
    apply_direction,
    check_direction,
    combine,
    edit_table,
    load_direction,
    parse_edit_strengths,
    save_direction,
)
from oneshot_core.sampling import random_latents, sample

BUNDLE = tiny_bundle()
W = BUNDLE.generator.config.w_dim
SLOTS = (W,) * BUNDLE.num_layers
WIDTHS = tuple(len(layer.bias) for layer in BUNDLE.generator.affine_layers())


def rows(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


SMILE = Direction(
    "style", {0: rows(WIDTHS[0]), 3: rows(WIDTHS[3], 1)}, WIDTHS,
    sigma={0: rows(WIDTHS[0]).abs(), 3: rows(1).abs()}, mean={0: rows(WIDTHS[0])},
    name="smile", method="gradient", text="a smiling face", neutral_text="a face", clip="ViT-B/32",
    dictionary="ab12", measured="ffhq.pkl", fingerprint="cd34", family=BUNDLE.family,
)  # fmt: skip
AGE = Direction("w", {0: rows(W)}, SLOTS, name="age", sigma={0: rows(1).abs()})


def test_strengths_add_up_on_the_pictures():
    latent = random_latents(BUNDLE, [1, 2])
    twice = apply_direction(apply_direction(latent, SMILE, 1.5), SMILE, -0.5)
    torch.testing.assert_close(sample(BUNDLE, twice), sample(BUNDLE, apply_direction(latent, SMILE)))
    back = apply_direction(apply_direction(latent, AGE, 2.0), -AGE, 2.0)
    torch.testing.assert_close(sample(BUNDLE, back), sample(BUNDLE, latent), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(sample(BUNDLE, apply_direction(latent, AGE)), sample(BUNDLE, latent), atol=1e-3)
    assert twice.origin["seeds"] == [1, 2] and twice.origin["edited"]["edited"] == latent.origin


def test_combining_and_limiting():
    both = combine([(SMILE, 2.0), (-SMILE, 1.0)])
    torch.testing.assert_close(both.vectors[3], SMILE.vectors[3])
    assert both.text == SMILE.text and both.method == "combined"
    part = SMILE.limited([3])
    assert set(part.vectors) == {3} and set(part.sigma) == {3} and not part.mean
    coarse = AGE.limited([0, 1])
    assert coarse.kind == "w+" and set(coarse.vectors) == {0, 1} == set(coarse.sigma)
    joined = combine([(AGE, 1.0), (coarse, 1.0)])
    torch.testing.assert_close(joined.vectors[0], 2 * AGE.vectors[0])
    torch.testing.assert_close(joined.vectors[2], AGE.vectors[0])


def test_deviations_of_sums_are_those_of_channels():
    sigma = {index: rows(WIDTHS[index], 9).abs() for index in (0, 3)}
    one = replace(SMILE, sigma=sigma, mean=dict(sigma))
    two = replace(one.limited([3]), name="other")
    both = combine([(one, 1.0), (two, 2.0)])
    assert set(both.sigma) == {0, 3} == set(both.mean) and torch.equal(both.sigma[3], sigma[3])
    other = replace(two, sigma={3: sigma[3] * 2}, mean={})
    assert set(combine([(one, 1.0), (other, 1.0)]).sigma) == {0}
    component = replace(AGE, mean={0: rows(W)})
    assert not combine([(component, 1.0), (component, 1.0)]).sigma  # that of one vector says nothing of sums
    assert torch.equal((-component).scaled(3.0).sigma[0], 3 * component.sigma[0])
    assert torch.equal(SMILE.scaled(3.0).sigma[0], SMILE.sigma[0])


def test_factors_of_zero_and_what_cancels_out():
    assert combine([(SMILE, 0.0), (AGE, 2.0)]).name == "age (2)"
    with pytest.raises(ValueError, match="no direction to combine"):
        combine([(SMILE, 0.0)])
    with pytest.raises(ValueError, match="times 0 changes nothing; leave it out"):
        SMILE.scaled(0.0)
    with pytest.raises(ValueError, match="cancel each other out"):
        combine([(SMILE, 1.0), (SMILE, -1.0)])
    with pytest.raises(ValueError, match="has one vector, number 0"):
        replace(AGE, sigma={1: rows(1).abs()})
    unnamed = replace(AGE, name="", family="")
    assert unnamed.scaled(2.0).name == "" and combine([(unnamed, 1.0), (AGE, 1.0)]).name == "w + age"
    known = replace(unnamed, family="ab")
    assert combine([(unnamed, 1.0), (known, 1.0)]).family == "ab"


def test_file_gives_the_same_direction(tmp_path: Path):
    for direction in (SMILE, AGE, AGE.limited([1])):
        read = load_direction(save_direction(direction, tmp_path / "d.safetensors"))
        for part in ("vectors", "sigma", "mean"):
            ours, theirs = getattr(direction, part), getattr(read, part)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
        empty = {"vectors": {}, "sigma": {}, "mean": {}}
        assert {**vars(read), **empty} == {**vars(direction), **empty}


def test_other_files_are_named(tmp_path: Path):
    path = save_direction(SMILE, tmp_path / "d.safetensors")
    from oneshot_core.latent_files import load_latent, save_latent

    with pytest.raises(CheckpointError, match="is no latent"):
        load_latent(path)
    with pytest.raises(CheckpointError, match="no direction but a latent"):
        load_direction(save_latent(random_latents(BUNDLE, [1]), path))
    head = {"format": "oneshot-direction", "kind": "style", "widths": list(WIDTHS)}
    write_tensors(path, {"vectors.0": rows(WIDTHS[0])}, {**head, "format_version": 9})
    with pytest.raises(CheckpointError, match="format_version 9"):
        load_direction(path)
    write_tensors(path, {"vectors.0": rows(WIDTHS[0])}, {**head, "format_version": 1})
    with pytest.raises(CheckpointError, match="damaged direction"):
        load_direction(path)


def test_what_does_not_fit_is_refused():
    latent = random_latents(BUNDLE, [1])
    with pytest.raises(ValueError, match="changes nothing"):
        replace(SMILE, vectors={0: torch.zeros(WIDTHS[0])})
    with pytest.raises(ValueError, match="do not fit together"):
        combine([(SMILE, 1.0), (AGE, 1.0)])
    with pytest.raises(ValueError, match="measured on ffhq.pkl"):
        apply_direction(latent, replace(SMILE, family="other"))
    with pytest.raises(ValueError, match="not of the family"):
        check_direction(replace(SMILE, family="other"), BUNDLE)
    with pytest.raises(ValueError, match="does not fit"):
        check_direction(replace(AGE, widths=(W, W)), BUNDLE)
    with pytest.raises(ValueError, match="layers 0 to"):
        SMILE.limited([99])
    with pytest.raises(ValueError, match="none of the layers"):
        SMILE.limited([1])
    with pytest.raises(ValueError, match="strength"):
        SMILE.at(float("inf"))
    check_direction(SMILE, BUNDLE)


def test_table_draws_every_latent_at_every_strength():
    latent, told = random_latents(BUNDLE, [1, 2, 3]), []
    columns = edit_table(BUNDLE, latent, SMILE, (-1, 0, 2), progress=lambda *now: told.append(now))
    for strength, images in zip((-1, 0, 2), columns, strict=True):
        expected = sample(BUNDLE, apply_direction(latent, SMILE, strength))
        torch.testing.assert_close(images, expected)
    assert told[-1] == (9, 9) and [done for done, _ in told] == [3, 6, 9]
    with pytest.raises(ValueError, match="not of the family"):
        edit_table(BUNDLE, latent, replace(SMILE, family="other"), (1,))


def test_strengths_are_read():
    assert parse_edit_strengths("-3, 0,2.5,") == (-3, 0, 2.5)
    for text, told in [("", "got 0"), ("a", "cannot read 'a'"), ("nan", "within"), ("1," * 26, "got 26")]:
        with pytest.raises(ValueError, match=told):
            parse_edit_strengths(text)
