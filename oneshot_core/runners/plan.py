"""Reading a plan: which adaptations to run, as data in a JSON file, or a line for each job of a large one."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..choices import DEMO
from ..json_values import Fields, JsonError, parse, read, told
from ..recipe import MOST_STEPS, SEED_MAX, Recipe
from . import manifest
from .jobs import BatchJob, Jobs, Plan, PlanError
from .names import MAX_NAME, MAX_NAME_BYTES, is_reserved, safe_name, same
from .targets import TargetError, find_target, find_targets, name_of
from .workflow import READY, Workflow, WorkflowError, read_workflow

FORMAT, FORMAT_VERSION = "oneshot-batch", 1
SCHEMA = Path(__file__).parent / "plan.schema.json"  # for editors; a test holds it and this reader together
LINES = ".jsonl"  # ending of a plan with a line for each job
JOB_KEYS = ("name", "target", "generator", "seed", "steps", "recipe", "set")
GRID_KEYS = ("targets", "generators", "seeds", "settings")
MAX_JOBS = 10_000_000
MAX_LINE_BYTES = 1 << 20
_NAME = re.compile(r"\w(?:[\w .+-]*[\w+-])?")


def read_plan(path: Path | str) -> Plan:
    """Read a plan file and the workflow that it names.

    Args:
        path: JSON, see `plan_from_values`; relative paths in it start at its folder. With the ending .jsonl
            its first line is such an object without jobs and grid, and each further line a job: the file is
            read line by line, and again for each walk through the jobs.

    Raises:
        PlanError: not a plan, or a file that it names is missing.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == LINES:
            return _plan_of_lines(path)
        values = read(path)
    except FileNotFoundError:
        raise PlanError(f"there is no plan {path}") from None
    except PlanError:
        raise
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
    with _plan_errors():
        plan = _head(values, name)
        plan.items("jobs", MAX_JOBS, [])
        grid = None if plan.value("grid", None) is None else _grid(plan.object("grid"), folder)
        workflow = plan.text("workflow", None)
        defaults = _fields(plan.object("defaults", {}), folder, named=False)
        plan.close()

        def cells(look: bool) -> Iterator[dict[str, Any]]:
            for job in plan.objects("jobs", MAX_JOBS) if "jobs" in plan else ():
                yield _fields(job, folder, look=look)
            yield from grid() if grid is not None else ()

        return _plan(name, folder, workflow, defaults, cells)


def _plan_of_lines(path: Path) -> Plan:
    """Read a plan with a line for each job; OSError and ValueError where it cannot be read."""
    with _plan_errors():
        first, stamp = next(_lines(path)), path.stat()
        plan = _head(parse(first, f"plan {path.stem}: line 1"), path.stem)
        workflow = plan.text("workflow", None)
        defaults = _fields(plan.object("defaults", {}), path.parent, named=False)
        plan.close()

        def cells(look: bool) -> Iterator[dict[str, Any]]:
            now = path.stat()
            if (now.st_size, now.st_mtime_ns) != (stamp.st_size, stamp.st_mtime_ns):
                raise PlanError(f"{path} was changed while its jobs ran; start the command again")
            for number, line in enumerate(_lines(path), start=1):
                if number > 1 and line.strip():
                    what = f"plan {path.stem}: line {number}"
                    yield _fields(Fields(parse(line, what), what), path.parent, look=look)

        return _plan(path.stem, path.parent, workflow, defaults, cells)


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        line = file.readline(MAX_LINE_BYTES + 1)
        while True:
            if len(line) > MAX_LINE_BYTES:
                raise JsonError(f"{path}: has a line of more than {MAX_LINE_BYTES >> 20} MiB")
            yield line
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return


@contextmanager
def _plan_errors() -> Iterator[None]:
    """Turn what is wrong within a plan into a PlanError."""
    try:
        yield
    except (JsonError, TargetError, WorkflowError) as error:
        raise PlanError(str(error)) from None


def _head(values: Any, name: str) -> Fields:
    """Check that values are a plan's."""
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
    return plan


def _plan(
    name: str,
    folder: Path,
    workflow: str | None,
    defaults: dict[str, Any],
    cells: Callable[[bool], Iterator[dict[str, Any]]],
) -> Plan:
    """Walk through all jobs once, to check them, and make a plan that walks through them anew each time.

    Args:
        name: of the plan.
        folder: where relative paths start.
        workflow: file that it names.
        defaults: fields of all jobs.
        cells: yields the fields of each job; told whether the files that they name are looked for.
    """

    def jobs(look: bool = False) -> Iterator[BatchJob]:
        with _plan_errors():
            for number, cell in enumerate(cells(look), start=1):
                yield _job(_merged(defaults, cell), number)

    marks = array("Q")
    for job in jobs(look=True):
        marks.append(_mark(job))
        if len(marks) > MAX_JOBS:
            raise PlanError(f"plan {name} has more than {MAX_JOBS} jobs; make several plans of it")
    if not marks:
        raise PlanError(
            f'plan {name} has no jobs; list them in "jobs", or give a "grid" with "targets" (in a {LINES} '
            "file: a line for each job below the first)"
        )
    _refuse_twice(jobs, marks)
    return Plan(
        name, folder, Jobs(jobs, len(marks)), None if workflow is None else _workflow(folder, workflow)
    )


def _workflow(folder: Path, name: str) -> Workflow:
    """Read the workflow that a plan names; "demo" is the shipped one."""
    return read_workflow(READY if name == DEMO else folder / name)


def _fields(job: Fields, folder: Path, named: bool = True, look: bool = True) -> dict[str, Any]:
    """Check the fields of a job and make its target's path whole; `look` whether the file is there."""
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
        found["target"] = find_target(folder, found["target"], job.what, look)
    return found


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The second's fields over the first's; objects in them entry by entry."""
    both: dict[str, Any] = {
        name: _merged(first[name], second[name])
        for name in first.keys() & second.keys()
        if isinstance(first[name], dict) and isinstance(second[name], dict)
    }
    return {**first, **second, **both}


def _grid(grid: Fields, folder: Path) -> Callable[[], Iterator[dict[str, Any]]]:
    """Every target with every generator, seed and settings; a name tells only what differs."""
    targets = grid.value("targets", [])
    patterns = Fields({"targets": [targets] if isinstance(targets, str) else targets}, "grid")
    pictures = find_targets(folder, patterns.texts("targets", MAX_JOBS))
    settings: list[tuple[int, Fields]] = []
    if grid.items("settings", MAX_JOBS, []):
        settings = [*enumerate(grid.objects("settings", MAX_JOBS), start=1)]
    # Values and what becomes of one: made when it is its turn, so that a long axis takes little memory.
    axes: list[tuple[Sequence[Any], Callable[[Any], dict[str, Any]]]] = [
        (pictures, lambda path: {"target": path, "name": safe_name(name_of(path))}),
        (
            grid.items("generators", MAX_JOBS, []),
            lambda one: {**_cell("generator", one, folder), "name": safe_name(Path(str(one)).stem)},
        ),
        (
            grid.items("seeds", MAX_JOBS, []),
            lambda one: {**_cell("seed", one, folder), "name": safe_name(f"seed{one}")},
        ),
        (settings, lambda one: {"name": f"setting{one[0]}", **_fields(one[1], folder, look=False)}),
    ]
    grid.close()
    used = [axis for axis in axes if axis[0]]
    if not used:
        raise PlanError(f'"grid" is empty; give it at least one of {", ".join(GRID_KEYS)}')
    for _, one in settings:
        _fields(one, folder)  # once for all cells: their files are looked for
    count = math.prod(len(values) for values, _ in used)
    if count > MAX_JOBS:
        raise PlanError(f'"grid" makes {count} jobs; a plan has at most {MAX_JOBS}')

    def cells() -> Iterator[dict[str, Any]]:
        for cell in itertools.product(*(values for values, _ in used)):
            parts = [make(value) for value, (_, make) in zip(cell, used, strict=True)]
            named = zip(parts, used, strict=True)
            names = [str(part["name"]) for part, (values, _) in named if len(values) > 1]
            merged: dict[str, Any] = {}
            for part in parts:
                merged = _merged(merged, part)
            yield {**merged, "name": _joined(names or [str(parts[0]["name"])])}

    return cells


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
    inputs, recipe = fields.pop("set", {}), fields.get("recipe")
    wrong = (
        _wrong_recipe(json.dumps(recipe)) if recipe else ""
    )  # a server's job may have one too, for runs here
    if wrong:
        raise PlanError(f"job {name!r}: {wrong}")
    return replace(BatchJob(name, inputs=inputs), **fields)


@lru_cache(maxsize=256)
def _wrong_recipe(text: str) -> str:
    """Say what is wrong with a job's recipe; most jobs of a plan have the same."""
    try:
        Recipe.of(json.loads(text))
    except ValueError as error:
        return str(error)
    return ""


def _mark(job: BatchJob) -> int:
    """64 bits of a job's name, equal for names that some file systems take for one."""
    return int.from_bytes(hashlib.blake2b(same(job.name).encode(), digest_size=8).digest(), "little")


def _refuse_twice(jobs: Callable[[], Iterator[BatchJob]], marks: array[int]) -> None:
    """Names must differ even where the file system takes A for a.

    Args:
        jobs: walks through them.
        marks: of their names; only where two are equal, the names themselves are compared.
    """
    found = np.sort(np.frombuffer(marks, dtype=np.uint64))
    twice = set(found[1:][found[1:] == found[:-1]].tolist())
    seen: set[str] = set()
    for job in jobs() if twice else ():
        if _mark(job) not in twice:
            continue
        if same(job.name) in seen:
            raise PlanError(
                f"two jobs are named {job.name!r} (capital or small, some systems take them for one); give "
                'each its own "name", or rename the file'
            )
        seen.add(same(job.name))
