"""The original programs' names and shapes for this project's tensors, written for the tests alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from oneshot_core.networks import DiscriminatorConfig, GeneratorConfig

Shapes = Mapping[str, Sequence[int]]  # state-dict name of the original -> shape

# (this project's name, the original's name); {n} groups are filled by the functions below
_PARTS = {
    "weight": "conv.weight",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
}
_CONV = {**_PARTS, "bias": "activate.bias", "noise_strength": "noise.weight"}
_RGB = {**_PARTS, "bias": "bias"}
_BLOCK = {
    "conv1.weight": "conv1.0.weight",
    "conv1.bias": "conv1.1.bias",
    "conv2.weight": "conv2.1.weight",
    "conv2.bias": "conv2.2.bias",
    "skip.weight": "skip.1.weight",
}
_TAIL = {
    "from_rgb.weight": "convs.0.0.weight",
    "from_rgb.bias": "convs.0.1.bias",
    "final_conv.weight": "final_conv.0.weight",
    "final_conv.bias": "final_conv.1.bias",
    "final_linear.weight": "final_linear.0.weight",
    "final_linear.bias": "final_linear.0.bias",
    "output.weight": "final_linear.1.weight",
    "output.bias": "final_linear.1.bias",
}


def original_name(name: str) -> str:
    """Return the original's name of a generator, discriminator or patch-head tensor."""
    if name == "const":
        return "input.input"
    if name in _TAIL:
        return _TAIL[name]
    pattern = r"(mapping\.layers|convs|to_rgbs|blocks|heads)\.(\d+)\.(.+)"
    kind, index, rest = re.fullmatch(pattern, name).groups()
    number = int(index)
    if kind == "mapping.layers":
        return f"style.{number + 1}.{rest}"
    if kind == "heads":
        return f"new_conv.{number}.{'0.weight' if rest == 'weight' else '1.bias'}"
    if kind == "blocks":
        return f"convs.{number + 1}.{_BLOCK[rest]}"
    if rest == "noise_const":
        return f"noises.noise_{number}"
    first, others = ("conv1", "convs") if kind == "convs" else ("to_rgb1", "to_rgbs")
    table = _CONV if kind == "convs" else _RGB
    return f"{first if number == 0 else f'{others}.{number - 1}'}.{table[rest]}"


def original_shape(name: str, shape: torch.Size) -> tuple[int, ...]:
    """Return the shape under which the original stores a tensor of this project."""
    if name == "const":
        return (1, *shape)
    if name.endswith("noise_const"):
        return (1, 1, *shape)
    if name.endswith("noise_strength"):
        return (1,)
    if re.fullmatch(r"(convs|to_rgbs)\.\d+\.weight", name):
        return (1, *shape)
    if re.fullmatch(r"to_rgbs\.\d+\.bias", name):
        return (1, *shape, 1, 1)
    return tuple(shape)


def fill(module: nn.Module, values: Callable[[str, tuple[int, ...]], Tensor]) -> nn.Module:
    """Fill a network with `values(original name, original shape)` for every tensor it stores."""
    state = {}
    for name, current in module.state_dict().items():
        state[name] = values(original_name(name), original_shape(name, current.shape)).reshape(current.shape)
    module.load_state_dict(state)
    return module


def original_state(module: nn.Module) -> Mapping[str, Tensor]:
    """Return a network's tensors under the original's names and shapes."""
    return {
        original_name(name): value.reshape(original_shape(name, value.shape))
        for name, value in module.state_dict().items()
    }


def generator_config(shapes: Shapes) -> GeneratorConfig:
    """Read a generator's configuration from the original's tensor shapes."""
    layers = sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in shapes)
    levels = sum(bool(re.fullmatch(r"to_rgbs\.\d+\.bias", name)) for name in shapes)
    channels = [shapes["input.input"][1], *(shapes[f"convs.{2 * i}.conv.weight"][1] for i in range(levels))]
    return GeneratorConfig(
        size=4 * 2**levels,
        channels=tuple(channels),
        z_dim=shapes["style.1.weight"][1],
        w_dim=shapes[f"style.{layers}.weight"][0],
        mapping_layers=layers,
    )


def discriminator_config(shapes: Shapes) -> DiscriminatorConfig:
    """Read a discriminator's configuration from the original's tensor shapes."""
    levels = sum(bool(re.fullmatch(r"convs\.\d+\.conv1\.1\.bias", name)) for name in shapes)
    outputs = [shapes[f"convs.{level + 1}.conv2.2.bias"][0] for level in range(levels)]
    widths = [shapes["convs.0.0.weight"][0], *outputs]
    return DiscriminatorConfig(size=4 * 2**levels, channels=tuple(widths[::-1]))


def stored_shapes(module: nn.Module) -> dict[str, list[int]]:
    """Return the original's names and shapes of everything a network stores."""
    return {name: list(value.shape) for name, value in original_state(module).items()}
