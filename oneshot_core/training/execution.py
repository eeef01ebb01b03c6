"""Where and how a training is computed: what changes its time and its memory, and not its result."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch

from ..checkpoints import GeneratorBundle
from ..features import Encoders, EncodersOnDemand
from ..memory import available_bytes, told_bytes
from ..objective import Aim, Preset
from .memory import training_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """Where and how a training is computed.

    Args:
        device: None: where the networks are.
        recompute: see `adapt`.
    """

    device: torch.device | str | None = None
    recompute: bool = False

    @classmethod
    def fastest(cls, device: torch.device, free_bytes: int | None, needed_bytes: int) -> Execution:
        """The fastest way that fits the memory that is free; the leanest where none does.

        Args:
            device: of the training.
            free_bytes: on it; None where that is not known.
            needed_bytes: by a training that keeps everything, see `training_bytes`.
        """
        if free_bytes is None or needed_bytes <= free_bytes:
            return cls(device)
        log.info(
            "the training needs %s and %s are free: parts of the networks are computed again instead of kept",
            told_bytes(needed_bytes),
            told_bytes(free_bytes),
        )
        return cls(device, recompute=True)


def fastest_in_place(
    bundle: GeneratorBundle, encoders: Encoders | EncodersOnDemand, aim: Aim, preset: Preset, precision: str
) -> Execution:
    """The fastest way to train where the networks are; see `training_bytes`."""
    place = bundle.generator.const.device
    needed_bytes = training_bytes(bundle, encoders, aim, preset, precision)
    return replace(Execution.fastest(place, free_bytes(place), needed_bytes), device=None)


def free_bytes(device: torch.device) -> int | None:
    """Memory of a device that this process can still take, what it holds of it included; None: unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return available_bytes() if device.type == "cpu" else None
