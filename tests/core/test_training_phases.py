"""What one phase of a round computes and changes, and what it leaves alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from stand_ins import NotedDraws, stand_in_encoders, tiny_aim, tiny_bundle

from oneshot_core.draws import RecordedDraws, SeededDraws
from oneshot_core.features import Encoders
from oneshot_core.objective import DEFAULT, Aim, Objective, Preset, Term, Trainable, WeightedTerm
from oneshot_core.objective.adversarial import logistic, r1_penalty
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.objective.terms import PixelMse
from oneshot_core.training import Callback, RunStopped, TrainState, fresh_heads, train
from oneshot_core.training.phases import phases_due, run_phase, start_round

SIZE = 64
REFERENCE, RANDOM = 0, 1  # a step of each kind under the default schedule


def fresh(draws=None, preset: Preset | None = None, steps=None, **plan) -> TrainState:
    """A fresh run; `steps` per kind and `plan` of the discriminator replace the preset's."""
    bundle = tiny_bundle(SIZE)
    preset = (preset or oneshot_clip()).scheduled(steps or {})
    if plan:
        preset = dataclasses.replace(preset, discriminator=dataclasses.replace(preset.discriminator, **plan))
    return TrainState.create(bundle, stand_in_encoders(), tiny_aim(bundle), preset, draws or SeededDraws(0))


def pixel_only(**settings) -> Preset:
    """A method of one kind of step and one term, without discriminator."""
    objective = Objective((WeightedTerm("pixel", PixelMse()),))
    kind = dataclasses.replace(oneshot_clip().kinds[0], objective=objective, real=None)
    return Preset("pixel", (kind,), **settings)


def at(state: TrainState, step: int):
    state.step = step
    return start_round(state)


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    modules = {name: getattr(state, name) for name in ("source", "adapted", "ema", "discriminator", "heads")}
    return {
        f"{name}.{key}": value.clone()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def changed(state: TrainState, phase: str, step: int) -> set[str]:
    """Names of the tensors that a phase changes."""
    before = weights(state)
    run_phase(phase, at(state, step))
    after = weights(state)
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


# ---- which phases, and when


def test_phases_come_in_the_methods_order():
    state = fresh()
    order = ["discriminator", "generator", "average"]
    assert phases_due(at(state, RANDOM)) == order
    assert phases_due(at(state, REFERENCE)) == ["discriminator", "r1", "generator", "average"]
    assert phases_due(at(state, 4)) == order
    assert phases_due(at(state, 16))[1] == "r1"


def test_a_penalty_of_weight_zero_is_never_due():
    state = fresh(r1_gamma=0.0)
    assert not any("r1" in phases_due(at(state, step)) for step in range(32))


def test_a_method_without_discriminator_trains_the_generator_only():
    state = fresh(preset=pixel_only())
    assert state.discriminator is None and state.heads is None and set(state.optimisers) == {"adapted"}
    assert phases_due(at(state, 0)) == ["generator", "average"]
    state.step = 0
    train(state, 3)
    assert set(state.history) == {"pixel", "generator"} and len(state.history["pixel"]) == 3


def test_kind_path_and_batch_of_a_round():
    state = fresh(preset=oneshot_clip().rebatched(3))
    for step, wanted in {
        0: ("reference", "image", 1),
        1: ("random", "patch", 3),
        4: ("reference", "image", 1),
    }.items():
        now = at(state, step)
        assert (now.kind.name, now.path, now.kind.batches["main"].size) == wanted


def test_the_discriminator_rests_where_nothing_is_to_be_fooled():
    state = fresh(preset=oneshot_clip().reweighted({"adversarial": 0.0}))
    for step in (REFERENCE, RANDOM):
        now = at(state, step)
        assert now.path is None and phases_due(now) == ["generator", "average"]


@pytest.mark.parametrize(("steps", "factor"), [((1, 3), 16), ((3, 1), 16), ((1, 2), 15)])
def test_r1_weighs_as_much_as_the_steps_it_stands_for(steps, factor, monkeypatch):
    """Lazy regularisation: its gradient is multiplied by the interval, in steps of all kinds."""
    kinds = {"reference": steps[0], "random": steps[1]}
    state = fresh(steps=kinds, r1_gamma=4.0, r1_every=16)
    monkeypatch.setattr(state.optimisers["discriminator"], "step", lambda: None)
    penalty = run_phase("r1", at(state, REFERENCE))["r1"]
    weight = state.discriminator.output.weight
    images = state.goal.targets.clone().requires_grad_(True)
    alone = r1_penalty(state.discriminator.score(images), images)
    (gradient,) = torch.autograd.grad(alone, weight)
    assert torch.allclose(penalty, alone.detach(), rtol=1e-4)
    assert torch.allclose(weight.grad, 4.0 / 2 * factor * gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"preset": oneshot_clip().rebatched(1)}, "batch must be at least 2"),
        (
            {"preset": oneshot_clip().reweighted({"adversarial": 0, "lpips": 0, "pixel": 0})},
            "reference steps has",
        ),
        ({"preset": oneshot_clip(dataclasses.replace(DEFAULT, crop_px=65))}, "do not fit"),
    ],
)
def test_what_cannot_run_is_refused_before_the_first_step(settings, text):
    with pytest.raises(ValueError, match=text):
        fresh(**settings)


# ---- what each phase changes


def test_discriminator_phase_of_a_reference_step_changes_the_discriminator():
    names = changed(fresh(), "discriminator", REFERENCE)
    assert names and all(name.startswith("discriminator.") for name in names)
    assert "discriminator.output.weight" in names and "discriminator.from_rgb.weight" in names


def test_discriminator_phase_of_a_random_step_changes_the_patch_path():
    names = changed(fresh(), "discriminator", RANDOM)
    assert {"heads.heads.0.weight", "heads.heads.0.bias", "discriminator.blocks.0.conv2.weight"} <= names
    assert not any(
        name.startswith(("discriminator.output", "discriminator.blocks.1", "adapted", "ema"))
        for name in names
    )
    assert not any(name.startswith(f"heads.heads.{index}") for name in names for index in (1, 2, 3))


def test_r1_phase_changes_the_discriminator_only():
    names = changed(fresh(), "r1", REFERENCE)
    assert names and all(name.startswith("discriminator.") for name in names)


@pytest.mark.parametrize("step", [REFERENCE, RANDOM])
def test_generator_phase_changes_exactly_the_trainable_parameters(step):
    names = changed(fresh(), "generator", step)
    config = tiny_bundle(SIZE).generator.config
    parts = ("weight", "bias", "noise_strength", "affine.weight", "affine.bias")
    wanted = {f"adapted.convs.{index}.{part}" for index in range(config.num_convs) for part in parts}
    assert names == wanted | {"adapted.const"}


def test_other_layers_can_be_trained():
    """Trainable layers are data."""
    names = changed(
        fresh(preset=dataclasses.replace(oneshot_clip(), trainable=Trainable(("rgb",)))),
        "generator",
        REFERENCE,
    )
    assert names and all(name.startswith("adapted.to_rgbs.") for name in names)


def test_average_moves_every_parameter_and_no_buffer():
    state = fresh()
    with torch.no_grad():
        for value in state.adapted.state_dict().values():
            value += 1
    before = {name: value.clone() for name, value in state.ema.state_dict().items()}
    run_phase("average", at(state, RANDOM))
    decay = state.preset.optimiser.average_decay(state.step)
    for name, value in state.ema.state_dict().items():
        moved = 0.0 if name.endswith("noise_const") else 1 - decay
        assert torch.allclose(value, before[name] + moved, atol=1e-5), name


def test_networks_pass_gradients_through_without_keeping_them():
    state = fresh()
    run_phase("generator", at(state, RANDOM))
    for module in (state.discriminator, state.heads, state.source, state.ema):
        assert all(parameter.grad is None for parameter in module.parameters())
    assert all(parameter.requires_grad for parameter in state.discriminator.parameters())
    run_phase("discriminator", at(state, RANDOM))
    frozen = [p for n, p in state.adapted.named_parameters() if n.startswith(("mapping.", "to_rgbs."))]
    assert frozen and all(p.grad is None for p in frozen)


# ---- what each phase computes


def test_discriminator_losses_are_those_of_its_logits():
    state = fresh()
    judge, draws = state.discriminator, state.draws
    noise = [
        draws.normal(REFERENCE, f"discriminator.noise.{i}", (1, 1, *shape))
        for i, shape in enumerate(state.source.noise_shapes())
    ]
    with torch.no_grad():
        fake = judge.score(state.adapted.synthesize(state.goal.aim.reference, noise))
        real = judge.score(state.goal.targets)
    losses = run_phase("discriminator", at(state, REFERENCE))
    assert torch.allclose(losses["discriminator"], logistic(real, fake), atol=1e-5)
    assert torch.allclose(losses["real_score"], real.mean(), atol=1e-5)
    assert torch.allclose(losses["fake_score"], fake.mean(), atol=1e-5)


def test_real_images_are_the_target_with_random_flips(monkeypatch):
    state = fresh(preset=oneshot_clip().rebatched(6))
    seen = []
    plain = state.discriminator.patch_features
    monkeypatch.setattr(state.discriminator, "patch_features", lambda x, i, _: seen.append(x) or plain(x, i))
    run_phase("discriminator", at(state, RANDOM))
    real, target = seen[0][6:], state.goal.targets  # behind as many drawn ones
    flips = state.draws.integers(RANDOM, "real.flip", 2, (6,)).tolist()
    assert set(flips) == {0, 1}
    for image, flip in zip(real, flips, strict=True):
        assert torch.equal(image, (target.flip(3) if flip else target)[0])


def test_reference_steps_render_the_reference_latent(monkeypatch):
    state = fresh()
    codes, noises = [], []
    affine, render = state.adapted.affine, state.adapted.render
    monkeypatch.setattr(state.adapted, "affine", lambda w: codes.append(w) or affine(w))
    monkeypatch.setattr(state.adapted, "render", lambda s, n, _: noises.append(n) or render(s, n))
    for phase in ("discriminator", "generator"):
        run_phase(phase, at(state, REFERENCE))
    assert len(codes) == len(noises) == 2
    assert all(torch.equal(w, state.source.broadcast(state.goal.aim.reference)) for w in codes)
    assert all(m.shape[0] == 1 for noise in noises for m in noise)
    assert not torch.equal(noises[0][0], noises[1][0])  # fresh noise per call


@pytest.mark.parametrize(("chance", "mixed"), [(0.0, False), (1.0, True)])
def test_random_steps_mix_styles_by_chance(chance, mixed, monkeypatch):
    state = fresh(preset=oneshot_clip().rebatched(2, chance))
    codes = []
    plain = state.adapted.affine
    monkeypatch.setattr(state.adapted, "affine", lambda w: codes.append(w) or plain(w))
    for step in (1, 2, 3):
        run_phase("generator", at(state, step))
    for w in codes:
        assert w.shape == (2, state.source.config.num_layers, state.source.config.w_dim)
        assert (not torch.equal(w[:, 0], w[:, -1])) == mixed
    assert not torch.equal(codes[0], codes[1])


def test_the_two_updates_of_a_round_use_different_latents():
    draws = NotedDraws()
    state = fresh(draws)
    for phase in ("discriminator", "generator"):
        run_phase(phase, at(state, RANDOM))
    assert not torch.equal(draws.table[RANDOM, "discriminator.z"], draws.table[RANDOM, "adapted.z"])


def test_generator_reports_unweighted_terms_and_their_weighted_sum():
    state = fresh()
    for step, names in (
        (REFERENCE, {"adversarial", "lpips", "pixel"}),
        (RANDOM, {"adversarial", "semantic", "patch"}),
    ):
        losses = run_phase("generator", at(state, step))
        assert set(losses) == names | {"generator"}
        objective = state.preset.kind(step).objective
        total = sum(item.weight * losses[item.name] for item in objective.terms if item.weight)
        assert torch.allclose(losses["generator"], total, atol=1e-5)


def test_crops_are_shared_by_the_batch_and_both_generators():
    state = fresh(preset=oneshot_clip(dataclasses.replace(DEFAULT, crop_px=16)))
    run_phase("generator", at(state, RANDOM))
    crops = [seen for seen in state.goal.encoders.clip.seen if seen.shape[-1] == 16]
    assert [len(seen) for seen in crops] == [32, 32]
    # before any training both generators draw the same picture, so every crop pair is one picture
    assert torch.allclose(crops[0], crops[1], atol=1e-5)


def test_draws_are_all_recorded_by_step_and_purpose_and_play_back():
    """A run replayed from a record of its draws is the same run."""
    noted = NotedDraws()
    first = fresh(noted)
    train(first, 6)
    second = fresh(RecordedDraws(noted.table))
    train(second, 6)
    assert all(
        torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True)
    )


def test_fresh_heads_are_drawn_with_zero_biases():
    config = tiny_bundle(SIZE).discriminator.config
    first, second = (fresh_heads(config, SeededDraws(seed)) for seed in (0, 1))
    assert torch.equal(first.heads[2].weight, fresh_heads(config, SeededDraws(0)).heads[2].weight)
    assert not torch.equal(first.heads[2].weight, second.heads[2].weight)
    values = torch.cat([head.weight.detach().flatten() for head in first.heads])
    assert abs(float(values.mean())) < 0.3 and abs(float(values.std()) - 1) < 0.2
    assert all(float(head.bias.detach().abs().max()) == 0 for head in first.heads)


# ---- the loop around the phases


@dataclasses.dataclass
class Diary(Callback):
    """Write down what the loop tells."""

    stop_at: int = 99
    lines: list[str] = dataclasses.field(default_factory=list)

    def started(self, state, steps):
        self.lines.append(f"start {state.step}/{steps}")

    def before_phase(self, state):
        self.lines.append(f"phase of {state.step}")

    def after_step(self, state):
        self.lines.append(f"done {state.step}")
        if state.step == self.stop_at:
            raise RunStopped("enough")

    def finished(self, state):
        self.lines.append(f"end {state.step}")


def test_callbacks_hear_every_phase_and_step_in_order():
    diary = Diary()
    train(fresh(), 2, [diary])
    first, second = ["phase of 0"] * 4, ["phase of 1"] * 3
    assert diary.lines == ["start 0/2", *first, "done 1", *second, "done 2", "end 2"]


def test_stopping_early_ends_normally():
    diary, state = Diary(stop_at=2), fresh()
    train(state, 9, [diary])
    assert state.step == 2 and diary.lines[-1] == "end 2"


def test_history_has_one_value_per_step_and_gaps_are_nan():
    state = fresh(steps={"reference": 1, "random": 1})
    train(state, 4)
    known = {name: [value == value for value in values] for name, values in state.history.items()}
    assert known["generator"] == known["discriminator"] == [True] * 4
    assert known["pixel"] == [True, False, True, False] and known["patch"] == [False, True, False, True]
    assert known["r1"] == [True, False, False, False]


def test_a_loss_that_is_not_finite_names_term_step_and_phase():
    state = fresh()
    state.goal.targets[0, 0, 0, 0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"the \w+ phase's '\w+' became (nan|inf) at step 0"):
        train(state, 2)


@dataclasses.dataclass(frozen=True)
class SteepTerm(Term):
    """Finite, with an infinite slope."""

    def __call__(self, step):
        return (step.view().adapted * 0).sum().abs().sqrt()


def test_a_gradient_that_is_not_finite_names_its_term_and_changes_nothing():
    plain = pixel_only().kinds[0]
    terms = Objective((*plain.objective.terms, WeightedTerm("steep", SteepTerm())))
    steep = dataclasses.replace(plain, name="steep", objective=terms)
    state = fresh(preset=Preset("two", (plain, steep)))
    state.settings["seed"] = 7
    train(state, 1)
    before = {name: value.clone() for name, value in state.adapted.state_dict().items()}
    wanted = r"the gradient of the generator's term 'steep' became NaN or infinite at step 1 \(seed 7\)"
    with pytest.raises(FloatingPointError, match=wanted):
        train(state, 2)
    assert all(torch.equal(value, before[name]) for name, value in state.adapted.state_dict().items())


@pytest.mark.parametrize("what", ["target", "reference latent", "discriminator", "mean latent", "CLIP model"])
def test_what_is_not_finite_is_refused_by_name_before_any_work(what):
    bundle = tiny_bundle(64)
    aim = Aim(tiny_aim(bundle).targets, torch.zeros(1, 7))
    encoders = Encoders.of(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    spoilt = {
        "target": aim.targets,
        "reference latent": aim.reference,
        "discriminator": next(bundle.discriminator.parameters()).data,
        "mean latent": bundle.mean_latent,
        "CLIP model": encoders.clip.weight.data,
    }[what]
    spoilt.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=rf"the {what}.* 1 of \d+ values are NaN or infinite"):
        TrainState.create(bundle, encoders, aim, oneshot_clip(), SeededDraws(0))


def test_training_runs_inside_inference_mode():
    with torch.inference_mode():
        state = fresh()
        train(state, 2)
    assert state.step == 2


def test_training_reduces_the_distance_to_the_target():
    state = fresh(preset=pixel_only())
    train(state, 30)
    values = state.history["pixel"]
    assert values[-1] < 0.7 * values[0]
