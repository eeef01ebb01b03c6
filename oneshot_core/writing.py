"""Writing files: whole or not at all, one writer at a time, and nothing left behind when a writer is killed.

What is under way has a hidden name with `.oneshot-tmp` before its suffix and is locked by its writer. The
lock lies in the kernel and ends with the process, however that ends: whoever can take it knows that the
writer is gone and may remove the file. Where a file system knows no locks, such files count as left behind
after a day, by the file server's clock. docs/scale.md says what holds on network file systems.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

log = logging.getLogger(__name__)

MARK = ".oneshot-tmp"
POLL_SECONDS = 0.2  # between two looks whether a file is free
SWEEP_SECONDS = 600.0  # between two looks for leftovers in a folder that this process writes to
UNLOCKED_SECONDS = 86400.0  # age of what counts as left behind where locks are unknown
_LOCKED_BYTE = 1 << 40  # on Windows a locked byte cannot be written; none of ours is there
_WORDS = {
    errno.ENOSPC: "the disk is full (No space left on device); free some space",
    errno.EDQUOT: "the quota of disk space is used up; free some space",
    errno.EFBIG: "the file system, or the limit of this process (ulimit -f), allows no file of that size",
    errno.EROFS: "it lies on a read-only file system; choose another place",
    errno.EACCES: "permission denied; change its permissions, or choose another place",
    errno.EPERM: "permission denied; change its permissions, or choose another place",
}
_OURS = re.compile(rf"\..+{re.escape(MARK)}(\.[^.]*)?")
_swept: dict[str, float] = {}  # folder: when this process looked for leftovers in it


class WriteError(OSError):
    """A file could not be written; the text names it and says in words why."""

    def __str__(self) -> str:
        return str(self.strerror)


def in_words(error: OSError) -> str | None:
    """Say why the disk refused something: full, read-only, not permitted; None for any other reason."""
    return _WORDS.get(error.errno or 0)


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn a disk's refusal within the block into a WriteError that names `path`; others pass through."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        reason = in_words(error)
        if reason is None:
            raise
        raise WriteError(error.errno, f"{path} cannot be written: {reason}") from error


# Claims -----------------------------------------------------------------------------------------------


class Claim:
    """A file that this process holds; see `claim`."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self._handle: int | None = handle

    def close(self) -> None:
        """Give the lock up and leave the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def release(self) -> None:
        """Remove the file and give the lock up."""
        if os.name == "nt":  # an open file cannot be removed there, nor one that another process waits for
            self.close()
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        elif self._handle is not None:
            with suppress(OSError):
                if _is_at(self.path, self._handle):
                    self.path.unlink(missing_ok=True)
            self.close()


def claim(path: Path, new: bool = False) -> Claim | None:
    """Hold a file, made for that purpose, against all other processes and threads; never waits.

    Args:
        path: of the file; its folder exists.
        new: only when there is no file of that name, not even one that a killed process left.

    Returns:
        The claim, to be released; None where another one holds it.

    Raises:
        OSError: the file cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    while True:
        made = True
        try:
            handle = os.open(path, flags | os.O_EXCL, 0o666)
        except FileExistsError:
            if new:
                return None
            made, handle = False, os.open(path, flags, 0o666)
        if not _take(handle, path, fresh=made):
            os.close(handle)
            return None
        if _is_at(path, handle):
            return Claim(path, handle)
        os.close(handle)  # the last holder removed the file meanwhile


@contextmanager
def holding(path: Path, poll: Callable[[], None] | None = None) -> Iterator[Claim]:
    """Hold a file during a block; wait while another process or thread holds it.

    Args:
        path: of the file; its folder exists.
        poll: called while it is waited for; may raise to give up.
    """
    while (held := claim(path)) is None:
        time.sleep(POLL_SECONDS)
        if poll is not None:
            poll()
    try:
        yield held
    finally:
        held.release()


def _take(handle: int, path: Path, fresh: bool) -> bool:
    """Lock an open file, or, where that is impossible, tell by its age whether it is still in use."""
    locked = _lock(handle)
    if locked is None:
        return fresh or _time_in(path.parent) - os.fstat(handle).st_mtime > UNLOCKED_SECONDS
    return locked


def _time_in(folder: Path) -> float:
    """The time by the clock that dates a folder's files: a file server's differs from this machine's."""
    probe = folder / f".{secrets.token_hex(6)}{MARK}"
    handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.utime(probe)  # now, as the server has it
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        with suppress(OSError):
            probe.unlink()


def _lock(handle: int) -> bool | None:
    """Lock an open file; False where another one holds it, None where the file system knows no locks."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return True


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def first_free(candidates: Iterable[Path]) -> Iterator[Path]:
    """Take the first of several names that no file has and no other process is about to give to one.

    Args:
        candidates: final names in order; their folders are made.

    Yields:
        The name, held until the block ends; the block writes the file.

    Raises:
        FileExistsError: none is free.
    """
    for path in candidates:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            held = claim(path.with_name(f".{path.name[:40]}.{_short(path.name)}{MARK}"))
        if held is None:
            continue
        try:
            if not os.path.lexists(path):
                yield path
                return
        finally:
            held.release()
    raise FileExistsError(errno.EEXIST, "none of the possible names is free")


def _short(name: str) -> str:
    """A fixed mark of a name that may be too long to be kept."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]


# Leftovers --------------------------------------------------------------------------------------------


def remove_stale_temporaries(folder: Path) -> list[Path]:
    """Remove what killed writers left in a folder, never what another process is still writing.

    Returns:
        What was removed; nothing where the folder is missing or may not be changed.
    """
    removed = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            ours = _OURS.fullmatch(entry.name) is not None
            if ours and entry.is_file(follow_symlinks=False) and _remove_unheld(Path(entry.path)):
                removed.append(Path(entry.path))
    return removed


def _remove_unheld(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return False
    stale = _take(handle, path, fresh=False) and _is_at(path, handle)
    if stale:
        Claim(path, handle).release()
        return not path.exists()
    os.close(handle)
    return False


def _sweep(folder: Path) -> None:
    """Look for leftovers before the first write to a folder, and in long runs every ten minutes."""
    now, key = time.monotonic(), os.fspath(folder)
    if now - _swept.get(key, float("-inf")) > SWEEP_SECONDS:
        _swept[key] = now
        remove_stale_temporaries(folder)


# Whole files ------------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: Path | str, keep: Path | None = None) -> Iterator[Path]:
    """Write a file so that its final name never holds half of it.

    Args:
        path: final name; its folder is made when it is missing. What killed writers left in it is removed.
        keep: name that an existing file gets when the new one is complete; None: it is replaced.

    Yields:
        A temporary path in the same folder. After the block file and folder are flushed to disk, the file
        under its final name; when the block raises it is removed and the final name is untouched.

    Raises:
        WriteError: the disk is full, read-only or not permitted; the message names the final path.
    """
    final = Path(path)
    with explained(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        held = None
        while held is None:
            name = f".{final.stem[:40]}.{secrets.token_hex(6)}{MARK}{final.suffix}"
            held = claim(final.with_name(name), new=True)
        try:
            yield held.path
            with open(held.path, "rb+") as file:
                os.fsync(file.fileno())
            if os.name == "nt":  # an open file cannot be renamed there
                held.close()
            if keep is not None and final.is_file():
                rename_patiently(final, keep)
            rename_patiently(held.path, final)
            _flush_folder(final.parent)
        finally:
            held.path.unlink(missing_ok=True)
            held.close()


def _flush_folder(folder: Path) -> None:
    """Write a folder's names to disk, where the system can: else a new file could vanish with the power."""
    if os.name == "nt":
        return
    with suppress(OSError):  # some network file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def rename_patiently(old: Path, new: Path, tries: int = 20) -> None:
    """Rename a file, over an existing one too, or a folder; wait where Windows refuses for a moment.

    Virus scanners and indexers hold new files open for some milliseconds, and Windows then denies renaming.

    Raises:
        OSError: it is still refused after a second.
    """
    for left in reversed(range(tries)):
        try:
            os.replace(old, new)
            return
        except PermissionError:
            if os.name != "nt" or not left:
                raise
            gc.collect()  # a failed read may still hold the file in its traceback
            time.sleep(0.05)


def check_was_read(reason: object) -> None:
    """Raise what the disk's refusal to read has caused: what was not read may be sound, if later.

    Args:
        reason: why something counts as damaged; a stale handle of a network drive, permissions or a failing
            cable are none.
    """
    cause, seen = reason, set[int]()
    while isinstance(cause, BaseException) and id(cause) not in seen:  # some are their own cause
        if isinstance(cause, OSError):
            raise cast("BaseException", reason)
        seen.add(id(cause))
        cause = cause.__cause__


def set_aside(path: Path, reason: object) -> Path:
    """Rename a damaged file to `<stem>.damaged<suffix>`, over an earlier one; returns that name.

    Raises:
        Exception: the reason, where the disk only refused to read; see `check_was_read`.
    """
    check_was_read(reason)
    aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
    rename_patiently(path, aside)
    log.warning("%s is damaged and was set aside as %s: %s", path, aside.name, reason)
    return aside
