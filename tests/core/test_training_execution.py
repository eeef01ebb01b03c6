"""Which way of training is taken: the fastest that fits."""

from __future__ import annotations

import logging

import pytest
import torch
from stand_ins import stand_in_encoders, tiny_aim, tiny_bundle

from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.training import execution
from oneshot_core.training.execution import Execution, fastest_in_place, free_bytes

CPU = torch.device("cpu")
NEEDED = 1000


@pytest.mark.parametrize(("free", "recompute"), [(None, False), (1000, False), (999, True), (100, True)])
def test_recomputing_comes_only_where_memory_is_short(free: int | None, recompute: bool, caplog) -> None:
    with caplog.at_level(logging.INFO):
        found = Execution.fastest(CPU, free, NEEDED)
    assert found == Execution(CPU, recompute)
    assert ("computed again" in caplog.text) == recompute


@pytest.mark.slow
def test_networks_that_lie_somewhere_are_asked_where(monkeypatch) -> None:
    bundle = tiny_bundle(64)
    given = bundle, stand_in_encoders(), tiny_aim(bundle), oneshot_clip(), "float32"
    assert fastest_in_place(*given) == Execution(None, False)
    monkeypatch.setattr(execution, "free_bytes", lambda device: 1)
    assert fastest_in_place(*given) == Execution(None, True)


def test_free_memory_is_known_or_none() -> None:
    found = free_bytes(CPU)
    assert found is None or found > 0
    assert free_bytes(torch.device("meta")) is None
