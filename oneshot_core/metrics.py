"""Measures of an adaptation: pure functions of features or distances, and tests that compare methods.

Features are what a network that took no part in the adaptation sees: the judge of the demo world, a second
CLIP. Where the right pictures are known ("truth": the same latents in the target's look), own-truth score,
retrieval and travel use them; kernel distance and diversity need no pairs.

Source: KID (arXiv 1801.01401); FID (arXiv 1706.08500); intra-cluster LPIPS of few-shot GAN adaptation
(arXiv 2104.06820), which with one target is a mean over all pairs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .tensors import Images, seeded

EXACT_FLIPS = 16  # pairs up to which a sign-flip test tries every sign; beyond, DRAWS of them
DRAWS = 20_000


def by_channel(made: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Divide both by how much each channel differs between truths, place by place.

    A channel that hardly varies between people must not drown, whatever others do across a picture.

    Args:
        made: [N, C, ...] features or maps of the adapted pictures, N at least 2.
        truth: the same of the truth, in the same order.
    """
    _check_pairs(made, truth)
    deviation = (truth - truth.mean(0)).transpose(0, 1).flatten(1).square().mean(1).sqrt().clamp(min=1e-6)
    scale = deviation.reshape(1, -1, *[1] * (truth.ndim - 2))
    return made / scale, truth / scale


def own_truth_score(made: Tensor, truth: Tensor) -> float:
    """How near each picture is to its own truth, on the scale of the distance between truths of two latents.

    Args:
        made: [N, C, ...] features or maps of the adapted pictures, N at least 2.
        truth: the same of the truth, in the same order.

    Returns:
        1 where all are equal; about 0 for a generator that always draws the truth of one latent, and at most
        0.5 (features that are the mean of the truths') for any that always draws the same; below for worse.
    """
    a, t = (x.flatten(1).double() for x in by_channel(made, truth))
    between = torch.cdist(t, t).square()
    count = len(t)
    return 1 - float((a - t).square().sum(1).mean() / (between.sum() / (count * (count - 1))))


def retrieval(made: Tensor, truth: Tensor) -> float:
    """Share of the pictures whose nearest truth among all is their own; ties count as wrong.

    Args:
        made: [N, ...] features, N at least 2.
        truth: the same of the truth, in the same order.
    """
    _check_pairs(made, truth)
    distances = torch.cdist(made.flatten(1).double(), truth.flatten(1).double())
    own = distances.diagonal()
    others = distances.masked_fill(torch.eye(len(own), dtype=torch.bool), math.inf).amin(1)
    return float((own < others).double().mean())


@dataclass(frozen=True)
class Travel:
    """How far pictures went from the source towards the truth.

    Args:
        along: 0 at the source's mean, 1 where the mean has gone as far as the truth's.
        off: length of the rest of the way, in the same unit.
        own: share whose nearest truth is their own, each side less its mean: who it is, whatever the look.
    """

    along: float
    off: float
    own: float


def travel(source: Tensor, made: Tensor, truth: Tensor) -> Travel:
    """Measure the way of the mean features, and who is still told apart.

    Args:
        source: [N, D] features of the source's pictures, such as those of a CLIP that no method trained with.
        made: of the adapted pictures, same latents.
        truth: of the truth, same latents.
    """
    _check_pairs(made, truth)
    _check_pairs(source, truth)
    way = (truth.mean(0) - source.mean(0)).double()
    gone = (made.mean(0) - source.mean(0)).double()
    length = float(way.square().sum())
    along = float(gone @ way) / length
    off = float((gone - along * way).norm()) / math.sqrt(length)
    return Travel(along, off, found_again(truth, made))


def kernel_distance(
    first: Tensor, second: Tensor, subsets: int = 1, size: int = 0, seed: int = 0
) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1) ** 3, as KID.

    Args:
        first: [N, D] features, standardised.
        second: [M, D].
        subsets: how many random subsets of both the mean is taken over; 1 with `size` 0: all of both, once.
        size: of a subset, at least 2; 0: all.
        seed: of the subsets.

    Returns:
        Mean and standard deviation over the subsets (0 for one).
    """
    draws = seeded(seed, 0, "metrics.subsets")
    values = []
    for _ in range(subsets):
        parts = [
            x[torch.randperm(len(x), generator=draws)[: size or len(x)]].double() for x in (first, second)
        ]
        values.append(_discrepancy(*parts))
    found = torch.tensor(values, dtype=torch.float64)
    return float(found.mean()), float(found.std()) if len(found) > 1 else 0.0


def _discrepancy(x: Tensor, y: Tensor) -> float:
    within, n, m = 0.0, len(x), len(y)
    for part, count in ((x, n), (y, m)):
        kernel = (part @ part.T / x.shape[1] + 1) ** 3
        within += float(kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))
    return within - 2 * float(((x @ y.T / x.shape[1] + 1) ** 3).mean())


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared distance of the normal distributions that fit two sets of features, as FID.

    |m - n|^2 + tr(S) + tr(R) - 2 tr((S R)^(1/2)). The last trace is the sum of the singular values of A B^T,
    A and B the centred features: exact, and small where pictures are fewer than features.

    Args:
        first: [N, D], N at least 2.
        second: [M, D], M at least 2.

    Returns:
        At least 0 up to rounding; with few pictures too large, so that N and M belong beside it.
    """
    if min(len(first), len(second)) < 2 or first.shape[1:] != second.shape[1:]:
        raise ValueError(
            "a Frechet distance needs two sets of at least two features of one width, got shapes "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    a, b = ((x.double() - x.double().mean(0)) / math.sqrt(len(x) - 1) for x in (first, second))
    means = (first.double().mean(0) - second.double().mean(0)).square().sum()
    shared = torch.linalg.svdvals(a @ b.T).sum()
    return float(means + a.square().sum() + b.square().sum() - 2 * shared)


def likeness(made: Tensor, targets: Tensor) -> float:
    """Mean cosine of every picture and every target, as CLIP-I.

    Args:
        made: [N, D] features of length 1.
        targets: [K, D], of length 1.
    """
    return float((made @ targets.T).mean())


def direction(source: Tensor, made: Tensor, targets: Tensor) -> float:
    """Mean cosine of each picture's own way and the way from the source's mean to the targets' mean.

    Args:
        source: [N, D] features of the source's pictures.
        made: of the adapted pictures, same latents.
        targets: [K, D].

    Returns:
        -1 to 1; 0 for a picture that has not moved.
    """
    _check_pairs(source, made)
    way = targets.mean(0) - source.mean(0)
    return float(torch.nn.functional.cosine_similarity(made - source, way[None]).mean())


def found_again(source: Tensor, made: Tensor) -> float:
    """Share of the adapted pictures whose nearest source picture is their own, each side less its mean.

    Args:
        source: [N, ...] features of the source's pictures.
        made: of the adapted pictures, same latents.
    """
    _check_pairs(source, made)
    return retrieval(made - made.mean(0), source - source.mean(0))


def diversity(
    distance: Callable[[Images, Images], Tensor], images: Images, pairs: int = 200, block: int = 32
) -> float:
    """Mean distance over pairs of pictures, evenly chosen; a collapsed generator has 0.

    Args:
        distance: [B] for two batches [B, 3, S, S], by a net that trained nobody.
        images: [N, 3, S, S], N at least 2.
        pairs: at most so many of all N (N - 1) / 2.
        block: pairs at a time.
    """
    some = list(itertools.combinations(range(len(images)), 2))
    chosen = torch.tensor(some[:: max(1, len(some) // pairs)])
    parts = [distance(images[part[:, 0]], images[part[:, 1]]).flatten() for part in chosen.split(block)]
    return float(torch.cat(parts).mean())


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of paired differences under "either method could have been the better one of a pair".

    Args:
        differences: one per pair; up to 16 are tested exactly, more by 20,000 draws.
        seed: of the draws.
    """
    values = torch.tensor(differences, dtype=torch.float64)
    if len(values) <= EXACT_FLIPS:
        signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=len(values))), dtype=torch.float64)
    else:
        drawn = torch.randint(2, (DRAWS, len(values)), generator=seeded(seed, 0, "metrics.flips"))
        signs = torch.cat([torch.ones(1, len(values)), drawn.double() * 2 - 1]).double()
    sums = (signs @ values).abs()
    return float((sums >= values.sum().abs() * (1 - 1e-12)).double().mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values of several comparisons by Holm's step-down rule, in the order given."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def clustered_interval(
    values: Sequence[float], clusters: Sequence[Hashable], share: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean by a bootstrap that draws whole clusters.

    Args:
        values: one per pair.
        clusters: which pairs belong together, such as the look of each: they are not independent.
        share: of the draws within the interval.
        seed: of the draws.
    """
    groups = [
        [value for value, cluster in zip(values, clusters, strict=True) if cluster == one]
        for one in dict.fromkeys(clusters)
    ]
    sums = torch.tensor([sum(group) for group in groups], dtype=torch.float64)
    counts = torch.tensor([len(group) for group in groups], dtype=torch.float64)
    drawn = torch.randint(len(groups), (DRAWS, len(groups)), generator=seeded(seed, 0, "metrics.clusters"))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = torch.quantile(means, torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64))
    return float(low), float(high)


def _check_pairs(made: Tensor, truth: Tensor) -> None:
    if made.shape != truth.shape or len(truth) < 2:
        raise ValueError(
            f"features come in pairs, at least two: got shapes {list(made.shape)} and {list(truth.shape)}"
        )
