"""The few operations StyleGAN2 is made of, in a form that is always right.

`upfirdn2d`, `bias_act` and `modulated_conv2d` dispatch to a backend. The plain-torch one (`reference.py`)
runs on every device and dtype and is twice differentiable; faster forms register themselves under a name and
are chosen with `use_backend`, never silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import reference
from .reference import ACTIVATION_GAIN, LEAKY_SLOPE, blur_kernel, demodulation

__all__ = [
    "ACTIVATION_GAIN",
    "LEAKY_SLOPE",
    "Backend",
    "backends",
    "bias_act",
    "blur_kernel",
    "demodulation",
    "modulated_conv2d",
    "register_backend",
    "upfirdn2d",
    "use_backend",
]


@dataclass(frozen=True)
class Backend:
    """One implementation of the three operations; see `reference.py` for what each must compute."""

    upfirdn2d: Callable[..., Tensor]
    bias_act: Callable[..., Tensor]
    modulated_conv2d: Callable[..., Tensor]


# Compiled forms fail on many machines (stylegan2-ada-pytorch issues 35, 39, 97): never a requirement.
_BACKENDS: dict[str, Backend] = {
    "reference": Backend(reference.upfirdn2d, reference.bias_act, reference.modulated_conv2d)
}
# A context variable, no global: ComfyUI runs nodes beside other threads, and a new thread starts with the
# reference.
_ACTIVE: ContextVar[Backend] = ContextVar("oneshot_ops_backend", default=_BACKENDS["reference"])


def backends() -> tuple[str, ...]:
    """Name the backends that can be chosen; "reference" is always among them."""
    return tuple(_BACKENDS)


def register_backend(name: str, backend: Backend) -> None:
    """Make a faster form available under a name; it must equal the reference within its stated tolerance."""
    if name in _BACKENDS:
        raise ValueError(f"an ops backend named {name!r} is registered already; choose another name")
    _BACKENDS[name] = backend


@contextmanager
def use_backend(backend: str | Backend) -> Iterator[None]:
    """Choose a backend inside a `with` block, for this thread of execution only.

    Args:
        backend: a registered name, or a form of one's own that need not be registered.
    """
    if isinstance(backend, str):
        if backend not in _BACKENDS:
            raise ValueError(f"unknown ops backend {backend!r}; available: {', '.join(_BACKENDS)}")
        backend = _BACKENDS[backend]
    # The choice is made when an operation is called: networks hold no backend.
    token = _ACTIVE.set(backend)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def _own_dtype(x: Tensor) -> AbstractContextManager[Any]:
    """Leave autocast where it is on."""
    kind = x.device.type
    # The memory estimates run on the meta device, which knows no autocast.
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Upsample by zero insertion, pad, filter, downsample; see `reference.upfirdn2d`.

    Computes in the dtype of `x` also under autocast: the sum of the RGB layers stays in float32.
    """
    # Left to autocast, the convolution inside would round the picture itself to bfloat16.
    with _own_dtype(x):
        return _ACTIVE.get().upfirdn2d(x, kernel, up=up, down=down, pad=pad)


def bias_act(
    x: Tensor,
    bias: Tensor | None,
    clamp: float | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Scale, add noise and a bias, then leaky ReLU times sqrt(2); see `reference.bias_act`."""
    return _ACTIVE.get().bias_act(x, bias, clamp=clamp, scale=scale, noise=noise)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    kernel: Tensor | None = None,
    demodulate: bool = True,
    up: int = 1,
) -> Tensor:
    """Convolve each sample with weights scaled by its own style; see `reference.modulated_conv2d`."""
    return _ACTIVE.get().modulated_conv2d(x, weight, style, kernel=kernel, demodulate=demodulate, up=up)
