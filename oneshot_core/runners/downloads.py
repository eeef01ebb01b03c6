"""Files fetched from a server: to a temporary name, looked into, and only then under their own name."""

from __future__ import annotations

import hashlib
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from ..checkpoints import CheckpointError, inspect
from ..latent_files import load_latent
from ..pictures.files import FORMATS
from ..writing import atomic_path
from .transfer import ComfyError, plain

MAX_BYTES = 4 * 1024**3  # ten times the largest generator with its discriminator
GENERATORS, LATENTS = "generators", "latents"  # kinds under which this pack's nodes report files
OWN_ENDINGS = {GENERATORS: (".safetensors", ".pt"), LATENTS: (".safetensors", ".latent")}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
MEDIA = (
    ".mp4", ".webm", ".mkv", ".mov", ".avi", ".mp3", ".wav", ".flac", ".ogg", ".opus", ".m4a",
    ".txt", ".json", ".csv", ".latent", ".safetensors", ".glb", ".obj", ".ply", ".stl",
)  # fmt: skip
MAX_HEADER_BYTES = 16 * 1024**2
_START_BYTES, _HEADER_PLACE = 16, 8
_STARTS = {  # what files of an ending begin with; other endings are looked into as a whole or not at all
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".jpeg": (b"\xff\xd8\xff",),
    ".webp": (b"RIFF",),
    ".gif": (b"GIF8",),
    ".pt": (b"PK\x03\x04", b"\x80"),
}
_UNREADABLE = (  # what readers of pictures end in on damaged files
    SyntaxError, ValueError, OSError, EOFError, struct.error, LookupError, TypeError, ArithmeticError,
    MemoryError, RuntimeError, Image.DecompressionBombError,
)  # fmt: skip


class DownloadError(ComfyError):
    """A file is not what its name says; the message names it."""


def ending(name: str) -> str:
    """Ending of a file's name in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def is_picture(name: str) -> bool:
    """Tell whether a file is a picture, by its ending."""
    return ending(name) in PICTURES


def is_fetched(kind: str, name: str) -> bool:
    """Tell whether a file is fetched: a generator, a latent, a picture or another medium.

    Raises:
        DownloadError: a generator or a latent has another ending than those have.
    """
    allowed = OWN_ENDINGS.get(kind)
    if allowed is None:
        return ending(name) in (*PICTURES, *MEDIA)
    if ending(name) not in allowed:
        raise DownloadError(f"{plain(name, 100)} is among the {kind}, which end in {' or '.join(allowed)}")
    return True


def keep(blocks: Iterable[bytes], path: Path, kind: str) -> dict[str, Any]:
    """Write a file from its blocks, look into it, and give it its name.

    Args:
        blocks: of the file.
        path: final name; it never holds half a file, nor one that is not what its ending says.
        kind: "generators", "latents", or any other.

    Returns:
        `bytes` and `sha256` of it.

    Raises:
        DownloadError: not a generator that can be loaded, no such latent, no such picture, or empty.
        OSError: it cannot be written.
    """
    digest, count, start = hashlib.sha256(), 0, b""
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as out:
            for block in blocks:
                start = _checked_start(start, block, path.name)
                digest.update(block)
                count += out.write(block)
        if not count:
            raise DownloadError(f"{path.name} is empty")
        _look_into(temporary, path.name, kind)
    return {"bytes": count, "sha256": digest.hexdigest()}


def _checked_start(start: bytes, block: bytes, name: str) -> bytes:
    """Refuse at its first bytes what is something else, such as a proxy's page, however long it is."""
    if len(start) >= _START_BYTES:
        return start
    start = (start + block)[:_START_BYTES]
    known = _STARTS.get(ending(name), (b"",))
    fits = any(start.startswith(one[: len(start)]) for one in known)
    if (
        ending(name) == ".safetensors" and len(start) > _HEADER_PLACE
    ):  # the length of a header, then the header
        length = int.from_bytes(start[:_HEADER_PLACE], "little")
        fits = length <= MAX_HEADER_BYTES and start[_HEADER_PLACE:].startswith(b"{")
    if not fits:
        raise DownloadError(f"{name} is no {ending(name)[1:]} file; it begins with {start!r}")
    return start


def _look_into(path: Path, name: str, kind: str) -> None:
    try:
        if kind == GENERATORS:
            inspect(path)
        elif kind == LATENTS and ending(name) == ".safetensors":
            load_latent(path)
        elif ending(name) in PICTURES:
            _check_picture(path)
    except CheckpointError as error:
        raise DownloadError(plain(str(error).replace(str(path), name))) from None
    except _UNREADABLE as error:
        reason = plain(error).replace(str(path), name)
        raise DownloadError(f"{name} is no sound {ending(name)[1:]} file ({reason})") from None


def _check_picture(path: Path) -> None:
    """Read a picture's structure, not its pixels."""
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
            picture.verify()
