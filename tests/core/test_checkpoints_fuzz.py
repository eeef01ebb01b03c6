"""Blindly damaged network files of every container: they load, or they are refused with our kind of error."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import LONG, failures, wrong_error
from network_pickles import (
    EasyDict,
    names_of_the_repositories,
    nvidia_discriminator,
    nvidia_generator,
    tf_discriminator,
    tf_generator,
)
from tiny_networks import tiny_bundle
from torch import nn

from oneshot_core import checkpoints
from oneshot_core.checkpoints import CheckpointError, read_state_dict, rosinality

__all__ = ["names_of_the_repositories"]  # a fixture that every test here uses
PIECE = 5_000  # bytes at the start that half of the damage keeps to, where names and settings stand closest


def nvidia_root() -> dict[str, Any]:
    judge = nn.Sequential(torch.nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), nn.LeakyReLU())
    settings = EasyDict(path="x", size=(1, 2), flags={True: None})
    return {"training_set_kwargs": settings, "G_ema": nvidia_generator(), "D": judge, "G": nvidia_generator()}


def saved(value: Any, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def rosinality_root() -> dict[str, Any]:
    bundle = tiny_bundle()
    assert bundle.discriminator is not None
    return {
        "args": {"size": 16, "rates": [0.1, None, True]},
        "latent_avg": bundle.mean_latent,
        "d": rosinality.discriminator_state(bundle.discriminator),
        "g_ema": rosinality.generator_state(bundle.generator),
    }


SOUND: dict[str, Callable[[], bytes]] = {
    "nvidia-2": lambda: pickle.dumps(nvidia_root(), 2),
    "nvidia-4": lambda: pickle.dumps(nvidia_root(), 4),
    "nvidia-discriminator": lambda: pickle.dumps(
        {"G_ema": nvidia_generator(), "D": nvidia_discriminator()}, 4
    ),
    "nvidia-torch-zip": lambda: saved(nvidia_root(), zipped=True),
    "nvidia-torch-legacy": lambda: saved(nvidia_root(), zipped=False),
    "tensorflow-2": lambda: pickle.dumps((tf_generator(), tf_discriminator(), tf_generator()), 2),
    "tensorflow-4": lambda: pickle.dumps(tf_generator(randomize_noise=True, wings=2), 4),
    "torch-zip": lambda: saved(rosinality_root(), zipped=True),
    "torch-legacy": lambda: saved(rosinality_root(), zipped=False),
}


ODD = (
    b"N", b"\x88", b"]", b"}", b")", b"\x8f", b"K\x00", b"K\xff", b"J\xff\xff\xff\xff", b"M\xff\xff",
    b"\x8a\x09" + b"\xff" * 8 + b"\x7f", b"\x8a\x10" + b"\xff" * 15 + b"\x7f", b"G\x7f\xf8" + bytes(6),
    b"X\x00\x00\x00\x00", b"X\x03\x00\x00\x00a.b", b"C\x00", b"h\x00", b"h\x05", b"h\x20",
)  # fmt: skip


def mutated(raw: bytes, seed: int) -> bytes:
    """Replace, drop, double or swap whole instructions of a pickle: what random bytes seldom reach."""
    rng = random.Random(seed)
    places = [place for _, _, place in pickletools.genops(raw) if place is not None]
    parts = [raw[start:end] for start, end in zip(places, [*places[1:], len(raw)], strict=True)]
    for _ in range(rng.randint(1, 3)):
        one, other = rng.randrange(1, len(parts) - 1), rng.randrange(1, len(parts) - 1)
        way = rng.randrange(5)
        if way < 2:
            parts[one] = rng.choice(ODD)
        elif way == 2:
            parts[one] = b""
        elif way == 3:
            parts.insert(one, parts[other])
        else:
            parts[one], parts[other] = parts[other], parts[one]
    return b"".join(parts)


def read(path: Path) -> None:
    """Every way in; a refusal by one of them must not keep the others from being tried."""
    refused = 0
    for function in (checkpoints.inspect, checkpoints.load, read_state_dict):
        try:
            function(path)
        except CheckpointError as error:
            assert "\n" not in str(error), "an error of several lines"
            refused += 1
    if refused:
        raise CheckpointError("refused")


def found(kind: str, path: Path, seeds: range) -> list[str]:
    sound = SOUND[kind]()
    half = len(seeds) // 2
    wrong = list(failures(read, sound, path, seeds[:half], (CheckpointError,)))
    return wrong + list(failures(read, sound, path, seeds[half:], (CheckpointError,), head=PIECE))


@pytest.mark.parametrize("kind", SOUND)
def test_damage_ends_in_our_error(kind: str, tmp_path: Path) -> None:
    (tmp_path / "sound").write_bytes(SOUND[kind]())
    checkpoints.load(tmp_path / "sound")
    assert found(kind, tmp_path / "damaged", range(10)) == []


def found_in_instructions(kind: str, path: Path, seeds: range) -> list[str]:
    sound = without_frames(SOUND[kind]())
    wrong = []
    for seed in seeds:
        path.write_bytes(mutated(sound, seed))
        wrong += wrong_error(read, path, seed, (CheckpointError,))
    return wrong


def without_frames(raw: bytes) -> bytes:
    """Drop the frames, whose lengths would no longer be true."""
    places = [(opcode.name, place) for opcode, _, place in pickletools.genops(raw) if place is not None]
    ends = [place for _, place in places[1:]] + [len(raw)]
    return b"".join(
        raw[start:end] for (name, start), end in zip(places, ends, strict=True) if name != "FRAME"
    )


PICKLES = [kind for kind in SOUND if "torch" not in kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", PICKLES)
def test_odd_instructions_end_in_our_error(kind: str, tmp_path: Path) -> None:
    (tmp_path / "sound").write_bytes(without_frames(SOUND[kind]()))
    checkpoints.load(tmp_path / "sound")
    assert found_in_instructions(kind, tmp_path / "mutated", range(10)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", PICKLES)
def test_many_odd_instructions_end_in_our_error(kind: str, tmp_path: Path) -> None:
    assert found_in_instructions(kind, tmp_path / "mutated", LONG) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOUND)
def test_much_damage_ends_in_our_error(kind: str, tmp_path: Path) -> None:
    assert found(kind, tmp_path / "damaged", LONG) == []
