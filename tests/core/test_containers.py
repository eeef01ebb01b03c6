"""What a file is, from its first bytes, in words."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import re
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from oneshot_core import containers
from oneshot_core.checkpoints import CheckpointError, detect
from oneshot_core.containers import archive, recognised, told

PAGE = "<!DOCTYPE html><html><head><title>Quota exceeded</title></head><body>Too many users</body></html>\n"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'5e' * 32}\nsize 381646934\n"
NETWORK = pickle.dumps({"weights": list(range(2000)), "noise": random.Random(0).randbytes(900)}, protocol=4)


def zipped(*names: str, compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name in names:
            file.writestr(name, NETWORK)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        entry = tarfile.TarInfo("network.pkl")
        entry.size = len(NETWORK)
        file.addfile(entry, io.BytesIO(NETWORK))
    return out.getvalue()


def saved(value, **options) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 10)).save(out, kind)
    return out.getvalue()


def boxed(brand: bytes, *more: bytes) -> bytes:
    brands = brand + bytes(4) + b"".join(more)
    return (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(range(256)) * 4


def array(value) -> bytes:
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


def arrays(**values) -> bytes:
    out = io.BytesIO()
    np.savez(out, **values)
    return out.getvalue()


PAGES = {
    "page": PAGE.encode(),
    "after newlines": b"\n\n" + PAGE.lower().encode(),
    "after a mark": b"\xef\xbb\xbf \r\n" + PAGE.encode(),
    "UTF-16": PAGE.encode("utf-16"),
    "no doctype": b"<html lang=en>\n<head></head></html>",
    "head first": b"<HEAD><TITLE>403 Forbidden</TITLE></HEAD><BODY></BODY>",
    "comment first": b"<!-- saved from url=(0042) -->\n<!--[if IE]><![endif]-->\n" + PAGE.encode(),
    "long comment first": b"<!--" + b" mirror" * 900 + b"--><html></html>",
    "XHTML": b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0//EN">\n<html></html>',
    "script first": b"<script>window.location='/login'</script>",
    "older encoding": PAGE.replace("Too", "\xdcber").encode("latin-1"),
    "a large one": (PAGE * 200).encode(),
}
KINDS = {
    "gzip": (gzip.compress(NETWORK), "gzip"),
    "bzip2": (bz2.compress(NETWORK), "bzip2"),
    "xz": (lzma.compress(NETWORK), "xz"),
    "lzma": (lzma.compress(NETWORK, format=lzma.FORMAT_ALONE), "LZMA"),
    "zstd": (b"\x28\xb5\x2f\xfd\x24" + NETWORK, "zstd"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + NETWORK, "7-Zip"),
    "rar": (b"Rar!\x1a\x07\x01\0" + NETWORK, "RAR"),
    "tar": (tarred(), "tar archive"),
    "tar.gz": (gzip.compress(tarred()), "gzip"),
    "zip": (zipped("network-snapshot-000100.pkl"), "zip archive that contains network-snapshot-000100.pkl"),
    "packed zip": (zipped("a/ffhq.pt", compression=zipfile.ZIP_DEFLATED), "contains ffhq.pt"),
    "empty zip": (zipped(), "empty zip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 40, "HDF5"),
    "hdf5 after a block": (bytes(512) + b"\x89HDF\r\n\x1a\n" + bytes(900), "Keras"),
    "Keras 3": (zipped("metadata.json", "model.weights.h5"), "zip|Keras"),
    "zeros": (bytes(50_000), "all zeros.*incomplete download"),
    "a text-decoded pickle": (NETWORK.decode("utf-8", "replace").encode(), "text encoding"),
    "a Latin-1 pickle": (NETWORK.decode("latin-1").encode("utf-8"), "text encoding"),
    "a text-decoded archive": (saved(torch.rand(900)).decode("utf-8", "replace").encode(), "text encoding"),
    "AppleDouble": (b"\0\x05\x16\x07\0\2\0\0Mac OS X        " + bytes(60), "AppleDouble"),
    "AppleSingle": (b"\0\x05\x16\0\0\2\0\0" + bytes(60), "AppleSingle"),
    "LFS": (POINTER.encode(), "Git LFS"),
    "LFS after a mark": (b"\xef\xbb\xbf" + POINTER.encode(), "Git LFS"),
    "annex": (b"../../.git/annex/objects/J7/q9/SHA256E-s381646934--5e.pt", "git-annex"),
    "JSON": (json.dumps({"error": "Access to model is restricted"}).encode(), "JSON"),
    "JSON like a header": (b'{"abcd":{"dtype": 1}}' + b" " * 5000, "JSON"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "SVG"),
    "SVG after a comment": (b'<?xml version="1.0"?>\n<!-- Inkscape -->\n<svg></svg>', "SVG"),
    "a word": (b"Entry not found", "short text"),
    "a readme": (b"# Networks\n\nDownload them here.\n" * 400, "text file"),
    "PNG": (picture("PNG"), "picture .PNG"),
    "JPEG": (picture("JPEG"), "picture .JPEG"),
    "GIF": (picture("GIF"), "picture .GIF"),
    "WEBP": (picture("WEBP"), "picture .WebP"),
    "BMP": (picture("BMP"), "picture .BMP"),
    "TIFF": (picture("TIFF"), "picture .TIFF"),
    "HEIC": (boxed(b"heic", b"mif1", b"heic"), "HEIC"),
    "HEIF": (boxed(b"mif1", b"mif1", b"heix"), "HEIC/HEIF"),
    "AVIF": (boxed(b"avif", b"mif1", b"miaf"), "AVIF"),
    "MP4": (boxed(b"isom", b"iso2", b"mp41"), "video .MP4"),
    "MOV": (boxed(b"qt  ", b"qt  "), "video .QuickTime"),
    "CR3": (boxed(b"crx ", b"crx ", b"isom"), "RAW"),
    "WebM": (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01" + bytes(80), "video .WebM"),
    "AVI": (b"RIFF\0\1\0\0AVI LIST" + bytes(80), "video .AVI"),
    "WAV": (b"RIFF\0\1\0\0WAVEfmt " + bytes(80), "sound"),
    "PSD": (b"8BPS\0\1" + bytes(80), "Photoshop"),
    "PDF": (b"%PDF-1.7\n" + NETWORK, "PDF"),
    "npy": (array(np.ones(3)), "numpy"),
    "npz": (arrays(w=np.ones(3)), "numpy arrays"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x051.9.0:\xd0\x01" + NETWORK, "ONNX"),
    "SavedModel": (b"\x08\x01\x12\x90\x80\x01\n" + NETWORK, "SavedModel"),
    "TFLite": (b"\x1c\0\0\0TFL3" + NETWORK, "TensorFlow Lite"),
    "GGUF": (b"GGUF\3\0\0\0" + NETWORK, "GGUF"),
    "EXE": (b"MZ\x90\0\3\0\0\0" + NETWORK, "Windows program"),
    "ELF": (b"\x7fELF\2\1\1" + NETWORK, "Linux program"),
    "protocol 0": (pickle.dumps({"a": 1}, protocol=0), "protocol 0 or 1"),
    "protocol 0 of a class": (b"ccopy_reg\n_reconstructor\np0\n" + bytes(9), "protocol 0 or 1"),
    "protocol 1": (pickle.dumps({"a": list(range(9))}, protocol=1), "protocol 0 or 1"),
    "nothing": (b"", "empty"),
}  # fmt: skip


@pytest.mark.parametrize("data", PAGES.values(), ids=PAGES)
def test_a_page_is_called_a_web_page(data):
    assert re.search(
        r"is a web page .*\(HTML.*\), not a checkpoint; .*download", told(data, len(data), "a checkpoint")
    )


@pytest.mark.parametrize(("data", "words"), KINDS.values(), ids=KINDS)
def test_containers_are_named_in_words(data, words, tmp_path):
    said = told(data, len(data), "a checkpoint", "give the network")
    assert re.search(words, said), said
    assert "; " in said, "every sentence says what to do"
    path = tmp_path / "network.pkl"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        detect(path)
    text = str(caught.value)
    assert re.search(words, text) or "truncated" in text, text
    assert not re.search(r"b'|b\"|\\x", text), "no quoted bytes"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (saved({"a": torch.ones(2)}), "torch-zip"),
        (saved({"a": torch.ones(2)}, _use_new_zipfile_serialization=False), "torch-legacy"),
        (NETWORK, "pickle"),
        (pickle.dumps({"a": 1}, protocol=2), "pickle"),
        (save({"a": torch.ones(2)}), "safetensors"),
        *(
            (length.to_bytes(8, "little") + b'{"a": {}}' + b" " * length, "safetensors")
            for length in (640, 896)
        ),
        (save({f"layer.{i}": torch.ones(2) for i in range(90)}), "safetensors"),
    ],
)
def test_weights_are_recognised(data, name):
    found = recognised(data[: containers.START_BYTES], len(data))
    assert (found.name, found.kind) == (name, "weights")


def test_a_part_of_an_unpacked_archive_is_recognised():
    data = saved({"a": torch.ones(2), "b": torch.ones(3, dtype=torch.float16)})
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        part = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))
    assert re.search(
        r"data\.pkl of an unpacked torch archive.*give the \.pt", told(part, len(part), "weights")
    )


def test_archives_are_told_from_all_names():
    assert archive(["__MACOSX/._a.pkl", "a.pkl", "b/"]).what == "a zip archive that contains a.pkl"
    assert archive(["m/data.pkl", "m/data/0", "m/version"]).name == "torch-zip"
    assert archive(["m/data.pkl", "m/code/__torch__.py"]).name == "torchscript"
    assert archive(["w.npy", "v.npy"]).name == "npz"
    assert archive(["\x1b[31m.pkl"]).what == "a zip archive around other files"


def test_random_bytes_and_their_beginnings_never_fail():
    rng = random.Random(3)
    beginnings = [data for data, _ in KINDS.values()]
    for _ in range(3000):
        start = rng.choice(beginnings)[: rng.randint(0, 40)] + rng.randbytes(rng.randint(0, 60))
        said = told(start, rng.choice([len(start), 10**7]), "a checkpoint")
        assert said is None or said.isprintable()
    unknown = [recognised(data, 10**6) for data in (rng.randbytes(4096) for _ in range(300))]
    assert sum(found is not None for found in unknown) <= 3


def test_a_pickle_that_embeds_small_torch_files_is_a_whole_one():
    """As NVIDIA's are: the storage's name stands in the embedded file, near the start of a small network."""
    data = pickle.dumps({"weight": torch.ones(2)}, protocol=4)
    assert b"Storage" in data[: containers.START_BYTES]
    assert recognised(data[: containers.START_BYTES], len(data)).name == "pickle"
