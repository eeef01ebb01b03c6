"""The verb adapt: one picture in, a generator out, in a folder that can be resumed."""

from __future__ import annotations

import signal
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints import GeneratorBundle, read_tensors
from ..choices import DEMO_TARGET
from ..latent_optimiser import StepProgress
from ..pictures import save_png
from ..pictures.covers import draw_cover, model_card
from ..pictures.plots import loss_plot
from ..pictures.sheets import adaptation_sheet
from ..pipeline import Finish, Inputs, PipelineResult, prepared, run_recipe
from ..recipe import Recipe
from ..run_folder import PICTURES, REFERENCE, RESULT, Run
from ..sampling import parse_seeds, sample
from ..store import FolderStore
from ..training import Progress, StopSignal
from ..training.loop import SNAPSHOTS
from .console import BadInput, Interrupted, ProgressBar, note
from .interrupts import Signalled, stop_requests
from .recipes import recipe_of
from .resources import open_all, out_folder, out_path, prepare, report

MAX_GRID_SEEDS = 64


@dataclass(frozen=True)
class Results:
    """What people get to look at, and how it is told; none of it changes the adaptation.

    Args:
        seeds: samples in the grid.
        psi: truncation of the samples in the grid.
        with_discriminator: whether the result's file holds it.
        quiet: no progress.
        fresh: throw an earlier run away.
    """

    seeds: tuple[int, ...] = tuple(range(8))
    psi: float = 0.7
    with_discriminator: bool = True
    quiet: bool = False
    fresh: bool = False


def adapt_command(options: Namespace) -> None:
    """`adapt`: search, adapt, and write the generator, pictures, losses and the recipe."""
    recipe = recipe_of(options)
    seeds = parse_seeds(options.seeds)
    if len(seeds) > MAX_GRID_SEEDS:
        raise BadInput(
            f"--seeds of the grid are at most {MAX_GRID_SEEDS}, got {len(seeds)}; `sample` draws more"
        )
    device, folder = prepare(options), out_path(options.out)
    inputs = open_all(recipe, device, options)
    results = Results(
        seeds,
        with_discriminator=not options.without_discriminator,
        quiet=options.quiet,
        fresh=options.fresh,
    )
    report(options, make(recipe, inputs, out_folder(str(folder)), results))


def make(recipe: Recipe, inputs: Inputs, folder: Path, results: Results) -> dict[str, Any]:
    """Follow a recipe in a folder, or go on with what is there.

    Args:
        recipe: what to make.
        inputs: what it works with.
        folder: of the run; the pictures go there too.
        results: what is drawn, and how it is told.

    Returns:
        JSON values: files, steps, seconds, last losses.

    Raises:
        RunError: the folder holds something else.
        Interrupted: the user stopped it; the folder keeps what is done.
    """
    started = time.monotonic()
    _check_names(recipe, folder)
    recipe, inputs = prepared(recipe, inputs)
    for text in inputs.notes:
        note(text)
    finish = Finish(results.with_discriminator, lambda bundle: model_card(bundle, draw_cover(bundle)))
    with _shown(recipe, folder, results.quiet) as callbacks:
        done = run_recipe(recipe, inputs, FolderStore(folder, results.fresh), finish=finish, **callbacks)
    losses = {name: _last(values) for name, values in done.adapted.losses.items()}
    files = done.record.get("files", {})
    drawn = done.record.get("seeds") == results.seeds and all(
        _is_there(folder / file) for file in files.values()
    )
    if not done.adapted.trained and files and drawn:
        note(f"{folder} is done already ({done.adapted.step} steps); more --steps go on from there")
        return {"files": _placed(folder, files), "step": done.adapted.step, "losses": losses}
    if (done.adapted.bundle.discriminator is None) == results.with_discriminator:
        kept = "with" if done.adapted.bundle.discriminator is not None else "without"
        note(f"{folder / RESULT} was written {kept} its discriminator; --fresh makes it anew")
    files = _draw(done, inputs, results, Path(recipe.aim.target.removeprefix(DEMO_TARGET)).name)
    seconds = round(time.monotonic() - started, 1)
    _note_files(done, files, seconds, results.seeds)
    return {"files": _placed(folder, files), "losses": losses, "seconds": seconds, "step": done.adapted.step}


@contextmanager
def _shown(recipe: Recipe, folder: Path, quiet: bool) -> Iterator[dict[str, Any]]:
    """Follow both halves with a progress line each; a signal ends after the current step and keeps it."""
    stop = StopSignal()
    total = recipe.training.steps
    bars = {
        "search": ProgressBar("search", recipe.search.steps, quiet=quiet),
        "adapt": ProgressBar("adapt", total, quiet=quiet),
    }
    reached = 0
    with stop_requests(stop.stop_and_keep) as received:

        def searched(now: StepProgress) -> None:
            bars["search"].update(now.step, now.losses, now.eta_seconds)
            if received:
                raise Signalled(received[0])

        def trained(now: StepProgress) -> None:
            nonlocal reached
            reached = now.step
            terms = {name: value for name, value in now.losses.items() if not name.endswith("_score")}
            bars["adapt"].update(now.step, terms, now.eta_seconds)

        try:
            yield {"search_callbacks": [searched], "callbacks": [Progress(trained), stop]}
        except KeyboardInterrupt as stopped:
            if reached:
                raise
            number = getattr(stopped, "number", signal.SIGINT)
            raise Interrupted("the search was stopped; the same command goes on from there", number) from None
        finally:
            for bar in bars.values():
                bar.close()
    if received and 0 < reached < total:
        snapshot = Run(folder, recipe, {}, named=True).work / SNAPSHOTS / f"step_{reached:06d}.safetensors"
        raise Interrupted(
            f"stopped after step {reached} of {total}; the same command goes on from there. The generator so "
            f"far: {snapshot}",
            received[0],
        )


def _draw(done: PipelineResult, inputs: Inputs, results: Results, target_name: str) -> dict[str, str]:
    """Write the pictures that people look at; return all files by what they are."""
    folder, bundle = done.run.folder, done.adapted.bundle
    save_png(inputs.target, folder / "target.png")
    if inputs.mask is not None:
        save_png(read_tensors(done.run.masked_target)[0]["target"], folder / "masked_target.png")
    save_png(sample(inputs.source, done.reference), folder / "reference.png")
    sheet = adaptation_sheet(
        inputs.source,
        _beside(inputs.source, bundle),
        inputs.target,
        done.reference,
        results.seeds,
        psi=results.psi,
        target_name=target_name,
    )
    save_png(sheet, folder / "grid.png")
    title = f"{done.run.recipe.method.preset} on {target_name}"
    loss_plot(done.adapted.losses, folder / "losses.png", title=title)
    return {
        "adapted": RESULT,
        "grid": "grid.png",
        "reference": "reference.png",
        "latent": REFERENCE,
        "losses": "losses.png",
        "run": "run.json",
        "snapshots": f"{done.run.work.name}/{SNAPSHOTS}",
    }


def _beside(source: GeneratorBundle, adapted: GeneratorBundle) -> GeneratorBundle:
    """The adapted generator where the source is: one that was loaded lies on the CPU."""
    place = source.generator.const.device
    return adapted if adapted.generator.const.device == place else adapted.to(place)


def _note_files(
    done: PipelineResult, files: Mapping[str, str], seconds: float, seeds: tuple[int, ...]
) -> None:
    """Add the pictures to the record."""
    losses = {"search": done.search_losses} if done.search_losses else {}
    losses |= {"adaptation": done.adapted.losses}
    done.run.record(done.adapted.step, losses, files=dict(files), seconds=seconds, seeds=list(seeds))


def _check_names(recipe: Recipe, folder: Path) -> None:
    """Refuse inputs that the results would be written over, or that --fresh would remove."""
    written = {(folder / name).resolve() for name in (RESULT, REFERENCE, *PICTURES)}
    for name in (recipe.generator, recipe.aim.target, recipe.aim.mask, recipe.aim.latent):
        if name and Path(name).resolve() in written:
            raise BadInput(f"{name} lies where the results would be written; choose another --out")


def _is_there(path: Path) -> bool:
    """Whether something was written there; a disk that was full may have left an empty file."""
    return path.is_dir() or (path.is_file() and path.stat().st_size > 0)


def _placed(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Paths of files that the record names within the folder; where that is, it does not say."""
    return {name: str(folder / file) for name, file in files.items()}


def _last(values: list[float]) -> float | None:
    """Last value that was computed."""
    return next((value for value in reversed(values) if value == value), None)
