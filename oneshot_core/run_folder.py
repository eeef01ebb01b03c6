"""The folder of one run: its layout, its record, its results; the same on the canvas and the command line.

run.json                what determines the result, the recipe, the losses
adapted.safetensors     the adapted generator
reference.safetensors   the target's counterpart
run/                    what is needed to go on: states of search and training, snapshots, a second record
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from .checkpoints import CheckpointError, GeneratorBundle, load, read_tensors, save
from .json_values import Fields, JsonError
from .kept_folders import MARK
from .recipe import Recipe
from .saved_states import ForeignRecord, curves_of, differences, finite, read_record, write_record
from .search import search_states
from .training import STATE_FILE, AdaptResult
from .training.loop import SNAPSHOTS, snapshot_files
from .training.masking import MASKED_FILE
from .training.state import state_file
from .writing import (
    atomic_path,
    check_was_read,
    remove_stale_temporaries,
    rename_patiently,
    set_aside,
)

log = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "oneshot-run-record", 1
RECORD, RESULT, REFERENCE, WORK = "run.json", "adapted.safetensors", "reference.safetensors", "run"
PICTURES = ("target.png", "masked_target.png", "reference.png", "comparison.png", "grid.png", "losses.png")

_Made = TypeVar("_Made")
Losses: TypeAlias = Mapping[str, Mapping[str, list[float]]]  # curves by name, per half of the work


class RunError(ValueError):
    """A folder that cannot take this run; the message says what is there and what to do."""


@dataclass(frozen=True)
class StoredResult:
    """An adaptation, trained now or loaded.

    Args:
        bundle: the adapted generator; without discriminator where it is a snapshot.
        losses: per name the unweighted value of every step, NaN where a step does not compute it; empty for a
            snapshot of a run that did not end.
        step: steps that the bundle was trained.
        steps: steps of the whole run.
        snapshots: files of the steps whose generator is kept; their headers hold a picture, see `cover_of`.
        trained: whether anything was trained for it now.
    """

    bundle: GeneratorBundle
    losses: dict[str, list[float]]
    step: int
    steps: int
    snapshots: Mapping[int, Path]
    trained: bool = False


@dataclass(frozen=True)
class Run:
    """A run's folder while this process holds it.

    Args:
        folder: `run.json`, the results, and in `run` what is needed to go on.
        recipe: bound to its inputs.
        settings: what determines the result; see `Recipe.settings`.
        named: the user chose the folder: nothing is thrown away there unasked, and more steps may follow.
        kept: the record that was there when the folder was claimed, see `open`.
    """

    folder: Path
    recipe: Recipe
    settings: Mapping[str, Any]
    named: bool = False
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """Folder of the training state, the search's state and the snapshots."""
        return self.folder / WORK

    @property
    def search_state(self) -> Path:
        """The search, under way or done."""
        return self.work / "search.safetensors"

    def has_searched(self, steps: int) -> bool:
        """Whether the search has come to its end, so that nothing of it is left to compute."""
        try:
            return self.search_state.is_file() and read_tensors(self.search_state)[1].get("step") == steps
        except CheckpointError:
            return False  # the search itself says what is wrong with it

    @property
    def masked_target(self) -> Path:
        """What the adaptation is drawn to where a mask leaves parts of the target out."""
        return self.work / MASKED_FILE

    def snapshots(self) -> dict[int, Path]:
        """Files of the steps whose generator is kept, in their order."""
        return dict(sorted(snapshot_files(self.work).items()))

    # The record --------------------------------------------------------------------------------------

    def open(self) -> dict[str, Any]:
        """Read what an earlier run of the same settings left.

        Returns:
            The record's values, see `record_values`; empty where there is none.

        Raises:
            RunError: the folder holds a run with other settings, results without a record, or a damaged one.
        """
        values = kept_record(self.folder)
        if not values:
            self.refuse_others()
            return {}
        differing = differences(values["settings"], dict(self.settings))
        if differing and self._is_untouched(values):
            return {}
        if differing:
            raise RunError(
                f"{self.folder} holds a run with other settings ({', '.join(differing[:4])} differ); choose "
                "another folder, or throw that run away (--fresh)"
            )
        return values

    def refuse_others(self) -> None:
        """Refuse a folder with files of the names that runs write, but no record: they are somebody else's.

        Raises:
            RunError: there are such files.
        """
        if any((folder / RECORD).exists() for folder in (self.folder, self.work)):
            return
        found = [name for name in (RESULT, REFERENCE, *PICTURES) if (self.folder / name).exists()]
        if found:
            raise RunError(
                f"{self.folder} holds {found[0]}, which no run explains (there is no {RECORD}); choose "
                "another folder, or move that file away"
            )

    def check_steps(self, values: Mapping[str, Any], steps: int) -> None:
        """Refuse to ask a run for fewer steps than it has done; raises RunError."""
        if values.get("step", 0) > steps:
            raise RunError(
                f"{self.folder} holds a run of {values['step']} steps, {steps} were asked for; earlier "
                f"generators are in {self.work / SNAPSHOTS}; choose another folder, or throw that run away "
                "(--fresh)"
            )

    def record(self, step: int, losses: Losses | None = None, **more: Any) -> None:
        """Write the record and its copy.

        Args:
            step: steps trained.
            losses: curves per half of the work: "search", and "adaptation" once it has ended.
            more: files and seconds, as JSON values.
        """
        curves = {
            half: {name: finite(values) for name, values in found.items()}
            for half, found in (losses or {}).items()
        }
        values = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "step": step,
            "steps": self.recipe.training.steps,
            "losses": curves,
            **more,
            "recipe": self.recipe.without_folders().values(),
            "settings": dict(self.settings),
            "versions": versions(),
        }
        for folder in (self.folder, self.work):
            write_record(folder / RECORD, values)

    def _is_untouched(self, values: Mapping[str, Any]) -> bool:
        """Whether nothing but the record was written: a run that was ended before it did anything."""
        states = (search_states(self.search_state), state_file(self.work / STATE_FILE))
        kept = ((self.folder / name).exists() for name in (RESULT, REFERENCE))
        return not values["step"] and not any([*(one.exists for one in states), *kept])

    # Results -----------------------------------------------------------------------------------------

    def result(
        self, values: Mapping[str, Any], snapshot: int | None = None, *, goes_on: bool = False
    ) -> StoredResult | None:
        """Load what is there.

        Args:
            values: of the record.
            snapshot: a step; None: the end.
            goes_on: a run that was stopped and kept has not come to its end.

        Returns:
            None where the run has not come so far, or its file is damaged, which is then set aside. A run
            that was killed after its last step has not come to its end: its record lacks the losses.

        Raises:
            RunError: the run has ended and keeps no snapshot of that step.
        """
        steps, end = self.recipe.training.steps, self._end(values, goes_on)
        step = snapshot or end
        if step is None:
            return None
        path = self.folder / RESULT if step == end else snapshot_files(self.work).get(step)
        if path is None and end is not None:
            kept = ", ".join(map(str, self.snapshots())) or "none"
            raise RunError(
                f"this run keeps no snapshot of step {snapshot}; it has {kept}. Choose one of these, or "
                + ("train again" if end == steps else f"let it go on: it was stopped and kept at step {end}")
            )
        if path is None or not path.is_file():
            return None
        try:
            bundle = load(path)
            if bundle.provenance.history.get("step") != step:
                return None  # of a longer run that was killed before it wrote its record
        except CheckpointError as error:
            set_aside(path, error)
            return None
        losses = {} if end is None else values["losses"]["adaptation"]
        return StoredResult(bundle, losses, step, steps, self.snapshots())

    def _end(self, values: Mapping[str, Any], goes_on: bool) -> int | None:
        """The step at which the run came to its end, or was stopped and kept; None: it did not."""
        if "adaptation" not in values.get("losses", ()):
            return None
        step: int = values["step"]
        # In a folder that the user named, fewer steps are those of an earlier command.
        stopped = step < self.recipe.training.steps and not self.named
        return step if step == self.recipe.training.steps or (stopped and not goes_on) else None

    def keep(self, result: AdaptResult, losses: Losses) -> None:
        """Make what a stopped run has come to its result; its training state stays, so that it may go on.

        In a folder that the user named it is only noted: there the same command goes on.

        Args:
            result: of the steps that were done.
            losses: see `complete`.
        """
        if self.named:
            self.record(result.step)
            return
        save(result.bundle, self.folder / RESULT)
        self.record(result.step, {**losses, "adaptation": result.losses})

    def take_over(self, other: Path) -> None:
        """Start with what another folder keeps of the same run with fewer steps; that stays as it is."""
        training = self.recipe.training
        snapshots = [
            path
            for step, path in snapshot_files(other / WORK).items()
            if step <= training.steps and step % training.snapshot_every == 0  # the other's last was kept too
        ]
        for path in (other / WORK / STATE_FILE, other / WORK / MASKED_FILE, *snapshots):
            place = self.work / path.relative_to(other / WORK)
            if path.is_file() and not place.exists():
                place.parent.mkdir(exist_ok=True)
                try:
                    os.link(path, place)  # files are replaced, never changed
                except OSError:  # a file system without links
                    with atomic_path(place) as temporary:
                        shutil.copyfile(path, temporary)

    def complete(
        self,
        result: AdaptResult,
        losses: Losses,
        *,
        with_discriminator: bool = True,
        card: Mapping[str, str] | None = None,
    ) -> None:
        """Keep a finished adaptation; its training state stays, so that more steps can follow.

        Args:
            result: of all steps.
            losses: of its search, under "search", where the run did one.
            with_discriminator: whether the file holds it.
            card: texts for the header, see `model_card`.
        """
        save(
            result.bundle,
            self.folder / RESULT,
            with_discriminator=with_discriminator,
            metadata=dict(card or {}),
        )
        self.record(result.step, {**losses, "adaptation": result.losses})
        if not self.named:
            state_file(self.work / STATE_FILE).forget_damaged()

    # Throwing away -----------------------------------------------------------------------------------

    def clear(self) -> None:
        """Remove what runs write, and nothing else; the records last: a kill then leaves a known folder.

        Raises:
            RunError: nothing says that what is there is a run's.
        """
        self.refuse_others()
        for folder in (self.folder, self.work):
            try:
                record_values(folder / RECORD)
            except ForeignRecord as error:
                raise RunError(f"{error}; choose another folder") from None
            except (OSError, JsonError):  # there is none, or it is what is left of one
                continue
        results = [RESULT, REFERENCE, *PICTURES]
        damaged = (f"{Path(name).stem}.damaged{Path(name).suffix}" for name in (*results, RECORD))
        for path in (
            *(self.folder / name for name in (*results, *damaged)),
            *snapshot_files(self.work).values(),
            self.masked_target,
        ):
            path.unlink(missing_ok=True)
        state_file(self.work / STATE_FILE).remove()
        search_states(self.search_state).remove()
        for folder in (self.work, self.folder):
            (folder / RECORD).unlink(missing_ok=True)

    def sound(self, work: Callable[[], _Made]) -> _Made:
        """Do something with the run's files; where they are damaged, set a keyed run aside and do it anew."""
        try:
            return work()
        except CheckpointError as error:
            if self.named:
                raise
            self.set_aside(error)
            return work()

    def set_aside(self, reason: object) -> None:
        """Rename the folder and start anew; raises the reason where the disk only refused to read."""
        check_was_read(reason)
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.damaged-{number}")).exists():
            number += 1
        rename_patiently(self.folder, aside)
        self.make()
        log.warning("the kept run %s is damaged and was set aside as %s: %s", self.folder, aside.name, reason)

    def make(self) -> None:
        """Make the folders, and remove what killed processes left half-written."""
        self.work.mkdir(parents=True, exist_ok=True)
        for place in (self.folder, self.work, self.work / SNAPSHOTS):
            remove_stale_temporaries(place)
        if not self.named:
            (self.folder / MARK).touch()


def remove_state(folder: Path) -> int:
    """Remove the training state of a run that has come to its last step; returns the bytes that are free now.

    More steps than these then start anew.
    """
    try:
        values = kept_record(folder)
    except RunError:
        return 0
    if not values or values["step"] != values["recipe"]["training"]["steps"]:
        return 0
    states = state_file(folder / WORK / STATE_FILE)
    size = states.size()
    states.remove()
    return size


def kept_record(folder: Path) -> dict[str, Any]:
    """Read the record of a run's folder, or its copy where it is damaged, which then takes its place.

    Returns:
        See `record_values`; empty where there is none.

    Raises:
        RunError: both are damaged, or the file is another program's.
    """
    damaged: Exception | None = None
    for path in (folder / RECORD, folder / WORK / RECORD):
        if not path.is_file():
            continue
        try:
            values = record_values(path)
        except ForeignRecord as error:
            raise RunError(f"{error}; choose another folder") from None
        except (OSError, JsonError) as error:
            damaged = error
            continue
        if damaged is not None:
            set_aside(folder / RECORD, damaged)
            with atomic_path(folder / RECORD) as temporary:
                shutil.copyfile(path, temporary)
        return values
    if damaged is not None:
        raise RunError(f"{damaged}; choose another folder, or throw the run away (--fresh)")
    return {}


def peeked_record(folder: Path) -> dict[str, Any]:
    """`kept_record` for who does not hold the folder: nothing is mended; empty where none is sound."""
    for path in (folder / RECORD, folder / WORK / RECORD):
        try:
            return record_values(path)
        except (OSError, JsonError):
            continue
    return {}


def record_values(path: Path) -> dict[str, Any]:
    """Read a run's record.

    Returns:
        step, recipe, settings, losses per half, versions; files, seconds and seeds of the grid where it has
        them.

    Raises:
        ForeignRecord: another kind of file or version.
        JsonError: it is damaged.
        OSError: it cannot be read.
    """
    fields = read_record(path, FORMAT, FORMAT_VERSION)
    values: dict[str, Any] = {"step": fields.whole("step", 0)}
    for name in ("settings", "recipe"):
        fields.object(name)
        values[name] = fields.value(name)
    halves, lengths = fields.object("losses", {}), {"adaptation": values["step"]}
    values["losses"] = {half: curves_of(halves.object(half), lengths.get(half)) for half in halves.names()}
    known = fields.object("versions", {})
    values["versions"] = {name: known.text(name) for name in known.names()}
    if "files" in fields:
        files: Fields = fields.object("files")
        values["files"] = {name: files.text(name) for name in files.names()}
        values["seconds"] = fields.number("seconds", 0, default=0.0)
        values["seeds"] = tuple(fields.items("seeds", 1000, []))
    return values


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on: this program, torch, Python."""
    return {"oneshot-stylegan": _own(), "torch": torch.__version__, "python": platform.python_version()}


def _own() -> str:
    """Version of the installed package, else of the folder that it was copied to, as for ComfyUI."""
    try:
        return metadata.version("oneshot-stylegan")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[1] / "pyproject.toml"
        text = project.read_text(encoding="utf-8") if project.is_file() else ""
        found = re.search(r'^version = "([\w.+-]+)"', text, flags=re.M)
        return found[1] if found else "source"
