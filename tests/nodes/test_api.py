"""The node API: a pinned version, taken in one place, with a way on for a ComfyUI that has dropped it."""

from __future__ import annotations

import ast
import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest

NODES = Path(__file__).resolve().parents[2] / "nodes"
NAMES = ("ComfyExtension", "io", "ui")


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """A stand-in `comfy_api` with a pinned and a latest version."""
    made = {}
    monkeypatch.setitem(sys.modules, "comfy_api", ModuleType("comfy_api"))
    for version in ("v0_0_2", "latest"):
        made[version] = ModuleType(f"comfy_api.{version}")
        for name in NAMES:
            setattr(made[version], name, f"{version} {name}")
        monkeypatch.setitem(sys.modules, f"comfy_api.{version}", made[version])
    return made


def loaded() -> ModuleType:
    """The pack's api.py, executed now."""
    spec = importlib.util.spec_from_file_location("oneshot_test_api", NODES / "api.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pinned_version_is_taken(
    versions: dict[str, ModuleType], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        api = loaded()
    assert [getattr(api, name) for name in NAMES] == [f"v0_0_2 {name}" for name in NAMES]
    assert caplog.messages == []


@pytest.mark.parametrize("missing", ["the version", "one of its names"])
def test_the_latest_is_taken_with_one_line_where_it_is_gone(
    versions: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    missing: str,
) -> None:
    if missing == "the version":
        monkeypatch.delitem(sys.modules, "comfy_api.v0_0_2")
    else:
        del versions["v0_0_2"].ui
    with caplog.at_level(logging.WARNING):
        api = loaded()
    assert [getattr(api, name) for name in NAMES] == [f"latest {name}" for name in NAMES]
    (line,) = caplog.messages
    assert "comfy_api.v0_0_2" in line and "\n" not in line


@pytest.mark.parametrize("path", sorted(NODES.glob("*.py")), ids=lambda path: path.name)
def test_nobody_else_chooses_a_version(path: Path) -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    assert path.name == "api.py" or "comfy_api" not in imported
