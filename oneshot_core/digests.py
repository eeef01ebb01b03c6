"""Hashes of JSON values and of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY_DIGITS = 32  # hex digits
_BLOCK_BYTES = 1 << 20


def digest(values: Any) -> str:
    """SHA-256 in hex of JSON values; the order of keys does not matter."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def settings_key(settings: Mapping[str, Any]) -> str:
    """Name of what JSON values determine: the first 32 hex digits of their `digest`."""
    return digest(settings)[:KEY_DIGITS]


def file_sha256(path: Path) -> str:
    """SHA-256 in hex of a file; 380 MB take half a second.

    Raises:
        OSError: it cannot be read.
    """
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found.update(block)
    return found.hexdigest()
