"""Fingerprints of input files: what ComfyUI compares to know whether a node must run again.

ComfyUI writes them into every picture and file that a workflow saves, so that they say nothing but whether
the content is the same: no folder, no user's name, no time.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

DIGITS = 32
_BLOCK_BYTES = 1 << 20
_known: dict[str, tuple[tuple[int, int, int], str]] = {}  # by path: size, times of change, stamp


def stamp(path: Path) -> str:
    """Return a hash of a file's content, which is read again only where its size or time of change differs.

    Args:
        path: a file; 380 MB take half a second the first time.

    Returns:
        32 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    status = path.stat()
    state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    kept = _known.get(str(path))
    if kept is not None and kept[0] == state:
        return kept[1]
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    _known[str(path)] = (state, digest.hexdigest()[:DIGITS])
    return _known[str(path)][1]
