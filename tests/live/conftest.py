"""Fixtures of the live suite: one real server per ComfyUI version, and the workflows."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PACK, TINY, Server, comfy_folders

FOLDERS = comfy_folders()
WORKFLOWS = PACK / "tests" / "workflows"
RUNS_LIMIT_GB = 0.0006  # two runs of the tiny generator
DEMO = {"generator_name": "demo"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every live test on every ComfyUI that is there."""
    if "comfy" in metafunc.fixturenames:
        metafunc.parametrize(
            "comfy", FOLDERS or [None], ids=[f.name for f in FOLDERS] or ["none"], scope="session"
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests of one version to one test process, which has the server that they share."""
    from xdist.scheduler import LoadScopeScheduling

    names = sorted((folder.name for folder in FOLDERS), key=len, reverse=True)

    class ByVersion(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            parts = f"-{nodeid.partition('[')[2].rstrip(']')}-"
            return next((name for name in names if f"-{name}-" in parts), nodeid)

    return ByVersion(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly that nothing was tested."""
    if not FOLDERS:
        terminalreporter.write_line(
            "LIVE TESTS SKIPPED: no ComfyUI at COMFYUI_PATH, two folders above the pack, or ~/comfy/ComfyUI",
            red=True,
            bold=True,
        )


@pytest.fixture(scope="session")
def base(comfy: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base directory of a version's server."""
    if comfy is None:
        pytest.skip("no ComfyUI found; set COMFYUI_PATH")
    return tmp_path_factory.mktemp(comfy.name)


@pytest.fixture(scope="session")
def server(comfy: Path, base: Path) -> Iterator[Server]:
    """A running server with the pack."""
    running = Server(comfy, base).start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def nothing_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """End what a failed test leaves on the shared server: the next ones would wait for it."""
    yield
    if "server" in request.fixturenames:
        shared = request.getfixturevalue("server")
        shared.post("/queue", {"clear": True})
        shared.post("/interrupt", {})


@pytest.fixture(scope="session")
def restricted(comfy: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps few runs and writes no metadata."""
    if comfy is None:
        pytest.skip("no ComfyUI found; set COMFYUI_PATH")
    base, settings = tmp_path_factory.mktemp("restricted"), {"ONESHOT_RUNS_LIMIT_GB": str(RUNS_LIMIT_GB)}
    running = Server(comfy, base, arguments=("--disable-metadata",), environment=settings).start()
    yield running
    running.stop()


@pytest.fixture
def workflow() -> Callable[..., dict[str, Any]]:
    """Build a short API workflow from a file: `workflow("quick_start", OneShotAdapt={"steps": 4}, drop="8")`.

    It draws with a tiny generator; where the statement is about the demo, `LoadStyleGAN=DEMO` takes that.
    """

    def build(
        name: str = "quick_start", drop: tuple[str, ...] = (), **changes: dict[str, Any]
    ) -> dict[str, Any]:
        graph = copy.deepcopy(json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")))
        small = {
            "LoadStyleGAN": {"generator_name": TINY},
            "CLIPLatentSearch": {"steps": 3},
            "OneShotAdapt": {"steps": 4, "snapshot_every": 2},
        }
        if name == "quick_start":  # what lets a training run alone
            graph["7"] = {"class_type": "PreviewImage", "inputs": {"images": ["5", 1]}}
        for node in graph.values():
            node["inputs"] |= small.get(node["class_type"], {})
            node["inputs"] |= changes.get(node["class_type"], {})
        return {key: node for key, node in graph.items() if key not in drop}

    return build


@pytest.fixture
def fresh(comfy: Path, tmp_path: Path) -> Any:
    """Make servers that the test may kill; all are ended."""
    made: list[Server] = []

    def start(base: Path = tmp_path) -> Server:
        made.append(Server(comfy, base).start())
        return made[-1]

    yield start
    for one in made:
        one.stop()
