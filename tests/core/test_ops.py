"""The operations against literal loops, their second derivatives, and the choice of a backend."""

from __future__ import annotations

import math
import threading

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from oneshot_core import ops
from oneshot_core.ops import reference
from oneshot_core.tensors import seeded

CASES = [(1, 1, (2, 1)), (2, 1, (2, 1)), (2, 1, (1, 1)), (2, 1, (2, 2)), (1, 2, (1, 1)), (1, 2, (2, 2))]
CASES += [(2, 2, (1, 2)), (3, 1, (3, 2)), (1, 1, (-1, 1)), (2, 1, (0, -1)), (1, 3, (0, 2)), (4, 3, (2, 3))]


def drawn(*shape: int, what: str = "x") -> torch.Tensor:
    return torch.randn(shape, generator=seeded(0, 0, what), dtype=torch.float64)


def literal_upfirdn2d(x, kernel, up, down, pad):
    """Follow the definition step by step on every value."""
    n, c, h, w = x.shape
    taps = kernel.shape[0]
    height, width = h * up + sum(pad), w * up + sum(pad)
    padded = torch.zeros(n, c, height, width, dtype=x.dtype)
    for i in range(h):
        for j in range(w):
            y, z = i * up + pad[0], j * up + pad[0]
            if 0 <= y < height and 0 <= z < width:
                padded[:, :, y, z] = x[:, :, i, j]
    rows = []
    for y in range(0, height - taps + 1, down):
        row = [
            (padded[:, :, y : y + taps, z : z + taps] * kernel.flip(0, 1)).sum((2, 3))
            for z in range(0, width - taps + 1, down)
        ]
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


def test_blur_kernel_has_unit_sum_times_gain():
    kernel = ops.blur_kernel()
    assert kernel.shape == (4, 4) and float(kernel.sum()) == 1.0
    assert torch.equal(kernel * 64, torch.outer(*[torch.tensor([1.0, 3, 3, 1])] * 2))
    assert float(ops.blur_kernel(gain=4.0).sum()) == 4.0
    assert ops.blur_kernel((1, 2, 1)).shape == (3, 3)


@pytest.mark.parametrize(("up", "down", "pad"), CASES)
def test_upfirdn2d_equals_the_definition(up, down, pad):
    x = drawn(2, 3, 5, 6)
    kernel = drawn(4, 4, what="kernel")  # not symmetric, so that flips show
    found = ops.upfirdn2d(x, kernel, up=up, down=down, pad=pad)
    wanted = literal_upfirdn2d(x, kernel, up, down, pad)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-13


@pytest.mark.parametrize(("up", "down", "pad"), CASES)
def test_upfirdn2d_is_twice_differentiable(up, down, pad):
    x = drawn(1, 2, 4, 5).requires_grad_(True)
    kernel = drawn(4, 4, what="kernel")  # not symmetric, so that flips show
    apply = lambda x: ops.upfirdn2d(x, kernel, up=up, down=down, pad=pad).square()  # noqa: E731
    assert gradcheck(apply, x) and gradgradcheck(apply, x)


@pytest.mark.parametrize(("up", "down", "pad"), [(2, 1, (2, 1)), (1, 2, (1, 1)), (1, 1, (1, 1))])
def test_no_derivative_of_the_filter_loops_over_channels(up, down, pad):
    """torch's second derivative of a grouped convolution calls one convolution per group."""
    calls = []

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func.__name__) if "convolution" in func.__name__ else None
            return func(*args, **(kwargs or {}))

    x = drawn(1, 64, 8, 8).requires_grad_(True)
    kernel = reference.blur_kernel().double()
    with Counter():
        image = ops.upfirdn2d(x, kernel, up=up, down=down, pad=pad)
        (gradient,) = torch.autograd.grad(image.square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
    assert 3 <= len(calls) <= 6, calls


def test_bias_act_equals_the_formula():
    x, bias = drawn(2, 3, 4, 4), drawn(3, what="bias")
    shifted = x + bias[None, :, None, None]
    wanted = torch.where(shifted > 0, shifted, 0.2 * shifted) * math.sqrt(2)
    assert (ops.bias_act(x, bias) - wanted).abs().max() < 1e-15
    assert torch.equal(ops.bias_act(x, bias, clamp=0.5), ops.bias_act(x, bias).clamp(-0.5, 0.5))
    assert torch.equal(ops.bias_act(x, None), ops.bias_act(x, torch.zeros(3)))
    flat = drawn(2, 3)
    assert torch.equal(ops.bias_act(flat, bias), ops.bias_act(flat[:, :, None], bias)[:, :, 0])
    assert gradgradcheck(lambda x: ops.bias_act(x, bias).square(), x.requires_grad_(True))


@pytest.mark.parametrize("noises", [1, 2])
def test_scale_and_noise_come_before_the_bias(noises):
    shapes = {"x": (2, 3, 4, 4), "bias": (3,), "scale": (2, 3), "noise": (noises, 1, 4, 4)}
    x, bias, scale, noise = values = [drawn(*shape, what=name) for name, shape in shapes.items()]
    wanted = ops.bias_act(x * scale[:, :, None, None] + noise, bias, clamp=1.0)
    assert (ops.bias_act(x, bias, 1.0, scale, noise) - wanted).abs().max() < 1e-14
    assert (
        ops.bias_act(x, None, None, scale) - ops.bias_act(x * scale[:, :, None, None], None)
    ).abs().max() < 1e-14

    def apply(*values):
        x, bias, scale, noise = values
        return ops.bias_act(x, bias, None, scale, noise).square()

    values = [value.requires_grad_(True) for value in values]
    assert gradcheck(apply, values) and gradgradcheck(apply, values)


def literal_modulated_conv2d(x, weight, style, demodulate, up):
    """One sample at a time, each with its own weights; up-sampling by zero insertion."""
    images = []
    for sample, scale in zip(x, style, strict=True):
        own = weight * scale[None, :, None, None]
        if demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up == 1:
            images.append(F.conv2d(sample[None], own, padding=weight.shape[-1] // 2)[0])
            continue
        full = F.conv_transpose2d(sample[None], own.transpose(0, 1), stride=2)
        images.append(literal_upfirdn2d(full, ops.blur_kernel(gain=4.0).double(), 1, 1, (1, 1))[0])
    return torch.stack(images)


LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("up", "k"), [(1, 3), (1, 1), (2, 3)])
def test_modulated_conv2d_equals_one_sample_at_a_time(up, k, demodulate, layout):
    x, weight, style = drawn(3, 4, 5, 5), drawn(2, 4, k, k, what="weight"), drawn(3, 4, what="style")
    x, weight = x.to(memory_format=layout), weight.to(memory_format=layout)
    kernel = ops.blur_kernel(gain=4.0) if up == 2 else None
    found = ops.modulated_conv2d(x, weight, style, kernel, demodulate=demodulate, up=up)
    assert found.shape == (3, 2, 5 * up, 5 * up)
    assert (found - literal_modulated_conv2d(x, weight, style, demodulate, up)).abs().max() < 1e-12


def test_demodulation_undoes_the_scale_of_a_style():
    x, weight, style = drawn(2, 4, 5, 5), drawn(2, 4, 3, 3, what="weight"), drawn(2, 4, what="style")
    once, tenfold = (ops.modulated_conv2d(x, weight, style * scale) for scale in (1, 10))
    assert (once - tenfold).abs().max() < 1e-6


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("up", [1, 2])
def test_modulated_conv2d_is_twice_differentiable(up, layout):
    x, weight = (drawn(2, 2, 3, 3, what=what).to(memory_format=layout) for what in ("x", "weight"))
    inputs = tuple(value.requires_grad_(True) for value in (x, weight, drawn(2, 2, what="style")))
    kernel = ops.blur_kernel(gain=4.0) if up == 2 else None
    apply = lambda *values: ops.modulated_conv2d(*values, kernel, up=up)  # noqa: E731
    assert gradcheck(apply, inputs) and gradgradcheck(apply, inputs)


@pytest.mark.parametrize("name", ops.backends())
def test_every_backend_equals_the_reference(name):
    x, weight, style = (drawn(2, 4, 8, 8), drawn(3, 4, 3, 3, what="weight"), drawn(2, 4, what="style"))
    bias, kernel = drawn(4, what="bias"), ops.blur_kernel(gain=4.0)
    with ops.use_backend(name):
        found = [
            ops.upfirdn2d(x, kernel, up=2, pad=(2, 1)),
            ops.bias_act(x, bias, clamp=1.0),
            ops.modulated_conv2d(x, weight, style, kernel, up=2),
        ]
    wanted = [
        reference.upfirdn2d(x, kernel, up=2, pad=(2, 1)),
        reference.bias_act(x, bias, clamp=1.0),
        reference.modulated_conv2d(x, weight, style, kernel, up=2),
    ]
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() < 1e-9


@pytest.fixture
def doubling(monkeypatch):
    """A registered backend that shows when it is used; gone after the test."""
    monkeypatch.setattr(ops, "_BACKENDS", dict(ops._BACKENDS))
    backend = ops.Backend(
        lambda *a, **k: 2 * reference.upfirdn2d(*a, **k),
        lambda *a, **k: 2 * reference.bias_act(*a, **k),
        lambda *a, **k: 2 * reference.modulated_conv2d(*a, **k),
    )
    ops.register_backend("doubling", backend)
    return "doubling"


def test_a_backend_is_used_inside_its_block_only(doubling):
    x = drawn(1, 2, 4, 4)
    plain = ops.bias_act(x, None)
    with pytest.raises(RuntimeError), ops.use_backend(doubling):
        assert torch.equal(ops.bias_act(x, None), 2 * plain)
        with ops.use_backend("reference"):
            assert torch.equal(ops.bias_act(x, None), plain)
        raise RuntimeError("left by an error")
    assert torch.equal(ops.bias_act(x, None), plain)


def test_a_backend_belongs_to_the_thread_that_chose_it(doubling):
    x, seen = drawn(1, 2, 4, 4), []
    with ops.use_backend(doubling):
        thread = threading.Thread(target=lambda: seen.append(ops.bias_act(x, None)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], reference.bias_act(x, None))


def test_unknown_and_repeated_backends_are_refused(doubling):
    with pytest.raises(ValueError, match=r"unknown ops backend 'fast'; available: reference, doubling"):
        with ops.use_backend("fast"):
            pass
    with pytest.raises(ValueError, match="registered already"):
        ops.register_backend(doubling, ops._BACKENDS["reference"])
