"""Files of directions: one safetensors file, vectors, deviations and means by slot or style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints import CheckpointError, naming, write_tensors
from ..checkpoints.native import check_kind, opened_file
from ..edit_files import read_vectors, read_widths, short_text, vector_tensors
from ..json_values import Fields, JsonError
from .direction import KINDS, TEXTS, Direction

FORMAT, FORMAT_VERSION = "oneshot-direction", 1
_PARTS = ("vectors", "sigma", "mean")


def save_direction(direction: Direction, path: Path | str) -> Path:
    """Write a direction; atomic.

    Args:
        direction: what to write.
        path: final name, usually ending in .safetensors.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": direction.kind,
        "widths": list(direction.widths),
        **{name: getattr(direction, name) for name in TEXTS},
    }
    tensors = dict[str, Tensor]()
    for part in _PARTS:
        tensors |= vector_tensors(part, getattr(direction, part))
    return write_tensors(path, tensors, header)


def load_direction(path: Path | str) -> Direction:
    """Read a file of `save_direction`.

    Returns:
        Float32 on the CPU.

    Raises:
        CheckpointError: missing, damaged, not finite, or no direction; the message says what was found.
    """
    path = Path(path)
    with naming(path), opened_file(path) as (sources, header):
        check_kind(header, FORMAT, FORMAT_VERSION, "direction", "make")
        fields, names = Fields(header, "the header"), set[str]()
        try:
            widths = read_widths(fields)
            parts = {part: read_vectors(part, widths, sources, names) for part in _PARTS}
            if set(sources) != names:
                raise JsonError(f"it holds another tensor: {sorted(set(sources) - names)[0]!r}")
            texts = {name: short_text(fields, name) for name in TEXTS}
            known: dict[str, Any] = {**parts, **texts, "widths": widths}
            return Direction(fields.text("kind", choices=KINDS), **known)
        except CheckpointError:
            raise
        except (JsonError, ValueError) as error:
            raise CheckpointError(f"is a damaged direction ({error}); make it again") from error
