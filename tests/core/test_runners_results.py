"""What one recipe makes in a folder, and what is left of that when the process is killed."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kept_runs import recipe_of, tiny_inputs
from kills import killed_at

from oneshot_core import precision
from oneshot_core.inputs import Inputs
from oneshot_core.recipe import Recipe
from oneshot_core.run_folder import RECORD, RESULT, WORK, RunError, kept_record
from oneshot_core.runners.results import Results, make
from oneshot_core.store import FolderStore
from oneshot_core.training import STATE_FILE

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


def test_snapshots_may_be_removed_from_what_is_done(tmp_path: Path) -> None:
    inputs, said = tiny_inputs(), list[str]()
    first = made(tmp_path, inputs)
    assert "snapshots" in first["files"]
    shutil.rmtree(tmp_path / WORK)
    again = make(RECIPE, inputs, FolderStore(tmp_path), Results((0, 1)), quietly, said.append)
    assert "is done already" in said[-1] and "snapshots" not in again["files"]


def test_a_run_keeps_the_number_format_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is handed to another machine, where "auto" is another."""
    inputs, auto = tiny_inputs(), replace(RECIPE, training=replace(RECIPE.training, precision="auto"))
    for faster, seeds in ((True, (0,)), (False, (0, 1))):
        monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda _, faster=faster: faster)
        make(auto, inputs, FolderStore(tmp_path), Results(seeds), quietly, lambda _: None)
        assert kept_record(tmp_path)["recipe"]["training"]["precision"] == "bfloat16"
    make(auto, inputs, FolderStore(tmp_path, fresh=True), Results((0,)), quietly, lambda _: None)
    assert kept_record(tmp_path)["recipe"]["training"]["precision"] == "float32"


def test_another_programs_folder_is_never_emptied(tmp_path: Path) -> None:
    for name in (RECORD, "target.png", "grid.png"):
        (tmp_path / name).write_text('{"run": 7}')
    with pytest.raises(RunError, match="choose another folder"):
        make(RECIPE, tiny_inputs(), FolderStore(tmp_path, fresh=True), Results((0,)), quietly, lambda _: None)
    assert len(list(tmp_path.glob("*.*"))) >= 3 and (tmp_path / "target.png").is_file()


def test_what_the_disk_refuses_to_read_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale handle of a network drive, or permissions: neither result nor state is thrown away."""
    inputs = tiny_inputs()
    made(tmp_path, inputs)
    refused = {(tmp_path / RESULT).resolve(), (tmp_path / WORK / STATE_FILE).resolve()}
    for file in refused:
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", refusing(file))
            if file.name == STATE_FILE:
                (tmp_path / RESULT).rename(tmp_path / "moved")
            with pytest.raises((ValueError, OSError), match="tale file handle"):
                made(tmp_path, inputs)
        if file.name == STATE_FILE:
            (tmp_path / "moved").rename(tmp_path / RESULT)
        assert not list(tmp_path.rglob("*damaged*")) and file.is_file()


def refusing(file: Path) -> Callable[..., Any]:
    true = open

    def opened(path: Any, *words: Any, **more: Any) -> Any:
        if not isinstance(path, int) and Path(path).resolve() == file:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return true(path, *words, **more)

    return opened
