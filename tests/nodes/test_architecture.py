"""The shape of the nodes: one file touches ComfyUI's runtime, nodes are thin, sizes within budget."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

NODES = Path(__file__).parents[2] / "nodes"
FILES = sorted(NODES.glob("*.py"))
MAX_EXECUTE_LINES = 25
RUNTIME = {"comfy", "comfy_execution", "folder_paths", "server", "nodes", "execution"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_sizes_stay_in_budget(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            most = MAX_EXECUTE_LINES if node.name == "execute" else 60
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= most, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_the_bridge_touches_the_runtime_and_no_node_computes_with_tensors(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = {(node.module or "").split(".")[0]}
        else:
            continue
        assert path.name == "bridge.py" or not modules & RUNTIME
        if path.name not in ("bridge.py", "pictures.py", "values.py"):  # look at what arrives, turn it around
            assert "torch" not in modules or isinstance(node, ast.ImportFrom), "types only"
