"""Latent mappers: groups, what they change, how a result is drawn, refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from stand_ins import tiny_bundle

from oneshot_core.editing import LatentMapper, apply_mapper
from oneshot_core.editing.mapper import (
    MapperNet,
    Mlp,
    fresh_net,
    levels_groups,
    single_groups,
    style_groups,
)
from oneshot_core.editing.spaces import edit_widths
from oneshot_core.latent_files import load_latent, save_latent
from oneshot_core.sampling import random_latents, sample
from oneshot_core.tensors import seeded

BUNDLE = tiny_bundle(16)
SLOTS = (7,) * BUNDLE.num_layers


def mapper(space: str = "w+", groups=None, **settings) -> LatentMapper:
    widths = edit_widths(BUNDLE.generator, space)
    known = style_groups(len(widths)) if space == "style" else single_groups(len(widths))
    net = fresh_net(space, widths, groups or known, seed=1).eval().requires_grad_(False)
    return LatentMapper(net, text="a hat", family=BUNDLE.family, measured="tiny", **settings)


def test_groups_follow_the_resolution():
    assert levels_groups(18) == {
        "course_mapping": (0, 1, 2, 3), "medium_mapping": (4, 5, 6, 7),
        "fine_mapping": tuple(range(8, 18)),
    }  # fmt: skip
    assert levels_groups(12, fine=False).keys() == {"course_mapping", "medium_mapping"}
    assert levels_groups(6) == {"course_mapping": (0, 1, 2, 3), "medium_mapping": (4, 5)}
    assert levels_groups(10, coarse=False, borders=(2, 6)) == {
        "medium_mapping": (2, 3, 4, 5), "fine_mapping": (6, 7, 8, 9),
    }  # fmt: skip
    assert style_groups(5) == {"mapper_0": (0,), "mapper_2": (2,), "mapper_3": (3,)}


def test_the_norm_runs_over_the_rows():
    mlp = Mlp(7)
    with torch.no_grad():
        for name, value in mlp.named_parameters():
            value.copy_(torch.randn(value.shape, generator=seeded(0, 0, name)) * 100)
    x = torch.randn(2, 4, 7, generator=seeded(0, 0, "x"))
    per_column = torch.rand(1, 1, 7, generator=seeded(0, 0, "c")) + 0.5
    # What scales a column alike in all rows is normalised away; what scales a row is not.
    torch.testing.assert_close(mlp(x * per_column), mlp(x), atol=1e-4, rtol=1e-4)
    per_row = torch.tensor([1.0, 2, 3, 4])[None, :, None]
    assert not torch.allclose(mlp(x * per_row), mlp(x), atol=1e-2)


def test_groups_that_are_off_change_nothing_and_do_not_share_rows():
    net = fresh_net("w+", SLOTS, levels_groups(6, coarse=False), seed=0)
    parts = torch.randn(2, 6, 7, generator=seeded(0, 0, "x")).unbind(dim=1)
    changes = net(parts)
    assert list(changes) == [4, 5]
    other = net([part * 3 if key < 4 else part for key, part in enumerate(parts)])
    assert all(torch.equal(changes[key], other[key]) for key in changes)


def test_weights_depend_on_the_seed_alone():
    first, again, other = (fresh_net("w+", SLOTS, single_groups(6), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["mapping.mapping.1.weight"], other["mapping.mapping.1.weight"])
    assert not first["mapping.mapping.1.bias"].any()
    assert 60 < float(first["mapping.mapping.2.weight"].std()) < 140


@pytest.mark.parametrize("space", ["w+", "style"])
def test_every_code_gets_its_own_change(space, tmp_path):
    latent = random_latents(BUNDLE, [3, 8, 9])
    edited = apply_mapper(BUNDLE, mapper(space), latent, 0.7)
    (edit,) = edited.edits
    assert (edit.space, edit.count, edit.strength, edit.name) == (space, 3, 0.7, "a hat")
    assert torch.equal(edited.values, latent.values) and edited.origin["seeds"] == [3, 8, 9]
    vectors = torch.cat(list(edit.vectors.values()), dim=1)
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)
    alone = apply_mapper(BUNDLE, mapper(space), latent.part(slice(2, 3)), 0.7).edits[0]
    assert all(torch.allclose(alone.vectors[key][0], edit.vectors[key][2], atol=1e-5) for key in edit.vectors)
    read = load_latent(save_latent(edited, tmp_path / "edited.safetensors"))
    assert torch.equal(sample(BUNDLE, read), sample(BUNDLE, edited))
    assert float((sample(BUNDLE, edited) - sample(BUNDLE, latent)).abs().max()) > 0.01


def test_strength_one_is_the_step_times_the_network():
    latent, own = random_latents(BUNDLE, [3]), mapper(step=0.25)
    codes = latent.codes(BUNDLE.generator)
    expected = codes + 0.25 * torch.stack(list(own.net(codes.unbind(dim=1)).values()), dim=1)
    drawn = sample(BUNDLE, apply_mapper(BUNDLE, own, latent))
    by_hand = BUNDLE.generator.synthesize(expected, BUNDLE.generator.constant_noise())
    torch.testing.assert_close(drawn, by_hand, atol=1e-5, rtol=0)


def test_colours_stay_in_style_space_and_edits_are_seen():
    latent = random_latents(BUNDLE, [3])
    once = apply_mapper(BUNDLE, mapper("style"), latent)
    assert 1 not in once.edits[0].vectors and 4 not in once.edits[0].vectors
    twice = apply_mapper(BUNDLE, mapper("style"), once)
    assert len(twice.edits) == 2
    assert not torch.allclose(twice.edits[1].vectors[0], once.edits[0].vectors[0], atol=1e-4)


def test_inference_mode_leaves_ordinary_tensors():
    with torch.inference_mode():
        edited = apply_mapper(BUNDLE, mapper(), random_latents(BUNDLE, [3]))
    assert not any(vector.is_inference() for vector in edited.edits[0].vectors.values())


def test_what_does_not_fit_is_refused():
    latent, own = random_latents(BUNDLE, [3]), mapper()
    stranger = tiny_bundle(16, seed=4)
    with pytest.raises(ValueError, match="the mapper 'a hat' was trained with tiny, which is not of the"):
        apply_mapper(stranger, own, dataclasses.replace(latent, family=""))
    unknown = dataclasses.replace(own, family="")
    with pytest.raises(ValueError, match="has 6 layers of 42 numbers, the generator 8 of 56"):
        apply_mapper(tiny_bundle(32), unknown, random_latents(tiny_bundle(32), [3]))
    full = dataclasses.replace(latent, edits=apply_mapper(BUNDLE, own, latent).edits * 64)
    with pytest.raises(ValueError, match="carries 64 edits already"):
        apply_mapper(BUNDLE, own, full)
    widths = BUNDLE.generator.style_widths
    for space, groups, said in (
        ("z", single_groups(6), "a mapper is in w\\+ or style"),
        ("w+", {}, "has no group"),
        ("w+", {"a": (0, 1), "b": (1, 2)}, "groups of a mapper are of different numbers below 6"),
        ("w+", {"a": (6,)}, "groups of a mapper are of different numbers below 6"),
    ):
        with pytest.raises(ValueError, match=said):
            MapperNet(space, SLOTS, groups)
    with pytest.raises(ValueError, match="has 2 styles; one is needed"):
        MapperNet("style", widths, {"a": (0, 2)})
    with pytest.raises(ValueError, match="has the widths \\[3, 4\\]"):
        MapperNet("w+", (3, 4), {"a": (0, 1)})
