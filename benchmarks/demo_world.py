"""The referee: adaptation measured against the demo world's ground truth, method against method.

For a latent whose factors are known the right adapted picture is the same portrait drawn in the target's
look. Per look, person on the target and method this adapts the demo generator to one picture and measures 64
latents:

- own_truth (primary): 1 - mean distance to the own truth / mean distance between truths, in the judge's
  middle map, each channel by its deviation: 1 for the truth, about 0 for one picture repeated;
- retrieval: share of pictures whose nearest truth among 64 is their own, in the same map;
- along, off, own: how far the mean has travelled from source to truth in a reader's embedding, how far off
  that way, and retrieval less the means; the reader is a CLIP that no method trains with;
- texture_along, texture_off: the same in the judge's early statistics, strokes and grain wherever they are;
- gap_closed: 1 - KID(adapted, truth) / KID(source, truth), 10 subsets of 48;
- diversity: mean distance of two pictures in the judge's early map, of the truth's;
- clip_i: the reader's cosine with the target, beside it the truth's own.

A look that keeps a person's colours has two truths for one target (`demo_measures`); the nearer one counts.

    python benchmarks/demo_world.py --out out/referee                   # what is missing, then the tables
    python benchmarks/demo_world.py --out out/referee --report          # the tables only
    python benchmarks/demo_world.py --out out/tuning --tuning --variants-file FILE

Rows are appended to OUT/rows.jsonl; a row that is there is not computed again, so an interrupted run goes
on. The rule by which methods are compared stands in `demo_verdict.py`; it was written before the first run.
Settings are chosen on `TUNING_LOOKS`, which are never reported.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from demo_measures import Scene, rendered
from demo_verdict import report

from oneshot_core.checkpoints import with_fresh_discriminator
from oneshot_core.checkpoints.bundle import GeneratorBundle
from oneshot_core.demo.world import demo_encoders, demo_generator, demo_recipe
from oneshot_core.latent_files import load_latent, save_latent
from oneshot_core.latents import Latent
from oneshot_core.networks import Generator
from oneshot_core.objective import Aim
from oneshot_core.pictures import save_png
from oneshot_core.recipe import Recipe
from oneshot_core.search import search_latent
from oneshot_core.tensors import seeded
from oneshot_core.training import adapt
from oneshot_core.training.callbacks import Callback
from oneshot_core.training.state import TrainState

# The looks of the five shipped targets, and one more that earlier versions were tuned on.
TUNING_LOOKS = (
    "watercolour", "pencil sketch", "stained glass", "oil painting", "blueprint", "sepia photograph"
)  # fmt: skip
# All others, in the order in which they are defined; a look counts where the judge finds people in the
# unchanged source (`demo_verdict.INCLUSION`).
LOOKS = (
    "neon",
    "halftone",
    "ink",
    "pastel",
    "mosaic",
    "comic",
    "woodcut",
    "pop art",
    "cel shading",
    "line art",
)
PEOPLE = 2
STEPS = 200  # of the default; the others get as much time
SUPERVISED, FRESH = "supervised bound", "fresh discriminator"
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    # Its crops of 128 px are an eighth of 1024 px; the same share here.
    "official": {"method": {"profile": "official", "ema_half_life": STEPS / 8, "crop_px": 16}},
    "no semantic": {"method": {"weights": {"semantic": 0.0}}},
    "no patch": {"method": {"weights": {"patch": 0.0}}},
    "pixel search": {"search": {"weights": {"clip": 0.0}}},
    "schedule 1:3": {"method": {"schedule": {"reference": 1, "random": 3}}},
    "schedule 3:1": {"method": {"schedule": {"reference": 3, "random": 1}}},
    FRESH: {},  # as for a checkpoint whose file has no discriminator
}
# Seconds of a step relative to the default's, one thread, by --calibrate; ablations keep the steps.
COSTS: dict[str, float] = {"official": 1.0, "schedule 1:3": 1.0, "schedule 3:1": 1.0}
_CALIBRATION_STEPS = 16


@dataclass(frozen=True)
class Method:
    """What is compared: changes of the demo's recipe and a number of steps."""

    name: str
    changes: Mapping[str, Any]
    steps: int

    def recipe(self) -> Recipe:
        """The recipe; the training's seed is the same for all methods, people and looks."""
        length = {"training": {"steps": self.steps, "seed": 0}}
        return Recipe.of(length, Recipe.of(self.changes, demo_recipe()))


class Curve(Callback):
    """Measure the run at a quarter and at half of its steps."""

    def __init__(self, scene: Scene, steps: int) -> None:
        self.scene, self.at = scene, {steps // 4, steps // 2}
        self.points: dict[int, dict[str, Any]] = {}
        self.seconds = 0.0

    def after_step(self, state: TrainState) -> None:
        """Measure."""
        if state.step in self.at:
            began = time.monotonic()
            self.points[state.step] = self.scene.measure(rendered(state.ema, self.scene.z))
            self.seconds += time.monotonic() - began


def found_latent(scene: Scene, recipe: Recipe, out: Path) -> tuple[Latent, float]:
    """Search the reference latent, or take what another method of the same search has found."""
    config = recipe.search_config()
    settings = hashlib.sha256(json.dumps(config.describe(), sort_keys=True).encode()).hexdigest()[:12]
    name = f"{scene.look}-{scene.person}-{settings}".replace(" ", "_")
    path, note = out / "latents" / f"{name}.safetensors", out / "latents" / f"{name}.json"
    if not note.is_file():
        began = time.monotonic()
        found = search_latent(demo_generator(), demo_encoders(), scene.target, config)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_latent(found.latent, path)
        save_png(found.reconstruction, path.with_suffix(".png"))
        note.write_text(json.dumps({"seconds": time.monotonic() - began}), encoding="utf-8")
    seconds = json.loads(note.read_text(encoding="utf-8"))["seconds"]
    return load_latent(path, demo_generator().num_layers), float(seconds)


def adapted(scene: Scene, method: Method, out: Path) -> tuple[GeneratorBundle, dict[str, Any]]:
    """Search and adapt; return the adapted bundle, its curve and the seconds it took."""
    recipe, bundle = method.recipe(), demo_generator()
    if method.name == FRESH:
        bundle = with_fresh_discriminator(bundle, recipe.training.seed)
    latent, seconds = found_latent(scene, recipe, out)
    preset, _ = recipe.preset(bundle.size)
    curve = Curve(scene, method.steps)
    began = time.monotonic()
    aim = Aim(scene.target, latent)
    result = adapt(bundle, demo_encoders(), aim, preset, recipe.train_config(), callbacks=[curve])
    seconds += time.monotonic() - began - curve.seconds
    return result.bundle, {"curve": curve.points, "seconds": seconds}


def supervised(scene: Scene, steps: int = 200, batch: int = 4, rate: float = 0.003) -> Generator:
    """Train the generator on the truth itself: what the network could do at best, not a method."""
    generator = copy.deepcopy(demo_generator().generator).requires_grad_(True)
    generator.mapping.requires_grad_(False)
    optimiser = torch.optim.Adam([p for p in generator.parameters() if p.requires_grad], rate, (0.0, 0.99))
    for step in range(steps):
        z = torch.randn(batch, scene.z.shape[1], generator=seeded(0, step, "referee.supervised"))
        images = generator.synthesize(generator.map(z), generator.constant_noise())
        optimiser.zero_grad(set_to_none=True)
        (images - scene.drawn(z)).abs().mean().backward()
        optimiser.step()
    return generator.requires_grad_(False)


Work = tuple[str, int, tuple[Method, ...], Path, bool]


def run_pair(work: Work) -> None:
    """Compute the missing rows of one look and person, keep sample pictures, append the rows."""
    look, person, methods, out, with_arms = work
    torch.set_num_threads(1)
    scene = Scene(look, person)

    def tell(name: str, images: Any, more: Mapping[str, Any], steps: int) -> None:
        row = {
            "look": look,
            "person": person,
            "variant": name,
            "steps": steps,
            **scene.measure(images),
            **more,
        }
        file_name = f"{look}-{person}-{name}-{steps}".replace(" ", "_").replace(":", "_")
        save_png(torch.cat(list(images[:8]), dim=2)[None], out / "samples" / f"{file_name}.png")
        with open(out / "rows.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{look:16} {person} {name:20} truth {row['own_truth']:.3f} retrieval {row['retrieval']:.2f} "
            f"along {row['along']:.2f} texture {row['texture_along']:.2f} ({row.get('seconds', 0):.0f} s)",
            flush=True,
        )

    if with_arms:
        for name, images in scene.arms().items():
            tell(name, images, {}, 0)
        tell(SUPERVISED, rendered(supervised(scene), scene.z), {}, 0)
    for method in methods:
        bundle, more = adapted(scene, method, out)
        tell(method.name, rendered(bundle.generator, scene.z), more, method.steps)


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Read what has been computed."""
    file = out / "rows.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines]


def missing(options: argparse.Namespace, methods: Sequence[Method]) -> Iterator[Work]:
    """List what is not there yet; every person of all looks before the next person."""
    rows = [(row["look"], row["person"], row["variant"], row["steps"]) for row in read_rows(options.out)]
    for person in range(options.people):
        for look in options.looks:
            todo = tuple(one for one in methods if (look, person, one.name, one.steps) not in rows)
            arms = (look, person, SUPERVISED, 0) not in rows and not options.no_arms
            if todo or arms:
                yield look, person, todo, options.out, arms


def chosen_methods(options: argparse.Namespace) -> list[Method]:
    """Build the methods that are asked for."""
    known = VARIANTS
    if options.variants_file:
        known = json.loads(options.variants_file.read_text(encoding="utf-8"))
    names = options.variants or list(known)
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"unknown variants {unknown}; choose among {sorted(known)}")
    return [Method(name, known[name], round(options.steps / COSTS.get(name, 1.0))) for name in names]


def calibrate(methods: Sequence[Method], report: Callable[[str], None] = print) -> None:
    """Time steps of every method, one thread, alternating, so that equal time becomes fixed step counts."""
    torch.set_num_threads(1)
    scene = Scene(TUNING_LOOKS[0], 0, samples=2)
    bundle, encoders, seconds = demo_generator(), demo_encoders(), dict[str, list[float]]()
    latent = Latent("w", bundle.mean_latent[None], bundle.family, {})
    for _ in range(3):
        for method in methods:
            recipe = Method(method.name, method.changes, _CALIBRATION_STEPS).recipe()
            preset, _ = recipe.preset(bundle.size)
            began = time.monotonic()
            adapt(bundle, encoders, Aim(scene.target, latent), preset, recipe.train_config())
            seconds.setdefault(method.name, []).append((time.monotonic() - began) / _CALIBRATION_STEPS)
    base = sorted(seconds[methods[0].name])[1]
    for name, found in seconds.items():
        report(f"{name}: {sorted(found)[1]:.3f} s a step, {sorted(found)[1] / base:.2f} of {methods[0].name}")


def main() -> None:
    """Compute what is missing and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--looks", nargs="+", help="default: those that are reported")
    parser.add_argument("--tuning", action="store_true", help="the looks that settings are chosen on")
    parser.add_argument("--variants", nargs="+", help="default: all")
    parser.add_argument("--variants-file", type=Path, help='JSON {"name": changes of the recipe, ...}')
    parser.add_argument("--people", type=int, default=PEOPLE, help="targets per look")
    parser.add_argument("--no-arms", action="store_true", help="leave the untrained arms out")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--report", action="store_true", help="only print the tables of what is there")
    parser.add_argument("--calibrate", action="store_true", help="only time a step of each variant")
    options = parser.parse_args()
    options.looks = options.looks or list(TUNING_LOOKS if options.tuning else LOOKS)
    methods = chosen_methods(options)
    if options.calibrate:
        calibrate(methods)
        return
    if not options.report:
        options.out.mkdir(parents=True, exist_ok=True)
        os.environ["OMP_NUM_THREADS"] = "1"
        work = list(missing(options, methods))
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            for _ in pool.imap_unordered(run_pair, work):
                pass
    print(report(read_rows(options.out), [method.name for method in methods]))


if __name__ == "__main__":
    main()
