"""An adaptation from a recipe to its result: search, training, snapshots; run in this one place.

First `inputs.prepared` checks a recipe against its inputs and binds it to them. Then `run_recipe` does both
halves, as the command line and batches want it; `search_recipe` and `adapt_recipe` are the halves, for two
nodes. Each keeps what it made in a store, loads it when the same is asked for again, and goes on with what
was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .checkpoints import CheckpointError, GeneratorBundle
from .choices import GO_ON, TRAIN_AGAIN, USE
from .counterpart import JUDGED, Counterpart, counterpart_notes, judged
from .inputs import Inputs
from .latent_files import load_latent, save_latent
from .latent_optimiser import StepProgress
from .latents import Latent
from .recipe import Recipe
from .references import RECIPE, as_made, keep_reference, kept_reference
from .run_folder import REFERENCE, Run, StoredResult
from .search import SearchResult, search_latent
from .store import Store
from .tensors import gradients
from .training import AdaptResult, Callback
from .training.execution import Execution, fastest_in_place
from .training.loop import adapt as train_to
from .writing import set_aside

Place = Callable[[], Execution]


@dataclass(frozen=True)
class PipelineResult:
    """What `run_recipe` gives.

    Args:
        reference: the first target's counterpart, found or given; None for methods that need none.
        adapted: the adaptation.
        search_losses: per term of the search one value per step; empty where the latent was given.
        run: the folder; after it has returned it is no longer held.
        record: of an earlier run of the same settings that was found there.
    """

    reference: Latent | None
    adapted: StoredResult
    search_losses: dict[str, list[float]]
    run: Run
    record: Mapping[str, Any]


def search_recipe(
    recipe: Recipe,
    inputs: Inputs,
    store: Store,
    *,
    place: Place | None = None,
    callbacks: Sequence[Callable[[StepProgress], None]] = (),
    poll: Callable[[], None] | None = None,
) -> SearchResult:
    """Find the target's counterpart, or load what an earlier call with the same inputs found.

    Args:
        recipe: from `prepared`, for the half "search".
        inputs: from there too.
        store: where the search is kept.
        place: called before it runs, not when it is only loaded; makes room and names the device for copies
            of the networks. None: the networks serve where they are.
        callbacks: called after every step.
        poll: called while another process does the same search, and while the counterpart is judged; it may
            raise.

    Raises:
        ValueError, FloatingPointError: as `search_latent`.
    """
    with store.claim(recipe, "search", poll) as run:
        known = bool(run.kept.get("losses"))
        if not known:  # from now on the folder says whose it is
            run.record(0)
        found = _searched(run, inputs, place, callbacks, poll)
        if not known:
            run.record(0, {"search": found.losses})
        return found


def adapt_recipe(
    recipe: Recipe,
    inputs: Inputs,
    store: Store,
    *,
    place: Place | None = None,
    callbacks: Sequence[Callback] = (),
    poll: Callable[[], None] | None = None,
    kept: str = USE,
    snapshot: int | None = None,
) -> StoredResult:
    """Adapt a generator, or load what an earlier call with the same inputs left.

    Args:
        recipe: from `prepared`.
        inputs: from there too, with the reference.
        store: where the run is kept.
        place: called before training, and only then; makes room and says where and how it is done. None:
            the networks serve where they are.
        callbacks: told about every phase and step.
        poll: called while another process trains the same; it may raise.
        kept: one of `KEPT_RUNS`, for a run that has come to an end: at its last step, which is used or
            trained again, or by "stop and keep", after which it may also go on. One that was interrupted
            always goes on.
        snapshot: give the generator as it was after this step; it is not trained again for that.

    Returns:
        The result; with fewer steps than asked for after "stop and keep".

    Raises:
        ValueError, FloatingPointError, RunCancelled: as `training.adapt`; or no snapshot of that step.
    """
    store.trim()  # also what cancelled runs left
    with store.claim(recipe, "adaptation", poll) as run:
        values = run.kept
        if kept == TRAIN_AGAIN and values.get("losses"):
            run.clear()
            values = {}
        if not values:  # from now on the folder says whose it is
            run.record(0)
        found = run.result(values, snapshot, goes_on=kept == GO_ON)
        if found is None:
            run = replace(run, recipe=as_made(run.recipe, inputs.reference))
            found = _trained(run, inputs, snapshot, place, callbacks, {}, Finish())
    store.trim()
    return found


@dataclass(frozen=True)
class Finish:
    """How the result's file is written.

    Args:
        with_discriminator: whether it holds the discriminator.
        card: makes texts for its header, see `model_card`.
    """

    with_discriminator: bool = True
    card: Callable[[GeneratorBundle], Mapping[str, str]] | None = None


def run_recipe(  # noqa: PLR0913 - what to make, where, and who follows it
    recipe: Recipe,
    inputs: Inputs,
    store: Store,
    *,
    place: Place | None = None,
    search_callbacks: Sequence[Callable[[StepProgress], None]] = (),
    callbacks: Sequence[Callback] = (),
    poll: Callable[[], None] | None = None,
    tell: Callable[[str], None] | None = None,
    finish: Finish = Finish(),
) -> PipelineResult:
    """Search where no latent is given, then adapt; or load, or go on with, what an earlier call left.

    Args:
        recipe: from `prepared`.
        inputs: from there too.
        store: where it is kept.
        place: see `adapt_recipe`.
        search_callbacks: called after every step of the search.
        callbacks: told about every phase and step of the training.
        poll: see `adapt_recipe`; called while the counterpart is judged, too.
        tell: told sentences about the counterpart that was searched, before the training.
        finish: how the result's file is written.

    Raises:
        RunError: the store's folder holds something else.
        ValueError, FloatingPointError: as the two halves.
    """
    with store.claim(recipe, "", poll) as folder:
        record = folder.kept
        folder.check_steps(record, recipe.training.steps)
        found = folder.result(record)
        if found is None and not record.get("losses"):  # from now on the folder says whose it is
            folder.record(record.get("step", 0))
        done = record if found else {}
        reference, losses = inputs.reference, dict[str, dict[str, list[float]]]()
        if reference is not None or recipe.preset(inputs.source.size)[0].needs.reference:
            reference, losses = _reference(folder, done, inputs, place, search_callbacks, poll)
            if tell is not None and inputs.reference is None:
                for line in counterpart_notes(reference):
                    tell(line)
        inputs = replace(inputs, reference=reference)
        folder = replace(folder, recipe=as_made(folder.recipe, reference))
        kept = found or _trained(folder, inputs, None, place, callbacks, losses, finish)
    store.trim()
    return PipelineResult(reference, kept, losses.get("search", {}), folder, record)


def _reference(
    run: Run,
    done: Mapping[str, Any],
    inputs: Inputs,
    place: Place | None,
    callbacks: Sequence[Callable[[StepProgress], None]],
    poll: Callable[[], None] | None,
) -> tuple[Latent, dict[str, dict[str, list[float]]]]:
    """The target's counterpart: given, kept by a run that is done, or searched; and the search's curves."""
    path = run.folder / REFERENCE
    if inputs.reference is not None:
        save_latent(inputs.reference, path)
        return inputs.reference, {}
    if done and path.is_file():
        try:
            return load_latent(path), {"search": done["losses"].get("search", {})}
        except CheckpointError as error:
            set_aside(path, error)
    found = _searched(run, inputs, place, callbacks, poll)
    return found.latent, {"search": found.losses}


def _searched(
    run: Run,
    inputs: Inputs,
    place: Place | None,
    callbacks: Sequence[Callable[[StepProgress], None]],
    poll: Callable[[], None] | None,
) -> SearchResult:
    config = run.recipe.search_config()
    kept = kept_reference(run.folder / REFERENCE)
    known = None if kept is None else Counterpart.of(kept.origin)
    assert inputs.target is not None
    target = inputs.target[:1]
    is_done = known is not None and run.has_searched(config.steps)
    device = None if place is None or is_done else place().device

    def work() -> SearchResult:
        source, encoders = inputs.source, inputs.encoders
        with gradients():
            if place is not None:  # values of the canvas may be inference tensors, which a search cannot use
                source, encoders = source.to(device or "cpu"), encoders.to(device or "cpu")
            found = search_latent(
                source,
                encoders,  # type: ignore[arg-type]
                target,
                config,
                mask=inputs.mask,
                callbacks=callbacks,
                state_file=run.search_state,
            )
            if kept is not None and known is not None and torch.equal(kept.values, found.latent.values):
                return replace(found, counterpart=known)
            raw, precision = config.profile.trains_raw_generator, config.precision
            seen = judged(
                source,
                encoders,  # type: ignore[arg-type]
                target,
                found.latent,
                mask=inputs.mask,
                raw=raw,
                precision=precision,
                poll=poll,
            )
            return replace(found, counterpart=seen)

    found = run.sound(work)
    assert found.counterpart is not None
    told = {RECIPE: run.recipe.without_folders().values(), JUDGED: found.counterpart.values()}
    found = replace(found, latent=replace(found.latent, origin={**found.latent.origin, **told}))
    keep_reference(found.latent, run.folder / REFERENCE)
    return found


def _trained(
    run: Run,
    inputs: Inputs,
    snapshot: int | None,
    place: Place | None,
    callbacks: Sequence[Callback],
    losses: Mapping[str, dict[str, list[float]]],
    finish: Finish,
) -> StoredResult:
    """Train, and keep what is complete."""
    recipe = run.recipe
    preset = recipe.preset(inputs.source.size)[0]
    given = inputs.source, inputs.encoders, inputs.aim, preset, recipe.training.precision
    how = fastest_in_place(*given) if place is None else place()
    about = {"recipe": recipe.without_folders().values()}

    def train() -> AdaptResult:
        with gradients():
            seen = inputs.encoders if how.device is None else inputs.encoders.to(how.device)
        return train_to(
            inputs.source,
            seen,  # type: ignore[arg-type]
            inputs.aim,
            preset,
            recipe.train_config(),
            mask=inputs.mask,
            run_folder=run.work,
            callbacks=callbacks,
            device=how.device,
            recompute=how.recompute,
            about=about,
        )

    result = run.sound(train)
    steps = recipe.training.steps
    if result.step == steps:
        card = None if finish.card is None else finish.card(result.bundle)
        run.complete(result, losses, with_discriminator=finish.with_discriminator, card=card)
    else:
        run.keep(result, losses)
    if snapshot is not None and (result.step == steps or snapshot in run.snapshots()):
        chosen = run.result(run.open(), snapshot)
        if chosen is not None:
            return replace(chosen, trained=True)
    bundle = result.bundle if place is None else result.bundle.to("cpu")
    return StoredResult(bundle, result.losses, result.step, steps, run.snapshots(), trained=True)
