"""What arrives on an input is checked before a node works with it: links may carry anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from .. import oneshot_core as core
from . import bridge
from .api import io

Values = dict[str, Any]
SHOWN = 60  # characters of a wrong text
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"


class InputError(ValueError):
    """An input holds something that the node cannot use; the message names the input and what was found."""


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Let a node's `execute` run only with values that fit its inputs, and the page see how it goes."""

    @wraps(execute)
    def check_first(cls: Any, **values: Any) -> io.NodeOutput:
        schema = cls.GET_SCHEMA() if cls.SCHEMA is None else cls.SCHEMA
        with bridge.watched(schema.node_id, cls.hidden) as tell:
            output = execute(cls, **fitting(schema.inputs, values))
            tell(output)
            return output

    return check_first


def fitting(inputs: Sequence[io.Input], values: Mapping[str, Any], prefix: str = "") -> Values:
    """Check values against the inputs that they arrived on.

    Args:
        inputs: as a schema lists them.
        values: by input id; those of an option of a dynamic combo are a dict of their own.
        prefix: of the names in messages.

    Returns:
        The values, numbers as Python's own.

    Raises:
        InputError: a value is missing, of another type or shape, not finite, or out of range.
    """
    found = dict(values)
    for one in inputs:
        value, name = values.get(one.id), prefix + one.id
        if value is None and one.optional:
            continue
        kind = one.get_io_type()
        if kind == DYNAMIC:
            found[one.id] = _chosen(one, name, value)
        elif kind in SOCKETS:
            _check_socket(name, value, *SOCKETS[kind])
        elif kind in CHECKS:
            found[one.id] = CHECKS[kind](one, name, value)
    return found


def _wrong(name: str, wanted: str, value: Any) -> InputError:
    return InputError(f"{name} must {wanted}, found {described(value)}")


def described(value: Any) -> str:
    """Say in a few words what a value is."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Tensor):
        if (shown := _pictured(value)) is not None:
            return shown
        return f"a tensor of shape {list(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, str):
        return f"the text {value[:SHOWN]!r}"
    if type(value) in (int, float):
        return f"the {'whole ' if type(value) is int else ''}number {str(value)[:SHOWN]}"
    name = type(value).__name__[:SHOWN]
    if name in KINDS:
        return KINDS[name]
    if isinstance(value, dict) and isinstance(value.get("samples"), Tensor):
        return "a latent of a diffusion model"
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _pictured(value: Tensor) -> str | None:
    """Say what ComfyUI's pictures and masks are; None for other tensors."""
    is_picture = value.ndim == 4 and value.shape[-1] in (1, 3, 4)
    if not value.numel() or not value.dtype.is_floating_point or not (is_picture or value.ndim == 3):
        return None
    what, (count, height, width) = "picture" if is_picture else "mask", value.shape[:3]
    return f"{f'a {what}' if count == 1 else f'{count} {what}s'} of {width} x {height} px"


KINDS = {  # what of this pack travels, in the user's words
    "GeneratorBundle": "a generator",
    "Latent": "a StyleGAN latent",
    "EncodersOnDemand": "encoders",
    "Recipe": "a method",
    "Look": "a look",
    "Direction": "a direction",
    "LatentMapper": "a latent mapper",
    "Alignment": "an alignment",
}
# Sockets of this pack: class that travels, and which nodes give it.
SOCKETS: dict[str, tuple[tuple[str, ...], str]] = {
    "ONESHOT_GENERATOR": (
        ("GeneratorBundle",),
        "Load StyleGAN2, One-Shot Adapt, Blend Generators or Apply Look",
    ),
    "ONESHOT_MAPPER": (("LatentMapper",), "Train Latent Mapper"),
    "ONESHOT_ALIGNMENT": (("Alignment",), "Align Face"),
    "ONESHOT_DIRECTION": (
        ("Direction",),
        "Text Direction, Component Direction or Load Direction",
    ),
    "ONESHOT_LATENT": (
        ("Latent",),
        "Random StyleGAN Latents, Invert Image or Load StyleGAN Latent",
    ),
    "ONESHOT_LOOK": (("Look",), "Load Look or Save Look"),
    "ONESHOT_ENCODERS": (("EncodersOnDemand",), "Load Encoders (CLIP, LPIPS)"),
    "ONESHOT_METHOD": (("Recipe",), "One-Shot Method"),
}


def _check_socket(name: str, value: Any, classes: Sequence[str], givers: str) -> None:
    if any(is_kind(value, getattr(core, one)) for one in classes):
        return
    if type(value).__name__ in classes:
        raise InputError(
            f"{name} must come from {givers}, found {described(value)} of another version of this pack; "
            "restart ComfyUI"
        )
    raise _wrong(name, f"come from {givers}", value)


def is_kind(value: Any, wanted: type) -> bool:
    """Tell whether a value is of a class of the engine, or of the same class of its second copy.

    The engine may be imported twice, as the pack's and as `oneshot_core`; then equal classes are not
    identical. One of the same name and module with all that this one has is taken; an older one that lacks
    something is not.
    """
    kind = type(value)
    if kind is wanted:
        return True
    places = [one.__module__.rpartition("oneshot_core.")[2] for one in (kind, wanted)]
    fields = [list(getattr(one, "__dataclass_fields__", ())) for one in (kind, wanted)]
    public = {one for one in dir(wanted) if not one.startswith("_")}
    same = kind.__name__ == wanted.__name__ and places[0] == places[1] and fields[0] == fields[1]
    return same and public <= set(dir(kind))


def _chosen(one: Any, name: str, value: Any) -> Values:
    """Check a dynamic combo: the key of an option, and the values of its inputs."""
    options = {option.key: option.inputs for option in one.options}
    key = value.get(one.id) if isinstance(value, dict) else None
    if not isinstance(key, str) or key not in options:
        raise _wrong(name, f"be one of {', '.join(options)}", value if key is None else key)
    return fitting(options[key], value, f"{name}.")


def _whole(one: Any, name: str, value: Any) -> int:
    whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not one.min <= value <= one.max:
        raise _wrong(name, f"be a whole number from {one.min} to {one.max}", value)
    return int(value)


def _number(one: Any, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise _wrong(name, f"be a number from {one.min} to {one.max}", value)
    if not one.min <= value <= one.max:
        raise _wrong(name, f"be a number from {one.min} to {one.max}", value)
    return float(value)


def _text(one: Any, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "be a text", value)
    return value


def _flag(one: Any, name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "be true or false", value)
    return value


def _choice(one: Any, name: str, value: Any) -> str:
    """Files come and go, so that their names are looked up by whoever opens them."""
    listed = not one.id.endswith(("_name", "_file"))
    if not isinstance(value, str) or (listed and value not in one.options):
        raise _wrong(
            name, f"be one of {', '.join(one.options)}" if listed else "be the name of a file", value
        )
    return value


def _image(one: Any, name: str, value: Any) -> Tensor:
    wanted = "be at least one picture (IMAGE), such as Load Image gives"
    if not _is_dense(value) or value.ndim != 4 or value.shape[-1] not in (1, 3, 4) or not value.numel():
        raise _wrong(name, wanted, value)
    if not value.dtype.is_floating_point:
        raise _wrong(name, wanted, value)
    return _finite(name, value)


def _mask(one: Any, name: str, value: Any) -> Tensor:
    wanted = "be a mask (MASK), such as Load Image gives"
    if not _is_dense(value) or value.ndim not in (2, 3, 4) or not value.numel():
        raise _wrong(name, wanted, value)
    if not value.dtype.is_floating_point and value.dtype != torch.bool:
        raise _wrong(name, wanted, value)
    return _finite(name, value)


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type != "meta"


def _finite(name: str, value: Tensor) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        raise InputError(
            f"{name} holds values that are not finite (NaN or infinity); look at the node before it"
        )
    return value


CHECKS: dict[str, Callable[[Any, str, Any], Any]] = {
    "INT": _whole,
    "FLOAT": _number,
    "STRING": _text,
    "BOOLEAN": _flag,
    "COMBO": _choice,
    "IMAGE": _image,
    "MASK": _mask,
}
