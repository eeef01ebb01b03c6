"""Training of mappers: it reaches the text, repeats, resumes bit for bit, keeps the best, refuses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from reading_clip import NEUTRAL, SIZE, TEXT, Knowing, ReadingClip, similarity
from stand_ins import tiny_bundle

from oneshot_core.checkpoints import read_tensors, write_tensors
from oneshot_core.editing import MapperConfig, MapperResult, apply_mapper, train_mapper
from oneshot_core.editing.style_layout import convolution_styles
from oneshot_core.latents import Latent
from oneshot_core.sampling import random_latents, sample
from oneshot_core.saved_states import StateError

SHORT = MapperConfig(
    steps=8, validate_every=3, validation_codes=3, l2_weight=0.05, learning_rate=0.2, fine=False
)


def train(config: MapperConfig = SHORT, latents: Latent | None = None, **more) -> MapperResult:
    return train_mapper(tiny_bundle(SIZE), ReadingClip(), TEXT, config, latents=latents, **more)


def state_of(result: MapperResult) -> dict[str, torch.Tensor]:
    return dict(result.mapper.net.state_dict())


def same(one: MapperResult, other: MapperResult) -> bool:
    first, second = state_of(one), state_of(other)
    curves = all(
        str(values) == str(other.losses[name]) for name, values in one.losses.items()
    )  # NaN is unlike itself
    return curves and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["w+", "style"])
def test_a_mapper_brings_unseen_codes_to_the_text(space):
    config = dataclasses.replace(
        SHORT, steps=60, space=space, validate_every=20, l2_weight=0.01, optimiser="adam", learning_rate=2.0
    )
    result = train(config)
    bundle, latent = tiny_bundle(SIZE), random_latents(tiny_bundle(SIZE), range(100, 106))
    before, after = (sample(bundle, one) for one in (latent, apply_mapper(bundle, result.mapper, latent)))
    assert float((similarity(after) - similarity(before)).mean()) > 0.15
    mapper = result.mapper
    assert (mapper.text, mapper.clip, mapper.measured, mapper.step) == (TEXT, "reading", "tiny", 0.1)
    assert mapper.family == bundle.family and len(mapper.fingerprint) == 64
    keys = [key for keys in mapper.net.groups.values() for key in keys]
    assert keys == list(convolution_styles(8) if space == "style" else range(6))


def test_losses_and_the_best_validation():
    seen = []
    result = train(callbacks=[seen.append])
    assert set(result.losses) == {"clip", "deviation", "validation"}
    assert all(len(values) == 8 for values in result.losses.values())
    curve = result.losses["validation"]
    places = [index for index, value in enumerate(curve) if not math.isnan(value)]
    assert places == [2, 5, 7]  # every third step, and the last
    assert result.best_step == 1 + min(places, key=lambda index: curve[index])
    assert [now.step for now in seen] == list(range(1, 9)) and seen[-1].eta_seconds == 0.0
    assert "validation" not in seen[0].losses and "validation" in seen[2].losses
    assert seen[0].preview().shape == (2, 3, SIZE, SIZE)


def test_the_network_of_the_best_validation_is_taken():
    wild = dataclasses.replace(SHORT, steps=12, learning_rate=300.0, validate_every=1, optimiser="adam")
    result = train(wild)
    assert result.best_step < 12
    until = train(dataclasses.replace(wild, steps=result.best_step))
    assert all(torch.equal(value, state_of(until)[name]) for name, value in state_of(result).items())


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"optimiser": "adam", "kind": "single"}, {"views": 2}])
def test_a_training_repeats_and_depends_on_its_seed(settings):
    config = dataclasses.replace(SHORT, **settings)
    assert same(train(config), train(config))
    assert not same(train(config), train(dataclasses.replace(config, seed=1)))


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["ranger", "adam"])
@pytest.mark.parametrize("stop", [2, 7])
def test_a_resumed_training_equals_an_uninterrupted_one(optimiser, stop, tmp_path):
    config = dataclasses.replace(SHORT, optimiser=optimiser)
    path = tmp_path / "state.safetensors"

    def cancel(now) -> None:
        if now.step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, callbacks=[cancel], state_file=path)
    seen = []
    resumed = train(config, callbacks=[seen.append], state_file=path)
    assert seen[0].step == stop + 1
    assert same(resumed, train(config))
    again = train(config, callbacks=[seen.append], state_file=path)
    assert same(again, resumed) and seen[-1].step == 8 == len(seen) + stop


def test_a_damaged_state_is_set_aside_and_others_are_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    whole = train(state_file=path)
    with pytest.raises(StateError, match=r"other settings \(mapper.seed differ\)"):
        train(dataclasses.replace(SHORT, seed=3), state_file=path)
    with pytest.raises(StateError, match="holds a training of 8 steps, asked for 4"):
        train(dataclasses.replace(SHORT, steps=4), state_file=path)
    with pytest.raises(StateError, match="inputs.latents differ"):
        train(latents=random_latents(tiny_bundle(SIZE), range(6)), state_file=path)
    tensors, header = read_tensors(path)
    lacking = {name: value for name, value in tensors.items() if not name.startswith("best.")}
    write_tensors(path, lacking, header)
    assert same(train(state_file=path), whole)
    assert len(list(tmp_path.glob("*.damaged*"))) == 1


def test_given_latents_are_trained_on_and_the_last_are_held_back():
    bundle = tiny_bundle(SIZE)
    latents = random_latents(bundle, range(6))
    result = train(latents=latents)
    drawn = train()
    assert not same(result, drawn)
    # Other codes at the end change validation alone; at the beginning they change what is trained on.
    values = latents.values.clone()
    values[4:] += 1
    other = train(latents=dataclasses.replace(latents, values=values))
    assert other.losses["clip"] == result.losses["clip"]
    assert other.losses["validation"][2] != result.losses["validation"][2]
    with pytest.raises(ValueError, match="there are 3 latents, of which 3 are held back"):
        train(latents=latents.part(slice(0, 3)))


def test_identity_and_direction_are_terms():
    config = dataclasses.replace(SHORT, steps=2)
    result = train(config, identity=Knowing(), neutral_text=NEUTRAL)
    assert set(result.losses) == {"clip", "identity", "deviation", "validation"}
    assert result.mapper.neutral_text == NEUTRAL
    assert config.weights(Knowing())["identity"] == 0.1 and config.weights(None)["identity"] == 0
    with pytest.raises(ValueError, match="identity_weight is 0.5, but there is no identity network"):
        train(dataclasses.replace(config, identity_weight=0.5))


def test_inference_mode_and_bad_numbers(tmp_path: Path):
    bundle, two = tiny_bundle(SIZE), dataclasses.replace(SHORT, steps=2)
    with torch.inference_mode():
        inside = train_mapper(bundle, ReadingClip(), TEXT, two, latents=random_latents(bundle, range(5)))
    assert not any(value.is_inference() for value in state_of(inside).values())
    path = tmp_path / "state.safetensors"
    with pytest.raises(FloatingPointError, match="of the mapper's training became NaN or infinite at step"):
        train(dataclasses.replace(SHORT, learning_rate=1000.0, step=1000.0), state_file=path)


def test_what_cannot_be_trained_is_refused():
    for settings, said in (
        ({"steps": 0}, "steps must be at least 1"),
        ({"kind": "many"}, "kind must be one of levels, single"),
        ({"optimiser": "sgd"}, "optimiser must be one of ranger, adam"),
        ({"coarse": False, "medium": False, "fine": False}, "are all off"),
        ({"identity_weight": math.nan}, "identity_weight must be"),
        ({"preprocessing": "x"}, "preprocessing must be one of default, legacy"),
    ):
        with pytest.raises(ValueError, match=said):
            MapperConfig(**settings)
    with pytest.raises(ValueError, match="every term of the mapper's loss has the weight 0"):
        train(dataclasses.replace(SHORT, clip_weight=0.0, l2_weight=0.0))
    with pytest.raises(ValueError, match="the text is empty"):
        train_mapper(tiny_bundle(SIZE), ReadingClip(), " ")
    with pytest.raises(ValueError, match="has no group"):  # 16 px have no fine slots
        train(dataclasses.replace(SHORT, coarse=False, medium=False, fine=True))
    with pytest.raises(ValueError, match="needs a class for random latents"):
        train_mapper(tiny_bundle(SIZE, c_dim=3), ReadingClip(), TEXT, SHORT)
