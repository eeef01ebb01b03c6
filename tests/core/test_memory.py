"""Which errors mean that memory was not enough, how much is free, what is refused before it is taken."""

from __future__ import annotations

import ctypes
import errno
import sys

import pytest
import torch

from oneshot_core import memory
from oneshot_core.memory import available_bytes, check_memory, is_out_of_memory

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 125829120000 bytes. Error code 12 (Cannot allocate memory)"
)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class SafetensorError(Exception):
    """Named as safetensors'."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError(CPU),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        SafetensorError("Error: Cannot allocate memory (os error 12)"),
        OutOfMemoryError("whatever it says"),
    ],
)
def test_lack_of_memory_is_recognised_also_as_a_cause(error):
    assert is_out_of_memory(error)
    wrapped = ValueError("the file could not be read")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory.png is not a picture"),
        FileNotFoundError(errno.ENOENT, "No such file", "out of memory.png"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        KeyError("memory"),
    ],
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)


def test_a_cause_that_leads_back_to_itself_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_out_of_memory(first)


def test_what_torch_really_raises_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_the_smaller_of_machine_and_container_is_available(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:   5000 kB\n")
    assert available_bytes(tmp_path, meminfo) == 5000 * 1024
    for name, value in {
        "max": "4096000",
        "current": "3000000",
        "stat": "anon 1\ninactive_file 500000\n",
    }.items():
        (tmp_path / f"memory.{name}").write_text(value)
    assert available_bytes(tmp_path, meminfo) == 4096000 - 3000000 + 500000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path, meminfo) == 5000 * 1024


def test_the_old_layout_of_containers_is_read(tmp_path):
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("1000")
    (folder / "memory.usage_in_bytes").write_text("400")
    (folder / "memory.stat").write_text("cache 5\n")
    assert available_bytes(tmp_path, tmp_path / "none") == 600


def test_this_machine_tells():
    free = available_bytes()
    assert free is None or 10_000_000 < free < 2**50


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 2_000_000_000)
    check_memory(2_000_000_000, "pictures", "draw fewer")
    with pytest.raises(
        ValueError, match=r"not enough memory: pictures need 126.0 GB, but 2.0 GB are free; draw fewer"
    ):
        check_memory(126_000_000_000, "pictures", "draw fewer")
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    check_memory(10**18, "pictures", "draw fewer")


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch) -> None:
    assert isinstance(memory.keep_freed_memory(), bool)
    asked: list[tuple[int, int]] = []

    class Library:
        @staticmethod
        def mallopt(which: int, value: int) -> int:
            asked.append((which, value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    monkeypatch.setattr(sys, "platform", "linux")
    assert memory.keep_freed_memory() and asked == [(-3, 2**31 - 1), (-1, 2**31 - 1)]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()  # musl
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
