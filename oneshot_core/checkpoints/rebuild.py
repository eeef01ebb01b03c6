"""What stands behind the allowed names of a pickle: checked tensors, arrays, numbers and inert records.

None of torch's or numpy's own rebuild functions is used: the real ones trust sizes from the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch

from ..texts import printable
from .opcodes import LongText
from .pickles import Global, Inert, Name, Rules, scalar
from .stored import (
    MAX_DIMENSIONS,
    ByteRange,
    CheckpointError,
    Latin1Bytes,
    Storage,
    StoredTensor,
    describe,
)

_Value = TypeVar("_Value")

# fmt: off
STORAGE_TYPES = {
    ("torch", "FloatStorage"): torch.float32,   ("torch", "HalfStorage"): torch.float16,
    ("torch", "DoubleStorage"): torch.float64,  ("torch", "BFloat16Storage"): torch.bfloat16,
    ("torch", "LongStorage"): torch.int64,      ("torch", "IntStorage"): torch.int32,
    ("torch", "ShortStorage"): torch.int16,     ("torch", "CharStorage"): torch.int8,
    ("torch", "ByteStorage"): torch.uint8,      ("torch", "BoolStorage"): torch.bool,
    ("torch", "ComplexFloatStorage"): torch.complex64, ("torch", "ComplexDoubleStorage"): torch.complex128,
}
_NUMPY_TYPES = {  # numpy's name: (torch type, layout of one number)
    "f2": (torch.float16, "<e"), "f4": (torch.float32, "<f"), "f8": (torch.float64, "<d"),
    "i1": (torch.int8, "<b"),    "i2": (torch.int16, "<h"),   "i4": (torch.int32, "<i"),
    "i8": (torch.int64, "<q"),   "u1": (torch.uint8, "<B"),   "b1": (torch.bool, "<?"),
}
# fmt: on
TF_NETWORK = "dnnlib.tflib.network.Network"
_PERSISTENT: Name = ("torch_utils.persistence", "_reconstruct_persistent_obj")
NDARRAY: Name = ("numpy", "ndarray")
# torch's data types and activation functions, which modules keep as attributes; tokens here
NAMES_AS_VALUES: frozenset[Name] = frozenset(
    [("torch", str(dtype).removeprefix("torch.")) for dtype in STORAGE_TYPES.values()]
    + [("torch.nn.functional", name) for name in ("relu", "gelu", "silu", "leaky_relu", "softplus")]
)
MAX_KIND = 200  # characters of a class's name that are kept
_IN_WORDS: dict[type, str] = {
    dict: "a dict", list: "a list", tuple: "a tuple", str: "a text", int: "a whole number",
    Storage: "the data of a tensor", StoredTensor: "a tensor", Latin1Bytes: "bytes", ByteRange: "bytes",
}  # fmt: skip
_MAX_SET = 32
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


class Record(Inert):
    """An object of the file as data: the name of its class and its attributes. It has no behaviour."""

    def __init__(self, kind: str, state: dict[str, Any] | None = None) -> None:
        self.kind = printable(kind[:MAX_KIND])
        self.state: dict[str, Any] = {} if state is None else state

    @property
    def described(self) -> str:  # type: ignore[override]
        """What it is, in a user's words."""
        return f"an object of the class {self.kind}"

    def build(self, state: Any) -> None:
        """Take the attributes."""
        self.state = expect(state, dict, f"state of {self.kind}")


class ForeignRecord(Record):
    """An object of a class that no supported layout has; whatever the file sets or adds is kept or dropped.

    It may stand where nothing is read. Where a tensor or a generator is expected it is refused.
    """

    takes_items = True

    def build(self, state: Any) -> None:
        """Take the attributes if they are a dict, as those of torch's modules are."""
        self.state = state if type(state) is dict else {}


def expect(value: Any, kind: type[_Value], what: str) -> _Value:
    """Return the value if it is exactly of that type (a bool is no int); raises CheckpointError otherwise."""
    if type(value) is not kind:
        raise CheckpointError(f"{what} must be {_IN_WORDS.get(kind, kind.__name__)}, found {describe(value)}")
    return value


def whole_object(record: Record) -> CheckpointError:
    """Say that an object was saved where its tensors are needed, and what to save instead."""
    if record.kind == TF_NETWORK:
        return CheckpointError(
            f"holds a TensorFlow network ({record.described}) where tensors of torch are needed; give its "
            "weights as a torch or safetensors file"
        )
    return CheckpointError(
        f"holds a whole module ({record.described}), which only the code of that program could use; in that "
        "program save its tensors, torch.save(model.state_dict(), 'name.pt'), and load that file"
    )


def sizes(value: Any, what: str) -> tuple[int, ...]:
    """Return a tuple of whole numbers; raises CheckpointError otherwise."""
    values: tuple[Any, ...] = expect(value, tuple, what)
    if len(values) > MAX_DIMENSIONS:
        raise CheckpointError(f"{what} has {len(values)} entries; at most {MAX_DIMENSIONS} are allowed")
    return tuple(expect(item, int, what) for item in values)


def rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = None,
    hooks: Any = None,
    meta: Any = None,
) -> StoredTensor:
    """Describe a tensor of a torch file; offset, sizes and strides are checked against its storage."""
    return StoredTensor(
        expect(storage, Storage, "storage of a tensor"),
        expect(offset, int, "offset of a tensor"),
        sizes(size, "shape of a tensor"),
        sizes(stride, "strides of a tensor"),
    )


def rebuild_parameter(data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> StoredTensor:
    """Describe a parameter: the tensor, without its flag and its attributes."""
    return expect(data, StoredTensor, "data of a parameter")


def new_dict() -> dict[Any, Any]:
    """Make an empty plain dict where the file has an ordered or attribute dict; it is filled item by item."""
    return {}


def rebuild_set(items: Any) -> set[Any]:
    """Make a set of a few texts and numbers; protocols up to 3 store the names of unsaved buffers so."""
    values: list[Any] = expect(items, list, "items of a set")
    if len(values) > _MAX_SET:
        raise CheckpointError(
            f"the pickle makes a set of {len(values)} items; at most {_MAX_SET} are allowed"
        )
    return {scalar(item) for item in values}


def encode(text: Any, encoding: Any) -> Latin1Bytes:
    """Turn the text form that protocol 2 uses for binary data back into bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointError(f"the pickle encodes text as {describe(encoding)}; only latin1 is allowed")
    if isinstance(text, LongText):
        return Latin1Bytes(text.utf8)
    return Latin1Bytes(expect(text, str, "binary data stored as text"))


class NumpyType(Inert):
    """A numpy data type: plain little-endian numbers only."""

    described = "a numpy data type"

    def __init__(self, name: Any, align: Any = False, copy: Any = True) -> None:
        text: str = expect(name, str, "numpy data type")
        self.name = text.lstrip("<|=")
        if self.name not in _NUMPY_TYPES:
            raise CheckpointError(
                f"the pickle holds numpy data of type {text[:20]!r}; allowed are {', '.join(_NUMPY_TYPES)}"
            )

    def build(self, state: Any) -> None:
        """Check the byte order; nothing else of the state has a meaning for plain numbers."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", "|", "="):
            raise CheckpointError(f"numpy byte order {describe(order)} is not supported; allowed is '<'")

    @property
    def dtype(self) -> torch.dtype:
        """The torch type of the same numbers."""
        return _NUMPY_TYPES[self.name][0]

    @property
    def layout(self) -> str:
        """Layout of one number for `struct`."""
        return _NUMPY_TYPES[self.name][1]


def numpy_scalar(dtype: Any, data: Any) -> float | int | bool:
    """Read one number."""
    kind = expect(dtype, NumpyType, "type of a numpy number")
    raw = data.read(0, min(data.size, 16)) if isinstance(data, ByteRange) else _text_bytes(data)
    if len(raw) != struct.calcsize(kind.layout):
        raise CheckpointError(f"a numpy number of type {kind.name} has {len(raw)} bytes")
    value: float | int | bool = struct.unpack(kind.layout, raw)[0]
    return value


def _text_bytes(data: Any) -> bytes:
    text = expect(data, Latin1Bytes, "bytes of a numpy number")
    return text.decoded() if text.max_size <= 32 else b""


class NumpyArray(Inert):
    """An array of the file; `tensor` describes it once its state is known."""

    described = "a numpy array"

    def __init__(self) -> None:
        self.tensor: StoredTensor | None = None

    def build(self, state: Any) -> None:
        """Take (version, shape, type, Fortran order?, data)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise CheckpointError(f"a numpy array of the pickle has the state {describe(state)}")
        self.fill(state[1], state[2], bool(state[3]), state[4])

    def fill(self, shape: Any, dtype: Any, fortran: bool, data: Any) -> None:
        """Describe the numbers; shape and type must match the bytes."""
        kind = expect(dtype, NumpyType, "type of a numpy array")
        lengths = sizes(shape, "shape of a numpy array")
        numel = 1
        for length in lengths:
            numel *= length
        storage = Storage(kind.dtype, numel, _array_bytes(data, numel * kind.dtype.itemsize))
        self.tensor = StoredTensor(storage, 0, lengths, _dense_strides(lengths, fortran))


def _array_bytes(data: Any, expected: int) -> ByteRange | Latin1Bytes:
    if isinstance(data, Latin1Bytes):
        if not expected <= data.max_size <= 2 * expected:  # one or two bytes of UTF-8 per byte of data
            raise CheckpointError(f"a numpy array needs {expected} bytes and does not have them")
        return data
    raw = expect(data, ByteRange, "data of a numpy array")
    if raw.size != expected:
        raise CheckpointError(f"a numpy array needs {expected} bytes, the file has {raw.size} for it")
    return raw


def _dense_strides(shape: tuple[int, ...], fortran: bool) -> tuple[int, ...]:
    steps, step = [], 1
    for length in shape if fortran else shape[::-1]:
        steps.append(step)
        step *= max(length, 1)
    return tuple(steps if fortran else steps[::-1])


def numpy_array(kind: Any, shape: Any, code: Any) -> NumpyArray:
    """Make an array that waits for its state; a size at this point is never needed."""
    if kind != Global(*NDARRAY) or shape != (0,):
        raise CheckpointError(
            f"the pickle makes a numpy array as {describe(kind)} with shape {describe(shape)}; "
            "only empty arrays that are filled afterwards are allowed"
        )
    return NumpyArray()


def numpy_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> NumpyArray:
    """Make an array the way protocol 5 stores it."""
    array = NumpyArray()
    array.fill(shape, dtype, order == "F", data)
    return array


def numpy_calls() -> dict[Name, Callable[..., Any]]:
    """The allowed numpy functions, under their old and new module names."""
    calls: dict[Name, Callable[..., Any]] = {("numpy", "dtype"): NumpyType, ("_codecs", "encode"): encode}
    for module in _MULTIARRAY:
        calls[module, "scalar"] = numpy_scalar
        calls[module, "_reconstruct"] = numpy_array
    for module in _NUMERIC:
        calls[module, "_frombuffer"] = numpy_from_buffer
    return calls


def torch_calls() -> dict[Name, Callable[..., Any]]:
    """The allowed functions of any file that holds torch tensors."""
    return {
        ("collections", "OrderedDict"): new_dict,
        ("builtins", "set"): rebuild_set,
        ("__builtin__", "set"): rebuild_set,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): rebuild_parameter,
        ("torch", "Size"): lambda shape: sizes(shape, "torch.Size"),
    }


def persistent_object(description: Any) -> Record:
    """Take class name and attributes of a module of NVIDIA's; its source code is not even decoded."""
    values: dict[Any, Any] = expect(description, dict, "description of a module")
    if values.get("type") != "class":
        raise CheckpointError(f"the file describes a module of type {describe(values.get('type'))}")
    name = expect(values.get("class_name"), str, "class name of a module")
    return Record(name, expect(values.get("state"), dict, f"state of {name[:80]!r}"))


def object_calls() -> dict[Name, Callable[..., Any]]:
    """The allowed functions of files that hold objects: tensors, arrays, NVIDIA's modules, paths, devices."""
    calls = {**torch_calls(), **numpy_calls(), _PERSISTENT: persistent_object}
    for module, name in (("torch", "device"), ("pathlib", "PosixPath"), ("pathlib", "WindowsPath")):
        calls[module, name] = lambda *_, kind=f"{module}.{name}": Record(kind)
    return calls


def object_makes() -> dict[Name, Callable[[], Any]]:
    """The allowed classes of such files."""
    return {
        ("argparse", "Namespace"): lambda: Record("argparse.Namespace"),
        ("dnnlib.util", "EasyDict"): new_dict,
        ("dnnlib.tflib.network", "Network"): lambda: Record(TF_NETWORK),
    }


def object_rules(
    persistent: Callable[[Any], Any],
    calls: Mapping[Name, Callable[..., Any]] | None = None,
    tokens: Iterable[Name] = (),
) -> Rules:
    """Names of files that hold networks, tensors and settings (checkpoints.md A to C).

    Args:
        persistent: turns a reference into a storage of the file.
        calls: further functions.
        tokens: further names that only occur as values.
    """
    return Rules(
        calls={**object_calls(), **(calls or {})},
        makes=object_makes(),
        tokens=NAMES_AS_VALUES | {NDARRAY} | frozenset(tokens),
        persistent=persistent,
        foreign=ForeignRecord,
    )
