"""Installing the pack's requirements into a ComfyUI environment adds packages and changes none.

Asks pip what it would do, in the environment as it is and in one where only what ComfyUI itself asks for is
installed, as on a new user's machine. Needs a package index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PACK, comfy_python

REQUIREMENTS = PACK / "requirements.txt"
PRECIOUS = {"torch", "torchvision", "numpy", "pillow", "safetensors"}
UNREACHABLE = ("Could not find a version", "Temporary failure", "Connection", "Max retries", "Network is")

# Run by the environment's own interpreter: links what ComfyUI asks for, and what that needs, into a folder.
FARM = """
import os, re, sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from pip._vendor.packaging.requirements import InvalidRequirement, Requirement

farm, asked, seen, found = Path(sys.argv[1]), [], set(), {}
for line in Path(sys.argv[2]).read_text().splitlines():
    try:
        asked.append((Requirement(line.split("#")[0].strip()), {""}))
    except InvalidRequirement:
        pass
while asked:
    one, of_extras = asked.pop()
    name = re.sub(r"[-_.]+", "-", one.name).lower()
    if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in of_extras):
        continue
    extras = {"", *one.extras}
    if (name, *sorted(extras)) in seen:
        continue
    seen.add((name, *sorted(extras)))
    try:
        found[name] = distribution(name)
    except PackageNotFoundError:
        continue
    asked += [(Requirement(text), extras) for text in found[name].requires or []]
for one in found.values():
    place = Path(one._path)  # pip reads only this description of a distribution
    (farm / place.name).symlink_to(place)
print("\\n".join(sorted(found)))
"""


def would_install(python: str, folder: str | None = None) -> dict[str, str]:
    """What `pip install -r requirements.txt` would install, by name; `folder` holds what is installed."""
    words = [python, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", "--no-input"]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment.pop("PYTHONPATH", None)
    if folder is not None:
        environment["PYTHONPATH"] = folder
    answer = subprocess.run(
        [*words, "-r", str(REQUIREMENTS)], env=environment, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        if any(text in answer.stderr for text in UNREACHABLE):
            pytest.skip(f"NO PACKAGE INDEX WAS REACHED: {answer.stderr[-300:]}")
        raise AssertionError(answer.stderr[-2000:])
    report: dict[str, Any] = json.loads(answer.stdout)
    return {one["metadata"]["name"].lower(): one["metadata"]["version"] for one in report["install"]}


@pytest.fixture
def environment_python(comfy: Path | None) -> str:
    """Interpreter of a ComfyUI with pip in it."""
    if comfy is None:
        pytest.skip("no ComfyUI found; set COMFYUI_PATH")
    python = comfy_python(comfy)
    if python == sys.executable:
        pytest.skip("this ComfyUI has no environment of its own")
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"NO PIP IN {python}: uv pip install --python {python} pip")
    return python


def test_nothing_changes_where_everything_is_installed(environment_python: str) -> None:
    assert not PRECIOUS & set(would_install(environment_python))


def test_nothing_that_comfyui_brought_changes_on_a_new_users_machine(
    environment_python: str, comfy: Path, tmp_path: Path
) -> None:
    farm = tmp_path / "site"
    farm.mkdir()
    listed = subprocess.run(
        [environment_python, "-c", FARM, str(farm), str(comfy / "requirements.txt")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    brought = set(listed.stdout.split())
    assert brought >= PRECIOUS and "lpips" not in brought
    subprocess.run([environment_python, "-m", "venv", str(tmp_path / "new")], check=True)
    planned = would_install(str(tmp_path / "new" / "bin" / "python"), str(farm))
    changed = brought & {name.replace("_", "-") for name in planned}
    assert not changed, f"would be replaced: {sorted(changed)}"
    assert {"open-clip-torch", "lpips"} <= {name.replace("_", "-") for name in planned}
