"""What goes wrong around a command: signals, full disks, damaged files, odd folders, a second process."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fuzzing import failures, mutated_json
from tiny_networks import TinyChoice

from oneshot_core import cli, writing
from oneshot_core import inputs as opening
from oneshot_core.commands import resources
from oneshot_core.commands.console import ProgressBar
from oneshot_core.json_values import JsonError
from oneshot_core.recipe import Recipe
from oneshot_core.run_folder import RECORD, Run, RunError, record_values
from oneshot_core.saved_states import write_record
from oneshot_core.writing import MARK, claim

SAME = ("adapted.safetensors", "reference.safetensors", "grid.png", "run/state.safetensors")


@pytest.fixture(scope="module")
def light() -> Iterator[None]:
    """Encoders of a few numbers, and one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "_choice", lambda *_: TinyChoice())
        patch.setattr(resources, "usable_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def whole(files: dict[str, Path], light: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(adapt_words(files, out)) == 0
    return out


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def adapt_words(files: dict[str, Path], out: Path, *more: object) -> list[str]:
    words = ["adapt", "--generator", files["generator"], "--target", files["target"], "--out", out]
    short = ["--steps", 4, "--search-steps", 3, "--seeds", "0", "--device", "cpu", "--snapshot-every", 2]
    return [str(word) for word in (*words, *short, *more)]


def assert_same_files(one: Path, two: Path) -> None:
    for name in SAME:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


# Signals ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "code", "phase"),
    [("SIGTERM", 143, "search"), ("SIGHUP", 129, "adapt"), ("SIGINT", 130, "search")],
)
def test_each_ending_signal_saves_stops_and_the_same_command_goes_on(
    capsys: Any, files: Any, whole: Path, tmp_path: Path, monkeypatch: Any, number: str, code: int, phase: str
) -> None:
    update, shown = ProgressBar.update, []

    def interrupting(bar: ProgressBar, count: int, *more: Any) -> None:
        update(bar, count, *more)
        shown.append((bar.label, count))
        if (bar.label, count) == (phase, 2):
            os.kill(os.getpid(), getattr(signal, number))

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, "update", interrupting)
        assert cli.main(adapt_words(files, out)) == code
    told = capsys.readouterr().err
    assert "goes on from there" in told and "stopping after this step" in told
    assert shown[-1] == (phase, 2)
    assert not (out / "adapted.safetensors").exists()
    assert cli.main(adapt_words(files, out)) == 0
    assert_same_files(out, whole)


# Damage -----------------------------------------------------------------------------------------------


def flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 4]) + data[-8:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", flipped, lambda data: data[: len(data) // 2]],
    ids=["empty", "flipped", "cut"],
)
@pytest.mark.parametrize("name", ["adapted.safetensors", "reference.safetensors"])
def test_damaged_results_are_not_done_already(
    files: Any, whole: Path, done: Path, name: str, damage: Callable[[bytes], bytes], caplog: Any
) -> None:
    path = done / name
    path.write_bytes(damage(path.read_bytes()))
    if name == "reference.safetensors":
        (done / "adapted.safetensors").unlink()  # else nothing needs it
    assert cli.main(adapt_words(files, done)) == 0
    if name == "adapted.safetensors":  # the other is written anew from the state of the search
        assert f"set aside as {path.stem}.damaged.safetensors" in caplog.text
    assert_same_files(done, whole)


@pytest.mark.slow
def test_a_result_of_another_step_is_not_done_already(files: Any, whole: Path, done: Path) -> None:
    shutil.copy(done / "run" / "snapshots" / "step_000002.safetensors", done / "adapted.safetensors")
    assert cli.main(adapt_words(files, done)) == 0
    assert_same_files(done, whole)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data.replace(b'"step": 4', b'"step": 9')])
def test_a_damaged_record_gives_way_to_its_copy(
    capsys: Any, files: Any, done: Path, damage: Callable[[bytes], bytes], caplog: Any
) -> None:
    path = done / RECORD
    path.write_bytes(damage(path.read_bytes()))
    assert cli.main(adapt_words(files, done)) == 0
    assert "is done already" in capsys.readouterr().err and "set aside as run.damaged.json" in caplog.text
    path.write_bytes(b"")
    (done / "run" / RECORD).write_bytes(b"")
    assert cli.main(adapt_words(files, done)) == 2
    assert "--fresh" in capsys.readouterr().err


def run_at(folder: Path, **settings: Any) -> Run:
    run = Run(folder, Recipe.of({"training": {"steps": 4}}), {"a": 1, **settings}, named=True)
    run.make()
    return run


def test_damaged_records_end_in_one_kind_of_error(tmp_path: Path) -> None:
    """Blind damage, and odd values with a fitting checksum."""
    run = run_at(tmp_path)
    curves = {"search": {"a": [1.0]}, "adaptation": {"l": [1.0, float("nan"), 2.0, 3.0]}}
    run.record(4, curves, files={"x": "y"})
    path, copy = tmp_path / RECORD, tmp_path / "run" / RECORD
    sound, values = path.read_bytes(), json.loads(path.read_text())
    assert run.open()["losses"]["search"] == {"a": [1.0]}

    def read(at: Path) -> None:
        copy.write_bytes(b"")
        run.open()

    assert list(failures(read, sound, path, range(100), (RunError,))) == []
    for seed in range(100):
        odd = mutated_json(values, seed)
        if isinstance(odd, dict):
            write_record(path, odd)
            with suppress(RunError):
                read(path)


@pytest.mark.parametrize(
    "change", [{"step": -3}, {"step": 2}, {"losses": {"adaptation": {"x": [1.0]}}}, {"losses": []}], ids=str
)
def test_a_record_whose_parts_do_not_fit_is_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    run_at(tmp_path).record(4, {"adaptation": {"x": [1.0, float("nan"), 1.0, 1.0]}})
    values = json.loads((tmp_path / RECORD).read_text())
    del values["checksum"]
    write_record(tmp_path / RECORD, {**values, **change})
    with pytest.raises(JsonError):
        record_values(tmp_path / RECORD)


def test_a_run_that_did_nothing_gives_its_folder_up(tmp_path: Path) -> None:
    run_at(tmp_path, seed=1).record(0)
    assert run_at(tmp_path, seed=2).open() == {}
    (tmp_path / "reference.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match=r"other settings \(seed differ\)"):
        run_at(tmp_path, seed=2).open()


def test_fresh_leaves_nothing_of_the_earlier_run_and_all_else(done: Path) -> None:
    (done / "mine.txt").write_text("x")
    (done / "run" / "state.damaged.safetensors").write_text("x")
    run_at(done).clear()
    left = sorted(path.relative_to(done).as_posix() for path in done.rglob("*") if path.is_file())
    assert left == ["mine.txt"]


# Two processes, leftovers -----------------------------------------------------------------------------


def test_a_second_process_is_kept_out_and_leftovers_of_killed_ones_go(
    capsys: Any, files: Any, done: Path
) -> None:
    places = (done, done / "run", done / "run" / "snapshots")
    left = [place / f".state.0123456789ab{MARK}.safetensors" for place in places]
    for path in left:
        path.write_bytes(b"half")
    held = claim(done / f".in-use{MARK}")
    assert held is not None
    assert cli.main(adapt_words(files, done)) == 2
    assert "another process is at work in" in capsys.readouterr().err
    held.close()  # as when that process is killed
    assert cli.main(adapt_words(files, done)) == 0
    assert not [path for path in done.rglob("*") if MARK in path.name]


# Folders and disks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("/", "root of a disk"),
        ("FILE", "there is a file"),
        ("FILE/x", ""),
    ],
)
@pytest.mark.parametrize("verb", ["adapt", "search", "sample", "demo", "batch"])
def test_folders_that_are_none_are_refused(
    capsys: Any, files: Any, light: None, tmp_path: Path, verb: str, out: str, message: str
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps(
            {
                "format": "oneshot-batch",
                "format_version": 1,
                "jobs": [{"target": str(files["target"]), "generator": str(files["generator"])}],
            }
        )
    )
    words = {
        "adapt": ["--generator", files["generator"], "--target", files["target"]],
        "search": ["--generator", files["generator"], "--target", files["target"]],
        "sample": ["--generator", files["generator"], "--seeds", "0"],
        "demo": [],
        "batch": [plan],
    }[verb]
    name = out.replace("FILE", str(files["target"]))
    assert cli.main([verb, *map(str, words), "--out", name, "--device", "cpu"]) == 2
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("verb", ["adapt", "search", "sample", "convert", "batch"])
def test_a_full_disk_is_called_that(
    capsys: Any, files: Any, light: None, tmp_path: Path, monkeypatch: Any, verb: str, number: int
) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    plan, out = tmp_path / "plan.json", tmp_path / "out"
    jobs = [{"target": str(files["target"]), "generator": str(files["generator"]), "steps": 1}]
    plan.write_text(json.dumps({"format": "oneshot-batch", "format_version": 1, "jobs": jobs}))
    generator, target = files["generator"], files["target"]
    words: dict[str, list[object]] = {
        "adapt": ["adapt", "--generator", generator, "--target", target, "--out", out],
        "search": ["search", "--generator", generator, "--target", target, "--out", out, "--steps", 1],
        "sample": ["sample", "--generator", generator, "--seeds", 0, "--out", out],
        "convert": ["convert", generator, tmp_path / "new.safetensors"],
        "batch": ["batch", plan, "--out", out],
    }
    monkeypatch.setattr(writing.os, "fsync", full)
    more = [] if verb.startswith("convert") else ["--device", "cpu"]
    assert cli.main([str(word) for word in (*words[verb], *more)]) == 1
    told = capsys.readouterr().err
    assert ("the disk is full" if number == errno.ENOSPC else "read-only") in told
    assert told.splitlines()[-1].startswith("failed: ") and "Traceback" not in told
    assert not [path for path in tmp_path.rglob("*") if MARK in path.name]
