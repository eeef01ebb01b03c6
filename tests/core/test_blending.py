"""Blends of two generators: ends, middle, resolutions, mapping networks, what may be blended."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from stand_ins import randomised, tiny_bundle

from oneshot_core.blending import blend_generators, parse_strengths, resolution_of, swap_from
from oneshot_core.checkpoints import GeneratorBundle, Provenance, load, save
from oneshot_core.networks import Generator
from oneshot_core.pairs import sample_pairs
from oneshot_core.sampling import random_latents, sample

SIZE = 16


def child_of(parent: GeneratorBundle, seed: int = 5, own_mapping: bool = False) -> GeneratorBundle:
    """Other weights everywhere but, unless asked for, in the mapping network."""
    generator = randomised(Generator(parent.generator.config), seed)
    if not own_mapping:
        generator.mapping.load_state_dict(parent.generator.mapping.state_dict())
    history = {"parent": {"file_name": "tiny", "sha256": None, "family": parent.family}, "step": 7}
    return dataclasses.replace(
        parent,
        generator=generator,
        mean_latent=parent.mean_latent + (0.5 if own_mapping else 0.0),
        provenance=Provenance("adapted", "child", history=history),
    )


def weights(bundle: GeneratorBundle) -> dict[str, torch.Tensor]:
    return bundle.generator.state_dict()


@pytest.fixture(scope="module")
def pair() -> tuple[GeneratorBundle, GeneratorBundle]:
    parent = tiny_bundle(SIZE)
    return parent, child_of(parent)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["parent first", "child first"])
def test_the_ends_are_the_two_generators(pair, order):
    first, second = (pair[index] for index in order)
    for strength, same in ((0.0, first), (1, second)):
        blend = blend_generators(first, second, strength)
        for key, value in weights(blend).items():
            assert torch.equal(value, weights(same)[key]), key
        assert torch.equal(sample(blend, [3]), sample(same, [3]))


def test_between_and_beyond_every_weight_is_on_the_line(pair):
    first, second = pair
    for strength in (0.3, -0.5, 1.7):
        blend = weights(blend_generators(first, second, strength))
        for key, value in weights(first).items():
            line = value + strength * (weights(second)[key] - value)
            torch.testing.assert_close(blend[key], line, atol=1e-5, rtol=1e-5, msg=key)


def test_each_tensor_belongs_to_the_resolution_it_works_at(pair):
    generator = pair[0].generator
    for index, conv in enumerate(generator.convs):
        assert resolution_of(f"convs.{index}.affine.weight") == conv.resolution
    assert [resolution_of(f"to_rgbs.{index}.bias") for index in range(3)] == [4, 8, 16]
    assert resolution_of("const") == 4


def test_a_layer_swap_takes_the_fine_layers_from_the_second(pair):
    first, second = pair
    swapped = weights(blend_generators(first, second, swap_from(SIZE, 8)))
    for key, value in swapped.items():
        origin = second if not key.startswith("mapping") and resolution_of(key) >= 8 else first
        assert torch.equal(value, weights(origin)[key]), key
    assert swap_from(SIZE, 8) == {4: 0.0, 8: 1.0, 16: 1.0}
    only = weights(blend_generators(first, second, {16: 1.0}))
    assert torch.equal(only["convs.4.weight"], weights(second)["convs.4.weight"])
    assert torch.equal(only["convs.2.weight"], weights(first)["convs.2.weight"])
    with pytest.raises(ValueError, match="one of 4, 8, 16 for 16 px, got 32"):
        swap_from(SIZE, 32)


def test_equal_mapping_networks_keep_the_family_and_the_latents(pair):
    first, second = pair
    blend = blend_generators(first, second, 0.5)
    assert blend.family == first.family
    assert torch.equal(blend.mean_latent, first.mean_latent)
    assert blend.discriminator is None and blend.raw_generator is None
    pairs = sample_pairs(first, blend, [1, 2])
    assert pairs.adapted.shape == (2, 3, SIZE, SIZE)


def test_mapping_networks_that_differ_are_blended_as_a_whole():
    first = tiny_bundle(SIZE)
    second = child_of(first, own_mapping=True)
    blend = blend_generators(first, second, 0.25)
    torch.testing.assert_close(blend.mean_latent, first.mean_latent + 0.125)
    key = "mapping.layers.0.weight"
    torch.testing.assert_close(
        weights(blend)[key], torch.lerp(weights(first)[key], weights(second)[key], 0.25)
    )
    sample(blend, random_latents(first, [0]))  # latents of the first are the blend's parent's
    with pytest.raises(
        ValueError, match=r"networks of tiny and the generator adapted from tiny differ.*one strength"
    ):
        blend_generators(first, second, {8: 0.5})


def test_a_blend_is_a_bundle_of_its_own_and_is_saved_with_its_history(pair, tmp_path):
    first, second = pair
    before = {key: value.clone() for key, value in weights(first).items()}
    with torch.inference_mode():
        blend = blend_generators(first, second, {8: 0.5}, name="half")
    assert all(torch.equal(before[key], value) for key, value in weights(first).items())
    for key, value in weights(blend).items():
        assert value.data_ptr() not in (weights(first)[key].data_ptr(), weights(second)[key].data_ptr())
        assert not value.is_inference()
    assert not any(parameter.requires_grad for parameter in blend.generator.parameters())
    again = load(save(blend, tmp_path / "blend.safetensors"))
    history = again.provenance.history
    assert history["parent"]["family"] == first.family
    assert history["blend"]["strength"] == {"8": 0.5}
    assert history["blend"]["second"]["history"]["step"] == 7
    assert blend.provenance.file_name == "half"
    assert torch.equal(sample(again, [0]), sample(blend, [0]))


def test_what_cannot_be_blended_is_refused(pair):
    first, second = pair
    with pytest.raises(ValueError, match="^tiny and tiny are not related: only a generator and one adapted"):
        blend_generators(first, tiny_bundle(SIZE, seed=9), 0.5)
    with pytest.raises(
        ValueError, match=r"^tiny \(pictures of 16 px\) and tiny \(pictures of 32 px\) are not built"
    ):
        blend_generators(first, tiny_bundle(32), 0.5)
    with pytest.raises(ValueError, match=r"strength .*must be a number from -1 to 2, got 2.5"):
        blend_generators(first, second, 2.5)
    with pytest.raises(ValueError, match="got nan"):
        blend_generators(first, second, {8: float("nan")})
    with pytest.raises(ValueError, match=r"resolutions 4, 8, 16, got \[12\]"):
        blend_generators(first, second, {12: 0.5})


def test_strengths_are_read_from_text():
    assert parse_strengths("4: 0, 16:0.5,32: 1,") == {4: 0.0, 16: 0.5, 32: 1.0}
    for text in ("", "16", "a: 1", "16: b"):
        with pytest.raises(ValueError, match="such as"):
            parse_strengths(text)
