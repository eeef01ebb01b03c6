"""What pipelines do: run the shipped workflows, use the plain client, run batches over a restart."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PACK, TINY, Server
from conftest import DEMO, WORKFLOWS
from manifests import manifest_of
from template_nodes import TITLES

from oneshot_core import load
from oneshot_core.demo.world import target_path

Workflow = Callable[..., dict[str, Any]]
TEMPLATES = sorted(TITLES)
STEPS = 30  # of a batch's jobs: some seconds, so that one of them is interrupted
DEMO_ENCODERS = {"clip": "demo", "perceptual": "demo", "download": False}


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_workflow_runs_on_the_demo(server: Server, workflow: Workflow, name: str) -> None:
    edit = {"method.steps": 2} if name == "text_edit" else {}
    graph = workflow(name, LoadStyleGAN=DEMO, OneShotLoadEncoders=DEMO_ENCODERS, StyleCLIPEdit=edit)
    outputs = server.run(graph)
    for key, node in graph.items():
        if node["class_type"] in ("PreviewImage", "SaveImage"):
            assert outputs[key]["images"], key
        if node["class_type"] == "OneShotSaveGenerator":
            assert outputs[key]["generators"], key


def test_the_plain_client_fetches_the_generator(server: Server, workflow: Workflow, tmp_path: Path) -> None:
    lines = [line for line in (WORKFLOWS / "plain_client.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 40  # it is documented as short
    (tmp_path / "workflow.json").write_text(json.dumps(workflow(OneShotAdapt={"seed": 31})))
    words = [server.url, str(tmp_path / "workflow.json"), str(tmp_path / "out")]
    subprocess.run([sys.executable, str(WORKFLOWS / "plain_client.py"), *words], check=True, timeout=300)
    (saved,) = (tmp_path / "out").glob("*.safetensors")
    assert load(saved).provenance.history["step"] == 4


def plan(folder: Path, graph: dict[str, Any], seeds: list[int]) -> Path:
    """A plan of one target and several seeds."""
    graph["3"] = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
    (folder / "workflow.json").write_text(json.dumps(graph))
    values = {
        "format": "oneshot-batch",
        "format_version": 1,
        "workflow": "workflow.json",
        "grid": {"targets": [str(target_path("watercolour"))], "seeds": seeds},
    }
    (folder / "plan.json").write_text(json.dumps(values))
    return folder / "plan.json"


def test_a_batch_survives_a_restart_of_the_server(
    comfy: Path | None, workflow: Workflow, tmp_path: Path
) -> None:
    if comfy is None:
        pytest.skip("no ComfyUI found; set COMFYUI_PATH")
    file = plan(tmp_path, workflow(OneShotAdapt={"steps": STEPS}), [1, 2, 3])
    words = ["batch", str(file), "--out", str(tmp_path / "out"), "--json"]
    server = Server(comfy, tmp_path / "base").start()
    client = subprocess.Popen(
        [sys.executable, "-m", "oneshot_core", *words, "--server", server.url],
        cwd=PACK, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while not list((tmp_path / "out").rglob("*.safetensors")):
            assert client.poll() is None and time.monotonic() < deadline, server.log_text()[-2000:]
            time.sleep(0.1)
        server.stop(kill=True)  # one job is done, another runs, one waits
        server.start()
        told, errors = client.communicate(timeout=300)
    finally:
        client.kill()
        server.stop()
    assert client.returncode == 0, errors
    assert json.loads(told)["counts"] == {"done": 3}
    jobs = manifest_of(tmp_path / "out")
    for job in jobs.values():
        (saved,) = [one["path"] for one in job["files"] if one["kind"] == "generators"]
        assert load(tmp_path / "out" / saved).provenance.history["step"] == STEPS


def batch(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `oneshot batch`, and insist on its exit code."""
    command = [sys.executable, "-m", "oneshot_core", "batch", *words]
    told = subprocess.run(command, cwd=PACK, capture_output=True, text=True, timeout=300, check=False)
    assert told.returncode == code, told.stderr
    return told


@pytest.mark.parametrize("name", ["quick_start", "demo"])
def test_an_exported_quick_start_and_the_shipped_workflow_run_as_they_are(
    server: Server, workflow: Workflow, tmp_path: Path, name: str
) -> None:
    (tmp_path / "quick_start.json").write_text((WORKFLOWS / "quick_start.json").read_text())
    values = {
        "format": "oneshot-batch",
        "format_version": 1,
        "workflow": "demo" if name == "demo" else "quick_start.json",
        "defaults": {"steps": 2, "set": {"CLIPLatentSearch.steps": 2}},
        "grid": {"targets": ["demo:watercolour"], "generators": [TINY, "demo"]},
    }
    (tmp_path / "plan.json").write_text(json.dumps(values))
    words, asked = (str(tmp_path / "plan.json"), "--server", server.url), server.get("/history")
    assert "is ComfyUI" in batch(*words, "--check").stdout
    assert server.get("/history") == asked and not list(server.base.rglob("target_watercolour*"))
    batch(*words, "--out", str(tmp_path / "out"))
    jobs = manifest_of(tmp_path / "out")
    assert list(jobs) == ["tiny", "demo"]
    for job, entry in jobs.items():
        paths = [file["path"] for file in entry["files"]]
        pictures = [path for path in paths if path.startswith(f"pictures/watercolour-{job}_")]
        assert len(pictures) == (9 if name == "demo" else 8) and len(paths) == len(pictures) + 1
        assert entry["losses"]["lpips"] > 0 and entry["seconds"] > 0
        assert set(entry["versions"]) == {"comfyui", "torch", "python", "oneshot-stylegan"}
    assert any("has seen only the demo's portraits" in note for note in jobs["tiny"]["notes"])
    shutil.rmtree(server.base / "input" / "oneshot")


def test_a_check_names_what_the_server_lacks(server: Server, tmp_path: Path) -> None:
    values = {
        "format": "oneshot-batch",
        "format_version": 1,
        "workflow": "workflow.json",
        "jobs": [{"target": "demo:comic", "generator": "nothing.pt", "set": {"2.perceptual": "alexander"}}],
    }
    graph = json.loads((WORKFLOWS / "quick_start.json").read_text())
    graph["10"] = {"class_type": "NoSuchNode", "inputs": {"images": ["6", 0]}}
    (tmp_path / "workflow.json").write_text(json.dumps(graph))
    (tmp_path / "plan.json").write_text(json.dumps(values))
    lines = batch(str(tmp_path / "plan.json"), "--server", server.url, "--check", code=1).stderr.splitlines()
    starts = [
        "problem: it has no node type NoSuchNode;",
        "problem: node 1 (LoadStyleGAN): ",
        "problem: node 2 (",
    ]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=False)] == starts
    assert "'nothing.pt'" in lines[1] and "it offers alex, " in lines[2] and len(lines) == 4
