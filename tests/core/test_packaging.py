"""What installing the pack does: dependencies, the project's description, what ships."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
COMFYUI_BRINGS = {"torch", "torchvision", "numpy", "pillow", "safetensors", "tqdm"}
# Distribution of a package by the name that is imported; others have the same name.
DISTRIBUTIONS = {"PIL": "pillow", "open_clip": "open-clip-torch", "dlib": "dlib-bin"}
BATCH = {"aiohttp"}  # of `oneshot batch --server`, imported where it is used
RAY = {"ray"}  # of `oneshot batch --ray`, in a process of its own
EVALUATE = {"torch-fidelity"}
FACES = {"dlib-bin"}  # imported where faces are looked for
FACES_DATA = {"face-recognition-models"}  # of which one file is read
UNLESS_MISSING = {"huggingface-hub"}  # looked up for a cache of weights where open_clip brought it
COMFYUI_ITSELF = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "nodes"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    toml = pytest.importorskip("tomllib", reason="Python 3.10 cannot parse TOML")
    return toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def normal(requirement: str) -> str:
    """Name of a requirement as package indexes compare it."""
    (name,) = re.findall(r"^[A-Za-z0-9._-]+", requirement.strip())
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    """Lines of requirements.txt that name a package."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def third_party() -> set[str]:
    """Distributions that the engine and the nodes import, wherever in a file."""
    found = set()
    for path in [*(ROOT / "oneshot_core").rglob("*.py"), *(ROOT / "nodes").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    found -= set(sys.stdlib_module_names) | COMFYUI_ITSELF
    return {normal(DISTRIBUTIONS.get(name, name)) for name in found}


def test_requirements_cannot_replace_what_comfyui_brought() -> None:
    names = {normal(line) for line in requirements()}
    assert names and not names & COMFYUI_BRINGS
    for line in requirements():
        assert re.fullmatch(r"[\w.-]+(>=[\d.]+)?", line), f"{line}: a lower bound at most"


def test_requirements_are_the_projects_without_what_comfyui_brings(project: dict[str, Any]) -> None:
    declared = {normal(line): line for line in project["project"]["dependencies"]}
    assert set(declared) >= COMFYUI_BRINGS
    for name in COMFYUI_BRINGS:
        del declared[name]
    assert {normal(line): line for line in requirements()} == declared


def test_what_is_imported_is_declared_and_the_other_way_round(project: dict[str, Any]) -> None:
    declared = {normal(line) for line in project["project"]["dependencies"]}
    optional = BATCH | RAY | EVALUATE | FACES | UNLESS_MISSING | {"facenet-pytorch"}
    assert third_party() - optional == declared
    extras = project["project"]["optional-dependencies"]
    assert {normal(line) for line in extras["batch"]} == BATCH
    assert {normal(line) for line in extras["ray"]} == RAY
    # Identity's package pins an old torch, so that no extra may bring it.
    assert {normal(line) for line in extras["evaluate"]} == EVALUATE
    assert {normal(line) for line in extras["faces"]} == FACES | FACES_DATA
    assert "ninja" not in declared and "ops" not in extras  # nothing is compiled


def test_the_registry_is_told_what_it_asks_for(project: dict[str, Any]) -> None:
    values, comfy = project["project"], project["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9-]+", values["name"]) and "comfyui" not in values["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", values["version"])
    assert values["urls"]["Repository"].startswith("https://")
    assert "Operating System :: OS Independent" in values["classifiers"]
    assert comfy["requires-comfyui"] == ">=0.8.0" and "0.8.0" in (ROOT / "README.md").read_text("utf-8")
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert "web" not in comfy  # WEB_DIRECTORY says it; both would run every script twice


@pytest.mark.parametrize(("key", "shape", "largest_px"), [("Icon", (1, 1), 400), ("Banner", (21, 9), 2100)])
def test_icon_and_banner_are_there(
    project: dict[str, Any], key: str, shape: tuple[int, int], largest_px: int
) -> None:
    address = project["tool"]["comfy"][key]
    raw = project["project"]["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com")
    assert address.startswith(f"{raw}/main/")
    path = ROOT / address.removeprefix(f"{raw}/main/")
    with Image.open(path) as picture:
        assert picture.width * shape[1] == picture.height * shape[0]
        assert 200 <= picture.width <= largest_px
    assert path.stat().st_size < 200_000


def test_the_engines_data_files_are_packed(project: dict[str, Any]) -> None:
    """The wheel holds what the engine reads beside its code: the demo, the schema of plans, the workflow."""
    tools, engine = project["tool"]["setuptools"], ROOT / "oneshot_core"
    (patterns,) = tools["package-data"].values()
    packed = {path for pattern in patterns for path in engine.glob(pattern)}
    files = {path for path in engine.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix not in (".py", ".pyc")} <= packed
    assert {"plan.schema.json", "batch_workflow.json", "generator.safetensors"} <= {p.name for p in packed}


def test_what_is_ignored_is_there() -> None:
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert line.lstrip("!").startswith("/"), f"{line}: would match anywhere, such as web/docs"
        assert (ROOT / line.lstrip("!/").rstrip("*/")).exists(), line
