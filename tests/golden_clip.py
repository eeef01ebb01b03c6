"""CLIP models of the recordings of editing programs, with the formula's weights, in float64."""

from __future__ import annotations

import math
from typing import Any

import golden_support as golden
import pytest
import torch

from oneshot_core.features import ClipEncoder, build_clip


def recorded_clip(told: dict[str, Any], checks: dict[str, Any]) -> ClipEncoder:
    """The CLIP model of a description; every text is read as the recorded tokens.

    Args:
        told: with `clip_config`, `clip_prefix`, `token_ids`, and `clip_seed` or `seed`.
        checks: of its weights.
    """
    # Cosines times 100 are what the recorded loss divides by 100.
    assert told["logit_scale_override"] == pytest.approx(math.log(100))
    model = build_clip(told["clip_config"])
    seed = told.get("clip_seed", told.get("seed"))
    golden.fill_with_formula(model, told["clip_prefix"], seed, golden.rules("clip_rules"))
    golden.check_weights(model.state_dict(), checks)
    tokens = torch.tensor(told["token_ids"]).reshape(1, -1)
    return ClipEncoder(model.double(), tokenizer=lambda texts: tokens.expand(len(texts), -1))
