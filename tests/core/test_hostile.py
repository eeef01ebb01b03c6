"""Hostile and damaged files: refused with a clear error, without running anything, quickly, in little memory.

All samples of `golden/hostile` are opened in one fresh process with a temporary working directory, a limit on
its address space and a meter on its memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from golden_support import golden_dir

pytestmark = pytest.mark.golden

ROOT = Path(__file__).parents[2]
MAX_SECONDS = 5.0
MAX_GROWTH_MB = 1024
HARMLESS = "NOT hostile"  # how the manifest marks the one sample that only looks suspicious

WORKER = """
import json, sys, time
import torch
from oneshot_core import checkpoints

def peak_mb():
    try:
        import resource
    except ImportError:
        return 0
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

def limit_memory():
    try:
        import resource
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 1024**3,) * 2)
    except (ImportError, OSError):
        pass

torch.set_num_threads(1)
limit_memory()
for path in sys.argv[1:]:
    for name in ("inspect", "load", "read_state_dict", "read_tensors"):
        before, start = peak_mb(), time.perf_counter()
        try:
            getattr(checkpoints, name)(path)
            error, message = None, ""
        except BaseException as caught:
            error, message = type(caught).__name__, str(caught)
        seconds, growth = time.perf_counter() - start, peak_mb() - before
        print(json.dumps({"path": path, "action": name, "error": error, "message": message,
                          "seconds": seconds, "growth_mb": growth}), flush=True)
"""


def samples() -> list[dict[str, Any]]:
    manifest = golden_dir() / "hostile" / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.exists() else []
    return [entry for entry in entries if (manifest.parent / entry["file"]).exists()]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    """What each function made of each sample."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = [str((golden_dir() / "hostile" / entry["file"]).resolve()) for entry in samples()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, *paths],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for line in done.stdout.splitlines():
        outcome = json.loads(line)
        found.setdefault(Path(outcome["path"]).name, {})[outcome["action"]] = outcome
    assert done.returncode == 0, f"the reader crashed after {list(found)[-1:]}: {done.stderr[-2000:]}"
    assert list(folder.iterdir()) == [], "a sample left a file behind: something in it was run"
    return found


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["file"]) for entry in samples()])
def test_sample(entry: dict[str, Any], outcomes: dict[str, dict[str, dict[str, Any]]]) -> None:
    for action, outcome in outcomes[entry["file"]].items():
        assert outcome["seconds"] < MAX_SECONDS, action
        assert outcome["growth_mb"] < MAX_GROWTH_MB, action
        assert outcome["error"] in (None, "CheckpointError", "UnsafePickleError"), outcome
    for action in ("inspect", "load"):
        outcome = outcomes[entry["file"]][action]
        if HARMLESS in entry["what"]:
            assert outcome["error"] == "CheckpointError", outcome  # its g_ema is no whole network
            continue
        # NaN and infinity are only seen when the weights are read
        if action == "load" or not any(word in entry["what"].lower() for word in ("nan", "infinit")):
            assert outcome["error"] is not None, f"{action} accepted {entry['what']}"
            assert entry["file"] in outcome["message"]


def test_code_is_named_as_the_reason(outcomes: dict[str, dict[str, dict[str, Any]]]) -> None:
    """A sample that would call something says what, so that a user knows that the file is not just broken."""
    for entry in samples():
        if entry["marker_file"] and "REDUCE of" in entry["what"]:
            assert outcomes[entry["file"]]["load"]["error"] == "UnsafePickleError"
            assert "system" in outcomes[entry["file"]]["load"]["message"] or "Popen" in str(
                outcomes[entry["file"]]
            )


def test_every_kind_of_sample_is_there() -> None:
    if not samples():
        pytest.skip(f"no hostile samples in {golden_dir()}")
    assert {Path(entry["file"]).suffix for entry in samples()} >= {".pkl", ".pt", ".safetensors", ".npz"}
