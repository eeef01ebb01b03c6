"""Results of `speed.py`: what they were measured on, as JSON and as a table."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

KINDS = ("search", "reference", "reference with R1", "random")
MIX = {"random": 12, "reference": 3, "reference with R1": 1}  # of 16 steps of the published schedule


def machine(device: Any) -> dict[str, Any]:
    """Describe what was measured on."""
    import torch

    found = {
        "device": device.type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    if device.type == "cuda":
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
        }
    return found


def _driver() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({error})"


class Report:
    """The results so far, written after every case."""

    def __init__(self, folder: Path, device: Any) -> None:
        self.folder = folder
        command = " ".join(["python", *sys.argv])
        self.values: dict[str, Any] = {"command": command, "machine": machine(device), "cases": []}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, **case: Any) -> None:
        """Keep a case and write everything anew."""
        self.values["cases"].append(case)
        self.write()
        print(case_line(case), flush=True)

    def write(self) -> None:
        """Write JSON and table."""
        text = json.dumps(self.values, indent=1)
        (self.folder / "speed.json").write_text(text + "\n", encoding="utf-8")
        (self.folder / "speed.md").write_text(table(self.values), encoding="utf-8")


def case_line(case: dict[str, Any]) -> str:
    """Say one case in one line."""
    times = {kind: f"{times['median']:.4f} s" for kind, times in case["kinds"].items()}
    peak = case["training_peak_bytes"] / 2**30
    return f"{case['size']} px {case['variant']}: {times} peak {peak:.2f} GiB"


def table(values: dict[str, Any]) -> str:
    """Write all results as Markdown."""
    machine_text = ", ".join(f"{name} {value}" for name, value in values["machine"].items())
    lines = [f"`{values['command']}`", "", machine_text, ""]
    if values.get("ceilings"):
        lines += [", ".join(f"{name}: {value:.3g}" for name, value in values["ceilings"].items()), ""]
    lines += [
        "Milliseconds a step: median (least–most).",
        "",
        "| size, variant | "
        + " | ".join(KINDS)
        + " | mix of 16 | peak, training (estimate) | pictures/s, 8 |",
        "|---" * (len(KINDS) + 4) + "|",
    ]
    for case in values["cases"]:
        cells = [_cell(case["kinds"].get(kind)) for kind in KINDS]
        mix = case["mix_of_16"]
        peak, guess = case["training_peak_bytes"] / 2**30, case["estimates"]["training"] / 2**30
        row = [
            f"{case['size']} px, {case['variant']}", *cells,
            "–" if mix is None else f"{1000 * mix:.0f}",
            f"{peak:.2f} ({guess:.2f}) GiB",
            f"{8 / case['sampling']['8']['median']:.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _cell(times: dict[str, Any] | None) -> str:
    if times is None:
        return "–"
    median, least, most = (1000 * times[name] for name in ("median", "least", "most"))
    return f"{median:.1f} ({least:.1f}–{most:.1f})"


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median, least, most and count of some times."""
    return {
        "median": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "count": len(seconds),
    }


def mix_seconds(kinds: dict[str, dict[str, Any]]) -> float | None:
    """Seconds of 16 steps of the published schedule, from the medians of their kinds."""
    if not all(kind in kinds for kind in MIX):
        return None
    return sum(count * kinds[kind]["median"] for kind, count in MIX.items())
