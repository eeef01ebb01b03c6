"""The latent search: its start, its steps, its settings, its refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from stand_ins import NotedDraws, StandInPerceptual, picture, stand_in_encoders, tiny_bundle

from oneshot_core.augmentation import ViewAugmentation
from oneshot_core.checkpoints.bundle import estimate_mean_latent
from oneshot_core.checkpoints.native import read_tensors, write_tensors
from oneshot_core.choices import SEARCH_METHODS
from oneshot_core.draws import RecordedDraws, SeededDraws
from oneshot_core.features import Encoders
from oneshot_core.inversion import Given, inversion_config, invert_pictures
from oneshot_core.objective import OFFICIAL
from oneshot_core.search import SearchConfig, search_latent
from oneshot_core.whitening import whitening_of

SIZE = 16


def search(config: SearchConfig | None = None, seed: int = 0, **settings):
    return search_latent(
        tiny_bundle(SIZE),
        stand_in_encoders(),
        picture(SIZE),
        config or SearchConfig(steps=3, seed=seed),
        **settings,
    )


def reachable_target(bundle) -> torch.Tensor:
    """A picture that the generator can draw, away from its mean."""
    w = bundle.generator.map_single(torch.ones(1, bundle.generator.config.z_dim))
    return bundle.generator.synthesize(w, None)


def test_search_starts_at_the_mean_latent():
    seen = []
    search(SearchConfig(steps=1, augment=False), callbacks=[seen.append])
    bundle = tiny_bundle(SIZE)
    step = seen[0].codes - bundle.mean_latent
    assert seen[0].losses["deviation"] == 0.0
    assert torch.allclose(step.abs(), torch.full_like(step, 0.01), atol=1e-4)  # Adam's first step


def test_search_comes_closer_to_a_reachable_target():
    bundle = tiny_bundle(SIZE)
    config = SearchConfig(steps=60, learning_rate=0.05, augment=False)
    result = search_latent(bundle, stand_in_encoders(), reachable_target(bundle), config)
    for name in ("clip", "lpips", "pixel"):
        values = result.losses[name]
        assert sum(values[-5:]) < 0.6 * sum(values[:5]), name


def test_result_says_what_it_is():
    result, bundle = search(), tiny_bundle(SIZE)
    latent = result.latent
    assert (latent.space, tuple(latent.values.shape), latent.family) == ("w", (1, 7), bundle.family)
    assert latent.origin["method"] == "clip_search" and latent.origin["settings"]["steps"] == 3
    image = bundle.generator.synthesize(latent.values, bundle.generator.constant_noise())
    assert torch.allclose(result.reconstruction, image, atol=1e-5)
    assert {name: len(values) for name, values in result.losses.items()} == dict.fromkeys(
        ("clip", "deviation", "lpips", "pixel"), 3
    )
    assert not latent.values.requires_grad and not result.reconstruction.requires_grad


@pytest.mark.slow
def test_on_a_busy_machine_threads_sleep_which_is_told_and_changes_nothing(busy_machine):
    seen = []
    found = search(SearchConfig(steps=9), callbacks=[seen.append])
    assert busy_machine.log == ["sleep", "spin"]
    assert seen[2].notes == () and "from step 2 of the search on" in seen[-1].notes[0]
    busy_machine.busy = False
    assert torch.equal(found.latent.values, search(SearchConfig(steps=9)).latent.values)


def test_progress_reports_every_step():
    seen = []
    result = search(callbacks=[seen.append])
    assert [(p.step, p.steps) for p in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[-1].eta_seconds == 0.0 and seen[0].eta_seconds >= 0.0
    assert torch.equal(seen[-1].codes, result.latent.values)
    assert len({float(p.codes.sum()) for p in seen}) == 3  # copies, not one tensor
    assert seen[0].preview().shape == (1, 3, SIZE, SIZE)
    assert [p.losses["pixel"] for p in seen] == result.losses["pixel"]


def test_a_callback_that_raises_stops_the_search():
    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt("enough")

    seen = []
    with pytest.raises(KeyboardInterrupt):
        search(callbacks=[seen.append, stop])
    assert [p.step for p in seen] == [1, 2]


def test_search_repeats_bit_for_bit_and_depends_on_its_seed():
    assert torch.equal(search(seed=1).latent.values, search(seed=1).latent.values)
    assert not torch.equal(search(seed=1).latent.values, search(seed=2).latent.values)


def test_search_replays_recorded_draws():
    noted = NotedDraws(seed=4)
    first = search(draws=noted)
    assert {purpose.split(".")[0] for _, purpose in noted.table} == {"search", "view"}
    again = search(draws=RecordedDraws(noted.table))
    assert torch.equal(first.latent.values, again.latent.values)


def test_each_step_draws_fresh_noise():
    noted = NotedDraws()
    search(draws=noted)
    maps = [noted.table[step, "search.noise.0"] for step in range(3)]
    assert not torch.equal(maps[0], maps[1]) and not torch.equal(maps[1], maps[2])


def test_pixel_only_search_asks_no_encoder():
    """The ablation of the paper's section 3.3."""
    encoders = stand_in_encoders()
    config = SearchConfig(steps=2, weights={"clip": 0.0, "lpips": 0.0})
    result = search_latent(tiny_bundle(SIZE), encoders, picture(SIZE), config)
    assert set(result.losses) == {"deviation", "pixel"}
    assert not encoders.clip.seen and not encoders.perceptual.dropouts


def test_augmentation_can_be_switched_off():
    encoders = stand_in_encoders()
    search_latent(tiny_bundle(SIZE), encoders, picture(SIZE), SearchConfig(steps=1, augment=False))
    image, target = encoders.clip.seen
    assert image.shape == target.shape == (1, 3, SIZE, SIZE)


def test_search_leaves_the_bundle_alone_and_runs_inside_inference_mode():
    bundle = tiny_bundle(SIZE)
    before = {name: value.clone() for name, value in bundle.generator.state_dict().items()}
    with torch.inference_mode():
        inside = search_latent(bundle, stand_in_encoders(), picture(SIZE), SearchConfig(steps=2))
    outside = search_latent(bundle, stand_in_encoders(), picture(SIZE), SearchConfig(steps=2))
    assert torch.equal(inside.latent.values, outside.latent.values)
    assert not inside.latent.values.is_inference() and not inside.reconstruction.is_inference()
    assert all(torch.equal(before[name], value) for name, value in bundle.generator.state_dict().items())
    assert all(parameter.grad is None for parameter in bundle.generator.parameters())


def test_search_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"target must have shape \[1, 3, 16, 16\], got \[1, 3, 32, 32\]"):
        search_latent(tiny_bundle(SIZE), stand_in_encoders(), picture(32))
    for settings, text in (
        ({"steps": 0}, "steps must be at least 1, got 0; to skip the search pass a latent"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"weights": {"style": 1.0}}, r"no term \['style'\]; its terms: clip, deviation, lpips, pixel"),
    ):
        with pytest.raises(ValueError, match=text):
            SearchConfig(**settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "what", ["target", "mask", "start", "weight", "mean latent", "CLIP model", "perceptual"]
)
def test_what_is_not_finite_is_refused_by_name_before_any_work(what, value):
    bundle, target, mask, start = (
        tiny_bundle(SIZE),
        picture(SIZE),
        torch.ones(1, 1, SIZE, SIZE),
        torch.zeros(7),
    )
    encoders = Encoders.of(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    spoilt = {
        "target": target,
        "mask": mask,
        "start": start,
        "weight": bundle.generator.convs[0].weight.data,
        "mean latent": bundle.mean_latent,
        "CLIP model": encoders.clip.weight.data,
        "perceptual": encoders.perceptual.bias.data,
    }[what]
    spoilt.view(-1)[1] = value
    with pytest.raises(ValueError, match=rf"{what}.* 1 of \d+ values are NaN or infinite"):
        search_latent(bundle, encoders, target, mask=mask, start=start)


class LaterNan(StandInPerceptual):
    """Turns the distance, or only its gradient, into NaN from the fourth step on."""

    def __init__(self, only_gradient: bool) -> None:
        super().__init__()
        self.only_gradient, self.calls = only_gradient, 0

    def distance(self, first, second, dropout=None):
        self.calls += 1
        plain = super().distance(first, second, dropout)
        if self.calls <= 3:
            return plain
        if self.only_gradient:
            return plain + 0 * (first[0] * 0).sum().abs().sqrt()  # the root of 0 has an infinite slope
        return plain * float("nan")


@pytest.mark.parametrize("only_gradient", [False, True])
def test_a_step_that_breaks_names_term_step_and_seed_and_keeps_the_last_good_one(only_gradient, tmp_path):
    def search(steps, perceptual):
        encoders = Encoders.of(stand_in_encoders().clip, perceptual)
        config = SearchConfig(steps=steps, seed=5, augment=False)
        return search_latent(
            tiny_bundle(SIZE), encoders, picture(SIZE), config, state_file=tmp_path / "state"
        )

    what = "gradient of the search's term 'lpips'" if only_gradient else "term 'lpips' became nan"
    with pytest.raises(FloatingPointError, match=rf"{what}.* at step 3 \(seed 5\).*lower its learning rate"):
        search(9, LaterNan(only_gradient))
    tensors, header = read_tensors(tmp_path / "state")
    assert header["step"] == 3 and all(bool(value.isfinite().all()) for value in tensors.values())
    resumed = search(9, StandInPerceptual())
    (tmp_path / "state").unlink()
    assert torch.equal(resumed.latent.values, search(9, StandInPerceptual()).latent.values)


def test_a_weight_without_bounds_names_its_term():
    config = SearchConfig(steps=2, weights={"pixel": 3e38}, augment=False)
    with pytest.raises(FloatingPointError, match="term 'pixel' became NaN or infinite at step 0"):
        search_latent(tiny_bundle(SIZE), stand_in_encoders(), picture(SIZE) * 1e3, config)


def test_a_saved_search_that_is_not_finite_is_set_aside(tmp_path):
    config, path = SearchConfig(steps=2), tmp_path / "state"
    whole = search_latent(tiny_bundle(SIZE), stand_in_encoders(), picture(SIZE), config, state_file=path)
    tensors, header = read_tensors(path)
    tensors["adam.exp_avg"][0, 0] = float("nan")
    write_tensors(path, tensors, header)
    again = search_latent(tiny_bundle(SIZE), stand_in_encoders(), picture(SIZE), config, state_file=path)
    assert torch.equal(again.latent.values, whole.latent.values)
    assert (tmp_path / "state.damaged").is_file()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_weights_and_rates_are_finite_and_not_negative(value):
    with pytest.raises(ValueError, match="the weight of lpips must be a finite number of at least 0"):
        SearchConfig(weights={"lpips": value})
    with pytest.raises(ValueError, match="learning_rate must be positive and at most 1000"):
        SearchConfig(learning_rate=value)


def test_ii2s_finds_a_code_per_slot():
    bundle, seen = tiny_bundle(SIZE), []
    config = SearchConfig(steps=40, learning_rate=0.05, method="ii2s", weights={"deviation": 3.0})
    result = search_latent(
        bundle, stand_in_encoders(), reachable_target(bundle), config, callbacks=[seen.append]
    )
    latent = result.latent
    assert (latent.space, tuple(latent.values.shape)) == ("w+", (1, bundle.num_layers, 7))
    assert latent.origin["method"] == "ii2s_search" and latent.origin["settings"]["method"] == "ii2s"
    assert len({tuple(row) for row in latent.values[0].tolist()}) == bundle.num_layers
    assert set(result.losses) == {"pixel", "lpips", "prior"}  # the other method's weight is passed over
    assert sum(result.losses["pixel"][-5:]) < 0.6 * sum(result.losses["pixel"][:5])
    image = bundle.generator.synthesize(latent.values, bundle.generator.constant_noise())
    assert torch.allclose(result.reconstruction, image, atol=1e-5)
    assert torch.equal(seen[-1].codes, latent.values)


def test_ii2s_is_the_inversion_of_that_name():
    """The same steps from the same draws, though each has its own loop around the one optimiser."""
    noted, bundle = NotedDraws(seed=6), tiny_bundle(SIZE)
    config = SearchConfig(steps=6, method="ii2s")
    found = search_latent(bundle, stand_in_encoders(), picture(SIZE), config, draws=noted)
    table = {
        (step, purpose.replace("search.", "invert.")): one for (step, purpose), one in noted.table.items()
    }
    inverted = invert_pictures(
        bundle, picture(SIZE), StandInPerceptual(), inversion_config("ii2s", steps=6, prior=0.01),
        given=Given(RecordedDraws(table)),
    )  # fmt: skip
    torch.testing.assert_close(found.latent.values, inverted.latent.values, atol=1e-6, rtol=1e-6)
    for ours, theirs in (("lpips", "perceptual"), ("pixel", "pixel"), ("prior", "prior")):
        assert found.losses[ours] == pytest.approx(inverted.losses[theirs], rel=1e-5)


def test_the_prior_holds_the_code():
    def unlikely(weight: float) -> float:
        config = SearchConfig(steps=30, learning_rate=0.05, method="ii2s", weights={"prior": weight})
        found = search_latent(tiny_bundle(SIZE), stand_in_encoders(), picture(SIZE), config)
        return float(whitening_of(tiny_bundle(SIZE)).unlikeliness(found.latent.values.double()))

    assert unlikely(10.0) < unlikely(0.0001)


def test_a_method_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="method must be one of clip, ii2s, got 'e4e'"):
        SearchConfig(method="e4e")
    with pytest.raises(ValueError, match="no term .*; its terms: pixel, lpips, prior"):
        SearchConfig(method="ii2s", weights={"clap": 1.0})
    with pytest.raises(ValueError, match="every term of the search has weight 0"):
        SearchConfig(method="ii2s", weights={"pixel": 0, "lpips": 0, "prior": 0, "clip": 1.0})


def test_the_first_method_goes_without_saying():
    """Kept searches keep their keys."""
    assert "method" not in SearchConfig().describe()
    assert SearchConfig(method="ii2s").describe()["method"] == "ii2s"


def test_settings_describe_themselves():
    config = SearchConfig(steps=7, weights={"clip": 0.5})
    assert config.describe()["weights"] == {"clip": 0.5, "deviation": 0.01, "lpips": 1.0, "pixel": 1.0}
    assert dataclasses.replace(config, augment=False).describe() != config.describe()


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", SEARCH_METHODS)
@pytest.mark.parametrize("stop", [1, 4])
def test_a_stopped_search_resumes_exactly(tmp_path, stop, method):
    def interrupt(progress):
        if progress.step == stop:
            raise Stop

    config, file = SearchConfig(steps=7, method=method), tmp_path / "search.safetensors"
    whole = search(config)
    with pytest.raises(Stop):
        search(config, callbacks=[interrupt], state_file=file)
    resumed = search(config, state_file=file)
    assert torch.equal(whole.latent.values, resumed.latent.values)
    assert whole.losses == resumed.losses
    assert torch.equal(search(config, state_file=file).latent.values, whole.latent.values)


def test_a_search_of_other_settings_is_not_continued(tmp_path):
    file = tmp_path / "search.safetensors"
    search(SearchConfig(steps=2), state_file=file)
    with pytest.raises(ValueError, match="other settings"):
        search(SearchConfig(steps=3, seed=1), state_file=file)
    with pytest.raises(ValueError, match="2 steps, asked for 1"):
        search(SearchConfig(steps=1), state_file=file)


def test_views_have_the_size_that_clip_reads():
    encoders = stand_in_encoders()
    encoders.clip.preprocess.image_size = 24
    search_latent(tiny_bundle(SIZE), encoders, picture(SIZE), SearchConfig(steps=1))
    assert [tuple(images.shape) for images in encoders.clip.seen if len(images) > 1] == [(8, 3, 24, 24)]


def test_the_official_search_starts_at_the_mean_of_the_generator_it_searches():
    bundle, other = tiny_bundle(SIZE), tiny_bundle(SIZE, seed=3)
    bundle = dataclasses.replace(bundle, raw_generator=other.generator)
    seen = []
    config = SearchConfig(steps=1, augment=False, profile=OFFICIAL)
    search_latent(bundle, stand_in_encoders(), picture(SIZE), config, callbacks=[seen.append])
    mean = estimate_mean_latent(other.generator)
    assert torch.allclose((seen[0].codes - mean).abs(), torch.full((1, len(mean)), 0.01), atol=1e-4)


def left_half() -> torch.Tensor:
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    return mask


def test_a_mask_of_ones_changes_nothing_and_no_mask_leaves_the_saved_settings_as_they_were(tmp_path):
    plain, masked = tmp_path / "plain.safetensors", tmp_path / "masked.safetensors"
    result = search(state_file=plain)
    assert torch.equal(result.latent.values, search(mask=torch.ones(1, 1, SIZE, SIZE)).latent.values)
    search(mask=left_half(), state_file=masked)
    settings = [read_tensors(path)[1]["settings"] for path in (plain, masked)]
    assert set(settings[1]["inputs"]) - set(settings[0]["inputs"]) == {"mask"}
    with pytest.raises(ValueError, match="other settings"):
        search(mask=left_half().flip(3), state_file=masked)


def test_nothing_pulls_where_the_mask_is_0():
    """What the target shows there does not matter to the pixels, and CLIP sees the target's own there."""
    other = picture(SIZE)
    other[..., SIZE // 2 :] = picture(SIZE, seed=1)[..., SIZE // 2 :]

    def found(target: torch.Tensor, encoders: Encoders, **weights: float) -> torch.Tensor:
        config = SearchConfig(steps=3, weights=weights, augment=False)
        return search_latent(tiny_bundle(SIZE), encoders, target, config, mask=left_half()).latent.values

    same = [found(target, stand_in_encoders(), clip=0.0) for target in (picture(SIZE), other)]
    torch.testing.assert_close(same[0], same[1], atol=1e-6, rtol=0)
    encoders = stand_in_encoders()
    found(other, encoders)
    assert len(encoders.clip.seen) == 4
    assert all(torch.equal(seen[..., SIZE // 2 :], other[..., SIZE // 2 :]) for seen in encoders.clip.seen)


def test_the_views_are_made_of_the_masked_picture():
    encoders, mask = stand_in_encoders(), torch.zeros(1, 1, SIZE, SIZE)
    mask[..., 0, 0] = 1e-6  # nearly nothing counts: all views are views of the target
    config = SearchConfig(steps=1, weights={"lpips": 0.0, "pixel": 0.0, "deviation": 0.0})
    search_latent(tiny_bundle(SIZE), encoders, picture(SIZE), config, mask=mask)
    views = ViewAugmentation(view_px=16)(picture(SIZE), SeededDraws(0), 0)
    torch.testing.assert_close(encoders.clip.seen[0], views, atol=1e-4, rtol=0)


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"mask must have shape \[1, 1, 16, 16\]"):
        search(mask=torch.ones(1, 1, 8, 8))
    with pytest.raises(ValueError, match="nothing of the target counts"):
        search(mask=torch.zeros(1, 1, SIZE, SIZE))
