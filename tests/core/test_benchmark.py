"""The referee on the demo world runs, goes on where it stopped, and tells its untrained arms apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "benchmarks" / "demo_world.py"


def run(out: Path, *words: str) -> str:
    command = [sys.executable, str(SCRIPT), "--out", str(out), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout


@pytest.mark.slow
def test_rows_are_computed_once_and_laid_out(tmp_path: Path) -> None:
    changes = {"short search": {"search": {"steps": 2}}, "shorter": {"search": {"steps": 1}}}
    (tmp_path / "variants.json").write_text(json.dumps(changes))
    words = ["--steps", "4", "--looks", "line art", "--people", "1", "--jobs", "1"]
    words += ["--variants-file", str(tmp_path / "variants.json")]
    told = run(tmp_path, *words)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    rows = {row["variant"]: row for row in map(json.loads, lines)}
    scores = {name: row["own_truth"] for name, row in rows.items()}
    assert scores["truth"] == pytest.approx(1)
    assert min(scores["half"], scores["supervised"]) > max(scores["source"], scores["collapse"])
    assert abs(scores["another's truth"]) < 0.1 and rows["mean truth"]["retrieval"] < 0.1
    assert rows["truth"]["along"] == pytest.approx(1) and rows["collapse"]["diversity"] == 0
    for name in changes:  # four steps change little
        assert abs(rows[name]["own_truth"] - rows["source"]["own_truth"]) < 0.15
        assert sorted(rows[name]["curve"]) == ["1", "2"] and rows[name]["seconds"] > 0
    assert "| short search less |" in told and "| line art |" in told and "no verdict" not in told
    again = run(tmp_path, *words)
    assert (tmp_path / "rows.jsonl").read_text().splitlines() == lines
    assert again.splitlines()[-1] == told.splitlines()[-1]
    changes["shorter"]["search"]["steps"] = 3  # another setting under the same name is another row
    (tmp_path / "variants.json").write_text(json.dumps(changes))
    run(tmp_path, *words, "--variants", "shorter", "--no-arms")
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(lines) + 1
