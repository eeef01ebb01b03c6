"""Latents that other programs write: numpy files, torch files, plain safetensors; damaged ones."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from fuzzing import LONG, failures, mutated_json
from safetensors.torch import save_file
from tiny_networks import tiny_bundle

from oneshot_core.checkpoints import CheckpointError
from oneshot_core.latent_files import latent_notes, load_latent, save_latent
from oneshot_core.latents import Latent
from oneshot_core.sampling import keys_of

SLOTS, WIDTH = 8, 12
W_PLUS = np.random.default_rng(1).normal(size=(1, SLOTS, WIDTH)).astype(np.float32)
FOUND = torch.from_numpy(W_PLUS)
GENERATOR = tiny_bundle(32).generator  # 8 slots


def npy(path, value):
    with path.open("wb") as file:  # numpy adds a suffix to names
        np.save(file, value)


def npz(path, *values, save=np.savez, **named):
    with path.open("wb") as file:
        save(file, *values, **named)


def tensor(value=W_PLUS, dtype=None):
    return torch.from_numpy(np.ascontiguousarray(value)).to(dtype or torch.float32)


def rosinality(*pictures):
    noise = [torch.randn(1, 1, 4, 4)]
    return {name: {"img": torch.rand(1, 3, 8, 8), "latent": code, "noise": noise} for name, code in pictures}


FOREIGN = {  # how it is written, space, codes
    "NVIDIA's projector": (lambda p: npz(p, w=W_PLUS), "w+", FOUND),
    "compressed": (lambda p: npz(p, save=np.savez_compressed, w=W_PLUS), "w+", FOUND),
    "without a name": (lambda p: npz(p, W_PLUS), "w+", FOUND),
    "beside other arrays": (lambda p: npz(p, w=W_PLUS, loss=np.zeros(3)), "w+", FOUND),
    "one w+ code": (lambda p: npy(p, W_PLUS[0]), "w+", FOUND),
    "several w+ codes": (lambda p: npy(p, np.repeat(W_PLUS, 3, 0)), "w+", FOUND.repeat(3, 1, 1)),
    "in a batch of pictures": (lambda p: npy(p, W_PLUS[:, None].repeat(2, 0)), "w+", FOUND.repeat(2, 1, 1)),
    "one w code": (lambda p: npy(p, W_PLUS[0, 0]), "w", FOUND[:, 0]),
    "a row": (lambda p: npy(p, W_PLUS[:, 0]), "w", FOUND[:, 0]),
    "a row in a batch": (lambda p: npy(p, W_PLUS[:, :1]), "w", FOUND[:, 0]),
    "three rows": (lambda p: npy(p, W_PLUS[0, :3]), "w", FOUND[0, :3]),
    "float64": (lambda p: npy(p, W_PLUS.astype(np.float64)), "w+", FOUND),
    "float16": (lambda p: npy(p, W_PLUS.astype(np.float16)), "w+", FOUND.half().float()),
    "big endian": (lambda p: npy(p, W_PLUS.astype(">f4")), "w+", FOUND),
    "columns first": (lambda p: npy(p, np.asfortranarray(W_PLUS)), "w+", FOUND),
    "z by its name": (lambda p: npz(p, z=W_PLUS[0, :3]), "z", FOUND[0, :3]),
    "a torch tensor": (lambda p: torch.save(tensor(), p), "w+", FOUND),
    "an older torch file": (
        lambda p: torch.save(tensor(), p, _use_new_zipfile_serialization=False), "w+", FOUND,
    ),
    "OneshotCLIP's": (
        lambda p: torch.save({"init_w": tensor(W_PLUS[:, 0]).requires_grad_()}, p), "w", FOUND[:, 0],
    ),
    "a parameter": (lambda p: torch.save(torch.nn.Parameter(tensor()), p), "w+", FOUND),
    "e4e's": (lambda p: torch.save({"latents": tensor(), "images": torch.rand(4)}, p), "w+", FOUND),
    "half precision": (lambda p: torch.save(tensor(dtype=torch.float16), p), "w+", FOUND.half().float()),
    "rosinality's projector": (
        lambda p: torch.save(rosinality(("a.png", tensor()[0, 0]), ("b.png", tensor()[0, 1])), p),
        "w", FOUND[0, :2],
    ),
    "rosinality's with w+": (lambda p: torch.save(rosinality(("a.png", tensor()[0])), p), "w+", FOUND),
    "one entry per picture": (
        lambda p: torch.save({"0.jpg": tensor()[0], "1.jpg": tensor()[0]}, p), "w+", FOUND.repeat(2, 1, 1),
    ),
    "a list": (lambda p: torch.save([tensor(), tensor()], p), "w+", FOUND.repeat(2, 1, 1)),
    "an array in a torch file": (lambda p: torch.save({"w": W_PLUS}, p), "w+", FOUND),
    "within": (lambda p: torch.save({"result": OrderedDict(wp=tensor())}, p), "w+", FOUND),
    "safetensors": (lambda p: save_file({"latents": tensor()}, p, metadata={"format": "pt"}), "w+", FOUND),
    "safetensors of any name": (lambda p: save_file({"x": tensor(dtype=torch.bfloat16)}, p), "w+",
                                FOUND.bfloat16().float()),
}  # fmt: skip


@pytest.mark.parametrize(("write", "space", "codes"), FOREIGN.values(), ids=FOREIGN)
def test_codes_of_other_programs_are_read(write, space, codes, tmp_path):
    path = tmp_path / "projected.dat"  # names do not matter
    write(path)
    for slots in (SLOTS, None):
        latent = load_latent(path, slots)
        assert (latent.space, latent.family) == (space, "")
        assert latent.values.dtype == torch.float32
        torch.testing.assert_close(latent.values, codes, rtol=0, atol=0)
        assert "does not say which generator" in latent_notes(latent)[0]
    saved = load_latent(save_latent(latent, tmp_path / "own.safetensors"))
    assert saved.space == space and saved.origin == latent.origin


def test_rows_are_one_code_or_several_as_the_generator_has_slots(tmp_path):
    npy(tmp_path / "rows.npy", W_PLUS[0])
    assert load_latent(tmp_path / "rows.npy", SLOTS).space == "w+"
    several = load_latent(tmp_path / "rows.npy", 10)
    assert (several.space, len(several.values)) == ("w", SLOTS)
    assert "8 codes in w" in latent_notes(several)[1]
    assert "as a generator of 32 px has" in latent_notes(load_latent(tmp_path / "rows.npy"))[1]


def test_z_codes_without_a_name_are_noticed(tmp_path):
    npy(tmp_path / "z.npy", torch.randn(3, 512, generator=torch.Generator().manual_seed(0)).numpy())
    npy(
        tmp_path / "w.npy",
        torch.randn(3, 512, generator=torch.Generator().manual_seed(0)).numpy() * 0.6 + 0.1,
    )
    assert "look like z codes" in latent_notes(load_latent(tmp_path / "z.npy"))[-1]
    assert "look like z" not in " ".join(latent_notes(load_latent(tmp_path / "w.npy")))


def test_a_generator_of_other_sizes_is_refused_by_name(tmp_path):
    npy(tmp_path / "w.npy", np.ones((1, 18, 512), np.float32))
    with pytest.raises(
        ValueError, match=r"w\+ have 18 slots of width 512.*32 px.*8 slots of width 12;.*made with"
    ):
        load_latent(tmp_path / "w.npy").codes(GENERATOR)


def inf(shape=(1, 8, 16), value=np.inf):
    values = np.ones(shape, np.float32)
    values.flat[3] = value
    return values


def bomb(path):
    """32 MB of zeros, packed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", header("(1, 18, 450000)") + bytes(1 << 25))


def lying(path):
    """An entry that holds more than its directory says."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", header("(1, 20, 400000)") + bytes(32_000_000))
    data = bytearray(path.read_bytes())
    place = data.rfind(b"PK\x01\x02")
    data[place + 24 : place + 28] = (2000).to_bytes(4, "little")
    path.write_bytes(data)


def header(shape, kind="<f4", order="False"):
    text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


def wide(path):
    torch.save({"w": torch.zeros(1, 1, 1).expand(10_000, 18, 512)}, path)


REFUSED = {
    "infinity": (lambda p: npy(p, inf()), "finite"),
    "NaN in an archive": (lambda p: npz(p, w=inf(value=np.nan)), "finite"),
    "NaN in a torch file": (lambda p: torch.save(tensor(inf(value=np.nan)), p), "finite"),
    "beyond float32": (lambda p: npy(p, np.full((1, 8, 16), 1e300)), "float32|finite"),
    "whole numbers": (lambda p: npy(p, np.ones((1, 8, 16), np.int64)), "type torch.int64.*floating"),
    "complex": (lambda p: npy(p, W_PLUS.astype(np.complex64)), "plain numbers"),
    "texts": (lambda p: npy(p, np.array(["a", "b"])), "plain numbers"),
    "objects": (lambda p: npy(p, np.array({"0.jpg": [1.0]}, dtype=object)), "Python objects.*numpy.save"),
    "objects in an archive": (lambda p: npz(p, w=np.array([None])), "Python objects"),
    "records": (lambda p: npy(p, np.zeros(3, dtype=[("a", "f4"), ("b", "i4")])), "records"),
    "nothing": (lambda p: npy(p, np.ones((0, 8, 16), np.float32)), "no code"),
    "a number": (lambda p: npy(p, np.float32(1)), "one number"),
    "too many dimensions": (lambda p: npy(p, np.ones((2, 3, 8, 16), np.float32)), r"\[N, L, W\]"),
    "z of w+": (lambda p: npz(p, z=W_PLUS), "z codes of shape"),
    "a cut array": (lambda p: p.write_bytes(header("(1, 8, 16)") + bytes(99)), "truncated"),
    "a huge shape": (lambda p: p.write_bytes(header("(99999999999, 99999999999)") + bytes(99)), "truncated"),
    "a huge number": (lambda p: p.write_bytes(header(f"({'9' * 900},)") + bytes(99)), "shape"),
    "a program as shape": (lambda p: p.write_bytes(header("(os.abort(),)") + bytes(9)), "plain numbers"),
    "a packed bomb": (bomb, "beyond the size|truncated"),
    "a lying directory": (lying, "declares more|damaged"),
    "an expanded tensor": (wide, "far more than the file"),
    "a checkpoint": (lambda p: torch.save({"g_ema": {"a": tensor()}, "w": tensor()}, p), "checkpoint"),
    "no name known": (lambda p: npz(p, x=np.ones(3), y=np.ones(4)), "2 entries.*'x', 'y'.*name w"),
    "a text": (lambda p: torch.save({"w": "x"}, p), "entries|known"),
    "unequal codes": (lambda p: torch.save([tensor(), tensor()[0, :2]], p), "one shape"),
    "a list of its own": (lambda p: torch.save([[[[1.0]]]], p), "not all codes"),
    "a page": (lambda p: p.write_text("<html></html>"), r"web page \(HTML\), not latents"),
    "a picture": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), r"picture \(PNG\), not latents"),
    "packed": (lambda p: p.write_bytes(b"\x1f\x8b\x08\0" + bytes(99)), "gzip"),
    "random bytes": (lambda p: p.write_bytes(bytes(range(128, 256)) * 3), "holds no latents"),
    "an empty file": (lambda p: p.write_bytes(b""), "empty"),
}  # fmt: skip


@pytest.mark.parametrize(("write", "words"), REFUSED.values(), ids=REFUSED)
def test_what_holds_no_codes_is_refused_in_words(write, words, tmp_path):
    path = tmp_path / "file"
    write(path)
    began = time.process_time()
    with pytest.raises(CheckpointError, match=words) as caught:
        load_latent(path)
    assert time.process_time() - began < 1
    assert not re.search(r"b'|Record|Source|StoredTensor|\n", str(caught.value))


def sound():
    """One small file of each kind."""
    written = {
        "npy": lambda p: npy(p, W_PLUS),
        "npz": lambda p: npz(p, w=W_PLUS, noise=np.zeros(3)),
        "packed npz": lambda p: npz(p, save=np.savez_compressed, w=W_PLUS),
        "pt": lambda p: torch.save(rosinality(("a.png", tensor()[0])), p),
        "older pt": lambda p: torch.save({"w": tensor()}, p, _use_new_zipfile_serialization=False),
        "safetensors": lambda p: save_file({"w": tensor()}, p),
        "own": lambda p: save_latent(Latent("w+", tensor(), "abc", {"seeds": [1]}), p),
    }
    return written


@pytest.mark.parametrize(("name", "write"), sound().items(), ids=sound())
def test_damaged_files_end_in_one_kind_of_error(name, write, tmp_path):
    path = tmp_path / "latent"
    write(path)
    data = path.read_bytes()
    read = lambda p: load_latent(p, SLOTS).codes(GENERATOR)  # noqa: E731
    head = None if "z" in name or "pt" in name else 400
    assert list(failures(read, data, path, range(150), (CheckpointError,), head)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "write"), sound().items(), ids=sound())
def test_many_damaged_files_end_in_one_kind_of_error(name, write, tmp_path):
    path = tmp_path / "latent"
    write(path)
    data = path.read_bytes()
    assert list(failures(load_latent, data, path, LONG, (CheckpointError,))) == []


@pytest.mark.parametrize(
    ("origin", "words"),
    [({"seeds": 5}, "seeds"), ({"seeds": ["a"]}, "seeds"), ([], "origin"), ("x", "origin")],
)
def test_an_odd_origin_is_refused(tmp_path, origin, words):
    path = save_latent(Latent("w", torch.ones(1, 5), "", origin), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_latent(path)


def test_odd_headers_end_in_one_kind_of_error(tmp_path):
    values = {"format": "oneshot-latent", "format_version": 1, "space": "w+", "family": "a"}
    values["origin"] = {"seeds": [1], "notes": ["x"]}
    read = 0
    for seed in range(300):
        header = json.dumps(mutated_json(values, seed))
        save_file({"latent": tensor()}, tmp_path / "x", metadata={"oneshot": header})
        try:
            latent = load_latent(tmp_path / "x")
        except CheckpointError:
            continue
        read += 1
        assert all(type(key) is int for key in keys_of(latent))
        assert isinstance(latent_notes(latent), list)
    assert 20 < read < 200
