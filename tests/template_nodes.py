"""Which pack each node of a template comes from, as ComfyUI-Manager reads it from a shared workflow."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[1]
PAGE_ONLY = {"MarkdownNote"}  # drawn by the page itself, of no pack
TITLES = {  # of the templates, as ComfyUI lists them, by the name of their API form
    "quick_start": "1 Quick start",
    "own_checkpoint": "2 Your own picture and checkpoint",
    "text_edit": "3 Text edit",
    "target_sweep": "4 Many looks",
    "text_to_style": "5 Text to style",
    "method_comparison": "6 Compare methods",
    "look_mixer": "7 Mix looks",
    "text_directions": "8 Text directions",
    "photo_round_trip": "9 Photo in a new look",
}
CORE = {"LoadImage", "PreviewImage", "SaveImage"}


def template_file(name: str) -> Path:
    """A template by the name of its API form."""
    return PACK / "example_workflows" / f"{TITLES[name]}.json"


def project_text(pattern: str) -> str:
    """One value of pyproject.toml, by a pattern with one group (Python 3.10 cannot parse TOML)."""
    (found,) = re.findall(pattern, (PACK / "pyproject.toml").read_text(encoding="utf-8"), flags=re.M)
    return str(found)


def origin_of(kind: str) -> dict[str, str]:
    """The properties `cnr_id` (registry id) and `ver` of a node type; ours unless it is ComfyUI's."""
    if kind in PAGE_ONLY:
        return {}
    if kind in CORE:
        return {"cnr_id": "comfy-core", "ver": project_text(r'^requires-comfyui = ">=([^"]+)"')}
    return {"cnr_id": project_text(r'^name = "([^"]+)"'), "ver": project_text(r'^version = "([^"]+)"')}


def with_origins(template: dict[str, Any]) -> dict[str, Any]:
    """The template with every node's origin in its properties."""
    for node in nodes_of(template):
        node["properties"] = {**node.get("properties", {}), **origin_of(node["type"])}
    return template


def nodes_of(template: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a template that do something: those inside of subgraphs instead of the subgraphs."""
    packed = template.get("definitions", {}).get("subgraphs", [])
    found = chain(template["nodes"], *(one["nodes"] for one in packed))
    return [node for node in found if node["type"] not in {one["id"] for one in packed}]
