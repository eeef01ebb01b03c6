"""Codes that are optimised chunk by chunk: a stopped work goes on with the same bits, a done one is there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reading_clip import TEXT, ReadingClip
from stand_ins import StandInPerceptual, tiny_bundle

from oneshot_core import saved_states
from oneshot_core.digests import settings_key
from oneshot_core.editing import EditConfig, edit_latents
from oneshot_core.inversion import inversion_config, invert_pictures
from oneshot_core.inversion.projection import inversion_settings
from oneshot_core.kept_folders import KeptFolders
from oneshot_core.sampling import random_latents, sample
from oneshot_core.saved_states import StateError

SIZE, STEPS, COUNT = 16, 4, 3
BUNDLE = tiny_bundle(SIZE)
PICTURES = sample(BUNDLE, random_latents(BUNDLE, range(COUNT)))


class Stopping:
    """Counts steps and ends the work at one of them, after which nothing of it is done."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.steps = at, list[int]()

    def __call__(self, now: Any) -> None:
        self.steps.append(now.step)
        if len(self.steps) == self.at:
            raise InterruptedError


def inverted(kept: KeptFolders, follow: Any, method: str = "projector (nvidia)", **more: Any) -> Any:
    settings = {"steps": STEPS, "mean": 50 * ("projector" in method), **more}
    config = inversion_config(method, **settings)
    return invert_pictures(BUNDLE, PICTURES, StandInPerceptual(), config, callbacks=[follow], kept=kept)


def edited(kept: KeptFolders, follow: Any, **more: Any) -> Any:
    config = EditConfig(**{"steps": STEPS, "batch_size": 1, **more})
    latent = random_latents(BUNDLE, range(COUNT))
    return edit_latents(BUNDLE, ReadingClip(), latent, TEXT, config, callbacks=[follow], kept=kept)


def in_style(kept: KeptFolders, follow: Any, **more: Any) -> Any:
    return edited(kept, follow, space="style", **more)


def by_ii2s(kept: KeptFolders, follow: Any, **more: Any) -> Any:
    return inverted(kept, follow, "ii2s", **more)


WORKS = [inverted, by_ii2s, edited, in_style]


def same(one: Any, other: Any) -> bool:
    equal = torch.equal(one.latent.values, other.latent.values) and torch.equal(one.images, other.images)
    for noise, its in zip(getattr(one, "noise", ()), getattr(other, "noise", ()), strict=True):
        equal = equal and torch.equal(noise, its)
    if (change := getattr(one, "change", None)) is not None:
        equal = equal and all(torch.equal(v, other.change.vectors[k]) for k, v in change.vectors.items())
    return equal and one.losses == other.losses


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize(
    "at",
    [
        pytest.param(2, id="amid a chunk"),
        pytest.param(STEPS, id="at its end", marks=pytest.mark.slow),
        pytest.param(STEPS + 3, id="in the next", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_work_goes_on_with_the_same_bits(tmp_path, work, at):
    whole = work(KeptFolders(tmp_path / "whole"), Stopping())
    kept = KeptFolders(tmp_path / "kept")
    with pytest.raises(InterruptedError):
        work(kept, Stopping(at))
    rest = Stopping()
    assert same(work(kept, rest), whole)
    assert rest.steps == list(range(at + 1, COUNT * STEPS + 1))
    again = Stopping()
    assert same(work(kept, again), whole) and not again.steps
    (folder,) = kept.root.iterdir()
    files = sorted(path.name for path in folder.iterdir())
    assert files == [f"codes_{number}.safetensors" for number in range(COUNT)] + ["used"]


@pytest.mark.parametrize("work", [inverted, edited])
def test_other_settings_are_another_work(tmp_path, work):
    kept = KeptFolders(tmp_path)
    with pytest.raises(InterruptedError):
        work(kept, Stopping(2))
    for change in ({"seed": 5}, {"steps": STEPS + 1}, {"batch_size": 2}):
        follow = Stopping()
        work(kept, follow, **change)
        assert follow.steps[0] == change.get("batch_size", 1), change
    assert len(list(kept.root.iterdir())) == 4


def test_a_folder_of_another_work_is_refused(tmp_path):
    config = inversion_config("ii2s", steps=2)
    net = StandInPerceptual()
    kept = KeptFolders(tmp_path)
    invert_pictures(BUNDLE, PICTURES, net, config, kept=kept)
    (own,) = tmp_path.iterdir()
    for other, pictures in ((replace(config, seed=1), PICTURES), (config, -PICTURES)):
        key = settings_key(inversion_settings(BUNDLE, pictures, net, other))
        shutil.copytree(own, kept.folder(key))  # somebody renamed it
        with pytest.raises(StateError, match="a saved inversion with other settings"):
            invert_pictures(BUNDLE, pictures, net, other, kept=kept)


def test_a_damaged_state_is_set_aside_and_the_one_before_it_serves(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_states, "SAVE_SECONDS", 0.0)
    whole, kept = edited(KeptFolders(tmp_path / "whole"), Stopping()), KeptFolders(tmp_path / "kept")
    with pytest.raises(InterruptedError):
        edited(kept, Stopping(3))
    (state,) = kept.root.rglob("codes_0.safetensors")
    state.write_bytes(state.read_bytes()[:-7])
    rest = Stopping()
    assert same(edited(kept, rest), whole) and rest.steps[0] == 3
    assert Path(state.with_name("codes_0.damaged.safetensors")).is_file()


class Breaking(StandInPerceptual):
    """Tells distances for some steps, and then no number."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def distance(self, first: Any, second: Any, dropout: Any = None) -> torch.Tensor:
        self.left -= 1
        return super().distance(first, second) * (1.0 if self.left >= 0 else float("nan"))


def test_what_came_before_a_step_that_is_not_finite_is_kept(tmp_path):
    kept, config = KeptFolders(tmp_path), inversion_config("ii2s", steps=STEPS)
    with pytest.raises(FloatingPointError, match="at step 2 for picture 0"):
        invert_pictures(BUNDLE, PICTURES, Breaking(2), config, kept=kept)
    rest = Stopping()
    invert_pictures(BUNDLE, PICTURES, StandInPerceptual(), config, callbacks=[rest], kept=kept)
    assert rest.steps[0] == 3
