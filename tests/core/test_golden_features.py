"""LPIPS and CLIP against the recorded numbers of the original programs (golden README, sections 7 and 8)."""

from __future__ import annotations

import re

import golden_support as golden
import pytest
import torch
from golden_perceptual import recorded_net

from oneshot_core.features import ClipEncoder, build_clip
from oneshot_core.features.perceptual import PUBLISHED

pytestmark = pytest.mark.golden
DTYPES = {"f32": torch.float32, "f64": torch.float64}
CLOSE = {"f32": 1e-5, "f64": 1e-9}  # values
CLOSE_GRADIENT = {"f32": 1e-2, "f64": 1e-7}  # float32: relative L2; float64: relative to the largest entry


def recorded_gradient(
    tensors: dict[str, torch.Tensor], name: str, found: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the recorded gradient, whole or a slice of it, and the same part of a gradient."""
    recorded, cut = golden.recorded_part(tensors, name)
    return recorded.double(), golden.part(found, cut).double()


def assert_gradient(whole: torch.Tensor, tensors: dict[str, torch.Tensor], name: str, width: str) -> None:
    recorded, found = recorded_gradient(tensors, name, whole)
    difference = found - recorded
    if width == "f64":
        assert difference.abs().max() <= CLOSE_GRADIENT[width] * whole.abs().max()
    else:
        assert difference.norm() <= CLOSE_GRADIENT[width] * recorded.norm()


def lpips_cases() -> list:
    found = []
    for path in golden.descriptions("lpips_*.json"):
        for key in golden.describe(path):
            if match := re.fullmatch(r"lpips_(\w+)\.(f32|f64)", key):
                found.append(pytest.param(path, *match.groups(), id=f"{path.stem}-{key}"))
    skip = pytest.mark.skip(reason=f"no lpips_*.json in {golden.golden_dir()}")
    return found or [pytest.param(None, "", "", id="none", marks=skip)]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "net", "width"), lpips_cases())
def test_lpips_equals_the_package_and_the_official_class(path, net, width):
    recorded, tensors, dtype = golden.describe(path), golden.tensors_of(path), DTYPES[width]
    perceptual = recorded_net(net, recorded["weight_seed"], dtype)
    x = tensors["in.x"].to(dtype).requires_grad_()
    values = perceptual(x, tensors["in.y"].to(dtype))
    expected = torch.tensor(recorded[f"lpips_{net}.{width}"], dtype=dtype)
    torch.testing.assert_close(values, expected, rtol=0, atol=CLOSE[width])
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert_gradient(gradient, tensors, f"out.lpips_{net}_grad.{width}", width)

    official = recorded.get(f"oneshotclip_{net}_eval.{width}")
    if official is not None:  # another epsilon: agrees to 1e-6, not to rounding
        assert values.mean().item() == pytest.approx(official, abs=1e-6)
        own, ours = recorded_gradient(tensors, f"out.oneshotclip_{net}_grad.{width}", gradient / len(values))
        assert (ours - own).norm() <= 1e-2 * own.norm()


def test_every_recorded_net_is_known():
    nets = {case.values[1] for case in lpips_cases()} - {""}
    assert nets <= set(PUBLISHED)


@pytest.mark.parametrize("path", golden.cases("trace_*_f64_*.json"))
def test_clip_target_feature_of_the_traces(path):
    meta, tensors = golden.describe(path)["meta"], golden.tensors_of(path)
    checks = golden.describe(path)["meta"]["weight_checks"]["clip"]
    model = build_clip(meta["clip_config"])
    golden.fill_with_formula(model, "clip.", meta["config"]["seed"], golden.rules("clip_rules"))
    golden.check_weights(model.state_dict(), checks)
    encoder = ClipEncoder(model.double())
    feature = encoder.encode_images(tensors["target"].double()[None])
    recorded = tensors[meta["clip_target_feature"]]
    torch.testing.assert_close(feature.flatten(), recorded.flatten() / recorded.norm(), rtol=0, atol=1e-9)
