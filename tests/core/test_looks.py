"""Looks: what is taken out of an adaptation of style offsets, added to generators, scaled and summed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_networks import changed, tiny_bundle, tiny_encoders

from oneshot_core.checkpoints import GeneratorBundle, Provenance, load, save
from oneshot_core.checkpoints.bundle import check_pair
from oneshot_core.latents import Latent
from oneshot_core.look_files import load_look, save_look
from oneshot_core.looks import MAX_TEXT, Look, apply_looks, look_between, look_notes
from oneshot_core.networks import Generator, GeneratorConfig
from oneshot_core.objective import Aim
from oneshot_core.objective.plans import Trainable
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.pictures.covers import model_card
from oneshot_core.sampling import sample
from oneshot_core.training import TrainConfig, adapt

SIZE = 16


@pytest.fixture(scope="module")
def source() -> GeneratorBundle:
    return tiny_bundle(SIZE)


@pytest.fixture(scope="module")
def adapted(source) -> GeneratorBundle:
    return changed(source, ".affine.bias")


@pytest.fixture(scope="module")
def look(source, adapted) -> Look:
    return look_between(source, adapted)


def weights(bundle: GeneratorBundle) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in bundle.generator.state_dict().items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], ulps: int = 0) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        spread = ulps * torch.finfo(value.dtype).eps * value.abs()
        assert bool(((value - second[name]).abs() <= spread).all()), name


def test_the_layers_are_those_of_affine_in_its_order(source):
    generator, w = source.generator, torch.randn(2, source.num_layers, 12)
    slots = [0, *(slot for level in range(3) for slot in (2 * level + 1, 2 * level + 1, 2 * level + 2))]
    layers = generator.affine_layers()
    for style, layer, slot in zip(generator.affine(w), layers, slots[: len(layers)], strict=True):
        assert torch.equal(style, layer(w[:, slot]))
    assert {id(layer) for layer in layers} == {
        id(one.affine) for one in (*generator.convs, *generator.to_rgbs)
    }


def test_a_look_is_added_to_the_styles_of_every_latent(source, adapted, look):
    w = torch.randn(3, 12)
    for before, after, offset in zip(
        source.generator.affine(w), adapted.generator.affine(w), look.offsets, strict=True
    ):
        torch.testing.assert_close(after, before + offset)


def test_at_strength_1_its_own_source_becomes_the_adapted_generator(source, adapted, look):
    added = apply_looks(source, [(look, 1.0)])
    assert_equal(weights(added), weights(adapted), ulps=1)
    torch.testing.assert_close(sample(added, [1, 2]), sample(adapted, [1, 2]), atol=1e-5, rtol=1e-5)


def test_a_trained_run_of_style_offsets_is_a_look_and_comes_back_bit_for_bit(tmp_path):
    preset = dataclasses.replace(oneshot_clip(), trainable=Trainable(("style offsets",)))
    wide = tiny_bundle(64)
    reference = Latent("w", wide.mean_latent[None], wide.family, {})
    aim = Aim(torch.zeros(1, 3, 64, 64), reference)
    child = adapt(wide, tiny_encoders(), aim, preset, TrainConfig(steps=3)).bundle
    encoders = tiny_encoders()
    adapt(wide, encoders, aim, preset, TrainConfig(steps=1), run_folder=tmp_path)
    resumed = adapt(wide, encoders, aim, preset, TrainConfig(steps=3), run_folder=tmp_path).bundle
    assert_equal(weights(resumed), weights(child))
    found = look_between(wide, child)
    assert all(bool(offset.any()) for offset in found.offsets) and found.steps == 3
    assert_equal(weights(apply_looks(wide, [(found, 1.0)])), weights(child))


def test_strengths_scale_and_looks_add_up(source, look):
    other = look_between(source, changed(source, ".affine.bias", seed=4), "other")
    both = apply_looks(source, [(look, -0.5), (other, 2.0)])
    layers = zip(both.generator.affine_layers(), source.generator.affine_layers(), strict=True)
    for index, (new, old) in enumerate(layers):
        wanted = old.bias - 0.5 * look.offsets[index] + 2 * other.offsets[index]
        torch.testing.assert_close(new.bias, wanted)
    nothing = apply_looks(source, [(look, 0.0)])
    assert_equal(weights(nothing), weights(source))
    again = apply_looks(apply_looks(source, [(look, -1.0)]), [(look, 1.0)])
    assert_equal(weights(again), weights(source), ulps=4)


def test_nothing_is_changed_in_place_and_the_rest_stays(source, adapted, look):
    before, offsets = weights(source), [offset.clone() for offset in look.offsets]
    with torch.inference_mode():
        added = apply_looks(source, [(look, 1.0)])
    assert_equal(weights(source), before)
    assert all(map(torch.equal, look.offsets, offsets))
    assert added.discriminator is source.discriminator and added.raw_generator is None
    assert torch.equal(added.mean_latent, source.mean_latent) and added.family == source.family
    own = {value.data_ptr() for value in added.generator.parameters()}
    assert not own & {value.data_ptr() for value in source.generator.parameters()}
    assert not any(value.is_inference() or value.requires_grad for value in added.generator.parameters())
    assert not any(value.is_inference() for value in look_between(source, adapted).offsets)


def test_a_sibling_takes_it_and_keeps_what_it_learnt(source, look):
    sibling = changed(source, ("const", "noise_strength"), seed=5)
    added = apply_looks(sibling, [(look, 1.0)])
    for name, value in weights(added).items():
        assert torch.equal(value, weights(sibling)[name]) != name.endswith(".affine.bias"), name
    assert look_notes(sibling, [(look, 1.0)]) == []
    check_pair(sibling, added)
    check_pair(source, apply_looks(source, [(look, 1.0)]))
    with pytest.raises(ValueError, match="swapped"):
        check_pair(apply_looks(source, [(look, 1.0)]), source)


def test_another_family_of_equal_widths_takes_it_with_a_note(look):
    stranger = tiny_bundle(SIZE, seed=9, name="stranger")
    added = apply_looks(stranger, [(look, 1.0)])
    (note,) = added.provenance.notes
    assert note.startswith(
        "the look pencil was learnt with tiny.pt, which is not of the family of stranger.pt"
    )
    assert look_notes(stranger, [(look, 1.0)]) == [note]


def test_other_widths_are_refused_with_both_by_resolution(look):
    config = GeneratorConfig(SIZE, (8, 8, 4), z_dim=12, w_dim=12, mapping_layers=2)
    narrow = dataclasses.replace(tiny_bundle(SIZE), generator=Generator(config))
    own = "4 px: 8 8, 8 px: 8 8 8, 16 px: 8 8 8"
    with pytest.raises(ValueError, match=f"{own}; the generator 4 px: 8 8, 8 px: 8 8 8, 16 px: 8 4 4;"):
        apply_looks(narrow, [(look, 1.0)])
    with pytest.raises(ValueError, match=f"{own}; the generator .*, 32 px: 8 8 8;"):
        apply_looks(tiny_bundle(32), [(look, 1.0)])


def test_strengths_out_of_range_and_sums_that_break_are_refused(source, look):
    for strength in (-1.01, 2.5, float("nan"), True):
        with pytest.raises(ValueError, match="strength of the look pencil must be a number from -1 to 2"):
            apply_looks(source, [(look, strength)])
    with pytest.raises(ValueError, match="no look to add"):
        apply_looks(source, [])
    huge = dataclasses.replace(look, offsets=tuple(torch.full_like(one, 3e38) for one in look.offsets))
    with pytest.raises(ValueError, match="not made of finite numbers.*lower its strength"):
        apply_looks(source, [(huge, 2.0)])


@pytest.mark.parametrize(
    ("ending", "first"),
    [
        ("noise_strength", "convs.0.noise_strength"),
        ("affine.weight", "convs.0.affine.weight"),
        ("const", "const"),
    ],
)
def test_what_changed_more_than_style_offsets_is_no_look(source, ending, first):
    with pytest.raises(ValueError, match=f"first in {first}; .*trained_parts 'style offsets'"):
        look_between(source, changed(changed(source, ".affine.bias"), ending))


def test_pairs_that_are_none_are_refused(source, adapted):
    with pytest.raises(ValueError, match="swapped"):
        look_between(adapted, source)
    with pytest.raises(ValueError, match="same weights, so there is no look"):
        look_between(source, source)
    with pytest.raises(ValueError, match="was not adapted from"):
        look_between(tiny_bundle(SIZE, seed=9), adapted)


def test_a_look_tells_where_it_came_from(source, adapted, look):
    told = (look.name, look.source, look.target, look.method, look.steps, look.family)
    assert told == ("pencil", "tiny.pt", "pencil.png", "oneshot_clip", 7, source.family)
    assert look.summary() == "pencil: 64 numbers, learnt in 7 steps from pencil.png with tiny.pt"
    assert look_between(source, adapted, "mine").name == "mine"
    assert len(look_between(source, adapted, "é" * 300).name) == MAX_TEXT
    plain = dataclasses.replace(adapted, provenance=Provenance("adapted", "x", history={"recipe": [1]}))
    assert look_between(source, plain).name == "a look"
    saved = dataclasses.replace(plain, provenance=Provenance("native", "rose.safetensors", sha256="a"))
    assert look_between(source, saved).name == "rose"


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"name": "a\x1bb"}, {"target": "x" * 81}, {"steps": -1}, {"offsets": ()},
              {"offsets": (torch.tensor([float("inf")]),)}, {"offsets": (torch.zeros(2, 2),)}]
)  # fmt: skip
def test_what_no_look_can_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"look|offset"):
        Look(**{"offsets": (torch.zeros(2),), "name": "x", **wrong})


def test_the_result_is_saved_with_its_looks_and_adapted_again(source, adapted, look, tmp_path):
    added = apply_looks(source, [(look, 0.5)])
    assert added.title == "tiny.pt + pencil (0.5)"
    assert "Looks of single pictures" in str(model_card(added, None, title="x"))
    again = load(save(added, tmp_path / "added.safetensors"))
    (kept,) = again.provenance.history["looks"]
    assert (kept["name"], kept["strength"], kept["target"]) == ("pencil", 0.5, "pencil.png")
    assert again.parent_name == "tiny.pt" and again.discriminator is not None
    assert torch.equal(sample(again, [0]), sample(added, [0]))
    # Its own looks are taken out of it again: the sum is one look.
    half = look_between(source, again, "half")
    for one, whole in zip(half.offsets, look.offsets, strict=True):
        torch.testing.assert_close(one, whole / 2)
    assert load_look(save_look(half, tmp_path / "half.safetensors")).name == "half"
