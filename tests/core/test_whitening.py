"""PN space: random codes are standard normal there, there and back, what lies out of range."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from stand_ins import tiny_bundle

from oneshot_core import whitening
from oneshot_core.latents import Latent
from oneshot_core.sampling import random_latents
from oneshot_core.whitening import Whitening, unactivated, whitening_of

SIZE = 16


def measured(samples: int = 4000, **settings) -> Whitening:
    return Whitening.measured(tiny_bundle(SIZE, **settings).generator, samples)


def codes(count: int = 3000) -> torch.Tensor:
    bundle = tiny_bundle(SIZE)
    return bundle.generator.map_single(
        torch.randn(count, bundle.generator.config.z_dim, generator=torch.Generator().manual_seed(9))
    ).double()


def test_random_codes_are_white():
    v = measured(20_000).into(codes(20_000))
    torch.testing.assert_close(torch.cov(v.T), torch.eye(7).double(), atol=0.08, rtol=0)
    torch.testing.assert_close(v.mean(dim=0), torch.zeros(7).double(), atol=0.03, rtol=0)


def test_the_components_are_those_of_the_singular_value_decomposition():
    """Summed up in chunks, about a first mean, it is the same as all at once."""
    w = codes()
    found = Whitening.of(lambda: iter(w.split(700)))
    p = unactivated(w)
    values, rows = torch.linalg.svd(p - p.mean(dim=0), full_matrices=False)[1:]
    torch.testing.assert_close(found.mean, p.mean(dim=0), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.deviation, values / (len(w) - 1) ** 0.5, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close((found.components * rows).sum(dim=1).abs(), torch.ones(7).double())


def test_the_last_activation_is_undone():
    bundle = tiny_bundle(SIZE)
    last = bundle.generator.mapping.layers[-1]
    x = torch.randn(5, last.weight.shape[1], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unactivated(last.activated(x)), 2**0.5 * last(x))


def test_there_and_back():
    space, w = measured(), codes(50)
    torch.testing.assert_close(space.back(space.into(w)), w, atol=1e-10, rtol=0)
    rows = w[:20].reshape(2, 10, 7)
    torch.testing.assert_close(space.back(space.into(rows)), rows, atol=1e-10, rtol=0)
    assert space.unlikeliness(rows).shape == (2,)
    assert float(space.unlikeliness(w).mean()) == pytest.approx(1.0, abs=0.4)


def test_a_direction_without_spread_stays_finite():
    flat = codes() * torch.tensor([1.0, 1, 1, 1, 1, 1, 0]).double()
    space = Whitening.of(lambda: iter([flat]))
    assert bool(space.into(flat).isfinite().all())
    assert float(space.deviation[-1]) == pytest.approx(1e-5 * float(space.deviation[0]))


def test_too_few_codes_are_refused():
    with pytest.raises(ValueError, match="codes of width 7 needs more codes, got 7"):
        measured(7)


def test_classes_are_drawn_in_turn():
    assert not torch.equal(measured(c_dim=2).mean, measured(c_dim=3).mean)


def test_what_lies_out_of_range_is_told():
    bundle = tiny_bundle(SIZE)
    space = measured()
    random = random_latents(bundle, range(4))
    assert space.notes(random, bundle.generator) == []
    one = Latent("w", bundle.mean_latent[None] + 1000)
    assert space.notes(one, bundle.generator)[0].startswith("the code lies out of range: ")
    rows = random.codes(bundle.generator).clone()
    rows[2] += 1000
    assert "1 of 4 codes (first 2)" in space.notes(Latent("w+", rows), bundle.generator)[0]


def test_a_family_is_measured_once(monkeypatch):
    monkeypatch.setattr(whitening, "_KNOWN", {})
    monkeypatch.setattr(whitening, "SAMPLES", 100)
    bundle = tiny_bundle(SIZE)
    first = whitening_of(bundle)
    assert whitening_of(dataclasses.replace(bundle, discriminator=None)) is first
    for seed in range(1, 6):
        assert whitening_of(tiny_bundle(SIZE, seed)) is not first
    assert len(whitening._KNOWN) == 4
