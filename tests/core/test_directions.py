"""Losses by directions in CLIP's feature space, on features made by hand."""

from __future__ import annotations

import pytest
import torch

from oneshot_core.objective.directions import (
    Directional,
    PatchDirectional,
    direction_agreement,
    direction_distance,
)


def test_agreement_is_one_less_cosine_row_by_row() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    assert torch.allclose(
        direction_agreement(first, torch.tensor([[1.0, 0.0]])), torch.tensor([0.0, 1.0, 2.0])
    )
    assert torch.allclose(direction_agreement(first, first), torch.zeros(3))


def test_softness_keeps_the_gradient_of_an_unchanged_picture_small() -> None:
    """Measured: without it the first step's gradient has the norm 6e5 (baselines.md 4)."""
    source = torch.nn.functional.normalize(torch.randn(2, 8), dim=1)
    for softness, largest in ((0.1, 11.0), (1.0, 1.1)):
        adapted = source.clone().requires_grad_(True)
        direction_distance(adapted, source, torch.ones(8), softness).sum().backward()
        assert float(adapted.grad.norm(dim=1).max()) <= largest


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="softness"):
        Directional(-1.0)
    with pytest.raises(ValueError, match="at least 1 source picture"):
        Directional(sources=0)
    with pytest.raises(ValueError, match="do not fit"):
        PatchDirectional(64).check(64)
    assert PatchDirectional().side(128) == 64 and PatchDirectional(31).side(64) == 30
    PatchDirectional(31).check(64)
