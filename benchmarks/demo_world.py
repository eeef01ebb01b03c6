"""Measure adaptation against the demo world's ground truth.

For a latent whose factors are known, the right adapted picture is the same portrait in the target's look. Per
look, variant and seed this adapts the demo generator to one picture, with the settings of the verb `demo`,
and reports

- gap closed: 1 - d(adapted, truth) / d(source, truth), d a kernel distance (KID: unbiased squared MMD, cubic
  kernel) in features of the judge, a network that took no part in the adaptation; beside it the floor
  d(truth, other truth);
- content kept: how often an adapted picture's nearest truth among 64 is its own, in the factors the judge
  reads; beside it the same of the unchanged source pictures, since it does not read every look equally well;
- diversity: mean pairwise perceptual distance of the adapted pictures, relative to that of the truth.

    python benchmarks/demo_world.py --out out/demo_world [--steps 200] [--looks watercolour] [--seeds 3]
    python benchmarks/demo_world.py --out out/demo_world --table

Rows are appended to OUT/rows.jsonl; a row that is there is not computed again, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SAMPLES = 128  # pictures per distance
SHORTLIST = 64  # pictures among which content must be found
PEOPLE_SEED = 900_000  # of the people in target pictures; no sampled latent uses these
VARIANTS = (
    "default", "official", "no semantic", "no patch", "pixel search", "schedule 1:3", "fresh discriminator"
)  # fmt: skip
DEFAULT_LOOKS = ("watercolour", "oil painting", "sepia photograph")  # one of training, two held out


@dataclass(frozen=True)
class Case:
    """One adaptation."""

    look: str
    variant: str
    seed: int
    steps: int
    search_steps: int

    @property
    def key(self) -> str:
        """Identify the row in the results."""
        return json.dumps(asdict(self), sort_keys=True)


def recipe_of(variant: str, steps: int, search_steps: int, seed: int) -> Any:
    """Return the recipe of a variant, all with the demo's rates and schedule."""
    from oneshot_core.demo.world import demo_recipe
    from oneshot_core.recipe import Recipe

    changes: dict[str, Any] = {
        # Its crops of 128 px are an eighth of 1024 px; the same share here.
        "official": {"profile": "official", "ema_half_life": steps / 8, "crop_px": 16},
        "no semantic": {"weights": {"semantic": 0.0}},
        "no patch": {"weights": {"patch": 0.0}},
        "schedule 1:3": {"schedule": {"reference": 1, "random": 3}},
    }
    weights = {"clip": 0.0} if variant == "pixel search" else {}
    search = {"steps": search_steps, "weights": weights}
    values = {
        "method": changes.get(variant, {}),
        "search": search,
        "training": {"steps": steps, "seed": seed},
    }
    return Recipe.of(values, demo_recipe())


def adapted(case: Case) -> tuple[Any, float]:
    """Search and adapt; return the adapted bundle and the seconds it took."""
    import torch

    from oneshot_core.checkpoints import with_fresh_discriminator
    from oneshot_core.demo.making.faces import draw, factors_from_latents
    from oneshot_core.demo.world import demo_encoders, demo_generator
    from oneshot_core.latents import z_from_seeds
    from oneshot_core.objective import Aim
    from oneshot_core.search import search_latent
    from oneshot_core.training import adapt

    bundle, encoders = demo_generator(), demo_encoders()
    recipe = recipe_of(case.variant, case.steps, case.search_steps, case.seed)
    if case.variant == "fresh discriminator":  # as for a checkpoint whose file has none
        bundle = with_fresh_discriminator(bundle, case.seed)
    person = z_from_seeds([PEOPLE_SEED + case.seed], bundle.generator.config.z_dim)
    target = draw(factors_from_latents(person), case.look, seed=0)
    started = time.monotonic()
    found = search_latent(bundle, encoders, target, recipe.search_config())
    preset, _ = recipe.preset(bundle.size)
    result = adapt(bundle, encoders, Aim(target, found.latent), preset, recipe.train_config())
    assert torch.isfinite(result.bundle.generator.const).all()
    return result.bundle, time.monotonic() - started


def pictures(generator: Any, z: Any) -> Any:
    """Render latents with the stored noise, in chunks."""
    import torch

    with torch.no_grad():
        noise = generator.constant_noise()
        return torch.cat([generator.synthesize(generator.map(part), noise) for part in z.split(16)]).clamp(
            -1, 1
        )


def measure(case: Case, generator: Any) -> dict[str, float]:
    """Compare a generator's pictures with the truth."""
    import torch

    from oneshot_core.demo.making.faces import draw, factors_from_latents
    from oneshot_core.demo.making.truth import demo_judge
    from oneshot_core.demo.world import demo_encoders, demo_generator
    from oneshot_core.latents import z_from_seeds
    from oneshot_core.metrics import diversity, kernel_distance

    net = demo_encoders().perceptual
    source = demo_generator().generator
    z = z_from_seeds(range(SAMPLES), source.config.z_dim)
    others = z_from_seeds(range(SAMPLES, 2 * SAMPLES), source.config.z_dim)
    judge = demo_judge()

    def drawn(latents: Any) -> Any:
        return torch.cat([draw(factors_from_latents(part), case.look, seed=0) for part in latents.split(32)])

    made, plain, truth, other = pictures(generator, z), pictures(source, z), drawn(z), drawn(others)
    with torch.no_grad():
        features = [
            torch.cat([judge.features(part) for part in x.split(32)]) for x in (made, plain, truth, other)
        ]
        both = torch.cat(
            [features[1], features[2]]
        )  # source and truth set the scale, for every variant alike
        scale, centre = both.std(0) + 1e-3, both.mean(0)
        a, s, t, o = [(f - centre) / scale for f in features]
        content = [judge(x[:SHORTLIST])[1] for x in (made, plain, truth)]
    factor_scale = content[2].std(0) + 1e-3
    kept = [
        (torch.cdist(part / factor_scale, content[2] / factor_scale).argmin(1) == torch.arange(SHORTLIST))
        for part in content[:2]
    ]
    (gap, _), (left, _) = kernel_distance(s, t), kernel_distance(a, t)
    with torch.no_grad():
        spreads = [diversity(net, images[:SHORTLIST]) for images in (made, truth)]
    return {
        "distance": left,
        "source_distance": gap,
        "floor": kernel_distance(t, o)[0],
        "gap_closed": 1 - left / gap,
        "content_kept": float(kept[0].float().mean()),
        "source_content_kept": float(kept[1].float().mean()),
        "diversity": spreads[0] / spreads[1],
    }


def run_case(case: Case, out: Path) -> None:
    """Compute one row, keep a sample picture, append the row."""
    import torch

    from oneshot_core.latents import z_from_seeds
    from oneshot_core.pictures import save_png

    torch.set_num_threads(1)
    bundle, seconds = adapted(case)
    row = {**asdict(case), **measure(case, bundle.generator), "seconds": seconds}
    z = z_from_seeds(range(8), bundle.generator.config.z_dim)
    name = f"{case.look}-{case.variant}-{case.seed}".replace(" ", "_")
    save_png(torch.cat(list(pictures(bundle.generator, z)), dim=2)[None], out / "samples" / f"{name}.png")
    with open(out / "rows.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(
        f"{case.look:16} {case.variant:13} seed {case.seed}: gap {row['gap_closed']:.3f} "
        f"content {row['content_kept']:.2f} diversity {row['diversity']:.2f} ({seconds:.0f} s)",
        flush=True,
    )


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Read what has been computed."""
    file = out / "rows.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines]


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Order the cases so that every prefix of the run is balanced over variants."""
    for seed in range(options.seeds):
        for look in options.looks:
            for variant in options.variants:
                yield Case(look, variant, seed, options.steps, options.search_steps)


def summary(values: list[float]) -> str:
    """Mean and standard deviation as text."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Lay rows out as Markdown: one line per look and variant, then one per variant over all looks."""
    lines = [
        "| look | variant | n | gap closed | floor / source distance | content kept | content of the source "
        "| diversity | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    looks = list(dict.fromkeys(row["look"] for row in rows))
    for look in [*looks, "all looks"]:
        for variant in VARIANTS:
            some = [row for row in rows if row["variant"] == variant and look in (row["look"], "all looks")]
            if not some:
                continue
            floor = statistics.mean(row["floor"] / row["source_distance"] for row in some)
            parts = [
                summary([row[name] for row in some]) for name in ("gap_closed", "content_kept", "diversity")
            ]
            seconds = statistics.median(row["seconds"] for row in some)
            source = statistics.mean(row["source_content_kept"] for row in some)
            cells = [look, variant, len(some), parts[0], f"{floor:.3f}", parts[1], f"{source:.3f}", parts[2]]
            lines.append("| " + " | ".join(map(str, [*cells, f"{seconds:.0f}"])) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the missing cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--search-steps", type=int, default=100)
    parser.add_argument("--looks", nargs="+", default=list(DEFAULT_LOOKS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--seeds", type=int, default=3, help="targets (people) per look")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    options = parser.parse_args()
    if not options.table:
        options.out.mkdir(parents=True, exist_ok=True)
        os.environ["OMP_NUM_THREADS"] = "1"
        known = {
            Case(**{name: row[name] for name in Case.__dataclass_fields__}).key
            for row in read_rows(options.out)
        }
        missing = [case for case in cases(options) if case.key not in known]
        with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=4) as pool:
            pool.starmap(run_case, [(case, options.out) for case in missing], chunksize=1)
    print(table(read_rows(options.out)))


if __name__ == "__main__":
    main()
