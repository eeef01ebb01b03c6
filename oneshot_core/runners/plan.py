"""A plan: which adaptations to run, as data in a JSON file; the same for this process and for a server."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..choices import DEMO, DEMO_TARGET
from ..file_names import model_and_file, models_of
from ..json_values import Fields, JsonError, read, told
from ..recipe import MOST_STEPS, SEED_MAX, Recipe
from . import manifest
from .names import MAX_NAME, MAX_NAME_BYTES, is_reserved, safe_name, same
from .targets import TargetError, find_target, find_targets, is_file, name_of, text_of
from .workflow import READY, Workflow, WorkflowError, filled, read_workflow

FORMAT, FORMAT_VERSION = "oneshot-batch", 1
SCHEMA = Path(__file__).parent / "plan.schema.json"  # for editors; a test holds it and this reader together
JOB_KEYS = ("name", "target", "generator", "seed", "steps", "recipe", "set")
GRID_KEYS = ("targets", "generators", "seeds", "settings")
MAX_JOBS = 100_000
_NAME = re.compile(r"\w(?:[\w .+-]*[\w+-])?")


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


@dataclass(frozen=True)
class Plan:
    """Jobs in the order in which they run.

    Args:
        name: the file's name without its ending.
        folder: where the file is; its relative paths start there.
        jobs: at least one.
        workflow: API form of what a server runs for each job; None: this process only.
    """

    name: str
    folder: Path
    jobs: tuple[BatchJob, ...]
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
        training = {"seed": job.seed, "steps": job.steps}
        given = {name: value for name, value in training.items() if value is not None}
        file = self.generator_file(job)
        search = {"seed": None} if job.seed is not None else {}  # a job's seed is of everything random
        aim = {"target": "" if job.target is None else text_of(job.target)}
        named = {"generator": str(file or job.generator or DEMO), "aim": aim}
        try:
            recipe = Recipe.of({"training": given, "search": search, **named}, Recipe.of(job.recipe))
            files: dict[str, Any] = {
                name: self._file(getattr(recipe.aim, name)) for name in ("mask", "latent")
            }
            files |= {"more_targets": [self._picture(name) for name in recipe.aim.more_targets]}
            clip = recipe.encoders.clip and "+".join(map(self._model, models_of(recipe.encoders.clip)))
            return Recipe.of({"aim": files, "encoders": {"clip": clip}}, recipe)
        except ValueError as error:
            raise PlanError(f"job {job.name!r}: {error}") from None

    def _picture(self, name: str) -> str:
        """A picture that a job's recipe names, or a shipped one."""
        return name if name.startswith(DEMO_TARGET) else str(self.folder / name)

    def _model(self, name: str) -> str:
        """A CLIP model with its weights file, where it names one."""
        model, weights = model_and_file(name)
        return name if weights is None else f"{model}={self._file(weights)}"

    def _file(self, name: str | None) -> str | None:
        """A file that a job's recipe names; relative names start at the plan's folder."""
        return None if name is None else str(self.folder / name)

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
            values["recipe"] = replace(recipe, aim=aim).values()
            clips = [model_and_file(one)[1] for one in models_of(recipe.encoders.clip or "")]
            more = [name for name in recipe.aim.more_targets if not name.startswith(DEMO_TARGET)]
            named = (recipe.aim.mask, recipe.aim.latent, *clips, *more)
            values["files"] = [_sha256(Path(name)) for name in named if name]
            values["generator_file"] = None if status is None else [status.st_size, status.st_mtime_ns]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

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


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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


def read_plan(path: Path | str) -> Plan:
    """Read a plan file and the workflow that it names.

    Args:
        path: JSON, see `plan_from_values`; relative paths in it start at its folder.

    Raises:
        PlanError: not a plan, or a file that it names is missing.
    """
    path = Path(path)
    try:
        values = read(path)
    except FileNotFoundError:
        raise PlanError(f"there is no plan {path}") from None
    except (OSError, ValueError) as error:  # ValueError: no JSON, or a path that no file can have
        raise PlanError(f"{path} cannot be read as JSON: {error}") from None
    return plan_from_values(values, path.parent, path.stem)


def plan_from_values(values: Any, folder: Path, name: str = "plan") -> Plan:
    """Build a plan from JSON values.

    Args:
        values: {"format": "oneshot-batch", "format_version": 1, "workflow": FILE or "demo" or null,
            "defaults": JOB, "jobs": [JOB, ...], "grid": {"targets": GLOB or [GLOB, ...], "generators": [...],
            "seeds": [...], "settings": [JOB, ...]}}; a JOB has any of name, target, generator, seed, steps,
            recipe and set; see `SCHEMA`. The grid is every target with every generator, seed and settings;
            "recipe" and "set" of defaults and job are merged entry by entry.
        folder: where relative paths start.
        name: for messages and file names.

    Raises:
        PlanError: something unknown, missing or of the wrong type; no job at all; a name used twice.
    """
    try:
        return _plan(values, folder, name)
    except (JsonError, TargetError, WorkflowError) as error:
        raise PlanError(str(error)) from None


def _plan(values: Any, folder: Path, name: str) -> Plan:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise PlanError(f'plan {name} is not a plan: it must be an object with "format": "{FORMAT}"')
    plan = Fields(values, f"plan {name}")
    plan.value("format")
    plan.text("$schema", "")  # where editors find SCHEMA
    version = plan.value("format_version", None)
    if type(version) is not int or version != FORMAT_VERSION:
        raise PlanError(
            f"plan {name} has format_version {told(values.get('format_version'))}; this program reads "
            f"{FORMAT_VERSION}; update it, or write the plan anew"
        )
    file = plan.text("workflow", None)
    defaults = _fields(plan.object("defaults", {}), folder, named=False)
    plan.items("jobs", MAX_JOBS, [])
    listed = plan.objects("jobs", MAX_JOBS) if "jobs" in plan else ()
    found = [_merged(defaults, _fields(job, folder)) for job in listed]
    if plan.value("grid", None) is not None:
        found += [_merged(defaults, cell) for cell in _grid(plan.object("grid"), folder)]
    plan.close()
    jobs = tuple(_job(one, number) for number, one in enumerate(found, start=1))
    if not jobs:
        raise PlanError(f'plan {name} has no jobs; list them in "jobs", or give a "grid" with "targets"')
    _refuse_twice(jobs)
    return Plan(name, folder, jobs, None if file is None else _workflow(folder, file))


def _workflow(folder: Path, name: str) -> Workflow:
    """Read the workflow that a plan names; "demo" is the shipped one."""
    return read_workflow(READY if name == DEMO else folder / name)


def _fields(job: Fields, folder: Path, named: bool = True) -> dict[str, Any]:
    """Check the fields of a job and make its target's path whole."""
    there, found = set(job.names()), dict[str, Any]()
    known = JOB_KEYS if named else JOB_KEYS[1:]
    for name in known:
        job.value(name, None)  # so that a message can list it
    for name in ("name", "target", "generator"):
        if name in there and name in known:
            found[name] = job.text(name)
            if not found[name]:
                raise JsonError(
                    f"{job.what}: {name} must be a text with at least one letter, found an empty one"
                )
    for name, least, most in (("seed", 0, SEED_MAX), ("steps", 1, MOST_STEPS)):
        if name in there:
            found[name] = job.whole(name, least, most)
    for name in ("recipe", "set"):
        if name in there:
            values = job.object(name)
            found[name] = {one: values.value(one) for one in values.names()}
    job.close()
    if "target" in found:
        found["target"] = find_target(folder, found["target"], job.what)
    return found


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The second's fields over the first's; objects in them entry by entry."""
    both: dict[str, Any] = {
        name: _merged(first[name], second[name])
        for name in first.keys() & second.keys()
        if isinstance(first[name], dict) and isinstance(second[name], dict)
    }
    return {**first, **second, **both}


def _grid(grid: Fields, folder: Path) -> Iterator[dict[str, Any]]:
    """Every target with every generator, seed and settings; a name tells only what differs."""
    targets = grid.value("targets", [])
    patterns = Fields({"targets": [targets] if isinstance(targets, str) else targets}, "grid")
    pictures = find_targets(folder, patterns.texts("targets", MAX_JOBS))
    axes = [
        [{"target": path, "name": safe_name(name_of(path))} for path in pictures],
        [
            {**_cell("generator", one, folder), "name": safe_name(Path(str(one)).stem)}
            for one in grid.items("generators", MAX_JOBS, [])
        ],
        [
            {**_cell("seed", one, folder), "name": safe_name(f"seed{one}")}
            for one in grid.items("seeds", MAX_JOBS, [])
        ],
        [
            {"name": f"setting{number}", **_fields(one, folder)}
            for number, one in enumerate(grid.objects("settings", MAX_JOBS), start=1)
        ]
        if grid.items("settings", MAX_JOBS, [])
        else [],
    ]
    grid.close()
    used = [axis for axis in axes if axis]
    if not used:
        raise PlanError(f'"grid" is empty; give it at least one of {", ".join(GRID_KEYS)}')
    count = math.prod(map(len, used))
    if count > MAX_JOBS:
        raise PlanError(f'"grid" makes {count} jobs; a plan has at most {MAX_JOBS}')
    for cell in itertools.product(*used):
        names = [str(part["name"]) for part, axis in zip(cell, used, strict=True) if len(axis) > 1]
        merged: dict[str, Any] = {}
        for part in cell:
            merged = _merged(merged, part)
        yield {**merged, "name": _joined(names or [str(cell[0]["name"])])}


def _cell(field: str, value: Any, folder: Path) -> dict[str, Any]:
    return _fields(Fields({field: value}, f"grid: {field}s"), folder)


def _joined(names: list[str]) -> str:
    """One name of several; one that is too long ends in what tells it from the others."""
    name = "-".join(names)
    if len(name) <= MAX_NAME and len(name.encode()) <= MAX_NAME_BYTES:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    kept = name[: MAX_NAME - 9].encode()[: MAX_NAME_BYTES - 9].decode("utf-8", "ignore")
    return f"{kept}-{mark}"


def _job(fields: dict[str, Any], number: int) -> BatchJob:
    fields = dict(fields)
    target = fields.get("target")
    name = fields.pop("name", None) or (safe_name(name_of(target)) if target else f"job{number}")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME or len(name.encode()) > MAX_NAME_BYTES:
        raise PlanError(
            f"job {number}: the name {told(name)} cannot be a folder's; use letters, digits, spaces and "
            f". _ + - (at most {MAX_NAME}, the first a letter or digit, the last no space or dot)"
        )
    if is_reserved(name) or same(name) in (manifest.FILE_NAME, manifest.PICTURES):
        raise PlanError(
            f"job {number}: the name {name!r} cannot be a folder's, as Windows keeps it for a device or the "
            "batch for itself; choose another"
        )
    inputs = fields.pop("set", {})
    try:
        Recipe.of(fields.get("recipe", {}))  # a server's job may have one too, for runs here
    except ValueError as error:
        raise PlanError(f"job {name!r}: {error}") from None
    return replace(BatchJob(name, inputs=inputs), **fields)


def _refuse_twice(jobs: tuple[BatchJob, ...]) -> None:
    """Names must differ even where the file system takes A for a."""
    seen: set[str] = set()
    for job in jobs:
        if same(job.name) in seen:
            raise PlanError(
                f"two jobs are named {job.name!r} (capital or small, some systems take them for one); give "
                'each its own "name", or rename the file'
            )
        seen.add(same(job.name))
