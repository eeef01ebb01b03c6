"""Tests that need a CUDA device. Without one every test is skipped, and the summary says so.

ONESHOT_GPU_DRY_RUN=1 runs them with the CPU on both sides, to try the tests themselves. Measured figures are
appended as JSON lines to the file that ONESHOT_GPU_FIGURES names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from gpu_support import DRY_RUN

REASON = "no CUDA device: nothing is known here about how this runs on a GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not (torch.cuda.is_available() or DRY_RUN):
                item.add_marker(pytest.mark.skip(reason=REASON))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if REASON in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.write_sep("!", f"{len(skipped)} GPU tests did NOT run: no CUDA device", red=True)
    if DRY_RUN:
        terminalreporter.write_sep("!", "dry run: the CPU stood in for the GPU", red=True)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu" if DRY_RUN else "cuda")


@pytest.fixture
def on_cuda() -> None:
    """For what has no meaning with the CPU as stand-in."""
    if DRY_RUN:
        pytest.skip("needs a real CUDA device")


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """Compare in real float32: torch lets cuDNN convolve in TF32 unless told otherwise.

    Threads and precision are as before afterwards, whatever a test's program set.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    convolutions, benchmark = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = convolutions, benchmark
    torch.set_num_threads(threads)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep measured numbers beside the verdict."""
    name = os.environ.get("ONESHOT_GPU_FIGURES")

    def keep(**values: object) -> None:
        line = json.dumps({"test": request.node.name, **values})
        if name:
            with open(name, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    return keep
