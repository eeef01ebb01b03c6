"""Work that is kept: wherever a process is killed, the next one comes to the same end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from kills import killed_at
from reading_clip import SIZE, TEXT, ReadingClip
from stand_ins import StandInPerceptual, tiny_bundle
from torch import Tensor

from oneshot_core import saved_states
from oneshot_core.editing import EditConfig, MapperConfig, edit_latents
from oneshot_core.editing.dictionary_cache import cached_dictionary
from oneshot_core.editing.finite_differences import DictionaryConfig
from oneshot_core.editing.gradient_directions import GradientConfig, text_direction
from oneshot_core.editing.mapper_cache import cached_mapper
from oneshot_core.editing.statistics import style_statistics
from oneshot_core.inversion import inversion_config, invert_pictures
from oneshot_core.kept_folders import KeptFolders
from oneshot_core.sampling import random_latents, sample

BUNDLE, CLIP = tiny_bundle(SIZE), ReadingClip()
STATISTICS = style_statistics(BUNDLE, 200)
LATENT = random_latents(BUNDLE, [0, 1])
Made = Mapping[str, Tensor]


def inversion(kept: KeptFolders) -> Made:
    config = inversion_config("ii2s", steps=2, batch_size=1)
    found = invert_pictures(BUNDLE, sample(BUNDLE, LATENT), StandInPerceptual(), config, kept=kept)
    return {"codes": found.latent.values, "losses": torch.tensor(list(found.losses.values()))}


def edit(kept: KeptFolders) -> Made:
    found = edit_latents(BUNDLE, CLIP, LATENT, TEXT, EditConfig(steps=2, batch_size=1), kept=kept)
    return {"codes": found.latent.values, "losses": torch.tensor(list(found.losses.values()))}


def direction(kept: KeptFolders) -> Made:
    config = GradientConfig(samples=4, most_samples=8, agreement=1.0, batch_size=2)
    found = text_direction(BUNDLE, CLIP, TEXT, "a person", config, STATISTICS, kept=kept)
    return {str(style): vector for style, vector in found.direction.vectors.items()}


def dictionary(kept: KeptFolders) -> Made:
    config = DictionaryConfig(images=2, channels=((0, 1), (2, 3), (3, 0)))
    found = cached_dictionary(kept, BUNDLE, CLIP, config, STATISTICS)
    assert found.rho is not None
    return {"rows": found.rows, "rho": found.rho}


def mapper(kept: KeptFolders) -> Made:
    config = MapperConfig(steps=4, validate_every=2, validation_codes=2, fine=False)
    found, _ = cached_mapper(kept, BUNDLE, CLIP, TEXT, config)
    return found.net.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("work", [inversion, edit, direction, dictionary, mapper])
def test_wherever_a_process_is_killed_the_next_one_comes_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[KeptFolders], Made]
) -> None:
    monkeypatch.setattr(saved_states, "SAVE_SECONDS", -1.0)  # after every step
    whole, write = work(KeptFolders(tmp_path / "whole")), 1
    while killed_at(write, partial(work, kept := KeptFolders(tmp_path / f"killed{write}")), monkeypatch):
        for _ in range(2):  # go on, then take what is there
            again = work(kept)
            assert again.keys() == whole.keys()
            assert all(torch.equal(again[name], value) for name, value in whole.items()), write
        assert not list(kept.root.rglob("*.damaged*")), write
        write += 1
    assert write > 3
