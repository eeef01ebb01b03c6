"""Embedded colour profiles of pictures: converted to sRGB, or ignored with a reason.

Cameras, phones and printers store numbers that mean other colours than sRGB's. Everything here works on
Pillow images; what is drawn later knows sRGB only.

Source: ICC.1 (profiles), through LittleCMS as Pillow brings it; PNG specification (gAMA, cHRM).
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, features
from PIL.Image import Image as Picture

MAX_PROFILE_BYTES = 8 * 1024**2  # profiles of printers have 2 MB at most
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_PROBE = 9  # values per channel that tell whether a profile means sRGB
_SRGB_GAMMA, _SRGB_WHITE_RED = 0.45455, (0.3127, 0.329, 0.64, 0.33)
_EXIF_SPACE, _UNCALIBRATED, _INTEROPERABILITY, _EXIF_PART = 0xA001, 0xFFFF, 0xA005, 0x8769


def to_srgb(picture: Picture) -> tuple[Picture, list[str]]:
    """Convert a picture with an embedded profile to sRGB.

    Args:
        picture: loaded, mode L, LA, RGB, RGBA or CMYK; its profile in `info`.

    Returns:
        The picture (converted: as RGB or RGBA, its alpha unchanged), and a sentence about a profile that was
        ignored. Where the profile means sRGB the pixels are the same to the bit.
    """
    profile = picture.info.get("icc_profile")
    if not profile:
        return picture, []
    try:
        return _converted(picture, bytes(profile)), []
    except _Unusable as error:
        return picture, [f"the embedded colour profile {error} and was ignored; colours were read as sRGB"]


class _Unusable(Exception):
    """A profile that cannot be applied; the text goes on after "the embedded colour profile"."""


def _converted(picture: Picture, profile: bytes) -> Picture:
    if not features.check("littlecms2"):
        raise _Unusable("cannot be applied because this Pillow has no colour management")
    if len(profile) > MAX_PROFILE_BYTES:
        raise _Unusable(f"has {len(profile)} bytes, too many,")
    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    bare = picture.convert({"LA": "L", "RGBA": "RGB"}[picture.mode]) if alpha is not None else picture
    transform = _transform(profile, bare.mode)
    if transform is None:
        return picture
    from PIL import ImageCms

    shown = ImageCms.applyTransform(bare, transform)
    if shown is None:
        raise _Unusable("cannot be applied")
    if alpha is not None:
        shown.putalpha(alpha)
    return shown


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> Any:
    """Make the transform from a profile to sRGB; None where it changes nothing.

    Raises:
        _Unusable: damaged, or of another kind of picture.
    """
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space
        if _SPACES.get(space) != mode:
            raise _Unusable(f"is made for {space.strip() or 'other'} colours, not for this picture's,")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return None if _is_identity(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError) as error:
        raise _Unusable(f"cannot be read ({' '.join(str(error).split())[:80]})") from error


def _is_identity(transform: Any, mode: str) -> bool:
    """Tell whether a transform moves no colour by more than rounding does."""
    from PIL import ImageCms

    if mode == "CMYK":
        return False
    steps = np.linspace(0, 255, _PROBE).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    probe = Image.fromarray(cube if mode == "RGB" else cube[..., 0].copy())
    shown = ImageCms.applyTransform(probe, transform)
    if shown is None:
        return False
    moved = np.asarray(shown).astype(int) - np.asarray(probe.convert("RGB")).astype(int)
    return bool(np.abs(moved).max() <= 1)


def other_marks(picture: Picture) -> list[str]:
    """Return sentences about marks of other colours in a picture without a profile; none of them is applied.

    Args:
        picture: as opened, not a copy.
    """
    info = picture.info
    if info.get("icc_profile"):
        return []
    marks = []
    gamma, chroma = info.get("gamma"), info.get("chromaticity")
    if "srgb" not in info and picture.format == "PNG":
        if isinstance(gamma, float) and abs(gamma - _SRGB_GAMMA) > 0.02:
            marks.append(f"gamma {gamma:g}")
        if chroma and max(abs(a - b) for a, b in zip(chroma, _SRGB_WHITE_RED, strict=False)) > 0.01:
            marks.append("other primaries")
    if _is_adobe_rgb(picture):
        marks.append("Adobe RGB by the camera's mark")
    return [
        f"it is marked with {mark} but has no colour profile; colours were read as sRGB. Save it as sRGB if "
        "it looks pale or dark"
        for mark in marks
    ]


def _is_adobe_rgb(picture: Picture) -> bool:
    """Tell whether a camera marked its picture as Adobe RGB in the usual way, without a profile."""
    try:
        exif = picture.getexif()
        inner = exif.get_ifd(_EXIF_PART)
        interoperability = exif.get_ifd(_INTEROPERABILITY)
    except Exception:  # noqa: BLE001 - damaged marks raise anything, and do not matter
        return False
    return inner.get(_EXIF_SPACE) == _UNCALIBRATED and str(interoperability.get(1, "")).startswith("R03")
