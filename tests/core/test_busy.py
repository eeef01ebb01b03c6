"""The benchmark of a busy CPU: it measures both ways, compares the results, and ends what it started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import busy  # noqa: E402

sys.path.pop(0)


@pytest.mark.slow
def test_a_short_run_tells_both_ways_and_the_same_results(capsys: pytest.CaptureFixture) -> None:
    threads = str(torch.get_num_threads())
    busy.main(["--others", "1", "--threads", threads, "--search", "2", "--train", "1"])
    told = capsys.readouterr().out
    for words in ("spinning (", "chosen (", "2 steps in", "1 steps in", "the results are the same"):
        assert words in told


def test_a_half_that_takes_too_long_is_left() -> None:
    half = busy.Half(limit_seconds=0.0)

    class Now:
        step, steps, notes = 1, 2, ()

    with pytest.raises(busy.LimitReached):
        half.report(Now)
    assert half.told().startswith("1 steps in")
    Now.step = 2
    half.report(Now)


def test_the_other_programs_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started, open_process = [], busy.subprocess.Popen
    monkeypatch.setattr(
        busy.subprocess, "Popen", lambda *words: started.append(open_process(*words)) or started[-1]
    )
    with pytest.raises(KeyError), busy.others(2):
        assert [process.poll() for process in started] == [None, None]
        raise KeyError
    assert len(started) == 2 and all(process.poll() is not None for process in started)
