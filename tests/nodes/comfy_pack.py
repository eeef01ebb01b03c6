"""The pack as ComfyUI's loader sees it, described by ComfyUI's own interpreter."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PACK, comfy_folders, comfy_python

SCRIPT = Path(__file__).parent / "dump_schemas.py"


def needs_comfy() -> pytest.MarkDecorator:
    """Skip where no ComfyUI is found."""
    return pytest.mark.skipif(
        not comfy_folders(), reason="NO COMFYUI FOUND: set COMFYUI_PATH to test the nodes"
    )


@cache
def printed(script: Path, folder: Path | None = None, seconds: int = 600) -> dict[str, Any]:
    """What a script prints as JSON that an interpreter of a ComfyUI runs with the pack; of the first one."""
    folder = folder or comfy_folders()[0]
    command = [comfy_python(folder), str(script), str(PACK)]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=seconds)
    values: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return values


@cache
def loaded(*options: str) -> tuple[dict[str, Any], str]:
    """Load the pack in a fresh process; returns what it registered, and what went to standard error."""
    folder = comfy_folders()[0]
    command = [comfy_python(folder), *options, str(SCRIPT), str(PACK)]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(answer.stdout.splitlines()[-1]), answer.stderr
