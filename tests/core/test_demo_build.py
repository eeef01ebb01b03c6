"""The making of the demo's assets in miniature: all stages, and that a resumed build equals a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from oneshot_core.checkpoints import CheckpointError, load
from oneshot_core.demo.making import build as build_module
from oneshot_core.demo.making import pretrain
from oneshot_core.demo.making.build import STAGES, Build, BuildPlan
from oneshot_core.demo.making.faces import NUM_FACTORS, factors_from_latents
from oneshot_core.demo.making.pool import Z_DIM, draw_pool, load_pool, reduce_images, respun_latents
from oneshot_core.demo.making.pretrain_generator import (
    W_DIM,
    fresh_generator,
    generator_config,
    grow,
    uneven_spread,
    visible_facts,
)
from oneshot_core.features import load_perceptual
from oneshot_core.tensors import seeded

NARROW = (8, 8, 8, 8, 8, 8)


@pytest.fixture(scope="module", autouse=True)
def _small_chunks():
    patch = pytest.MonkeyPatch()
    patch.setattr("oneshot_core.demo.making.pool.CHUNK_FACES", 4)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """A work folder whose small pool of plain faces is drawn already."""
    work = tmp_path_factory.mktemp("work")
    draw_pool(work / "pool", ("plain",), 4, seed=0)
    return work


def _build(work: Path, steps: int = 2) -> Build:
    work.mkdir(parents=True, exist_ok=True)
    return Build(BuildPlan().shortened(steps, 4, NARROW), work, work / "assets")


def _linked(work: Path, faces: Path) -> Path:
    work.mkdir()
    (work / "pool").symlink_to(faces / "pool")
    return work


def test_generator_stages_make_a_loadable_bundle(tmp_path, faces):
    work = _linked(tmp_path / "a", faces)
    _build(work).discriminator()
    bundle = load(work / "assets" / "generator.safetensors")
    assert bundle.size == 128 and bundle.discriminator is not None
    assert bundle.mean_latent.shape == (W_DIM,)
    assert bundle.provenance.history["origin"]["format"] == "oneshot-demo"


@pytest.mark.slow
def test_an_interrupted_stage_ends_like_a_whole_one(tmp_path, faces, monkeypatch):
    whole, broken = _linked(tmp_path / "whole", faces), _linked(tmp_path / "broken", faces)
    _build(whole).discriminator()
    monkeypatch.setattr(pretrain, "SAVE_SECONDS", 0.0)
    for name in ("pretrain_supervised", "pretrain_adversarial"):
        monkeypatch.setattr(build_module, name, _stopped_once(getattr(build_module, name), monkeypatch))
    for _ in range(10):
        try:
            _build(broken).discriminator()
            break
        except InterruptedError:
            continue
    else:
        pytest.fail("the build never ended")
    first = load_file(whole / "assets" / "generator.safetensors")
    second = load_file(broken / "assets" / "generator.safetensors")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def _stopped_once(train, monkeypatch):
    """Wrap a stage so that its first sitting on every state file dies after one step."""
    seen: set[Path] = set()

    def stopped(*arguments):
        path = next(value for value in arguments if isinstance(value, Path))
        if path in seen:
            return train(*arguments)
        seen.add(path)
        with monkeypatch.context() as patch:
            patch.setattr(pretrain.Trainee, "save", _then_stop(pretrain.Trainee.save))
            return train(*arguments)

    return stopped


def _then_stop(save):
    def saving(self, path):
        save(self, path)
        raise InterruptedError

    return saving


@pytest.mark.slow
def test_encoder_stages_make_loadable_assets(tmp_path):
    build = _build(tmp_path)
    for name in ("perceptual", "targets"):
        STAGES[name](build)
    assets = tmp_path / "assets"
    net = load_perceptual("demo", assets / "perceptual.safetensors", allow_download=False)
    assert all((head >= 0).all() for head in net.heads)
    assert len(list(assets.glob("target_*.png"))) >= 3


def test_growing_keeps_the_picture():
    small = fresh_generator(generator_config(16, NARROW), 0)
    large = fresh_generator(generator_config(32, NARROW), 1)
    grow(small, large)
    w = torch.randn(2, W_DIM, generator=seeded(0, 0, "w"))
    with torch.no_grad():
        wanted, got = small.synthesize(w, None), large.synthesize(w, None)
    torch.testing.assert_close(
        reduce_images(got, 16)[..., 2:-2, 2:-2], wanted[..., 2:-2, 2:-2], atol=0.6, rtol=0
    )


def test_respun_latents_keep_the_factors():
    z = torch.randn(16, Z_DIM, generator=seeded(0, 0, "z"))
    z = z * z.square().mean(1, keepdim=True).rsqrt()
    again = respun_latents(z, seeded(0, 0, "respin"))
    torch.testing.assert_close(factors_from_latents(again), factors_from_latents(z), atol=1e-4, rtol=0)
    assert not torch.allclose(again[:, NUM_FACTORS:], z[:, NUM_FACTORS:])
    torch.testing.assert_close(again.square().mean(1), torch.ones(16), atol=1e-3, rtol=0)


def test_pool_is_seeded_and_drawn_once(tmp_path, faces):
    draw_pool(tmp_path, ("plain",), 4, seed=0)
    first, second = load_pool(tmp_path, ("plain",), 4), load_pool(faces / "pool", ("plain",), 4)
    assert torch.equal(first.images, second.images) and torch.equal(first.latents, second.latents)
    stamp = next(tmp_path.iterdir()).stat().st_mtime_ns
    draw_pool(tmp_path, ("plain",), 4, seed=0)
    assert next(tmp_path.iterdir()).stat().st_mtime_ns == stamp
    with pytest.raises(CheckpointError):
        load_pool(tmp_path, ("plain",), 8)


def test_visible_facts_are_bounded():
    facts = visible_facts(torch.rand(64, NUM_FACTORS, generator=seeded(0, 0, "factors")))
    assert facts.abs().max() <= 1


def test_spread_is_least_where_all_directions_have_the_wanted_deviation():
    even = 0.5 * torch.randn(4000, 8, generator=seeded(0, 0, "w"))
    assert uneven_spread(even) < 0.05
    assert uneven_spread(2 * even) > 5 and uneven_spread(0.1 * even) > 0.9
    turned = even @ torch.linalg.qr(torch.randn(8, 8, generator=seeded(1, 0, "w")))[0]
    assert uneven_spread(turned + 3) == pytest.approx(float(uneven_spread(even)), abs=1e-4)
    flat = even.clone()
    flat[:, :4] = even[:, 4:]  # the same deviation everywhere, in half of the directions
    assert uneven_spread(flat) > 0.9
