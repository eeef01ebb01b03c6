"""Batches of people in two looks, and losses that fall for what they are meant to teach."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from oneshot_core.demo.making.people import People, draw_people
from oneshot_core.demo.making.pretrain_clip import (
    CROPS,
    LOOKS,
    WEIGHTS,
    ClipPlan,
    ClipTask,
    ClipTraining,
    caption_loss,
    consistency_loss,
    correlations,
    crop_loss,
    draw_batch,
    person_loss,
    reading_loss,
)
from oneshot_core.demo.making.readings import reading_targets
from oneshot_core.demo.making.sentences import READINGS
from oneshot_core.tensors import seeded

PLAN = ClipPlan(
    {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    embed_dim=16, text_width=16, text_layers=1, groups=2, group=4, crop_people=2, warm_up_steps=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def people() -> People:
    return draw_people(10, LOOKS, 0, torch.device("cpu"), batch=10)


def unit(*shape: int, purpose: str = "features") -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=seeded(0, 0, purpose)), dim=-1)


def test_a_batch_shows_the_same_people_twice(people: People) -> None:
    batch = draw_batch(people, PLAN, 32, seeded(0, 0, "batch"))
    crops = PLAN.groups * PLAN.crop_people * CROPS
    assert batch.views.shape == (2 * 8 + 2 * crops, 3, 32, 32) and len(set(batch.people.tolist())) == 8
    assert batch.crop_rows.tolist() == [0, 1, 4, 5]
    assert torch.isfinite(batch.views).all() and batch.views.abs().max() < 2


def test_a_step_always_draws_the_same_batch(people: People) -> None:
    first, again = (draw_batch(people, PLAN, 32, seeded(0, 5, "batch")) for _ in range(2))
    other = draw_batch(people, PLAN, 32, seeded(0, 6, "batch"))
    assert torch.equal(first.views, again.views) and torch.equal(first.people, again.people)
    assert not torch.equal(first.people, other.people) or not torch.equal(first.views, other.views)


def test_the_first_half_of_the_groups_is_plain_and_no_pair_is_of_one_look(people: People) -> None:
    seen = []
    for step in range(30):
        looks = draw_batch(people, replace(PLAN, crop_people=1), 16, seeded(0, step, "looks")).looks.view(
            2, PLAN.groups, -1
        )
        assert (looks == looks[..., :1]).all() and (looks[0, 0] == 0).all()
        assert (looks[0] != looks[1]).all() and (looks[1] != 0).all()
        seen += looks[..., 0].flatten().tolist()
    assert {-100, 0} < set(seen) and len(set(seen)) == len(LOOKS) + 1


def test_each_loss_is_least_where_what_it_teaches_is_so() -> None:
    whole = unit(2, 3, 6, 16)
    same = whole[:1].expand(2, -1, -1, -1)
    assert person_loss(same) < 0.2 < 1 < person_loss(whole)
    # a look that shifts every picture alike must not matter for who is who
    shifted = torch.stack([whole[0], F.normalize(whole[0] + 0.5 * unit(16), dim=-1)])
    assert person_loss(shifted) < 0.5
    assert float(consistency_loss(same)) == pytest.approx(0, abs=1e-6)
    collapsed = torch.stack([whole[0], whole[0, :, :1].expand(-1, 6, -1)])
    assert float(consistency_loss(collapsed)) == pytest.approx(1, abs=1e-4)
    # bringing all features nearer to one another must not count as progress
    pull = torch.tensor(1.0, requires_grad=True)
    loss = consistency_loss(F.normalize(whole + pull * unit(16, purpose="one"), dim=-1))
    (slope,) = torch.autograd.grad(loss, pull)
    assert float(slope.abs()) < 0.1 * float(loss.detach())
    crops = unit(2, 3, CROPS, 16)
    assert crop_loss(crops[:1].expand(2, -1, -1, -1)) < 1 < crop_loss(crops)
    texts = unit(2, 6, 16, purpose="texts")
    assert (
        caption_loss(texts, texts, torch.tensor(20.0))
        < 0.2
        < caption_loss(texts.roll(1, 1), texts, torch.tensor(20.0))
    )


def test_reading_looks_at_the_right_factor() -> None:
    factors = torch.rand(64, 25, generator=seeded(0, 0, "factors"))
    pairs = torch.stack([-torch.eye(len(READINGS)), torch.eye(len(READINGS))], 1).flatten(0, 1)
    assert float(reading_loss(reading_targets(factors), pairs, factors)) == pytest.approx(0, abs=1e-5)
    assert float(reading_loss(-reading_targets(factors), pairs, factors)) == pytest.approx(2, abs=1e-5)
    a = torch.randn(50, 2, generator=seeded(0, 0, "a"))
    assert torch.allclose(correlations(a, 3 * a - 1), torch.ones(2), atol=1e-5)


def test_sentences_are_of_the_person_and_the_look(people: People) -> None:
    training = ClipTraining(ClipTask(PLAN, 0), people, 0)
    words = {number: word for word, number in training.tokenizer.ids.items()}
    looks = torch.tensor([0, LOOKS.index("neon"), -100, LOOKS.index("ink")])
    rows = training.sentences.of(torch.arange(4), looks, 2)
    texts = [{words.get(number) for number in row.tolist()} for row in rows]
    assert "neon" in texts[1] and "ink" in texts[3] and not {"neon", "ink"} & (texts[0] | texts[2])


@pytest.mark.slow
def test_some_steps_teach_and_repeat_exactly(people: People) -> None:
    runs = []
    for _ in range(2):
        training = ClipTraining(ClipTask(PLAN, 0), people, 0)
        runs.append([training.step(step, 0.003) for step in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert runs[0][0].shape == (len(WEIGHTS),) and torch.isfinite(torch.stack(runs[0])).all()
    fixed = ClipTraining(ClipTask(PLAN, 0), people, 0)
    before = fixed.losses(0)
    for _ in range(5):
        fixed.step(0, 0.003)  # the same batch again and again
    after = fixed.losses(0)
    assert after["person"] < before["person"] and after["factor"] < before["factor"]
