"""The pack loaded by ComfyUI's real loader: ids, inputs, defaults, texts, imports."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_pack import loaded, needs_comfy
from comfy_server import PACK

from oneshot_core import PRECISIONS, PRESETS, PROFILES
from oneshot_core.choices import DEMO_PICTURES, FITS
from oneshot_core.encoder_choice import PERCEPTUAL_NETS
from oneshot_core.sampling import NOISE_MODES

SNAPSHOT = Path(__file__).parent / "schemas.json"
NODE_FILES = sorted((PACK / "nodes").glob("*.py"))
RUNTIME = {"comfy", "folder_paths", "server", "execution", "comfy_execution", "nodes", "aiohttp"}


def frozen(node: dict[str, Any]) -> dict[str, Any]:
    """What saved workflows depend on: input names in order, types, defaults; outputs in order."""
    inputs = {}
    for group in ("required", "optional"):
        for name, (kind, *settings) in node["inputs"].get(group, {}).items():
            values = settings[0] if settings else {}
            options = values.get("options") if not isinstance(kind, list) else kind
            nested = None
            if kind == "COMFY_DYNAMICCOMBO_V3":
                nested = {one["key"]: frozen({"inputs": one["inputs"], "outputs": []}) for one in options}
                options = list(nested)
            listed = [] if name.endswith(("_name", "_file")) else options
            kind = "COMBO" if isinstance(kind, list) else kind
            inputs[name] = [group, kind, values.get("default"), listed, nested]
    return {"inputs": inputs, "outputs": [[o["id"], o["type"]] for o in node["outputs"]]}


def each_input(node: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, type and settings of every input, also of those inside dynamic combos."""
    for group in ("required", "optional"):
        for name, (kind, *settings) in node["inputs"].get(group, {}).items():
            yield name, kind, settings[0] if settings else {}
            for option in settings[0].get("options", []) if kind == "COMFY_DYNAMICCOMBO_V3" else []:
                yield from each_input(option)


@needs_comfy()
def test_schemas_are_those_that_were_recorded() -> None:
    """A change breaks saved workflows; record it with ONESHOT_RECORD=1 only when that is meant."""
    found = {name: frozen(node) for name, node in loaded()[0]["nodes"].items()}
    if os.environ.get("ONESHOT_RECORD"):
        SNAPSHOT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


@needs_comfy()
def test_every_node_input_and_output_is_explained() -> None:
    for name, node in loaded()[0]["nodes"].items():
        assert node["display_name"] and node["description"], name
        for inner, _, settings in each_input(node):
            assert len(settings.get("tooltip") or "") > 15, f"{name}.{inner}"
        for output in node["outputs"]:
            assert output["tooltip"] and output["name"], f"{name}: {output['id']}"


@needs_comfy()
def test_numbers_have_a_range_and_a_default() -> None:
    for name, node in loaded()[0]["nodes"].items():
        for inner, kind, settings in each_input(node):
            if kind in ("INT", "FLOAT"):
                assert settings["min"] <= settings["default"] <= settings["max"], f"{name}.{inner}"


@needs_comfy()
def test_choices_are_the_engines() -> None:
    nodes = loaded()[0]["nodes"]
    offered = {
        (name, inner): settings.get("options")
        for name, node in nodes.items()
        for inner, _, settings in each_input(node)
    }
    assert sorted(offered["OneShotAdapt", "fit"]) == sorted(FITS)
    chosen = json.loads((Path(__file__).parent / "schemas.json").read_text(encoding="utf-8"))
    assert list(chosen["OneShotMethod"]["inputs"]["preset"][4]) == list(PRESETS)
    assert offered["OneShotAdapt", "precision"] == ["auto", *PRECISIONS]
    assert offered["OneShotAdapt", "profile"] == list(PROFILES)
    assert offered["OneShotDemoTarget", "look"] == list(DEMO_PICTURES)
    assert offered["SampleAdapted", "noise"] == list(NOISE_MODES)
    assert sorted(offered["OneShotLoadEncoders", "perceptual"]) == sorted(PERCEPTUAL_NETS)


@needs_comfy()
def test_the_pack_is_imported_quickly_and_silently() -> None:
    answer, log = loaded()
    assert answer["loaded"]
    told = [line.split("|") for line in log.splitlines() if line.startswith("import time:")]
    took = {name.strip(): int(whole) for _, whole, name in told[1:]}  # microseconds, with all that it imports
    # Of what torch takes: a busy machine is slow with both. On a quiet one it is a twentieth.
    assert took[f"{PACK}.nodes"] < took["torch"] / 6
    printed = [line for line in log.splitlines() if not line.startswith("import time:")]
    noise = [line for line in printed if "oneshot" in line.lower()]
    assert noise == []


@pytest.mark.parametrize("path", NODE_FILES, ids=lambda path: path.name)
def test_only_the_bridge_touches_comfyui(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add((node.module or "").split(".")[0])
    assert path.name == "bridge.py" or not imported & RUNTIME


@pytest.mark.parametrize("path", NODE_FILES, ids=lambda path: path.name)
def test_files_and_functions_stay_in_budget(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= (100 if node.name == "define_schema" else 60), f"{node.name} has {length} lines"
