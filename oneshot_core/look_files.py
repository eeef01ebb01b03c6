"""Files of looks: one safetensors file of one tensor, at most 40,000 bytes at 1024 px.

The offsets of all layers stand behind each other in the tensor "offsets"; the header says how many belong to
which layer, and in a few short texts where they came from. No recipe is kept: it would be as large again.
"""

from __future__ import annotations

from pathlib import Path

import torch

from .checkpoints import CheckpointError, naming, write_tensors
from .checkpoints.native import check_kind, opened_file
from .checkpoints.stored import Source
from .json_values import Fields, JsonError
from .looks import MAX_STEPS, Look
from .tensors import owned

FORMAT, FORMAT_VERSION = "oneshot-look", 1
MAX_LAYERS = 64  # 26 at 1024 px, 3 more for each doubling
MAX_NUMBERS = 1_000_000
_TENSOR = "offsets"


def save_look(look: Look, path: Path | str) -> Path:
    """Write a look; atomic. With the 9,088 numbers of StyleGAN2 at 1024 px it has fewer than 40,000 bytes.

    Args:
        look: what to write.
        path: final name, usually ending in .safetensors.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "widths": list(look.widths),
        "name": look.name,
        "family": look.family,
        "source": look.source,
        "target": look.target,
        "method": look.method,
        "steps": look.steps,
    }
    offsets = torch.cat([offset.detach().cpu().float() for offset in look.offsets])
    return write_tensors(path, {_TENSOR: offsets}, header)


def load_look(path: Path | str) -> Look:
    """Read a file of `save_look`.

    Returns:
        Float32 on the CPU.

    Raises:
        CheckpointError: missing, damaged, not finite, or no look; the message says what was found.
    """
    path = Path(path)
    with naming(path), opened_file(path) as (sources, header):
        check_kind(header, FORMAT, FORMAT_VERSION, "look", "make")
        try:
            return _read(sources.get(_TENSOR), Fields(header, "the header"), len(sources))
        except CheckpointError:
            raise
        except (JsonError, ValueError) as error:
            raise CheckpointError(f"is a damaged look ({error}); make it again") from error


def _read(source: Source | None, header: Fields, tensors: int) -> Look:
    if source is None or tensors != 1:
        raise JsonError(f"it must hold the tensor {_TENSOR!r} and no other")
    widths = header.items("widths", MAX_LAYERS)
    if not widths or not all(type(width) is int and 0 < width <= MAX_NUMBERS for width in widths):
        raise JsonError("the header: widths must be a list of positive whole numbers")
    if source.dtype != torch.float32 or source.shape != (sum(widths),) or source.numel > MAX_NUMBERS:
        raise JsonError(
            f"its offsets are {source.dtype} of shape {list(source.shape)}, the header has {sum(widths)} "
            "numbers of float32"
        )
    texts = {name: header.text(name) for name in ("name", "family", "source", "target", "method")}
    steps = header.whole("steps", 0, MAX_STEPS)
    return Look(tuple(owned(source.read()).split(widths)), steps=steps, **texts)
