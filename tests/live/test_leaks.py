"""Nothing stays in memory: trainings, samplings, a batch of 300 jobs leave the server as large as before."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from comfy_server import TINY, Server, failure

from oneshot_core.runners.comfy import ServerRun
from oneshot_core.runners.comfy_client import ComfyClient
from oneshot_core.runners.manifest import Manifest
from oneshot_core.runners.plan import read_plan
from oneshot_core.runners.sharing import BatchWatcher

Workflow = Callable[..., dict[str, Any]]
NOT_DRAWN = ("6", "7", "8", "9")  # nodes of the workflow that a training alone lacks
WARM_UP = 10  # prompts in which libraries and caches take what they keep
LIMIT_MB = 25.0  # of growth afterwards; a training that kept its estimate's graph cost 2.4 MB each


@pytest.fixture(scope="module")
def lean(comfy: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps few runs on disk, and returns freed memory to the system."""
    if comfy is None:
        pytest.skip("no ComfyUI found; set COMFYUI_PATH")
    settings = {"ONESHOT_RUNS_LIMIT_GB": "0.1", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}
    base = tmp_path_factory.mktemp("lean")
    server = Server(comfy, base, environment=settings).start()
    yield server
    server.stop()


def tell(text: str) -> None:
    """Print figures; pytest shows them with -s or -rP."""
    sys.stdout.write(text + "\n")


def growth_mb(server: Server, graphs: list[dict[str, Any]]) -> float:
    """Resident memory that prompts add after the first few, in MB; tells it every tenth of the way."""
    sizes = []
    step = max(1, (len(graphs) - WARM_UP) // 10)
    parts = [graphs[:WARM_UP], *(graphs[start : start + step] for start in range(WARM_UP, len(graphs), step))]
    for part in parts:
        for prompt in [server.queue(graph) for graph in part]:
            entry = server.wait(prompt)
            assert failure(entry) == "", failure(entry)
        sizes.append(server.resident_bytes() / 1e6)
    tell("resident MB: " + " ".join(f"{size:.0f}" for size in sizes))
    return sizes[-1] - sizes[0]


@pytest.mark.slow
def test_fifty_trainings_leave_nothing(lean: Server, workflow: Workflow) -> None:
    training = {"steps": 2, "snapshot_every": 4000}
    tiny = {"generator_name": TINY}
    graphs = [
        workflow(LoadStyleGAN=tiny, OneShotAdapt={**training, "seed": seed}, drop=NOT_DRAWN)
        for seed in range(50)
    ]
    for graph in graphs:
        graph["20"] = {"class_type": "PreviewImage", "inputs": {"images": ["5", 1]}}
    grown = growth_mb(lean, graphs)
    tell(f"50 trainings: {grown / (50 - WARM_UP):+.2f} MB each after the first {WARM_UP}")
    assert grown < LIMIT_MB


@pytest.mark.slow
def test_three_hundred_samplings_leave_nothing(lean: Server, workflow: Workflow) -> None:
    graphs = []
    for seed in range(300):
        graph = workflow(LoadStyleGAN={"generator_name": TINY})
        graph = {"1": graph["1"], "6": graph["6"], "20": {"class_type": "PreviewImage", "inputs": {}}}
        graph["6"]["inputs"] |= {"adapted": ["1", 0], "source": ["1", 0], "seeds": str(seed)}
        graph["20"]["inputs"]["images"] = ["6", 0]
        graphs.append(graph)
    grown = growth_mb(lean, graphs)
    tell(f"300 samplings: {grown / (300 - WARM_UP):+.3f} MB each after the first {WARM_UP}")
    assert grown < LIMIT_MB


class Weighing(BatchWatcher):
    """Notes how large the server and this client are, after every hundredth job."""

    def __init__(self, server: Server) -> None:
        self.server, self.count, self.sizes = server, 0, list[tuple[float, float]]()

    def finished(self, job: str, entry: Mapping[str, Any]) -> None:
        assert entry["status"] == "done", entry
        self.count += 1
        if self.count == WARM_UP or self.count % 100 == 0:
            own = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
            self.sizes.append((self.server.resident_bytes() / 1e6, own))


@pytest.mark.slow
def test_a_batch_of_three_hundred_jobs_leaves_nothing(
    lean: Server, workflow: Workflow, tmp_path: Path
) -> None:
    """A night of jobs in short: each loads, trains, draws, saves, and is fetched."""
    graph = workflow(LoadStyleGAN={"generator_name": TINY}, OneShotAdapt={"steps": 1, "snapshot_every": 4000})
    (tmp_path / "workflow.json").write_text(json.dumps(graph))
    values = {"format": "oneshot-batch", "format_version": 1, "workflow": "workflow.json"}
    plan = {**values, "grid": {"seeds": list(range(1000, 1300))}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    weighing = Weighing(lean)
    manifest = Manifest(tmp_path / "out", "plan")
    ServerRun(read_plan(tmp_path / "plan.json"), ComfyClient(lean.url), manifest, weighing).run()
    tell("resident MB, server and client: " + " ".join(f"{one:.0f}/{own:.0f}" for one, own in weighing.sizes))
    assert weighing.count == 300
    for side in (0, 1):
        assert weighing.sizes[-1][side] - weighing.sizes[0][side] < LIMIT_MB
