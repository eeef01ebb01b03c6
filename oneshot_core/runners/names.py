"""File names that work on every system: what a plan's jobs and a server's files may be called here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection

MAX_NAME = 100
MAX_NAME_BYTES = 200  # some file systems take 255, some less
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\..*)?", re.I)
_NOT_ALLOWED = '<>:"|?*/\\'


def is_reserved(name: str) -> bool:
    """Tell whether Windows means a device by this name, whatever its ending."""
    return _RESERVED.fullmatch(name) is not None


def same(name: str) -> str:
    """What two names have in common that a file system may take for one: case and composition of letters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def cut(name: str) -> str:
    """Shorten a name to what file systems take; its ending stays."""
    stem, dot, ending = name.rpartition(".")
    if not dot or len(ending) > 15:
        stem, ending = name, ""
    room = MAX_NAME_BYTES - len(f".{ending}".encode())
    kept = stem[:MAX_NAME].encode()[:room].decode("utf-8", "ignore").rstrip(" .")
    return f"{kept}.{ending}" if ending else kept


def safe_name(text: str) -> str:
    """Make a job's name, or a part of one, from a file's."""
    name = cut(re.sub(r"[^\w .+-]", "-", text).strip(" .-")[:MAX_NAME]) or "job"
    return f"_{name}" if is_reserved(name) else name


def local_name(name: str, taken: Collection[str]) -> str:
    """Make a name of a file of one's own from a name that a server uses.

    Args:
        name: without a folder; anything else in it is replaced.
        taken: names that are used already.

    Returns:
        A name that no system refuses or takes for a device, and that differs from the taken ones by more
        than case.
    """
    used = {same(one) for one in taken}
    return free_name(name, lambda chosen: same(chosen) not in used)


def free_name(name: str, take: Callable[[str], bool]) -> str:
    """Make a name of a file of one's own as `local_name` does.

    Args:
        name: without a folder; anything else in it is replaced.
        take: takes a name, or returns False where it is used already.
    """
    kept = "".join("_" if c in _NOT_ALLOWED or not c.isprintable() else c for c in name)
    kept = cut(kept.lstrip(". ").rstrip(". ") or "file")
    if is_reserved(kept):
        kept = f"_{kept}"
    number, chosen = 1, kept
    while not take(chosen):
        number += 1
        chosen = f"{number}_{kept}"
    return chosen
