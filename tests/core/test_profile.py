"""What each repair of the default profile changes, one test per switch (Q1 ... Q29: methods.md B9)."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from stand_ins import NotedDraws, picture, stand_in_encoders, tiny_aim, tiny_bundle
from tiny_clip import reading_clip

import oneshot_core
from oneshot_core.augmentation import ViewAugmentation
from oneshot_core.draws import RecordedDraws, SeededDraws
from oneshot_core.features import Encoders
from oneshot_core.objective import DEFAULT, OFFICIAL, PROFILES, Aim, AimFeatures, Trainable
from oneshot_core.objective.directions import direction_distance
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.objective.rivals import few_shot, mind_the_gap, stylegan_nada
from oneshot_core.objective.terms import PatchConsistency, patch_contrast
from oneshot_core.search import SearchConfig, search_latent
from oneshot_core.training import TrainState
from oneshot_core.training.phases import phases_due, run_phase, start_round

PACKAGE = Path(oneshot_core.__file__).parent
SIZE = 64


def published(name: str):
    """The default profile with one switch as in the published code."""
    return dataclasses.replace(DEFAULT, **{name: getattr(OFFICIAL, name)})


def run(profile, size: int = SIZE, draws=None, raw: bool = False, steps=None, **plan) -> TrainState:
    """A fresh run that always mixes; `steps` per kind and the discriminator's `plan` replace the preset's."""
    preset = oneshot_clip(profile).rebatched(mixing=1.0).scheduled(steps or {})
    preset = dataclasses.replace(preset, discriminator=dataclasses.replace(preset.discriminator, **plan))
    bundle = tiny_bundle(size, raw=raw)
    return TrainState.create(bundle, stand_in_encoders(), tiny_aim(bundle), preset, draws or SeededDraws(0))


def patch_term(profile) -> PatchConsistency:
    return oneshot_clip(profile).kinds[1].objective.terms[2].term


def step_to(state: TrainState, step: int):
    state.step = step
    return start_round(state)


def rendered(state: TrainState, monkeypatch, step: int = 1) -> dict[str, tuple]:
    """Codes and noise that the two generators are given in the generator phase of a random step."""
    calls: dict[str, tuple] = {}
    for name in ("source", "adapted"):
        generator = getattr(state, name)
        affine, render = generator.affine, generator.render

        def noted_codes(w, name=name, affine=affine):
            calls[name] = (w,)
            return affine(w)

        def noted_noise(styles, noise, stage, name=name, render=render):
            calls[name] += (noise,)
            return render(styles, noise, stage)

        monkeypatch.setattr(generator, "affine", noted_codes)
        monkeypatch.setattr(generator, "render", noted_noise)
    run_phase("generator", step_to(state, step))
    return calls


def test_every_switch_differs_between_the_profiles_and_has_a_test_here():
    switches = [field.name for field in dataclasses.fields(DEFAULT) if field.name != "name"]
    tests = [name for name in globals() if name.startswith("test_")]
    for switch in switches:
        assert getattr(DEFAULT, switch) != getattr(OFFICIAL, switch), switch
        assert any(name.startswith(f"test_{switch}") for name in tests), f"{switch} has no test"
    assert PROFILES == {"default": DEFAULT, "official": OFFICIAL}


def test_shared_mixing_gives_both_generators_the_same_codes(monkeypatch):
    """Q1: the published code draws the crossover inside each generator call."""
    calls = rendered(run(DEFAULT), monkeypatch)
    assert torch.equal(calls["source"][0], calls["adapted"][0])
    calls = rendered(run(published("shared_mixing")), monkeypatch)
    source, adapted = calls["source"][0], calls["adapted"][0]
    same = [torch.equal(source[:, slot], adapted[:, slot]) for slot in range(source.shape[1])]
    assert same[0] and same[-1] and not all(same)  # the z are shared, the crossover is not


def test_shared_mixing_plans_agree_in_every_step(monkeypatch):
    state = run(DEFAULT)
    for step in (1, 2, 3, 5):
        calls = rendered(state, monkeypatch, step)
        assert torch.equal(calls["source"][0], calls["adapted"][0])


def test_shared_noise_gives_both_generators_the_same_maps(monkeypatch):
    """Q2."""
    calls = rendered(run(DEFAULT), monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(calls["source"][1], calls["adapted"][1], strict=True))
    calls = rendered(run(published("shared_noise")), monkeypatch)
    assert not any(torch.equal(a, b) for a, b in zip(calls["source"][1], calls["adapted"][1], strict=True))


def test_an_untrained_generator_is_consistent_with_its_source_in_the_default_profile_only():
    """What Q1 and Q2 do to the loss: before any training both pictures should be the same picture."""
    repaired, official = (
        float(run_phase("generator", step_to(run(profile), 1))["semantic"])
        for profile in (DEFAULT, published("shared_mixing"))
    )
    assert repaired < 1e-12 < official


CROPS, IMAGES = 16, 2


def influences(row: int, negatives: str) -> list[int]:
    """Rows of the source features that the loss of one row depends on."""
    q, k = torch.randn(2, CROPS * IMAGES, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = patch_contrast(q, k, IMAGES, negatives)[row]
    found = []
    for other in range(CROPS * IMAGES):
        changed = k.clone()
        changed[other] += 1
        if patch_contrast(q, changed, IMAGES, negatives)[row] != before:
            found.append(other)
    return found


@pytest.mark.parametrize("row", [0, 5, 31])
def test_patch_negatives_are_the_15_other_crops_of_the_own_image(row):
    """Q3: the published grouping of crop-major rows mixes the images."""
    own_image = [r for r in range(CROPS * IMAGES) if r % IMAGES == row % IMAGES]
    assert influences(row, patch_term(DEFAULT).negatives) == own_image
    official = patch_term(published("patch_negatives"))
    published_group = influences(row, official.negatives)
    assert published_group == [r for r in range(CROPS * IMAGES) if r // CROPS == row // CROPS]
    assert sum(r % IMAGES != row % IMAGES for r in published_group) == 8  # half of them show the other image


def test_self_logit_leaves_a_crop_out_of_its_own_negatives():
    """Q4: the published code keeps it with a similarity of -10, which counts at a high temperature."""
    same = torch.ones(CROPS * IMAGES, 8, dtype=torch.float64)  # every similarity is 1
    for profile, tau, wanted in (
        (DEFAULT, 1.0, 16),
        (DEFAULT, 100.0, 16),
        (published("self_logit"), 1.0, 16 + math.exp(-11)),
        (published("self_logit"), 100.0, 16 + math.exp(-0.11)),
    ):
        term = patch_term(profile)
        rows = patch_contrast(same, same, IMAGES, term.negatives, tau, term.self_logit)
        assert (rows - math.log(wanted)).abs().max() < 1e-12


@pytest.mark.parametrize(("profile", "gap"), [(DEFAULT, 0), (published("crop_reaches_edge"), 1)])
def test_crop_reaches_edge(profile, gap, monkeypatch):
    """Q5: the published upper bound is exclusive twice, so the last row and column are never seen."""
    state = run(profile, draws=NotedDraws(highest=True))
    images = []
    plain = state.adapted.render
    monkeypatch.setattr(state.adapted, "render", lambda *a: images.append(plain(*a)) or images[-1])
    run_phase("generator", step_to(state, 1))
    side = SIZE // 8
    crops = next(seen for seen in state.goal.encoders.clip.seen if seen.shape[-1] == side)
    last = SIZE - gap
    assert torch.equal(crops[0], images[0][0, :, last - side : last, last - side : last].detach())


def test_crop_px_is_an_eighth_of_the_image():
    """Q6: 128 px whatever the size, which is an eighth at 1024 px only."""
    repaired, official = (patch_term(p) for p in (DEFAULT, published("crop_px")))
    assert [repaired.side(size) for size in (64, 128, 256, 1024)] == [8, 16, 32, 128]
    assert [official.side(size) for size in (128, 256, 1024)] == [128, 128, 128]
    with pytest.raises(ValueError, match="crops of 128 px do not fit"):
        run(published("crop_px"))


def test_one_head_per_update_judges_fake_and_real_alike(monkeypatch):
    """Q8: with several heads, the published code compares a fake's score of one with a real's of another."""
    for profile, alike in ((DEFAULT, True), (published("one_head_per_update"), False)):
        state = run(profile, heads=4)
        seen: list[int] = []
        plain = state.discriminator.patch_features
        monkeypatch.setattr(
            state.discriminator,
            "patch_features",
            lambda x, i, stage, seen=seen, plain=plain: seen.append(i) or plain(x, i, stage),
        )
        of_steps = []
        for step in (1, 2, 3, 5, 6, 7):
            seen.clear()
            run_phase("discriminator", step_to(state, step))
            of_steps.append(set(seen))  # one head may judge both in one call
        assert all(len(heads) == 1 for heads in of_steps) == alike
        assert len(set().union(*of_steps)) > 1


def test_patch_needs_64px():
    """The published discriminator falls through to the whole-image logit; the default says what is wrong."""
    with pytest.raises(ValueError, match="at least 64 px, this one makes 32 px"):
        run(DEFAULT, size=32)
    state = run(published("patch_needs_64px"), size=32)
    assert state.heads is None and start_round(state).path == "image"
    assert step_to(state, 1).path == "image"
    assert math.isfinite(float(run_phase("discriminator", step_to(state, 1))["discriminator"]))


@pytest.mark.parametrize("every", [3, 16])
def test_r1_on_reference_keeps_to_the_image_path(every):
    """Q10: 16 happens to be a multiple of 4; with 3 the published code regularises whichever path is due."""
    due = {}
    for profile in (DEFAULT, published("r1_on_reference")):
        state = run(profile, r1_every=every)
        rounds = [step_to(state, step) for step in range(96)]
        due[profile] = [(now.step, now.path) for now in rounds if "r1" in phases_due(now)]
    repaired, official = due.values()
    assert {path for _, path in repaired} == {"image"}
    assert [step for step, _ in official] == list(range(0, 96, every))
    assert ({path for _, path in official} == {"image"}) == (every == 16)
    assert (repaired == official) == (every == 16)


def test_r1_on_reference_counts_reference_steps():
    """So that the share of regularised steps stays near one in `r1_every` under other ratios."""
    for reference, random in ((3, 1), (1, 7), (1, 3)):
        state = run(DEFAULT, steps={"reference": reference, "random": random})
        rounds = [step_to(state, step) for step in range(160)]
        due = [now for now in rounds if "r1" in phases_due(now)]
        assert all(now.kind.name == "reference" for now in due)
        assert 9 <= len(due) <= 11


def test_r1_keeps_score_touches_layers_that_r1_does_not_reach():
    """The published loss contains 0 * score: the last bias gets a gradient of 0 instead of none."""
    for profile, reached in ((DEFAULT, False), (published("r1_keeps_score"), True)):
        state = run(profile)
        run_phase("r1", step_to(state, 0))
        gradient = state.discriminator.output.bias.grad
        assert (gradient is not None) == reached
        assert not reached or gradient.tolist() == [0.0]
        assert float(state.discriminator.output.weight.grad.abs().max()) > 0


def test_zero_filled_grads_age_unused_layers():
    """Q11: Adam goes on stepping layers that only the image path uses, with gradients of 0."""
    steps = {}
    for profile in (DEFAULT, published("zero_filled_grads")):
        state = run(profile)
        for step in range(4):
            run_phase("discriminator", step_to(state, step))
        optimiser, judge = state.optimisers["discriminator"], state.discriminator
        counts = [int(optimiser.state[p]["step"]) for p in (judge.from_rgb.weight, judge.output.weight)]
        moments = [float(optimiser.state[judge.output.weight]["exp_avg_sq"].abs().max())]
        steps[profile] = (counts, moments)
    (repaired, kept), (official, aged) = steps.values()
    assert repaired == [4, 1] and official == [4, 4]
    assert aged[0] < kept[0]


def test_lpips_dropout_is_off_in_training_and_search():
    """Q13: the published code leaves LPIPS in training mode."""
    for profile, on in ((DEFAULT, False), (published("lpips_dropout"), True)):
        state = run(profile)
        losses = [float(run_phase("generator", step_to(state, 0))["lpips"])]
        perceptual = state.goal.encoders.perceptual
        encoders = stand_in_encoders()
        search_latent(tiny_bundle(), encoders, picture(), SearchConfig(steps=2, profile=profile))
        given = perceptual.dropouts + encoders.perceptual.dropouts
        assert len(given) == 3 and all((one is not None) == on for one in given)
        assert losses[0] > 0


def test_lpips_dropout_masks_change_from_step_to_step():
    state = run(dataclasses.replace(published("lpips_dropout")))
    for step in (0, 4):
        run_phase("generator", step_to(state, step))
    first, second = (torch.rand(4, generator=g) for g in state.goal.encoders.perceptual.dropouts)
    assert not torch.equal(first, second)


def jitter_only() -> RecordedDraws:
    values = {
        "affine": [0.5] * 4,
        "perspective": [0.0] * 8,
        "jitter": [0.6, 0.5, 0.5, 0.5, 0.1, 0.2, 0.3, 0.4],
        "erase": [1.0] * 5,
    }
    return RecordedDraws({(0, f"view.0.{name}"): torch.tensor(numbers) for name, numbers in values.items()})


def test_jitter_on_signed_values_loses_everything_dark():
    """Q14: values in [-1, 1] are clamped to [0, 1], so that the darker half has no gradient."""
    image = torch.linspace(-0.9, 0.9, 3 * 32 * 32).reshape(1, 3, 32, 32).requires_grad_(True)
    shares = []
    for profile in (DEFAULT, published("jitter_on_signed")):
        augment = ViewAugmentation(views=1, jitter_on_signed=profile.jitter_on_signed)
        view = augment(image, jitter_only(), 0)
        (gradient,) = torch.autograd.grad(view.sum(), image)
        shares.append(float((gradient == 0).float().mean()))
        assert (float(view.detach().min()) >= 0) == profile.jitter_on_signed
    assert shares[0] < 0.1 and shares[1] > 0.4


def search_views(profile) -> torch.Tensor:
    """The pictures that CLIP compares with the target in one search step."""
    encoders = stand_in_encoders()
    search_latent(tiny_bundle(), encoders, picture(), SearchConfig(steps=1, profile=profile))
    return max(encoders.clip.seen, key=len)


def test_views_have_parameters_of_their_own():
    """Q15: the published 8 views share one draw and are one picture."""
    views = search_views(DEFAULT)
    assert len(views) == 8 and len({float(view.sum()) for view in views}) == 8
    encoders = stand_in_encoders()
    search_latent(tiny_bundle(), encoders, picture(), SearchConfig(steps=1, profile=published("views")))
    assert [len(seen) for seen in encoders.clip.seen] == [1, 1]  # the view and the target


def test_nearest_affine_makes_no_new_values():
    """Q16: nearest sampling in the affine step; bilinear is smooth."""
    image = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    known = set(image.flatten().tolist()) | {0.0}
    turned = torch.tensor([0.9, 0.6, 0.4, 0.7])
    for profile, new in ((DEFAULT, True), (published("nearest_affine"), False)):
        augment = ViewAugmentation(nearest_affine=profile.nearest_affine)
        values = set(augment._affine(image, turned).flatten().tolist())
        assert bool(values - known) == new


def test_trains_raw_generator():
    """Q22: the published code starts from `g`, averages into `g_ema`, and searches with `g`."""
    bundle = tiny_bundle(raw=True)
    for profile, start in (
        (DEFAULT, bundle.generator),
        (published("trains_raw_generator"), bundle.raw_generator),
    ):
        state = run(profile, raw=True)
        assert torch.equal(state.source.const, start.const)
        assert torch.equal(state.adapted.const, start.const)
        assert torch.equal(state.ema.const, bundle.generator.const)
        encoders, config = stand_in_encoders(), SearchConfig(steps=1, augment=False, profile=profile)
        result = search_latent(bundle, encoders, picture(), config)
        image = start.synthesize(result.latent.values, start.constant_noise())
        assert torch.allclose(result.reconstruction, image, atol=1e-5)


def test_trains_raw_generator_only_where_there_is_one():
    state = run(published("trains_raw_generator"), raw=False)
    assert torch.equal(state.source.const, state.ema.const)


def test_the_official_preset_differs_in_its_rows_and_not_in_code():
    official = oneshot_clip(OFFICIAL)
    assert patch_term(OFFICIAL) == PatchConsistency(
        crops=16, crop_px=128, negatives="crop_major", self_logit=-10.0, reaches_edge=False
    )
    plan = official.discriminator
    assert (plan.r1_kind, plan.r1_keeps_score, plan.one_head_per_update, plan.small) == (
        None,
        True,
        False,
        "image",
    )
    assert official.start == "raw" and official.optimiser.zero_filled_grads
    batches = [kind.batches["main"] for kind in official.kinds]
    assert not any(batch.shared_mixing or batch.shared_noise for batch in batches)
    for module in ("training/phases.py", "training/state.py", "training/memory.py", "training/loop.py"):
        assert ".profile" not in (PACKAGE / module).read_text(encoding="utf-8"), module


def test_average_ramp_lets_short_runs_show_what_they_learnt():
    """Not of the published code: with its half-life alone, 59 % of a run of 240 steps is still the source."""
    ramped, fixed = (oneshot_clip(profile).optimiser for profile in (DEFAULT, published("average_ramp")))
    assert fixed.average_decay(8) == fixed.average_decay(8000) == 0.5 ** (1 / 312.5)
    assert (ramped.average_decay(0), ramped.average_decay(8), ramped.average_decay(16)) == (0, 0.5, 0.5**0.5)
    assert ramped.average_decay(2500) == ramped.average_decay(8000) == fixed.average_decay(0)
    assert math.prod(ramped.average_decay(step) for step in range(240)) == 0


# Of the other methods' code (methods.md part II) --------------------------------------------------------


def nada(name: str):
    return stylegan_nada(published(name)).kinds[0].objective.terms[0].term


def test_softness_gives_an_unchanged_picture_a_finite_gradient():
    soft, hard = nada("name").softness, nada("softness").softness
    assert (soft, hard) == (0.1, 0)
    source = torch.nn.functional.normalize(torch.randn(1, 8), dim=1)
    steepest = []
    for softness in (soft, hard):
        adapted = source.clone().requires_grad_(True)
        direction_distance(adapted, source, torch.ones(8), softness).sum().backward()
        steepest.append(float(adapted.grad.norm()))
    assert steepest[0] <= 11 and steepest[1] > 1e6


def test_nudges_unchanged_compares_an_unchanged_batch_beside_itself():
    assert (nada("name").nudges, nada("nudges_unchanged").nudges) == (False, True)


def test_targets_as_files_are_seen_by_clips_own_code():
    """As published: 8 bits and Pillow for targets, another resize for generated pictures."""
    clip = reading_clip()
    target = picture(48)
    source = picture(48) * 0.5
    goal = AimFeatures(Aim(target), Encoders.of(clip, None), lambda count: source.expand(count, -1, -1, -1))
    plain, filed = (goal.direction(0, as_files=as_files) for as_files in (False, True))
    assert not torch.equal(plain, filed) and float(plain @ filed) > 0.5
    assert (nada("name").as_files, nada("targets_as_files").as_files) == (False, True)


def test_shifted_layers_stand_for_others_and_the_constant_rests():
    generator = tiny_bundle(64).generator
    names = Trainable().names(generator)
    default, shifted = (stylegan_nada(one).selection for one in (DEFAULT, published("shifted_layers")))
    found = default.names([2], names, generator)
    assert {"const", "convs.2.weight"} <= found and "convs.1.weight" not in found
    assert {name.split(".")[0] + name.split(".")[1] for name in shifted.names([2, 1], names, generator)} == {
        "convs1", "to_rgbs0"
    }  # fmt: skip
    moved = torch.arange(10.0)
    assert default.chosen(moved) == [8, 7, 6, 5, 4, 3, 2] and shifted.chosen(moved) == list(range(9, -1, -1))


def test_reduces_by_four_compares_at_a_quarter_of_any_side():
    for profile, down in ((DEFAULT, 0), (published("reduces_by_four"), 4)):
        terms = {item.name: item.term for item in mind_the_gap(profile).kinds[0].objective.terms}
        assert terms["reference_pixel"].down == terms["reference_lpips"].down == down


def test_path_keeps_picture_lets_rgb_biases_age_in_adam():
    ages = []
    for profile in (DEFAULT, published("path_keeps_picture")):
        preset = few_shot(profile)
        bundle = tiny_bundle(64)
        state = TrainState.create(bundle, stand_in_encoders(), Aim(picture(64)), preset, SeededDraws(0))
        run_phase("path", step_to(state, 0))
        kept = state.optimisers["adapted"].state.get(state.adapted.to_rgbs[-1].bias, {})
        ages.append(float(kept.get("step", 0)))
    assert ages == [0.0, 1.0]
