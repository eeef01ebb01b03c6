"""Shapes of StyleGAN2's networks: every value is read from a checkpoint, none is assumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from .json_values import Fields

MAX_LEVELS, MAX_WIDTH = 9, 4_096  # 4 to 1024 px; the widest known layers have 1,024 channels
_RANGES = {  # far beyond any known network
    "z_dim": (1, MAX_WIDTH), "w_dim": (1, MAX_WIDTH), "c_dim": (0, 32_768), "mapping_layers": (1, 64),
    "mapping_width": (1, MAX_WIDTH), "label_width": (1, MAX_WIDTH), "cmap_dim": (1, MAX_WIDTH),
    "mapping_lr_multiplier": (1e-9, 1e9), "conv_clamp": (1e-9, 1e9),
    "mbstd_group": (1, 65_536), "mbstd_features": (1, MAX_WIDTH),
}  # fmt: skip
_Config = TypeVar("_Config", bound="_JsonConfig")


class _JsonConfig:
    """Conversion of the two frozen config dataclasses to and from JSON values."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON types."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {**values, "channels": list(values["channels"])}

    @classmethod
    def from_dict(cls: type[_Config], values: Mapping[str, Any]) -> _Config:
        """Build from `to_dict` values; raises ValueError for unknown keys and for impossible values."""
        given = Fields(values, cls.__name__.removesuffix("Config").lower())
        read: dict[str, Any] = {"channels": tuple(given.items("channels", MAX_LEVELS))}
        for field in fields(cls):  # type: ignore[arg-type]
            if field.name in read:
                continue
            more = {} if field.default is MISSING else {"default": field.default}
            # Annotations are texts here, because of the __future__ import; the type is read from them.
            if "None" in str(field.type) and given.value(field.name, **more) is None:
                read[field.name] = None
                continue
            take = given.number if str(field.type).startswith("float") else given.whole
            read[field.name] = take(field.name, **more)
        given.close()  # refuses keys that nobody took
        return cls(**read)


def _check_sizes(size: int, channels: tuple[int, ...]) -> None:
    levels = int(math.log2(size)) if size > 0 else 0
    if size != 2**levels or not 16 <= size <= 1024:
        raise ValueError(f"size must be a power of two from 16 to 1024, got {size}")
    # A file's header may say anything; `type` because True would pass isinstance as the whole number 1.
    if len(channels) != levels - 1 or not all(
        type(width) is int and 1 <= width <= MAX_WIDTH for width in channels
    ):
        raise ValueError(
            f"channels must hold one width from 1 to {MAX_WIDTH} per resolution from 4 to {size} "
            f"({levels - 1} values), got {list(channels[:MAX_LEVELS])}"
        )


def _check_ranges(config: Any) -> None:
    """Refuse values far beyond any known network, before layers are made or memory is taken."""
    for name, (low, high) in _RANGES.items():
        value = getattr(config, name, None)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, got {value}")
    if config.image_channels not in (1, 3, 4):
        raise ValueError(
            "pictures have 3 channels (colour), 1 (grey) or 4 (colour and transparency), these would have "
            f"{config.image_channels}"
        )


@dataclass(frozen=True)
class GeneratorConfig(_JsonConfig):
    """Shape of a generator; every value is read from a checkpoint's tensors, none is assumed."""

    size: int  # side of the image in pixels, power of two, 16 to 1024
    channels: tuple[int, ...]  # feature widths at 4, 8, ..., size
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0  # classes of a conditional generator, 0 for none
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    mapping_width: int | None = None  # hidden width of the mapping network; None: w_dim
    label_width: int | None = None  # width of the embedded label; None: w_dim
    image_channels: int = 3
    conv_clamp: float | None = None  # bound on activations (NVIDIA's fp16 models), None for none

    def __post_init__(self) -> None:
        _check_sizes(self.size, self.channels)
        _check_ranges(self)

    @property
    def num_convs(self) -> int:
        """Number of styled convolutions, 2 * log2(size) - 3."""
        return 2 * len(self.channels) - 1

    @property
    def num_layers(self) -> int:
        """Number of slots L of a W+ code, 2 * log2(size) - 2."""
        return 2 * len(self.channels)


@dataclass(frozen=True)
class DiscriminatorConfig(_JsonConfig):
    """Shape of a discriminator."""

    size: int
    channels: tuple[int, ...]  # feature widths at 4, 8, ..., size
    image_channels: int = 3
    c_dim: int = 0
    cmap_dim: int | None = None  # width of the mapped label; None: channels at 4
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    mapping_width: int | None = None  # hidden and label-embedding width of the label mapping; None: cmap_dim
    mbstd_group: int | None = 4  # samples per group of the minibatch standard deviation; None: whole batch
    mbstd_features: int = 1
    conv_clamp: float | None = None

    def __post_init__(self) -> None:
        _check_sizes(self.size, self.channels)
        _check_ranges(self)

    @property
    def label_dim(self) -> int:
        """Width of the mapped label."""
        return self.channels[0] if self.cmap_dim is None else self.cmap_dim
