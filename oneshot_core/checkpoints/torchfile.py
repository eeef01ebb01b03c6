"""The two containers of torch files, read without torch: the zip archive and the older row of pickles.

Only the directory and the object pickle are read here; tensors stay in the file until they are wanted.

Source: checkpoints.md F.3; zip per the published ZIP file format (central directory, ZIP64 extensions).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from ..containers import LEGACY_TORCH_START as LEGACY_START
from ..containers import archive
from . import pickles
from .pickles import Global, Rules
from .rebuild import STORAGE_TYPES, expect, object_rules
from .stored import ByteRange, CheckpointError, Latin1Bytes, Storage, UnsafePickleError, describe

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
ZIP_START = b"PK\x03\x04"
_LEGACY_PROTOCOL = 1001
_SMALL_STREAM = 100  # instructions in a file's header and in an embedded storage; real ones have 30
_EMBEDDED = Rules(tokens=frozenset(STORAGE_TYPES), max_opcodes=_SMALL_STREAM)
_MODULE_SIZE = 4  # of a reference to a module's class; those to storages have 5 or 6 parts
_MAX_MEMBERS = 20_000
_MAX_DIRECTORY_BYTES = 8 * 1024**2
_U16, _U32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True)
class _Member:
    """One file of the archive."""

    name: str
    header: int  # position of its local header
    size: int
    plain: bool  # neither compressed nor encrypted


def read_zip(data: ByteRange) -> Any:
    """Read the object of a zip torch file.

    Returns:
        Dicts, lists, numbers and `StoredTensor` values.

    Raises:
        CheckpointError: damaged, compressed, duplicate or misplaced members; TorchScript archives.
        UnsafePickleError: the object names something outside the allow-list.
    """
    members = {member.name: member for member in _directory(data)}
    prefix = _archive_name(members)
    if f"{prefix}/byteorder" in members:
        order = _contents(data, members[f"{prefix}/byteorder"])
        if order.size > 16 or order.read(0, order.size) != b"little":
            raise CheckpointError("the torch file is not little-endian; save it again on an ordinary machine")

    def storage(reference: Any) -> Storage:
        found, key, _ = _storage_reference(reference)
        member = members.get(f"{prefix}/data/{key}")
        if member is None or member.size != found.nbytes:
            raise CheckpointError(
                f"storage {key[:20]!r} declares {found.nbytes} bytes, the archive holds "
                f"{'none' if member is None else member.size}; the file is damaged or hostile"
            )
        found.data = _contents(data, member)
        return found

    stream = _contents(data, members[f"{prefix}/data.pkl"])
    return pickles.load(stream, object_rules(_once(storage), tokens=STORAGE_TYPES))[0]


def read_legacy(data: ByteRange, rules: Rules | None = None) -> Any:
    """Read the object of a torch file of the format before 1.6; see `read_zip`.

    Args:
        data: the whole file.
        rules: names it may use, None for those of any torch file.
    """
    position = _legacy_header(data)
    rules = rules or object_rules(_nothing, tokens=STORAGE_TYPES)
    storages: dict[str, Storage] = {}

    def storage(reference: Any) -> Storage | Global:
        if _is_class(reference):
            return reference[1]
        found, key, view = _storage_reference(reference)
        if view is not None:
            raise CheckpointError(
                "the file has storage views (torch 0.3 or older); save it again with torch >= 1"
            )
        known = storages.setdefault(key, found)
        if (known.dtype, known.numel) != (found.dtype, found.numel):
            raise CheckpointError(f"storage {key[:20]!r} is declared twice with different sizes")
        return known

    root, position = pickles.load(data, replace(rules, persistent=storage), position)
    keys, position = pickles.load(data, Rules(max_opcodes=rules.max_opcodes), position)
    for key in expect(keys, list, "list of storages"):
        if not isinstance(key, str) or key not in storages:
            raise CheckpointError(f"the list of storages names {describe(key)}, which no tensor uses")
        entry = storages[key]
        numel = struct.unpack("<q", data.read(position, 8))[0]
        if numel != entry.numel:
            raise CheckpointError(f"a storage has {numel} elements where {entry.numel} were declared")
        entry.data = data.part(position + 8, entry.nbytes)
        position += 8 + entry.nbytes
    return root


def _nothing(_: Any) -> None:
    """Stand in the place of the storages until they are known."""


def refuse_reference(reference: Any) -> None:
    """Refuse a pickle that refers to data outside of it where there is none.

    Raises:
        CheckpointError: it is the list of tensors out of an unpacked torch file.
        UnsafePickleError: it is something else.
    """
    try:
        _storage_reference(reference)
    except CheckpointError:
        raise UnsafePickleError(
            "the pickle refers to data outside of it, which only torch files may do"
        ) from None
    raise CheckpointError(
        "is the list of tensors out of an unpacked torch file (data.pkl), without the tensors: such a file "
        "must stay one archive. Give the .pt or .pth file itself, as it was downloaded"
    )


def nested_storages(max_bytes: int) -> Callable[[Any], Storage]:
    """Make the reader of storages that a network pickle embeds, each a complete old-format torch file.

    Args:
        max_bytes: how much embedded data there can be in all, the size of the file; without this bound a
            small file could have the same data read endlessly often.
    """
    left = [max_bytes]

    def storage(blob: Any) -> Storage:
        size = blob.max_size if isinstance(blob, Latin1Bytes) else expect(blob, ByteRange, "tensor data").size
        left[0] -= size
        if left[0] < 0:
            raise CheckpointError("the pickle embeds more tensor data than the file has; it is hostile")
        return _nested_storage(blob)

    return storage


def _nested_storage(blob: ByteRange | Latin1Bytes) -> Storage:
    data = ByteRange.of_bytes(blob.decoded()) if isinstance(blob, Latin1Bytes) else blob
    if data.size < len(LEGACY_START) or data.read(0, len(LEGACY_START)) != LEGACY_START:
        raise CheckpointError("embedded tensor data is not in the expected torch format; the file is damaged")
    return expect(read_legacy(data, _EMBEDDED), Storage, "embedded tensor data")


def _once(make: Any) -> Any:
    """Keep one storage per key, so that tensors that share memory share it here too."""
    known: dict[Any, Storage] = {}

    def storage(reference: Any) -> Storage:
        found, key, _ = _storage_reference(reference)
        identity = (key, found.dtype, found.numel)
        if identity not in known:
            known[identity] = make(reference)
        return known[identity]

    return storage


def _storage_reference(reference: Any) -> tuple[Storage, str, Any]:
    """Check ('storage', type, key, location, number of elements[, view]); return storage, key and view."""
    values = expect(reference, tuple, "reference to a storage")
    if len(values) not in (5, 6) or values[0] != "storage" or not isinstance(values[1], Global):
        raise CheckpointError(f"the pickle refers to data as {describe(values)}, not as a torch storage")
    kind = STORAGE_TYPES.get((values[1].module, values[1].name))
    if kind is None:
        raise CheckpointError(f"storages of type {values[1].name} are not supported")
    key = expect(values[2], str, "key of a storage")
    numel = expect(values[4], int, "size of a storage")
    if numel < 0:
        raise CheckpointError(f"a storage declares {numel} elements")
    return Storage(kind, numel), key, values[5] if len(values) == 6 else None


def _is_class(reference: Any) -> bool:
    """Whether a reference is ("module", class, file, source), for which the name of the class stands."""
    return (
        type(reference) is tuple
        and len(reference) == _MODULE_SIZE
        and reference[0] == "module"
        and type(reference[1]) is Global
    )


def _legacy_header(data: ByteRange) -> int:
    """Check magic number, protocol and byte order; return the position of the object."""
    rules = Rules(max_opcodes=_SMALL_STREAM)
    magic, position = pickles.load(data, rules)
    protocol, position = pickles.load(data, rules, position)
    system, position = pickles.load(data, rules, position)
    if magic != LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
        raise CheckpointError("the header of the old torch format is damaged")
    if expect(system, dict, "system description").get("little_endian") is not True:
        raise CheckpointError("the torch file is not little-endian; save it again on an ordinary machine")
    return position


def _archive_name(members: Collection[str]) -> str:
    """Find the folder that holds `data.pkl`; raises CheckpointError for archives of another kind."""
    prefixes = [name[: -len("/data.pkl")] for name in members if name.endswith("/data.pkl")]
    if len(prefixes) != 1 or "/" in prefixes[0]:
        found = archive(sorted(members))
        if found.name == "torch-zip":
            raise CheckpointError("a torch archive without exactly one data.pkl; it is damaged or repacked")
        raise CheckpointError(f"is {found.what}, not a torch file; {found.advice or 'give the .pt itself'}")
    return prefixes[0]


def _refuse_script(names: set[str]) -> None:
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            "a TorchScript archive (it contains program code); convert it once to a plain state dict or to "
            "safetensors where you trust it"
        )


def _directory(data: ByteRange) -> list[_Member]:
    """Read and check the central directory: names are unique, members stored plainly and apart."""
    count, size, start = directory_place(data)
    if count > _MAX_MEMBERS or size > _MAX_DIRECTORY_BYTES:
        raise CheckpointError(f"the archive declares {count} members; at most {_MAX_MEMBERS} are allowed")
    raw = data.part(start, size).read(0, size)
    members, position = [], 0
    for _ in range(count):
        member, position = _member(raw, position)
        members.append(member)
    if len({member.name for member in members}) != len(members):
        raise CheckpointError("the archive holds two members of the same name; it is damaged or hostile")
    _refuse_script({member.name for member in members})
    _archive_name([member.name for member in members])  # of another program's archive say that first
    for member in members:
        if not member.plain:
            raise CheckpointError(
                f"member {member.name[:60]!r} of the archive is compressed or encrypted; torch stores its "
                "files as they are, this one was packed by something else: unpack and save it again"
            )
    ordered = sorted(members, key=lambda member: member.header)
    ends = [member.header for member in ordered[1:]] + [start]
    for member, end in zip(ordered, ends, strict=True):
        if _data_start(data, member) + member.size > end:
            raise CheckpointError(
                f"member {member.name[:60]!r} declares {member.size} bytes, more than the file has for it; "
                "the file is truncated, damaged or hostile"
            )
    return members


def directory_place(data: ByteRange) -> tuple[int, int, int]:
    """Return number of members, size and position of the central directory."""
    tail_start = max(0, data.size - 66_000)
    tail = data.read(tail_start, data.size - tail_start)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < 22:
        raise CheckpointError(
            "a zip archive without its directory at the end; the file is truncated: copy or download it again"
        )
    count, size, start = struct.unpack("<10xHLL2x", tail[found : found + 22])
    if count == _U16 or size == _U32 or start == _U32:
        locator = tail[max(0, found - 20) : found]
        if len(locator) != 20 or locator[:4] != b"PK\x06\x07":
            raise CheckpointError("the directory of the zip archive is damaged (no ZIP64 locator)")
        record = data.read(struct.unpack("<8xQ4x", locator)[0], 56)
        if record[:4] != b"PK\x06\x06":
            raise CheckpointError("the directory of the zip archive is damaged (no ZIP64 record)")
        count, size, start = struct.unpack("<32xQQQ", record)
    return count, size, start


def _member(raw: bytes, position: int) -> tuple[_Member, int]:
    """Read one entry of the central directory; return it and the position behind it."""
    if raw[position : position + 4] != b"PK\x01\x02" or len(raw) - position < 46:
        raise CheckpointError("the directory of the zip archive is damaged")
    fields = struct.unpack("<8xHH8xLLHHH8xL", raw[position : position + 46])
    flags, method, packed, size, name_length, extra_length, comment_length, header = fields
    names = position + 46
    name = raw[names : names + name_length].decode("utf-8", "replace")
    extra = raw[names + name_length : names + name_length + extra_length]
    size, packed, header = _with_zip64(extra, size, packed, header)
    plain = method == 0 and not flags & 1 and packed == size
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        raise CheckpointError(f"the archive holds a member named {name[:60]!r}, which points outside of it")
    return _Member(name, header, size, plain), names + name_length + extra_length + comment_length


def _with_zip64(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Replace the values that did not fit 32 bits by those of the ZIP64 field."""
    values = [size, packed, header]
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[position : position + 4])
        if kind == 1:
            field = extra[position + 4 : position + 4 + length]
            wide = [value == _U32 for value in values]
            if len(field) < 8 * sum(wide):
                raise CheckpointError("the directory of the zip archive is damaged (short ZIP64 field)")
            numbers = iter(struct.unpack(f"<{sum(wide)}Q", field[: 8 * sum(wide)]))
            values = [next(numbers) if big else value for big, value in zip(wide, values, strict=True)]
        position += 4 + length
    return values[0], values[1], values[2]


def _data_start(data: ByteRange, member: _Member) -> int:
    """Position of a member's bytes, behind its local header."""
    local = data.read(member.header, 30)
    if local[:4] != ZIP_START:
        raise CheckpointError(
            f"member {member.name[:60]!r} of the archive has no header; the file is damaged"
        )
    name_length, extra_length = struct.unpack("<26xHH", local)
    return member.header + 30 + int(name_length) + int(extra_length)


def _contents(data: ByteRange, member: _Member) -> ByteRange:
    return data.part(_data_start(data, member), member.size)
