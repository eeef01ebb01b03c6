"""Adaptation: the loop, its state, and its observers."""

from ..precision import PRECISIONS, check_precision
from ..saved_states import StateError
from .callbacks import (
    Callback,
    Checkpoints,
    Poll,
    Progress,
    RunCancelled,
    RunStopped,
    Snapshots,
    StopSignal,
)
from .config import TrainConfig
from .loop import STATE_FILE, AdaptResult, adapt, adapted_bundle, train
from .state import TrainState, fresh_heads

__all__ = [
    "PRECISIONS",
    "STATE_FILE",
    "AdaptResult",
    "Callback",
    "Checkpoints",
    "Poll",
    "Progress",
    "RunCancelled",
    "RunStopped",
    "Snapshots",
    "StateError",
    "StopSignal",
    "TrainConfig",
    "TrainState",
    "adapt",
    "adapted_bundle",
    "check_precision",
    "fresh_heads",
    "train",
]
