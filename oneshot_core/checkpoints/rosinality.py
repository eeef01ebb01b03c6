"""Networks in the style of rosinality/stylegan2-pytorch: every dialect is read, rosinality's own is written.

Source: checkpoints.md A (names, shapes, inference) and E.1 (e4e).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from ..networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from ..tensors import owned
from ..writing import atomic_path
from .assemble import (
    Layout,
    NetworkPlan,
    check_constant,
    drawn_noise,
    expected_shapes,
    make_config,
    match,
    require,
)
from .bundle import GeneratorBundle
from .dialects import ROSINALITY, Dialect, conv_name, dense_name, generator_table, rgb_name
from .stored import CheckpointError, Source

log = logging.getLogger(__name__)

MAX_LAYERS = 64
FAMILY_LR_MULTIPLIER = 0.01  # never stored; fixed in every program of the family
_KERNEL = re.compile(r".*(blur\.kernel|upsample\.kernel|filter\.kernel|conv2\.0\.kernel|skip\.0\.kernel)")
_LABELS = re.compile(r"(?:^|\.)(?:\w*label\w*|\w*embed\w*|class_\w+)(?:\.|$)")


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
    label: str, tensors: Mapping[str, Source], notes: list[str], dialect: Dialect = ROSINALITY
) -> NetworkPlan[GeneratorConfig]:
    """Infer a generator's shape from its tensors and find every weight.

    Args:
        label: how the file calls the network, for messages.
        tensors: by the names of the dialect.
        notes: gets a line for whatever was made up or changed.
        dialect: whose names they are.

    Returns:
        The plan.

    Raises:
        CheckpointError: weights are missing, ill-shaped or too many, or the network is of another kind.
    """
    config = _config(label, tensors, dialect)
    table = generator_table(dialect, config)
    available = dict(tensors)
    noise = [name for name in table if name.endswith(".noise_const")]
    if not any(table[name].name in tensors for name in noise):
        shapes = expected_shapes(config)
        for name, drawn in drawn_noise(noise, shapes).items():
            available[table[name].name] = drawn.reshaped(*table[name].file_shape(shapes[name]))
        notes.append(f"{label} has no noise maps; constant noise was drawn with seed 0")
    _check_kernels(tensors, label)
    plan = match(label, config, table, available, lambda name: _is_extra(name) or name in dialect.extra)
    if dialect.note is not None:
        notes.append(dialect.note)
    return plan


def _config(label: str, tensors: Mapping[str, Source], dialect: Dialect) -> GeneratorConfig:
    """Read a generator's shape from its tensors."""
    levels = _count(tensors, lambda level: f"{rgb_name(dialect, level + 1)}.{dialect.rgb_bias}")
    layers = _count(tensors, lambda index: dense_name(dialect, index))
    constant = require(tensors, dialect.constant, label, 3 + dialect.const_axis)
    check_constant(label, constant, levels)
    widths = [constant[-3]]
    for level in range(levels):
        name = f"{conv_name(dialect, 2 * level + 1)}.{dialect.weight}"
        widths.append(require(tensors, name, label, 4 + dialect.axes)[-4])
    first = require(tensors, dense_name(dialect, 0), label, 2)
    last = require(tensors, dense_name(dialect, max(0, layers - 1)), label, 2)
    embed: Sequence[int] = (0, 0)
    if dialect.embed and f"{dialect.embed}.weight" in tensors:
        embed = require(tensors, f"{dialect.embed}.weight", label, 2)
    else:
        refuse_lost_labels(label, tensors, first[1], last[0])
    colours = require(tensors, f"{dialect.first_rgb}.{dialect.rgb_bias}", label, 4 if dialect.axes else 1)
    return make_config(
        GeneratorConfig,
        size=4 << min(levels, 16),
        channels=tuple(widths),
        z_dim=first[1] - embed[0],
        w_dim=last[0],
        c_dim=embed[1],
        mapping_layers=layers,
        mapping_lr_multiplier=FAMILY_LR_MULTIPLIER,
        mapping_width=None if first[0] == last[0] else first[0],
        label_width=embed[0] if embed[1] and embed[0] != last[0] else None,
        image_channels=colours[1 if dialect.axes else 0],
    )


def _count(tensors: Mapping[str, Source], name: Callable[[int], str]) -> int:
    return sum(name(index) in tensors for index in range(MAX_LAYERS))


def refuse_lost_labels(label: str, names: Iterable[str], z_dim: int, w_dim: int) -> None:
    """Refuse conditional networks whose labels an export lost; drawn without them they show other pictures.

    Args:
        label: how the file calls the network, for messages.
        names: of the network's tensors; names of an embedding of labels are telling, too.
        z_dim: inputs of the first mapping layer.
        w_dim: width of its last one. These programs make z as wide as w, and other networks make it narrower;
            it is only wider where the embedded label stands behind it.

    Raises:
        CheckpointError: the network is conditional.
    """
    named = next((name for name in names if _LABELS.search(name)), None)
    if named is not None:
        found = f"{named[:80]} belongs to the labels, for which this layout has no place"
    elif z_dim > w_dim:
        found = (
            f"its mapping network takes {z_dim} numbers for a w of {w_dim}, so that a part of them was the "
            "label, whose weights the export lost"
        )
    else:
        return
    raise CheckpointError(
        f"{label} is a conditional network (class labels): {found}. Drawn like this it gives wrong pictures; "
        "use the original NVIDIA .pkl, whose labels are kept"
    )


def plan_discriminator(label: str, tensors: Mapping[str, Source]) -> NetworkPlan[DiscriminatorConfig]:
    """Infer a discriminator's shape from its tensors and find every weight."""
    levels = sum(1 for name in tensors if re.fullmatch(r"convs\.\d+\.conv1\.0\.weight", name))
    image = require(tensors, "convs.0.0.weight", label, 4)
    widths = [image[0]]
    widths += [require(tensors, f"convs.{j}.conv2.1.weight", label, 4)[0] for j in range(1, levels + 1)]
    final = require(tensors, "final_conv.0.weight", label, 4)
    config = make_config(
        DiscriminatorConfig,
        size=4 << min(levels, 16),
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
    return match(label, config, table, tensors, _is_extra)


def _is_extra(name: str) -> bool:
    return _KERNEL.fullmatch(name) is not None


def _check_kernels(tensors: Mapping[str, Source], label: str) -> None:
    """Refuse networks with another blur than [1, 3, 3, 1]; missing and all-zero ones are tolerated."""
    for name, source in tensors.items():
        if not _is_extra(name):
            continue
        fits = source.shape in ((4, 4), (1, 1, 4, 4)) and source.dtype.is_floating_point
        kernel = source.read().double().reshape(4, 4) if fits else None
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
    state = _renamed(generator, generator_table(ROSINALITY, config))
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
