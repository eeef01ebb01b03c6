"""Training of the demo's encoders: by steps or by the clock, files that load, and going on after an end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oneshot_core.checkpoints.native import read_tensors
from oneshot_core.demo.making import train_encoders
from oneshot_core.demo.making.entrance import open_encoder
from oneshot_core.demo.making.judge import JUDGE_LOOKS, load_judge
from oneshot_core.demo.making.people import draw_people
from oneshot_core.demo.making.pretrain import Trainee
from oneshot_core.demo.making.pretrain_clip import CLIP_V2, READER, ClipPlan, ClipTask
from oneshot_core.demo.making.pretrain_judge import explained
from oneshot_core.demo.making.train_encoders import Average, Course, main, start_from, write_clip

SMALL = ClipPlan(
    {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    embed_dim=16, text_width=16, text_layers=1, groups=1, group=4, crop_people=1, warm_up_steps=1,
)  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of seconds, and no entrance test, whose pictures take longer than all the rest."""

    monkeypatch.setattr(train_encoders, "_PLANS", {"clip": SMALL, "reader": SMALL})
    monkeypatch.setattr(train_encoders, "_examined", lambda test, clip: "not examined")
    monkeypatch.setattr(train_encoders, "EntranceTest", lambda **settings: None)


def train(out: Path, steps: int, network: str = "clip", *words: str) -> dict[str, torch.Tensor]:
    sizes = [
        "--people",
        "5",
        "--test-people",
        "4",
        "--device",
        "cpu",
        "--threads",
        str(torch.get_num_threads()),
    ]
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    try:
        main(["--network", network, "--out", str(out), "--steps", str(steps), *sizes, *words])
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
    return read_tensors(out / f"{network}.safetensors")[0]


def test_a_course_ends_by_steps_or_by_the_clock() -> None:
    assert Course(10, None).share(5, 1e9) == 0.5
    assert Course(None, 100.0).share(7, 25.0) == 0.25
    assert Course(10, 100.0).share(9, 100.0) == 1.0
    with pytest.raises(ValueError, match="--steps or --seconds"):
        Course(None, None)


def test_the_average_follows_weights_and_statistics() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = Average(net, 0.5)
    before = average.module[0].weight.clone()
    with torch.no_grad():
        net[0].weight.add_(1.0)
        net[1].running_mean.add_(1.0)
        net[1].num_batches_tracked.add_(3)
    average.update(1000)
    assert torch.allclose(average.module[0].weight, before + 0.5)
    assert torch.allclose(average.module[1].running_mean, torch.full((2,), 0.5))
    assert int(average.module[1].num_batches_tracked) == 3


@pytest.mark.slow
def test_a_training_goes_on_exactly_and_its_file_loads(tmp_path: Path, small: None) -> None:
    whole = train(tmp_path / "whole", 4)
    train_until(tmp_path / "parts", stop=2, steps=4)
    resumed = train(tmp_path / "parts", 4)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert any(value.dtype == torch.float16 for value in whole.values())
    clip = open_encoder(tmp_path / "whole" / "clip.safetensors")
    features = clip.encode_text(["a portrait of a person with long hair", "a neon sign of a man"])
    assert features.shape == (2, 16) and torch.isfinite(features).all()
    task = ClipTask(SMALL, 1)
    start_from(task.model, tmp_path / "whole" / "clip.safetensors")
    assert all(
        torch.equal(value.to(whole[name]), whole[name]) for name, value in task.model.state_dict().items()
    )


def train_until(out: Path, stop: int, steps: int) -> None:
    """Train towards `steps` and be interrupted after saving step `stop`."""

    class Interrupted(Exception):
        pass

    saved = train_encoders.Loop._save

    def save(self: train_encoders.Loop, trainee: Trainee, average: Average) -> None:
        saved(self, trainee, average)
        if trainee.step == stop:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_encoders, "_SAVE_SECONDS", -1.0)  # after every step
        patch.setattr(train_encoders.Loop, "_save", save)
        with pytest.raises(Interrupted):
            train(out, steps)


@pytest.mark.slow
def test_the_judge_trains_and_loads(tmp_path: Path) -> None:
    train(tmp_path, 2, "judge", "--groups", "1", "--group", "3")
    judge = load_judge(tmp_path / "judge.safetensors")
    assert judge.looks == JUDGE_LOOKS
    people = draw_people(3, ("plain",), 1, torch.device("cpu"))
    assert explained(judge, people, 0).shape == (25,)


def test_the_real_plans_stay_within_their_size(tmp_path: Path) -> None:
    for name, plan, limit in (("clip", CLIP_V2, 20e6), ("reader", READER, 12e6)):
        write_clip(ClipTask(plan, 0).model, plan, tmp_path / f"{name}.safetensors", {})
        assert (tmp_path / f"{name}.safetensors").stat().st_size < limit
    assert CLIP_V2.vision != READER.vision
