"""Measure training steps of the original program and of this one, step by step in turn, in one run.

PATH is a checkout of cyclomon/OneshotCLIP. Its own functions run, unchanged, in a process of their own; what
it needs and a CPU does not have is put in its way: CUDA calls do nothing, its compiled operations are left
out (it has a form in plain torch), CLIP comes from open_clip. All weights are random; nothing is downloaded.

    python benchmarks/against.py --original PATH --out out/against --size 256 --threads 2
    python benchmarks/against.py --original PATH --out out/against --exchange-fir --variants float32

Both sides do the same kind of step one after the other, while the other waits; kinds follow each other as
reference with R1, random, reference, random, whatever the schedule: a step's work does not depend on it. The
first step of every kind warms up. Times are CPU seconds (user and system, all threads) and wall seconds.
`--exchange-fir` gives the original a depthwise filter, for its own is not meant to be fast on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speed_report import MIX

SCHEDULE = ("reference with R1", "random", "reference", "random")
VARIANTS = ("float32", "bfloat16")


class Gate:
    """The measured side's end: waits for a command, times what follows until it is reached again."""

    def __init__(self) -> None:
        # Libraries print; the answers must not be among that.
        self.answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.began: tuple[float, float] | None = None

    def reached(self) -> None:
        """End the running piece of work, tell how long it took, and wait until the next may start."""
        if self.began is not None:
            cpu, wall = (now - then for now, then in zip(self._now(), self.began, strict=True))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps({"cpu": cpu, "wall": wall, "peak": peak}), file=self.answers, flush=True)
        if sys.stdin.readline().strip() != "go":
            raise SystemExit
        self.began = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.process_time(), time.perf_counter()


# The original -------------------------------------------------------------------------------------------


def run_original(options: argparse.Namespace, gate: Gate) -> None:
    """Run the original's search, then its training, with a gate before every step."""
    import torch

    from oneshot_core.ops.reference import upfirdn2d

    training = original_module(options.original)
    if options.exchange_fir:
        sys.modules["model"].upfirdn2d = upfirdn2d  # type: ignore[attr-defined]
    args = original_arguments(options)
    torch.manual_seed(0)
    networks = sys.modules["model"]
    generators = [networks.Generator(options.size, 512, 8) for _ in range(3)]
    judge, extra = networks.Patch_Discriminator(options.size), networks.Extra()
    rate, share = 0.002, 16 / 17
    adam = [
        torch.optim.Adam(net.parameters(), lr=rate * part, betas=(0.0, 0.99**part))
        for net, part in ((generators[0], 4 / 5), (judge, share), (extra, share))
    ]
    picture = torch.rand(1, 3, options.size, options.size) * 2 - 1
    clip_model = open_clip_model()
    training.transforms.Compose = gated(training.transforms.Compose, gate)

    def pictures(count: int, free: int) -> Iterator[Any]:
        """Pictures before each step; the first `free` of them are asked for before the training."""
        while True:
            if free > 0:
                free -= 1
            else:
                gate.reached()
            yield picture.repeat(count, 1, 1, 1)

    training.train(
        args, pictures(2, 0), pictures(1, 1), generators[0], judge, extra, *adam, generators[1],
        torch.device("cpu"), generators[2], clip_model,
    )  # fmt: skip
    gate.reached()


def original_module(folder: Path) -> Any:
    """Import the original's training script."""
    import torch
    import torchvision
    from torch.utils import cpp_extension

    sys.path.insert(0, str(folder))
    sys.modules["clip"] = types.ModuleType("clip")
    cpp_extension.load = lambda *args, **more: None
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **more: self  # type: ignore[assignment, method-assign]
    plain = torchvision.models.alexnet
    torchvision.models.alexnet = lambda pretrained=True: plain(weights=None)
    torchvision.utils.save_image = lambda *args, **more: None  # an argument it uses is gone
    os.chdir(folder)  # it reads a file by a relative name
    import train_oneshot

    train_oneshot.torch.save = lambda *args, **more: None  # the search writes its state at its first step
    return train_oneshot


def original_arguments(options: argparse.Namespace) -> argparse.Namespace:
    """The published values of what a step's work depends on."""
    return argparse.Namespace(
        exp="against", iter=options.rounds * len(SCHEDULE), start_iter=0, latent=512, n_sample=1, highp=1,
        ref_freq=2, d_reg_every=4, g_reg_every=4, batch=2, mixing=0.9, r1=10.0, f_lr=0.01, cars=False,
        skip_init=False, init_iter=options.searches, lambda_optclip=1.0, lambda_optl2=0.01,
        lambda_optrec=1.0, lambda_patch=1.0, lambda_const=10.0, size=options.size, crop_size=128, num_crop=16,
        img_freq=10**9, save_freq=10**9, tau=1.0, nce_allbatch=False,
    )  # fmt: skip


def gated(compose: Any, gate: Gate) -> Any:
    """The search augments once a step, and does so first after drawing: what lies between two is a step."""

    class Gated(compose):  # type: ignore[misc]
        def __call__(self, images: Any) -> Any:
            gate.reached()
            return super().__call__(images)

    return Gated


def open_clip_model() -> Any:
    """The published CLIP's shape, its features as OpenAI's package gives them."""
    import open_clip

    from oneshot_core.features import build_clip

    return build_clip(open_clip.get_model_config("ViT-B-32-quickgelu")).eval()


# Ours -----------------------------------------------------------------------------------------------------


def run_ours(options: argparse.Namespace, gate: Gate) -> None:
    """Run our search, then our training, with a gate before every step."""
    import torch
    from speed import Subject

    from oneshot_core.memory import keep_freed_memory
    from oneshot_core.objective import PROFILES
    from oneshot_core.search import SearchConfig, search_latent

    keep_freed_memory()  # as the command line does
    words = argparse.Namespace(width_share=1.0, clip="ViT-B-32-quickgelu", profile=options.profile)
    subject = Subject(options.size, torch.device("cpu"), words, options.side)
    gate.reached()
    profile = PROFILES[options.profile]
    config = SearchConfig(steps=options.searches, profile=profile, precision=options.side)
    search_latent(
        subject.bundle, subject.encoders, subject.target, config, callbacks=[lambda _: gate.reached()]
    )
    for step in range(options.rounds * len(SCHEDULE)):
        subject.step(SCHEDULE[step % len(SCHEDULE)])
        gate.reached()


# Both -----------------------------------------------------------------------------------------------------


class Side:
    """A process that waits at its gate."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        words = [sys.executable, __file__, "--side", name, "--out", str(options.out)]
        for key in ("original", "size", "threads", "rounds", "searches", "profile"):
            words += [f"--{key}", str(getattr(options, key))]
        words += ["--exchange-fir"] if options.exchange_fir else []
        # One number of threads for all libraries; more than there are cores would spin.
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def go(self) -> None:
        """Let it start the next piece of work."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def step(self) -> dict[str, float]:
        """Let it do what lies before its next gate, and return what that took."""
        assert self.process.stdout is not None
        self.go()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with {self.process.wait()}; its messages stand above")
        found: dict[str, float] = json.loads(line)
        return found


def alternate(options: argparse.Namespace) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Run all sides in turn and collect what every step took."""
    kinds = ["search"] * options.searches + [*SCHEDULE] * options.rounds
    names = ["original", *options.variants]
    sides = {name: Side(name, options) for name in names}
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in names}
    for kind in kinds:
        for name, side in sides.items():
            took = side.step()
            found[name].setdefault(kind, []).append(took)
            print(f"{kind:18} {name:9} {took['cpu']:7.2f} CPU s {took['wall']:7.2f} s", flush=True)
    for side in sides.values():
        side.process.kill()
    return found


def table(found: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Lay medians and ratios out as Markdown; the first of every kind has warmed up."""
    names = list(found)
    lines = [
        "| CPU seconds, median (least to most) | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    medians: dict[str, dict[str, float]] = {name: {} for name in names}
    for kind in found[names[0]]:
        cells = []
        for name in names:
            values = [one["cpu"] for one in found[name][kind][1:]]
            medians[name][kind] = statistics.median(values)
            ratio = medians[names[0]][kind] / medians[name][kind]
            cells.append(f"{medians[name][kind]:.2f} ({min(values):.2f}–{max(values):.2f}), {ratio:.1f} x")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    mix = {name: sum(count * medians[name][kind] for kind, count in MIX.items()) for name in names}
    lines.append(
        "| mix of 16 | "
        + " | ".join(f"{mix[name]:.1f}, {mix[names[0]] / mix[name]:.1f} x" for name in names)
        + " |"
    )
    peaks = {name: max(one["peak"] for kind in found[name].values() for one in kind) for name in names}
    cells = [f"{peaks[name] / 2**30:.2f} GiB, {peaks[name] / peaks[names[0]]:.2f}" for name in names]
    return "\n".join([*lines, "| peak memory | " + " | ".join(cells) + " |"])


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--original", type=Path, required=True, help="checkout of cyclomon/OneshotCLIP")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of four steps; the first warms up")
    parser.add_argument("--searches", type=int, default=4, help="steps of the search; the first warms up")
    parser.add_argument("--profile", choices=("default", "official"), default="official")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="of ours")
    parser.add_argument("--exchange-fir", action="store_true", help="give the original a depthwise filter")
    parser.add_argument("--side", choices=("original", *VARIANTS), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure one side, or both and report."""
    options = parsed()
    options.original = options.original.resolve()
    if options.side is None:
        found = alternate(options)
        options.out.mkdir(parents=True, exist_ok=True)
        told = {"options": {key: str(value) for key, value in vars(options).items()}, "found": found}
        (options.out / "against.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        print(table(found))
        return
    import torch

    torch.set_num_threads(options.threads)
    gate = Gate()
    run_original(options, gate) if options.side == "original" else run_ours(options, gate)


if __name__ == "__main__":
    main()
