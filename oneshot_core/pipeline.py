"""An adaptation from a recipe to its result: search, training, snapshots; run in this one place.

First `prepared` checks a recipe against its inputs and binds it to them. Then `run_recipe` does both halves,
as the command line and batches want it; `search_recipe` and `adapt_recipe` are the halves, for two nodes.
Each keeps what it made in a store, loads it when the same is asked for again, and goes on with what was
interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints import (
    CheckpointError,
    GeneratorBundle,
    check_family,
    load,
    with_fresh_discriminator,
)
from .choices import DEMO, DEMO_TARGET, GO_ON, TRAIN_AGAIN, USE
from .counterpart import JUDGED, Counterpart, counterpart_notes, judged
from .demo.world import demo_generator, target_path
from .encoder_choice import EncoderChoice, encoder_notes
from .features import BytesProgress, Encoders, EncodersOnDemand
from .fingerprints import inputs_of, network_fingerprint
from .latent_files import latent_notes, load_latent, save_latent
from .latent_optimiser import StepProgress
from .latents import Latent
from .objective import Aim
from .pictures import load_target
from .recipe import EncodersRecipe, Recipe, RecipeError
from .references import RECIPE, as_made, keep_reference, kept_reference, reference_notes
from .run_folder import REFERENCE, Run, StoredResult
from .search import SearchResult, check_search, search_latent
from .store import Store
from .tensors import Images, gradients
from .training import AdaptResult, Callback
from .training.checks import check_run
from .training.execution import Execution, fastest_in_place
from .training.loop import adapt as train_to
from .writing import set_aside

Place = Callable[[], Execution]


@dataclass(frozen=True)
class Inputs:
    """What a recipe works with, opened.

    Args:
        source: the generator.
        encoders: CLIP models and perceptual net.
        target: [1, 3, S, S] in [-1, 1], see `pictures.frame`.
        mask: [1, 1, S, S] in [0, 1], 1 = counts; None: all of the target.
        reference: the target's counterpart; None: it is searched.
        notes: sentences for the user about what was assumed.
        encoder_names: of CLIP and the perceptual net, as a recipe tells them; None: those of `encoders`.
    """

    source: GeneratorBundle
    encoders: Encoders | EncodersOnDemand
    target: Images
    mask: Tensor | None = None
    reference: Latent | None = None
    notes: tuple[str, ...] = ()
    encoder_names: tuple[str, str] | None = None

    @property
    def aim(self) -> Aim:
        """What is adapted to."""
        return Aim(self.target, self.reference)


@dataclass(frozen=True)
class PipelineResult:
    """What `run_recipe` gives.

    Args:
        reference: the target's counterpart, found or given.
        adapted: the adaptation.
        search_losses: per term of the search one value per step; empty where the latent was given.
        run: the folder; after it has returned it is no longer held.
        record: of an earlier run of the same settings that was found there.
    """

    reference: Latent
    adapted: StoredResult
    search_losses: dict[str, list[float]]
    run: Run
    record: Mapping[str, Any]


# Before any work -----------------------------------------------------------------------------------------


def open_inputs(
    recipe: Recipe,
    device: torch.device | str = "cpu",
    half: str = "",
    *,
    allow_download: bool = False,
    progress: BytesProgress | None = None,
) -> Inputs:
    """Open what a recipe names, from files; names start at the working directory.

    Args:
        recipe: with a target.
        device: where networks go.
        half: "search" where nothing is to be trained.
        allow_download: whether encoders may be downloaded.
        progress: see `EncoderChoice.open`.

    Raises:
        RecipeError: it names no target, or needs a latent that it does not name.
        ValueError, EncoderError: a file is missing, damaged, or not what it should be; the recipe does not
            fit the generator.
    """
    device = torch.device(device)
    recipe = recipe.precised(device)
    for name, given in (("generator", recipe.generator), ("target", recipe.aim.target)):
        if not given.strip():
            raise RecipeError(f"the recipe names no {name}; give it (--{name})")
    if half == "search":  # which finds what a latent would be
        recipe = replace(recipe, aim=replace(recipe.aim, latent=None))
    elif recipe.aim.latent is None and "reference" in recipe.inputs:
        raise RecipeError("this recipe started from a given latent that it does not hold; give it (--latent)")
    source = demo_generator() if recipe.generator == DEMO else load(recipe.generator)
    reference, notes = None, list[str]()
    if recipe.aim.latent is not None:
        reference = load_latent(recipe.aim.latent, source.num_layers)
        notes += [f"{Path(recipe.aim.latent).name}: {line}" for line in latent_notes(reference)]
    if half != "search":  # before encoders are downloaded
        recipe.check(_with_discriminator(recipe, source)[0])
    target = load_target(_picture(recipe.aim.target), source.size, recipe.aim.frame, recipe.aim.mask)
    if reference is not None:
        check_family(reference, source, "reference")
    choice = _choice(recipe, source).open(allow_download=allow_download, progress=progress)
    names, encoders = (choice.clip_name, choice.perceptual_name), choice.load()
    if device.type != "cpu":
        source, encoders = source.to(device), encoders.to(device)
    said = (*target.notes, *notes)
    return Inputs(source, encoders, target.image, target.mask, reference, said, names)


def _picture(name: str) -> Path:
    """The file that a target's name means."""
    return target_path(name.removeprefix(DEMO_TARGET)) if name.startswith(DEMO_TARGET) else Path(name)


def _choice(recipe: Recipe, source: GeneratorBundle) -> EncoderChoice:
    """The encoders that a recipe names, or those that suit its generator."""
    return EncoderChoice.suited_to(source).named(recipe.encoders.clip, recipe.encoders.perceptual)


def _with_discriminator(recipe: Recipe, source: GeneratorBundle) -> tuple[GeneratorBundle, list[str]]:
    """Give a generator whose file has no discriminator a fresh one where the method trains one."""
    if source.discriminator is not None or recipe.preset(source.size)[0].needs.path is None:
        return source, []
    note = "the generator's file has no discriminator; training with a freshly initialised one"
    return with_fresh_discriminator(source, recipe.training.seed), [note]


def prepared(
    recipe: Recipe, inputs: Inputs, half: str = "", device: torch.device | None = None
) -> tuple[Recipe, Inputs]:
    """Check a recipe against its inputs, before any work, and bind it to them.

    Args:
        recipe: what is wanted. One that is bound already must have been bound to the same inputs, or the
            notes say which differ.
        inputs: what it works with.
        half: "search" where nothing is to be trained.
        device: where the work will be done, which decides about the precision "auto"; None: where the
            generator is.

    Returns:
        The bound recipe; the inputs with the notes on what was changed, and with a fresh discriminator where
        one is needed and missing.

    Raises:
        ValueError: something does not fit together or is not finite.
    """
    source, notes = inputs.source, list[str]()
    recipe = recipe.precised(device or source.generator.const.device)
    if half != "search":
        source, notes = _with_discriminator(recipe, source)
        notes += recipe.check(source)
    if inputs.reference is None:
        check_search(source, inputs.encoders, inputs.target, inputs.mask)
    else:
        check_run(source, inputs.aim, recipe.preset(source.size)[0])
    names = inputs.encoder_names or _names(inputs.encoders)
    notes += encoder_notes(source, *names)
    found = inputs_of(source, inputs.encoders, inputs.aim, inputs.mask)
    if "mask" in recipe.inputs and inputs.mask is None:
        raise RecipeError("this recipe was made with a mask, which it does not hold; give it (--mask)")
    both = (recipe.inputs.keys() | found.keys()) if recipe.inputs else set()
    differing = sorted(name for name in both if recipe.inputs.get(name) != found.get(name))
    if differing:
        notes.append(
            f"not the {', '.join(differing)} that the recipe was made with; the result will be another one"
        )
    notes += reference_notes(recipe, found, inputs.reference)
    bound = replace(recipe.bound(found), encoders=EncodersRecipe(*names))
    if EncoderChoice.suited_to(source).clip == DEMO and found["source"] == network_fingerprint(
        demo_generator().generator
    ):
        bound = replace(bound, generator=DEMO)  # however it came: its file lies within this program
    return bound, replace(inputs, source=source, notes=(*inputs.notes, *notes))


def _names(encoders: Encoders | EncodersOnDemand) -> tuple[str, str]:
    if isinstance(encoders, EncodersOnDemand):
        return encoders.clip_name, encoders.perceptual_name
    return encoders.clip.name, encoders.perceptual.name


# The work ------------------------------------------------------------------------------------------------


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
                inputs.target,
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
                inputs.target,
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
