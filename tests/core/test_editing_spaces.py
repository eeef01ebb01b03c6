"""Edits in style space and from other starts: what moves, what is carried on, identity, directions."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from reading_clip import NEUTRAL, SIZE, TEXT, Knowing, ReadingClip, edit, similarity
from stand_ins import tiny_bundle
from tiny_clip import CONFIG

from oneshot_core.editing import (
    EditConfig,
    apply_direction,
    check_direction,
    check_edit,
    direction_of_edit,
    edit_latents,
)
from oneshot_core.editing.goal import TextGoal, check_legacy, legacy_pixels
from oneshot_core.editing.style_layout import convolution_styles
from oneshot_core.edits import LatentEdit
from oneshot_core.features import ClipEncoder, build_clip
from oneshot_core.latent_files import load_latent, save_latent
from oneshot_core.latents import Latent
from oneshot_core.sampling import SampleConfig, random_latents, sample
from oneshot_core.tensors import seeded
from oneshot_core.training.memory import editing_step_bytes

STYLE = EditConfig(steps=8, space="style", l2_weight=0.0)


def styled(count: int = 1, **changes) -> Latent:
    """Latents that carry an edit of a slot and one of a style."""
    bundle = tiny_bundle(SIZE)
    slots, styles = (bundle.generator.config.w_dim,) * bundle.num_layers, bundle.generator.style_widths
    edits = (
        LatentEdit("w+", {1: torch.full((7,), 0.5)}, slots),
        LatentEdit("style", {0: torch.full((6,), 0.3), 1: torch.full((6,), -0.2)}, styles, 2.0),
    )
    return dataclasses.replace(random_latents(bundle, range(count)), edits=edits, **changes)


def test_styles_of_convolutions_move_and_those_of_colours_stay():
    bundle = tiny_bundle(SIZE)
    names = [name for name, _ in bundle.generator.named_modules() if name.endswith(".affine")]
    assert len(bundle.generator.style_widths) == len(names)
    assert convolution_styles(8) == (0, 2, 3, 5, 6)
    latent = random_latents(bundle, [0, 1, 2])
    result = edit(latent, dataclasses.replace(STYLE, steps=20))
    assert (similarity(result.images) > similarity(result.before) + 0.1).all()
    (own,) = result.latent.edits
    assert own is result.change and own.space == "style" and own.count == 3 and own.name == TEXT
    assert set(own.vectors) == set(convolution_styles(8))
    torch.testing.assert_close(result.latent.values, latent.codes(bundle.generator))


def test_the_result_in_style_space_draws_its_picture_also_from_a_file(tmp_path):
    bundle = tiny_bundle(SIZE)
    result = edit(random_latents(bundle, [3, 8]), STYLE)
    torch.testing.assert_close(sample(bundle, result.latent), result.images, atol=1e-5, rtol=0)
    read = load_latent(save_latent(result.latent, tmp_path / "edited.safetensors"))
    assert torch.equal(sample(bundle, read), sample(bundle, result.latent))
    assert read.origin["seeds"] == [3, 8] and read.origin["settings"]["space"] == "style"
    assert float((result.images - result.before).abs().max()) > 0.01


def test_an_edit_of_styles_is_drawn_in_an_adapted_generator():
    bundle = tiny_bundle(SIZE)
    result = edit(random_latents(bundle, [3]), STYLE)
    adapted = tiny_bundle(SIZE, seed=5)
    styles = adapted.generator.affine(result.latent.unedited(adapted.generator))
    mine = [
        style + result.change.vectors[index] if index in result.change.vectors else style
        for index, style in enumerate(styles)
    ]
    drawn = adapted.generator.render(tuple(mine), adapted.generator.constant_noise())
    own = dataclasses.replace(result.latent, family="")
    torch.testing.assert_close(sample(adapted, own), drawn, atol=1e-5, rtol=0)


@pytest.mark.parametrize("space", ["w+", "style"])
def test_edits_that_a_latent_carries_stay(space):
    bundle, latent = tiny_bundle(SIZE), styled(3)
    config = EditConfig(steps=6, space=space, batch_size=2)
    result = edit(latent, config)
    torch.testing.assert_close(result.before, sample(bundle, latent), atol=1e-5, rtol=0)
    torch.testing.assert_close(sample(bundle, result.latent), result.images, atol=1e-5, rtol=0)
    assert float((result.images - result.before).abs().max()) > 0.01
    assert result.latent.edits[0] == latent.edits[1]
    assert len(result.latent.edits) == (1 if space == "w+" else 2)
    alone = edit(latent.part(slice(2, 3)), config)
    torch.testing.assert_close(alone.images[0], result.images[2], atol=1e-4, rtol=1e-4)


def test_an_edited_latent_is_edited_again():
    bundle = tiny_bundle(SIZE)
    once = edit(config=STYLE)
    twice = edit(once.latent, STYLE, "a face with a beard")
    torch.testing.assert_close(twice.before, once.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(sample(bundle, twice.latent), twice.images, atol=1e-5, rtol=0)
    assert [one.name for one in twice.latent.edits] == [TEXT, "a face with a beard"]


def test_the_loss_in_style_space_sums_over_all_styles_that_move():
    seen = []
    result = edit(config=EditConfig(steps=3, space="style", l2_weight=0.5), callbacks=[seen.append])
    assert [now.codes.shape for now in seen] == [(1, 30)] * 3
    assert result.losses["deviation"][:2] == [0.0, 0.0]  # the first step has rate 0
    moved = seen[1].codes - seen[0].codes
    assert result.losses["deviation"][2] == pytest.approx(float(moved.square().sum()), rel=1e-5)
    last = torch.cat(list(result.change.vectors.values()), dim=1)
    torch.testing.assert_close(last, (seen[2].codes - seen[0].codes).float(), atol=1e-6, rtol=0)
    assert seen[0].gradient.shape == (1, 30) and bool(seen[0].gradient.any())


@pytest.mark.parametrize("space", ["w+", "style"])
def test_what_an_edit_changed_becomes_a_direction(space):
    bundle = tiny_bundle(SIZE)
    result = edit(random_latents(bundle, [0, 1]), EditConfig(steps=8, space=space), neutral_text=NEUTRAL)
    direction = direction_of_edit(result, bundle)
    check_direction(direction, bundle)
    assert (direction.kind, direction.name, direction.text) == (space, TEXT, TEXT)
    assert (direction.neutral_text, direction.clip, direction.measured) == (NEUTRAL, "reading", "tiny")
    other = apply_direction(random_latents(bundle, [5]), direction, 1.5)
    mean = {key: value.mean(dim=0) for key, value in result.change.vectors.items()}
    assert all(torch.equal(other.edits[0].vectors[key], value) for key, value in mean.items())
    assert float((sample(bundle, other) - sample(bundle, random_latents(bundle, [5]))).abs().max()) > 1e-3


def test_free_generation_starts_at_the_mean_and_looks_at_clip_alone():
    bundle = tiny_bundle(SIZE)
    result = edit_latents(bundle, ReadingClip(), None, TEXT, EditConfig(steps=20, start="mean"))
    assert set(result.losses) == {"clip"} and len(result.images) == 1
    mean = Latent("w", bundle.mean_latent[None], bundle.family)
    torch.testing.assert_close(result.before, sample(bundle, mean), atol=1e-5, rtol=0)
    assert similarity(result.images) > similarity(result.before) + 0.1
    assert result.latent.generator_name == "tiny"


def test_a_random_start_is_a_truncated_sample():
    bundle = tiny_bundle(SIZE)
    config = EditConfig(steps=2, start="random", seed=6, psi=0.5)
    result = edit_latents(bundle, ReadingClip(), None, TEXT, config)
    own = sample(bundle, [6], SampleConfig(psi=0.5))
    torch.testing.assert_close(result.before, own, atol=1e-5, rtol=0)
    assert result.latent.origin["seeds"] == [6] and "deviation" in result.losses


def test_identity_holds_the_picture():
    def last(weight: float) -> float:
        config = EditConfig(steps=16, l2_weight=0.0, identity_weight=weight)
        result = edit(config=config, identity=Knowing())
        assert set(result.losses) == {"clip", "identity"}
        assert result.losses["identity"][0] == pytest.approx(0, abs=1e-6)
        who = Knowing()(result.before), Knowing()(result.images)
        return 1 - float((who[0] * who[1]).sum())

    assert last(10.0) < 0.5 * last(1e-6)
    free = edit(config=EditConfig(steps=2), identity=Knowing())
    assert "identity" not in free.losses  # weight 0: not computed


def test_settings_that_do_not_fit_are_refused_before_work():
    bundle, latent = tiny_bundle(SIZE), random_latents(tiny_bundle(SIZE), [0])
    with pytest.raises(ValueError, match=r"identity_weight is 0.1, but there is no identity network"):
        check_edit(bundle, latent, TEXT, EditConfig(identity_weight=0.1))
    broken = Knowing()
    broken.register_buffer("weight", torch.tensor(math.nan))
    with pytest.raises(ValueError, match="the identity network knowing: weight is not made of finite"):
        edit(config=EditConfig(identity_weight=0.1), identity=broken)
    with pytest.raises(ValueError, match="there is no latent to edit; give one, or set start to mean or"):
        edit_latents(bundle, ReadingClip(), None, TEXT)
    with pytest.raises(ValueError, match="start is mean, but a latent was given"):
        edit(latent, EditConfig(start="mean"))
    with pytest.raises(ValueError, match="needs a class for random latents"):
        check_edit(tiny_bundle(SIZE, c_dim=3), None, TEXT, EditConfig(start="random"))
    full = dataclasses.replace(latent, edits=(styled().edits[1],) * 64)
    edit(full, EditConfig(steps=1))
    with pytest.raises(ValueError, match="carries 64 edits of styles already"):
        edit(full, STYLE)
    for settings, text in (
        ({"space": "z"}, "space must be one of w\\+, style, got 'z'"),
        ({"start": "here"}, "start must be one of given, mean, random, got 'here'"),
        ({"preprocessing": "old"}, "preprocessing must be one of default, legacy, got 'old'"),
        ({"identity_weight": -1.0}, "identity_weight must be a finite number of at least 0"),
        ({"psi": math.nan}, "psi .* must be a number from -10 to 10"),
        ({"ramp_up": 0.0}, "ramp_up must be positive and at most 1"),
    ):
        with pytest.raises(ValueError, match=text):
            EditConfig(**settings)


def test_the_weight_of_the_deviation_where_none_is_given():
    assert EditConfig().deviation_weight == 0.008  # StyleCLIP's
    assert EditConfig(start="mean").deviation_weight == 0.0
    assert EditConfig(start="mean", l2_weight=0.1).describe()["l2_weight"] == 0.1
    assert 0 < EditConfig(space="style").deviation_weight < 0.008


def test_the_legacy_chain_is_nearest_upsampling_and_average_pooling():
    for size, side in ((64, 224), (96, 64), (32, 32)):
        images = torch.randn(2, 3, size, size, generator=seeded(0, size, "x"), dtype=torch.float64)
        chain = F.interpolate(images, scale_factor=side // 32, mode="nearest")
        chain = F.avg_pool2d(chain, size // 32)
        torch.testing.assert_close(legacy_pixels(images, side), chain, atol=1e-12, rtol=0)
    for size, side in ((16, 224), (64, 30), (100, 224)):
        with pytest.raises(ValueError, match="'legacy' does not fit pictures of"):
            check_legacy(size, side)


def test_legacy_preprocessing_shows_clip_the_picture_as_it_is():
    clip = ClipEncoder(build_clip(CONFIG), tokenizer=lambda texts: torch.ones(len(texts), 8).long())
    side = clip.preprocess.image_size
    images = torch.randn(1, 3, 32, 32, generator=seeded(0, 0, "x"))
    goal = TextGoal.of(clip, TEXT, preprocessing="legacy")
    expected = F.normalize(clip.model.encode_image(legacy_pixels(images, side)), dim=1)
    torch.testing.assert_close(goal.features(images), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(TextGoal.of(clip, TEXT).features(images), expected, atol=1e-3)
    with pytest.raises(ValueError, match="'legacy' does not fit"):
        bundle = tiny_bundle(SIZE)
        latent = random_latents(bundle, [0])
        edit_latents(bundle, clip, latent, TEXT, EditConfig(preprocessing="legacy"))


def test_memory_counts_the_face_recogniser():
    class Deep(Knowing):
        """With a map that has to be kept."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward((images * 2).tanh())

    bundle, clip = tiny_bundle(64), ClipEncoder(build_clip(CONFIG))
    assert editing_step_bytes(bundle, clip, 2, identity=Deep()) > editing_step_bytes(bundle, clip, 2, 0)
