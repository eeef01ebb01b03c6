"""A generator's tensors under other programs' names, written down from their sources for tests alone."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from oneshot_core.networks import Discriminator, Generator
from tests.rosinality_names import original_state

State = dict[str, Tensor]


def rosinality(generator: Generator) -> State:
    return {name: value.clone() for name, value in original_state(generator).items()}


def rosinality_d(discriminator: Discriminator) -> State:
    return {name: value.clone() for name, value in original_state(discriminator).items()}


def basicsr(generator: Generator) -> State:
    """StyleGAN2Generator of BasicSR: other words for the same tensors."""
    state = {}
    for name, value in rosinality(generator).items():
        if name == "input.input":
            name = "constant_input.weight"
        name = re.sub(r"^style\.", "style_mlp.", name)
        name = re.sub(r"^conv1\.", "style_conv1.", name)
        name = re.sub(r"^convs\.", "style_convs.", name)
        name = name.replace(".noise.weight", ".weight").replace("noises.noise_", "noises.noise")
        state[re.sub(r"\.conv\.", ".modulated_conv.", name)] = value
    return state


def mmgeneration(generator: Generator, prefix: str = "") -> State:
    """StyleGANv2Generator of MMGeneration, which draws blue, green, red."""
    state = {}
    for name, value in rosinality(generator).items():
        if re.match(r"to_rgb\w*(\.\d+)?\.(conv\.weight|bias)$", name):
            value = value.flip(1)
        if name == "input.input":
            name = "constant_input.input"
        name = re.sub(r"^style\.(\d+)\.weight", r"style_mapping.\1.linear.weight_orig", name)
        name = re.sub(r"^style\.", "style_mapping.", name)
        name = name.replace(".noise.weight", ".noise_injector.weight")
        name = name.replace("noises.noise_", "injected_noise_")
        name = name.replace(".modulation.weight", ".style_modulation.linear.weight_orig")
        state[prefix + name.replace(".modulation.bias", ".style_modulation.bias")] = value
    return state


def genforce(generator: Generator) -> State:
    """StyleGAN2Generator of genforce: up-convolutions turned, biases of styles around 0."""
    state = {"synthesis.early_layer.const": generator.const[None]}
    for name, value in generator.state_dict().items():
        kind, _, rest = name.partition(".")
        if name == "const":
            continue
        if kind == "mapping":
            state[re.sub(r"layers\.(\d+)", r"dense\1", name)] = value
            continue
        index, _, leaf = rest.partition(".")
        if leaf == "weight" and kind == "convs" and int(index) % 2:
            value = value.flip((2, 3))
        if leaf == "affine.bias":
            value = value - 1
        if leaf == "noise_const":
            value = value[None, None]
        leaf = leaf.replace("affine.", "style.").replace("noise_const", "noise")
        state[f"synthesis.{'layer' if kind == 'convs' else 'output'}{index}.{leaf}"] = value
    return state


def nvidia(generator: Generator, mean: Tensor | None = None) -> State:
    """`state_dict()` of NVIDIA's Generator."""
    state = {} if mean is None else {"mapping.w_avg": mean}
    for name, value in generator.state_dict().items():
        kind, _, rest = name.partition(".")
        index, _, leaf = rest.partition(".")
        if kind == "const":
            state["synthesis.b4.const"] = value
        elif kind == "mapping":
            state[re.sub(r"layers\.(\d+)", r"fc\1", name)] = value
        elif kind == "convs":
            number = int(index)
            conv = "conv0" if number % 2 else "conv1"
            state[f"synthesis.b{4 << ((number + 1) // 2)}.{conv}.{leaf}"] = value
        else:
            state[f"synthesis.b{4 << int(index)}.torgb.{leaf}"] = value
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    state["synthesis.b4.conv1.resample_filter"] = torch.outer(row, row) / 64
    return {name: value.clone() for name, value in state.items()}


def nvidia_d(discriminator: Discriminator) -> State:
    """`state_dict()` of NVIDIA's Discriminator."""
    size, state = discriminator.config.size, {}
    fixed = {
        "from_rgb": f"b{size}.fromrgb",
        "final_conv": "b4.conv",
        "final_linear": "b4.fc",
        "output": "b4.out",
    }
    for name, value in discriminator.state_dict().items():
        kind, _, rest = name.partition(".")
        if kind == "blocks":
            level, part, leaf = rest.split(".")
            theirs = {"conv1": "conv0", "conv2": "conv1", "skip": "skip"}[part]
            state[f"b{size >> int(level)}.{theirs}.{leaf}"] = value.clone()
        else:
            state[f"{fixed[kind]}.{rest}"] = value.clone()
    return state


def own(generator: Generator, prefix: str = "generator.") -> State:
    """This project's names, as in a file whose header was dropped."""
    return {f"{prefix}{name}": value.clone() for name, value in generator.state_dict().items()}


GENERATORS = {
    "rosinality": rosinality,
    "basicsr": basicsr,
    "mmgeneration": mmgeneration,
    "genforce": genforce,
    "nvidia": nvidia,
}
