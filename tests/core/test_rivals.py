"""The rivals' tables: they train, resume, cancel, and need what they say; profiles differ by data alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_clip import reading_clip
from tiny_networks import tiny_bundle, tiny_encoders

from oneshot_core.features import Encoders
from oneshot_core.inputs import Inputs, prepared
from oneshot_core.objective import DEFAULT, OFFICIAL, Aim, Preset
from oneshot_core.objective.presets import PRESETS, with_half_life
from oneshot_core.objective.rivals import few_shot, mind_the_gap, stylegan_nada
from oneshot_core.recipe import Recipe
from oneshot_core.training import (
    Callback,
    Poll,
    RunCancelled,
    StopSignal,
    TrainConfig,
    TrainState,
    adapt,
    train,
)
from oneshot_core.training.checks import check_run
from oneshot_core.training.memory import training_bytes

SIZE = 64
RIVALS = {"stylegan_nada": stylegan_nada, "mind_the_gap": mind_the_gap, "few_shot": few_shot}


def picture(seed: int, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def aim_for(name: str, count: int = 1) -> Aim:
    if name == "stylegan_nada":
        return Aim(source_text="photo", target_texts=("sketch",))
    reference = tiny_bundle(SIZE).mean_latent[None] if name == "mind_the_gap" else None
    return Aim(picture(5, count), reference)


def encoders_for(name: str) -> Encoders:
    return (
        Encoders.of(reading_clip(), tiny_encoders().perceptual)
        if name == "stylegan_nada"
        else tiny_encoders()
    )


def run(
    name: str, steps: int, folder: Path | None = None, callbacks: Any = (), profile: Any = DEFAULT
) -> Any:
    config = TrainConfig(steps=steps, seed=3, snapshot_every_steps=2, checkpoint_every_steps=2)
    preset = RIVALS[name](profile)
    return adapt(
        tiny_bundle(SIZE), encoders_for(name), aim_for(name), preset, config,
        run_folder=folder, callbacks=callbacks,
    )  # fmt: skip


def same(first: Any, second: Any) -> bool:
    ours, theirs = first.bundle.generator.state_dict(), second.bundle.generator.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("profile", [DEFAULT, OFFICIAL], ids=["default", "official"])
@pytest.mark.parametrize("name", RIVALS)
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, profile: Any, tmp_path: Path) -> None:
    whole = run(name, 6, profile=profile)
    run(name, 3, tmp_path, profile=profile)
    assert same(whole, run(name, 6, tmp_path, profile=profile))
    assert not same(whole, run(name, 5, profile=profile))


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_a_cancelled_run_goes_on(name: str, tmp_path: Path) -> None:
    stop = StopSignal()
    after = [StopAfter(stop, 3)]
    with pytest.raises(RunCancelled):
        run(name, 6, tmp_path, [stop, *after])
    assert same(run(name, 6), run(name, 6, tmp_path))


@dataclasses.dataclass
class StopAfter(Callback):
    stop: StopSignal
    steps: int

    def after_step(self, state: TrainState) -> None:
        if state.step == self.steps:
            self.stop.cancel()


def test_methods_need_what_they_say() -> None:
    bundle = tiny_bundle(SIZE)
    needs = {name: make().needs for name, make in PRESETS.items()}
    assert (needs["stylegan_nada"].direction, needs["stylegan_nada"].target) == (True, False)
    assert needs["mind_the_gap"].reference and needs["mind_the_gap"].perceptual
    assert needs["few_shot"].target and not needs["few_shot"].reference
    assert needs["stylegan_nada"].path is None and needs["mind_the_gap"].path is None
    with pytest.raises(ValueError, match="needs a target picture, or a source and a target text"):
        check_run(bundle, Aim(), stylegan_nada())
    with pytest.raises(ValueError, match="belong together"):
        check_run(bundle, Aim(picture(1), source_text="photo"), stylegan_nada())
    with pytest.raises(ValueError, match="few_shot needs a target picture"):
        check_run(bundle, Aim(), few_shot())
    with pytest.raises(ValueError, match="mind_the_gap needs the reference latent"):
        check_run(bundle, Aim(picture(1)), mind_the_gap())
    without = dataclasses.replace(bundle, discriminator=None)
    check_run(without, aim_for("stylegan_nada"), stylegan_nada())
    check_run(without, aim_for("mind_the_gap"), mind_the_gap())
    with pytest.raises(ValueError, match="trains a discriminator"):
        check_run(without, aim_for("few_shot"), few_shot())


def test_profiles_are_data() -> None:
    for make in RIVALS.values():
        default, official = make(DEFAULT).describe(), make(OFFICIAL).describe()
        assert default != official and default["name"] == official["name"]
    term = {name: make(OFFICIAL).kinds[0].objective.terms[0].term for name, make in RIVALS.items()}
    assert term["stylegan_nada"].softness == term["mind_the_gap"].softness == 0
    assert stylegan_nada().kinds[0].objective.terms[0].term.softness == 0.1


def test_what_a_method_lacks_cannot_be_set() -> None:
    with pytest.raises(ValueError, match="no moving average"):
        with_half_life(stylegan_nada(), 9.0)
    with pytest.raises(ValueError, match="trains all layers"):
        mind_the_gap().choosing(3)
    with pytest.raises(ValueError, match="has no term"):
        few_shot().reweighted({"semantic": 1.0})
    assert stylegan_nada().choosing(0).selection is None
    assert stylegan_nada().choosing(3).selection.layers == 3


def trained(preset: Preset, aim: Aim, encoders: Encoders, steps: int = 1) -> TrainState:
    from oneshot_core.draws import SeededDraws

    state = TrainState.create(tiny_bundle(SIZE), encoders, aim, preset, SeededDraws(1))
    train(state, steps)
    return state


def test_texts_choose_the_layers_that_are_trained() -> None:
    aim, encoders = aim_for("stylegan_nada"), encoders_for("stylegan_nada")
    state = trained(stylegan_nada().choosing(2), aim, encoders)
    assert len(state.chosen) == 2
    before, after = state.source.state_dict(), state.adapted.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {int(name.split(".")[1]) for name in moved if name.startswith("convs.")}
    assert layers == set(state.chosen) and "const" in moved
    pictures = Aim(picture(2))
    assert trained(stylegan_nada(), pictures, tiny_encoders()).chosen == []  # nothing says which


def test_one_target_is_repeated_with_flips_of_its_own_and_several_are_drawn_by_weight() -> None:
    from oneshot_core.training.phases import Round, _real

    targets = picture(4, 3)
    aim = Aim(targets, target_weights=(1.0, 1e-9, 1e-9))
    state = trained(few_shot(), aim, tiny_encoders())
    real = _real(Round(state, 0, state.preset.kind(0)))
    alike = [min((one - t).abs().max() for t in (targets[0], targets[0].flip(2))) for one in real]
    assert len(real) == 4 and max(alike) == 0
    lone = trained(few_shot(), Aim(targets[:1]), tiny_encoders())
    real = _real(Round(lone, 1, lone.preset.kind(1)))
    assert any(torch.equal(one, targets[0].flip(2)) for one in real) and len(real) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_memory_is_estimated(name: str) -> None:
    found = training_bytes(tiny_bundle(SIZE), encoders_for(name), aim_for(name), RIVALS[name]())
    assert 100_000_000 < found < 400_000_000


def test_a_recipe_of_texts_needs_no_search_and_no_picture() -> None:
    words = {"source_text": "photo", "target_text": "sketch"}
    recipe = Recipe.of({"method": {"preset": "stylegan_nada"}, "aim": words})
    assert recipe.training.steps == 300
    inputs = Inputs(tiny_bundle(SIZE), encoders_for("stylegan_nada"))
    bound, inputs = prepared(recipe, inputs)
    assert inputs.aim.target_texts == ("sketch",) and bound.key() == bound.key("adaptation")
    other = dataclasses.replace(recipe, aim=dataclasses.replace(recipe.aim, target_text="a sketch"))
    assert prepared(other, inputs)[0].key() != bound.key()
    with pytest.raises(ValueError, match="does not know 'oil'"):
        prepared(dataclasses.replace(recipe, aim=dataclasses.replace(recipe.aim, target_text="oil")), inputs)
    with pytest.raises(ValueError, match="reads no texts as it is set"):
        prepared(
            Recipe.of({"aim": words}),
            dataclasses.replace(inputs, target=picture(1), reference=None),
        )


def test_a_picture_and_words_are_one_aim() -> None:
    """The hybrid: the published method, drawn by texts too."""
    weights = {"text": 1.0}
    words = {"source_text": "photo", "target_text": "sketch", "more_texts": ["a sketch"]}
    recipe = Recipe.of({"method": {"weights": weights}, "aim": {**words, "text_weights": [1, 2]}})
    encoders = encoders_for("stylegan_nada")
    source = tiny_bundle(SIZE)
    aim = Aim(picture(3), source.mean_latent[None], "photo", ("sketch", "a sketch"), (), (1.0, 2.0))
    preset = recipe.preset(SIZE)[0]
    assert preset.needs.texts
    state = trained(preset, aim, encoders, steps=2)
    assert state.history["text"][1] == state.history["text"][1]  # the random step computed it
    direction = state.goal.direction(0, pictures=False)
    one, two = (state.goal._direction(0, False, False, 16), direction)
    assert torch.equal(one, two) and abs(float(direction.norm()) - 1) < 1e-5


def test_polling_works_for_every_method() -> None:
    seen = []
    run("few_shot", 2, callbacks=[Poll(lambda: seen.append(1))])
    assert seen
