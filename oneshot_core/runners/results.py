"""What one recipe makes in a folder: the generator, the pictures that people look at, the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ..checkpoints import GeneratorBundle, read_tensors
from ..choices import AUTO, PRECISIONS
from ..inputs import Inputs, prepared
from ..pictures import save_png
from ..pictures.covers import draw_cover, model_card
from ..pictures.plots import loss_plot
from ..pictures.sheets import adaptation_sheet
from ..pipeline import Finish, PipelineResult, run_recipe
from ..recipe import Recipe
from ..run_folder import PICTURES, RECORD, REFERENCE, RESULT, RunError, kept_record, peeked_record, versions
from ..sampling import sample
from ..store import FolderStore
from ..training.loop import SNAPSHOTS
from .manifest import SNAPSHOT_FOLDER

# Of a recipe and its folder: gives callbacks and poll as `run_recipe` takes them.
Follow: TypeAlias = Callable[[Recipe, Path], AbstractContextManager[dict[str, Any]]]


@dataclass(frozen=True)
class Results:
    """What people get to look at; none of it changes the adaptation.

    Args:
        seeds: samples in the grid.
        psi: truncation of the samples in the grid.
        with_discriminator: whether the result's file holds it.
    """

    seeds: tuple[int, ...] = tuple(range(8))
    psi: float = 0.7
    with_discriminator: bool = True


def make(
    recipe: Recipe,
    inputs: Inputs,
    store: FolderStore,
    results: Results,
    follow: Follow,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Follow a recipe in a folder, or go on with what is there.

    Args:
        recipe: what to make.
        inputs: what it works with.
        store: the folder of the run; the pictures go there too.
        results: what is drawn.
        follow: is told of the steps, and may end it.
        tell: told sentences for the user.

    Returns:
        JSON values: files, steps, seconds, last losses, notes, versions.

    Raises:
        RunError: the folder holds something else, or an input that would be written over.
    """
    started, folder = time.monotonic(), store.folder
    _check_names(recipe, folder)
    recipe, inputs = prepared(_as_begun(recipe, store), inputs)
    for text in inputs.notes:
        tell(text)
    finish = Finish(results.with_discriminator, lambda bundle: model_card(bundle, draw_cover(bundle)))
    with follow(recipe, folder) as callbacks:
        done = run_recipe(recipe, inputs, store, tell=tell, finish=finish, **callbacks)
    losses = {name: _last(values) for name, values in done.adapted.losses.items()}
    facts = {"step": done.adapted.step, "losses": losses, "notes": list(inputs.notes)}
    facts["versions"] = done.record.get("versions", {})
    files = dict(done.record.get("files", {}))
    if not _is_there(folder / files.get(SNAPSHOT_FOLDER, "")):
        files.pop(SNAPSHOT_FOLDER, None)
    drawn = done.record.get("seeds") == results.seeds and all(
        _is_there(folder / file) for file in files.values()
    )
    if not done.adapted.trained and files and drawn:
        tell(f"{folder} is done already ({done.adapted.step} steps); more --steps go on from there")
        return {**facts, "files": _placed(folder, files), "seconds": kept_record(folder)["seconds"]}
    if (done.adapted.bundle.discriminator is None) == results.with_discriminator:
        kept = "with" if done.adapted.bundle.discriminator is not None else "without"
        tell(f"{folder / RESULT} was written {kept} its discriminator; --fresh makes it anew")
    files = _draw(done, inputs, results, recipe.target_name)
    seconds = round(time.monotonic() - started, 1)
    _note_files(done, files, seconds, results.seeds)
    return {**facts, "files": _placed(folder, files), "seconds": seconds, "versions": versions()}


def _as_begun(recipe: Recipe, store: FolderStore) -> Recipe:
    """With the number format that a run which is there began with: it may go on where "auto" is another."""
    if recipe.training.precision != AUTO or store.fresh:
        return recipe
    begun = peeked_record(store.folder).get("recipe", {}).get("training", {}).get("precision")
    if begun not in PRECISIONS:
        return recipe
    return replace(recipe, training=replace(recipe.training, precision=begun))


def _draw(done: PipelineResult, inputs: Inputs, results: Results, target_name: str) -> dict[str, str]:
    """Write the pictures that people look at; return all files by what they are."""
    folder, bundle = done.run.folder, done.adapted.bundle
    if inputs.target is not None:
        save_png(torch.cat(list(inputs.target), dim=2)[None], folder / "target.png")
    if inputs.mask is not None:
        save_png(read_tensors(done.run.masked_target)[0]["target"], folder / "masked_target.png")
    files = {"adapted": RESULT, "grid": "grid.png"}
    if done.reference is not None:
        save_png(sample(inputs.source, done.reference), folder / "reference.png")
        files |= {"reference": "reference.png", "latent": REFERENCE}
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
    title = f"{done.run.recipe.method.preset} on {target_name or ', '.join(inputs.told.texts)}"
    loss_plot(done.adapted.losses, folder / "losses.png", title=title)
    files |= {"losses": "losses.png", "run": RECORD}
    if (done.run.work / SNAPSHOTS).is_dir():
        files[SNAPSHOT_FOLDER] = f"{done.run.work.name}/{SNAPSHOTS}"
    return files


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
    for name in (recipe.generator, *recipe.aim.targets, recipe.aim.mask, recipe.aim.latent):
        if name and Path(name).resolve() in written:
            raise RunError(f"{name} lies where the results would be written; choose another --out")


def _is_there(path: Path) -> bool:
    """Whether something was written there; a disk that was full may have left an empty file."""
    return path.is_dir() or (path.is_file() and path.stat().st_size > 0)


def _placed(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Paths of files that the record names within the folder; where that is, it does not say."""
    return {name: str(folder / file) for name, file in files.items()}


def _last(values: list[float]) -> float | None:
    """Last value that was computed."""
    return next((value for value in reversed(values) if value == value), None)
