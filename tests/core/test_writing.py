"""Files that are whole or not there, names that one writer at a time has, nothing left of killed writers."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oneshot_core import writing
from oneshot_core.writing import (
    MARK,
    WriteError,
    atomic_path,
    claim,
    explained,
    first_free,
    remove_stale_temporaries,
    set_aside,
)

ROOT = Path(__file__).parents[2]


@contextmanager
def other_process(program: str, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until it says that it is ready; it is killed at the end of the block."""
    lines = [sys.executable, "-c", f"import sys, time\nfrom pathlib import Path\n{program}", *map(str, words)]
    with subprocess.Popen(lines, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


WRITES = """
from oneshot_core.writing import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_path_leaves_only_the_final_file(tmp_path: Path) -> None:
    final = tmp_path / "new" / "file.txt"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent and temporary.suffix == ".txt"
        temporary.write_text("whole")
        assert not final.exists()
    assert final.read_text() == "whole"
    assert names(final.parent) == ["file.txt"]


def test_atomic_path_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    final = tmp_path / "file.txt"
    final.write_text("old")
    with pytest.raises(RuntimeError, match="disk"), atomic_path(final) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")
    assert final.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_atomic_path_keeps_the_file_before_under_another_name(tmp_path: Path) -> None:
    final, kept = tmp_path / "a", tmp_path / "b"
    for text in ("1", "2", "3"):
        with atomic_path(final, keep=kept) as temporary:
            temporary.write_text(text)
    assert (final.read_text(), kept.read_text()) == ("3", "2")


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_atomic_path_gives_the_usual_permissions(tmp_path: Path) -> None:
    usual, final = tmp_path / "usual", tmp_path / "atomic"
    usual.write_text("")
    with atomic_path(final) as temporary:
        temporary.write_text("")
    assert stat.S_IMODE(final.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_what_a_killed_writer_left_goes_at_the_next_start_and_what_is_being_written_stays(
    tmp_path: Path,
) -> None:
    with other_process(WRITES, tmp_path / "a.txt") as process:
        (half,) = tmp_path.iterdir()
        os.utime(half, (1, 1))  # however old: its writer lives
        assert remove_stale_temporaries(tmp_path) == [] and half.exists()
        process.kill()
        process.wait()
        assert remove_stale_temporaries(tmp_path) == [half]
    assert names(tmp_path) == []


def test_the_first_write_to_a_folder_removes_what_killed_writers_left(tmp_path: Path) -> None:
    with other_process(WRITES, tmp_path / "a.txt") as process:
        process.kill()
        process.wait()
    assert len(names(tmp_path)) == 1
    with atomic_path(tmp_path / "b.txt") as temporary:
        temporary.write_text("")
    assert names(tmp_path) == ["b.txt"]


def test_files_of_others_stay(tmp_path: Path) -> None:
    others = (".tmpAb12Cd", f"visible{MARK}", f".a{MARK}-note.txt.gz", ".state-abc.tmp.safetensors", ".lock")
    for name in others:
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / f".folder{MARK}").mkdir()
    (tmp_path / f".link{MARK}").symlink_to(tmp_path / others[0])
    assert remove_stale_temporaries(tmp_path) == []
    assert remove_stale_temporaries(tmp_path / "missing") == []
    assert len(names(tmp_path)) == len(others) + 2


def test_without_locks_only_age_tells_what_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_lock", lambda handle: None)
    new, old = tmp_path / f".new{MARK}", tmp_path / f".old{MARK}"
    for path in (new, old):
        path.write_text("")
    os.utime(old, (1, 1))
    assert remove_stale_temporaries(tmp_path) == [old]
    held = claim(tmp_path / "held")
    assert held is not None and claim(held.path) is None
    held.release()
    assert not held.path.exists()


def test_a_claim_excludes_others_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "held"
    program = """
from oneshot_core.writing import claim
held = claim(Path(sys.argv[1]))
print("ready" if held else "not", flush=True)
time.sleep(60)
"""
    with other_process(program, path) as process:
        assert claim(path) is None and claim(path, new=True) is None
        process.kill()
        process.wait()
        assert path.exists()  # of a dead process
        held = claim(path)
        assert held is not None and claim(path) is None
        held.release()
    assert not path.exists()
    held.release()  # twice does no harm


SAVES = """
from itertools import count
from oneshot_core.writing import first_free, atomic_path
print("ready", flush=True)
for _ in range(25):
    here = Path(sys.argv[1])
    start = len(list(here.glob("x_*.txt"))) + 1  # as ComfyUI counts
    with first_free(here / f"x_{n:05}_.txt" for n in count(start)) as path, atomic_path(path) as temporary:
        time.sleep(0.002)
        temporary.write_text(sys.argv[2])
"""


def test_fifty_saves_of_two_processes_leave_fifty_files(tmp_path: Path) -> None:
    with other_process(SAVES, tmp_path, "a") as first, other_process(SAVES, tmp_path, "b") as second:
        assert first.wait(60) == second.wait(60) == 0
    texts = [path.read_text() for path in sorted(tmp_path.iterdir())]
    assert len(texts) == 50 and texts.count("a") == texts.count("b") == 25


def test_a_name_is_free_again_when_nothing_was_written(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with first_free(paths) as first, first_free(paths) as second:
        assert (first.name, second.name) == ("a", "b")
        with pytest.raises(FileExistsError), first_free(paths):
            pass
    paths[0].write_text("")
    with first_free(paths) as third:
        assert third.name == "b"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EFBIG, "no file of that size"),
    ],
)
def test_what_the_disk_refuses_is_said_in_words_with_the_final_name(
    tmp_path: Path, number: int, words: str
) -> None:
    with pytest.raises(WriteError, match=words) as caught, atomic_path(tmp_path / "file.bin"):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path / "file.bin") in str(caught.value) and caught.value.errno == number
    assert names(tmp_path) == []


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), explained(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_a_damaged_file_is_set_aside_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state.bin"
    for text in ("1", "2"):
        path.write_text(text)
        assert set_aside(path, "it is empty") == tmp_path / "state.damaged.bin"
    assert names(tmp_path) == ["state.damaged.bin"] and (tmp_path / "state.damaged.bin").read_text() == "2"
    assert "set aside as state.damaged.bin: it is empty" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the limit of file sizes")
def test_a_limit_of_file_sizes_leaves_no_broken_file(tmp_path: Path) -> None:
    """Every writer of the engine, in a process that may write 3000 bytes to a file."""
    program = f"""
import resource
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch
from oneshot_core.checkpoints import CheckpointError, save
from oneshot_core.latent_files import save_latent
from oneshot_core.latents import Latent
from oneshot_core.pictures import save_png
from oneshot_core.saved_states import write_record
from oneshot_core.writing import WriteError
from tiny_networks import tiny_bundle

bundle, out = tiny_bundle(16), Path(sys.argv[1])
print("ready", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for work in (
    lambda: save(bundle, out / "a.pt", format="rosinality"),
    lambda: save(bundle, out / "a.safetensors"),
    lambda: save_png(torch.rand(1, 3, 64, 64), out / "a.png"),
    lambda: save_latent(Latent("w", torch.zeros(9, 512)), out / "latent.safetensors"),
    lambda: write_record(out / "a.json", {{"x": "y" * 9000}}),
):
    try:
        work()
    except WriteError as error:
        assert "no file of that size" in str(error), error
    else:
        raise AssertionError("it was written")
"""
    with other_process(program, tmp_path) as process:
        assert process.wait(60) == 0
    assert names(tmp_path) == []


def test_a_process_that_is_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    program = """
from oneshot_core.writing import atomic_path
n = 0
while True:
    n += 1
    with atomic_path(Path(sys.argv[1]), keep=Path(sys.argv[1] + ".before")) as temporary:
        temporary.write_text(f"{n}\\n" * 2000)
    if n == 1:
        print("ready", flush=True)
"""
    for delay in (0.01, 0.03, 0.05):
        with other_process(program, tmp_path / "a") as process:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
        remove_stale_temporaries(tmp_path)
        found = [path.read_text().split() for path in tmp_path.iterdir()]
        assert found and all(len(lines) == 2000 and len(set(lines)) == 1 for lines in found)
