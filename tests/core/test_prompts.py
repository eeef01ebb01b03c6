"""Texts in sentences."""

from __future__ import annotations

import pytest
import torch
from tiny_clip import reading_clip

from oneshot_core.features.prompts import (
    PARTS,
    TEMPLATES,
    part_directions,
    prompted,
    templates_for,
    text_direction,
)


def test_a_direction_leads_from_one_text_to_the_other() -> None:
    clip = reading_clip()
    there, back = text_direction(clip, "photo", "sketch"), text_direction(clip, "sketch", "photo")
    assert torch.allclose(there, -back) and abs(float(there.norm()) - 1) < 1e-5
    assert prompted(clip, "photo").shape[0] == len(templates_for(clip)) > 1
    with pytest.raises(ValueError, match="does not know 'oil'"):
        prompted(clip, "oil")


def test_templates_hold_one_place() -> None:
    assert len(TEMPLATES) == 79 and len(PARTS) == 15
    assert all(template.count("{}") == 1 for template in (*TEMPLATES, *PARTS))


def test_parts_have_directions_of_their_own() -> None:
    clip = reading_clip()
    found = part_directions(clip, "photo", "sketch", parts=("the {}", "a {}"))
    assert found.shape[0] == 2 and not torch.allclose(found[0], found[1])
