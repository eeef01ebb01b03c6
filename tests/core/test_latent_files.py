"""Latents survive the way through a file; other files are refused."""

from __future__ import annotations

import pytest
import torch

from oneshot_core.checkpoints import CheckpointError, write_tensors
from oneshot_core.latent_files import load_latent, save_latent
from oneshot_core.latents import Latent

HEADER = {"format": "oneshot-latent", "format_version": 1, "space": "w", "family": "", "origin": {}}


@pytest.mark.parametrize(("space", "shape"), [("z", (2, 5)), ("w", (1, 5)), ("w+", (2, 3, 5))])
def test_what_is_saved_is_loaded(tmp_path, space, shape):
    latent = Latent(space, torch.randn(shape), "abc", {"seeds": [1, 2]})
    loaded = load_latent(save_latent(latent, tmp_path / "latent.safetensors"))
    assert (loaded.space, loaded.family, loaded.origin) == (space, "abc", {"seeds": [1, 2]})
    assert torch.equal(loaded.values, latent.values)


@pytest.mark.parametrize(
    ("header", "tensors", "words"),
    [
        ({"format": "oneshot-stylegan"}, {}, "no latent"),
        ({"space": "q"}, {}, "damaged"),
        ({}, {"latent": torch.zeros(1, 2, 3)}, "shape"),
        ({}, {"latent": torch.full((1, 5), float("nan"))}, "finite"),
        ({}, {"other": torch.zeros(1, 5)}, "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path, header, tensors, words):
    path = write_tensors(
        tmp_path / "x.safetensors", tensors or {"latent": torch.zeros(1, 5)}, {**HEADER, **header}
    )
    with pytest.raises(CheckpointError, match=words):
        load_latent(path)
    with pytest.raises(CheckpointError):
        load_latent(tmp_path / "missing.safetensors")
