"""Mappers that are kept: trained once, gone on with after a stop, no state left beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reading_clip import SIZE, TEXT, ReadingClip
from stand_ins import tiny_bundle

from oneshot_core.editing import MapperConfig, train_mapper
from oneshot_core.editing.mapper_cache import cached_mapper
from oneshot_core.kept_folders import KeptFolders

SHORT = MapperConfig(steps=4, validate_every=2, validation_codes=2, fine=False)


def kept(folder: Path, config: MapperConfig = SHORT, limit: int | None = None, **more):
    return cached_mapper(KeptFolders(folder, limit), tiny_bundle(SIZE), ReadingClip(), TEXT, config, **more)


def test_it_is_trained_once_and_goes_on_after_a_stop(tmp_path: Path):
    def stop(now) -> None:
        if now.step == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        kept(tmp_path, callbacks=[stop])
    assert list(tmp_path.rglob("state*"))
    steps: list[int] = []
    mapper, losses = kept(tmp_path, callbacks=[lambda now: steps.append(now.step)])
    assert steps == [3, 4] and losses
    assert not list(tmp_path.rglob("state*"))
    whole = train_mapper(tiny_bundle(SIZE), ReadingClip(), TEXT, SHORT).mapper
    again, none = kept(tmp_path, callbacks=[stop])
    assert none == {}
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, mapper.net.state_dict()[name])
        assert torch.equal(value, again.net.state_dict()[name])


def test_other_settings_and_damaged_files_are_trained_anew(tmp_path: Path):
    kept(tmp_path)
    _, losses = kept(tmp_path, replace(SHORT, seed=1))
    assert losses and len(list(tmp_path.rglob("mapper.safetensors"))) == 2
    for path in tmp_path.rglob("mapper.safetensors"):
        path.write_bytes(b"damaged")
    assert kept(tmp_path)[1]


def test_the_longest_unused_goes_beyond_the_limit(tmp_path: Path):
    kept(tmp_path)
    (size,) = [path.stat().st_size for path in tmp_path.rglob("mapper.safetensors")]
    kept(tmp_path, replace(SHORT, seed=1), limit=int(size * 1.5))
    assert len(list(tmp_path.rglob("mapper.safetensors"))) == 1
    assert kept(tmp_path, replace(SHORT, seed=1))[1] == {}
    assert kept(tmp_path)[1]
