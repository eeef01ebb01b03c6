"""Damaged safetensors files and state dicts end in CheckpointError, whatever reads them."""

from __future__ import annotations

import io
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import LONG, failures, mutated_json, wrong_error
from safetensors.torch import save, save_file

from oneshot_core import checkpoints
from oneshot_core.checkpoints import CheckpointError
from oneshot_core.commands import files
from tests import other_names
from tests.tiny_networks import tiny_bundle

BUNDLE = tiny_bundle(size=16)
SEEDS = range(60)


def torch_file(values: Any, legacy: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(values, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def native() -> bytes:
    """A file of the own format, by the library's own writer."""
    config = BUNDLE.generator.config.to_dict()
    assert BUNDLE.discriminator is not None
    tensors = {**other_names.own(BUNDLE.generator), "mean_latent": BUNDLE.mean_latent}
    tensors |= other_names.own(BUNDLE.discriminator, "discriminator.")  # type: ignore[arg-type]
    return save(tensors, {"oneshot": json.dumps(header(config))})


def header(config: dict[str, Any]) -> dict[str, Any]:
    assert BUNDLE.discriminator is not None
    origin = {"format": "test", "file_name": "x.pt", "sha256": None, "inferred": {"a": 1}, "notes": ["b"]}
    return {
        "format": "oneshot-stylegan",
        "format_version": 1,
        "generator": config,
        "discriminator": BUNDLE.discriminator.config.to_dict(),
        "provenance": {
            **origin,
            "history": {"parent": {"file_name": "p"}, "step": 3, "more": [1, {"c": None}]},
        },
    }


def info(path: Path) -> None:
    files.info(Namespace(file=str(path), json=False))


SOUND: dict[str, Callable[[], bytes]] = {
    "native.safetensors": native,
    "rosinality.pt": lambda: torch_file({"g_ema": other_names.rosinality(BUNDLE.generator), "iter": 3}),
    "legacy.pt": lambda: torch_file(other_names.nvidia(BUNDLE.generator), legacy=True),
    "rosinality.safetensors": lambda: save(other_names.rosinality(BUNDLE.generator)),
    "nvidia.safetensors": lambda: save(other_names.nvidia(BUNDLE.generator)),
    "genforce.safetensors": lambda: save(other_names.genforce(BUNDLE.generator)),
    "own.safetensors": lambda: save(other_names.own(BUNDLE.generator)),
}


def damaged(name: str, seeds: range, folder: Path) -> list[str]:
    """Read damaged variants in every way; what broke otherwise than by CheckpointError."""
    sound, found = SOUND[name](), []
    for read in (checkpoints.inspect, checkpoints.load, checkpoints.read_tensors, info):
        if read is checkpoints.load:
            chosen = range(seeds.start, seeds.start + len(seeds) // 6)  # the slow one
        elif read is checkpoints.read_tensors and not name.endswith(".safetensors"):
            continue
        else:
            chosen = seeds
        found += failures(read, sound, folder / name, chosen, (CheckpointError,), head=8_000)
    return found


@pytest.mark.parametrize("name", SOUND)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    assert damaged(name, SEEDS, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_many_damaged_files(name: str, tmp_path: Path) -> None:
    assert damaged(name, LONG, tmp_path) == []


def mutated_headers(seeds: range, folder: Path) -> list[str]:
    """The own header with one value of another type, removed or nested deeply."""
    tensors = {**other_names.own(BUNDLE.generator), "mean_latent": BUNDLE.mean_latent}
    tensors |= other_names.own(BUNDLE.discriminator, "discriminator.")  # type: ignore[arg-type]
    sound, path, found = header(BUNDLE.generator.config.to_dict()), folder / "x.safetensors", []
    for seed in seeds:
        save_file(tensors, path, {"oneshot": json.dumps(mutated_json(sound, seed))})
        for read in (checkpoints.inspect, checkpoints.read_tensors, info):
            lines = wrong_error(read, path, seed, (CheckpointError,))
            found += [f"{read.__name__}: {line}" for line in lines]
    return found


@pytest.mark.slow
def test_headers_with_other_values(tmp_path: Path) -> None:
    assert mutated_headers(range(80), tmp_path) == []


@pytest.mark.slow
def test_many_headers_with_other_values(tmp_path: Path) -> None:
    assert mutated_headers(LONG, tmp_path) == []


def odd_roots(seeds: range, folder: Path) -> list[str]:
    """State dicts with one odd entry among their tensors, or nested oddly."""
    state: dict[str, Any] = {name: 0 for name in other_names.rosinality(BUNDLE.generator)}
    values = {"g_ema": state, "d": {"a": 0}, "latent_avg": 0, "args": {"x": [1]}}
    found: list[str] = []
    for seed in seeds:
        changed = with_tensors(mutated_json(values, seed), other_names.rosinality(BUNDLE.generator))
        (folder / "x.pt").write_bytes(torch_file(changed))
        found += wrong_error(checkpoints.inspect, folder / "x.pt", seed, (CheckpointError,))
    return found


def with_tensors(values: Any, state: dict[str, torch.Tensor]) -> Any:
    """Put tensors in place of the zeros."""
    if isinstance(values, dict):
        return {
            name: state.get(name, torch.ones(3))
            if value == 0 and value is not False
            else with_tensors(value, state)
            for name, value in values.items()
        }
    return values


@pytest.mark.slow
def test_odd_entries_in_state_dicts(tmp_path: Path) -> None:
    assert odd_roots(range(80), tmp_path) == []
