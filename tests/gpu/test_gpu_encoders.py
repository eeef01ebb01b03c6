"""The demo's encoders train on the GPU: losses as on the CPU, files, resuming, and how long a step takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gpu_support import DRY_RUN, error

from oneshot_core.demo.making import train_encoders
from oneshot_core.demo.making.entrance import open_encoder
from oneshot_core.demo.making.people import draw_people
from oneshot_core.demo.making.pretrain_clip import CLIP_V2, LOOKS, ClipPlan, ClipTask, ClipTraining
from oneshot_core.demo.making.random_looks import random_look
from oneshot_core.tensors import seeded

SMALL = ClipPlan(
    {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    embed_dim=16, text_width=16, text_layers=1, groups=2, group=6, crop_people=2,
)  # fmt: skip


def test_people_and_made_up_looks_are_the_same_there(device: torch.device, figure: Callable) -> None:
    here, there = (draw_people(4, ("plain", "comic"), 3, torch.device(d)) for d in ("cpu", device))
    apart = (there.images.cpu().int() - here.images.int()).abs()
    assert float((apart > 2).float().mean()) < 0.005
    rows, errors = torch.arange(4), []
    for number in range(20):
        looks = [
            random_look(
                p.pictures(rows.to(p.factors.device), 0), p.layer_maps(rows), seeded(0, number, "look")
            )
            for p in (here, there)
        ]
        errors.append(error(looks[1], looks[0]))
    figure(errors=errors)
    assert sorted(errors)[15] < 0.02  # in a look of cells, rounding may decide whose cell a pixel is in


def test_first_losses_are_those_of_the_cpu(device: torch.device, figure: Callable) -> None:
    found = []
    for where in ("cpu", device):
        training = ClipTraining(ClipTask(SMALL, 0), draw_people(16, LOOKS, 3, torch.device(where)), 0)
        with torch.no_grad():
            found.append({name: float(value) for name, value in training.losses(0).items()})
    figure(cpu=found[0], gpu=found[1])
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=0.1, abs=0.03), name


@pytest.mark.parametrize("network", ["clip", "reader", "judge"])
def test_training_writes_goes_on_and_is_timed(
    tmp_path: Path, device: torch.device, network: str, figure: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the full batch, which is what the pace is wanted of."""
    words = ["--network", network, "--out", str(tmp_path), "--device", device.type]
    small = ["--groups", "1", "--group", "4", "--test-people", "24"]
    words += ["--people", "8" if DRY_RUN else "256", *(small if DRY_RUN else [])]
    lines: list[str] = []
    monkeypatch.setattr(train_encoders._log, "info", lambda text, *values: lines.append(text % values))
    monkeypatch.setattr(train_encoders, "_LOG_STEPS", 1 if DRY_RUN else 20)
    if DRY_RUN:
        monkeypatch.setattr(train_encoders, "_examined", lambda test, clip: "not examined")
    steps = 1 if DRY_RUN else 40
    train_encoders.main([*words, "--steps", str(steps)])
    train_encoders.main([*words, "--steps", str(steps + 1)])
    figure(log=lines)
    assert any(f"goes on at step {steps}" in line for line in lines)
    weights = tmp_path / f"{network}.safetensors"
    assert weights.stat().st_size < 16 * 2**20
    if network != "judge":
        features = open_encoder(weights).encode_text(["a portrait of a person with long hair"])
        assert torch.isfinite(features).all() and features.shape == (1, {"clip": 128, "reader": 96}[network])


def test_the_plan_fits_the_limits() -> None:
    config = CLIP_V2.config()
    assert json.loads(json.dumps(config)) == config
