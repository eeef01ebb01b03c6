"""A plan: which adaptations to run, as data in a JSON file; the same for this process and for a server."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .workflow import Workflow, WorkflowError, filled, read_workflow

FORMAT, FORMAT_VERSION = "oneshot-batch", 1
PLAN_KEYS = ("format", "format_version", "workflow", "defaults", "jobs", "grid")
JOB_KEYS = ("name", "target", "generator", "seed", "steps", "options", "set")
GRID_KEYS = ("targets", "generators", "seeds", "settings")
MAX_NAME = 100
_NAME = re.compile(r"\w(?:[\w .+-]*[\w+-])?")


class PlanError(ValueError):
    """A plan that cannot be run; the message names the file or the job and what to change."""


@dataclass(frozen=True)
class BatchJob:
    """One adaptation of a plan.

    Args:
        name: unique in the plan, usable as a folder name.
        target: picture file; None: the workflow's own.
        generator: "demo", a file (for this process; relative to the plan) or a name that the server lists;
            None: the workflow's own.
        seed: of everything random; None: the workflow's own, or 0.
        steps: optimiser rounds, at least 1; None: the workflow's own, or the default of `oneshot adapt`.
        options: more options of `oneshot adapt` by long name, such as {"search_steps": 9}; for this process.
        inputs: more inputs of the workflow's nodes, {"<node id or class>.<input>": value}; for servers. It is
            called "set" in the file.
    """

    name: str
    target: Path | None = None
    generator: str | None = None
    seed: int | None = None
    steps: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """JSON values of what the plan says about the job, but for its name."""
        values = {
            "target": None if self.target is None else str(self.target),
            "generator": self.generator,
            "seed": self.seed,
            "steps": self.steps,
            "options": dict(self.options),
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

    def key(self, job: BatchJob, on_server: bool) -> str:
        """Hash what determines a job's result: settings, the target's bytes, the workflow or the generator.

        Args:
            job: of this plan; its target file is read.
            on_server: a server runs it, by the workflow.

        Returns:
            32 hexadecimal digits.
        """
        values: dict[str, Any] = {**job.describe(), "name": job.name}
        values["target"] = None if job.target is None else hashlib.sha256(job.target.read_bytes()).hexdigest()
        if on_server:
            values["workflow"] = self.workflow
            values.pop("options", None)
        else:
            values.pop("set", None)
            file = self.generator_file(job)
            values["generator_file"] = [file.stat().st_size, file.stat().st_mtime_ns] if file else None
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
        missing = [name for name in ("target", "generator") if getattr(job, name) is None]
        if missing:
            raise PlanError(
                f"job {job.name!r} has no {missing[0]}; without --server there is no workflow to take it from"
            )
        if job.inputs and not job.options:
            raise PlanError(
                f'job {job.name!r} has "set", which only servers know; say the same with '
                '"options" (those of `oneshot adapt`), or leave it out'
            )
        file = self.generator_file(job)
        if file is not None and not file.is_file():
            raise PlanError(f"job {job.name!r}: the generator {file} is not a file; demo is the shipped one")


def _check_for_server(job: BatchJob, workflow: Workflow | None) -> None:
    assert workflow is not None
    if job.options and not job.inputs:
        raise PlanError(
            f'job {job.name!r} has "options", which only a run without --server knows; say the same with '
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
        values = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise PlanError(f"there is no plan {path}") from None
    except (OSError, ValueError) as error:
        raise PlanError(f"{path} cannot be read as JSON: {error}") from None
    return plan_from_values(values, path.parent, path.stem)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def plan_from_values(values: Any, folder: Path, name: str = "plan") -> Plan:
    """Build a plan from JSON values.

    Args:
        values: {"format": "oneshot-batch", "format_version": 1, "workflow": FILE or null, "defaults": JOB,
            "jobs": [JOB, ...], "grid": {"targets": GLOB or [GLOB, ...], "generators": [...], "seeds": [...],
            "settings": [JOB, ...]}}; a JOB has any of `JOB_KEYS`. The grid is every target with every
            generator, seed and settings; "options" and "set" of defaults and job are merged name by name.
        folder: where relative paths start.
        name: for messages and file names.

    Raises:
        PlanError: something unknown, missing or of the wrong type; no job at all; a name used twice.
    """
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise PlanError(f'plan {name} is not a plan: it must be an object with "format": "{FORMAT}"')
    if values.get("format_version") != FORMAT_VERSION:
        raise PlanError(
            f"plan {name} has format_version {values.get('format_version')!r}; this program reads "
            f"{FORMAT_VERSION}; update it, or write the plan anew"
        )
    _refuse_unknown(values, PLAN_KEYS, f"plan {name}")
    defaults = _fields(values.get("defaults", {}), "defaults", folder, named=False)
    listed = _list(values.get("jobs", []), "jobs")
    fields = [
        _merged(defaults, _fields(job, f"job {number}", folder)) for number, job in enumerate(listed, start=1)
    ]
    fields += [_merged(defaults, cell) for cell in _grid(values.get("grid"), folder)]
    jobs = tuple(_job(one, number) for number, one in enumerate(fields, start=1))
    if not jobs:
        raise PlanError(f'plan {name} has no jobs; list them in "jobs", or give a "grid" with "targets"')
    _refuse_twice(jobs)
    return Plan(name, folder, jobs, _workflow(values.get("workflow"), folder))


def _workflow(file: Any, folder: Path) -> Workflow | None:
    if file is None:
        return None
    if not isinstance(file, str):
        raise PlanError(f'"workflow" must be a file name or null, got {file!r}')
    try:
        return read_workflow(folder / file)
    except WorkflowError as error:
        raise PlanError(str(error)) from None


def _refuse_unknown(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise PlanError(f"{where} has {unknown[0]!r}; known are {', '.join(known)}")


def _list(values: Any, where: str) -> list[Any]:
    if not isinstance(values, list):
        raise PlanError(f'"{where}" must be a list, got {type(values).__name__}')
    return values


def _fields(values: Any, where: str, folder: Path, named: bool = True) -> dict[str, Any]:
    """Check the fields of a job and make its target's path whole."""
    if not isinstance(values, dict):
        raise PlanError(f"{where} must be an object, got {type(values).__name__}")
    _refuse_unknown(values, JOB_KEYS if named else JOB_KEYS[1:], where)
    for name, value in values.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        allowed, right = {
            "seed": ("a whole number from 0 on", whole and value >= 0),
            "steps": ("a whole number from 1 on", whole and value >= 1),
            "options": ("an object", isinstance(value, dict)),
            "set": ("an object", isinstance(value, dict)),
        }.get(name, ("a text", isinstance(value, str) and value != ""))
        if not right:
            raise PlanError(f"{where}: {name!r} must be {allowed}, got {value!r}")
    if "target" not in values:
        return values
    path = folder / values["target"]
    if not path.is_file():
        raise PlanError(f"{where}: the target {path} is not a file")
    return {**values, "target": path}


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The second's fields over the first's; "options" and "set" name by name."""
    both: dict[str, Any] = {
        name: {**first[name], **second[name]}
        for name in ("options", "set")
        if name in first and name in second
    }
    return {**first, **second, **both}


def _grid(values: Any, folder: Path) -> Iterator[dict[str, Any]]:
    """Every target with every generator, seed and settings; a name tells only what differs."""
    if values is None:
        return
    if not isinstance(values, dict):
        raise PlanError(f'"grid" must be an object, got {type(values).__name__}')
    _refuse_unknown(values, GRID_KEYS, "grid")
    settings = [
        _fields(
            {"name": f"setting{number}", **one} if isinstance(one, dict) else one,
            f"settings {number}",
            folder,
        )
        for number, one in enumerate(_list(values.get("settings", []), "settings"), start=1)
    ]
    axes = [
        [{"target": path, "name": _safe(path.stem)} for path in _targets(values.get("targets", []), folder)],
        [
            {**_fields({"generator": one}, "grid", folder), "name": _safe(Path(str(one)).stem)}
            for one in _list(values.get("generators", []), "generators")
        ],
        [
            {**_fields({"seed": one}, "grid", folder), "name": f"seed{one}"}
            for one in _list(values.get("seeds", []), "seeds")
        ],
        settings,
    ]
    used = [axis for axis in axes if axis]
    if not used:
        raise PlanError(f'"grid" is empty; give it at least one of {", ".join(GRID_KEYS)}')
    for cell in itertools.product(*used):
        names = [part["name"] for part, axis in zip(cell, used, strict=True) if len(axis) > 1]
        merged: dict[str, Any] = {}
        for part in cell:
            merged = _merged(merged, part)
        yield {**merged, "name": "-".join(names) or cell[0]["name"]}


def _targets(patterns: Any, folder: Path) -> list[Path]:
    """Files of one or many patterns, sorted within each, each file once."""
    found: dict[Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else _list(patterns, "targets"):
        if not isinstance(pattern, str):
            raise PlanError(f'"targets" must be file names or patterns, got {pattern!r}')
        names = glob.glob(str(Path(glob.escape(str(folder))) / pattern), recursive=True)
        matches = sorted(path for path in map(Path, names) if path.is_file())
        if not matches:
            raise PlanError(f"no file matches the targets {pattern!r} in {folder.resolve()}")
        found.update(dict.fromkeys(matches))
    return list(found)


def _safe(text: str) -> str:
    """Make a job's name from a file's."""
    return re.sub(r"[^\w .+-]", "-", text).strip(" .-")[:MAX_NAME] or "job"


def _job(fields: dict[str, Any], number: int) -> BatchJob:
    fields = dict(fields)
    target = fields.get("target")
    name = fields.pop("name", None) or (_safe(target.stem) if target else f"job{number}")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise PlanError(
            f"job {number}: the name {name!r} cannot be a folder's; use letters, digits, spaces and . _ + - "
            f"(at most {MAX_NAME}, the first a letter or digit, the last no space or dot)"
        )
    inputs = fields.pop("set", {})
    return replace(BatchJob(name, inputs=inputs), **fields)


def _refuse_twice(jobs: tuple[BatchJob, ...]) -> None:
    """Names must differ even where the file system takes A for a."""
    seen: set[str] = set()
    for job in jobs:
        if job.name.casefold() in seen:
            raise PlanError(f'two jobs are named {job.name!r}; give each its own "name"')
        seen.add(job.name.casefold())
