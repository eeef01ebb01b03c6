"""What pipelines do: run the shipped workflows, use the plain client, run batches over a restart."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PACK, Server
from conftest import DEMO, WORKFLOWS

from oneshot_core import load
from oneshot_core.demo.world import target_path

Workflow = Callable[..., dict[str, Any]]
TEMPLATES = sorted(path.stem for path in (PACK / "example_workflows").glob("*.json"))
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
    jobs = json.loads((tmp_path / "out" / "manifest.json").read_text())["jobs"]
    for job in jobs.values():
        (saved,) = [one["path"] for one in job["files"] if one["kind"] == "generators"]
        assert load(tmp_path / "out" / saved).provenance.history["step"] == STEPS
