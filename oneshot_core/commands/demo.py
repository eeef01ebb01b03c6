"""The verb demo: the whole method on the shipped assets, on a CPU in a few minutes."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from ..demo.world import TARGET_LOOKS, demo_encoders, target_path
from ..objective import PROFILES, Preset
from ..objective.presets import oneshot_clip, with_half_life
from ..pictures import load_picture
from ..search import SearchConfig
from ..training import TrainConfig
from .adapt import Job, fitted, run_job
from .console import BadInput, note, say
from .resources import DEMO, open_generator, out_folder, placed, prepare, report

SEARCH_STEPS, STEPS = 100, 300  # chosen so that two CPU cores need less than three minutes
LEARNING_RATE = 0.003  # one and a half times the method's, for a run of a seventh of its steps
SCHEDULE = {"reference": 1, "random": 1}  # between the paper's text (3:1) and its code (1:3)
SEARCH_LEARNING_RATE = 0.05  # five times the method's, for a search of a tenth of its steps
SEARCH_WEIGHTS = {"deviation": 3.0}  # codes of the demo fill some 30 of 128 directions, see the benchmark
GRID_SEEDS = tuple(range(8))


def demo_preset(profile: str, steps: int = STEPS) -> Preset:
    """The method for a run of some hundred steps: the average must not hold mostly the source."""
    preset = with_half_life(oneshot_clip(PROFILES[profile]), steps / 8)
    plan = replace(preset.optimiser, learning_rate=LEARNING_RATE)
    return replace(preset, optimiser=plan).scheduled(SCHEDULE)


def demo(options: Namespace) -> None:
    """`demo`: adapt the demo's generator to a shipped target picture."""
    if options.list:
        for look in TARGET_LOOKS:
            say(look)
        return
    name = options.target or TARGET_LOOKS[0]
    path = target_path(name) if name in TARGET_LOOKS else Path(name)
    if not path.is_file():
        raise BadInput(f"--target must be one of {', '.join(TARGET_LOOKS)}, or a picture file; got {name!r}")
    device = prepare(options)
    source = open_generator(DEMO, device)
    steps, search_steps = options.steps or STEPS, options.search_steps or SEARCH_STEPS
    preset = demo_preset(options.profile, steps)
    job = Job(
        source=source,
        encoders=placed(demo_encoders(), device),
        target=load_picture(path, source.size),
        target_name=name if name in TARGET_LOOKS else path.name,
        preset=fitted(preset, source),
        config=TrainConfig(steps, options.seed, precision=options.precision),
        search=SearchConfig(
            search_steps, SEARCH_LEARNING_RATE, options.seed, SEARCH_WEIGHTS, profile=preset.profile
        ),
        latent=None,
        seeds=GRID_SEEDS,
        psi=1.0,
        quiet=options.quiet,
        fresh=options.fresh,
        names={"generator": DEMO, "target": {"file_name": path.name, "fit": "stretch"}},
    )
    if not options.quiet:
        note(f"demo: portraits of {source.size} px, adapted to the look {job.target_name!r}, on {device}")
    result = run_job(job, out_folder(options.out))
    report(options, result)
