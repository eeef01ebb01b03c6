"""Inversion by optimisation: it reaches pictures, pictures do not touch each other, settings, refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from stand_ins import NotedDraws, StandInPerceptual, picture, tiny_bundle

from oneshot_core.draws import RecordedDraws
from oneshot_core.inversion import METHODS, Given, inversion_config, invert_pictures, inverted
from oneshot_core.inversion.noise import COARSEST_PX, jitter_at, noise_regulariser, normalised
from oneshot_core.inversion.statistics import CodeStatistics
from oneshot_core.latents import Latent
from oneshot_core.quads import Quad
from oneshot_core.sampling import random_latents, sample
from oneshot_core.tensors import seeded
from oneshot_core.whitening import Whitening

SIZE = 16
BUNDLE = tiny_bundle(SIZE)
GIVEN = Given(
    statistics=CodeStatistics.measured(BUNDLE.generator, 500, 0),
    whitening=Whitening.measured(BUNDLE.generator, 2000),
)
METHOD_NAMES = [name for name in METHODS if name != "refinement"]


def invert(method: str = "ii2s", pictures: torch.Tensor | None = None, draws=None, **settings):
    extra = {name: settings.pop(name) for name in ("start", "quads", "callbacks") if name in settings}
    config = inversion_config(method, **{"steps": 3, "mean": 50 * ("projector" in method), **settings})
    pictures = picture(SIZE) if pictures is None else pictures
    given = dataclasses.replace(GIVEN, draws=draws)
    return invert_pictures(BUNDLE, pictures, StandInPerceptual(), config, given=given, **extra)


def drawable(count: int = 1) -> torch.Tensor:
    return sample(BUNDLE, random_latents(BUNDLE, range(40, 40 + count)))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_an_inversion_comes_nearer_to_a_picture_that_can_be_drawn(method):
    target = drawable()
    rate = {} if "projector" in method else {"learning_rate": 0.05}
    result = invert(method, target, steps=80, **rate)
    losses = result.losses["perceptual"]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    before = sample(BUNDLE, Latent("w", BUNDLE.mean_latent[None]))
    assert (result.images - target).square().mean() < 0.6 * (before - target).square().mean()


def test_result_says_what_it_is():
    pictures = drawable(2)
    quad = Quad.at(((1, 2), (1, 9), (8, 9), (8, 2)), 16, 16)
    result = invert("projector (nvidia)", pictures, quads=[quad, None])
    code = result.latent
    assert (code.space, tuple(code.values.shape), code.family) == ("w", (2, 7), BUNDLE.family)
    assert code.origin["method"] == "inversion" and code.origin["settings"]["steps"] == 3
    assert code.origin["quads"] == [quad.values(), None]
    torch.testing.assert_close(result.images, sample(BUNDLE, code), atol=1e-5, rtol=0)
    maps = [tuple(one.shape) for one in result.noise]
    assert maps == [(2, 1, *shape) for shape in BUNDLE.generator.noise_shapes()]
    drawn = BUNDLE.generator.synthesize(code.values, result.noise)
    torch.testing.assert_close(result.projected, drawn, atol=1e-5, rtol=0)
    assert {name: len(values) for name, values in result.losses.items()} == {"perceptual": 3, "noise": 3}
    tensors = (code.values, result.images, result.projected, *result.noise)
    assert not any(one.requires_grad or one.is_inference() for one in tensors)
    plain = invert("ii2s", pictures)
    assert plain.projected is None and plain.noise == () and "quads" not in plain.latent.origin
    assert plain.latent.values.shape == (2, BUNDLE.num_layers, 7)
    assert set(plain.losses) == {"perceptual", "pixel", "prior"}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_gives_what_its_pictures_give_alone(method, batch_size):
    pictures = drawable(3)
    together = invert(method, pictures, batch_size=batch_size, steps=4)
    for index in range(3):
        alone = invert(method, pictures[index : index + 1], steps=4)
        torch.testing.assert_close(
            together.latent.values[index], alone.latent.values[0], atol=1e-4, rtol=1e-4
        )


def test_several_pictures_can_share_their_noise_statistics():
    pictures = drawable(2)
    together = invert("projector (rosinality)", pictures, jointly=True, pixel=1.0)
    stacked = torch.cat([one.flatten() for one in (together.noise[-1],)])
    assert float(stacked.std()) == pytest.approx(1.0, abs=1e-5)
    assert not torch.allclose(together.noise[-1].std(dim=(1, 2, 3)), torch.ones(2), atol=1e-4)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_an_inversion_repeats_and_replays_its_draws(method):
    noted = NotedDraws(seed=4)
    first = invert(method, draws=noted)
    again = invert(method, draws=RecordedDraws(noted.table))
    assert torch.equal(first.latent.values, again.latent.values)
    assert torch.equal(invert(method, seed=4).latent.values, first.latent.values)
    assert not torch.equal(invert(method, seed=5).latent.values, first.latent.values)


def test_what_each_method_draws():
    def purposes(method: str, **settings) -> set[str]:
        noted = NotedDraws()
        start = {"start": random_latents(BUNDLE, [0])} if method == "refinement" else {}
        invert(method, draws=noted, **start, **settings)
        return {purpose.rpartition(".noise.")[0] or purpose for _, purpose in noted.table}

    assert purposes("projector (nvidia)") == {"invert.code", "invert.start"}
    assert purposes("ii2s") == {"invert"}
    assert purposes("refinement") == set()  # nothing is random


def test_the_jitter_ends_before_the_last_quarter():
    assert jitter_at(0, 100) == pytest.approx(0.05) and jitter_at(75, 100) == 0.0 == jitter_at(99, 100)
    assert jitter_at(10, 100) > jitter_at(20, 100) > 0


def test_optimised_noise_stays_noise():
    """A picture in the maps is what the regulariser sees and white noise is not."""
    maps = [torch.randn(2, 1, side, side, generator=seeded(0, side, "x")) for side in (4, 32)]
    smooth = [torch.linspace(-1.7, 1.7, side).expand(2, 1, side, side).contiguous() for side in (4, 32)]
    assert (noise_regulariser(smooth) > 10 * noise_regulariser(maps)).all()
    assert noise_regulariser(maps).shape == (2,) and noise_regulariser(maps, jointly=True).shape == (1,)
    scaled = normalised(maps[1] * 3 + 1)
    torch.testing.assert_close(scaled.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(scaled.square().mean(dim=(1, 2, 3)), torch.ones(2))
    unbiased = normalised(maps[1] * 3 + 1, unbiased=True)
    torch.testing.assert_close(unbiased.std(dim=(1, 2, 3)), torch.ones(2))


def test_every_scale_of_a_map_is_looked_at():
    """Noise of blocks of 4 px: neighbours differ at 8 px only where the map is averaged down to it."""
    coarse = torch.randn(1, 1, 8, 8, generator=seeded(1, 0, "coarse"))
    blocks = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    levels, seen = [blocks], blocks
    while seen.shape[-1] > COARSEST_PX:
        seen = torch.nn.functional.avg_pool2d(seen, 2)
        levels.append(seen)
    alone = sum((level * level.roll(1, axis)).mean().square() for level in levels for axis in (2, 3))
    torch.testing.assert_close(noise_regulariser([blocks])[0], alone)


def test_statistics_are_drawn_as_nvidia_or_as_here():
    generator = BUNDLE.generator
    numpy = CodeStatistics.measured(generator, 2000, 123)
    torch_drawn = CodeStatistics.measured(generator, 2000, 123, "torch")
    assert not torch.equal(numpy.mean, torch_drawn.mean)
    torch.testing.assert_close(numpy.mean, torch_drawn.mean, atol=0.1 * numpy.spread, rtol=0)
    z = torch.randn(30, 5, generator=seeded(0, 0, "z"))
    w = generator.map_single(z).double()
    of = CodeStatistics.of(generator, z)
    torch.testing.assert_close(of.mean, w.mean(dim=0))
    assert of.spread == pytest.approx(float((w - w.mean(dim=0)).norm(dim=1).square().mean().sqrt()))


def test_it_starts_at_the_mean_of_random_codes_or_at_the_generators_own():
    seen = []
    invert("projector (nvidia)", steps=1, callbacks=[seen.append])  # whose first step has rate 0
    torch.testing.assert_close(seen[0].codes[0], GIVEN.statistics.mean.float())
    invert("ii2s", steps=1, callbacks=[seen.append])
    moved = seen[1].codes - BUNDLE.mean_latent
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.01), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_given_code_is_refined():
    latent = random_latents(BUNDLE, [3, 8])
    pictures = drawable(2)
    result = invert("refinement", pictures, start=latent, steps=1)
    assert float((result.latent.values - latent.codes(BUNDLE.generator)).abs().max()) < 0.011
    assert result.latent.origin["start"] == latent.origin
    held = invert("refinement", pictures, start=latent, steps=30, prior=100.0)
    free = invert("refinement", pictures, start=latent, steps=30, prior=0.0)
    unlikely = [
        float(GIVEN.whitening.unlikeliness(one.latent.values.double()).mean()) for one in (held, free)
    ]
    assert unlikely[0] < unlikely[1]


def test_progress_reports_every_step_of_every_picture():
    seen = []
    result = invert("ii2s", drawable(2), steps=2, callbacks=[seen.append])
    assert [(one.step, one.steps, one.first) for one in seen] == [(1, 4, 0), (2, 4, 0), (3, 4, 1), (4, 4, 1)]
    assert torch.equal(seen[-1].codes[0], result.latent.values[1])
    assert seen[0].preview().shape == (1, 3, SIZE, SIZE)
    mean = (seen[0].losses["pixel"] + seen[2].losses["pixel"]) / 2
    assert mean == pytest.approx(result.losses["pixel"][0])

    def stop(progress):
        raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt):
        invert(callbacks=[stop])


def test_large_pictures_are_reduced_before_they_are_compared():
    class Noting(StandInPerceptual):
        def __init__(self):
            super().__init__()
            self.seen = []

        def features(self, images):
            self.seen.append(images.detach())
            return super().features(images)

    for method in METHOD_NAMES:
        noting, config = Noting(), inversion_config(method, steps=1, compare_px=4)
        invert_pictures(BUNDLE, picture(SIZE), noting, config, given=GIVEN)
        assert [one.shape[-1] for one in noting.seen] == [4, 4]
    given = dataclasses.replace(GIVEN, reduced=torch.full((1, 3, 4, 4), 0.25))
    invert_pictures(BUNDLE, picture(SIZE), noting, config, given=given)
    assert torch.equal(noting.seen[-2], given.reduced)


def test_nothing_is_asked_of_a_net_without_weight():
    config = inversion_config("ii2s", steps=1, perceptual=0.0)
    assert "perceptual" not in invert_pictures(BUNDLE, picture(SIZE), None, config, given=GIVEN).losses


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": "z"}, "space must be one of w, w[+], got 'z'"),
        ({"noise": "none"}, "noise must be one of optimised, stored, fresh"),
        ({"draw": "dice"}, "draw must be one of numpy, torch"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"prior": -1.0}, "prior must be"),
        ({"perceptual": 0.0, "pixel": 0.0}, "perceptual and pixel are both 0"),
        ({"jitter": True, "mean": 0}, "jitter needs the spread of random codes"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        inversion_config("ii2s", **changes)
    with pytest.raises(ValueError, match="method must be one of projector"):
        inversion_config("magic")


def broken(target: torch.Tensor) -> torch.Tensor:
    target = target.clone()
    target[0, 0, 0, 0] = torch.nan
    return target


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: invert(pictures=picture(32)), r"pictures must have shape \[any, 3, 16, 16\]"),
        (lambda: invert(pictures=picture(SIZE)[:0]), "the pictures hold none"),
        (lambda: invert(pictures=broken(picture(SIZE))), "the pictures is not made of finite numbers"),
        (
            lambda: invert_pictures(BUNDLE, picture(SIZE), None),
            "the perceptual distance has a weight but there is no perceptual net",
        ),
        (
            lambda: invert(start=random_latents(BUNDLE, [1, 2])),
            "the start must hold one code, or 1, one per picture; it has 2",
        ),
        (
            lambda: invert("projector (nvidia)", start=Latent("w+", torch.zeros(1, BUNDLE.num_layers, 7))),
            "the start is in w[+], which space 'w' cannot begin at",
        ),
        (lambda: invert(start=Latent("w", torch.zeros(1, 9))), "this start is for another generator"),
        (lambda: invert(quads=[None, None]), "quads must be 1, one per picture"),
        (
            lambda: invert_pictures(tiny_bundle(SIZE, c_dim=2), picture(SIZE), StandInPerceptual()),
            "is a conditional generator",
        ),
    ],
    ids=range(9),
)
def test_what_cannot_be_inverted_is_refused(work, said):
    with pytest.raises(ValueError, match=said):
        work()


def test_a_step_that_does_not_fit_memory_is_refused(monkeypatch):
    from oneshot_core import memory

    monkeypatch.setattr(memory, "available_bytes", lambda: 30_000)
    with pytest.raises(ValueError, match="not enough memory: .*pictures"):
        invert()


def test_numbers_that_are_not_finite_stop_it():
    class Broken(StandInPerceptual):
        def distance(self, first, second, dropout=None):
            return super().distance(first, second) * torch.tensor([1.0, torch.inf])[: len(first[0])]

    config = inversion_config("ii2s", steps=2, batch_size=2)
    with pytest.raises(FloatingPointError, match="term 'perceptual' became NaN .* step 0 for picture 1"):
        invert_pictures(BUNDLE, drawable(2), Broken(), config, given=GIVEN)
    with pytest.raises(FloatingPointError, match="gradient became NaN or infinite at step 0"):

        class Steep(StandInPerceptual):
            def distance(self, first, second, dropout=None):
                return (super().distance(first, second) * 0).sqrt()

        invert_pictures(BUNDLE, drawable(1), Steep(), config, given=GIVEN)


def test_it_runs_inside_inference_mode():
    with torch.inference_mode():
        pictures = drawable()
        assert torch.equal(invert("ii2s", pictures).latent.values, invert("ii2s", drawable()).latent.values)


def test_codes_of_an_encoder_are_taken_as_they_are_or_refined():
    start = random_latents(BUNDLE, (3, 4))
    codes = Latent("w+", start.codes(BUNDLE.generator), BUNDLE.family, {"method": "e4e"})
    quad = Quad.square(0, 0, 16, 16, 16)
    pictures = torch.zeros(2, 3, SIZE, SIZE)
    plain = inverted(BUNDLE, pictures, None, None, codes, [quad, None])
    assert torch.equal(plain.latent.values, codes.values)
    assert plain.latent.origin == {"method": "e4e", "quads": [quad.values(), None]} and not plain.losses
    torch.testing.assert_close(plain.images, sample(BUNDLE, start), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="nothing to invert with"):
        inverted(BUNDLE, pictures, None, None)
