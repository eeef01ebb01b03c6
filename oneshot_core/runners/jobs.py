"""A plan's jobs as data: what each says, what determines its result, what would make it fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..choices import DEMO, DEMO_TARGET
from ..digests import file_sha256, settings_key
from ..file_names import model_and_file, models_of
from ..recipe import Recipe
from .targets import is_file, text_of
from .workflow import Workflow, WorkflowError, filled


class PlanError(ValueError):
    """A plan that cannot be run; the message names the file or the job and what to change."""


@dataclass(frozen=True)
class BatchJob:
    """One adaptation of a plan.

    Args:
        name: unique in the plan, usable as a folder name.
        target: picture file, which may be one of the shipped; None: the workflow's own.
        generator: "demo", a file (for this process; relative to the plan) or a name that the server lists;
            None: the workflow's own.
        seed: of everything random; None: the workflow's own, or 0.
        steps: optimiser rounds, at least 1; None: the workflow's own, or the default of `oneshot adapt`.
        recipe: more entries of a recipe, such as {"search": {"steps": 9}}; for this process.
        inputs: more inputs of the workflow's nodes, {"<node id or class>.<input>": value}; for servers. It is
            called "set" in the file.
    """

    name: str
    target: Path | None = None
    generator: str | None = None
    seed: int | None = None
    steps: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """JSON values of what the plan says about the job, but for its name."""
        values = {
            "target": None if self.target is None else text_of(self.target),
            "generator": self.generator,
            "seed": self.seed,
            "steps": self.steps,
            "recipe": dict(self.recipe),
            "set": dict(self.inputs),
        }
        return {name: value for name, value in values.items() if value not in (None, {})}


class Jobs:
    """The jobs of a plan in their order, made anew whenever they are walked through.

    Args:
        make: starts at the first job.
        count: how many they are.
    """

    def __init__(self, make: Callable[[], Iterator[BatchJob]], count: int) -> None:
        self._make, self._count = make, count

    def __iter__(self) -> Iterator[BatchJob]:
        return self._make()

    def __len__(self) -> int:
        return self._count


@dataclass(frozen=True)
class Plan:
    """Jobs in the order in which they run.

    Args:
        name: the file's name without its ending.
        folder: where the file is; its relative paths start there.
        jobs: at least one; files that they name are looked at whenever they are walked through.
        workflow: API form of what a server runs for each job; None: this process only.
    """

    name: str
    folder: Path
    jobs: Jobs
    workflow: Workflow | None = None

    def generator_file(self, job: BatchJob) -> Path | None:
        """Return the checkpoint that a job's generator means in this process; None for the demo's or none."""
        if job.generator in (None, "demo"):
            return None
        return self.folder / str(job.generator)

    def recipe(self, job: BatchJob) -> Recipe:
        """Return what this process does for a job.

        Raises:
            PlanError: its "recipe" has something unknown or not allowed.
        """
        file = self.generator_file(job)
        try:
            recipe = _base(self.folder, json.dumps(job.recipe, sort_keys=True))
            training = recipe.training
            if job.steps is not None:
                training = replace(training, steps=job.steps)
            if job.seed is not None:
                training = replace(training, seed=job.seed)
            # A job's seed is of everything random.
            search = recipe.search if job.seed is None else replace(recipe.search, seed=None)
            aim = replace(recipe.aim, target="" if job.target is None else text_of(job.target))
            generator = str(file or job.generator or DEMO)
            return replace(recipe, generator=generator, aim=aim, search=search, training=training)
        except ValueError as error:
            raise PlanError(f"job {job.name!r}: {error}") from None

    def key(self, job: BatchJob, on_server: bool) -> str:
        """Hash what determines a job's result: settings, the target's bytes, the workflow or the generator.

        Args:
            job: of this plan; its target file is read.
            on_server: a server runs it, by the workflow.

        Returns:
            32 hexadecimal digits.

        Raises:
            PlanError: a file of the job cannot be read.
        """
        values: dict[str, Any] = {**job.describe(), "name": job.name}
        try:
            values["target"] = None if job.target is None else _sha256(job.target)
            file = None if on_server else self.generator_file(job)
            status = None if file is None else file.stat()
        except (OSError, ValueError) as error:
            raise PlanError(f"job {job.name!r}: a file that it names cannot be read: {error}") from None
        if on_server:
            values["workflow"] = self.workflow
            values.pop("recipe", None)
        else:
            values.pop("set", None)
            recipe = self.recipe(job)
            aim = replace(recipe.aim, target="")  # its content is in the key already
            values["recipe"] = replace(recipe, aim=aim).without_folders().values()  # files' content follows
            clips = [model_and_file(one)[1] for one in models_of(recipe.encoders.clip or "")]
            more = [name for name in recipe.aim.more_targets if not name.startswith(DEMO_TARGET)]
            named = (recipe.aim.mask, recipe.aim.latent, *clips, *more)
            values["files"] = [_sha256(Path(name)) for name in named if name]
            values["generator_file"] = None if status is None else [status.st_size, status.st_mtime_ns]
        return settings_key(values)

    def check(self, on_server: bool) -> None:
        """Look for what would make a job fail before any work is done, in every job.

        Args:
            on_server: a server will run the jobs, else this process.

        Raises:
            PlanError: a job lacks something, or says something that this way of running would leave out.
        """
        if on_server and self.workflow is None:
            raise PlanError(
                f"plan {self.name} names no workflow; a server needs one: "
                '"workflow": "FILE.json", exported with "Export (API)"'
            )
        for job in self.jobs:
            try:
                _check_for_server(job, self.workflow) if on_server else self._check_here(job)
            except WorkflowError as error:
                raise PlanError(f"job {job.name!r}: {error}") from None

    def _check_here(self, job: BatchJob) -> None:
        wanted = ("generator",) if self.recipe(job).aim.texts else ("target", "generator")
        missing = [name for name in wanted if getattr(job, name) is None]
        if missing:
            raise PlanError(
                f"job {job.name!r} has no {missing[0]}; without --server there is no workflow to take it from"
            )
        if job.inputs and not job.recipe:
            raise PlanError(
                f'job {job.name!r} has "set", which only servers know; say the same with "recipe" (see '
                "`oneshot recipe`), or leave it out"
            )
        file = self.generator_file(job)
        if file is not None and not is_file(file):
            raise PlanError(f"job {job.name!r}: the generator {file} is not a file; demo is the shipped one")


@lru_cache(maxsize=256)
def _base(folder: Path, text: str) -> Recipe:
    """What a job's "recipe" says, with its files' names whole; most jobs of a plan have the same.

    Args:
        folder: where relative names start.
        text: the recipe's JSON.

    Raises:
        ValueError: it has something unknown or not allowed.
    """

    def whole(name: str | None) -> str | None:
        return None if name is None else str(folder / name)

    def picture(name: str) -> str:
        return name if name.startswith(DEMO_TARGET) else str(folder / name)

    def model(name: str) -> str:
        kind, weights = model_and_file(name)
        return name if weights is None else f"{kind}={whole(weights)}"

    recipe = Recipe.of(json.loads(text))
    aim, clip = recipe.aim, recipe.encoders.clip
    more = tuple(map(picture, aim.more_targets))
    aim = replace(aim, mask=whole(aim.mask), latent=whole(aim.latent), more_targets=more)
    encoders = replace(recipe.encoders, clip=clip and "+".join(map(model, models_of(clip))))
    return replace(recipe, aim=aim, encoders=encoders)


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_of(path: Path, size: int, changed_ns: int) -> str:
    """Of a file as it is now: many jobs share a target, a mask, weights."""
    return file_sha256(path)


def _check_for_server(job: BatchJob, workflow: Workflow | None) -> None:
    assert workflow is not None
    if job.recipe and not job.inputs:
        raise PlanError(
            f'job {job.name!r} has "recipe", which only a run without --server knows; say the same with '
            '"set": {"<node id or class>.<input>": value}, or leave it out'
        )
    filled(workflow, job.name, given(job, "" if job.target else None), job.inputs)


def given(job: BatchJob, image: str | None) -> dict[str, Any]:
    """Collect what a job says about the workflow's inputs by their names in a plan.

    Args:
        job: the job.
        image: the target's name on the server; None where the workflow's own stays.
    """
    values = {"target": image, "generator": job.generator, "seed": job.seed, "steps": job.steps}
    return {name: value for name, value in values.items() if value is not None}
