"""Many pictures in one tensor: what is refused before any is drawn, and that it is filled in place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_networks import tiny_bundle

from oneshot_core import memory
from oneshot_core.batches import Filled, check_batch, check_drawn, picture_bytes, sampling_bytes
from oneshot_core.editing import edit_latents
from oneshot_core.interpolation import interpolate
from oneshot_core.networks import Generator
from oneshot_core.pairs import sample_pairs
from oneshot_core.sampling import (
    SampleConfig,
    iter_samples,
    mix_table,
    random_latents,
    sample,
    sample_with_codes,
    truncation_sweep,
)

BUNDLE = tiny_bundle()


def test_the_need_grows_with_the_pictures():
    assert sampling_bytes(BUNDLE, 8) == 8 * sampling_bytes(BUNDLE, 1) > 0
    assert picture_bytes(1024, 10_000) == 125_829_120_000


@pytest.fixture
def no_drawing(monkeypatch):
    """A machine with a megabyte to spare, on which nothing may be drawn."""

    def draw(*_):
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)
    monkeypatch.setattr(Generator, "render", draw)


MANY = range(400)  # of 16 px: 1.2 MB


@pytest.mark.parametrize(
    "work",
    [
        lambda: sample(BUNDLE, MANY),
        lambda: sample_with_codes(BUNDLE, MANY),
        lambda: sample_pairs(BUNDLE, BUNDLE, range(200)),
        lambda: truncation_sweep(BUNDLE, range(80)),
        lambda: mix_table(BUNDLE, range(20), range(20)),
        lambda: edit_latents(BUNDLE, None, random_latents(BUNDLE, range(100)), "a hat"),
    ],
    ids=["sample", "codes", "pairs", "sweep", "table", "edit"],
)
def test_a_batch_that_memory_cannot_hold_is_refused_before_any_picture(work, no_drawing):
    with pytest.raises(ValueError, match=r"not enough memory: \d+ pictures of 16 px held .* MB are free; "):
        work()


def test_a_chunk_that_cannot_be_drawn_is_refused_before_it_is(no_drawing, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 100_000)
    with pytest.raises(ValueError, match=r"256 pictures of 16 px drawn at once .*lower the batch size"):
        next(iter_samples(BUNDLE, MANY, SampleConfig(batch_size=256)))


def test_codes_that_memory_cannot_hold_are_refused(no_drawing):
    with pytest.raises(ValueError, match=r"the codes of 200000 frames need"):
        interpolate(BUNDLE, [0, 1], 100_000)
    with pytest.raises(ValueError, match=r"latents of 100000 seeds need"):
        random_latents(BUNDLE, range(100_000))


def test_pictures_in_chunks_need_no_more_than_a_chunk(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: sampling_bytes(BUNDLE, 4))
    assert sum(map(len, iter_samples(BUNDLE, range(40), SampleConfig(batch_size=4)))) == 40
    check_batch(BUNDLE, 1, 1)


def test_a_batch_is_filled_in_place_and_may_be_converted():
    filled = Filled(5, lambda images: images.permute(0, 2, 3, 1) + 1)
    whole = torch.arange(60.0).reshape(5, 3, 2, 2)
    filled.add(whole[:2])
    place = filled._parts[0].data_ptr()
    filled.add(whole[2:])
    assert filled.whole().data_ptr() == place
    assert torch.equal(filled.whole(), whole.permute(0, 2, 3, 1) + 1)


def test_sampling_converts_each_chunk():
    config, seeds = SampleConfig(batch_size=2), [0, 1, 2]
    halved, codes = sample_with_codes(BUNDLE, seeds, config, convert=lambda images: images[..., ::2, ::2])
    assert torch.equal(halved, sample(BUNDLE, seeds, config)[..., ::2, ::2]) and len(codes.values) == 3
    pairs = sample_pairs(BUNDLE, BUNDLE, seeds, config, convert=lambda images: images.mean(dim=1))
    assert pairs.source.shape == pairs.adapted.shape == (3, 16, 16)


def test_pictures_that_are_not_finite_are_refused_by_seed():
    images = torch.zeros(3, 3, 4, 4)
    assert check_drawn(images, [7, 8, 9]) is images
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="the pictures of 8 are not made of finite numbers"):
        check_drawn(images, [7, 8, 9])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_generator_or_mean_that_is_not_finite_is_refused_by_name(value):
    spoilt = tiny_bundle()
    spoilt.generator.to_rgbs[0].bias.data.view(-1)[0] = value
    for work in (lambda: sample(spoilt, [0]), lambda: sample_pairs(BUNDLE, spoilt, [0])):
        with pytest.raises(ValueError, match=r"the generator of .*: to_rgbs.0.bias is not made of finite"):
            work()
    with pytest.raises(ValueError, match=r"the mean latent of .* is not made of finite numbers"):
        sample(replace(BUNDLE, mean_latent=BUNDLE.mean_latent * value), [0])
