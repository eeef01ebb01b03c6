"""Memory: how much is free, what is refused before it is taken, which errors mean that it was not enough."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_SIGNS = (  # in messages of errors that have no type of their own
    "out of memory",  # torch on CUDA, ROCm, MPS and XPU
    "can't allocate memory",  # torch on the CPU
    "not enough memory",  # torch on the CPU of Windows
    "cannot allocate memory",
    "std::bad_alloc",
    "_status_alloc_failed",  # CUDA's libraries
    "os error 12)",  # the same of the operating system, as safetensors says it
)
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, as glibc's malloc.h numbers them


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error, or the one that caused it, means that memory was not enough."""
    return any(_says_so(one) for one in _with_causes(error))


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    for _ in range(8):
        if current is None:
            return
        yield current
        current = current.__cause__


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ValueError):  # refused input, whose text may quote anything, such as a file's name
        return False
    text = str(error).lower()
    return any(sign in text for sign in _SIGNS)


def available_bytes(cgroup: Path = _CGROUP, meminfo: Path = _MEMINFO) -> int | None:
    """Estimate how much main memory this process can still take without swapping.

    Args:
        cgroup: folder of the container's limits (Linux).
        meminfo: the kernel's account (Linux).

    Returns:
        Bytes; None where the system does not tell.
    """
    if sys.platform == "win32":
        return _available_on_windows()
    limits = [
        value for value in (_available_to_all(meminfo), _available_in_container(cgroup)) if value is not None
    ]
    if limits:
        return min(limits)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # macOS has no such number
        return None


def _available_to_all(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _available_in_container(cgroup: Path) -> int | None:
    """What a container's limit leaves, counting files kept in memory as free; None without a limit."""
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most = int((cgroup / limit).read_text(encoding="ascii"))
            taken = int((cgroup / usage).read_text(encoding="ascii"))
            stat = (cgroup / limit).with_name("memory.stat").read_text(encoding="ascii")
        except (OSError, ValueError):  # no such file, or "max"
            continue
        files = [int(line.split()[1]) for line in stat.splitlines() if line.startswith("inactive_file ")]
        return max(0, most - taken + sum(files))
    return None


def _available_on_windows() -> int | None:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((f"value{index}", ctypes.c_ulonglong) for index in range(7)),
        )

    status = Status()
    status.length = ctypes.sizeof(Status)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - other systems have no such name
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return int(status.value1)  # ullAvailPhys


def keep_freed_memory() -> bool:
    """Let the C library keep large blocks that are freed for what is asked for next, in all of this process.

    It gives them back to the system else, and takes them anew with every page cleared: on a CPU that was 10 %
    of a training step in bfloat16 and 6 % in float32 (256 px, two threads), at the same peak. For processes
    that do nothing else.

    Returns:
        Whether the C library has such a setting (glibc).
    """
    import ctypes

    if not sys.platform.startswith("linux"):
        return False
    setting = getattr(ctypes.CDLL(None), "mallopt", None)
    # Blocks from that size on are mapped one by one; so much may lie free at the end.
    return setting is not None and all(
        setting(which, 2**31 - 1) for which in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)
    )


def check_memory(needed_bytes: int, what: str, lower: str) -> None:
    """Refuse work whose result alone does not fit, before any of it is done.

    Args:
        needed_bytes: main memory that it takes.
        what: the work in the user's words, such as "10000 pictures of 1024 px as one batch".
        lower: what to change so that it fits.

    Raises:
        ValueError: with both numbers and what to lower. Nothing is refused where the system does not tell.
    """
    free = available_bytes()
    if free is not None and needed_bytes > free:
        raise ValueError(
            f"not enough memory: {what} need {told_bytes(needed_bytes)}, but "
            f"{told_bytes(free)} are free; {lower}"
        )


def told_bytes(count: int) -> str:
    """Say a size in words, such as 1.5 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def one_line(error: BaseException) -> str:
    """Say an error in one line: its message, or its kind where it has none; lack of memory is called that."""
    text = " ".join(str(error).split()) or type(error).__name__
    if is_out_of_memory(error) and not text.lower().startswith("out of memory"):
        return f"out of memory ({text})"
    return text
