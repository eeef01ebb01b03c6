"""Picture files of unknown origin, read with Pillow: bounded, upright, in sRGB; other files are named."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Image as Picture

from ..containers import START_BYTES, recognised, told
from .profiles import other_marks, to_srgb

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF", "PPM", "TIFF")  # none of them runs another program
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif", ".ppm", ".tif", ".tiff"}
MAX_PIXELS = 80_000_000  # below Pillow's own limit, so that its warning never shows
MAX_SIDE_PX = 32_768
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")  # a camera's JPEG may hold small copies of the picture
_NEW_SUBFILE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706  # TIFF tags


class PictureError(ValueError):
    """A file is not a picture that can be used; the message says why and what to do."""


def open_picture(path: Path | str) -> Picture:
    """Read a picture file as an upright 8-bit RGB Pillow image.

    The camera's rotation mark is applied, an embedded colour profile is converted to sRGB, transparent parts
    become white, greyscale, palette, CMYK and 16-bit pictures become 8-bit RGB, and of an animation the first
    frame is taken. Profiles that cannot be applied are ignored with a warning in the log.

    Args:
        path: PNG, JPEG, WebP, AVIF, BMP, GIF, PPM or TIFF, told by content, not by suffix.

    Raises:
        PictureError: no such file, no picture, a damaged or a too large one.
    """
    path = Path(path)
    if not path.is_file():
        raise PictureError(f"{path} is not a file; give the path of a picture, such as a PNG or JPEG")
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata, which does not matter here
            with Image.open(path, formats=known) as picture:
                _check_extent(path, *picture.size)
                _check_main(path, picture)
                upright = _upright(picture, path)
                for line in other_marks(picture):
                    log.warning("%s: %s", path.name, line)
                return _rgb(upright, path)
    except PictureError:
        raise
    except Image.UnidentifiedImageError as error:
        raise PictureError(f"{path} {_unknown(path, known)}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{path} is too large: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise PictureError(
            f"{path} is damaged, truncated or not supported ({reason}); get the file again, or open it in "
            "another program and save it as PNG"
        ) from error


def pictures_in(folder: Path) -> list[Path]:
    """Return the files in a folder that are named like pictures, by name; of a file none."""
    return sorted(one for one in folder.glob("*") if one.suffix.lower() in SUFFIXES)


def frames_notes(path: Path | str) -> list[str]:
    """Say of a picture file that `open_picture` can read when it holds more than the picture that is read."""
    Image.init()
    try:
        with Image.open(path, formats=[name for name in _ANIMATED if name in Image.OPEN]) as picture:
            several = bool(getattr(picture, "is_animated", False))
    except Exception:  # noqa: BLE001 - the first picture is sound; what follows it may raise anything
        return []
    return [f"{Path(path).name} holds several pictures; the first is used"] if several else []


def _unknown(path: Path, known: list[str]) -> str:
    """Say what a file is that Pillow does not know."""
    allowed = f"is not a picture that can be read ({', '.join(known)})"
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
    except OSError:
        return allowed
    found = recognised(start, size)
    if found is not None and found.name.upper() in known:
        return f"begins as {found.what} but is damaged; get the file again, or save it as PNG"
    advice = "export it as JPEG or PNG" if found and found.kind == "picture" else "give a JPEG or PNG picture"
    if found is not None and found.name in _VIDEOS:
        advice = "save one picture of it as JPEG or PNG"
    return told(start, size, f"a picture that can be read ({', '.join(known)})", advice) or allowed


_VIDEOS = ("mp4", "mov", "matroska", "avi", "mpeg", "asf", "flv", "ogg")


def _check_extent(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        raise PictureError(
            f"{path} has {width} x {height} px; at most {MAX_PIXELS // 1_000_000} megapixels and "
            f"{MAX_SIDE_PX} px per side are read. Scale it down first"
        )


def _check_main(path: Path, picture: Picture) -> None:
    """Refuse cameras' RAW files, which are TIFFs whose first picture is a thumbnail."""
    tags: Any = getattr(picture, "tag_v2", None)
    if picture.format != "TIFF" or tags is None:
        return
    thumbnail = tags.get(_NEW_SUBFILE, 0) == 1 and _SUB_IFDS in tags
    if thumbnail or _DNG_VERSION in tags:
        raise PictureError(
            f"{path} is a camera's RAW picture (DNG, NEF or the like), of which only a thumbnail could be "
            "read; open it in a photo program and export it as JPEG or PNG"
        )


def _upright(picture: Picture, path: Path) -> Picture:
    """Apply the camera's rotation mark; damaged marks are ignored."""
    picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # noqa: BLE001 - damaged marks raise anything; the picture itself is sound
        log.warning(
            "the rotation mark of %s is damaged and was ignored (%s)", path.name, type(error).__name__
        )
        return picture.copy()


def _rgb(picture: Picture, path: Path) -> Picture:
    """Convert any mode to 8-bit sRGB; transparency is laid on white."""
    if picture.mode == "F":
        raise PictureError(f"{path} holds floating-point values of unknown range; save it as 8 or 16 bit PNG")
    picture = _managed(picture)
    picture, notes = to_srgb(picture)
    for line in notes:
        log.warning("%s: %s", path.name, line)
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _managed(picture: Picture) -> Picture:
    """Convert any mode to one with 8 bits that a colour profile can belong to: L, RGB, RGBA or CMYK."""
    info = picture.info
    if picture.mode.startswith("I"):
        picture = Image.fromarray(_eight_bits(np.asarray(picture)))
        info = {name: value for name, value in info.items() if name != "transparency"}
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in info:
        managed = picture.convert("RGBA")
        if info.get("icc_profile", b"")[16:20] == b"GRAY":
            alpha = managed.getchannel("A")
            managed = managed.convert("L")
            managed.putalpha(alpha)
    elif picture.mode in ("L", "RGB", "CMYK"):
        managed = picture
    else:
        managed = picture.convert("L" if picture.mode == "1" else "RGB")
    managed.info = dict(info)
    return managed


def _eight_bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scale whole numbers of 16 bits (or of 8 bits in a wide type) to bytes."""
    wide = values.dtype.itemsize <= 2 or values.max(initial=0) > 255
    if not wide:
        return values.clip(0, 255).astype(np.uint8)
    values = values.clip(0, 65535).astype(np.uint32)
    values += 128
    values //= 257  # 65535 / 255
    return values.astype(np.uint8)
