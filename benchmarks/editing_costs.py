"""What an edit costs at 1024 px: one run of every editing method, seconds and peak memory.

Networks have the published sizes: StyleGAN2 of config-f at 1024 px with w of 512, CLIP is ViT-B/32, the
perceptual net AlexNet, the identity net IR-SE50, the encoder e4e's, all with random weights: nothing is
downloaded, and time does not depend on their values. How good the methods are is in `editing.py`.

Every method has a process of its own, so that its peak (largest resident set) is its own; it runs with its
default settings as far as the table does not say otherwise, and is stopped after a few of the units that it
repeats: steps, samples, channels. A unit's time is that between the ends of the last two of a kind; what is
left of the whole time is done once. What the method takes by default is reckoned from both. CPU seconds are
those of the process, all threads; on a machine that does other work read these, the clock's beside them say
how much other work it did.

    python benchmarks/editing_costs.py --out out/editing_costs                     # goes on where it stopped
    python benchmarks/editing_costs.py --out out/editing_costs --methods "SeFa" --size 64  # a trial
    python benchmarks/editing_costs.py --out benchmarks/results/editing_costs --report

Rows are appended to OUT/rows.jsonl as they come; one that is there, of the same size and number of threads,
is not measured again. A method that fails is told and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from editing_costs_methods import METHODS, Costs, Enough

SIZE = 1024


def measured(name: str, size: int, threads: int) -> dict[str, Any]:
    """Run a method in this process and say what it cost."""
    torch.set_num_threads(threads)
    method = METHODS[name]
    inputs = method.prepare(size)
    before = _peak_mb()
    load = os.getloadavg()[0]
    costs = Costs()
    try:
        method.work(inputs, costs)
    except Enough:
        pass
    wall, cpu = costs.elapsed()
    return {
        "method": name, "size": size, "threads": threads, "units": costs.units(), "wall": wall, "cpu": cpu,
        "peak_mb": _peak_mb(), "prepared_mb": before, "load": [load, os.getloadavg()[0]],
        "machine": _machine(),
    }  # fmt: skip


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _machine() -> dict[str, Any]:
    """The processor, its CPUs, torch and the day."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(), "cpus": os.cpu_count(),
        "torch": torch.__version__, "day": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def read_rows(out: Path) -> dict[tuple[str, int, int], dict[str, Any]]:
    """Rows by method, size and threads; a line that was cut off counts as nothing."""
    file, rows = out / "rows.jsonl", {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["method"], row["size"], row["threads"]] = row
    return rows


def compute(names: Sequence[str], size: int, threads: int, out: Path) -> None:
    """Measure what is missing, one process after the other."""
    known = read_rows(out)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    for name in names:
        if (name, size, threads) in known:
            continue
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            future = pool.submit(measured, name, size, threads)
            if error := future.exception():
                print(f"failed: {name}: {error}", flush=True)
                continue
        row = future.result()
        with (out / "rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(_row_line(row), flush=True)


def report(rows: Mapping[tuple[str, int, int], Mapping[str, Any]], size: int, threads: int) -> str:
    """Lay the rows out as Markdown."""
    some = [row for name in METHODS if (row := rows.get((name, size, threads)))]
    if not some:
        return "Nothing has been measured yet."
    told = some[-1]["machine"]
    loads = [value for row in some for value in row["load"]]
    lines = [
        f"{told['processor']}, {told['cpus']} CPUs, {threads} thread, torch {told['torch']}, {told['day']}, "
        f"load {min(loads):.1f} to {max(loads):.1f}, {size} px",
        "",
        "| method | CPU seconds a unit (by the clock) | once | units by default | the whole, CPU | peak MB "
        "(networks alone) |",
        "|---" * 6 + "|",
    ]
    return "\n".join([*lines, *map(_row_line, some)])


def _row_line(row: Mapping[str, Any]) -> str:
    """A row of the table: units, what is done once, and the whole by the default's numbers."""
    method, units = METHODS[row["method"]], row["units"]
    each = [f"{name} {value['cpu']:.2f} ({value['wall']:.1f})" for name, value in units.items()]
    once = row["cpu"] - sum(value["cpu"] * value["count"] for value in units.values())
    whole = "–"
    defaults = [f"{count:,} x {name}" for name, count in method.defaults.items()]
    if method.defaults:
        seconds = max(once, 0) + sum(units[name]["cpu"] * n for name, n in method.defaults.items())
        whole = f"{seconds:,.0f} s" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
    cells = [
        row["method"], ", ".join(each), f"{max(once, 0):.1f}", ", ".join(defaults) or "–", whole,
        f"{row['peak_mb']:,} ({row['prepared_mb']:,})",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--size", type=int, default=SIZE, help="of the generator's pictures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="only print the table of what is there")
    options = parser.parse_args()
    if not options.report:
        options.out.mkdir(parents=True, exist_ok=True)
        compute(options.methods, options.size, options.threads, options.out)
    print(report(read_rows(options.out), options.size, options.threads))


if __name__ == "__main__":
    main()
