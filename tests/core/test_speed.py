"""The speed benchmark: what it reads from the command line, how it sums up, and a run on tiny networks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import speed  # noqa: E402

sys.path.pop(0)


def test_variants_are_a_precision_and_extras() -> None:
    assert speed.Variant.parse("bfloat16+channels_last") == speed.Variant(
        "bfloat16", "channels_last", False, False
    )
    for text in ("half", "tf32+fast"):
        with pytest.raises(ValueError, match="a variant is one of"):
            speed.Variant.parse(text)
    with pytest.raises(SystemExit):
        speed.parsed(["--out", "x", "--kinds", "search,guess"])


def test_the_mix_is_sixteen_steps_of_the_schedule() -> None:
    kinds = {kind: speed.summary([1.0, 3.0, 2.0]) for kind in speed.KINDS}
    assert kinds["random"] == {"median": 2.0, "least": 1.0, "most": 3.0, "count": 3}
    assert speed.mix_seconds(kinds) == 32.0
    assert speed.mix_seconds({"random": kinds["random"]}) is None


def test_flags_are_as_before_afterwards() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    with speed.arithmetic(speed.Variant.parse("float32+benchmark")):
        assert not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.benchmark
    assert before == (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark)


@pytest.mark.slow
def test_a_tiny_run_measures_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--out", str(tmp_path), "--device", "cpu", "--sizes", "64", "--variants", "float32"]
    words += ["--repeats", "1", "--width-share", "0.01", "--clip", "demo", "--one-process", "--no-ceilings"]
    speed.main([*words, "--threads", str(torch.get_num_threads())])
    found = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    (case,) = found["cases"]
    assert set(case["kinds"]) == set(speed.KINDS) and case["mix_of_16"] > 0
    assert all(times["least"] > 0 for times in case["kinds"].values())
    assert list(case["phases"]["reference with R1"]) == ["discriminator", "r1", "generator", "average"]
    assert case["estimates"]["training"] > 0 and case["training_peak_bytes"] > 0
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "| 64 px, float32 |" in text and text.strip() in capsys.readouterr().out
