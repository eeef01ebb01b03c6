"""What one recipe makes in a folder, and what is left of that when the process is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kept_runs import recipe_of, tiny_inputs
from kills import killed_at

from oneshot_core.inputs import Inputs
from oneshot_core.recipe import Recipe
from oneshot_core.run_folder import RECORD, RESULT
from oneshot_core.runners.results import Results, make
from oneshot_core.store import FolderStore

RECIPE = recipe_of(2)
PICTURES = ("grid.png", "losses.png", "reference.png", "target.png")


@contextmanager
def quietly(recipe: Recipe, folder: Path) -> Iterator[dict[str, Any]]:
    yield {}


def made(folder: Path, inputs: Inputs) -> dict[str, Any]:
    return make(RECIPE, inputs, FolderStore(folder), Results((0, 1)), quietly, lambda _: None)


@pytest.mark.slow
def test_wherever_a_process_is_killed_the_next_one_makes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = tiny_inputs()
    whole = made(tmp_path / "whole", inputs)
    write = 1
    while killed_at(write, partial(made, folder := tmp_path / f"killed{write}", inputs), monkeypatch):
        again = made(folder, inputs)
        assert again["losses"] == whole["losses"] and again["step"] == 2, write
        assert again["files"].keys() == whole["files"].keys(), write
        for name in (RESULT, *PICTURES):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (write, name)
        assert not [path for path in folder.rglob("*") if "damaged" in path.name], write
        assert (folder / RECORD).is_file()
        write += 1
    assert write > 10
