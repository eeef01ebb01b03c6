"""The consistency losses against recorded numbers of the published code (golden section 4)."""

from __future__ import annotations

import golden_support as golden
import pytest
import torch

from oneshot_core.objective.terms import patch_contrast, similarity_difference

pytestmark = pytest.mark.golden
DTYPES = {"f32": torch.float32, "f64": torch.float64}
CLOSE = {"f32": 1e-4, "f64": 1e-9}
SELF_LOGIT = -10.0  # what the published code puts in place of a crop's similarity with itself


def entries() -> list:
    """One parameter per recorded combination of batch, crops, dimension, grouping and temperature."""
    return [
        pytest.param(path, entry, id=f"{path.stem}-{entry['key']}")
        for path in golden.descriptions("oneshotclip_losses*.json")
        for entry in golden.describe(path)
    ]


def assert_gradient(found, wanted, width):
    difference = found.double() - wanted.double()
    if width == "f64":
        assert difference.abs().max() <= 1e-7 * wanted.abs().max()
    else:
        assert difference.norm() <= 1e-2 * wanted.double().norm()


def test_losses_were_recorded():
    assert entries(), f"{golden.golden_dir()} has no oneshotclip_losses*.json"


@pytest.mark.parametrize("width", DTYPES)
@pytest.mark.parametrize(("path", "entry"), entries())
def test_patch_contrast(path, entry, width):
    key, tensors, dtype = entry["key"], golden.tensors_of(path), DTYPES[width]
    q = tensors[f"{key}.in.q"].to(dtype).clone().requires_grad_(True)
    k = tensors[f"{key}.in.k"].to(dtype).clone().requires_grad_(True)
    rows = patch_contrast(
        q,
        k,
        images=entry["batch"],
        negatives="all" if entry["nce_allbatch"] else "crop_major",
        temperature=entry["tau"],
        self_logit=SELF_LOGIT,
    )
    wanted = tensors[f"{key}.out.patch_rows.{width}"]
    assert (rows.detach() - wanted).abs().max() <= CLOSE[width] * max(1.0, float(wanted.abs().max()))
    assert abs(float(rows.mean().detach()) - entry[f"patch_mean.{width}"]) <= CLOSE[width]
    weighted = (rows * tensors[f"{key}.in.rowweight"].to(dtype)).sum()
    for loss, name in ((rows.mean(), "patch_grad_mean"), (weighted, "patch_grad_weighted")):
        (gradient,) = torch.autograd.grad(loss, q, retain_graph=True)
        assert_gradient(gradient, tensors[f"{key}.out.{name}.{width}"], width)
    assert torch.autograd.grad(rows.sum(), k, allow_unused=True) == (None,)  # the source gets no gradient


@pytest.mark.parametrize("width", DTYPES)
@pytest.mark.parametrize(("path", "entry"), entries())
def test_similarity_difference(path, entry, width):
    key, tensors, dtype = entry["key"], golden.tensors_of(path), DTYPES[width]
    first = slice(0, entry["batch"])
    q = tensors[f"{key}.in.q"][first].to(dtype).clone().requires_grad_(True)
    loss = similarity_difference(q, tensors[f"{key}.in.k"][first].to(dtype))
    assert abs(float(loss.detach()) - entry[f"const.{width}"]) <= CLOSE[width]
    (gradient,) = torch.autograd.grad(loss, q)
    assert_gradient(gradient, tensors[f"{key}.out.const_grad.{width}"], width)
