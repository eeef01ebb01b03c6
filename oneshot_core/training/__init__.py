"""Adaptation: the loop, its state, and its observers."""

from .callbacks import (
    Callback,
    Checkpoints,
    Progress,
    RunCancelled,
    RunStopped,
    Snapshots,
    StopSignal,
    TrainProgress,
)
from .loop import STATE_FILE, AdaptResult, TrainConfig, adapt, adapted_bundle, train
from .state import TrainState, fresh_heads

__all__ = [
    "STATE_FILE",
    "AdaptResult",
    "Callback",
    "Checkpoints",
    "Progress",
    "RunCancelled",
    "RunStopped",
    "Snapshots",
    "StopSignal",
    "TrainConfig",
    "TrainProgress",
    "TrainState",
    "adapt",
    "adapted_bundle",
    "fresh_heads",
    "train",
]
