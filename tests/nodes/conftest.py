"""What the test processes of a run share."""

from __future__ import annotations

import os

import pytest
from comfy_pack import SHARED


@pytest.fixture(scope="session", autouse=True)
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let processes that test side by side load ComfyUI once."""
    own = tmp_path_factory.getbasetemp()
    SHARED.place = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
