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
from .pickles import Rules
from .rebuild import NDARRAY, Record, expect, new_dict, numpy_calls, torch_calls
from .stored import (
    ByteRange,
    CheckpointError,
    StoredTensor,
    UnsafePickleError,
    describe,
    naming,
    opened,
)
from .torchfile import nested_storages, read_legacy, read_zip

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
    "allowed are this project's .safetensors, rosinality-style .pt, NVIDIA stylegan2-ada or "
    "stylegan3-repository .pkl with StyleGAN2 networks, and legacy TensorFlow StyleGAN2 .pkl"
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
        root, end = pickles.load(data, _network_rules(data.size))
        if end != data.size:
            raise CheckpointError(
                f"{data.size - end} bytes follow the end of the pickle, where network files end; refused"
            )
        return Contents(kind, root)
    raise CheckpointError("a safetensors file where a torch file or a pickle was expected")


def _network_rules(file_bytes: int) -> Rules:
    """Names used by NVIDIA's and by the legacy TensorFlow network pickles (checkpoints.md B.2 and C)."""
    return Rules(
        calls={
            **torch_calls(),
            **numpy_calls(),
            ("torch.storage", "_load_from_bytes"): nested_storages(file_bytes),
            ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
        },
        makes={
            ("dnnlib.util", "EasyDict"): new_dict,
            ("dnnlib.tflib.network", "Network"): lambda: Record("dnnlib.tflib.network.Network"),
        },
        tokens=frozenset({NDARRAY}),
    )


def _persistent_object(description: Any) -> Record:
    """Take class name and attributes of a module; its embedded source code is not even decoded."""
    values: dict[Any, Any] = expect(description, dict, "description of a module")
    if values.get("type") != "class":
        raise CheckpointError(f"the file describes a module of type {describe(values.get('type'))}")
    name = expect(values.get("class_name"), str, "class name of a module")
    return Record(name, expect(values.get("state"), dict, f"state of {name}"))


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
