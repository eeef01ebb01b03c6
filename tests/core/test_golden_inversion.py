"""Recorded runs of the projectors and of II2S, replayed through the public code of the inversion.

Fixtures: tests/golden_editing, or the folder that ONESHOT_GOLDEN_EDITING names (its README, sections 6, 7).
"""

from __future__ import annotations

import math
from typing import Any

import golden_editing_support as editing
import golden_support as golden
import pytest
import torch
import torch.nn.functional as F
from golden_perceptual import recorded_net
from safetensors.torch import save_file
from torch import Tensor

from oneshot_core.checkpoints import load
from oneshot_core.draws import RecordedDraws
from oneshot_core.features.perceptual import SCALE, SHIFT
from oneshot_core.inversion import Given, inversion_config, invert_pictures
from oneshot_core.inversion.noise import jitter_at, noise_regulariser, normalised
from oneshot_core.inversion.statistics import CodeStatistics
from oneshot_core.latent_optimiser import StepProgress, learning_rate_at
from oneshot_core.resampling import bicubic_taps, downsample
from oneshot_core.whitening import Whitening

pytestmark = pytest.mark.golden
slow = pytest.mark.slow


class FeatureNet:
    """The recordings' stand-in for a perceptual net: `feature_net` of their descriptions."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.weights = {}
        for index, (inputs, outputs) in enumerate(((3, 8), (8, 12), (12, 16)), start=1):
            for name, shape in (("weight", (outputs, inputs, 3, 3)), ("bias", (outputs,))):
                scale = (2 / (inputs * 9)) ** 0.5 if name == "weight" else 0.05
                full = f"conv{index}.{name}"
                value = golden.formula_weights(
                    full, shape, told["seed"], told["feature_prefix"], [(".*", scale, 0.0)]
                )
                self.weights[full] = value.double()
        golden.check_weights(self.weights, told["feature_weight_checks"])

    def features(self, images: Tensor) -> list[Tensor]:
        x, maps = (images + 1) * 127.5 / 127.5 - 1, []
        for index, stride in enumerate((1, 2, 2), start=1):
            weight, bias = (self.weights[f"conv{index}.{name}"] for name in ("weight", "bias"))
            x = torch.tanh(F.conv2d(x, weight, bias, stride=stride, padding=1))
            maps.append(x.flatten(1) / math.sqrt(x.shape[2] * x.shape[3]))
        return maps

    def distance(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        return sum((a - b).square().sum(dim=1) for a, b in zip(first, second, strict=True))


def numbered(tensors: dict[str, Tensor], start: str, end: str = "") -> list[Tensor]:
    """Tensors START0END, START1END, ... as far as there are any."""
    found = []
    while (name := f"{start}{len(found)}{end}") in tensors:
        found.append(tensors[name])
    return found


def close(found: Tensor, expected: Tensor, tolerance: float, place: str) -> None:
    worst = float((found.double() - expected.double().reshape(found.shape)).abs().max())
    assert worst <= tolerance, f"{place}: {worst:.3g}"


@pytest.mark.parametrize("path", editing.cases("projector_parts"))
def test_parts_of_the_projectors(path):
    told, tensors = editing.read(path)
    maps = [one.double()[None, None] for one in numbered(tensors, "in.noise.")]
    assert [one.shape[-1] for one in maps] == told["sizes"]
    for program, unbiased in (("ada", False), ("ros", True)):
        leaves = [one.clone().requires_grad_(True) for one in maps]
        value = noise_regulariser(leaves)
        assert value.item() == pytest.approx(told[program]["regulariser"], abs=1e-12)
        for index, gradient in enumerate(torch.autograd.grad(value.sum(), leaves)):
            close(gradient, tensors[f"out.{program}.reg_grad.{index}.f64"], 1e-12, f"{program} {index}")
            scaled = normalised(maps[index], unbiased)
            close(scaled, tensors[f"out.{program}.normalised.{index}.f64"], 1e-12, f"{program} {index}")
    pairs = [torch.cat([one, 0.5 * one.flip(2)]).requires_grad_(True) for one in maps]
    value = noise_regulariser(pairs, jointly=True)
    assert value.item() == pytest.approx(told["ros"]["regulariser_batch2"], abs=1e-12)
    for index, gradient in enumerate(torch.autograd.grad(value.sum(), pairs)):
        close(gradient, tensors[f"out.ros.reg_grad_batch2.{index}.f64"], 1e-12, f"batch {index}")


@pytest.mark.parametrize("path", editing.cases("projector_parts"))
def test_schedules_of_the_projectors(path):
    told, _ = editing.read(path)
    schedules = [(int(steps), table) for steps, table in told["ada"]["schedules"].items()]
    schedules += [(int(steps), {"lr": rates}) for steps, rates in told["ros"]["lr"].items()]
    for steps, table in schedules:
        for step, rate in enumerate(table["lr"]):
            assert learning_rate_at(step, steps, 0.1) == pytest.approx(rate, abs=1e-12)
        for step, factor in enumerate(table.get("noise_factor", [])):
            assert jitter_at(step, steps) == pytest.approx(factor, abs=1e-12)


class Followed:
    """Codes after every step."""

    def __init__(self) -> None:
        self.codes: list[Tensor] = []

    def __call__(self, progress: StepProgress) -> None:
        self.codes.append(progress.codes)


def compare_steps(followed: Followed, tensors: dict[str, Tensor], name: str, tolerance: float) -> None:
    """Compare codes after every step that was recorded; where all are the last one, only that."""
    steps = [step for step in range(len(followed.codes)) if f"out.step{step}.{name}" in tensors]
    last = len(followed.codes) - 1
    assert last in steps
    first = tensors[f"out.step{steps[0]}.{name}"]
    aliased = len(steps) > 1 and torch.equal(first, tensors[f"out.step{last}.{name}"])
    for step in [last] if aliased else steps:
        close(followed.codes[step], tensors[f"out.step{step}.{name}"], tolerance, f"step {step}")


def noise_draws(maps: list[Tensor], step: int, purpose: str) -> dict[tuple[int, str], Tensor]:
    return {
        (step, f"{purpose}.noise.{index}"): one.reshape(-1, 1, *one.shape[-2:])
        for index, one in enumerate(maps)
    }


def totals(losses: dict[str, list[float]], weights: dict[str, float]) -> list[float]:
    return [
        sum(weights[name] * value for name, value in zip(losses, values, strict=True))
        for values in zip(*losses.values(), strict=True)
    ]


@pytest.mark.parametrize("path", editing.cases("projector_ada"))
def test_the_projector_of_nvidia(path, tmp_path):
    told, tensors = editing.read(path)
    state = {name.removeprefix("state."): one for name, one in tensors.items() if name.startswith("state.")}
    save_file(state, tmp_path / "state.safetensors")
    bundle = editing.bundle_of(load(tmp_path / "state.safetensors").generator)
    statistics = CodeStatistics.measured(bundle.generator, told["w_avg_samples"], told["w_avg_seed"])
    assert statistics.spread == pytest.approx(told["w_std"], abs=1e-9)
    table = noise_draws(numbered(tensors, "in.noise_init."), 0, "invert.start")
    for step, one in enumerate(numbered(tensors, "in.step", ".w_noise")):
        table[step, "invert.code"] = one.reshape(1, -1)
    followed = Followed()
    config = inversion_config("projector (nvidia)", steps=told["num_steps"])
    result = invert_pictures(
        bundle, tensors["in.target_u8"][None].double() / 127.5 - 1, FeatureNet(told), config,
        callbacks=[followed], given=Given(RecordedDraws(table), statistics),
    )  # fmt: skip
    assert len(followed.codes) == len(told["steps"])
    for step, codes in enumerate(followed.codes):
        close(codes, tensors["out.projected_w.f64"][step][:1], 1e-6, f"step {step}")
    compare_steps(followed, tensors, "w", 1e-6)
    found = totals(result.losses, {"perceptual": 1.0, "noise": config.regulariser})
    assert found == pytest.approx([entry["total"] for entry in told["steps"]], rel=1e-9)
    for index, one in enumerate(numbered(tensors, "out.noise_final.")):
        close(result.noise[index], one, 1e-8, f"noise {index}")


@slow
@pytest.mark.parametrize("path", editing.cases("projector_rosinality"))
def test_the_projector_of_rosinality(path):
    told, tensors = editing.read(path)
    config, seed = told["config"], told["seed"]
    bundle = editing.recorded_bundle(told)
    names, _, shape = told["zmean"].removeprefix("formula name ").partition(", shape ")
    shape = [int(part) for part in shape.strip("[]").split(",")]
    z = torch.from_numpy(golden.formula_draw(names, shape, seed)).float().double()
    statistics = CodeStatistics.of(bundle.generator, z)
    close(statistics.mean, tensors["out.latent_mean.f64"], 1e-9, "mean")
    assert statistics.spread == pytest.approx(told["latent_std"], rel=1e-9)
    table = noise_draws(numbered(tensors, "in.noise_init."), 0, "invert.start")
    for step, one in enumerate(numbered(tensors, "in.step", ".latent_noise")):
        table[step, "invert.code"] = one
    followed = Followed()
    settings = inversion_config(
        "projector (rosinality)", space="w+" if config["w_plus"] else "w", steps=config["steps"],
        learning_rate=config["lr"], pixel=config["mse"], regulariser=config["noise_regularize"], jointly=True,
    )  # fmt: skip
    pictures = torch.stack(numbered(tensors, "in.target_u8.")).double() / 127.5 - 1
    assert len(pictures) == config["n_images"]
    result = invert_pictures(
        bundle, pictures, FeatureNet(told), settings, callbacks=[followed],
        given=Given(RecordedDraws(table), statistics),
    )  # fmt: skip
    assert len(followed.codes) == len(told["steps"])
    compare_steps(followed, tensors, "latent", 1e-8)
    weights = {"perceptual": len(pictures), "pixel": settings.pixel, "noise": settings.regulariser}
    found = totals(result.losses, weights)  # losses are means over pictures, the program sums the first
    assert found == pytest.approx([entry["total"] for entry in told["steps"]], rel=1e-9)
    for index, one in enumerate(numbered(tensors, "out.noise_final.")):
        close(result.noise[index], one, 1e-8, f"noise {index}")
    close(result.projected.clamp(-1, 1), tensors["out.img_final.f32"], 1e-6, "last picture")


def whitening(tensors: dict[str, Tensor]) -> Whitening:
    return Whitening(*(tensors[f"in.X_{name}"].double() for name in ("mean", "comp", "stdev")))


@pytest.mark.parametrize("path", editing.cases("ii2s"))
def test_parts_of_ii2s(path):
    told, tensors = editing.read(path)
    space, codes = whitening(tensors), tensors["in.w"].double().requires_grad_(True)
    v = space.into(codes)
    close(v.detach(), tensors["out.v.f64"], 1e-9 * float(v.detach().abs().max()), "v")
    loss = told["config"]["p_norm_lambda"] * space.unlikeliness(codes).mean()
    assert loss.item() == pytest.approx(told["p_norm_loss"], rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, codes)
    recorded = tensors["out.p_norm_grad.f64"]
    close(gradient, recorded, 1e-7 * float(recorded.abs().max()), "gradient")
    back = space.back(tensors["out.v.f64"])
    close(back, tensors["out.inverse_transpose.f64"], 1e-9, "inverse")
    error = float((back - codes.detach()).abs().max())
    assert error == pytest.approx(told["inverse_with_transpose_max_abs_error"], rel=1e-2)
    factor = told["config"]["downsample_factor"]
    assert torch.equal(bicubic_taps(factor), tensors["out.bicubic_kernel.f32"])
    close(downsample(tensors["in.bicubic_x"].double(), factor), tensors["out.bicubic_y.f64"], 1e-9, "reduced")


@slow
@pytest.mark.parametrize("path", editing.cases("ii2s"))
def test_a_run_of_ii2s(path):
    told, tensors = editing.read(path)
    config = told["config"]
    bundle = editing.recorded_bundle(told, tensors["in.latent_avg"])
    # The recording's components, up to their signs, from the draws that it names.
    words = told["pca"].split()
    z = golden.formula_draw("ii2s/zpca", (int(words[2]), config["style_dim"]), config["weight_seed"])
    w = bundle.generator.map_single(torch.from_numpy(z).float().double())
    own, space = Whitening.of(lambda: iter(w.split(1000))), whitening(tensors)
    close(own.mean, space.mean, 1e-6 * float(space.mean.abs().max()), "mean")
    close(own.deviation / space.deviation, torch.ones_like(own.deviation), 1e-5, "deviation")
    aligned = (own.components @ space.components.T).diagonal().abs()
    close(aligned, torch.ones_like(aligned), 1e-4, "components")
    perceptual = recorded_net(told["lpips"]["net"], told["lpips"]["seed"], torch.float64)
    # The original's constants are float64; the module's are rounded to float32.
    perceptual.shift, perceptual.scale = (
        torch.tensor(one).double().view(1, 3, 1, 1) for one in (SHIFT, SCALE)
    )
    table = {}
    for step, entry in enumerate(told["steps"]):
        table |= noise_draws([tensors[name] for name in entry["noise"]], step, "invert")
    high, low = (tensors[f"in.ref_im_{kind}"].double() for kind in "HL")
    followed = Followed()
    settings = inversion_config(
        "ii2s", steps=config["steps"], learning_rate=config["learning_rate"], pixel=config["l2_lambda"],
        perceptual=config["percept_lambda"], prior=config["p_norm_lambda"], compare_px=low.shape[-1],
    )  # fmt: skip
    result = invert_pictures(
        bundle, high, perceptual, settings, callbacks=[followed],
        given=Given(RecordedDraws(table), whitening=space, reduced=low),
    )  # fmt: skip
    for step, entry in enumerate(told["steps"]):
        for ours, theirs, weight in (
            ("pixel", "l2", settings.pixel),
            ("perceptual", "percep", settings.perceptual),
            ("prior", "p-norm", settings.prior),
        ):
            assert weight * result.losses[ours][step] == pytest.approx(entry[theirs], abs=1e-9), (ours, step)
    compare_steps(followed, tensors, "latent", 1e-8)
