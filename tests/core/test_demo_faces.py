"""The demo world's painter: shapes, determinism, factors, looks and captions."""

from __future__ import annotations

import pytest
import torch

from oneshot_core.demo.making.faces import (
    FACTORS,
    HELD_OUT_LOOKS,
    NUM_FACTORS,
    TRAINING_LOOKS,
    caption,
    draw,
    factors_from_latents,
)
from oneshot_core.tensors import seeded

ALL_LOOKS = ("plain", *TRAINING_LOOKS, *HELD_OUT_LOOKS)
INDEX = {factor.name: index for index, factor in enumerate(FACTORS)}
SWITCHES = [factor for factor in FACTORS if factor.onset is not None]


def people(count: int, seed: int = 0) -> torch.Tensor:
    return factors_from_latents(torch.randn(count, 40, generator=seeded(seed, 0, "test.faces")))


def average() -> torch.Tensor:
    """One face in the middle of everything, with nothing switched on."""
    return torch.full((1, NUM_FACTORS), 0.5)


def test_there_are_enough_factors_and_looks_with_unique_names():
    assert 20 <= NUM_FACTORS == len(INDEX)
    assert len(TRAINING_LOOKS) >= 8 and len(HELD_OUT_LOOKS) >= 4
    assert len(set(ALL_LOOKS)) == len(ALL_LOOKS)


@pytest.mark.parametrize("look", ALL_LOOKS)
def test_a_look_gives_images_in_range_and_the_same_bits_again(look):
    factors = people(4)
    images = draw(factors, look, seed=3, size_px=64)
    assert images.shape == (4, 3, 64, 64) and images.dtype == torch.float32
    assert images.isfinite().all() and images.min() >= -1 and images.max() <= 1
    assert images.std() > 0.1
    assert torch.equal(images, draw(factors, look, seed=3, size_px=64))
    alone = draw(factors[1:2], look, seed=3, size_px=64)
    torch.testing.assert_close(alone[0], images[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size_px", [64, 128, 256])
def test_a_bigger_picture_shows_the_same(size_px):
    factors = people(2)
    small = torch.nn.functional.adaptive_avg_pool2d(draw(factors, size_px=size_px), 32)
    reference = torch.nn.functional.adaptive_avg_pool2d(draw(factors, size_px=128), 32)
    assert (small - reference).abs().mean() < 0.01


def test_the_seed_changes_the_paper_but_never_the_plain_look():
    factors = people(2)
    assert torch.equal(draw(factors, seed=1, size_px=64), draw(factors, seed=2, size_px=64))
    one, two = (draw(factors, "watercolour", seed=seed, size_px=64) for seed in (1, 2))
    assert 0.01 < (one - two).abs().mean() < 0.4


@pytest.mark.parametrize("factor", FACTORS, ids=lambda factor: factor.name)
def test_every_factor_changes_the_picture(factor):
    factors = average().repeat(3, 1)
    factors[:, INDEX[factor.name]] = torch.tensor([0.0, 0.5, 1.0])
    low, middle, high = draw(factors, size_px=64)
    assert ((low - high).abs() > 0.1).float().mean() > 0.002
    if factor.onset is None:
        assert (low - middle).abs().max() > 0.1 and (middle - high).abs().max() > 0.1
    else:
        assert torch.equal(low, middle)


@pytest.mark.parametrize("factor", SWITCHES, ids=lambda factor: factor.name)
def test_a_switch_comes_in_steadily_and_without_a_jump(factor):
    steps = 25
    factors = average().repeat(steps, 1)
    factors[:, INDEX[factor.name]] = factor.onset + torch.linspace(-0.01, 0.07, steps)
    pictures = draw(factors, size_px=64)
    away = (pictures - pictures[0]).abs().mean(dim=(1, 2, 3))
    total = away[-1]
    growth = away.diff()
    assert total > 0.01
    assert growth.min() > -0.02 * total, "it must not shrink while it comes in"
    assert growth.max() < 0.25 * total, "it must not jump"


def test_people_look_different():
    pictures = draw(people(16), size_px=64).flatten(1)
    apart = torch.cdist(pictures, pictures, p=1) / pictures.shape[1]
    assert (apart + torch.eye(16)).min() > 0.05


def test_looks_differ_from_each_other():
    factors = people(4)
    pictures = torch.stack([draw(factors, look, size_px=64).flatten() for look in ALL_LOOKS])
    apart = torch.cdist(pictures, pictures, p=1) / pictures.shape[1]
    assert (apart + torch.eye(len(ALL_LOOKS))).min() > 0.12


def test_factors_of_latents_are_uniform_and_ignore_the_scale():
    z = torch.randn(4000, 64, generator=seeded(0, 0, "test.latents"))
    factors = factors_from_latents(z)
    assert factors.shape == (4000, NUM_FACTORS)
    assert factors.min() >= 0 and factors.max() <= 1
    deciles = torch.quantile(factors, torch.linspace(0.1, 0.9, 9), dim=0)
    assert (deciles - torch.linspace(0.1, 0.9, 9)[:, None]).abs().max() < 0.04
    torch.testing.assert_close(factors_from_latents(7 * z), factors)
    torch.testing.assert_close(factors_from_latents(z[:3]), factors[:3])


def test_wrong_arguments_are_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="crayon.*plain.*pencil sketch.*woodcut"):
        draw(average(), "crayon")
    with pytest.raises(ValueError, match="crayon.*plain"):
        caption(average()[0], "crayon", 0)
    with pytest.raises(ValueError, match="factors must have shape"):
        draw(average()[0])
    with pytest.raises(ValueError, match="factors must have shape"):
        caption(average(), "plain", 0)
    with pytest.raises(ValueError, match=r"factors must lie in \[0, 1\]"):
        draw(average() * 3)
    with pytest.raises(ValueError, match="factors must lie"):
        draw(average() * float("nan"))
    with pytest.raises(ValueError, match="size_px must be at least 16, got 4"):
        draw(average(), size_px=4)
    with pytest.raises(ValueError, match=f"at least {NUM_FACTORS}"):
        factors_from_latents(torch.zeros(2, NUM_FACTORS - 1))
    with pytest.raises(ValueError, match="z must have shape"):
        factors_from_latents(torch.zeros(64))


def test_captions_say_only_what_is_true():
    for index, factors in enumerate(people(300, seed=5)):
        value = {name: factors[place].item() for name, place in INDEX.items()}
        words = caption(factors, ALL_LOOKS[index % len(ALL_LOOKS)], seed=index)
        assert len(words.split()) <= 25 and words == words.lower()
        for name, onset in (("glasses", 0.72), ("beard", 0.80), ("hat", 0.86)):
            assert name not in words.replace("that", "") or value[name] >= onset, words
        assert "smiling" not in words or value["smile"] > 0.6, words
        assert "frowning" not in words or value["smile"] < 0.2, words
        assert "a man" not in words or value["beard"] > 0.8, words
        assert "a woman" not in words or value["beard"] < 0.75, words
        assert "long" not in words or value["hair_length"] > 0.6, words
        assert "bald" not in words or value["hair_length"] < 0.06, words
        assert "to the left" not in words or value["yaw"] < 0.25, words


def test_captions_name_what_is_there_and_vary():
    factors = average()[0]
    for name in ("glasses", "beard", "hat", "smile"):
        factors[INDEX[name]] = 0.95
    captions = [caption(factors, "pencil sketch", seed) for seed in range(60)]
    for word in ("glasses", "beard", "hat", "smiling", "sketch", "drawing"):
        assert 5 < sum(word in words for words in captions), word
    assert len(set(captions)) > 20
    assert captions == [caption(factors, "pencil sketch", seed) for seed in range(60)]


def test_captions_name_colours_only_where_they_show():
    factors = average()[0]
    factors[INDEX["clothes"]] = 225 / 360 / 0.9
    factors[INDEX["background"]] = 115 / 360 / 0.9
    plain = " ".join(caption(factors, "plain", seed) for seed in range(40))
    sketch = " ".join(caption(factors, "pencil sketch", seed) for seed in range(40))
    assert "blue shirt" in plain and "green background" in plain
    assert "blue" not in sketch and "green" not in sketch
