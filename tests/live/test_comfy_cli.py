"""ComfyUI's own command line, comfy-cli: it validates the pack, packs it, and runs the templates as a client.

`make comfy-cli` installs it into an environment of its own; COMFY_CLI names another.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PACK, Server
from conftest import WORKFLOWS
from template_nodes import TITLES, template_file

Workflow = Callable[..., dict[str, Any]]
TEMPLATES = sorted(TITLES)
DEMO_ENCODERS = {"clip": "demo", "perceptual": "demo", "download": False}
MAX_PACKED_BYTES = 22_000_000  # of which 18 are the demo's networks, 1.5 the pictures of the help pages
SHIPPED = {
    "LICENSE", "README.md", "__init__.py", "pyproject.toml", "requirements.txt", "example_workflows",
    "locales", "nodes", "oneshot_core", "subgraphs", "tests", "web",
}  # fmt: skip


@pytest.fixture
def comfy_cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `comfy ...`, knowing nobody and telling nobody."""
    inside = PACK / ".venv-comfy-cli" / "bin" / "comfy"
    found = os.environ.get("COMFY_CLI") or (str(inside) if inside.is_file() else shutil.which("comfy"))
    if found is None:
        pytest.skip("NO COMFY-CLI FOUND: make comfy-cli installs it, or COMFY_CLI names it")
    (tmp_path / "home").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "DO_NOT_TRACK": "1", "NO_COLOR": "1"}
    environment.pop("XDG_CONFIG_HOME", None)

    def run(*words: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = [str(found), "--skip-prompt", *words]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    return run


@pytest.fixture
def copy_of_the_pack(tmp_path: Path) -> Path:
    """The files that git knows, as they are now, as a repository of their own."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PACK, capture_output=True, text=True, check=True)
    folder = tmp_path / "copy"
    for name in filter(None, listed.stdout.split("\0")):
        if (PACK / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PACK / name, folder / name)
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def test_the_registry_would_take_it(comfy_cli: Callable[..., Any], copy_of_the_pack: Path) -> None:
    answer = comfy_cli("node", "validate", cwd=copy_of_the_pack)
    told = answer.stdout + answer.stderr
    assert answer.returncode == 0, told
    assert "All validation checks passed" in told and "warning" not in told.lower(), told


def test_what_is_packed_is_what_is_needed_and_runs(
    comfy_cli: Callable[..., Any], copy_of_the_pack: Path, comfy: Path | None, tmp_path: Path
) -> None:
    answer = comfy_cli("node", "pack", cwd=copy_of_the_pack)
    packed = copy_of_the_pack / "node.zip"
    assert answer.returncode == 0 and packed.stat().st_size < MAX_PACKED_BYTES, answer.stderr
    with zipfile.ZipFile(packed) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "unpacked")
    assert {name.split("/")[0] for name in names} == SHIPPED
    assert {name for name in names if name.startswith("tests/")} == {
        f"tests/workflows/{path.name}" for path in WORKFLOWS.iterdir() if path.is_file()
    }
    pages = {f"web/docs/{path.name}" for path in (PACK / "web" / "docs").glob("*.md")}
    assert pages <= names and "oneshot_core/demo/assets/judge.safetensors" not in names
    if comfy is None:
        pytest.skip("no ComfyUI found; set COMFYUI_PATH")
    server = Server(comfy, tmp_path / "base", packs={"oneshot-stylegan": tmp_path / "unpacked"}).start()
    try:
        assert "OneShotAdapt" in server.get("/object_info"), server.log_text()[-2000:]
    finally:
        server.stop()


def run_words(server: Server, file: Path) -> list[str]:
    """Words of `comfy run` for a server."""
    return [
        "run",
        "--workflow",
        str(file),
        "--host",
        "127.0.0.1",
        "--port",
        str(server.port),
        "--where",
        "local",
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_comfy_run_executes_every_template(
    comfy_cli: Callable[..., Any], server: Server, workflow: Workflow, tmp_path: Path, name: str
) -> None:
    edit = {"method.steps": 2} if name == "text_edit" else {}
    graph = workflow(name, OneShotLoadEncoders=DEMO_ENCODERS, StyleCLIPEdit=edit, OneShotAdapt={"seed": 61})
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(graph), encoding="utf-8")
    before = set(server.get("/history"))
    answer = comfy_cli(*run_words(server, file), "--wait", "--timeout", "300", "--json")
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-1000:]
    last = json.loads(answer.stdout.splitlines()[-1])
    assert last["ok"] is True, last
    (prompt,) = set(server.get("/history")) - before
    entry = server.history(prompt)
    assert entry is not None and entry["status"]["status_str"] == "success"
    saving = {key for key, node in graph.items() if node["class_type"] == "OneShotSaveGenerator"}
    assert {key for key, output in entry["outputs"].items() if "generators" in output} == saving


@pytest.mark.parametrize("name", TEMPLATES)
def test_comfy_run_reads_the_templates_themselves(
    comfy_cli: Callable[..., Any], server: Server, name: str
) -> None:
    """A converter that is not the page's makes the same prompt of a template as the page does."""
    answer = comfy_cli(*run_words(server, template_file(name)), "--print-prompt", "--json")
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-1000:]
    events = [json.loads(line) for line in answer.stdout.splitlines()]
    (shown,) = [event for event in events if event.get("type") == "prompt_preview"]
    expected = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    made, wanted = (
        {key: (node["class_type"], node["inputs"]) for key, node in graph.items()}
        for graph in (shown["prompt"], expected)
    )
    assert made == wanted
