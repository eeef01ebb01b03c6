"""Measures: values that can be computed by hand, and the order of untrained arms on the demo world."""

from __future__ import annotations

import math

import pytest
import torch

from oneshot_core.demo.making.faces import draw, factors_from_latents
from oneshot_core.demo.making.truth import demo_judge
from oneshot_core.demo.world import demo_generator
from oneshot_core.latents import z_from_seeds
from oneshot_core.metrics import (
    clustered_interval,
    direction,
    diversity,
    found_again,
    frechet_distance,
    holm,
    kernel_distance,
    likeness,
    own_truth_score,
    retrieval,
    sign_flip_p,
    travel,
)

SAMPLES = 24


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_own_truth_score_is_one_for_the_truth_and_about_zero_for_collapse() -> None:
    truth = normal(40, 6, 3, 3)
    assert own_truth_score(truth, truth) == pytest.approx(1)
    one_picture = truth.mean(0, keepdim=True).expand_as(truth)
    assert own_truth_score(one_picture, truth) == pytest.approx(0.5, abs=0.05)  # of all
    assert own_truth_score(truth[:1].expand_as(truth), truth) == pytest.approx(0, abs=0.2)
    assert own_truth_score(truth.roll(1, 0), truth) == pytest.approx(0, abs=0.1)
    with pytest.raises(ValueError, match="come in pairs"):
        own_truth_score(truth[:1], truth[:1])


def test_retrieval_counts_who_is_nearest_to_the_own_truth() -> None:
    truth = normal(10, 5)
    assert retrieval(truth + 0.01 * normal(10, 5, seed=1), truth) == 1
    assert retrieval(truth.roll(1, 0), truth) == 0
    assert retrieval(torch.zeros(10, 5), torch.ones(10, 5)) == 0  # ties count as wrong


def test_travel_is_zero_at_the_source_and_one_at_the_truth() -> None:
    source, shift = normal(12, 8), 3 * normal(8, seed=1)
    truth = source + shift
    for share in (0.0, 0.25, 1.0):
        found = travel(source, source + share * shift, truth)
        assert (found.along, found.off, found.own) == (pytest.approx(share), pytest.approx(0, abs=1e-6), 1)
    aside = normal(8, seed=2)
    aside -= (aside @ shift) / (shift @ shift) * shift
    found = travel(source, source + 0.5 * shift + aside, truth)
    assert found.along == pytest.approx(0.5)
    assert found.off == pytest.approx(float(aside.norm() / shift.norm()))
    collapsed = travel(source, truth.mean(0, keepdim=True).expand_as(truth), truth)
    assert collapsed.own <= 1 / 12 + 1e-9 and collapsed.along == pytest.approx(1)  # so it needs both


def test_kernel_distance_is_unbiased_and_grows_with_the_shift() -> None:
    first, second = normal(200, 16), normal(200, 16, seed=1)
    near, far = kernel_distance(first, second)[0], kernel_distance(first, second + 1)[0]
    assert abs(near) < 0.05 * far
    mean, spread = kernel_distance(first, second + 1, subsets=8, size=60)
    assert mean == pytest.approx(far, rel=0.2) and 0 < spread < 0.5 * far
    assert kernel_distance(first, second, subsets=3, size=20) == kernel_distance(first, second, 3, 20)
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    by_hand = 27 + 1 - 2 * (1 + 64 + 1 + 343) / 4  # (1·2+1)³ + (0·3+1)³ - 2 · mean of ((x·y)+1)³
    assert kernel_distance(x, y)[0] == pytest.approx(by_hand)


def test_frechet_distance_is_that_of_the_normal_distributions() -> None:
    first, second = normal(300, 4), 2 * normal(200, 4, seed=1) + 3
    s, r = (torch.cov(x.double().T) for x in (first, second))
    values, vectors = torch.linalg.eigh(s)
    root = vectors @ values.sqrt().diag() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ r @ root).clamp(min=0).sqrt().sum()
    means = (first.double().mean(0) - second.double().mean(0)).square().sum()
    by_hand = float(means + s.trace() + r.trace() - 2 * shared)
    assert frechet_distance(first, second) == pytest.approx(by_hand, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first[:3], first[:3] + 1) == pytest.approx(4, abs=1e-6)  # fewer than features
    with pytest.raises(ValueError, match="two sets of at least two"):
        frechet_distance(first[:1], second)
    with pytest.raises(ValueError, match="of one width"):
        frechet_distance(first, second[:, :3])


def test_likeness_direction_and_who_is_found_again() -> None:
    source = torch.eye(4)
    target = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert likeness(source, target) == pytest.approx(0.5)
    assert likeness(target, target) == pytest.approx(1)
    way = target - source.mean(0)
    assert direction(source, source + 0.3 * way, target) == pytest.approx(1)
    assert direction(source, source - way, target) == pytest.approx(-1)
    assert direction(source, source, target) == 0
    assert found_again(source, source + 5) == 1  # a look that is the same for all takes nobody away
    assert found_again(source, source.roll(1, 0)) == 0
    assert found_again(source, target.expand(4, 4)) == 0
    with pytest.raises(ValueError, match="come in pairs"):
        direction(source, source[:3], target)


def test_diversity_is_the_mean_over_pairs() -> None:
    images = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 2, 2)

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().mean((1, 2, 3))

    assert diversity(distance, images) == pytest.approx(2)  # of 0 ... 4
    assert diversity(distance, images[:1].expand(5, 3, 2, 2)) == 0
    assert diversity(distance, images, pairs=5, block=2) > 0


def test_sign_flips_are_exact_for_few_pairs_and_drawn_for_many() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0]) == pytest.approx(2 / 8)
    assert sign_flip_p([1.0, -1.0]) == 1
    assert sign_flip_p([0.5 + 0.1 * (i % 3) for i in range(20)]) < 0.001
    assert sign_flip_p(normal(30).tolist()) == sign_flip_p(normal(30).tolist()) > 0.01


def test_holm_steps_down_and_stays_in_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_the_bootstrap_draws_whole_clusters() -> None:
    values, clusters = [0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"]
    assert clustered_interval(values, clusters) == (0.0, 1.0)  # both looks, or one of them twice
    low, high = clustered_interval([1.0] * 8, list("aabbccdd"))
    assert (low, high) == (1, 1)
    low, high = clustered_interval(values, range(4))
    assert 0 <= low < 0.5 < high <= 1 and not math.isnan(low)


@pytest.mark.slow
@pytest.mark.parametrize("look", ["watercolour", "sepia photograph", "line art", "woodcut"])
def test_the_order_of_untrained_arms(look: str) -> None:
    """Truth, half of it, the source, collapse: a measure that rewards one picture decides nothing."""
    generator = demo_generator().generator
    z = z_from_seeds(range(SAMPLES), generator.config.z_dim)
    with torch.no_grad():
        plain = generator.synthesize(generator.map(z), generator.constant_noise()).clamp(-1, 1)
        truth = draw(factors_from_latents(z), look, seed=0)
        target = draw(factors_from_latents(z_from_seeds([900_000], z.shape[1])), look, seed=0)
        arms = {
            "truth": truth,
            "half": (plain + truth) / 2,
            "source": plain,
            "collapse": target.expand_as(truth),
            "other": truth.roll(1, 0),
        }
        maps = {name: demo_judge().maps(images)[1] for name, images in arms.items()}
    scores = {name: own_truth_score(found, maps["truth"]) for name, found in maps.items()}
    assert scores["truth"] == pytest.approx(1) and scores["source"] + 0.1 < scores["half"] < 0.95
    assert max(scores["collapse"], scores["other"]) < 0.15
    assert look == "woodcut" or scores["half"] > scores["collapse"]  # its cuts are the hardest to see past
    found = {name: retrieval(one, maps["truth"]) for name, one in maps.items()}
    assert found["truth"] == 1 and found["half"] > 0.8 and found["collapse"] < 0.1 and found["other"] == 0
