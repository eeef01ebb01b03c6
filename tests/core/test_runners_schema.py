"""The schema of a plan and its reader agree: fields, descriptions, bounds, what is taken, what is refused."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from fuzzing import mutated_json
from jsonschema import Draft7Validator

from oneshot_core import choices, recipe
from oneshot_core.recipe import Recipe
from oneshot_core.runners.plan import SCHEMA, PlanError, plan_from_values

VALUES = json.loads(SCHEMA.read_text(encoding="utf-8"))
SCHEMA_OF = Draft7Validator(VALUES)
HEAD = {"format": "oneshot-batch", "format_version": 1}
# What only the reader can see: files, names that clash or mean something elsewhere, too many jobs.
BEYOND = (
    "is not a file", "no file matches", "there is no target picture", "cannot be a folder's", "two jobs are",
    "there is no workflow", "workflow .* cannot be read", "not a workflow in API form", "makes .* jobs",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "w.json").write_text(json.dumps({"1": {"class_type": "LoadImage", "inputs": {}}}))
    return tmp_path


def refusal(folder: Path, values: Any) -> str:
    """Why the reader refuses values; empty when it takes them."""
    try:
        plan_from_values(values, folder)
    except PlanError as error:
        return str(error)
    return ""


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A part of the schema, or what it refers to."""
    name = schema.get("$ref", "").removeprefix("#/definitions/")
    return VALUES["definitions"][name] if name else schema


def properties(*path: str) -> dict[str, Any]:
    """Properties of an object within a plan, such as ("recipe", "aim") of a job."""
    found = VALUES["definitions"][path[0]] if path else VALUES
    for name in path[1:]:
        found = resolved(found["properties"][name])
    return found["properties"]


def test_it_is_a_schema_and_lies_in_the_package():
    Draft7Validator.check_schema(VALUES)
    assert SCHEMA.parent.name == "runners" and VALUES["$id"].endswith(f"oneshot_core/runners/{SCHEMA.name}")


PLACES = {  # where an unknown entry is put, and the schema of that place
    "plan": (lambda odd: {"jobs": [{}], **odd}, ()),
    "defaults": (lambda odd: {"jobs": [{}], "defaults": odd}, ("defaults",)),
    "job": (lambda odd: {"jobs": [odd]}, ("job",)),
    "grid": (lambda odd: {"grid": odd}, ("grid",)),
    "settings": (lambda odd: {"grid": {"settings": [odd]}}, ("job",)),
    "recipe": (lambda odd: {"jobs": [{"recipe": odd}]}, ("recipe",)),
    **{
        part: (lambda odd, part=part: {"jobs": [{"recipe": {part: odd}}]}, ("recipe", part))
        for part in ("aim", "encoders", "search", "method", "training")
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_it_has_every_field_that_the_reader_knows_and_no_other(folder, place):
    """The reader itself says which entries it allows where it finds an unknown one."""
    make, path = PLACES[place]
    told = refusal(folder, {**HEAD, **make({"nonsense": 1})})
    assert "unknown entry 'nonsense'" in told
    assert set(told.partition("allowed are ")[2].split(", ")) == set(properties(*path))
    assert not SCHEMA_OF.is_valid({**HEAD, **make({"nonsense": 1})})


def test_it_has_every_part_of_a_recipe():
    assert set(Recipe().values()) == set(properties("recipe"))
    for one in fields(Recipe):
        part = getattr(Recipe(), one.name)
        if is_dataclass(part):  # its fields, since some are told only when they are given
            assert {entry.name for entry in fields(part)} == set(properties("recipe", one.name))


def described(schema: dict[str, Any], name: str) -> Iterator[str]:
    """Names of fields without a description, wherever in a schema."""
    for key, one in schema.get("properties", {}).items():
        if len(resolved(one).get("description", "")) < 10:
            yield f"{name}.{key}"
        yield from described(one, f"{name}.{key}")


def test_every_field_has_a_description():
    parts = {"plan": VALUES, **VALUES["definitions"]}
    assert [wrong for name, part in parts.items() for wrong in described(part, name)] == []


def test_its_choices_and_defaults_are_the_recipes():
    aim, method, training = (properties("recipe", name) for name in ("aim", "method", "training"))
    assert aim["fit"]["enum"] == list(choices.FITS)
    assert method["preset"]["enum"] == list(choices.PRESETS)
    assert method["profile"]["enum"] == list(choices.PROFILES)
    assert training["precision"]["enum"] == list(choices.PRECISIONS)
    parts = re.search(r"\(([a-z |]+)\)", method["trained_parts"]["pattern"])
    assert parts is not None and parts[1].split("|") == list(choices.PARTS)
    for name, part in Recipe().values().items():
        for key, value in part.items() if isinstance(part, dict) else ():
            if isinstance(value, dict):
                continue
            if (name, key) != ("aim", "target"):
                assert properties("recipe", name)[key]["default"] == value, (name, key)


def bounded(path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Number fields below a part of the schema."""
    for name, one in properties(*path).items():
        kinds = resolved(one).get("type", ())
        if {"integer", "number"} & set([kinds] if isinstance(kinds, str) else kinds):
            yield (*path, name), resolved(one)


NUMBERS = [
    *bounded(("job",)),
    *(found for part in ("search", "method", "training") for found in bounded(("recipe", part))),
]


@pytest.mark.parametrize(("path", "schema"), NUMBERS, ids=[".".join(path) for path, _ in NUMBERS])
def test_numbers_have_the_readers_bounds(folder, path, schema):
    def agree(number: float, taken: bool) -> None:
        value: Any = number
        for name in reversed(path[1:]):
            value = {name: value}
        plan = {**HEAD, "jobs": [value if path[0] == "job" else {"recipe": value}]}
        assert (refusal(folder, plan) == "") == SCHEMA_OF.is_valid(plan) == taken, (
            number,
            refusal(folder, plan),
        )

    step = 1 if "integer" in str(schema["type"]) else 0.001
    if "minimum" in schema:
        agree(schema["minimum"], True)
        agree(schema["minimum"] - step, False)
    else:
        agree(schema["exclusiveMinimum"], False)
        agree(schema["exclusiveMinimum"] + step, True)
    if "maximum" in schema:
        agree(schema["maximum"], True)
        agree(schema["maximum"] + step, False)
    agree(True, False)


WHOLE = {
    "$schema": "plan.schema.json", **HEAD, "workflow": "w.json",
    "defaults": {"generator": "demo", "steps": 3, "set": {"4.seed": 1}, "recipe": {"method": {"batch": 1}}},
    "jobs": [{"name": "x", "target": "a.png", "seed": 4, "recipe": {
        "aim": {"fit": "stretch", "mask": None}, "encoders": {"clip": "demo", "perceptual": None},
        "search": {"steps": 9, "weights": {"clip": 0}, "views": False},
        "method": {"weights": {"patch": 0.5}, "schedule": {"random": 3}, "trained_parts": "affine, noise"},
        "training": {"precision": "float32", "snapshot_every": 50}}}],
    "grid": {"targets": ["*.png", "demo:oil painting"], "generators": ["demo"], "seeds": [0, 1],
             "settings": [{"steps": 5}, {"name": "long", "steps": 9}]},
}  # fmt: skip
TAKEN = {
    "all of it": WHOLE,
    "no workflow": {**HEAD, "workflow": None, "jobs": [{}], "grid": None},
    "the shipped workflow": {**HEAD, "workflow": "demo", "jobs": [{"target": "demo:comic"}]},
    "a grid of one pattern": {**HEAD, "grid": {"targets": "*.png"}},
    "a grid of seeds beside no jobs": {**HEAD, "jobs": [], "grid": {"seeds": [1], "targets": []}},
    "a recipe as a whole": {**HEAD, "jobs": [{"recipe": Recipe().values()}]},
    "letters of any script": {**HEAD, "jobs": [{"name": "stra\u00dfe \u4eba +1"}]},
}
REFUSED = {
    "a list": [],
    "no format": {"format_version": 1, "jobs": [{}]},
    "another format": {**HEAD, "format": "x", "jobs": [{}]},
    "no version": {"format": "oneshot-batch", "jobs": [{}]},
    "another version": {**HEAD, "format_version": 2, "jobs": [{}]},
    "true as version": {**HEAD, "format_version": True, "jobs": [{}]},
    "a schema that is a number": {**HEAD, "$schema": 1, "jobs": [{}]},
    "no jobs": HEAD,
    "empty jobs": {**HEAD, "jobs": []},
    "empty jobs and no grid": {**HEAD, "jobs": [], "grid": None},
    "null as jobs": {**HEAD, "jobs": None},
    "null as defaults": {**HEAD, "jobs": [{}], "defaults": None},
    "an empty grid": {**HEAD, "grid": {}},
    "a grid of empty lists": {**HEAD, "grid": {"targets": [], "seeds": []}},
    "null as seeds": {**HEAD, "grid": {"targets": "*.png", "seeds": None}},
    "null as targets": {**HEAD, "grid": {"targets": None, "seeds": [1]}},
    "an empty pattern": {**HEAD, "grid": {"targets": ""}},
    "a number among the patterns": {**HEAD, "grid": {"targets": [1]}},
    "a name for all": {**HEAD, "defaults": {"name": "x"}, "jobs": [{}]},
    "a folder as name": {**HEAD, "jobs": [{"name": "a/b"}]},
    "a long name": {**HEAD, "jobs": [{"name": "x" * 101}]},
    "an empty target": {**HEAD, "jobs": [{"target": ""}]},
    "null as seed": {**HEAD, "jobs": [{"seed": None}]},
    "half a step": {**HEAD, "jobs": [{"steps": 1.5}]},
    "a list as set": {**HEAD, "jobs": [{"set": []}]},
    "a recipe with null": {**HEAD, "jobs": [{"recipe": {"search": {"steps": None}}}]},
    "an unknown fit": {**HEAD, "jobs": [{"recipe": {"aim": {"fit": "squeeze"}}}]},
    "a blank mask": {**HEAD, "jobs": [{"recipe": {"aim": {"mask": " "}}}]},
    "an unknown part": {**HEAD, "jobs": [{"recipe": {"method": {"trained_parts": "noise,hair"}}}]},
    "a negative weight": {**HEAD, "jobs": [{"recipe": {"method": {"weights": {"patch": -1}}}}]},
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_the_reader_takes_is_valid(folder, case):
    assert refusal(folder, TAKEN[case]) == ""
    assert list(SCHEMA_OF.iter_errors(TAKEN[case])) == []


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_reader_refuses_is_invalid(folder, case):
    assert refusal(folder, REFUSED[case])
    assert not SCHEMA_OF.is_valid(REFUSED[case])


@pytest.mark.slow
def test_both_agree_on_plans_with_an_odd_value(folder):
    """What is taken is valid; what is refused is invalid, but for what no schema can see."""
    beyond = re.compile("|".join(BEYOND))
    counts = {True: 0, False: 0}
    for seed in range(1500):
        odd = mutated_json(copy.deepcopy(WHOLE), seed)
        told, valid = refusal(folder, odd), SCHEMA_OF.is_valid(odd)
        assert valid == (told == "") or (valid and beyond.search(told)), (seed, told, odd)
        counts[valid] += 1
    assert min(counts.values()) > 100


def test_the_bounds_are_those_of_the_recipe():
    assert properties("job")["steps"] == {"$ref": "#/definitions/steps"}
    assert VALUES["definitions"]["steps"]["maximum"] == recipe.MOST_STEPS
    assert VALUES["definitions"]["seed"]["maximum"] == recipe.SEED_MAX
