"""The pack as ComfyUI's loader sees it, described by ComfyUI's own interpreter."""

from __future__ import annotations

import hashlib
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PACK, comfy_folders, comfy_python

from oneshot_core.writing import holding

SCRIPT = Path(__file__).parent / "dump_schemas.py"


def needs_comfy() -> pytest.MarkDecorator:
    """Skip where no ComfyUI is found."""
    return pytest.mark.skipif(
        not comfy_folders(), reason="NO COMFYUI FOUND: set COMFYUI_PATH to test the nodes"
    )


@cache
def printed(script: Path, folder: Path | None = None, seconds: int = 600) -> dict[str, Any]:
    """What a script prints as JSON that an interpreter of a ComfyUI runs with the pack; of the first one."""
    return _answered(folder or comfy_folders()[0], [str(script)], seconds)[0]


@cache
def loaded() -> tuple[dict[str, Any], str]:
    """Load the pack in a fresh process.

    Returns:
        What it registered, and what went to standard error.
    """
    return _answered(comfy_folders()[0], [str(SCRIPT)], 300)


def _answered(folder: Path, words: list[str], seconds: int) -> tuple[dict[str, Any], str]:
    """Run a script once, for all test processes of a run: to import ComfyUI takes ten seconds."""
    if SHARED.place is None:
        return _run(folder, words, seconds)
    key = hashlib.sha256(repr((folder, words)).encode()).hexdigest()[:16]
    answered = SHARED.place / f"comfy-{key}.json"
    with holding(SHARED.place / f"comfy-{key}.lock"):
        if not answered.is_file():
            answered.write_text(json.dumps(_run(folder, words, seconds)))
    found, errors = json.loads(answered.read_text())
    return found, errors


def _run(folder: Path, words: list[str], seconds: int) -> tuple[dict[str, Any], str]:
    command = [comfy_python(folder), *words, str(PACK)]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=seconds)
    return json.loads(answer.stdout.splitlines()[-1]), answer.stderr


class Shared:
    """Where the test processes of a run share what they know."""

    place: Path | None = None  # set by conftest.py


SHARED = Shared()
