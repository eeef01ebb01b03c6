"""docs/batch.md is true: its plans are valid, its commands parse, every field is explained."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from oneshot_core import cli
from oneshot_core.runners.plan import SCHEMA, read_plan

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
VALUES = json.loads(SCHEMA.read_text(encoding="utf-8"))


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.M | re.S)
    return [text for kind, text in found if kind == language]


def plans() -> list[dict[str, Any]]:
    return [json.loads(block) for block in blocks("json")]


def test_its_plans_are_valid():
    assert len(plans()) == 2
    for values in plans():
        assert list(Draft7Validator(VALUES).iter_errors(values)) == []


def test_the_first_plan_needs_no_file_and_runs_both_ways(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(plans()[0]))
    plan = read_plan(tmp_path / "plan.json")
    plan.check(on_server=True)
    plan.check(on_server=False)
    assert [job.name for job in plan.jobs] == ["another seed", "comic", "oil painting"]
    assert plans()[0]["$schema"] == VALUES["$id"]


@pytest.mark.parametrize("part", ["", "job", "grid"])
def test_every_field_has_a_row(part):
    fields = (VALUES["definitions"][part] if part else VALUES)["properties"]
    rows = re.findall(r"^\| (`[^|]+) \|", TEXT, flags=re.M)
    assert set(fields) <= {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_command_parses_and_every_option_exists():
    commands = [line for block in blocks("") for line in block.splitlines() if line.startswith("oneshot ")]
    assert len(commands) >= 4
    for command in commands:
        cli.build_parser().parse_args(shlex.split(command, comments=True)[1:])
    verbs = next(action for action in cli.build_parser()._actions if action.dest == "verb")
    known = verbs.choices["batch"]._option_string_actions.keys() | {"--list"}
    assert set(re.findall(r"--[a-z]+", TEXT)) <= known


def test_what_it_names_is_there_and_it_is_named():
    for name in re.findall(r"`(oneshot_core/[\w./]+)`", TEXT):
        assert (ROOT / name).is_file(), name
    assert "docs/batch.md" in cli.EXAMPLES["batch"]
    assert "(docs/batch.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
