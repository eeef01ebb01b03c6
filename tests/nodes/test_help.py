"""Every node has a help page that names all its inputs and outputs and shows a picture."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_pack import loaded, needs_comfy
from PIL import Image

PACK = Path(__file__).resolve().parents[2]
PAGES, TEMPLATES = PACK / "web" / "docs", PACK / "example_workflows"
SCHEMAS = json.loads((Path(__file__).parent / "schemas.json").read_text(encoding="utf-8"))
NAMES = json.loads((PACK / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
MAX_BYTES = 60_000


def all_inputs(node: dict[str, Any]) -> Iterator[str]:
    """Ids of a node's inputs, also of those inside dynamic combos."""
    for name, (*_, nested) in node["inputs"].items():
        yield name
        for option in (nested or {}).values():
            yield from all_inputs(option)


def numbers(inputs: dict[str, dict[str, list[Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Number inputs as ComfyUI describes them, also those inside dynamic combos."""
    for name, (kind, *settings) in (item for group in inputs.values() for item in group.items()):
        if kind in ("INT", "FLOAT"):
            yield name, settings[0]
        elif kind == "COMFY_DYNAMICCOMBO_V3":
            for option in settings[0]["options"]:
                yield from numbers(option["inputs"])


def test_pages_are_those_of_the_nodes() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_page_explains_everything(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {NAMES[name]['display_name']}\n")
    rows = set(re.findall(r"^\| `(\w+)`", text, flags=re.M))
    outputs = {output["name"] for output in NAMES[name]["outputs"].values()}
    assert rows == {*all_inputs(SCHEMAS[name]), *outputs}
    for part in ("## Inputs", "## Outputs", "## Typical settings", "## When it goes wrong"):
        assert f"\n{part}\n" in text
    assert "<!--" not in text  # nothing is left to be filled in


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_page_says_of_inputs_what_the_node_says(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    for one in (*NAMES[name]["inputs"].values(), *NAMES[name]["outputs"].values()):
        assert one["tooltip"] in text, one


@needs_comfy()
def test_a_page_says_how_far_numbers_go() -> None:
    for name, node in loaded()[0]["nodes"].items():
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8").replace("2^53 - 1", str(2**53 - 1))
        for one, settings in numbers(node["inputs"]):
            row = re.search(rf"^\| `{one}`.* Default: (\S+), from (\S+) to (\S+)\. \|$", text, flags=re.M)
            assert row, (name, one)
            assert [float(v) for v in row.groups()] == [float(settings[k]) for k in ("default", "min", "max")]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_page_shows_a_picture(name: str) -> None:
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (PAGES / f"{name}.md").read_text(encoding="utf-8"))
    assert links == [f"images/{name}.jpg"]


def test_pictures_are_small_and_used() -> None:
    pictures = sorted((PAGES / "images").iterdir())
    assert [path.stem for path in pictures] == sorted(SCHEMAS)
    for path in (*pictures, *TEMPLATES.glob("*.jpg")):
        assert path.stat().st_size <= MAX_BYTES
        with Image.open(path) as picture:
            assert 200 <= picture.width <= 640


def test_every_template_has_a_thumbnail() -> None:
    assert {path.stem for path in TEMPLATES.glob("*.jpg")} == {p.stem for p in TEMPLATES.glob("*.json")}
