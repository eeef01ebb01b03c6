"""Latent codes: spaces, seeds, labels, mean, truncation, mixing, noise."""

from __future__ import annotations

import pytest
import torch
from stand_ins import NotedDraws, tiny_generator

from oneshot_core.latents import Latent, drawn_noise, labels, mix, truncate, z_from_seeds
from oneshot_core.tensors import seeded


def drawn(*shape: int, what: str = "x") -> torch.Tensor:
    return torch.randn(shape, generator=seeded(0, 0, what))


def test_latent_becomes_w_plus_codes_from_any_space():
    generator = tiny_generator(16)
    z = drawn(2, 5)
    w = generator.map_single(z)
    wanted = generator.map(z)
    for latent in (Latent("z", z), Latent("w", w), Latent("w+", wanted)):
        assert torch.equal(latent.codes(generator), wanted)
    assert Latent("w", w).codes(tiny_generator(16).double()).dtype == torch.float64


def test_latent_refuses_unknown_spaces_and_shapes():
    with pytest.raises(ValueError, match=r"one of z, w, w\+, got 'x'"):
        Latent("x", torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"a latent in w\+ must have shape"):
        Latent("w+", torch.zeros(1, 5))
    with pytest.raises(ValueError, match="a latent in w must have shape"):
        Latent("w", torch.zeros(1, 5, 5))


def test_a_seed_gives_the_same_z_in_every_batch():
    batch = z_from_seeds([3, 4, 5], 6)
    assert batch.shape == (3, 6) and batch.dtype == torch.float32
    assert torch.equal(batch[1:2], z_from_seeds([4], 6))
    assert not torch.equal(batch[0], batch[1])
    with pytest.raises(ValueError, match="no seeds given"):
        z_from_seeds([], 6)


def test_labels():
    assert labels(None, 3, 0) is None
    assert labels(None, 2, 3).tolist() == [[1, 0, 0]] * 2
    assert labels([2], 2, 3).tolist() == [[0, 0, 1]] * 2
    assert labels([0, 1], 2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match="unconditional"):
        labels([0], 1, 0)
    for wrong in ([3], [-1], [0, 1, 2]):
        with pytest.raises(
            ValueError, match="numbers from 0 to 2, one for all pictures or one for each of the 2, got"
        ):
            labels(wrong, 2, 3)


def test_truncate_pulls_towards_the_mean():
    w, mean = drawn(2, 6, 7), drawn(7, what="mean")
    assert torch.allclose(truncate(w, mean, 1.0), w)
    assert torch.allclose(truncate(w, mean, 0.0), mean.expand_as(w))
    assert torch.allclose(truncate(w, mean, 0.7), mean + 0.7 * (w - mean), atol=1e-6)
    assert torch.allclose(truncate(w[:, 0], mean, 0.7), truncate(w, mean, 0.7)[:, 0])


def test_truncate_with_a_cutoff_leaves_later_slots():
    w, mean = drawn(2, 6, 7), drawn(7, what="mean")
    found = truncate(w, mean, 0.5, cutoff=2)
    assert torch.equal(found[:, 2:], w[:, 2:])
    assert torch.equal(found[:, :2], truncate(w, mean, 0.5)[:, :2])


def test_mix_takes_a_range_of_slots():
    first, second = torch.zeros(2, 6, 7), torch.ones(1, 6, 7)
    assert mix(first, second, 4)[:, :, 0].tolist() == [[0, 0, 0, 0, 1, 1]] * 2
    assert mix(first, second, 1, 3)[:, :, 0].tolist() == [[0, 1, 1, 0, 0, 0]] * 2
    assert torch.equal(mix(first, second, 6), first)
    for crossover, end in ((-1, None), (7, None), (4, 3), (0, 7)):
        with pytest.raises(ValueError, match="slots to mix must lie within 0 and 6"):
            mix(first, second, crossover, end)


def test_drawn_noise_has_the_generators_shapes_and_dtype():
    generator, draws = tiny_generator(16).double(), NotedDraws()
    maps = drawn_noise(generator, draws, 3, "adapted", batch=2)
    assert [tuple(m.shape) for m in maps] == [(2, 1, *shape) for shape in generator.noise_shapes()]
    assert all(m.dtype == torch.float64 for m in maps)
    assert sorted(draws.table) == [(3, f"adapted.noise.{index}") for index in range(5)]
    assert len({float(m[0, 0, 0, 0]) for m in maps}) == 5
