"""Writing safetensors files tensor by tensor, with a checksum of each, and checking them when they are read.

The format is simple enough to be written here: eight bytes of length, a JSON header, the raw numbers. Written
so, a file needs no second copy of its tensors in memory, leaves no temporary of the library's behind when the
process is killed, and has the same bytes for the same content; the library's order of metadata is random.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

import torch
from torch import Tensor

from .stored import CheckpointError

CHECKSUMS = "oneshot_crc32"  # metadata: 8 hex digits for the header's text, then 8 per tensor, names sorted
STORED_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
READ_TYPES = {  # what files of other programs hold beside these
    **STORED_TYPES,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
}
_TYPE_NAMES = {dtype: name for name, dtype in STORED_TYPES.items()}
_DIGITS = 8
_ALIGNMENT = 8  # of the first number in the file, as the library's own writer has it


def checksum(name: str, tensor: Tensor) -> str:
    """CRC-32 of a tensor's name, type, shape and bytes, as 8 hex digits."""
    start = zlib.crc32(f"{name}|{tensor.dtype}|{list(tensor.shape)}".encode())
    return f"{zlib.crc32(_bytes_of(tensor), start):08x}"


def text_checksum(text: str) -> str:
    """CRC-32 of a text, as 8 hex digits."""
    return f"{zlib.crc32(text.encode()):08x}"


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def write_file(
    file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], checked: str
) -> None:
    """Write a safetensors file with checksums.

    Args:
        file: open for writing, empty, seekable.
        tensors: any device; copied to the CPU one at a time.
        metadata: texts of the header.
        checked: key of the metadata whose text gets a checksum, too.

    Raises:
        ValueError: a tensor of a type that is not stored.
        OSError: the file cannot be written.
    """
    strange = sorted({str(tensor.dtype) for tensor in tensors.values()} - set(map(str, _TYPE_NAMES)))
    if strange:
        raise ValueError(
            f"tensors of type {strange[0]} cannot be stored; allowed are {', '.join(STORED_TYPES)}"
        )
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # keeps all aligned
    sums = dict.fromkeys(order, "0" * _DIGITS)

    def header() -> bytes:
        digits = text_checksum(metadata[checked]) + "".join(sums[name] for name in sorted(sums))
        return _header(order, tensors, {**metadata, CHECKSUMS: digits})

    file.write(header())
    for name in order:
        value = tensors[name].detach().cpu().contiguous()  # one copy for checksum and file
        sums[name] = checksum(name, value)
        file.write(_bytes_of(value))
    file.seek(0)
    file.write(header())  # of the same length


def _header(order: Sequence[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in order:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.dtype.itemsize
        place = {
            "dtype": _TYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        entries[name], offset = place, end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def stored_checksums(metadata: Mapping[str, str], names: Iterable[str], checked: str) -> dict[str, str]:
    """Read the checksums of a file and check that of its header's text.

    Args:
        metadata: texts of the file's header.
        names: of the tensors in the file.
        checked: key of the text that has a checksum.

    Returns:
        One for each tensor; empty for files without, such as those of other programs.

    Raises:
        CheckpointError: they belong to other tensors, or to another text.
    """
    digits = metadata.get(CHECKSUMS)
    if digits is None:
        return {}
    parts = [digits[start : start + _DIGITS] for start in range(0, len(digits), _DIGITS)]
    ordered = sorted(names)
    if len(parts) != len(ordered) + 1 or parts[0] != text_checksum(metadata.get(checked, "")):
        raise CheckpointError(f"{DAMAGED}: its header is not the one that was written")
    return dict(zip(ordered, parts[1:], strict=True))


DAMAGED = "is damaged, or another program changed it"


def check_sum(name: str, tensor: Tensor, wanted: str | None) -> Tensor:
    """Return a tensor that was read, if its checksum is the stored one; raises CheckpointError."""
    if wanted is not None and checksum(name, tensor) != wanted:
        raise CheckpointError(f"{DAMAGED}: {name[:80]} does not hold the numbers that were written")
    return tensor
