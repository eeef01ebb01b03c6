"""Opens files of unknown origin without running anything from them.

The only way into a torch file or a network pickle: the container is checked (`torchfile`), the pickle is
scanned against an exact allow-list and interpreted by an own machine (`pickles`), tensors are described with
checked bounds (`rebuild`, `stored`) and read when they are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..containers import START_BYTES, recognised, told
from . import pickles
from .rebuild import STORAGE_TYPES, Record, expect, object_rules, whole_object
from .stored import (
    ByteRange,
    CheckpointError,
    StoredTensor,
    UnsafePickleError,
    describe,
    naming,
    opened,
)
from .torchfile import nested_storages, read_legacy, read_zip, refuse_reference

__all__ = [
    "CheckpointError",
    "Contents",
    "UnsafePickleError",
    "container",
    "read_contents",
    "read_state_dict",
]

MAX_EXPANSION_BYTES = 640 * 1024**2  # a full-size network whose tensors repeat one number has 0.4 GB
KNOWN_FILES = (
    "allowed are this project's .safetensors, state dicts of StyleGAN2 generators (rosinality, NVIDIA, "
    "BasicSR, genforce, MMGeneration), NVIDIA .pkl of StyleGAN2 networks, and legacy TensorFlow .pkl"
)


@dataclass(frozen=True)
class Contents:
    """What a file holds: the container it uses and its object as inert data."""

    container: str  # "torch-zip", "torch-legacy" or "pickle"
    root: Any


def container(data: ByteRange) -> str:
    """Tell the container from the first bytes.

    Returns:
        "torch-zip", "torch-legacy", "pickle" or "safetensors".

    Raises:
        CheckpointError: none of these.
    """
    start = data.read(0, min(data.size, START_BYTES))
    found = recognised(start, data.size)
    if found is not None and found.name in ("torch-zip", "torch-legacy", "pickle", "safetensors"):
        return found.name
    if found is not None and found.name in ("zip", "torchscript"):  # told from all names, not from the first
        return "torch-zip"
    what = told(start, data.size, "a checkpoint", KNOWN_FILES)
    raise CheckpointError(what or f"begins like no known checkpoint; {KNOWN_FILES}")


def read_contents(data: ByteRange) -> Contents:
    """Read the object of a torch file or a network pickle; tensors are described, not read.

    Raises:
        UnsafePickleError: the file names or calls something outside the allow-list.
        CheckpointError: damaged, truncated, or no such file.
    """
    kind = container(data)
    if kind == "torch-zip":
        return Contents(kind, read_zip(data))
    if kind == "torch-legacy":
        return Contents(kind, read_legacy(data))
    if kind == "pickle":
        embedded = {("torch.storage", "_load_from_bytes"): nested_storages(data.size)}
        root, end = pickles.load(data, object_rules(refuse_reference, embedded, STORAGE_TYPES))
        if end != data.size:
            raise CheckpointError(
                f"{data.size - end} bytes follow the end of the pickle, where network files end; refused"
            )
        return Contents(kind, root)
    raise CheckpointError("a safetensors file where a torch file or a pickle was expected")


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Read a flat state dict from a torch file (either container) without running anything from it.

    Args:
        path: a file whose object is a dict of tensors, or a dict with such a dict under "state_dict".

    Returns:
        Contiguous tensors by name, in the dtypes of the file.

    Raises:
        CheckpointError: not such a file, damaged, or its tensors would need far more memory than it has.
        UnsafePickleError: it names or calls something outside the allow-list.
    """
    path = Path(path)
    with torch.inference_mode(False), naming(path), opened(path) as data:
        root = read_contents(data).root
        values = root.get("state_dict", root) if isinstance(root, dict) else root
        first = values[0] if isinstance(values, tuple | list) and values else values
        if isinstance(first, Record):
            raise whole_object(first)
        tensors = {}
        total = 0
        for key, value in expect(values, dict, "a state dict file").items():
            if not isinstance(key, str) or not isinstance(value, StoredTensor):
                raise CheckpointError(
                    f"holds {describe(value)} under {describe(key)}; expected are named tensors"
                )
            tensors[key] = value.source(key)
            total += tensors[key].numel * tensors[key].dtype.itemsize
        if total > data.size + MAX_EXPANSION_BYTES:
            raise CheckpointError(
                f"declares {total} bytes of tensors in a file of {data.size} bytes; refused"
            )
        return {key: source.read().contiguous() for key, source in tensors.items()}
