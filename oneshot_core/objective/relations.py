"""Few-shot adaptation's loss on how alike the samples of a batch are to each other, inside the generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .contract import Needs, StepContext, Term

RELATIONS = "relations"  # batch whose samples are compared with each other


def likeness_to_others(features: Tensor, place: int) -> Tensor:
    """Cosines of one sample's features with those of all others, in their order.

    Args:
        features: [N, C, r, r] of one layer.
        place: of the sample.

    Returns:
        [N - 1].
    """
    flat = F.normalize(features.flatten(1), dim=1, eps=1e-8)
    cosines = flat @ flat[place]
    return torch.cat([cosines[:place], cosines[place + 1 :]])


def relation_divergence(adapted: Tensor, source: Tensor) -> Tensor:
    """Compare how a sample's likeness is spread over the others in two domains.

    Args:
        adapted: [N, N - 1] cosines, a row per sample.
        source: the same, without gradient.

    Returns:
        Scalar: p_source * (log p_source - log p_adapted), p a softmax of each row; the mean over all
        N (N - 1) elements, as published, not over rows, as a divergence would be.

    Source: few-shot adaptation (arXiv 2104.06820) equation 2; utkarshojha/few-shot-gan-adaptation train.py.
    """
    p = source.softmax(dim=1)
    return (p * (p.log() - adapted.log_softmax(dim=1))).mean()


@dataclass(frozen=True)
class DistanceConsistency(Term):
    """Samples keep their mutual likeness in the generator's features; each is judged in a layer of its own.

    Two samples have one likeness each, so the loss is 0: three are the least that say something.

    Args:
        view: batch whose samples are compared.
        purpose: of the draws of the layers.
    """

    view: str = RELATIONS
    purpose: str = "layers"

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({self.view}), pairs=frozenset({self.view}))

    @property
    def draws(self) -> tuple[str, ...]:
        """See `Term.draws`."""
        return (self.purpose,)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar; see `relation_divergence`."""
        view = step.view(self.view)
        # Layers 1 to L - 2 of 0 to L - 2, as published: never the 4 px one.
        layers = [
            1 + value for value in step.draws.integers(self.purpose, view.layers - 1, (view.size,)).tolist()
        ]
        adapted, source = view.features(max(layers) + 1), view.source_features(max(layers) + 1)
        ours = torch.stack([likeness_to_others(adapted[layer], i) for i, layer in enumerate(layers)])
        theirs = torch.stack([likeness_to_others(source[layer], i) for i, layer in enumerate(layers)])
        return relation_divergence(ours, theirs)
