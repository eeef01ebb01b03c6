"""How the command line follows a recipe or an optimisation: progress lines, and what a signal does."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from ..kept_folders import KeptFolders
from ..latent_optimiser import StepProgress
from ..recipe import Recipe
from ..run_folder import WORK
from ..training import Progress, StopSignal
from ..training.loop import SNAPSHOTS
from .console import Interrupted, ProgressBar, note
from .interrupts import Signalled, stop_requests

UNFINISHED = "unfinished"  # a folder beside the results


@contextmanager
def gone_on_with(folder: Path, what: str) -> Iterator[KeptFolders]:
    """Keep work beside its results until the block, which writes them, has come to its end.

    Args:
        folder: for that work; it is removed when the block has come to its end.
        what: is worked on, for messages.

    Raises:
        Interrupted: the user stopped it.
    """
    kept = KeptFolders(folder)
    try:
        yield kept
    except KeyboardInterrupt as stopped:
        number = getattr(stopped, "number", signal.SIGINT)
        raise Interrupted(f"the {what} was stopped; the same command goes on from there", number) from None
    kept.forget()


@contextmanager
def followed_steps(label: str, steps: int, quiet: bool) -> Iterator[Callable[[StepProgress], None]]:
    """Follow steps with a line of progress, and then tell the notes on how they went.

    A signal ends after the step it comes in, with `Signalled`.
    """
    notes: tuple[str, ...] = ()
    with stop_requests() as received, ProgressBar(label, steps, quiet=quiet) as bar:

        def follow(now: StepProgress) -> None:
            nonlocal notes
            bar.update(now.step, now.losses, now.eta_seconds)
            notes = now.notes
            if received:
                raise Signalled(received[0])

        yield follow
    for line in notes:
        note(line)


@contextmanager
def followed(recipe: Recipe, folder: Path, quiet: bool) -> Iterator[dict[str, Any]]:
    """Follow both halves with a progress line each, and then tell the notes on how they went.

    A signal ends after the current step and keeps it.

    Args:
        recipe: what is followed.
        folder: where it is kept, for messages.
        quiet: no progress.

    Yields:
        Callbacks of the search and of the training, and a poll, as `run_recipe` takes them.

    Raises:
        Interrupted: the user stopped it.
    """
    stop = StopSignal()
    total = recipe.training.steps
    bars = {
        "search": ProgressBar("search", recipe.search.steps, quiet=quiet),
        "adapt": ProgressBar("adapt", total, quiet=quiet),
    }
    notes: dict[str, tuple[str, ...]] = {}
    reached = 0
    with stop_requests(stop.stop_and_keep) as received:

        def poll() -> None:
            if received:
                raise Signalled(received[0])

        def searched(now: StepProgress) -> None:
            bars["search"].update(now.step, now.losses, now.eta_seconds)
            notes["search"] = now.notes
            if now.step == recipe.search.steps:  # what is told of the counterpart stands below its line
                bars["search"].close()
            poll()

        def trained(now: StepProgress) -> None:
            nonlocal reached
            reached = now.step
            terms = {name: value for name, value in now.losses.items() if not name.endswith("_score")}
            bars["adapt"].update(now.step, terms, now.eta_seconds)
            notes["adapt"] = now.notes

        try:
            yield {"search_callbacks": [searched], "callbacks": [Progress(trained), stop], "poll": poll}
        except KeyboardInterrupt as stopped:
            if reached:
                raise
            number = getattr(stopped, "number", signal.SIGINT)
            raise Interrupted("the search was stopped; the same command goes on from there", number) from None
        finally:
            _end(bars, notes)
    if received and reached:
        raise Interrupted(_stopped(reached, total, folder), received[0])


def _stopped(reached: int, total: int, folder: Path) -> str:
    """Say where a training was stopped; after its last step pictures and record are still to be written."""
    if reached == total:
        return "stopped after the last step; the same command writes what is left"
    snapshot = folder / WORK / SNAPSHOTS / f"step_{reached:06d}.safetensors"
    return (
        f"stopped after step {reached} of {total}; the same command goes on from there. The generator so "
        f"far: {snapshot}"
    )


def _end(bars: Mapping[str, ProgressBar], notes: Mapping[str, Iterable[str]]) -> None:
    """End the progress lines, then tell what is to be noted."""
    for bar in bars.values():
        bar.close()
    for text in chain.from_iterable(notes.values()):
        note(text)
