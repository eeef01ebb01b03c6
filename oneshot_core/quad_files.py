"""Files of quads: where in a photo an aligned picture lies, as JSON beside it."""

from __future__ import annotations

import json
from pathlib import Path

from .file_names import last_part
from .json_values import Fields, JsonError, read
from .quads import Quad
from .writing import atomic_path

FORMAT, FORMAT_VERSION = "oneshot-quad", 1


def save_quad(quad: Quad, path: Path | str, *, photo: str = "", found_by: str = "") -> Path:
    """Write a quad as JSON; atomic.

    Args:
        quad: what to write.
        path: final name, usually ending in .json.
        photo: name of the photo; its folders are left out.
        found_by: how it was found, for people.

    Returns:
        The path.
    """
    values = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "photo": last_part(photo) or "",
        "found_by": found_by,
        "quad": quad.values(),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return Path(path)


def load_quad(path: Path | str) -> Quad:
    """Read a file of `save_quad`.

    Raises:
        ValueError: no such file, no such JSON, or a quad that is none; the message names the file.
    """
    path = Path(path)
    try:
        values = Fields(read(path), "it")
        if values.text("format", "") != FORMAT or values.value("format_version", 1) != FORMAT_VERSION:
            raise JsonError(
                f'must have "format": "{FORMAT}" and "format_version": {FORMAT_VERSION}; `oneshot align` '
                "writes such files"
            )
        return Quad.of(values.value("quad"))
    except FileNotFoundError:
        raise ValueError(f"there is no quad {path}; `oneshot align` writes one beside each picture") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no quad that can be read: {error}") from error
