"""Forward passes in bfloat16: what is lowered, what stays float32, and how near the gradients stay."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from stand_ins import StandInPerceptual, picture, stand_in_encoders, tiny_aim, tiny_bundle
from torch import Tensor

from oneshot_core.checkpoints import GeneratorBundle, read_tensors
from oneshot_core.draws import SeededDraws
from oneshot_core.features import Encoders
from oneshot_core.features.clip import ClipEncoder, build_clip
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.ops import blur_kernel, upfirdn2d
from oneshot_core.training import TrainConfig, TrainState, adapt, check_precision
from oneshot_core.training.phases import run_phase, start_round

SIZE = 64
REFERENCE, RANDOM = 0, 1  # a step of each kind under the default schedule
# of the gradient of all trained weights together, ||g_bf16 - g_f32|| / ||g_f32||. Random tiny networks
# measured 0.008 to 0.074: styles and demodulation are rounded per channel. The whole-image path of an
# untrained judge is left out: there real and fake cancel.
TOLERANCE = 0.1


def fresh(precision: str, encoders: Encoders | None = None) -> TrainState:
    bundle = tiny_bundle(SIZE)
    values = bundle, encoders or stand_in_encoders(), tiny_aim(bundle), oneshot_clip()
    return TrainState.create(*values, SeededDraws(0), precision=precision)


def after(phase: str, step: int, precision: str) -> tuple[dict[str, float], Tensor]:
    """Losses and the gradient of the trained weights of one phase."""
    state = fresh(precision)
    state.step = step
    losses = run_phase(phase, start_round(state))
    modules = [state.adapted] if phase == "generator" else [state.discriminator, state.heads]
    gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    return {name: float(v) for name, v in losses.items()}, torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize(
    ("phase", "step"), [("discriminator", RANDOM), ("generator", REFERENCE), ("generator", RANDOM)]
)
def test_gradients_stay_near_those_of_float32(phase: str, step: int) -> None:
    (wanted, exact), (losses, lowered) = (after(phase, step, name) for name in ("float32", "bfloat16"))
    assert 0 < float((lowered - exact).norm() / exact.norm()) < TOLERANCE
    assert losses == pytest.approx(wanted, rel=0.02, abs=2e-3) and losses != wanted


def test_the_r1_penalty_is_computed_in_float32() -> None:
    (wanted, exact), (losses, lowered) = (after("r1", REFERENCE, name) for name in ("float32", "bfloat16"))
    assert losses == wanted and torch.equal(lowered, exact)


class WatchedPerceptual(StandInPerceptual):
    """Insists on float32 pictures outside autocast."""

    def features(self, images: Tensor) -> list[Tensor]:
        assert images.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return super().features(images)


def test_the_networks_compute_in_bfloat16_and_the_losses_outside() -> None:
    encoders = Encoders.of(stand_in_encoders().clip, WatchedPerceptual())
    state = fresh("bfloat16", encoders)
    seen: dict[str, set[torch.dtype]] = {"generator": set(), "discriminator": set(), "rgb": set()}
    inputs = {"generator": state.adapted.convs[-1], "discriminator": state.discriminator.blocks[1].conv1}
    for name, layer in inputs.items():
        layer.register_forward_pre_hook(lambda _, given, name=name: seen[name].add(given[0].dtype))
    state.adapted.to_rgbs[-1].register_forward_hook(lambda *call: seen["rgb"].add(call[2].dtype))
    for state.step in (REFERENCE, RANDOM):
        for phase in ("discriminator", "generator"):
            run_phase(phase, start_round(state))
    assert seen == {
        "generator": {torch.bfloat16},
        "discriminator": {torch.bfloat16},
        "rgb": {torch.float32},
    }
    assert all(images.dtype == torch.float32 for images in encoders.clip.seen)


def test_a_real_clip_is_lowered_and_gives_float32_features() -> None:
    tower = {"image_size": 16, "patch_size": 4, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    clip = ClipEncoder(build_clip({"embed_dim": 24, "vision_cfg": tower, "text_cfg": text}))
    state = fresh("bfloat16", Encoders.of(clip, StandInPerceptual()))
    seen: list[torch.dtype] = []
    block = state.clips[0].model.visual.transformer.resblocks[1].mlp[0]
    block.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    state.step = RANDOM
    losses = run_phase("generator", start_round(state))
    assert set(seen) == {torch.bfloat16} and len(seen) == 4  # images and crops of both generators
    assert all(math.isfinite(float(value)) for value in losses.values())
    assert {p.dtype for p in clip.parameters()} == {torch.float32}


def run(
    steps: int, precision: str, folder: Path | None = None, bundle: GeneratorBundle | None = None, **settings
):
    bundle = bundle or tiny_bundle(SIZE)
    config = TrainConfig(steps=steps, precision=precision, checkpoint_every_steps=2, **settings)
    return adapt(bundle, stand_in_encoders(), tiny_aim(bundle), config=config, run_folder=folder)


@pytest.mark.slow
def test_losses_are_finite_and_every_weight_stays_float32(tmp_path: Path) -> None:
    result = run(6, "bfloat16", tmp_path)
    values = [value for losses in result.losses.values() for value in losses if value == value]
    assert values and all(math.isfinite(value) for value in values)
    state = fresh("bfloat16")
    state.settings = read_tensors(tmp_path / "state.safetensors")[1]["settings"]
    state.restore(tmp_path / "state.safetensors")
    assert {v.dtype for name, v in state.tensors().items() if not name.startswith("history.")} == {
        torch.float32
    }


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(5, "bfloat16")
    run(2, "bfloat16", tmp_path)
    resumed = run(5, "bfloat16", tmp_path)
    theirs = resumed.bundle.generator.state_dict()
    assert all(torch.equal(v, theirs[name]) for name, v in whole.bundle.generator.state_dict().items())


def test_the_precision_is_a_setting_only_where_it_is_not_the_default(tmp_path: Path) -> None:
    assert "precision" not in fresh("float32").settings
    assert fresh("bfloat16").settings["precision"] == "bfloat16"
    run(2, "float32", tmp_path)
    with pytest.raises(ValueError, match="precision"):
        run(4, "bfloat16", tmp_path)


def test_the_image_filter_keeps_its_dtype_under_autocast() -> None:
    image, kernel = picture(16), blur_kernel(gain=4.0)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = upfirdn2d(image, kernel, up=2, pad=(2, 1))
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(lowered, upfirdn2d(image, kernel, up=2, pad=(2, 1)))
    assert upfirdn2d(image.to("meta"), kernel, up=2, pad=(2, 1)).shape == (1, 3, 32, 32)  # knows no autocast


def test_unknown_precisions_and_devices_without_it_are_refused() -> None:
    with pytest.raises(ValueError, match="one of float32, bfloat16, got 'float16'"):
        TrainConfig(precision="float16")
    with pytest.raises(ValueError, match="no bfloat16 forward passes on the device meta"):
        check_precision("bfloat16", torch.device("meta"))
    check_precision("float32", torch.device("meta"))
    with pytest.raises(ValueError, match="one of"):
        dataclasses.replace(fresh("float32"), precision="half")
