"""numpy's files, read without numpy: one array (.npy) or a zip archive of them (.npz), within checked bounds.

Arrays of Python objects would need unpickling and are refused; nothing is decompressed beyond a limit.

Source: numpy's published description of the format (versions 1 to 3).
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import torch
from torch import Tensor

from .stored import MAX_DIMENSIONS, ByteRange, CheckpointError, Source, Storage, StoredTensor
from .torchfile import directory_place

MAX_MEMBERS = 4096
MAX_EXPANSION_BYTES = 24 * 1024**2  # that compressed members may have beyond the file's own size
_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 4096
_DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
_HEADER = re.compile(
    r"\{(?=.*'descr': *'(?P<order>[<>|=]?)(?P<kind>\w+)')(?=.*'fortran_order': *(?P<fortran>True|False)\b)"
    r"(?=.*'shape': *\((?P<shape>[\d, L]*)\)).*\}\s*",
    re.DOTALL,
)
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,  # encrypted; NotImplementedError for other compressions
    ValueError,
    OverflowError,
    KeyError,
)


def read_npy(data: ByteRange, name: str = "the array") -> Source:
    """Describe the array of a .npy file.

    Args:
        data: the whole file.
        name: for messages.

    Returns:
        The array, unread; big-endian numbers are turned when it is read.

    Raises:
        CheckpointError: no such file, an array of objects, texts or records, or one that is not all there.
    """
    shape, dtype, swapped, fortran, start = _header(data, name)
    numel = math.prod(shape)
    if numel * dtype.itemsize != data.size - start:
        raise CheckpointError(
            f"{name} declares {numel * dtype.itemsize} bytes and has {data.size - start}; it is truncated or "
            "damaged: copy or download it again"
        )
    storage = Storage(dtype, numel, data.part(start, data.size - start))
    source = StoredTensor(storage, 0, shape, _strides(shape, fortran)).source(name)
    return source.converted(shape, _turned) if swapped else source


def _header(data: ByteRange, name: str) -> tuple[tuple[int, ...], torch.dtype, bool, bool, int]:
    """Return shape, type, whether bytes are swapped, whether columns come first, and where numbers start."""
    start = data.read(0, min(data.size, 12))
    if not start.startswith(_MAGIC) or len(start) < 12 or start[6] not in (1, 2, 3):
        raise CheckpointError(f"{name} is no numpy array")
    wide = 4 if start[6] > 1 else 2
    length = int.from_bytes(start[8 : 8 + wide], "little")
    if length > _MAX_HEADER_BYTES:
        raise CheckpointError(f"{name} has a description of {length} bytes; plain arrays have about 100")
    text = data.read(8 + wide, length).decode("latin-1")
    found = _HEADER.fullmatch(text)
    kind = "" if found is None else found["kind"]
    if re.search(r"'descr': *('\|?O|\[)", text):
        raise CheckpointError(
            f"{name} holds Python objects or records, which only unpickling could read; where you trust the "
            "file, load it with numpy, take out the array of numbers, and save that with numpy.save"
        )
    if found is None or kind not in _DTYPES:
        raise CheckpointError(f"{name} is no array of plain numbers; allowed are {', '.join(_DTYPES)}")
    lengths = [part.strip(" L") for part in found["shape"].split(",") if part.strip(" L")]
    if len(lengths) > MAX_DIMENSIONS or any(not part.isdecimal() or len(part) > 18 for part in lengths):
        raise CheckpointError(f"{name} has a shape that no array of this program has")
    shape = tuple(int(part) for part in lengths)
    return shape, _DTYPES[kind], found["order"] == ">", found["fortran"] == "True", 8 + wide + length


def _strides(shape: tuple[int, ...], fortran: bool) -> tuple[int, ...]:
    order = shape if fortran else shape[::-1]
    steps = [math.prod(max(length, 1) for length in order[:place]) for place in range(len(order))]
    return tuple(steps if fortran else steps[::-1])


def _turned(tensor: Tensor) -> Tensor:
    return torch.from_numpy(tensor.contiguous().numpy().byteswap())


@contextmanager
def opened_npz(file: BinaryIO, data: ByteRange) -> Iterator[dict[str, Source]]:
    """Open a .npz file: its arrays by name, unread, valid inside the block.

    Args:
        file: the open file.
        data: the same as a range.

    Raises:
        CheckpointError: damaged, encrypted, compressed in another way than numpy does, or too large.
    """
    count, size, _ = directory_place(data)
    if count > MAX_MEMBERS or size > MAX_MEMBERS * 256:
        raise CheckpointError(f"holds {count} arrays; at most {MAX_MEMBERS} are read")
    try:
        with zipfile.ZipFile(file) as archive:
            left = data.size + MAX_EXPANSION_BYTES
            sources: dict[str, Source] = {}
            for entry in archive.infolist():
                left -= entry.file_size
                if left < 0:
                    raise CheckpointError(
                        f"declares more than {MAX_EXPANSION_BYTES // 1024**2} MiB beyond the size of the file"
                    )
                name = entry.filename.removesuffix(".npy")
                sources[name] = _member(archive, entry, name)
            yield sources
    except CheckpointError:
        raise
    except _ZIP_ERRORS as error:
        raise CheckpointError(
            f"is a damaged file of numpy arrays ({str(error)[:120]}); copy or download it again"
        ) from error


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> Source:
    """Describe an array of an archive; its numbers are decompressed when they are read."""
    shown = ascii(name[:40])
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
        raise CheckpointError(f"the array {shown} is encrypted or compressed in another way than numpy does")

    def read(limit: int) -> bytes:
        with archive.open(entry) as stream:
            return stream.read(limit)

    head = ByteRange.of_bytes(read(min(entry.file_size, _MAX_HEADER_BYTES + 12)))
    shape, dtype, _, _, start = _header(head, f"the array {shown}")
    if math.prod(shape) * dtype.itemsize != entry.file_size - start:  # before anything is decompressed
        raise CheckpointError(f"the array {shown} is truncated or damaged; copy or download the file again")

    def whole() -> Tensor:
        return read_npy(ByteRange.of_bytes(read(entry.file_size)), f"the array {shown}").read()

    return Source(name, shape, dtype, whole)
