"""Bounded views of a file and the tensors described in it: nothing is read before its bounds are known."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

MAX_TENSOR_BYTES = 2 * 1024**3  # the largest tensor of any known network file has about 0.3 GB
MAX_DIMENSIONS = 8


class CheckpointError(ValueError):
    """A file that cannot be used: what was found, what is allowed and what to do are in the message."""


class UnsafePickleError(CheckpointError):
    """A file that asks for something outside the allow-list, such as calling a foreign function."""


class Bytes(Protocol):
    """Raw bytes of one storage, wherever they lie."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on."""


class ByteRange:
    """Part of an open file, read by absolute bounds that are checked first."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self.size = file, start, size

    @classmethod
    def of_bytes(cls, data: bytes) -> ByteRange:
        """View bytes in memory."""
        return cls(io.BytesIO(data), 0, len(data))

    def part(self, offset: int, size: int) -> ByteRange:
        """View `size` bytes from `offset` on; raises CheckpointError when they are not all there."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise CheckpointError(
                f"the file declares {size} bytes at position {offset} of a part that has {self.size} bytes; "
                "it is truncated or damaged: copy or download it again"
            )
        return ByteRange(self._file, self._start + offset, size)

    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes from `offset` on; raises CheckpointError when they are not all there."""
        self.part(offset, size)  # before the buffer is made
        data = bytearray(size)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on, without a copy in between."""
        part = self.part(offset, len(buffer))
        self._file.seek(part._start)
        done = 0
        while done < len(buffer):
            count = self._file.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not count:
                raise CheckpointError("the file became shorter while it was read; copy it again")
            done += count


class Latin1Bytes:
    """Bytes that a protocol 2 pickle stores as text, one character per byte; decoded when read."""

    def __init__(self, text: ByteRange | str) -> None:
        self._text = text
        self.max_size = text.size if isinstance(text, ByteRange) else len(text)

    def decoded(self) -> bytes:
        """Return the bytes."""
        try:
            if isinstance(self._text, str):
                return self._text.encode("latin-1")
            return self._text.read(0, self._text.size).decode("utf-8").encode("latin-1")
        except UnicodeError as error:
            raise CheckpointError(f"binary data stored as text is damaged: {error}") from error

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on."""
        ByteRange.of_bytes(self.decoded()).read_into(offset, buffer)


@dataclass
class Storage:
    """A flat run of numbers in a file; `data` may become known later than the tensors that view it."""

    dtype: torch.dtype
    numel: int
    data: Bytes | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Source:
    """A tensor that can be read when it is needed, under the name the file gives it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def reshaped(self, *shape: int) -> Source:
        """The same numbers in another shape of equal size."""
        if math.prod(shape) != self.numel:
            raise CheckpointError(f"{self.name} has shape {list(self.shape)}, which cannot become {shape}")
        return self.converted(tuple(shape), lambda tensor: tensor.reshape(shape))

    def converted(self, shape: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> Source:
        """The tensor after `change`, which yields `shape`."""
        read = self.read
        return Source(self.name, shape, self.dtype, lambda: change(read()))


@dataclass(frozen=True)
class StoredTensor:
    """A strided view of a storage; its bounds were checked, nothing was read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_DIMENSIONS:
            raise CheckpointError(
                f"a tensor declares {len(self.shape)} sizes and {len(self.strides)} strides; "
                f"allowed are equally many, at most {MAX_DIMENSIONS}"
            )
        if self.offset < 0 or min((*self.shape, *self.strides, 0)) < 0:
            raise CheckpointError("a tensor declares a negative offset, size or stride")
        # the largest size is looked at alone: beside a 0 it would vanish from the product
        if max((math.prod(self.shape), *self.shape)) * self.storage.dtype.itemsize > MAX_TENSOR_BYTES:
            raise CheckpointError(
                f"a tensor declares shape {list(self.shape)}; "
                f"at most {MAX_TENSOR_BYTES // 1024**3} GiB per tensor are allowed"
            )
        if self.offset + self.extent > self.storage.numel:
            raise CheckpointError(
                f"a tensor of shape {list(self.shape)} and strides {list(self.strides)} at offset "
                f"{self.offset} does not fit its storage of {self.storage.numel} elements"
            )

    @property
    def extent(self) -> int:
        """Number of storage elements from the first to the last that the view touches."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))

    def read(self) -> Tensor:
        """Read the numbers; the result may be an expanded view of fewer numbers than its shape says."""
        if self.storage.data is None:
            raise CheckpointError("the file declares a tensor but holds no data for it")
        raw = torch.empty(self.extent * self.storage.dtype.itemsize, dtype=torch.uint8)
        if raw.numel():
            position = self.offset * self.storage.dtype.itemsize
            self.storage.data.read_into(position, raw.numpy().data)
        # a step along one element or none is never taken, and may be a number that torch cannot hold
        steps = [step if size > 1 else 1 for size, step in zip(self.shape, self.strides, strict=True)]
        return raw.view(self.storage.dtype).as_strided(self.shape, steps if raw.numel() else [1] * len(steps))

    def source(self, name: str) -> Source:
        """The tensor under the name that the file gives it."""
        return Source(name, self.shape, self.storage.dtype, self.read)


def describe(value: Any) -> str:
    """Say in a user's words what a value is; never walks into it, since nested values can be endless."""
    if isinstance(value, StoredTensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)[:60]
    if isinstance(value, dict | list | tuple | set):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Storage | ByteRange | Latin1Bytes):
        return "raw data"
    return getattr(value, "described", "an object")


@contextmanager
def opened(path: Path) -> Iterator[ByteRange]:
    """Open a file for bounded reading; raises CheckpointError when it is missing, empty or a folder."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = file.seek(0, io.SEEK_END)
            if size == 0:
                raise CheckpointError("the file is empty (0 bytes); copy or download it again")
            yield ByteRange(file, 0, size)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}; check the path") from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name in front of every CheckpointError that leaves the block."""
    try:
        yield
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from error
