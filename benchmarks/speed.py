"""Measure what a step costs: search, random, reference and R1 steps, the mix of 16, memory, sampling.

Networks have StyleGAN2's published widths (config-f), CLIP is ViT-B/32 and the perceptual net AlexNet, all
with random weights: nothing is downloaded, and time does not depend on their values. Batch 2, as published.

    python benchmarks/speed.py --out out/speed                        # on the GPU where there is one
    python benchmarks/speed.py --out out/speed --device cpu --threads 2 --sizes 256

A variant is a precision and, after "+", what else is changed:

- float32: TF32 off everywhere; tf32: TF32 wherever torch can use it; bfloat16: forward passes under autocast,
  the rest in TF32;
- +channels_last, +contiguous: networks in that memory format, else in the one that training takes on the
  device; +benchmark: cuDNN tries its algorithms out; +recompute: parts of networks are computed again
  instead of kept.

Every kind of step is warmed up first. On a GPU times are CUDA events; on a CPU each case has a process of its
own, so that its peak memory (resident set) is its own. Times are medians, with least and most in brackets.
Results are written to OUT/speed.json after every case, and as a table to OUT/speed.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from speed_report import KINDS, Report, mix_seconds, summary, table

PRECISIONS = ("float32", "tf32", "bfloat16")
LAYOUTS = ("channels_last", "contiguous")
EXTRAS = (*LAYOUTS, "benchmark", "recompute")
GPU_VARIANTS = (
    "float32", "tf32", "bfloat16", "bfloat16+channels_last", "bfloat16+channels_last+benchmark"
)  # fmt: skip
CPU_VARIANTS = ("float32", "bfloat16", "float32+contiguous")
FULL_WIDTHS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
BATCH = 2
WARM_UPS = 2


@dataclass(frozen=True)
class Variant:
    """How arithmetic is done."""

    precision: str
    layout: str | None
    benchmark: bool
    recompute: bool

    @property
    def number_format(self) -> str:
        """Of forward passes."""
        return "bfloat16" if self.precision == "bfloat16" else "float32"

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read "bfloat16+channels_last"; raises ValueError for unknown parts."""
        precision, *extras = text.split("+")
        if precision not in PRECISIONS or set(extras) - set(EXTRAS):
            raise ValueError(
                f"a variant is one of {', '.join(PRECISIONS)} and +{', +'.join(EXTRAS)}; got {text!r}"
            )
        layout = next((extra for extra in extras if extra in LAYOUTS), None)
        return cls(precision, layout, "benchmark" in extras, "recompute" in extras)


# Time -------------------------------------------------------------------------------------------------


class Clock:
    """Times pieces of work on a device, in seconds."""

    def __init__(self, device: Any) -> None:
        self.on_gpu = device.type == "cuda"

    def time(self, work: Callable[[], Any]) -> float:
        """Do some work and return how long it took, everything the device had to do for it included."""
        import torch

        if not self.on_gpu:
            began = time.perf_counter()
            work()
            return time.perf_counter() - began
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    def repeat(self, work: Callable[[], Any], repeats: int, warm_ups: int = WARM_UPS) -> dict[str, Any]:
        """Time some work several times after warming up."""
        for _ in range(warm_ups):
            work()
        return summary([self.time(work) for _ in range(repeats)])


# What is measured -------------------------------------------------------------------------------------


def networks(size: int, width_share: float = 1.0) -> Any:
    """Build a bundle of random networks of the published widths, or of a share of them."""
    import torch

    from oneshot_core.checkpoints import GeneratorBundle, Provenance
    from oneshot_core.networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
    from oneshot_core.tensors import seeded

    widths = tuple(
        max(4, int(width * width_share)) for resolution, width in FULL_WIDTHS.items() if resolution <= size
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(seeded(0, size, "speed.networks").get_state())
        generator = Generator(GeneratorConfig(size, widths)).eval().requires_grad_(False)
        judge = Discriminator(DiscriminatorConfig(size, widths)).eval().requires_grad_(False)
    mean = torch.zeros(generator.config.w_dim)
    return GeneratorBundle(generator, judge, None, mean, Provenance("speed", "random.safetensors"))


@lru_cache(maxsize=1)
def encoders(model: str) -> Any:
    """Build ViT-B/32 (or another open_clip model) and AlexNet with random weights, or take the demo's."""
    import torch

    from oneshot_core.demo.world import demo_encoders
    from oneshot_core.features import ClipEncoder, Encoders, build_clip
    from oneshot_core.features.perceptual import package_net
    from oneshot_core.features.towers import simplify
    from oneshot_core.tensors import seeded

    if model == "demo":
        return demo_encoders()
    import open_clip

    built = build_clip(open_clip.get_model_config(model))
    simplify(built.visual)  # as `load_clip` does
    clip = ClipEncoder(built, name=model)
    net = package_net("alex")
    net.backbone.to_empty(device="cpu")
    random = seeded(0, 0, "speed.alexnet")
    with torch.no_grad():
        for weight in net.backbone.parameters():
            fan = weight[0].numel() if weight.ndim > 1 else 1
            weight.copy_(torch.randn(weight.shape, generator=random) * (2 / fan) ** 0.5)
    return Encoders.of(clip, net.requires_grad_(False).eval())


class Subject:
    """One size on one device: a running adaptation whose steps are timed one by one."""

    def __init__(
        self, size: int, device: Any, options: argparse.Namespace, precision: str = "float32"
    ) -> None:
        import torch

        from oneshot_core.draws import SeededDraws
        from oneshot_core.objective import PROFILES, Aim
        from oneshot_core.objective.presets import oneshot_clip
        from oneshot_core.training import TrainState
        from oneshot_core.training.memory import search_bytes, training_bytes

        bundle, seen = networks(size, options.width_share), encoders(options.clip)
        preset, _ = oneshot_clip(PROFILES[options.profile]).fitted(size)
        draws = SeededDraws(0)
        self.target = draws.uniform(0, "speed.target", (1, 3, size, size)).mul(2).sub(1).to(device)
        aim = Aim(self.target, torch.zeros(1, 512, device=device))
        self.needed = partial(training_bytes, bundle, seen, aim, preset)
        self.search_bytes = search_bytes(bundle, seen)
        self.bundle, self.encoders = bundle.to(device), seen.to(device)
        self.state = TrainState.create(self.bundle, self.encoders, aim, preset, draws, precision=precision)
        self.device, self.clock = device, Clock(device)
        self.steps = self._steps_by_kind()

    def _steps_by_kind(self) -> dict[str, int]:
        """Find the first step of every kind that the schedule brings."""
        from oneshot_core.training.phases import phases_due, start_round

        found: dict[str, int] = {}
        for step in range(64):
            self.state.step = step
            current = start_round(self.state)
            found.setdefault(current.kind.name + (" with R1" if "r1" in phases_due(current) else ""), step)
        return found

    def adopt(self, variant: Variant) -> None:
        """Bring networks and state into a variant's memory format and precision."""
        from oneshot_core.features import clips_for
        from oneshot_core.precision import PRECISIONS
        from oneshot_core.stages import kept, recomputed

        state = self.state
        state.stage = recomputed if variant.recompute else kept
        state.precision = variant.number_format
        if variant.layout is not None:
            self._lay_out(variant)
        state.clips = clips_for(self.encoders, PRECISIONS[state.precision])

    def _lay_out(self, variant: Variant) -> None:
        import torch

        state, seen = self.state, self.encoders
        last = variant.layout == "channels_last"
        layout = torch.channels_last if last else torch.contiguous_format
        modules = [state.source, state.adapted, state.ema, state.discriminator, state.heads]
        for module in [*modules, self.bundle.generator, seen.clip, seen.perceptual]:
            if module is not None:
                module.to(memory_format=layout)
        for optimiser in state.optimisers.values():  # fused Adam wants moments laid out like their weights
            for weight, kept in optimiser.state.items():
                for name, value in kept.items():
                    if value.shape == weight.shape:
                        kept[name] = torch.empty_like(weight).copy_(value)

    def step(self, kind: str, phases: dict[str, list[float]] | None = None) -> None:
        """Do one step of a kind, as the training loop does it; time its phases where that is asked for."""
        from oneshot_core.training.phases import phases_due, run_phase, start_round

        self.state.step = self.steps[kind]
        current = start_round(self.state)

        def run(name: str) -> None:
            for value in run_phase(name, current).values():
                float(value)

        for name in phases_due(current):
            if phases is None:
                run(name)
            else:
                phases.setdefault(name, []).append(self.clock.time(lambda name=name: run(name)))

    def search(self, steps: int, precision: str) -> dict[str, Any]:
        """Time single steps of the latent search."""
        from oneshot_core.search import SearchConfig, search_latent

        ends: list[Any] = []

        def note(_: Any) -> None:
            import torch

            if self.clock.on_gpu:
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

        config = SearchConfig(steps=steps + WARM_UPS + 1, precision=precision)
        search_latent(self.bundle, self.encoders, self.target, config, callbacks=[note])
        return summary([end - begin for begin, end in pairwise(ends[WARM_UPS:])])

    def sampling(self, batch: int, repeats: int) -> dict[str, Any]:
        """Time drawing a batch of pictures that stay on the device."""
        import torch

        generator = self.bundle.generator
        w = torch.randn(batch, 512, generator=torch.Generator().manual_seed(0)).to(self.device)
        noise = generator.constant_noise()

        def draw() -> None:
            with torch.no_grad():
                generator.synthesize(generator.broadcast(w), noise)

        return self.clock.repeat(draw, repeats)


def measure(subject: Subject, variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    """Measure every kind of step of one size in one variant."""
    subject.adopt(variant)
    peaks = Peaks(subject.device)
    kinds: dict[str, dict[str, Any]] = {}
    phases: dict[str, dict[str, Any]] = {}
    found: dict[str, Any] = {"kinds": kinds, "phases": phases}
    for kind in [kind for kind in options.kinds if kind != "search"]:
        kinds[kind] = subject.clock.repeat(lambda kind=kind: subject.step(kind), options.repeats)
        parts: dict[str, list[float]] = {}
        for _ in range(min(options.repeats, 3)):
            subject.step(kind, parts)
        phases[kind] = {name: summary(values) for name, values in parts.items()}
    found["training_peak_bytes"] = peaks.taken()
    found["estimates"] = {
        "training": subject.needed(variant.number_format, variant.recompute), "search": subject.search_bytes
    }  # fmt: skip
    if "search" in options.kinds:
        kinds["search"] = subject.search(options.repeats, variant.number_format)
        found["search_peak_bytes"] = peaks.taken()
    found["mix_of_16"] = mix_seconds(kinds)
    found["sampling"] = {str(n): subject.sampling(n, options.repeats) for n in (1, 8)}
    return found


class Peaks:
    """Peak memory since the last look: allocated on a GPU; on a CPU the process's resident set so far."""

    def __init__(self, device: Any) -> None:
        self.on_gpu = device.type == "cuda"
        self._reset()

    def _reset(self) -> None:
        import torch

        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def taken(self) -> int:
        """Return the peak in bytes and start anew."""
        import torch

        if not self.on_gpu:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        torch.cuda.synchronize()
        peak = int(torch.cuda.max_memory_allocated())
        self._reset()
        return peak


@contextmanager
def arithmetic(variant: Variant) -> Iterator[None]:
    """Set torch's flags for a variant, and set them back."""
    import torch

    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    exact = variant.precision == "float32"
    torch.set_float32_matmul_precision("highest" if exact else "high")
    cudnn.allow_tf32, cudnn.benchmark = not exact, variant.benchmark
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


def ceilings(device: Any, repeats: int = 10) -> dict[str, float]:
    """Measure how fast the device copies (bytes read and written) and multiplies random matrices."""
    import torch

    clock, on_gpu = Clock(device), device.type == "cuda"
    side, elements = (8192, 1 << 29) if on_gpu else (512, 1 << 25)
    found = {"copy GB/s": _copy_rate(clock, torch.randn(elements, device=device), repeats) / 1e9}
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    for name in PRECISIONS if on_gpu else ("float32", "bfloat16"):
        lowered = [x.bfloat16() if name == "bfloat16" else x for x in (a, b)]
        with arithmetic(Variant.parse(name)):
            times = clock.repeat(lambda lowered=lowered: torch.mm(*lowered), repeats)
        found[f"matmul {name} TFLOP/s"] = 2 * side**3 / times["median"] / 1e12
    return found


def _copy_rate(clock: Clock, source: Any, repeats: int) -> float:
    """Bytes a second, read and written, of a large copy within the device."""
    import torch

    target = torch.full_like(source, float("nan"))
    times = clock.repeat(lambda: target.copy_(source), repeats)
    assert torch.equal(source, target)
    return 2 * source.nbytes / times["median"]


# Cases ------------------------------------------------------------------------------------


def run_here(options: argparse.Namespace, report: Report, device: Any) -> None:
    """Measure all cases in this process, size by size."""
    import torch

    from oneshot_core.memory import keep_freed_memory

    if device.type == "cpu":
        keep_freed_memory()  # as the command line does
    began = time.monotonic()
    for size in options.sizes:
        if time.monotonic() - began > options.budget_seconds:
            print(f"{size} px and larger left out: the time of {options.budget_seconds:.0f} s is used up")
            return
        subject = Subject(size, device, options)
        for variant in options.variants:
            if time.monotonic() - began > options.budget_seconds:
                break
            with arithmetic(Variant.parse(variant)):
                found = measure(subject, Variant.parse(variant), options)
            report.add(size=size, variant=variant, **found)
        del subject
        if device.type == "cuda":
            torch.cuda.empty_cache()


def run_apart(options: argparse.Namespace, report: Report) -> None:
    """Measure every case in a process of its own, for its peak memory."""
    began = time.monotonic()
    for size in options.sizes:
        for variant in options.variants:
            if time.monotonic() - began > options.budget_seconds:
                return
            command = [
                sys.executable, __file__, "--one-process", "--device", "cpu",
                "--out", str(options.out / "case"),
                "--sizes", str(size), "--variants", variant, "--threads", str(options.threads),
                "--repeats", str(options.repeats), "--clip", options.clip, "--profile", options.profile,
                "--kinds", ",".join(options.kinds), "--no-ceilings",
                "--width-share", str(options.width_share),
            ]  # fmt: skip
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            case = json.loads((options.out / "case" / "speed.json").read_text(encoding="utf-8"))["cases"][0]
            report.add(**case)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _sizes(text: str) -> list[int]:
    return [int(part) for part in _list(text)]


def _kinds(text: str) -> list[str]:
    kinds = _list(text)
    if unknown := set(kinds) - set(KINDS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}; there are: {', '.join(KINDS)}")
    return kinds


def _variants(text: str) -> list[str]:
    try:
        return [text for text in _list(text) if Variant.parse(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument(
        "--sizes", type=lambda text: [int(s) for s in _list(text)], default=[128, 256, 512, 1024]
    )
    parser.add_argument("--variants", type=_variants, help="see above")
    parser.add_argument("--kinds", type=_kinds, default=list(KINDS), help="of steps: " + ", ".join(KINDS))
    parser.add_argument(
        "--repeats", type=int, default=7, help="timed steps of a kind, after two that warm up"
    )
    parser.add_argument("--profile", choices=("default", "official"), default="default")
    parser.add_argument("--clip", default="ViT-B-32-quickgelu", help="open_clip model, or demo")
    parser.add_argument("--width-share", type=float, default=1.0, help="of the published widths, for trials")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="start no case after that")
    parser.add_argument("--no-ceilings", action="store_true")
    parser.add_argument("--one-process", action="store_true", help="all cases in one process, on a CPU too")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    import torch

    options = parsed(arguments)
    name = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    torch.set_num_threads(options.threads)
    options.variants = options.variants or list(GPU_VARIANTS if name == "cuda" else CPU_VARIANTS)
    report = Report(options.out, device)
    if not options.no_ceilings:
        report.values["ceilings"] = ceilings(device)
        print(report.values["ceilings"], flush=True)
    if name == "cuda" or options.one_process:
        run_here(options, report, device)
    else:
        run_apart(options, report)
    report.write()
    print(table(report.values))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
