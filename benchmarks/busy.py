"""Measure search and adaptation of the demo beside other programs that keep the CPU busy.

In turn, with threads that spin while they wait, as torch has them, and with the choice that
`oneshot_core/threads.py` makes:

    python benchmarks/busy.py --others 2            # beside two programs that do nothing but count
    python benchmarks/busy.py --others 0 --rounds 3 # what the choice costs on a quiet machine

The results must be the same bit for bit; a difference ends the program with an error. Where spinning takes
longer than --limit-seconds for a half, that half is left there and its pace is told.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock


class LimitReached(Exception):
    """A half took too long."""


@dataclass
class Half:
    """Step times of a search or a training."""

    limit_seconds: float
    ends: list[float] = field(default_factory=lambda: [time.monotonic()])
    cpu: float = field(default_factory=time.process_time)
    notes: tuple[str, ...] = ()

    def report(self, now: Any) -> None:
        """Note the end of a step; raises LimitReached."""
        self.ends.append(time.monotonic())
        self.notes = now.notes
        if self.ends[-1] - self.ends[0] > self.limit_seconds and now.step < now.steps:
            raise LimitReached

    def told(self) -> str:
        """Seconds in all, and of a step."""
        steps = [end - begin for begin, end in pairwise(self.ends)]
        spent, cpu = self.ends[-1] - self.ends[0], time.process_time() - self.cpu
        return (
            f"{len(steps)} steps in {spent:.1f} s; a step {median(steps):.2f} s, at most {max(steps):.2f} s; "
            f"{cpu / spent:.2f} cores"
        )


@contextmanager
def others(count: int) -> Iterator[None]:
    """Keep so many cores busy."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Search and adapt; return the results of the halves that came to their end."""
    import torch

    from oneshot_core.demo.world import demo_encoders, demo_generator, demo_recipe, demo_target
    from oneshot_core.latents import Latent
    from oneshot_core.objective import Aim
    from oneshot_core.search import search_latent
    from oneshot_core.training import Progress, TrainConfig, adapt

    bundle, seen, recipe = demo_generator(), demo_encoders(), demo_recipe()
    target, found = demo_target(), {}
    recipe = recipe.precised(torch.device("cpu"))
    config = replace(recipe.search_config(), steps=options.search, precision=options.precision)
    half = Half(options.limit_seconds)
    try:
        result = search_latent(bundle, seen, target, config, callbacks=[half.report])
        found["search"] = result.latent.values
    except LimitReached:
        pass
    print("  search:", half.told(), *half.notes, sep="\n    ", flush=True)
    aim = Aim(target, Latent("w", bundle.mean_latent[None], bundle.family, {}))
    half = Half(options.limit_seconds)
    try:
        adapted = adapt(
            bundle, seen, aim, recipe.preset(bundle.size)[0],
            TrainConfig(steps=options.train, precision=options.precision), callbacks=[Progress(half.report)],
        )  # fmt: skip
        weights = adapted.bundle.generator.parameters()
        found["training"] = torch.cat([weight.detach().flatten() for weight in weights])
    except LimitReached:
        pass
    print("  training:", half.told(), *half.notes, sep="\n    ", flush=True)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, and compare the results."""
    import torch

    from oneshot_core import threads

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--others", type=int, default=2, help="programs beside it that keep a core busy each")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--search", type=int, default=100, help="steps of the search")
    parser.add_argument("--train", type=int, default=60, help="steps of the adaptation")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit-seconds", type=float, default=float("inf"), help="of a half")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    kept: dict[str, Any] = {}
    with others(options.others):
        for number in range(2 * options.rounds):
            chosen = number % 2 == 1
            load = " ".join(f"{value:.1f}" for value in os.getloadavg())
            print(
                f"{'chosen' if chosen else 'spinning'} (load {load}, {options.others} of it ours)", flush=True
            )
            with mock.patch.object(threads, "can_sleep", threads.can_sleep if chosen else lambda: False):
                found = work(options)
            for name, values in found.items():
                if not torch.equal(values, kept.setdefault(name, values)):
                    raise SystemExit(f"the {name} depends on how threads wait")
    print("the results are the same" if kept else "no half came to its end")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
