"""Fixtures that several modules of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest
from busy_machine import busy_machine as busy_machine
from PIL import Image
from tiny_networks import tiny_bundle

from oneshot_core.checkpoints import save


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of 64 px and a target picture."""
    folder = tmp_path_factory.mktemp("files")
    save(tiny_bundle(64), folder / "source.safetensors")
    Image.linear_gradient("L").convert("RGB").save(folder / "target.png")
    return {"generator": folder / "source.safetensors", "target": folder / "target.png"}
