"""Files in the style of rosinality/stylegan2-pytorch (`.pt`): all known dialects are read, one is written.

Source: checkpoints.md A (names, shapes, inference) and E.1 (e4e).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from ..networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from ..tensors import atomic_path, owned
from .assemble import (
    CheckpointPlan,
    Layout,
    NetworkPlan,
    Shape,
    drawn_noise,
    expected_shapes,
    make_config,
    match,
    require,
)
from .bundle import GeneratorBundle
from .restricted import KNOWN_FILES
from .stored import CheckpointError, Source, StoredTensor, describe

log = logging.getLogger(__name__)

MAX_TENSORS = 5_000
FAMILY_LR_MULTIPLIER = 0.01  # never stored; fixed in every program of the family
_NETWORK_KEYS = ("g_ema", "g", "d")
_KERNEL = re.compile(r".*(blur\.kernel|upsample\.kernel|conv2\.0\.kernel|skip\.0\.kernel)")


def read_plan(root: Any) -> CheckpointPlan:
    """Plan the networks of a torch file's object.

    Args:
        root: what `restricted.read_contents` returns.

    Returns:
        The plan; format "rosinality" or "e4e".

    Raises:
        CheckpointError: no StyleGAN2 networks of this family inside, or ill-shaped ones.
    """
    if not isinstance(root, dict):
        raise CheckpointError(f"holds {describe(root)}, not a dict of networks; {KNOWN_FILES}")
    if isinstance(root.get("state_dict"), dict):
        return _read_e4e(root)
    if any(isinstance(name, str) and name.endswith("input.input") for name in root):
        root = {"g_ema": root}
        notes = ["the file is a bare state dict; it was taken as the generator"]
    else:
        notes = []
    networks = {name: _tensors(root[name], name) for name in _NETWORK_KEYS if name in root}
    if "g_ema" not in networks and "g" not in networks:
        raise CheckpointError(_no_generator(root))
    main = "g_ema" if "g_ema" in networks else "g"
    plan = CheckpointPlan("rosinality", _kind(root), plan_generator(main, networks[main], notes), notes=notes)
    if main == "g_ema" and "g" in networks:
        plan.raw_generator = plan_generator("g", networks["g"], [])
    if "d" in networks:
        plan.discriminator = plan_discriminator("d", networks["d"])
    plan.mean_latent = _mean_latent(root.get("latent_avg"), plan.generator)
    ignored = sorted(str(name)[:40] for name in root if name not in (*_NETWORK_KEYS, "latent_avg"))
    if ignored:
        plan.notes.append(f"not used: {', '.join(ignored[:8])}")
    _add_inferred(plan)
    return plan


def _read_e4e(root: dict[Any, Any]) -> CheckpointPlan:
    """Plan the decoder of an e4e encoder file, which is a generator of this family."""
    tensors = _tensors(root["state_dict"], "state_dict")
    decoder = {
        name[len("decoder.") :]: value for name, value in tensors.items() if name.startswith("decoder.")
    }
    if not decoder or not any(name.startswith("encoder.") for name in tensors):
        raise CheckpointError(
            "has a state_dict without encoder.* and decoder.* tensors, so it is no e4e file; " + KNOWN_FILES
        )
    notes = ["an e4e encoder file: its decoder was taken as the generator, its encoder is not used"]
    plan = CheckpointPlan("e4e", "e4e", plan_generator("decoder", decoder, notes), notes=notes)
    plan.mean_latent = _mean_latent(root.get("latent_avg"), plan.generator)
    _add_inferred(plan)
    return plan


def _no_generator(root: dict[Any, Any]) -> str:
    names = ", ".join(str(name)[:30] for name in list(root)[:5]) or "nothing"
    if "init_w" in root:
        return (
            "a latent code written by OneshotCLIP (init_w), not a generator; give the file of the generator"
        )
    return f"has no generator: expected g_ema, g or a bare state dict, found {names}; {KNOWN_FILES}"


def _kind(root: dict[Any, Any]) -> str:
    """Name the program whose files have these top-level keys (checkpoints.md A.1)."""
    names = {name for name in root if isinstance(name, str)}
    if "style_latent" in names:
        return "Mind the Gap"
    if "args" in names or "d_optim" in names:
        return "rosinality training"
    if names == {"g_ema", "g_optim"}:
        return "StyleGAN-NADA"
    if names == {"g"}:
        return "JoJoGAN"
    if names == {"g_ema"}:
        return "OneshotCLIP"
    return "rosinality"


def _tensors(values: Any, label: str) -> dict[str, Source]:
    """Check one state dict and strip the prefix of parallel training."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{label} is {describe(values)}, not a state dict")
    if not values or len(values) > MAX_TENSORS:
        raise CheckpointError(f"{label} holds {len(values)} tensors; allowed are 1 to {MAX_TENSORS}")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, StoredTensor):
            raise CheckpointError(
                f"{label} holds {describe(value)} under {describe(name)}, not named tensors"
            )
    prefix = "module." if all(name.startswith("module.") for name in values) else ""
    return {name[len(prefix) :]: value.source(name[len(prefix) :]) for name, value in values.items()}


def _mean_latent(value: Any, generator: NetworkPlan[GeneratorConfig]) -> Source | None:
    """Describe the stored mean: [W], [1, W], or [L, W] with the same row for every layer (e4e)."""
    if value is None:
        return None
    if not isinstance(value, StoredTensor):
        raise CheckpointError(f"latent_avg is {describe(value)}, not a tensor")
    width = generator.config.w_dim
    if len(value.shape) not in (1, 2) or value.shape[-1] != width or 0 in value.shape:
        raise CheckpointError(
            f"latent_avg has shape {list(value.shape)}, expected [{width}] or [layers, {width}]"
        )

    def one_row(tensor: Tensor) -> Tensor:
        rows = tensor.reshape(-1, width)
        return rows[0] if bool((rows == rows[0]).all()) else rows.float().mean(dim=0)

    return value.source("latent_avg").converted((width,), one_row)


def _add_inferred(plan: CheckpointPlan) -> None:
    config = plan.generator.config
    plan.inferred["shape"] = "size, widths, dimensions and mapping depth were read from the tensors' shapes"
    plan.inferred["channel_multiplier"] = channel_multiplier(config.channels)
    plan.inferred["mapping_lr_multiplier"] = FAMILY_LR_MULTIPLIER


def channel_multiplier(channels: tuple[int, ...]) -> int | float | None:
    """Return the multiplier that gives these widths; None if none does, or below 64 px, where all are alike.

    Args:
        channels: widths at 4, 8, ..., size.
    """
    if len(channels) < 5:
        return None
    multiplier = channels[4] / 256
    standard = [512] * 4 + [int(16_384 * multiplier) >> level for level in range(6, len(channels) + 2)]
    if list(channels) != standard:
        return None
    return int(multiplier) if multiplier.is_integer() else multiplier


def plan_generator(
    label: str, tensors: Mapping[str, Source], notes: list[str]
) -> NetworkPlan[GeneratorConfig]:
    """Infer a generator's shape from its tensors and find every weight; adds to `notes` what was made up."""
    levels = sum(1 for name in tensors if re.fullmatch(r"to_rgbs\.\d+\.bias", name))
    layers = sum(1 for name in tensors if re.fullmatch(r"style\.\d+\.weight", name))
    widths = [require(tensors, "input.input", label, 4)[1]]
    widths += [require(tensors, f"convs.{2 * level}.conv.weight", label, 5)[1] for level in range(levels)]
    first = require(tensors, "style.1.weight", label, 2)
    last = require(tensors, f"style.{layers}.weight", label, 2)
    config = make_config(
        GeneratorConfig,
        size=4 * 2**levels if levels < 16 else 0,
        channels=tuple(widths),
        z_dim=first[1],
        w_dim=last[0],
        mapping_layers=layers,
        mapping_lr_multiplier=FAMILY_LR_MULTIPLIER,
        mapping_width=None if first[0] == last[0] else first[0],
        image_channels=require(tensors, "to_rgb1.bias", label, 4)[1],
    )
    table = generator_table(config)
    available = dict(tensors)
    noise = [name for name in table if name.endswith(".noise_const")]
    if not any(name.startswith("noises.") for name in tensors):
        drawn = drawn_noise(noise, expected_shapes(config))
        available.update({table[name].name: drawn[name].reshaped(1, 1, *drawn[name].shape) for name in noise})
        notes.append(f"{label} has no noise maps; constant noise was drawn with seed 0")
    _check_kernels(tensors, label)
    return match(label, config, table, available, lambda name: _KERNEL.fullmatch(name) is not None)


def plan_discriminator(label: str, tensors: Mapping[str, Source]) -> NetworkPlan[DiscriminatorConfig]:
    """Infer a discriminator's shape from its tensors and find every weight."""
    levels = sum(1 for name in tensors if re.fullmatch(r"convs\.\d+\.conv1\.0\.weight", name))
    image = require(tensors, "convs.0.0.weight", label, 4)
    widths = [image[0]]
    widths += [require(tensors, f"convs.{j}.conv2.1.weight", label, 4)[0] for j in range(1, levels + 1)]
    final = require(tensors, "final_conv.0.weight", label, 4)
    config = make_config(
        DiscriminatorConfig,
        size=4 * 2**levels if levels < 16 else 0,
        channels=tuple(widths[::-1]),
        image_channels=image[1],
        mbstd_features=final[1] - widths[-1],
    )
    if config.mbstd_features != 1:
        raise CheckpointError(
            f"{label}: final_conv.0.weight has {final[1]} inputs, expected {widths[-1]} and one deviation map"
        )
    _check_kernels(tensors, label)
    table = discriminator_table(config)
    return match(label, config, table, tensors, lambda name: _KERNEL.fullmatch(name) is not None)


def _check_kernels(tensors: Mapping[str, Source], label: str) -> None:
    """Refuse networks with another blur than [1, 3, 3, 1]; missing and all-zero ones are tolerated."""
    for name, source in tensors.items():
        if not _KERNEL.fullmatch(name):
            continue
        kernel = source.read().double() if source.shape == (4, 4) and source.dtype.is_floating_point else None
        if kernel is None or not is_blur(kernel):
            raise CheckpointError(
                f"{label}: {name} is not the blur [1, 3, 3, 1], the only one that is supported"
            )


def is_blur(kernel: Tensor) -> bool:
    """Whether a [4, 4] kernel is the blur [1, 3, 3, 1] times any gain; all zeros stand for "not stored"."""
    total = kernel.double().sum()
    return bool(total == 0) or torch.allclose(kernel.double() / total, _blur(1.0).double(), atol=1e-4)


def _blur(gain: float) -> Tensor:
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(row, row) / row.sum() ** 2 * gain


def _leading(shape: Shape) -> Shape:
    return (1, *shape)


def _styled(ours: str, theirs: str) -> dict[str, Layout]:
    """Names of a modulated convolution."""
    return {
        f"{ours}.weight": Layout(f"{theirs}.conv.weight", _leading),
        f"{ours}.affine.weight": Layout(f"{theirs}.conv.modulation.weight"),
        f"{ours}.affine.bias": Layout(f"{theirs}.conv.modulation.bias"),
    }


def generator_table(config: GeneratorConfig) -> dict[str, Layout]:
    """Layout of every generator weight in these files, by our names."""
    table = {"const": Layout("input.input", _leading)}
    for index in range(config.mapping_layers):
        for kind in ("weight", "bias"):
            table[f"mapping.layers.{index}.{kind}"] = Layout(f"style.{index + 1}.{kind}")
    for index in range(config.num_convs):
        ours, theirs = f"convs.{index}", f"convs.{index - 1}" if index else "conv1"
        table.update(_styled(ours, theirs))
        table[f"{ours}.bias"] = Layout(f"{theirs}.activate.bias")
        table[f"{ours}.noise_strength"] = Layout(f"{theirs}.noise.weight", _leading)
        table[f"{ours}.noise_const"] = Layout(f"noises.noise_{index}", lambda shape: (1, 1, *shape))
    for level in range(len(config.channels)):
        ours, theirs = f"to_rgbs.{level}", f"to_rgbs.{level - 1}" if level else "to_rgb1"
        table.update(_styled(ours, theirs))
        table[f"{ours}.bias"] = Layout(f"{theirs}.bias", lambda shape: (1, *shape, 1, 1))
    return table


def discriminator_table(config: DiscriminatorConfig) -> dict[str, Layout]:
    """Layout of every discriminator weight in these files, by our names."""
    names = {"from_rgb.weight": "convs.0.0.weight", "from_rgb.bias": "convs.0.1.bias"}
    for level in range(len(config.channels) - 1):
        ours, theirs = f"blocks.{level}", f"convs.{level + 1}"
        names[f"{ours}.conv1.weight"] = f"{theirs}.conv1.0.weight"
        names[f"{ours}.conv1.bias"] = f"{theirs}.conv1.1.bias"
        names[f"{ours}.conv2.weight"] = f"{theirs}.conv2.1.weight"
        names[f"{ours}.conv2.bias"] = f"{theirs}.conv2.2.bias"
        names[f"{ours}.skip.weight"] = f"{theirs}.skip.1.weight"
    names["final_conv.weight"], names["final_conv.bias"] = "final_conv.0.weight", "final_conv.1.bias"
    for ours, theirs in (("final_linear", "final_linear.0"), ("output", "final_linear.1")):
        names[f"{ours}.weight"], names[f"{ours}.bias"] = f"{theirs}.weight", f"{theirs}.bias"
    return {ours: Layout(theirs) for ours, theirs in names.items()}


def generator_state(generator: Generator) -> dict[str, Tensor]:
    """The state dict that rosinality's Generator of the same shape loads strictly, blur kernels included.

    Raises:
        CheckpointError: the generator has parts that these programs do not know.
    """
    config = generator.config
    _refuse_unknown_parts(config)
    state = _renamed(generator, generator_table(config))
    for level in range(len(config.channels) - 1):
        state[f"convs.{2 * level}.conv.blur.kernel"] = _blur(4.0)
        state[f"to_rgbs.{level}.upsample.kernel"] = _blur(4.0)
    if channel_multiplier(config.channels) is None and set(config.channels) != {512}:
        log.warning(
            "the layer widths %s are not those of a channel multiplier: only programs that read widths "
            "from the file can load it",
            list(config.channels),
        )
    return state


def discriminator_state(discriminator: Discriminator) -> dict[str, Tensor]:
    """The state dict that rosinality's Discriminator of the same shape loads strictly."""
    config = discriminator.config
    found = {
        "conditional": config.c_dim != 0,
        f"conv_clamp {config.conv_clamp}": config.conv_clamp is not None,
        f"deviation groups of {config.mbstd_group}": config.mbstd_group != 4,
        f"{config.mbstd_features} deviation maps": config.mbstd_features != 1,
        f"{config.image_channels} image channels": config.image_channels != 3,
    }
    _refuse("discriminator", found, "; or write it without the discriminator")
    state = _renamed(discriminator, discriminator_table(config))
    for level in range(len(config.channels) - 1):
        state[f"convs.{level + 1}.conv2.0.kernel"] = _blur(1.0)
        state[f"convs.{level + 1}.skip.0.kernel"] = _blur(1.0)
    return state


def _refuse_unknown_parts(config: GeneratorConfig) -> None:
    w = config.w_dim
    found = {
        "conditional": config.c_dim != 0,
        f"conv_clamp {config.conv_clamp}": config.conv_clamp is not None,
        f"{config.image_channels} image channels": config.image_channels != 3,
        "mapping widths that differ": config.z_dim != w or config.mapping_width not in (None, w),
        f"mapping learning rate {config.mapping_lr_multiplier}": (
            config.mapping_lr_multiplier != FAMILY_LR_MULTIPLIER
        ),
    }
    _refuse("generator", found, "")


def _refuse(what: str, found: dict[str, bool], remedy: str) -> None:
    parts = [name for name, present in found.items() if present]
    if parts:
        raise CheckpointError(
            f"the {what} is {', '.join(parts)}, which rosinality-style programs cannot express; "
            f"write safetensors instead{remedy}"
        )


def _renamed(network: Generator | Discriminator, table: dict[str, Layout]) -> dict[str, Tensor]:
    state = {}
    for name, value in network.state_dict().items():
        layout = table[name]
        state[layout.name] = owned(value).float().cpu().reshape(layout.file_shape(tuple(value.shape)))
    return state


def write(bundle: GeneratorBundle, path: Path, with_discriminator: bool = True) -> None:
    """Write a file that torch.load(weights_only=True) and the original programs read.

    Args:
        bundle: what to write; keys are g_ema, g (when there is a raw generator), d and latent_avg.
        path: final name, by custom ending in ".pt"; replaced in one step.
        with_discriminator: whether to include d.

    Raises:
        CheckpointError: conditional, clamped or otherwise not expressible networks.
    """
    values: dict[str, Any] = {"g_ema": generator_state(bundle.generator)}
    if bundle.raw_generator is not None:
        values["g"] = generator_state(bundle.raw_generator)
    if with_discriminator and bundle.discriminator is not None:
        values["d"] = discriminator_state(bundle.discriminator)
    values["latent_avg"] = owned(bundle.mean_latent).float().cpu()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        watched = _Watched(file)
        try:
            torch.save(values, cast(BinaryIO, watched))
        except RuntimeError as error:
            raise watched.failure or error from error


class _Watched:
    """A file that remembers why writing failed: torch.save reports a full disk as an unexpected position."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, and keep the error."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """Hand over to the file."""
        self._file.flush()
