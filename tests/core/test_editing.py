"""Text edits: they reach the text, one code never touches another, refusals, the rate, the direction."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from reading_clip import NEUTRAL, SIZE, TEXT, ReadingClip, edit, similarity
from stand_ins import tiny_bundle

from oneshot_core.demo.world import demo_encoders, demo_generator
from oneshot_core.editing import EditConfig, edit_latents
from oneshot_core.features import ClipEncoder, EncoderError, build_clip
from oneshot_core.latent_optimiser import learning_rate_at
from oneshot_core.latents import Latent
from oneshot_core.objective.directions import direction_distance
from oneshot_core.sampling import random_latents, sample
from oneshot_core.tensors import seeded
from oneshot_core.training.memory import editing_bytes, editing_step_bytes


def test_an_edit_raises_the_similarity_of_every_picture_to_the_text():
    latent = random_latents(tiny_bundle(SIZE), [0, 1, 2])
    result = edit(latent, EditConfig(steps=20, l2_weight=0.0))
    assert (similarity(result.images) > similarity(result.before) + 0.1).all()
    assert result.losses["clip"][-1] < result.losses["clip"][0] - 0.1


def test_result_says_what_it_is():
    bundle = tiny_bundle(SIZE)
    latent = random_latents(bundle, [3, 8])
    result = edit(latent)
    code = result.latent
    assert (code.space, tuple(code.values.shape), code.family) == (
        "w+",
        (2, bundle.num_layers, 7),
        bundle.family,
    )
    assert code.origin["text"] == TEXT and code.origin["seeds"] == [3, 8]
    assert (
        code.origin["settings"] == EditConfig(steps=4).describe() and code.origin["edited"] == latent.origin
    )
    torch.testing.assert_close(result.before, sample(bundle, latent), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.images, sample(bundle, code), atol=1e-5, rtol=0)
    assert {name: len(values) for name, values in result.losses.items()} == {"clip": 4, "deviation": 4}
    assert not any(t.requires_grad or t.is_inference() for t in (code.values, result.images, result.before))


@pytest.mark.parametrize("settings", [{}, {"views": 2}], ids=["picture", "views"])
@pytest.mark.parametrize("neutral", ["", NEUTRAL], ids=["text", "direction"])
def test_a_batch_gives_what_its_codes_give_alone(settings, neutral):
    bundle = tiny_bundle(SIZE)
    batch = random_latents(bundle, [0, 1, 2])
    together = edit(batch, EditConfig(steps=4, batch_size=2, **settings), neutral_text=neutral)
    for index in range(3):
        alone = dataclasses.replace(batch, values=batch.values[index : index + 1])
        result = edit(alone, EditConfig(steps=4, **settings), neutral_text=neutral)
        torch.testing.assert_close(
            together.latent.values[index], result.latent.values[0], atol=1e-4, rtol=1e-4
        )


def test_the_published_loss():
    """1 - cosine, and the change summed over entries, weighted 0.008 (editing.md 1a)."""
    seen = []
    result = edit(config=EditConfig(steps=3, l2_weight=0.5), callbacks=[seen.append])
    assert result.losses["clip"][0] == pytest.approx(1 - float(similarity(result.before)), abs=1e-5)
    assert result.losses["clip"][2] == pytest.approx(1 - float(similarity(seen[2].preview())), abs=1e-5)
    assert result.losses["deviation"][:2] == [0.0, 0.0]  # the first step has rate 0
    bundle = tiny_bundle(SIZE)
    moved = result.latent.values - random_latents(bundle, [0]).codes(bundle.generator)
    assert 0 < float(moved.abs().max()) < 0.3
    assert set(edit(config=EditConfig(steps=1, l2_weight=0.0)).losses) == {"clip"}


def test_the_weight_of_the_deviation_holds_the_code():
    def moved(weight: float) -> float:
        return edit(config=EditConfig(steps=20, l2_weight=weight)).losses["deviation"][-1]

    assert moved(1.0) < 0.5 * moved(0.0001)


def test_the_rate_rises_stays_and_falls():
    rates = [learning_rate_at(step, 40, 0.1) for step in range(40)]
    assert rates[0] == 0 and rates[1] == pytest.approx(0.05)
    assert rates[2:31] == pytest.approx([0.1] * 29)
    assert rates[35] == pytest.approx(0.05) and 0 < rates[39] < 0.003


def test_a_change_is_compared_with_the_direction_of_the_texts():
    before = F.normalize(torch.randn(2, 5, generator=seeded(0, 0, "before")), dim=1)
    direction = torch.tensor([0.0, 3.0, 0.0, 0.0, 4.0])
    along = direction_distance(before + 0.3 * direction, before, direction)
    torch.testing.assert_close(along, torch.zeros(2), atol=1e-5, rtol=0)
    against = direction_distance(before - 0.3 * direction, before, direction)
    torch.testing.assert_close(against, torch.full((2,), 2.0))
    shorter = direction_distance(before + 0.02 * direction, before, direction, softness=0.1)
    torch.testing.assert_close(
        shorter, torch.full((2,), 1 - 0.5**0.5)
    )  # the change is as long as the softness
    adapted = before.clone().requires_grad_()
    unchanged = direction_distance(adapted, before, direction, softness=0.1)
    assert (unchanged == 1).all()
    (gradient,) = torch.autograd.grad(unchanged.sum(), adapted)
    torch.testing.assert_close(gradient, (-10 * direction / 5).expand(2, 5))


def test_a_neutral_text_gives_the_directional_loss():
    config = EditConfig(steps=20, l2_weight=0.0)
    result = edit(config=config, neutral_text=NEUTRAL)
    assert set(result.losses) == {"direction"} and result.losses["direction"][0] == 1.0
    gained = (similarity(result.images) - similarity(result.images, NEUTRAL)) - (
        similarity(result.before) - similarity(result.before, NEUTRAL)
    )
    assert gained > 0.1
    with pytest.raises(ValueError, match="let them differ in the one thing"):
        edit(neutral_text=TEXT)


def test_every_kind_of_latent_is_edited():
    bundle = tiny_bundle(SIZE)
    z = random_latents(bundle, [0])
    w = Latent("w", bundle.generator.map_single(z.values), bundle.family)
    wide = Latent("w+", bundle.generator.map(z.values), bundle.family)
    values = [edit(latent).latent.values for latent in (z, w, wide)]
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


def test_only_the_views_draw_and_they_depend_on_the_seed():
    def values(**settings) -> torch.Tensor:
        return edit(config=EditConfig(steps=4, **settings)).latent.values

    assert torch.equal(values(seed=1), values(seed=2))
    assert torch.equal(values(views=2, seed=1), values(views=2, seed=1))
    assert not torch.equal(values(views=2, seed=1), values(views=2, seed=2))


def test_on_a_busy_machine_threads_sleep_which_is_told_and_changes_nothing(busy_machine):
    seen = []
    latent, config = random_latents(tiny_bundle(SIZE), [0, 1, 2]), EditConfig(steps=4, batch_size=2)
    edited = edit(latent, config, callbacks=[seen.append])
    assert busy_machine.log == ["sleep", "spin"]
    assert "from step 2 of the edit on" in seen[-1].notes[0]
    busy_machine.busy = False
    assert torch.equal(edited.latent.values, edit(latent, config).latent.values)


def test_progress_counts_the_rounds_of_every_code_and_a_callback_may_stop():
    seen = []
    latent = random_latents(tiny_bundle(SIZE), [0, 1, 2])
    config = EditConfig(steps=2, batch_size=2)
    result = edit(latent, config, callbacks=[seen.append])
    assert [(p.step, p.steps, p.first, len(p.preview())) for p in seen] == [
        (2, 6, 0, 2), (4, 6, 0, 2), (5, 6, 2, 1), (6, 6, 2, 1),
    ]  # fmt: skip
    assert seen[-1].eta_seconds == 0.0 < seen[0].eta_seconds
    mean = (2 * seen[0].losses["clip"] + seen[2].losses["clip"]) / 3
    assert result.losses["clip"][0] == pytest.approx(mean)

    def stop(progress):
        raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt):
        edit(latent, config, callbacks=[stop])


def test_an_edit_leaves_the_bundle_alone_and_runs_inside_inference_mode():
    bundle = tiny_bundle(SIZE)
    before = {name: value.clone() for name, value in bundle.generator.state_dict().items()}
    with torch.inference_mode():
        latent = random_latents(bundle, [0])
        inside = edit_latents(bundle, ReadingClip(), latent, TEXT, EditConfig(steps=2))
    assert torch.equal(inside.latent.values, edit(config=EditConfig(steps=2)).latent.values)
    assert not inside.latent.values.is_inference() and not inside.images.is_inference()
    assert all(torch.equal(before[name], value) for name, value in bundle.generator.state_dict().items())


def test_an_edit_refuses_what_does_not_fit():
    latent = random_latents(tiny_bundle(SIZE), [0])
    with pytest.raises(ValueError, match="the text is empty"):
        edit(text="  ")
    with pytest.raises(ValueError, match="this latent is of another generator than tiny: use"):
        edit(dataclasses.replace(latent, family="0" * 64))
    with pytest.raises(ValueError, match="holds no code"):
        edit(dataclasses.replace(latent, values=latent.values[:0]))
    for settings, text in (
        ({"steps": 0}, "steps and batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": math.inf}, "learning_rate must be positive and at most 1000, got inf"),
        ({"l2_weight": -1.0}, "l2_weight must be a finite number of at least 0"),
        ({"l2_weight": math.nan}, "l2_weight must be a finite number of at least 0, got nan"),
        ({"views": -1}, "views must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=text):
            EditConfig(**settings)


def test_a_clip_without_tokenizer_is_refused_before_anything_is_drawn():
    tower = {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    clip = ClipEncoder(build_clip({"embed_dim": 8, "vision_cfg": tower, "text_cfg": text}), name="blind")
    bundle = tiny_bundle(SIZE)
    with pytest.raises(EncoderError, match="blind has no tokenizer"):
        edit_latents(bundle, clip, random_latents(bundle, [0]), TEXT)


def test_a_loss_that_is_not_finite_names_term_and_step():
    bundle = tiny_bundle(SIZE)
    values = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    values[1] *= 1e38  # finite, but not what is drawn of it
    with pytest.raises(FloatingPointError, match=r"term 'clip' became NaN.* at step 0 for code 1 \(seed 0\)"):
        edit(Latent("w", values, bundle.family))


class SteepClip(ReadingClip):
    """Features whose gradient is infinite."""

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        return super().encode_images(images) + (images * 0).sum().abs().sqrt()


def test_a_gradient_or_a_weight_that_is_not_finite_is_named():
    bundle = tiny_bundle(SIZE)
    with pytest.raises(FloatingPointError, match="gradient of term 'clip' became NaN .* step 0 for code 0"):
        edit_latents(bundle, SteepClip(), random_latents(bundle, [0]), TEXT, EditConfig(steps=2))
    bundle.generator.convs[0].weight.data[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"generator of tiny: convs.0.weight is not made of finite numbers"):
        edit_latents(bundle, ReadingClip(), random_latents(tiny_bundle(SIZE), [0]), TEXT)


def test_large_pictures_are_reduced_without_aliasing():
    """A checkerboard is grey to CLIP, whatever phase a resize without a low-pass filter would catch."""
    clip = ReadingClip()
    clip.preprocess.image_size = 8
    bundle = tiny_bundle(64)
    edit_latents(bundle, clip, random_latents(bundle, [0]), TEXT, EditConfig(steps=1))
    (seen,) = clip.seen
    whole = sample(bundle, random_latents(bundle, [0]))
    assert seen.shape == (1, 3, 8, 8)
    expected = F.interpolate(whole, (8, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=0)


def test_the_demo_generator_follows_a_caption():
    clip, text = demo_encoders().clip, "a portrait of a man with a beard"
    bundle = demo_generator()
    result = edit_latents(bundle, clip, random_latents(bundle, [10]), text, EditConfig(steps=8))
    with torch.no_grad():
        before, after = (clip.encode_images(images) for images in (result.before, result.images))
        gained = (after - before) @ clip.encode_text([text])[0]
    assert float(gained) > 0.08


@pytest.mark.slow
def test_a_step_that_does_not_fit_memory_is_refused_before_it(monkeypatch):
    bundle, clip = demo_generator(), demo_encoders().clip
    needed = [editing_step_bytes(bundle, clip, 2, views) for views in (0, 1, 2, 6)]
    assert needed[0] == needed[1] < needed[2] < needed[3]
    assert editing_bytes(bundle, clip, 2, 6) > needed[3]
    monkeypatch.setattr("oneshot_core.memory.available_bytes", lambda: needed[2])
    latent = random_latents(bundle, [0])
    edit_latents(bundle, clip, latent, NEUTRAL, EditConfig(steps=1, views=2))
    with pytest.raises(
        ValueError, match=r"2 latents edited at once, 6 views each, need .* MB are free; lower"
    ):
        edit_latents(bundle, clip, latent, NEUTRAL, EditConfig(steps=1, views=6))
