"""Gradients against finite differences: do they rank channels alike? The plan of editing.md 2.

For every factor: the relevance R of a dictionary by finite differences (bug-free, the same samples for all
channels), and of gradients the cosine C, the effect A and the engine's score, over the same channels:
Spearman's correlation with R; the share of the 100 channels of the largest |R| whose sign C has; the share of
the 20, 50 and 100 channels of the largest |R| among as many of the largest |C|; and how many of the 50 of
the largest |R| are among the 400 of the largest |C|. A is also compared with R times the effect per sigma,
which is its own counterpart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from editing_methods import Ask, difference_dictionary, statistics
from torch import Tensor

from oneshot_core.demo.world import demo_generator
from oneshot_core.editing.dictionary import Dictionary
from oneshot_core.editing.global_directions import relevance, text_change
from oneshot_core.editing.gradient_directions import SCORES, FoundGradients, GradientConfig, find_gradients
from oneshot_core.editing.style_gradients import StyleView, rank_correlation
from oneshot_core.editing.style_layout import is_colours

PROBED = GradientConfig(samples=64, most_samples=64, agreement=-1.0, probes=16, reach=0.0)


def overlap(one: Tensor, two: Tensor, count: int, among: int | None = None) -> float:
    """Share of the `count` largest of one list that are among the `among` largest of another."""
    first = set(one.abs().topk(count).indices.tolist())
    second = set(two.abs().topk(min(among or count, len(two))).indices.tolist())
    return len(first & second) / count


def validation_table(encoders: Sequence[str], factors: Sequence[str], images: int, out: Path) -> str:
    """Compare, and lay out as Markdown."""
    lines = [
        "| encoder | factor | C to R | A to R | A to R x effect | score to R x effect | signs, 100 | 20 | 50 "
        "| 100 | 50 in 400 | A: 50 in 100 | halves |",
        "|---" * 13 + "|",
    ]
    for name in encoders:
        dictionary = difference_dictionary(name, images, out)
        for factor in factors:
            ask = Ask(factor, name, 0.0, images, out)
            change = text_change(ask.clip, *ask.texts)
            view = StyleView(demo_generator(), ask.clip, statistics())
            found = find_gradients(view, change, PROBED)
            lines.append(_line(name, factor, dictionary, change, found))
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _line(name: str, factor: str, dictionary: Dictionary, change: Tensor, found: FoundGradients) -> str:
    gradients = found.gradients
    kept = ~torch.tensor([is_colours(style) for style in gradients.styles.tolist()])
    r = relevance(dictionary, change)
    secant = r * dictionary.effect.double()
    c, a = gradients.cosine[kept], gradients.effect[kept]
    score = SCORES[GradientConfig().score](gradients)[kept]
    first = r.abs().topk(100).indices
    signs = float((r[first].sign() == c[first].sign()).double().mean())
    numbers = (
        rank_correlation(c, r), rank_correlation(a, r), rank_correlation(a, secant),
        rank_correlation(score, secant), signs, overlap(r, c, 20), overlap(r, c, 50), overlap(r, c, 100),
        overlap(r, c, 50, 400), overlap(secant, score, 50, 100), found.agreement,
    )  # fmt: skip
    return f"| {name} | {factor} | {' | '.join(f'{number:.2f}' for number in numbers)} |"
