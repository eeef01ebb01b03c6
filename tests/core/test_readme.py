"""The README is true: its Python runs, its commands parse, its files and verbs exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from oneshot_core import cli

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ASSETS = ROOT / "oneshot_core" / "demo" / "assets"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def test_it_is_short_and_its_links_are_there():
    assert len(README.split()) <= 1500
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).is_file(), link


def test_every_command_parses():
    commands = [line for block in blocks("") for line in block.splitlines() if line.startswith("oneshot ")]
    assert len(commands) >= 2
    for command in commands:
        cli.build_parser().parse_args(shlex.split(command)[1:])


def test_every_make_target_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make ([a-z-]+)[`\s]", " ".join([README]))) - {"demo's"}:
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_the_table_of_verbs_is_complete():
    assert set(re.findall(r"^\| `(\w+)[^|]*\|", README, flags=re.M)) >= set(cli.VERBS)


def test_every_option_that_is_named_exists():
    known = "".join(action for parser in parsers() for action in parser._option_string_actions)
    for option in set(re.findall(r"`(--[a-z-]+)", README)):
        assert option in known, option


def parsers() -> list:
    verbs = next(action for action in cli.build_parser()._actions if action.dest == "verb")
    return list(verbs.choices.values())


@pytest.mark.slow
@pytest.mark.skipif(
    not (ASSETS / "generator.safetensors").is_file(), reason="the demo's assets are not made yet"
)
def test_its_python_runs(tmp_path, monkeypatch):
    (code,) = blocks("python")
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("import")]
    assert len(lines) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(re.sub(r'"steps": \d+', '"steps": 2', code), "README.md", "exec"), {})  # noqa: S102 - our own text
    with Image.open("grid.png") as grid:
        assert grid.width > 8 * 128
    assert Path("kept/adapted.safetensors").stat().st_size > 100_000
