"""Shapes, data flow, refusals and derivatives of the networks (values: test_golden_networks.py)."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from stand_ins import tiny_discriminator, tiny_generator
from torch.autograd import gradcheck

from oneshot_core.networks import (
    PATCH_LOCATIONS,
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    PatchHeads,
    patch_location,
)
from oneshot_core.tensors import seeded


def drawn(*shape: int, what: str = "x", dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(0, 0, what)).to(dtype)


def widths(size: int, width: int = 4) -> tuple[int, ...]:
    return (width,) * (size.bit_length() - 2)


# ---- configurations


def test_config_survives_json():
    for config in (
        GeneratorConfig(32, (8, 8, 6, 4), z_dim=3, mapping_layers=2, conv_clamp=256.0),
        DiscriminatorConfig(32, (8, 8, 6, 4), mbstd_group=None, c_dim=2),
    ):
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_config_refuses_unknown_keys():
    with pytest.raises(ValueError, match="generator has the unknown entry 'colour'"):
        GeneratorConfig.from_dict({"size": 16, "channels": [4, 4, 4], "colour": 1})


@pytest.mark.parametrize("size", [0, 8, 24, 2048, -16])
@pytest.mark.parametrize("kind", [GeneratorConfig, DiscriminatorConfig])
def test_config_refuses_sizes(kind, size):
    with pytest.raises(ValueError, match=f"power of two from 16 to 1024, got {size}"):
        kind(size, (4, 4, 4))


@pytest.mark.parametrize("channels", [(4, 4), (4, 4, 4, 4), (4, 0, 4)])
def test_config_refuses_widths(channels):
    with pytest.raises(ValueError, match="one width from 1 to 4096 per resolution"):
        GeneratorConfig(16, channels)


def test_config_refuses_a_mapping_without_layers():
    with pytest.raises(ValueError, match="mapping_layers must be from 1 to 64, got 0"):
        GeneratorConfig(16, (4, 4, 4), mapping_layers=0)


@pytest.mark.parametrize(("size", "convs", "slots"), [(16, 5, 6), (64, 9, 10), (256, 13, 14), (1024, 17, 18)])
def test_counts_follow_the_size(size, convs, slots):
    config = GeneratorConfig(size, widths(size))
    assert (config.num_convs, config.num_layers) == (convs, slots)


# ---- generator


@pytest.mark.parametrize("size", [16, 32, 128])
def test_generator_shapes(size):
    generator = tiny_generator(size)
    config = generator.config
    w = generator.map(drawn(2, config.z_dim))
    assert w.shape == (2, config.num_layers, config.w_dim)
    styles = generator.affine(w)
    assert len(styles) == config.num_convs + len(config.channels)
    assert generator.noise_shapes()[0] == (4, 4) and generator.noise_shapes()[-2:] == [(size, size)] * 2
    assert [tuple(m.shape) for m in generator.constant_noise()] == [
        (1, 1, *s) for s in generator.noise_shapes()
    ]
    assert generator.render(styles, generator.constant_noise()).shape == (2, 3, size, size)


def test_generator_takes_any_widths_and_depth():
    config = GeneratorConfig(32, (5, 7, 3, 2), z_dim=4, w_dim=6, mapping_layers=1, image_channels=1)
    generator = Generator(config)
    assert generator.synthesize(generator.map(drawn(3, 4)), None).shape == (3, 1, 32, 32)
    deep = Generator(dataclasses.replace(config, mapping_layers=4, mapping_width=9))
    assert [tuple(layer.weight.shape) for layer in deep.mapping.layers] == [(9, 4), (9, 9), (9, 9), (6, 9)]


def test_generator_state_names_are_the_documented_ones():
    names = set(Generator(GeneratorConfig(16, (4, 4, 4), c_dim=2, mapping_layers=1)).state_dict())
    styled = [f"{p}.{n}" for p in ("weight", "bias", "noise_strength", "noise_const") for n in ("",)]
    styled = [name.rstrip(".") for name in styled] + ["affine.weight", "affine.bias"]
    wanted = {
        "mapping.embed.weight",
        "mapping.embed.bias",
        "mapping.layers.0.weight",
        "mapping.layers.0.bias",
        "const",
    }
    wanted |= {f"convs.{i}.{name}" for i in range(5) for name in styled}
    wanted |= {
        f"to_rgbs.{j}.{n}" for j in range(3) for n in ("weight", "bias", "affine.weight", "affine.bias")
    }
    assert names == wanted


def test_mapping_ignores_the_length_of_z():
    generator = tiny_generator(16)
    z = drawn(2, 5)
    assert (generator.map(z) - generator.map(3 * z)).abs().max() < 1e-4


def test_w_is_repeated_over_all_slots_and_w_plus_passes():
    generator = tiny_generator(16)
    w = generator.map_single(drawn(2, 5))
    assert torch.equal(generator.broadcast(w), generator.map(drawn(2, 5)))
    assert torch.equal(generator.synthesize(w, None), generator.synthesize(generator.broadcast(w), None))
    with pytest.raises(ValueError, match=r"w must have shape \[any, 6, 7\], got \[2, 5, 7\]"):
        generator.broadcast(torch.zeros(2, 5, 7))


def test_each_slot_reaches_its_own_layers():
    """Convolution k reads slot k; the RGB layer of level j reads slot 2j + 1 (methods.md B7)."""
    generator = tiny_generator(16)
    w = drawn(1, 6, 7)
    before = generator.affine(w)
    touched = []
    for slot in range(6):
        changed = w.clone()
        changed[:, slot] += 1
        after = generator.affine(changed)
        touched.append(
            [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if not torch.equal(a, b)]
        )
    # forward order: conv 4, rgb 4, up 8, conv 8, rgb 8, up 16, conv 16, rgb 16
    assert touched == [[0], [1, 2], [3], [4, 5], [6], [7]]


def test_render_draws_nothing_and_samples_do_not_mix():
    generator = tiny_generator(16)
    w, noise = generator.map(drawn(3, 5)), generator.constant_noise()
    before = torch.get_rng_state()
    image = generator.synthesize(w, noise)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(image, generator.train().synthesize(w, noise))
    assert (generator.synthesize(w[1:2], noise) - image[1:2]).abs().max() < 1e-4


def test_noise_moves_the_image_and_none_means_zero():
    generator = tiny_generator(16)
    w = generator.map(drawn(2, 5))
    silent = generator.synthesize(w, None)
    zeros = [torch.zeros(1, 1, *shape) for shape in generator.noise_shapes()]
    assert torch.equal(silent, generator.synthesize(w, zeros))
    assert not torch.equal(silent, generator.synthesize(w, generator.constant_noise()))
    each = [drawn(2, 1, *shape, what=str(i)) for i, shape in enumerate(generator.noise_shapes())]
    alone = generator.synthesize(w[1:], [one[1:] for one in each])
    assert (generator.synthesize(w, each)[1:] - alone).abs().max() < 1e-4


def test_render_refuses_the_wrong_number_of_styles_or_maps():
    generator = tiny_generator(16)
    styles = generator.affine(drawn(1, 7))
    with pytest.raises(ValueError, match="needs the 8 styles of affine, got 7"):
        generator.render(styles[:-1], None)
    with pytest.raises(ValueError, match="noise must hold 5 maps, got 2"):
        generator.render(styles, generator.constant_noise()[:2])
    with pytest.raises(ValueError, match=r"z must have shape \[any, 5\], got \[1, 4\]"):
        generator.map(torch.zeros(1, 4))


def test_conditional_generator_needs_and_uses_its_label():
    generator = tiny_generator(16, c_dim=3)
    z, labels = drawn(3, 5), torch.eye(3)
    w = generator.map_single(z[:1].expand(3, -1), labels)
    assert not torch.equal(w[0], w[1])
    with pytest.raises(ValueError, match=r"conditional: give c, one-hot, of shape \[N, 3\]"):
        generator.map(z)
    with pytest.raises(ValueError, match=r"c must have shape \[any, 3\], got \[3, 2\]"):
        generator.map(z, labels[:, :2])


def test_clamp_bounds_activations():
    free, clamped = tiny_generator(16), tiny_generator(16, conv_clamp=0.3)
    w = drawn(2, 7)
    assert not torch.allclose(free.synthesize(w, None), clamped.synthesize(w, None))
    assert float(clamped.synthesize(w, None).abs().max()) <= 0.3 * 3 * 4  # three skips, up-sampled with gain


def test_everything_follows_the_dtype_of_the_weights():
    generator = tiny_generator(16).double()
    image = generator.synthesize(generator.map(drawn(1, 5, dtype=torch.float64)), generator.constant_noise())
    assert image.dtype == torch.float64
    assert tiny_discriminator(16).double().score(image).dtype == torch.float64


def test_second_derivatives_of_the_generator():
    """What the path-length penalty differentiates."""
    generator = tiny_generator(16, width=2).double()
    direction = drawn(1, 3, 16, 16, what="direction", dtype=torch.float64)

    def length(w):
        image = generator.synthesize(w, generator.constant_noise())
        (gradient,) = torch.autograd.grad((image * direction).sum(), w, create_graph=True)
        return gradient.square().sum()

    w = drawn(1, 6, 7, what="w", dtype=torch.float64).requires_grad_(True)
    assert gradcheck(length, w, atol=1e-4)


# ---- discriminator


def test_discriminator_state_names_are_the_documented_ones():
    names = set(Discriminator(DiscriminatorConfig(16, (4, 4, 4))).state_dict())
    block = ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "skip.weight")
    wanted = {
        f"{layer}.{p}"
        for layer in ("from_rgb", "final_conv", "final_linear", "output")
        for p in ("weight", "bias")
    }
    assert names == wanted | {f"blocks.{i}.{name}" for i in range(2) for name in block}


@pytest.mark.parametrize("size", [16, 64])
def test_score_shapes_and_refusals(size):
    discriminator = tiny_discriminator(size)
    assert discriminator.score(drawn(4, 3, size, size)).shape == (4, 1)
    with pytest.raises(ValueError, match="divisible by 4, got 6"):
        discriminator.score(drawn(6, 3, size, size))
    with pytest.raises(ValueError, match=rf"images must have shape \[any, 3, {size}, {size}\]"):
        discriminator.score(drawn(2, 3, size, size // 2))


def test_parts_of_a_batch_are_judged_as_by_calls_of_their_own():
    discriminator = tiny_discriminator(16)
    one, two = drawn(2, 3, 16, 16), 3 * drawn(2, 3, 16, 16)
    both = discriminator.score(torch.cat([one, two]), parts=2)
    apart = torch.cat([discriminator.score(one), discriminator.score(two)])
    assert torch.allclose(both, apart, atol=1e-6)
    assert not torch.allclose(discriminator.score(torch.cat([one, two])), apart, atol=1e-4)


def test_minibatch_deviation_groups_are_interleaved():
    """Of 8 images in groups of 4, image b shares its group with b +- 2, +- 4, +- 6."""
    discriminator = tiny_discriminator(16)
    images = drawn(8, 3, 16, 16)
    before = discriminator.score(images)
    changed = images.clone()
    changed[3] += 1
    moved = (discriminator.score(changed) - before).abs().flatten() > 1e-6
    assert moved.tolist() == [False, True, False, True, False, True, False, True]


def test_minibatch_deviation_of_one_image_is_a_constant():
    discriminator = tiny_discriminator(16)
    features = drawn(1, 6, 4, 4)
    appended = discriminator._with_deviation(features)
    assert appended.shape == (1, 7, 4, 4)
    assert torch.allclose(appended[:, 6], torch.full((1, 4, 4), 1e-4))


@pytest.mark.parametrize(("group", "features"), [(None, 1), (2, 3)])
def test_minibatch_deviation_equals_its_definition(group, features):
    discriminator = tiny_discriminator(16, mbstd_group=group, mbstd_features=features)
    x = drawn(4, 6, 4, 4)
    found = discriminator._with_deviation(x)[:, 6:]
    size = group or 4
    for b in range(4):
        members = x[[i for i in range(4) if i % (4 // size) == b % (4 // size)]]
        deviation = (members.var(dim=0, correction=0) + 1e-8).sqrt()
        for f in range(features):
            part = deviation[f * (6 // features) : (f + 1) * (6 // features)]
            assert torch.allclose(found[b, f], part.mean().expand(4, 4), atol=1e-6)


def test_conditional_discriminator():
    discriminator = tiny_discriminator(16, c_dim=3)
    images = drawn(1, 3, 16, 16).expand(3, -1, -1, -1)
    logits = discriminator.score(images, torch.eye(3))
    assert logits.shape == (3, 1) and len(set(logits.flatten().tolist())) == 3
    with pytest.raises(ValueError, match="conditional"):
        discriminator.score(images)


# ---- patch heads


@pytest.mark.parametrize("size", [64, 128])
def test_patch_features_sit_where_the_method_says(size):
    channels = tuple(range(3, 3 + size.bit_length() - 2))  # a different width at every resolution
    config = DiscriminatorConfig(size, channels)
    discriminator, heads = Discriminator(config), PatchHeads(config)
    at = {4 * 2**level: width for level, width in enumerate(channels)}
    shapes = [(at[32], 32, 32), (at[32], 32, 32), (at[16], 16, 16), (at[16], 16, 16)]
    for index, shape in enumerate(shapes):
        features = discriminator.patch_features(drawn(2, 3, size, size), index)
        assert features.shape == (2, *shape)
        assert heads(features, index).shape == (2, 1, *shape[1:])


def test_patch_features_are_taken_before_the_skip_is_added():
    discriminator = tiny_discriminator(64)
    images = drawn(1, 3, 64, 64)
    x = discriminator.from_rgb(images)
    first, second, block = discriminator.blocks[0](x, None)
    assert torch.equal(discriminator.patch_features(images, 0), second)
    assert torch.equal(discriminator.patch_features(images, 1), discriminator.blocks[1].conv1(block))


@pytest.mark.parametrize("index", range(len(PATCH_LOCATIONS)))
def test_patch_path_leaves_later_layers_without_gradient(index):
    discriminator = tiny_discriminator(64).requires_grad_(True)
    discriminator.patch_features(drawn(1, 3, 64, 64), index).sum().backward()
    used = {name for name, parameter in discriminator.named_parameters() if parameter.grad is not None}
    blocks = {0: "blocks.0.conv2.weight", 1: "blocks.1.conv1.weight", 2: "blocks.1.conv2.weight"}
    assert blocks.get(index, "blocks.2.conv1.weight") in used
    assert not any(name.startswith(("final", "output", "blocks.3")) for name in used)
    assert ("blocks.0.skip.weight" in used) == (index > 0)


def test_patch_heads_keep_the_leaky_relu_on_their_logits():
    """Q9: part of the method as published."""
    config = DiscriminatorConfig(64, widths(64))
    heads = PatchHeads(config)
    features = drawn(2, 4, 32, 32)
    plain = torch.nn.functional.conv2d(features, heads.heads[0].weight / (4 * 9) ** 0.5, padding=1)
    wanted = torch.where(plain > 0, plain, 0.2 * plain) * 2**0.5
    assert torch.allclose(heads(features, 0), wanted, atol=1e-5)
    assert set(heads.state_dict()) == {f"heads.{k}.{n}" for k in range(4) for n in ("weight", "bias")}


def test_patch_location_refuses_small_networks_and_wrong_indices():
    small, large = DiscriminatorConfig(32, widths(32)), DiscriminatorConfig(64, widths(64))
    with pytest.raises(ValueError, match="at least 64 px, this discriminator takes 32 px"):
        patch_location(small, 0)
    with pytest.raises(ValueError, match="at least 64 px"):
        PatchHeads(small)
    for index in (-1, 4):
        with pytest.raises(ValueError, match=f"must be 0 to 3, got {index}"):
            patch_location(large, index)
