"""A plan on two real servers, of which one is killed: all is done once, and is what one server makes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PACK, Server, equal
from manifests import lines_of, manifest_of
from safetensors.numpy import load_file

Workflow = Callable[..., dict[str, Any]]
STEPS, JOBS = 12, 8


def plan(folder: Path, graph: dict[str, Any]) -> Path:
    """A plan of one target and several seeds."""
    graph["3"] = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
    (folder / "workflow.json").write_text(json.dumps(graph))
    values = {
        "format": "oneshot-batch",
        "format_version": 1,
        "workflow": "workflow.json",
        "grid": {"targets": ["demo:watercolour"], "seeds": list(range(1, JOBS + 1))},
    }
    (folder / "plan.json").write_text(json.dumps(values))
    return folder / "plan.json"


def batch(file: Path, out: Path, servers: list[Server]) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "oneshot_core", "batch", str(file), "--out", str(out), "--json"]
    for server in servers:
        words += ["--server", server.url]
    return subprocess.Popen(words, cwd=PACK, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def generators(out: Path) -> dict[str, dict[str, Any]]:
    """Weights of every job's generator."""
    found = {}
    for name, entry in manifest_of(out).items():
        (path,) = [file["path"] for file in entry["files"] if file["kind"] == "generators"]
        found[name] = load_file(out / path)
    return found


def done_by(out: Path, server: Server) -> list[str]:
    if not (out / "manifest.jsonl").exists():
        return []
    return [one["job"] for one in lines_of(out) if one["status"] == "done" and one["server"] == server.url]


def test_two_servers_of_which_one_is_killed(comfy: Path | None, workflow: Workflow, tmp_path: Path) -> None:
    if comfy is None:
        pytest.skip("no ComfyUI found; set COMFYUI_PATH")
    file, out = plan(tmp_path, workflow(OneShotAdapt={"steps": STEPS})), tmp_path / "out"
    both = [Server(comfy, tmp_path / name).start() for name in ("first", "second")]
    dying, other = both
    client = batch(file, out, both)
    try:
        deadline = time.monotonic() + 400
        while not (done_by(out, dying) and done_by(out, other) and dying.get("/queue")["queue_running"]):
            assert client.poll() is None, client.communicate()[1]
            assert time.monotonic() < deadline, dying.log_text()[-2000:]
            time.sleep(0.1)
        dying.stop(kill=True)
        told, errors = client.communicate(timeout=500)
        assert client.returncode == 0, errors
        assert json.loads(told)["counts"] == {"done": JOBS}
        lines = [line["job"] for line in lines_of(out) if line["status"] == "done"]
        assert sorted(lines) == sorted(manifest_of(out)) and len(lines) == JOBS
        assert "given back by" in errors and done_by(out, dying)
        alone = batch(file, tmp_path / "alone", [other])
        told, errors = alone.communicate(timeout=500)
        assert alone.returncode == 0, errors
        here, there = generators(out), generators(tmp_path / "alone")
        assert here.keys() == there.keys()
        assert all(equal(here[name], there[name]) for name in here)
    finally:
        client.kill()
        for server in both:
            server.stop(kill=True)
