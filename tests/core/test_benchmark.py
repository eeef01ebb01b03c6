"""The demo-world benchmark runs, goes on where it stopped, and its measures tell good from bad."""

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
    words = ["--steps", "2", "--search-steps", "2", "--looks", "neon", "--seeds", "1", "--jobs", "1"]
    told = run(tmp_path, *words, "--variants", "official", "pixel search")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["variant"] for row in rows] == ["official", "pixel search"]
    for row in rows:
        assert abs(row["gap_closed"]) < 0.3  # two steps change next to nothing
        assert (
            abs(row["content_kept"] - row["source_content_kept"]) < 0.2
            and abs(row["floor"]) < 0.1 * row["source_distance"]
        )
    assert "| neon | official | 1 |" in told and "| all looks | pixel search | 1 |" in told
    again = run(tmp_path, *words, "--variants", "official", "pixel search")
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2
    assert again.splitlines()[-1] == told.splitlines()[-1]
