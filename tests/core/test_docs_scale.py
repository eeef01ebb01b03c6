"""docs/scale.md is true: its commands parse, what it names exists, its costs follow from measured figures."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from oneshot_core import cli
from oneshot_core.runners.plan import read_plan

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
STEPS = 1000  # of search and training, as the page says


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.M | re.S)
    return [text for kind, text in found if kind == language]


def test_every_command_parses_and_every_option_exists():
    commands = [line for block in blocks("") for line in block.splitlines() if line.startswith("oneshot ")]
    assert len(commands) == 4
    for command in commands:
        cli.build_parser().parse_args(shlex.split(command, comments=True)[1:])
    verbs = next(action for action in cli.build_parser()._actions if action.dest == "verb")
    assert set(re.findall(r"--[a-z]+", TEXT)) <= verbs.choices["batch"]._option_string_actions.keys()


def test_what_it_names_is_there():
    for name in re.findall(r"`(tests/[\w./]+)`", TEXT):
        assert (ROOT / name).is_file(), name
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / "docs" / link).is_file(), link
    assert "(docs/scale.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(scale.md)" in (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")


def test_its_plan_is_the_first_line_of_one(tmp_path):
    (first,) = blocks("json")
    values = json.loads(first)
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "p.jsonl").write_text(json.dumps(values) + '\n{"target": "a.png"}\n')
    (job,) = read_plan(tmp_path / "p.jsonl").jobs
    assert (job.generator, job.steps) == ("ffhq.pt", 500)


def measured() -> dict[str, tuple[float | None, float]]:
    """Milliseconds of a search step and of the mix of 16 steps, by size and variant, on the H100."""
    rows = re.findall(
        r"^\| (\d+ px, [\w+]+) \|(.*)\|$", (ROOT / "benchmarks" / "README.md").read_text(), re.M
    )
    found = {}
    for name, rest in rows:
        cells = [cell.strip() for cell in rest.split("|")]
        if len(cells) == 7:
            search = None if cells[0] == "\u2013" else float(cells[0].split()[0])
            found[name] = (search, float(cells[4]))
    return found


@pytest.mark.parametrize(
    "row",
    re.findall(r"^\| (\d+ px, \w+) \| (\d+) s \| (\d+) s \| ([\d.]+) \|$", TEXT, re.M),
    ids=lambda r: r[0],
)
def test_the_costs_are_those_of_the_measured_steps(row):
    name, search, training, per_hour = row
    figures = measured()
    own, mix = figures[name]
    taken = own if own is not None else figures[name.split(",")[0] + ", float32"][0]
    assert taken is not None
    seconds = [taken / 1000 * STEPS, mix / 16 / 1000 * STEPS]
    assert [round(one) for one in seconds] == [int(search), int(training)]
    assert float(per_hour) == round(3600 / sum(seconds), 1)
