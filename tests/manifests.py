"""What a batch's manifest says, read without the engine: of each job its last line."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any


def lines_of(out: Path) -> list[dict[str, Any]]:
    """Every line of a job, in their order."""
    text = (out / "manifest.jsonl").read_text(encoding="utf-8")
    return [values for line in text.splitlines() if line and "job" in (values := json.loads(line))]


def manifest_of(out: Path) -> dict[str, dict[str, Any]]:
    """The last line of each job, by name."""
    return {line["job"]: line for line in lines_of(out)}


def with_checksum(values: dict[str, Any]) -> bytes:
    """A line as the engine writes it, of whatever values."""
    body = json.dumps(
        {name: one for name, one in values.items() if name != "checksum"}, separators=(",", ":")
    )
    return b'%s,"checksum":"%08x"}\n' % (body[:-1].encode(), zlib.crc32(body[:-1].encode()))
