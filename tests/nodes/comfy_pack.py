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

HERE = Path(__file__).parent
SCHEMAS, LOADED = "dump_schemas", "-- the pack is loaded --"  # see run_scripts.py
SCRIPTS = [HERE / f"{name}.py" for name in ("frame_targets", "wire_wrongly", "refuse_values")]


def needs_comfy() -> pytest.MarkDecorator:
    """Skip where no ComfyUI is found."""
    return pytest.mark.skipif(
        not comfy_folders(), reason="NO COMFYUI FOUND: set COMFYUI_PATH to test the nodes"
    )


def printed(script: Path, folder: Path | None = None) -> dict[str, Any]:
    """What a script prints as JSON that an interpreter of a ComfyUI runs with the pack; of the first one."""
    found: dict[str, Any] = _answered(folder or comfy_folders()[0])[0][script.stem]
    return found


def loaded() -> tuple[dict[str, Any], str]:
    """What the pack registers when it is loaded in a fresh process, and what goes to standard error.

    Among it what was imported in what time.
    """
    found, errors = _answered(comfy_folders()[0])
    return found[SCHEMAS], errors


@cache
def _answered(folder: Path) -> tuple[dict[str, Any], str]:
    """Run all scripts once, for all test processes of a run."""
    if SHARED.place is None:
        return _run(folder)
    key = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    answered = SHARED.place / f"comfy-{key}.json"
    with holding(SHARED.place / f"comfy-{key}.lock"):
        if not answered.is_file():
            answered.write_text(json.dumps(_run(folder)))
    found, errors = json.loads(answered.read_text())
    return found, errors


def _run(folder: Path) -> tuple[dict[str, Any], str]:
    words = ["-X", "importtime", str(HERE / "run_scripts.py"), str(PACK), *map(str, SCRIPTS)]
    command = [comfy_python(folder), *words]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads(answer.stdout.splitlines()[-1]), answer.stderr.partition(LOADED)[0]


class Shared:
    """Where the test processes of a run share what they know."""

    place: Path | None = None  # set by conftest.py


SHARED = Shared()
