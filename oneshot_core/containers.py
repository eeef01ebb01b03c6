"""What a file is, told from its first bytes in words: one table for checkpoints, latents, pictures, weights.

A file that is not what was wanted is seldom damaged: it is a web page, a pointer, an archive around the file
or a picture. Names and suffixes play no part; nothing is decoded beyond the bytes that are given.

Source: the published signatures of each format.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

START_BYTES = 4096  # how many of a file's first bytes tell; tar names itself at 257, HDF5 at up to 2048
LEGACY_TORCH_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # pickled magic number of torch < 1.6
_MANY_REPLACED = 8  # in random data three given bytes in a row come once in 16 million places
_SHORTEST_TEXT = 4
_PLAIN_SHARE = 0.9  # of the characters of a text in an older encoding
_MAX_HEADER_BYTES = 1 << 40  # of safetensors: text in its place reads as a far larger number

_AGAIN = "download the file again and compare its size with the one that the page names"
_UNPACK = "unpack it and give the file that is inside"
_EXPORT = "open it in a program that shows it and export it as PNG or JPEG"
_PAGE = (
    "a download led to a page, such as a sign-in, a quota or a not-found message; open it in a browser to "
    "read it, then download the file itself"
)
_TEXT_DAMAGE = (
    "a program treated it as text (UTF-8) and replaced bytes; these are lost: download the original again, "
    "in binary mode"
)
_RESOURCE = (
    "it lies beside the real file under the same name with ._ in front, or in a folder __MACOSX; give the "
    "file without ._"
)


@dataclass(frozen=True)
class Container:
    """What a file is.

    Attributes:
        name: short and fixed, such as "html", "gzip", "png"; see `recognised`.
        kind: "weights", "numpy", "picture", "archive" or "other".
        what: with its article, such as "a web page (HTML)".
        advice: what to do where something else was wanted; "" where that depends on what was wanted.
    """

    name: str
    kind: str
    what: str
    advice: str = ""


def told(start: bytes, size: int, wanted: str, otherwise: str = "") -> str | None:
    """Say what a file is that is not what was wanted.

    Args:
        start: its first bytes, `START_BYTES` of them where it has so many.
        size: of the whole file, bytes.
        wanted: with its article, such as "a checkpoint".
        otherwise: advice where the table has none, such as "give the network's file".

    Returns:
        A sentence without the file's name, such as "is a web page (HTML), not a checkpoint; …", or None where
        the bytes tell nothing. Bytes are never quoted.
    """
    found = recognised(start, size)
    if found is None:
        return None
    advice = found.advice or otherwise
    return f"is {found.what}, not {wanted}" + (f"; {advice}" if advice else "")


def recognised(start: bytes, size: int) -> Container | None:
    """Recognise a file.

    Args:
        start: its first bytes, `START_BYTES` of them where it has so many.
        size: of the whole file, bytes.

    Returns:
        Among others "torch-zip", "torch-legacy", "pickle", "safetensors" (kind "weights"), "npy" and "npz"
        (kind "numpy"); None where the bytes tell nothing.
    """
    start = start[:START_BYTES]
    if size == 0 or not start:
        return Container("empty", "other", "an empty file (0 bytes)", _AGAIN)
    if not any(start):
        what = "all zeros (an incomplete download: its room was reserved and never filled)"
        return Container("zeros", "other", what, _AGAIN)
    if start.startswith((b"\xef\xbf\xbd", b"\xc2\x80\x02", b"\xc2\x80\x03", b"\xc2\x80\x04", b"\xc2\x89PNG")):
        return _TEXT_MODE
    if start.count(b"\xef\xbf\xbd") >= _MANY_REPLACED:
        return _TEXT_MODE
    return _signed(start) or _boxed(start) or _weights(start) or _text(start, size)


_TEXT_MODE = Container("text-mode", "other", "a binary file that went through text encoding", _TEXT_DAMAGE)

# Signatures at the very start. Pictures that may be wanted have no advice.
_SIGNATURES: tuple[tuple[bytes, Container], ...] = (
    (b"\x1f\x8b", Container("gzip", "archive", "a gzip file (.gz, compressed)", _UNPACK)),
    (b"\x1f\x9d", Container("compress", "archive", "a file compressed by compress (.Z)", _UNPACK)),
    (b"BZh", Container("bzip2", "archive", "a bzip2 file (.bz2, compressed)", _UNPACK)),
    (b"\xfd7zXZ\0", Container("xz", "archive", "an xz file (.xz, compressed)", _UNPACK)),
    (b"\x5d\0\0", Container("lzma", "archive", "an LZMA file (.lzma, compressed)", _UNPACK)),
    (b"LZIP", Container("lzip", "archive", "an lzip file (.lz, compressed)", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Container("zstd", "archive", "a Zstandard file (zstd, .zst, compressed)", _UNPACK)),
    (b"\x04\x22\x4d\x18", Container("lz4", "archive", "an LZ4 file (.lz4, compressed)", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Container("7z", "archive", "a 7-Zip archive (.7z)", _UNPACK)),
    (b"Rar!\x1a\x07", Container("rar", "archive", "a RAR archive (.rar)", _UNPACK)),
    (b"MSCF\0\0\0\0", Container("cab", "archive", "a cabinet archive (.cab)", _UNPACK)),
    (b"!<arch>\n", Container("ar", "archive", "an archive of program parts (.a, .deb)")),
    (b"PK\x05\x06", Container("zip-empty", "archive", "an empty zip archive", _AGAIN)),
    (b"PK\x07\x08", Container("zip-part", "archive", "one part of a zip archive in several parts", _UNPACK)),
    (b"\0\x05\x16\x07", Container("appledouble", "other", "a macOS resource file (AppleDouble)", _RESOURCE)),
    (b"\0\x05\x16\0", Container("applesingle", "other", "a macOS AppleSingle file", _UNPACK)),
    (b"\0\0\0\1Bud1", Container("ds-store", "other", "a macOS folder note (.DS_Store)")),
    (b"\x93NUMPY", Container("npy", "numpy", "a numpy array (.npy)")),
    (b"\x89PNG", Container("png", "picture", "a picture (PNG)")),
    (b"\xff\xd8\xff", Container("jpeg", "picture", "a picture (JPEG)")),
    (b"GIF87a", Container("gif", "picture", "a picture (GIF)")),
    (b"GIF89a", Container("gif", "picture", "a picture (GIF)")),
    (b"8BPS", Container("psd", "picture", "a Photoshop picture (PSD)", _EXPORT)),
    (b"gimp xcf", Container("xcf", "picture", "a GIMP picture (XCF)", _EXPORT)),
    (b"v/1\x01", Container("exr", "picture", "an OpenEXR picture (.exr)", _EXPORT)),
    (b"#?RADIANCE", Container("hdr", "picture", "a Radiance picture (.hdr)", _EXPORT)),
    (b"#?RGBE", Container("hdr", "picture", "a Radiance picture (.hdr)", _EXPORT)),
    (b"DDS ", Container("dds", "picture", "a texture (DDS)", _EXPORT)),
    (b"qoif", Container("qoi", "picture", "a picture (QOI)", _EXPORT)),
    (b"\0\0\1\0", Container("ico", "picture", "an icon (ICO)", _EXPORT)),
    (b"\0\0\0\x0cjP  ", Container("jpeg2000", "picture", "a JPEG 2000 picture", _EXPORT)),
    (b"\xff\x4f\xff\x51", Container("jpeg2000", "picture", "a JPEG 2000 picture", _EXPORT)),
    (b"\0\0\0\x0cJXL ", Container("jpegxl", "picture", "a JPEG XL picture (.jxl)", _EXPORT)),
    (b"\xff\x0a", Container("jpegxl", "picture", "a JPEG XL picture (.jxl)", _EXPORT)),
    (b"FUJIFILMCCD-RAW", Container("raw", "picture", "a camera's RAW picture (RAF)", _EXPORT)),
    (b"IIRO", Container("raw", "picture", "a camera's RAW picture (ORF)", _EXPORT)),
    (b"IIRS", Container("raw", "picture", "a camera's RAW picture (ORF)", _EXPORT)),
    (b"IIU\0", Container("raw", "picture", "a camera's RAW picture (RW2)", _EXPORT)),
    (b"FOVb", Container("raw", "picture", "a camera's RAW picture (X3F)", _EXPORT)),
    (b"II*\0", Container("tiff", "picture", "a picture (TIFF)")),
    (b"MM\0*", Container("tiff", "picture", "a picture (TIFF)")),
    (b"II+\0", Container("bigtiff", "picture", "a picture (BigTIFF)", _EXPORT)),
    (b"MM\0+", Container("bigtiff", "picture", "a picture (BigTIFF)", _EXPORT)),
    (b"%PDF", Container("pdf", "other", "a PDF document", _EXPORT)),
    (b"%!PS", Container("postscript", "other", "a PostScript document (EPS, AI)", _EXPORT)),
    (b"\xc5\xd0\xd3\xc6", Container("postscript", "other", "a PostScript document (EPS)", _EXPORT)),
    (b"\x1a\x45\xdf\xa3", Container("matroska", "other", "a video (WebM or Matroska)")),
    (b"FLV\x01", Container("flv", "other", "a video (Flash)")),
    (b"\0\0\1\xba", Container("mpeg", "other", "a video (MPEG)")),
    (b"\0\0\1\xb3", Container("mpeg", "other", "a video (MPEG)")),
    (b"\x30\x26\xb2\x75", Container("asf", "other", "a video (WMV)")),
    (b"OggS", Container("ogg", "other", "a sound or video file (Ogg)")),
    (b"ID3", Container("mp3", "other", "a sound file (MP3)")),
    (b"fLaC", Container("flac", "other", "a sound file (FLAC)")),
    (b"GGUF", Container("gguf", "weights", "a GGUF file (quantised weights of llama.cpp's programs)")),
    (b"MATLAB 5.0", Container("matlab", "other", "a MATLAB file (.mat)")),
    (b"SQLite format 3\0", Container("sqlite", "other", "an SQLite data base")),
    (b"PAR1", Container("parquet", "other", "a Parquet table")),
    (b"MZ", Container("exe", "other", "a Windows program or installer (.exe, .dll)")),
    (b"\x7fELF", Container("elf", "other", "a Linux program or library (ELF)")),
    (b"\xcf\xfa\xed\xfe", Container("macho", "other", "a macOS program or library")),
    (b"\xca\xfe\xba\xbe", Container("macho", "other", "a program (macOS or Java)")),
    (
        b"L\0\0\0\x01\x14\x02\0",
        Container("shortcut", "other", "a Windows shortcut (.lnk)", "give its target"),
    ),
)
_HDF5 = Container("hdf5", "weights", "an HDF5 file (Keras .h5)")
_TAR = Container(
    "tar",
    "archive",
    "a tar archive (.tar)",
    f"{_UNPACK}; a torch file from before 2017 is one too: save it again with a newer torch",
)


def _signed(start: bytes) -> Container | None:
    """Formats with a signature at a fixed place, zip and RIFF among them."""
    if start.startswith(b"PK\x03\x04"):
        return _first_member(start)
    if start[:4] in (b"RIFF", b"RIFX"):
        return _RIFF.get(start[8:12], Container("riff", "other", "a sound or video file (RIFF)"))
    if any(start[place : place + 8] == b"\x89HDF\r\n\x1a\n" for place in (0, 512, 1024, 2048)):
        return _HDF5
    if start[257:262] == b"ustar":
        return _TAR
    if start[:4] == b"II*\0" and start[8:10] == b"CR":
        return Container("raw", "picture", "a camera's RAW picture (CR2)", _EXPORT)
    if start[:2] == b"BM" and start[6:10] == bytes(4):
        return Container("bmp", "picture", "a picture (BMP)")
    if start[4:8] == b"TFL3":
        return Container("tflite", "weights", "a TensorFlow Lite model (.tflite)")
    return next((found for signature, found in _SIGNATURES if start.startswith(signature)), None)


_RIFF = {
    b"WEBP": Container("webp", "picture", "a picture (WebP)"),
    b"AVI ": Container("avi", "other", "a video (AVI)"),
    b"WAVE": Container("wav", "other", "a sound file (WAV)"),
}
_HEIC = Container("heic", "picture", "a HEIC/HEIF picture, as phones take them", _EXPORT)
_AVIF = Container("avif", "picture", "a picture (AVIF)")
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), _HEIC),
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
    b"crx ": Container("raw", "picture", "a camera's RAW picture (CR3)", _EXPORT),
    b"qt  ": Container("mov", "other", "a video (QuickTime)"),
    b"M4A ": Container("m4a", "other", "a sound file (M4A)"),
}


def _boxed(start: bytes) -> Container | None:
    """ISO media files: HEIC, AVIF, MP4 and their kin name themselves in their first box."""
    if start[4:8] in (b"moov", b"mdat", b"wide", b"free") and start[:2] == bytes(2):
        return _BRANDS[b"qt  "]
    if start[4:8] != b"ftyp":
        return None
    end = min(len(start), int.from_bytes(start[:4], "big"), 256)
    brands = [start[8:12], *(start[place : place + 4] for place in range(16, end, 4))]
    found = next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if found is None and any(brand in (b"mif1", b"msf1", b"miaf") for brand in brands):
        found = _HEIC
    return found or Container("mp4", "other", "a video (MP4)")


def _first_member(start: bytes) -> Container:
    """A zip archive by the name of its first member."""
    length = int.from_bytes(start[26:28], "little")
    return archive([start[30 : 30 + length].decode("utf-8", "replace")])


def archive(names: Collection[str]) -> Container:
    """Say what a zip archive is, from the names of its members, or of the first where the others are unknown.

    Returns:
        "torch-zip", "torchscript", "npz", "keras", "office", "layers" (pictures with layers), else "zip".
    """
    last = {name.rpartition("/")[2] for name in names}
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        return Container("torchscript", "weights", "a TorchScript archive (it contains program code)")
    if last & {"data.pkl", ".data", "byteorder"} or any(
        "/.data/" in name or "/data/" in name for name in names
    ):
        return Container("torch-zip", "weights", "a torch file")
    if names and all(name.endswith(".npy") for name in names):
        return Container("npz", "numpy", "a file of numpy arrays (.npz)")
    if last & {"model.weights.h5", "saved_model.pb"}:
        return Container("keras", "weights", "a Keras or TensorFlow model")
    if "[Content_Types].xml" in last:
        return Container("office", "other", "an Office document")
    if "mimetype" in last or last & {"maindoc.xml", "mergedimage.png"}:
        what = "an OpenDocument, EPUB, Krita or OpenRaster file"
        return Container("layers", "other", what, _EXPORT)
    inside = sorted(name for name in last if re.fullmatch(r"(?!\._)[\w .+()-]{1,60}", name))[:2]
    around = f" that contains {' and '.join(inside)}" if inside else " around other files"
    return Container("zip", "archive", f"a zip archive{around}", _UNPACK)


def _weights(start: bytes) -> Container | None:
    """Pickles, torch files, safetensors and the protocol buffers of other programs."""
    # First: the length of a header may begin like a pickle, 640 and 896 bytes do.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < _MAX_HEADER_BYTES:
        return Container("safetensors", "weights", "a safetensors file")
    if start.startswith(LEGACY_TORCH_START):
        return Container("torch-legacy", "weights", "a torch file")
    if re.match(rb"\x80[\x02-\x05]", start):
        embedded = b"_load_from_bytes" in start  # whole small torch files within a pickle, as NVIDIA's have
        if not embedded and re.search(
            rb"ctorch\n\w*Storage\n|\x8c\x05torch.{0,4}\x8c.\w*Storage", start, re.DOTALL
        ):
            return _DATA_PKL
        return Container("pickle", "weights", "a Python pickle")
    if re.match(rb"c[A-Za-z_][\w.]*\n\w+\n|\(([dl])?p\d+\n|[\]}(]q[\0-\x02]|\((c[A-Za-z_][\w.]*\n)", start):
        advice = "load it in the program that wrote it and save it again with protocol 2 or higher"
        return Container("old-pickle", "other", "a Python pickle of protocol 0 or 1 (Python 2)", advice)
    if start[:3] == b"\x08\x01\x12":  # schema version 1 and a graph, where ONNX has a version from 3 on
        return Container("savedmodel", "weights", "a TensorFlow SavedModel (.pb)")
    if re.match(
        rb"\x08[\x01-\x20](\x12.[\w .+-]+|.{0,40}(pytorch|onnx|tf2onnx|keras2onnx))", start, re.DOTALL
    ):
        return Container("onnx", "weights", "an ONNX model")
    if start[:1] == b"\n" and re.search(
        rb"\x12[\x05-\x0b](Placeholder|Const|NoOp|VariableV2|VarHandleOp)", start
    ):
        return Container("graphdef", "weights", "a TensorFlow graph (.pb or .meta)")
    if re.match(rb"\0\0.?.{0,3}\x08\x01\x12?.{0,4}\x1a\x02\x08\x01", start, re.DOTALL):
        return Container("tf-index", "weights", "the index of a TensorFlow checkpoint (.index)")
    return None


_DATA_PKL = Container(
    "torch-data-pkl",
    "other",
    "the data.pkl of an unpacked torch archive, a part of a .pt file without its numbers",
    "give the .pt or .pth itself, as it was before it was unpacked",
)


def _text(start: bytes, size: int) -> Container | None:
    """Texts: pages, pointers, JSON, XML and plain ones."""
    text = _decoded(start, len(start) == size)
    if text is None:
        return None
    text = text.lstrip("\ufeff \t\r\n\f\v")
    lower = text.lower()
    for sign, found in _TEXTS:
        if lower.startswith(sign):
            return found
    if re.match(r"(\.\.?/)*(\.git)?/?annex/objects/", lower):
        return _pointer("a git-annex pointer", "git annex get")
    if lower.startswith("<"):
        return _marked_up(lower)
    if text.startswith(("{", "[")):
        what = "a JSON text, such as a configuration or a server's message"
        return Container("json", "other", what, _PAGE if size < START_BYTES else "")
    if size < START_BYTES:
        what = "a short text, such as a server's message"
        return Container(
            "text", "other", what, "open it in a text editor to read it, then download the file again"
        )
    return Container("text", "other", "a text file")


def _decoded(start: bytes, whole: bool) -> str | None:
    """Return the text of bytes, None where they are none; `whole`: nothing of it was cut off."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) and len(start) > _SHORTEST_TEXT:
        text = start[: len(start) // 2 * 2].decode("utf-16", "replace")
        return text if text.isprintable() or "<" in text else None
    for cut in range(1 if whole else 4):  # the last character may be cut in two
        try:
            text = start[: len(start) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
        odd = any(character < " " and character not in "\t\r\n\f\v\x1b" for character in text)
        return None if odd or len(text) < _SHORTEST_TEXT else text
    plain = sum(32 <= byte < 127 or byte in (9, 10, 13) for byte in start)
    return start.decode("latin-1") if plain >= _PLAIN_SHARE * len(start) else None


def _pointer(what: str, command: str) -> Container:
    advice = (
        f"the file itself was not fetched: run '{command}' in the folder it comes from, or download it from "
        "its page"
    )
    return Container("pointer", "other", what, advice)


_LFS = _pointer("a Git LFS pointer, a few lines that stand for the file", "git lfs pull")
_HTTP = Container("http", "other", "a web server's answer with its headers", _PAGE)
_TEXTS = (
    ("version https://git-lfs", _LFS),
    ("version https://hawser", _LFS),
    ("# xet version", _pointer("a Xet pointer, a few lines that stand for the file", "git xet pull")),
    ("outs:\n- md5", _pointer("a DVC pointer", "dvc pull")),
    ("outs:\n- hash", _pointer("a DVC pointer", "dvc pull")),
    ("http/1.", _HTTP),
    ("http/2", _HTTP),
    ("[internetshortcut]", Container("shortcut", "other", "a link to a web page (.url)", _PAGE)),
    ("d8:announce", Container("torrent", "other", "a torrent file", "open it in a torrent program")),
    ("#!", Container("script", "other", "a program's text (a script)")),
)
_PAGE_FOUND = Container("html", "other", "a web page (HTML)", _PAGE)
_SVG = Container("svg", "picture", "a vector drawing (SVG)", _EXPORT)


def _marked_up(lower: str) -> Container:
    """HTML, SVG or other XML, whatever comments and declarations stand first."""
    bare = re.sub(r"<!--.*?(-->|$)|<\?.*?(\?>|$)", "", lower, flags=re.DOTALL).lstrip()
    if not bare:
        return Container("markup", "other", "a web page or other markup (HTML or XML)", _PAGE)
    if re.match(r"<!doctype\s+svg|<svg[\s>]|<svg:svg", bare):
        return _SVG
    if re.match(
        r"<(!doctype\s+html|html|head|body|title|meta|script|style|div|center|h1|p|a|link|base|table)\b", bare
    ):
        return _PAGE_FOUND
    if re.search(r"<(!doctype\s+html|html|head|body)\b", lower):
        return _PAGE_FOUND
    return Container("xml", "other", "an XML text, such as a server's message", _PAGE)
