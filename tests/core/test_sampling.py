"""Sampling: what a sample looks like depends on its seed and the settings only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import tiny_bundle

from oneshot_core.checkpoints import check_family
from oneshot_core.interpolation import interpolate
from oneshot_core.latents import Latent, truncate, z_from_seeds
from oneshot_core.pairs import sample_pairs
from oneshot_core.sampling import (
    SampleConfig,
    iter_codes,
    iter_samples,
    mix_table,
    parse_seeds,
    random_latents,
    render_codes,
    sample,
    truncation_sweep,
)

BUNDLE = tiny_bundle()
SEEDS = (3, 1, 4, 15, 9)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def differ(a: torch.Tensor, b: torch.Tensor) -> None:
    assert not torch.allclose(a, b, atol=1e-3)


def codes_of(bundle, samples, config=None, **more) -> torch.Tensor:
    return torch.cat([chunk.codes for chunk in iter_codes(bundle, samples, config, **more)])


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", (0,)), ("0-3,42", (0, 1, 2, 3, 42)), (" 5 , 2-2,", (5, 2)), ("7,7", (7, 7))],
)
def test_seeds_are_read_as_lists_and_ranges(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no seeds"),
        (",", "no seeds"),
        ("a", "cannot read 'a'"),
        ("1-", "cannot read"),
        ("-3", "cannot read"),
        ("5-2", "write 2-5"),
        ("0-99999999999", "more than"),
        ("1.5", "cannot read"),
    ],
)
def test_bad_seeds_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"noise": "loud"}, "const, none, random"),
        ({"psi": 99}, "psi"),
        ({"psi": float("nan")}, "psi"),
        ({"batch_size": 0}, "batch_size"),
        ({"cutoff": -1}, "cutoff"),
        ({"mix_from": 3, "mix_to": 2}, "mix_to"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        SampleConfig(**settings)


@pytest.mark.parametrize("noise", ["const", "none", "random"])
def test_results_do_not_depend_on_the_chunk_size(noise):
    config = SampleConfig(
        psi=0.7, cutoff=3, noise=noise, mix_seeds=(5, 6, 7, 8, 9), mix_from=2, mix_to=4, replace_from=5
    )
    whole = sample(BUNDLE, SEEDS, config)
    assert whole.shape == (5, 3, 16, 16)
    assert whole.dtype == torch.float32
    for size in (1, 2, 3):
        close(sample(BUNDLE, SEEDS, replace(config, batch_size=size)), whole)


def test_a_sample_depends_on_its_own_seed_only():
    config = SampleConfig(noise="random", noise_seed=2)
    together = sample(BUNDLE, SEEDS, config)
    close(sample(BUNDLE, SEEDS[2:3], config)[0], together[2])
    close(sample(BUNDLE, random_latents(BUNDLE, SEEDS), config), together)


def test_chunks_are_as_large_as_asked():
    sizes = [len(images) for images in iter_samples(BUNDLE, SEEDS, SampleConfig(batch_size=2))]
    assert sizes == [2, 2, 1]


def test_noise_modes_differ_and_random_noise_follows_its_seed():
    const, none, random = (
        sample(BUNDLE, SEEDS, SampleConfig(noise=mode)) for mode in ("const", "none", "random")
    )
    differ(const, none)
    differ(const, random)
    differ(random[0], sample(BUNDLE, SEEDS[:1], SampleConfig(noise="random", noise_seed=1))[0])
    z = z_from_seeds(SEEDS, 12)
    generator = BUNDLE.generator
    close(const, generator.synthesize(generator.map(z), generator.constant_noise()))
    close(none, generator.synthesize(generator.map(z), None))


def test_truncation_pulls_the_first_slots_to_the_mean():
    plain = codes_of(BUNDLE, SEEDS)
    half = codes_of(BUNDLE, SEEDS, SampleConfig(psi=0.5, cutoff=2))
    close(half, truncate(plain, BUNDLE.mean_latent, 0.5, 2))
    close(half[:, 2:], plain[:, 2:])
    images = truncation_sweep(BUNDLE, SEEDS[:2], [0.0, 1.0])
    close(images[0][0], images[0][1])
    close(images[1], sample(BUNDLE, SEEDS[:2]))


def test_style_mixing_takes_a_range_of_slots():
    plain, other = codes_of(BUNDLE, SEEDS), codes_of(BUNDLE, [8])
    mixed = codes_of(BUNDLE, SEEDS, SampleConfig(mix_seeds=[8], mix_from=2, mix_to=4))
    close(mixed[:, 2:4], other[:, 2:4].expand(5, -1, -1))
    close(mixed[:, :2], plain[:, :2])
    close(mixed[:, 4:], plain[:, 4:])
    table = mix_table(BUNDLE, [1, 2], [8, 9, 10], SampleConfig(mix_from=2, mix_to=4, psi=0.6))
    assert [images.shape[0] for images in table] == [3, 3]
    paired = SampleConfig(mix_seeds=(8, 9, 10), mix_from=2, mix_to=4, psi=0.6)
    close(table[1], sample(BUNDLE, [2, 2, 2], paired))


def test_late_slots_come_from_the_mean_or_the_reference():
    plain = codes_of(BUNDLE, SEEDS, SampleConfig(psi=0.7))
    trick = codes_of(BUNDLE, SEEDS, SampleConfig(psi=0.7, replace_from=4))
    close(trick[:, :4], plain[:, :4])
    close(trick[:, 4:], BUNDLE.mean_latent.expand(5, 2, -1))
    reference = Latent("w", torch.full((1, 12), 0.5))
    trick = codes_of(BUNDLE, SEEDS, SampleConfig(replace_from=4), reference=reference)
    close(trick[:, 4:], torch.full((5, 2, 12), 0.5))


def test_pairs_share_their_latents_and_their_noise():
    bundle = tiny_bundle(name="source")
    adapted = tiny_bundle(name="adapted")
    adapted.generator.convs[-1].bias.add_(0.5)
    pairs = sample_pairs(bundle, adapted, SEEDS, SampleConfig(psi=0.7, noise="random", batch_size=2))
    config = SampleConfig(psi=0.7, noise="random")
    close(pairs.source, sample(bundle, SEEDS, config))
    close(pairs.adapted, sample(adapted, SEEDS, config))
    differ(pairs.source, pairs.adapted)
    assert pairs.latent.space == "w+"
    close(sample(bundle, pairs.latent, SampleConfig(noise="random")), pairs.source)
    trick = sample_pairs(bundle, adapted, SEEDS, SampleConfig(psi=0.7, noise="random", replace_from=3))
    close(trick.source, pairs.source)
    differ(trick.adapted, pairs.adapted)


def test_latents_of_strangers_are_refused():
    stranger = tiny_bundle(seed=1, name="stranger")
    with pytest.raises(ValueError, match=r"stranger\.pt"):
        sample(stranger, random_latents(BUNDLE, [1]))
    with pytest.raises(ValueError, match="was not adapted from"):
        sample_pairs(BUNDLE, stranger, [1])
    child = replace(stranger.provenance, history={"parent": {"family": BUNDLE.family}})
    check_family(random_latents(BUNDLE, [1]), replace(stranger, provenance=child))


@pytest.mark.parametrize(
    ("samples", "config", "words"),
    [
        ([], SampleConfig(), "nothing to sample"),
        ([1], SampleConfig(replace_from=7), "at most 6"),
        ([1], SampleConfig(cutoff=7), "cutoff"),
        ([1, 2, 3], SampleConfig(mix_seeds=(1, 2)), "one seed or 3"),
    ],
)
def test_what_does_not_fit_is_refused(samples, config, words):
    with pytest.raises(ValueError, match=words):
        sample(BUNDLE, samples, config)


def test_classes_of_a_conditional_generator():
    bundle = tiny_bundle(c_dim=3)
    zero, two = sample(bundle, [5, 5]), sample(bundle, [5, 5], classes=[2])
    differ(zero, two)
    both = sample(bundle, [5, 5], SampleConfig(batch_size=1), classes=[0, 2])
    close(both, torch.stack([zero[0], two[0]]))
    latent = random_latents(bundle, [5, 5], classes=[0, 2])
    assert latent.space == "w"
    close(sample(bundle, latent), both)
    with pytest.raises(ValueError, match="from 0 to 2"):
        sample(bundle, [5], classes=[3])
    with pytest.raises(ValueError, match="built in"):
        sample(bundle, latent, classes=[1])
    with pytest.raises(ValueError, match="unconditional"):
        sample(BUNDLE, [5], classes=[1])


def test_interpolation_starts_and_ends_at_the_samples():
    ends = codes_of(BUNDLE, SEEDS[:3])
    path = interpolate(BUNDLE, SEEDS[:3], frames=4)
    assert path.values.shape == (9, 6, 12)
    close(path.values[[0, 4, 8]], ends)
    close(path.values[2], (ends[0] + ends[1]) / 2)
    loop = interpolate(BUNDLE, SEEDS[:3], frames=4, space="z", loop=True)
    assert loop.values.shape == (12, 12)
    close(loop.values[[0, 4, 8]], z_from_seeds(SEEDS[:3], 12))
    assert (loop.values.norm(dim=1) > 1.5).all()
    assert sample(BUNDLE, loop).shape[0] == 12
    with pytest.raises(ValueError, match="at least 2"):
        interpolate(BUNDLE, [1], frames=4)
    with pytest.raises(ValueError, match="w or z"):
        interpolate(BUNDLE, [1, 2], frames=4, space="y")


def test_progress_is_told_after_each_chunk():
    seen: list[tuple[int, int]] = []
    sample(BUNDLE, SEEDS, SampleConfig(batch_size=2), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_rendering_runs_inside_inference_mode():
    with torch.inference_mode():
        images = sample(BUNDLE, SEEDS[:1])
    w = codes_of(BUNDLE, SEEDS[:1])
    close(render_codes(BUNDLE.generator, w, SEEDS[:1]), images)


def test_walks_between_awkward_points_are_finite():
    """From or to the origin, between equal and between opposite points no great circle is given."""
    point = torch.randn(5, generator=torch.Generator().manual_seed(0))
    for end in (torch.zeros(5), point, -point, -point * (1 + 1e-7), point * 1e-30):
        ends = Latent("z", torch.stack([point, end]), BUNDLE.family)
        walk = interpolate(BUNDLE, ends, 4, space="z", loop=True).values
        assert bool(walk.isfinite().all()) and float(walk.norm(dim=1).max()) <= float(point.norm()) * 1.01


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_a_latent_that_is_not_finite_is_refused_by_name(space, value):
    values = torch.zeros((1, 2, 3) if space == "w+" else (1, 3))
    values[0, 0] = value
    with pytest.raises(
        ValueError, match=rf"the latent in {space.replace('+', '[+]')} is not made of finite numbers"
    ):
        Latent(space, values)


def test_nvidia_seeds_are_those_of_its_programs():
    """RandomState(seed).randn(1, Z) per seed, as in generate.py; mixed samples alike."""
    expected = np.concatenate([np.random.RandomState(seed).randn(1, 8) for seed in (85, 4)])
    assert torch.equal(z_from_seeds((85, 4), 8, "nvidia"), torch.from_numpy(expected).float())
    config = SampleConfig(seed_draw="nvidia", mix_seeds=(85,), mix_from=2)
    latent = random_latents(BUNDLE, (7,), seed_draw="nvidia")
    assert latent.origin["seed_draw"] == "nvidia"
    own, other = (
        random_latents(BUNDLE, (seed,), seed_draw="nvidia").codes(BUNDLE.generator) for seed in (7, 85)
    )
    close(codes_of(BUNDLE, (7,), config), torch.cat([own[:, :2], other[:, 2:]], dim=1))
    differ(codes_of(BUNDLE, (7,)), codes_of(BUNDLE, (7,), SampleConfig(seed_draw="nvidia")))
    with pytest.raises(ValueError, match="NVIDIA's seeds are 0 to 4294967295"):
        z_from_seeds((2**32,), 8, "nvidia")
    with pytest.raises(ValueError, match="seed_draw must be one of own, nvidia"):
        SampleConfig(seed_draw="torch")
