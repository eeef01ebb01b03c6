"""The referee: adaptation measured against the demo world's ground truth, method against method.

For a latent whose factors are known the right adapted picture is the same portrait drawn in the target's
look. Per look, person on the target and method this adapts the demo generator to one picture and measures 64
latents:

- own_truth (primary): 1 - mean distance to the own truth / mean distance between truths, in the judge's
  middle map, each channel by its deviation: 1 for the truth, 0 for the truth of one person repeated, and at
  most 0.5 for any one picture, which retrieval then finds out;
- retrieval: share of pictures whose nearest truth among 64 is their own, in the same map: the guard;
- along, off, own: how far the mean has travelled from source to truth in a reader's embedding, how far off
  that way, and retrieval less the means; the reader is a CLIP that no method trains with;
- texture_along, texture_off: the same in the judge's early statistics, strokes and grain wherever they are;
- gap_closed: 1 - KID(adapted, truth) / KID(source, truth) to the truth of 64 other latents, 10 subsets of 48;
- diversity: mean distance of two pictures in the judge's early map, of the truth's;
- clip_i: the reader's cosine with the target, of the truth's own.

A look that keeps a person's colours has two truths for one target (`demo_measures`); the nearer one counts.

    python benchmarks/demo_world.py --out out/referee                   # what is missing, then the tables
    python benchmarks/demo_world.py --out out/referee --report          # the tables only
    python benchmarks/demo_world.py --out out/referee --claim           # the method against its rivals
    python benchmarks/demo_world.py --out out/tuning --tuning --variants-file FILE

First come the untrained arms of all looks; methods run only where the arms show that the measure can see.
Rows are appended to OUT/rows.jsonl; one that is there, of the same settings and assets, is not computed
again, so an interrupted run goes on. The rule by which methods are compared stands in `demo_verdict.py`; it
was written before the first run. Settings are chosen on `TUNING_LOOKS`, which are never reported.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from demo_measures import ARMS, BOUND, READER, SAMPLES, Scene, rendered
from demo_verdict import included, report

from oneshot_core.checkpoints import with_fresh_discriminator
from oneshot_core.checkpoints.bundle import GeneratorBundle
from oneshot_core.demo.making.faces import HELD_OUT_LOOKS, TRAINING_LOOKS
from oneshot_core.demo.world import ASSETS, demo_encoders, demo_generator, demo_recipe
from oneshot_core.latent_files import load_latent, save_latent
from oneshot_core.latents import Latent
from oneshot_core.networks import Generator
from oneshot_core.objective import Aim
from oneshot_core.pictures import save_png
from oneshot_core.recipe import MethodRecipe, Recipe
from oneshot_core.search import search_latent
from oneshot_core.tensors import seeded
from oneshot_core.training import adapt
from oneshot_core.training.callbacks import Callback
from oneshot_core.training.state import TrainState

# All settings of the demo were chosen on these looks, earlier ones too.
TUNING_LOOKS = (
    "watercolour", "pencil sketch", "stained glass", "oil painting", "blueprint", "sepia photograph"
)  # fmt: skip
LOOKS = tuple(look for look in (*TRAINING_LOOKS, *HELD_OUT_LOOKS) if look not in TUNING_LOOKS)
PEOPLE = 2
DEFAULT_PRESET = MethodRecipe().preset
STEPS = 150  # of the default
_CALIBRATION_STEPS = 16
_SEEDS_PER_LOOK = 100


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes:
        name: in the tables.
        changes: of the demo's recipe.
        cost: seconds of a step relative to the default's (--calibrate); a method whose steps cost more does
            fewer. Ablations keep the steps: a term that is left out must not buy others.
        fresh: start with an untrained discriminator, as for a checkpoint whose file has none.
        steps: of the default.
        precision: of the forward passes.
        seeds_on: added to the pair's seed.
        preset: of the recipe; another than the demo's starts from its own settings, not from the demo's.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    cost: float = 1.0
    fresh: bool = False
    steps: int = STEPS
    precision: str = "float32"
    seeds_on: int = 0
    preset: str = DEFAULT_PRESET

    def recipe(self, seed: int = 0) -> Recipe:
        """The recipe of a run; the seed is that of the pair, the same for all methods."""
        steps = max(1, round(self.steps / self.cost))
        changes = dict(self.changes)
        if "training" in changes:
            raise SystemExit(
                f"{self.name}: steps and seed are the referee's; leave training out of a variant"
            )
        if changes.get("method", {}).get("profile") == "official":  # which has a constant average
            changes["method"] = {"ema_half_life": steps / 8, "crop_px": 16, **changes["method"]}
        seed += self.seeds_on
        run: dict[str, Any] = {"training": {"steps": steps, "seed": seed}, "search": {"seed": seed}}
        # One precision on every machine: "auto" would be another method on another CPU.
        run["training"]["precision"] = self.precision
        base = demo_recipe()
        if self.preset != DEFAULT_PRESET:  # the demo's weights and rates are those of its own method
            base = replace(base, method=MethodRecipe(self.preset))
        return Recipe.of(run, Recipe.of(changes, base))


METHODS = (
    Method("default"),
    Method("official profile", {"method": {"profile": "official"}}),
    Method("no semantic", {"method": {"weights": {"semantic": 0.0}}}),
    Method("no patch", {"method": {"weights": {"patch": 0.0}}}),
    Method("pixel search", {"search": {"weights": {"clip": 0.0}}}),
    Method("schedule 1:3", {"method": {"schedule": {"reference": 1, "random": 3}}}, cost=1.18),
    Method("schedule 3:1", {"method": {"schedule": {"reference": 3, "random": 1}}}, cost=0.82),
)
# The claim of the paper: it against its rivals, for one picture, with equal compute. `cost` was measured
# once, one thread, on the machine of the runs (--calibrate); NADA and few-shot need no search and have that
# time over. Equal tuning: the first four settings of each rival (benchmarks/tuning/rivals.json, in its order)
# on one pair, pencil sketch of person 0; taken is the highest own_truth among those that keep nine tenths of
# the source's people. Rates and parts are all that differs from the presets. The rule of the verdict is that
# of `demo_verdict.py`.
_RGB = "constant, affine, convolution, noise, rgb"
CLAIM = (
    METHODS[0],
    METHODS[1],
    Method("StyleGAN-NADA", {"method": {"learning_rate": 0.001}}, 0.59, preset="stylegan_nada"),
    Method(
        "Mind the Gap",
        {"method": {"learning_rate": 0.002, "trained_parts": _RGB}},
        1.32,
        preset="mind_the_gap",
    ),
    Method("few-shot", {"method": {"learning_rate": 0.002}}, 2.15, preset="few_shot"),
)
# Shown when asked for by name, not compared: each further comparison makes all harder to decide.
APART = (
    # Its accidents with its own rates, weights and schedule, which were not made for 200 steps at 128 px.
    Method(
        "as published",
        {
            "method": {
                "profile": "official", "learning_rate": 0.002, "discriminator_rate": None,
                "schedule": {"reference": 1, "random": 3}, "weights": {"adversarial": 1.0, "patch": 1.0},
            },
            "search": {"weights": {"deviation": 0.01}},
        },
    ),
    Method("fresh discriminator", fresh=True),
    # Whether fewer bits cost quality, and what another seed alone changes. The rule, written before the run:
    # bfloat16 is as good when the mean difference of own_truth to the default, and that of retrieval, are not
    # below the lower end of the interval of the same difference of "another seed".
    Method("bfloat16", precision="bfloat16"),
    Method("another seed", seeds_on=50_000),
    # What a look of some thousand numbers reaches of a full adaptation; its rate was chosen on tuning looks.
    Method("style offsets", {"method": {"trained_parts": "style offsets", "learning_rate": 0.05}}),
)  # fmt: skip


class Curve(Callback):
    """Measure the run at a quarter and at half of its steps."""

    def __init__(self, scene: Scene, steps: int) -> None:
        self.scene, self.at = scene, {steps // 4, steps // 2} - {0}
        self.points: dict[int, dict[str, Any]] = {}
        self.seconds = 0.0

    def after_step(self, state: TrainState) -> None:
        """Measure."""
        if state.step in self.at:
            began = time.monotonic()
            self.points[state.step] = self.scene.measure(rendered(state.ema, self.scene.z))
            self.seconds += time.monotonic() - began


@lru_cache(maxsize=1)
def assets_print() -> str:
    """Fingerprint of everything that is not a setting: the demo's networks, judge and reader."""
    digest = hashlib.sha256()
    for path in sorted([*ASSETS.glob("*.safetensors"), READER]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(*parts: object) -> str:
    """Name what determines a result."""
    text = json.dumps([assets_print(), SAMPLES, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pair_seed(look: str, person: int) -> int:
    """Seed of all draws of a pair, the same for all methods."""
    return (TRAINING_LOOKS + HELD_OUT_LOOKS).index(look) * _SEEDS_PER_LOOK + person


def method_key(look: str, person: int, method: Method) -> str:
    """Name what determines a row of a method: its arithmetic, not how a recipe happens to be written."""
    recipe = method.recipe(pair_seed(look, person))
    preset, _ = recipe.preset(demo_generator().size)
    search = {**recipe.search_config().describe(), "frame": str(recipe.aim.frame)}
    told = [preset.describe(), search if preset.needs.reference else {}, recipe.train_config().describe()]
    return key_of(look, person, _told(told), recipe.training.steps, method.fresh)


def _told(value: Any) -> Any:
    """Without what says nothing: a row stays known when an option is added that it does not use."""
    if isinstance(value, dict):
        some = {name: one for name, one in value.items() if one is not None and not _is_off(one)}
        return {name: _told(one) for name, one in some.items()}
    return [_told(one) for one in value] if isinstance(value, list | tuple) else value


def _is_off(value: Any) -> bool:
    """Whether it is a term that is left out."""
    return isinstance(value, dict) and "term" in value and not value.get("weight")


def found_latent(scene: Scene, recipe: Recipe, out: Path) -> tuple[Latent, float]:
    """Search the reference latent, or take what another method of the same search has found."""
    config = recipe.search_config()
    name = f"{scene.look}-{scene.person}-{key_of(scene.look, scene.person, config.describe())}"
    path = out / "latents" / f"{name.replace(' ', '_')}.safetensors"
    note = path.with_suffix(".json")
    if not note.is_file():
        began = time.monotonic()
        found = search_latent(demo_generator(), demo_encoders(), scene.target, config)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_latent(found.latent, path)
        save_png(torch.cat([scene.target, found.reconstruction], dim=3), path.with_suffix(".png"))
        note.write_text(json.dumps({"seconds": time.monotonic() - began}), encoding="utf-8")
    seconds = json.loads(note.read_text(encoding="utf-8"))["seconds"]
    return load_latent(path, demo_generator().num_layers), float(seconds)


def adapted(scene: Scene, method: Method, out: Path) -> tuple[GeneratorBundle, dict[str, Any]]:
    """Search and adapt; return the adapted bundle, its curve and the seconds it took."""
    seed, bundle = pair_seed(scene.look, scene.person), demo_generator()
    recipe = method.recipe(seed)
    if method.fresh:
        bundle = with_fresh_discriminator(bundle, seed)
    preset, _ = recipe.preset(bundle.size)
    latent, seconds = found_latent(scene, recipe, out) if preset.needs.reference else (None, 0.0)
    curve = Curve(scene, recipe.training.steps)
    began = time.monotonic()
    aim = Aim(scene.target, latent)
    result = adapt(bundle, demo_encoders(), aim, preset, recipe.train_config(), callbacks=[curve])
    seconds += time.monotonic() - began - curve.seconds
    return result.bundle, {"curve": curve.points, "seconds": seconds, "steps": recipe.training.steps}


def supervised(scene: Scene, steps: int = 200, batch: int = 4, rate: float = 0.003) -> Generator:
    """Train the generator on the truth itself: what a teacher would reach in so many steps, not a method."""
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


@dataclass(frozen=True)
class Work:
    """The missing rows of one look and person."""

    look: str
    person: int
    methods: tuple[Method, ...]
    arms: bool
    out: Path


class Table:
    """The file of rows, and the sample pictures beside it."""

    def __init__(self, scene: Scene, out: Path) -> None:
        self.scene, self.out = scene, out

    def add(self, name: str, key: str, images: Any, more: Mapping[str, Any]) -> None:
        """Measure pictures and append their row."""
        row = {**self.scene.measure(images), **more}
        picture = f"{self.scene.look}-{self.scene.person}-{name}-{key[:6]}.png".replace(" ", "_").replace(
            ":", "_"
        )
        save_png(torch.cat(list(images[:8]), dim=2)[None], self.out / "samples" / picture)
        self.append(name, key, row)
        print(
            f"{self.scene.look:16} {self.scene.person} {name:18} truth {row['own_truth']:.3f} "
            f"retrieval {row['retrieval']:.2f} along {row['along']:.2f} texture {row['texture_along']:.2f} "
            f"({row.get('seconds', 0):.0f} s)",
            flush=True,
        )  # fmt: skip

    def append(self, name: str, key: str, row: Mapping[str, Any]) -> None:
        """Append a row."""
        whole = {"look": self.scene.look, "person": self.scene.person, "variant": name, "key": key, **row}
        with open(self.out / "rows.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(whole) + "\n")


def run_pair(work: Work) -> list[str]:
    """Compute the missing rows of a pair; returns what went wrong."""
    torch.set_num_threads(1)
    scene = Scene(work.look, work.person)
    table, faults = Table(scene, work.out), []
    if work.arms:
        key = key_of(work.look, work.person)
        for name, images in scene.arms().items():
            table.add(name, key, images, {})
        table.add(BOUND, key, rendered(supervised(scene), scene.z), {})
    for method in work.methods:
        key = method_key(work.look, work.person, method)
        try:
            bundle, more = adapted(scene, method, work.out)
        except (FloatingPointError, ValueError) as error:  # a run that breaks is a result of its method
            table.append(method.name, key, {"failed": str(error)})
            faults.append(f"{work.look} {work.person} {method.name}: {error}")
            continue
        table.add(method.name, key, rendered(bundle.generator, scene.z), more)
    return faults


def read_rows(out: Path) -> dict[tuple[str, int, str, str], dict[str, Any]]:
    """Read what has been computed, by look, person, name and key; a cut-off line counts as nothing."""
    file, rows = out / "rows.jsonl", {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["look"], row["person"], row["variant"], row["key"]] = row
    return rows


def pairs(looks: Sequence[str], people: int) -> list[tuple[str, int]]:
    """Looks times people; all looks before the next person."""
    return [(look, person) for person in range(people) for look in looks]


def compute(
    looks: Sequence[str], people: int, methods: Sequence[Method], arms: bool, out: Path, jobs: int
) -> None:
    """Compute what is missing."""
    rows, todo = read_rows(out), []
    for look, person in pairs(looks, people):
        lacking = tuple(
            one for one in methods if (look, person, one.name, method_key(look, person, one)) not in rows
        )
        without = arms and (look, person, BOUND, key_of(look, person)) not in rows
        if lacking or without:
            todo.append(Work(look, person, lacking, without, out))
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run_pair, work) for work in todo]):
            for fault in done.result():
                print(f"failed: {fault}", flush=True)


def chosen_rows(
    looks: Sequence[str], people: int, methods: Sequence[Method], out: Path
) -> list[dict[str, Any]]:
    """The rows that a report is about: of these looks and people, these settings and the present assets."""
    rows, chosen = read_rows(out), []
    for look, person in pairs(looks, people):
        keys = dict.fromkeys(ARMS, key_of(look, person))
        keys |= {one.name: method_key(look, person, one) for one in methods}
        places = [(look, person, name, key) for name, key in keys.items()]
        chosen += [rows[place] for place in places if place in rows]
    return chosen


def chosen_methods(file: Path | None, names: Sequence[str], steps: int) -> list[Method]:
    """The methods that are asked for, checked."""
    known = {one.name: one for one in (*METHODS, *APART, *CLAIM)}
    wanted = list(names) or [one.name for one in METHODS]
    if file:
        told = json.loads(file.read_text("utf-8")).items()
        known = {name: _of_file(name, dict(changes)) for name, changes in told}
        wanted = list(names) or list(known)
    if unknown := sorted(set(wanted) - set(known)):
        raise SystemExit(f"there are no methods {unknown}; there are: {', '.join(known)}")
    methods = [replace(known[name], steps=steps) for name in wanted]
    for method in methods:
        method.recipe().check(demo_generator())
    return methods


def _of_file(name: str, changes: dict[str, Any]) -> Method:
    """A method out of a file: changes of the recipe, and the cost of a step."""
    preset = changes.get("method", {}).get("preset", DEFAULT_PRESET)
    return Method(name, changes, cost=changes.pop("cost", 1.0), preset=preset)


def calibrate(methods: Sequence[Method]) -> None:
    """Time steps of every method, one thread, alternating."""
    torch.set_num_threads(1)
    scene = Scene(TUNING_LOOKS[0], 0, samples=2)
    bundle, encoders, seconds = demo_generator(), demo_encoders(), dict[str, list[float]]()
    latent = Latent("w", bundle.mean_latent[None], bundle.family, {})
    for _ in range(3):
        for method in methods:
            recipe = replace(method, steps=_CALIBRATION_STEPS, cost=1.0).recipe()
            preset, _ = recipe.preset(bundle.size)
            began = time.monotonic()
            adapt(bundle, encoders, Aim(scene.target, latent), preset, recipe.train_config())
            seconds.setdefault(method.name, []).append((time.monotonic() - began) / _CALIBRATION_STEPS)
    base = sorted(seconds[methods[0].name])[1]
    for name, found in seconds.items():
        print(f"{name}: {sorted(found)[1]:.3f} s a step, {sorted(found)[1] / base:.2f} of {methods[0].name}")


def main() -> None:
    """Compute what is missing and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--looks", nargs="+", choices=(*TRAINING_LOOKS, *HELD_OUT_LOOKS))
    parser.add_argument("--tuning", action="store_true", help="the looks that settings are chosen on")
    parser.add_argument("--variants", nargs="+", default=[], help="default: all that are compared")
    parser.add_argument("--claim", action="store_true", help="the method against its rivals")
    parser.add_argument("--variants-file", type=Path, help='JSON {"name": changes of the recipe, ...}')
    parser.add_argument("--people", type=int, default=PEOPLE, help="targets per look")
    parser.add_argument("--no-arms", action="store_true", help="leave the untrained arms out")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--report", action="store_true", help="only print the tables of what is there")
    parser.add_argument("--calibrate", action="store_true", help="only time a step of each variant")
    options = parser.parse_args()
    looks = options.looks or (TUNING_LOOKS if options.tuning else LOOKS)
    names = [one.name for one in CLAIM] if options.claim else options.variants
    methods = chosen_methods(options.variants_file, names, options.steps)
    if options.calibrate:
        calibrate(methods)
        return
    if not options.report:
        options.out.mkdir(parents=True, exist_ok=True)
        if not options.no_arms:
            compute(looks, options.people, [], True, options.out, options.jobs)
        counted = included(chosen_rows(looks, options.people, [], options.out)) or looks
        compute(counted, options.people, methods, False, options.out, options.jobs)
    rows = chosen_rows(looks, options.people, methods, options.out)
    print(report(rows, [one.name for one in methods], options.people))


if __name__ == "__main__":
    main()
