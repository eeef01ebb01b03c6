"""StyleGAN2's operations in plain torch: any device, any float dtype, twice differentiable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LEAKY_SLOPE = 0.2
# Makes up for what the leaky ReLU takes of the variance: rosinality's and NVIDIA's lrelu gain.
ACTIVATION_GAIN = math.sqrt(2)
DEMODULATION_EPS = 1e-8  # under the root, as in both originals


def blur_kernel(taps: Sequence[float] = (1, 3, 3, 1), gain: float = 1.0) -> Tensor:
    """Build the separable low-pass filter of StyleGAN2.

    Args:
        taps: 1-D filter; the 2-D filter is its outer product, normalised to sum 1.
        gain: factor on the result; up-sampling by 2 uses 4 to keep the signal's level.

    Returns:
        [T, T] float32.
    """
    line = torch.tensor(taps, dtype=torch.float32)
    square = torch.outer(line, line)
    # Inserted zeros take 3 of 4 values at up-sampling by 2, hence its gain of 4.
    return square / square.sum() * gain


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Insert zeros, pad, convolve with a small filter, keep every `down`-th sample; per channel.

    1. Each pixel becomes an `up` x `up` cell with the pixel at its top left and zeros elsewhere.
    2. Both axes are padded with zeros; a negative pad crops.
    3. The filter is applied as a true convolution (flipped).
    4. Every `down`-th row and column is kept.

    Args:
        x: [N, C, H, W].
        kernel: [T, T].
        up: up-sampling factor, 1 or more.
        down: down-sampling factor, 1 or more.
        pad: zeros (before, after) on both axes, counted after step 1.

    Returns:
        [N, C, (H * up + pad0 + pad1 - T) // down + 1, likewise for W].

    Source: NVlabs/stylegan2-ada-pytorch torch_utils/ops/upfirdn2d.py (definition); the filter runs as one
    depthwise convolution, 9 to 32 times faster on a CPU than one over [N * C, 1, H, W] and bitwise equal.
    """
    # torch's convolutions correlate, so the filter is flipped; [1, 3, 3, 1] would hide a mistake here.
    flipped = kernel.to(dtype=x.dtype, device=x.device).flip(0, 1)
    # One pass with the 2-D filter: two 1-D passes were 1.6 to 1.9 times slower on a CPU (performance.md 2).
    weight = flipped.expand(x.shape[1], 1, *kernel.shape)
    if up > 1:
        return _upsampled(x, kernel, weight, up, down, pad)
    before, after = pad
    # The convolution pads by itself, which is the same on both sides; else a padded copy is made.
    if before == after and before >= 0:
        return _filtered(x, weight, down, before)
    return _filtered(F.pad(x, (before, after, before, after)), weight, down, 0)


def _upsampled(x: Tensor, kernel: Tensor, weight: Tensor, up: int, down: int, pad: tuple[int, int]) -> Tensor:
    """Filter after zero insertion; where a transposed convolution says the same, no zeros are stored."""
    taps = kernel.shape[0]
    # How much of the transposed convolution's full output the pads leave; it crops both ends alike.
    crop_before, crop_after = taps - 1 - pad[0], taps - up - pad[1]
    if down == 1 and crop_before == crop_after >= 0:
        size = [(side - 1) * up + taps - 2 * crop_before for side in x.shape[2:]]
        # Flipped back: a transposed convolution flips by itself.
        spread: Tensor = _Spread.apply(x, weight.flip(2, 3), up, crop_before, size)
        return spread
    return _zero_inserted(x, weight, up, down, pad)


def _zero_inserted(x: Tensor, weight: Tensor, up: int, down: int, pad: tuple[int, int]) -> Tensor:
    """Follow the definition literally: zeros inserted, padded, filtered."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h, 1, w, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    return _filtered(F.pad(x, (pad[0], pad[1], pad[0], pad[1])), weight, down, 0)


class _Gather(torch.autograd.Function):
    """Depthwise convolution with a constant filter, the adjoint of `_Spread`.

    torch's own second derivative of a grouped convolution loops over the groups, one for every channel: on an
    H100 an R1 step took 13 times as long as a step without. Each of the two passes backward by the other, so
    every derivative is one call.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        """[N, C, H, W], [C, 1, T, T] -> [N, C, (H + 2 * padding - T) // stride + 1, ...]."""
        # Plain attributes will do: the filter is a constant that no derivative is taken of.
        ctx.weight, ctx.stride, ctx.padding, ctx.size = weight, stride, padding, x.shape[2:]
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Spread the gradient over the pixels that were gathered."""
        found = _Spread.apply(gradients[0], ctx.weight, ctx.stride, ctx.padding, list(ctx.size))
        return found, None, None, None


class _Spread(torch.autograd.Function):
    """Transposed depthwise convolution with a constant filter to a given size, the adjoint of `_Gather`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, size: list[int]) -> Tensor:
        """[N, C, h, w], [C, 1, T, T] -> [N, C, *size]."""
        ctx.weight, ctx.stride, ctx.padding = weight, stride, padding
        reach = weight.shape[2] - 1 - padding
        if stride == 1 and reach >= 0:
            # The same as gathering with the flipped filter, which took a quarter of the time in bfloat16 on a
            # CPU, 0.7 to 0.97 of it in float32.
            return F.conv2d(x, weight.flip(2, 3), padding=reach, groups=x.shape[1])
        # With a stride several input sizes give one output size; backward must hit the one it came from.
        least = [(side - 1) * stride + weight.shape[2] - 2 * padding for side in x.shape[2:]]
        rest = [wanted - side for wanted, side in zip(size, least, strict=True)]
        # torch has no fast form of this in 16 bits on a CPU: 306 ms against 13 in float32 at 128 channels;
        # zeros in between and a convolution are slower still, and so is one for each phase.
        narrow = x.device.type == "cpu" and x.dtype.itemsize < 4
        wide = (x.float(), weight.float()) if narrow else (x, weight)
        return F.conv_transpose2d(
            *wide, stride=stride, padding=padding, output_padding=rest, groups=x.shape[1]
        ).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gather the gradient from the pixels that were spread to."""
        found = _Gather.apply(gradients[0], ctx.weight, ctx.stride, ctx.padding)
        return found, None, None, None, None


def _filtered(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Apply a constant filter per channel."""
    found: Tensor = _Gather.apply(x, weight, stride, padding)
    return found


def bias_act(
    x: Tensor,
    bias: Tensor | None,
    clamp: float | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Scale channels, add noise and a bias, apply leaky ReLU (slope 0.2), multiply by sqrt(2), clamp.

    Args:
        x: [N, C, ...].
        bias: [C] or None.
        clamp: bound on the magnitude of the result; None for no bound.
        scale: [N, C] or None; where demodulation goes.
        noise: [N or 1, 1, ...] or None.

    Returns:
        Tensor of the shape of `x`.

    Source: NVlabs/stylegan2-ada-pytorch torch_utils/ops/bias_act.py; rosinality op/fused_act.py.
    """
    flat = [1] * (x.ndim - 2)
    shift = None if bias is None else bias.to(x.dtype).reshape(1, -1, *flat)
    factor = None if scale is None else scale.to(x.dtype).reshape(*scale.shape, *flat)
    y: Tensor = _BiasAct.apply(x, factor, None if noise is None else noise.to(x.dtype), shift)
    return y if clamp is None else y.clamp(-clamp, clamp)


class _BiasAct(torch.autograd.Function):
    """Scale, noise, shift, leaky ReLU and gain in one new tensor, which is kept for the backward pass.

    As operations of torch's there are up to five new tensors. The gain is in what is multiplied and added: a
    leaky ReLU lets positive factors through. The backward pass is made of torch's operations, so it has
    derivatives.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor | None, noise: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        """[N, C, ...], [N, C, 1, ...], [N or 1, 1, ...], [1, C, 1, ...] -> [N, C, ...]."""
        factor = x.new_tensor(ACTIVATION_GAIN) if scale is None else scale * ACTIVATION_GAIN
        y = x * factor if noise is None else torch.addcmul(noise * ACTIVATION_GAIN, x, factor)
        if shift is not None:
            y.add_(shift * ACTIVATION_GAIN)
        y = F.leaky_relu_(y, LEAKY_SLOPE)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, scale, y)
        ctx.noise_shape = None if noise is None else noise.shape
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gain leaves the sign as it was, so the slope is known from the result."""
        x, scale, y = ctx.saved_tensors
        _, for_scale, for_noise, for_shift = ctx.needs_input_grad
        found = torch.ops.aten.leaky_relu_backward(gradients[0], y, LEAKY_SLOPE, True)

        def summed(values: Tensor, kept: tuple[int, ...]) -> Tensor:
            axes = [axis for axis in range(y.ndim) if axis not in kept]
            return values.sum(axes, keepdim=True) * ACTIVATION_GAIN

        of_noise = None
        if for_noise:
            of_noise = (found.sum(1, keepdim=True) * ACTIVATION_GAIN).sum_to_size(ctx.noise_shape)
        return (
            found * (ACTIVATION_GAIN if scale is None else scale * ACTIVATION_GAIN),
            summed(found * x, (0, 1)) if for_scale else None,
            of_noise,
            summed(found, (1,)) if for_shift else None,
        )


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """Factor of each output channel that gives it unit expected standard deviation.

    Args:
        weight: [O, I, k, k].
        style: [N, I].

    Returns:
        [N, O].

    Source: StyleGAN2 paper section 2.2, equation 3; epsilon 1e-8 on the scaled weights.
    """
    # No matrix product: autocast would round this sum, which stays in float32.
    squares = (weight.square().sum((2, 3)) * style.square().unsqueeze(1)).sum(2)
    return torch.rsqrt(squares + DEMODULATION_EPS)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    kernel: Tensor | None = None,
    demodulate: bool = True,
    up: int = 1,
) -> Tensor:
    """Convolve each sample with weights scaled per input channel by its own style.

    Args:
        x: [N, I, H, W].
        weight: [O, I, k, k], already multiplied by its equalised learning-rate gain.
        style: [N, I] scale of the input channels.
        kernel: [T, T] low-pass filter with gain 4, needed when `up` is 2.
        demodulate: scale each output channel to unit expected standard deviation.
        up: 2 for a stride-2 transposed convolution followed by the filter, else 1.

    Returns:
        [N, O, H * up, W * up].

    Source: StyleGAN2 paper section 2.2, equations 1 to 3; NVlabs/stylegan2-ada-pytorch
    training/networks.py has this form as fused_modconv=False.
    """
    # Scaling what goes in and what comes out lets the samples share an ordinary convolution. Weights scaled
    # per sample, the paper's form, took 0.95 to 1.5 times as long in groups (CPU, float32, both memory
    # formats). Where only the style takes a gradient, as in the latent search, they would each need one.
    n, i = style.shape
    x = x * style.to(x.dtype).reshape(n, i, 1, 1)
    if up == 1:
        x = F.conv2d(x, weight, padding=weight.shape[2] // 2)
    else:
        assert kernel is not None and up == 2 and weight.shape[2] == 3
        x = upfirdn2d(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), kernel, pad=(1, 1))
    return x * demodulation(weight, style).to(x.dtype).reshape(n, -1, 1, 1) if demodulate else x
