"""Picture files of unknown origin: colour profiles, foreign kinds, damage."""

from __future__ import annotations

import io
import logging
import re
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from fuzzing import LONG, failures
from PIL import Image, TiffImagePlugin

from oneshot_core.frames import Frame
from oneshot_core.pictures import load_target
from oneshot_core.pictures.files import PictureError, open_picture
from oneshot_core.pictures.profiles import MAX_PROFILE_BYTES

P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def curve(values: tuple[float, ...]) -> bytes:
    """A parametric curve: a power, or sRGB's five numbers."""
    kind = 0 if len(values) == 1 else 3
    return b"para" + bytes(4) + struct.pack(">Hxx", kind) + fixed(*values)


def profile(space: bytes, colours=(), values=SRGB_CURVE) -> bytes:
    """A small ICC profile: primaries and a curve for RGB, a curve for GRAY."""
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79),
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
    }
    for name, xyz in zip((b"r", b"g", b"b"), colours, strict=False):
        tags[name + b"XYZ"] = b"XYZ " + bytes(4) + fixed(*xyz)
        tags[name + b"TRC"] = curve(values)
    if not colours:
        tags[b"kTRC"] = curve(values)
    start, table, data = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(data), len(value))
        data += value
    header = struct.pack(">I4xI4s4s4s", start + len(data), 0x02400000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2022, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + data


def printer() -> bytes:
    """A CMYK profile with a table of corners: white paper, black, and magenta as Lab (46, 75, -5)."""
    corners = []
    for index in range(16):
        _, magenta, _, black = (index >> place & 1 for place in (3, 2, 1, 0))
        corners += [0, 128, 128] if black else [117, 203, 123] if magenta else [255, 128, 128]
    straight = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += straight * 4 + bytes(corners) + straight * 3
    table += bytes(-len(table) % 4)
    white = b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(81)
    tags, start, entries, data = {b"desc": text, b"wtpt": white, b"A2B0": table}, 132 + 36, b"", b""
    for name, value in tags.items():
        entries += name + struct.pack(">II", start + len(data), len(value))
        data += value
    header = struct.pack(">I4xI4s4s4s", start + len(data), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H", 2022, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + entries + data


def linear(share: np.ndarray) -> np.ndarray:
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def encoded(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def expected(colour, primaries, gamma=None) -> np.ndarray:
    """What a colour is in sRGB, from the matrices alone."""
    share = np.array(colour) / 255
    light = linear(share) if gamma is None else share**gamma
    xyz = light @ np.array(primaries)
    return 255 * encoded(xyz @ np.linalg.inv(np.array(SRGB)))


def seen(path) -> np.ndarray:
    return np.asarray(open_picture(path))[4, 4].astype(float)


@pytest.mark.parametrize("colour", [(234, 51, 35), (200, 100, 50), (10, 200, 40), (128, 128, 128)])
@pytest.mark.parametrize(
    ("primaries", "values", "gamma"), [(P3, SRGB_CURVE, None), (ADOBE, (2.19921875,), 2.19921875)]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_profiles_are_converted_to_srgb(tmp_path, colour, primaries, values, gamma, kind):
    path = tmp_path / "wide"
    lossless = (
        {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    )
    picture = Image.new("RGB", (8, 8), colour)
    picture.save(path, kind, icc_profile=profile(b"RGB ", primaries, values), **lossless)
    np.testing.assert_allclose(seen(path), expected(colour, primaries, gamma), atol=3)


def test_a_profile_that_means_srgb_changes_no_bit(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=profile(b"RGB ", SRGB))
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.png")), values)


def test_grey_profiles_are_applied(tmp_path):
    gamma = profile(b"GRAY", values=(1.0,))
    Image.new("L", (8, 8), 55).save(tmp_path / "a.png", icc_profile=gamma)
    np.testing.assert_allclose(seen(tmp_path / "a.png"), [255 * encoded(np.array(55 / 255))] * 3, atol=2)
    deep = Image.fromarray(np.full((8, 8), 55 * 257, dtype=np.uint16))
    deep.save(tmp_path / "deep.png", icc_profile=gamma)
    np.testing.assert_array_equal(seen(tmp_path / "deep.png"), seen(tmp_path / "a.png"))
    Image.new("LA", (8, 8), (55, 255)).save(tmp_path / "la.png", icc_profile=gamma)
    np.testing.assert_array_equal(seen(tmp_path / "la.png"), seen(tmp_path / "a.png"))


def test_cmyk_profiles_are_applied(tmp_path):
    path = tmp_path / "print.jpg"
    for ink, shown in (
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 255, 0, 0), (213, 0, 121)),
    ):
        Image.new("CMYK", (8, 8), ink).save(path, quality=100, icc_profile=printer())
        np.testing.assert_allclose(seen(path), shown, atol=8)
    Image.new("CMYK", (8, 8), (0, 255, 0, 0)).save(path, quality=100)
    np.testing.assert_allclose(seen(path), (255, 0, 255), atol=4)


def test_transparency_palettes_and_rotation_keep_their_meaning_with_a_profile(tmp_path):
    p3 = profile(b"RGB ", P3)
    Image.new("RGBA", (8, 8), (234, 51, 35, 0)).save(tmp_path / "clear.png", icc_profile=p3)
    assert seen(tmp_path / "clear.png").tolist() == [255, 255, 255]
    Image.new("RGBA", (8, 8), (234, 51, 35, 255)).save(tmp_path / "solid.png", icc_profile=p3)
    np.testing.assert_allclose(seen(tmp_path / "solid.png"), (255, 0, 0), atol=3)
    Image.new("RGB", (8, 8), (234, 51, 35)).quantize(4).save(tmp_path / "palette.png", icc_profile=p3)
    np.testing.assert_allclose(seen(tmp_path / "palette.png"), (255, 0, 0), atol=3)
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = Image.new("RGB", (16, 8), (234, 51, 35))
    tall.save(tmp_path / "turned.jpg", icc_profile=p3, exif=exif, quality=100, subsampling=0)
    assert open_picture(tmp_path / "turned.jpg").size == (8, 16)
    np.testing.assert_allclose(seen(tmp_path / "turned.jpg"), (255, 0, 0), atol=4)


@pytest.mark.parametrize(
    ("mode", "data", "words"),
    [
        ("RGB", b"no profile at all", "cannot be read"),
        ("RGB", profile(b"RGB ", P3)[:200], "cannot be read"),
        ("RGB", profile(b"GRAY"), "made for GRAY colours"),
        ("L", profile(b"RGB ", P3), "made for RGB colours"),
        ("CMYK", profile(b"RGB ", P3), "made for RGB colours"),
        ("RGB", bytes(MAX_PROFILE_BYTES + 1), "too many"),
    ],
)
def test_profiles_that_cannot_be_applied_are_ignored_aloud(tmp_path, caplog, mode, data, words):
    path = tmp_path / "me.tif"
    picture = Image.new(mode, (8, 8))
    picture.save(path)
    plain = np.asarray(open_picture(path))
    picture.save(path, icc_profile=data)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(np.asarray(open_picture(path)), plain)
    assert re.search(rf"me\.tif: the embedded colour profile .*{words}.* ignored; .*sRGB", caplog.text)


def test_a_warning_is_said_once_a_target(tmp_path, caplog):
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png", icc_profile=b"none")
    load_target(tmp_path / "a.png", 8, Frame("letterbox"))
    assert caplog.text.count("colour profile") == 1


def with_chunk(kind: bytes, data: bytes) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 90, 200)).save(out, "PNG")
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return out.getvalue()[:33] + chunk + out.getvalue()[33:]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (with_chunk(b"gAMA", struct.pack(">I", 100_000)), "gamma 1 "),
        (with_chunk(b"gAMA", struct.pack(">I", 45_455)), ""),
        (with_chunk(b"cHRM", struct.pack(">8I", *(round(1e5 * v) for v in (0.3127, 0.329, 0.68, 0.32, 0.265,
                                                                           0.69, 0.15, 0.06)))), "primaries"),
        (with_chunk(b"sRGB", b"\0"), ""),
    ],
)  # fmt: skip
def test_other_marks_of_colour_are_told_and_not_applied(tmp_path, caplog, data, words):
    (tmp_path / "a.png").write_bytes(data)
    assert seen(tmp_path / "a.png").tolist() == [10, 90, 200]
    assert words in caplog.text and bool(words) == bool(caplog.text)


def test_the_cameras_adobe_mark_is_told(tmp_path, caplog):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    open_picture(tmp_path / "a.jpg")
    assert "Adobe RGB" in caplog.text


def boxed(brand: bytes, *more: bytes) -> bytes:
    brands = brand + bytes(4) + b"".join(more)
    return (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(range(256)) * 4


FOREIGN = {
    "HEIC": (boxed(b"heic", b"mif1", b"heic"), r"HEIC.*export it as PNG or JPEG"),
    "HEIF": (boxed(b"msf1", b"hevc"), r"HEIF.*export it as"),
    "page": (b"\n<!doctype html><html></html>", r"web page \(HTML\)"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", r"SVG.*export it as"),
    "MP4": (boxed(b"isom", b"mp41"), r"video.*one picture"),
    "WebM": (b"\x1a\x45\xdf\xa3\x9fB" + bytes(90), r"video.*one picture"),
    "PSD": (b"8BPS\0\1" + bytes(90), r"Photoshop.*export it as"),
    "PDF": (b"%PDF-1.4\n" + bytes(90), r"PDF.*export it as"),
    "CR3": (boxed(b"crx ", b"isom"), r"RAW.*export it as"),
    "RAF": (b"FUJIFILMCCD-RAW 0201" + bytes(90), r"RAW.*export it as"),
    "JPEG XL": (b"\xff\x0a" + bytes(90), r"JPEG XL.*export it as"),
    "zip": (b"PK\x03\x04" + bytes(22) + b"\x05\0\0\0a.png" + bytes(90), r"zip archive.*unpack"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\n", r"Git LFS"),
    "JSON": (b'{"error": "not found"}', r"JSON"),
    "zeros": (bytes(5000), r"zeros"),
    "nothing": (b"", r"empty"),
    "network": (b"\x80\x04\x95" + bytes(90), r"Python pickle.*PNG picture"),
    "damaged PNG": (b"\x89PNG\r\n\x1a\n" + bytes(90), r"PNG.*damaged"),
    "unknown": (bytes(range(128, 256)) * 4, r"not a picture that can be read"),
}


@pytest.mark.parametrize(("data", "words"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_picture_is_named(tmp_path, data, words):
    path = tmp_path / "target.jpg"
    path.write_bytes(data)
    with pytest.raises(PictureError, match=words) as caught:
        open_picture(path)
    assert "\n" not in str(caught.value)
    mask, target = path, tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(target)
    with pytest.raises(PictureError, match=words):
        load_target(target, 8, mask=mask)


@pytest.mark.parametrize("tags", [{254: 1, 330: 8}, {50706: b"\1\4\0\0"}])
def test_raw_pictures_that_begin_with_a_thumbnail_are_refused(tmp_path, tags):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
        info.tagtype[tag] = 1 if isinstance(value, bytes) else 4
    Image.new("RGB", (8, 8)).save(tmp_path / "a.nef", "TIFF", tiffinfo=info)
    with pytest.raises(PictureError, match=r"RAW picture.*thumbnail.*export"):
        open_picture(tmp_path / "a.nef")


KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF")


def sound(kind: str) -> bytes:
    """A small picture with a profile and marks, where its kind has such."""
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif.get_ifd(0x8769)[0xA001] = 1
    values = np.random.default_rng(1).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    more = {"exif": exif, "icc_profile": profile(b"RGB ", P3)} if kind in KINDS[:3] or kind == "TIFF" else {}
    Image.fromarray(values).save(out, kind, **more)
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pictures_end_in_one_kind_of_error(tmp_path, kind):
    data = sound(kind)
    for head in (400, None):
        assert list(failures(open_picture, data, tmp_path / "a", range(120), (PictureError,), head)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_pictures_end_in_one_kind_of_error(tmp_path, kind):
    data = sound(kind)
    for head in (400, None):
        assert list(failures(open_picture, data, tmp_path / "a", LONG, (PictureError,), head)) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_is_cut_off_is_refused(tmp_path, kind, share):
    values = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    whole, path = tmp_path / "whole", tmp_path / "target.png"
    Image.fromarray(values).save(whole, kind)
    path.write_bytes(whole.read_bytes()[: round(whole.stat().st_size * share)])
    with pytest.raises(PictureError, match="damaged|truncated"):
        load_target(path, 8)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_of_an_animation_the_first_picture_is_used_and_that_is_said(tmp_path, kind):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ((200, 30, 40), (20, 40, 210)))
    path = tmp_path / f"a.{kind.lower()}"
    first.save(path, kind)
    assert load_target(path, 16).notes == ()
    first.save(path, kind, save_all=True, append_images=[second])
    target = load_target(path, 16)
    assert target.notes == (f"{path.name} holds several pictures; the first is used",)
    assert (seen(path) - (200, 30, 40) < 8).all()
    # A sound first picture stays one, whatever follows it.
    path.write_bytes(path.read_bytes()[:-3])
    with suppress(PictureError):
        load_target(path, 16)


def test_a_cameras_jpeg_with_a_small_copy_in_it_is_no_animation(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 64)).save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    with Image.open(path) as both:
        assert both.is_animated
    assert load_target(path, 16).notes == ()
