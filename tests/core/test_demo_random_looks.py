"""Made-up looks: one look for a group, another per draw, from the generator alone, people still there."""

from __future__ import annotations

import torch

from oneshot_core.demo.making.faces import NUM_FACTORS, draw, draw_looks
from oneshot_core.demo.making.random_looks import random_look
from oneshot_core.tensors import seeded

SIZE = 32


def group(people: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    factors = torch.rand(people, NUM_FACTORS, generator=seeded(1, 0, "faces"))
    pictures, layers = draw_looks(factors, ("plain", "comic"), size_px=SIZE)
    return pictures[:, 0], layers


def made(number: int, people: int = 3) -> torch.Tensor:
    plain, layers = group(people)
    return random_look(plain, layers, seeded(0, number, "look"))


def test_pictures_of_several_looks_are_those_of_draw() -> None:
    factors = torch.rand(2, NUM_FACTORS, generator=seeded(1, 0, "faces"))
    pictures, layers = draw_looks(factors, ("plain", "woodcut"), seed=5, size_px=SIZE)
    assert torch.equal(pictures[:, 1], draw(factors, "woodcut", 5, SIZE))
    assert layers.shape == (2, 2, SIZE, SIZE) and 0 <= float(layers.min()) <= float(layers.max()) <= 1
    assert layers[:, 0, 0, 0].min() > 0.9 and layers[:, 0, SIZE // 2, SIZE // 2].max() < 0.1  # background


def test_every_look_is_a_sound_picture() -> None:
    for number in range(40):
        picture = made(number, 2)
        assert picture.shape == (2, 3, SIZE, SIZE) and torch.isfinite(picture).all()
        assert -1 <= float(picture.min()) and float(picture.max()) <= 1
        assert float(picture.std()) > 0.01, number


def test_a_draw_gives_the_same_look_again_and_another_draw_another() -> None:
    assert torch.equal(made(0), made(0))
    distances = [float((made(0) - made(number)).abs().mean()) for number in range(1, 6)]
    assert min(distances) > 0.02


def test_all_pictures_of_a_group_share_the_look() -> None:
    """What one person gets does not depend on who else is in the group."""
    for number in (0, 3, 8):
        assert torch.allclose(made(number, 3)[:2], made(number, 2), atol=1e-5)


def test_people_stay_different_people() -> None:
    plain, _ = group()
    kept = 0
    for number in range(20):
        picture = made(number)
        apart = float((picture[0] - picture[1]).abs().mean())
        kept += apart > 0.2 * float((plain[0] - plain[1]).abs().mean())
    assert kept >= 16
