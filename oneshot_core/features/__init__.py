"""The two encoders that a method compares pictures with: CLIP and a perceptual net."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import torch
from torch import nn

from ..tensors import check_weights, gradients
from .clip import ClipEncoder, assumed_activation, build_clip, load_clip
from .download import BytesProgress
from .perceptual import Perceptual, SmallConfig, load_perceptual, read_perceptual, save_perceptual, small_net
from .preprocess import ClipPreprocess
from .tokenizers import WordTokenizer
from .weights import EncoderError

__all__ = [
    "BytesProgress",
    "ClipEncoder",
    "ClipPreprocess",
    "EncoderError",
    "Encoders",
    "EncodersOnDemand",
    "Perceptual",
    "SmallConfig",
    "WordTokenizer",
    "assumed_activation",
    "build_clip",
    "check_encoders",
    "load_clip",
    "load_perceptual",
    "read_perceptual",
    "save_perceptual",
    "small_net",
]

_Loaded = TypeVar("_Loaded")
_Module = TypeVar("_Module", bound=nn.Module)


WeightedClips: TypeAlias = "tuple[tuple[ClipEncoder, float], ...]"  # models with their shares of a CLIP loss


@dataclass(frozen=True)
class Encoders:
    """What a search, an adaptation or an evaluation sees pictures with; all frozen, on one device.

    Args:
        clips: CLIP models with their weights: a CLIP loss is the weighted sum over them. At least one; a
            weight of 0 is for one that only a term which names it uses.
        perceptual: the perceptual net.

    Raises:
        ValueError: no CLIP model, a weight that is negative or not finite, or none above 0.
    """

    clips: WeightedClips
    perceptual: Perceptual

    def __post_init__(self) -> None:
        if not self.clips:
            raise ValueError("encoders need at least one CLIP model")
        for _, weight in self.clips:
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of a CLIP model must be 0 or positive, got {weight}")
        if not any(weight for _, weight in self.clips):
            raise ValueError("every CLIP model has the weight 0; give one of them a weight")

    @classmethod
    def of(cls, clip: ClipEncoder, perceptual: Perceptual) -> Encoders:
        """Encoders with one CLIP model."""
        return cls(((clip, 1.0),), perceptual)

    @property
    def clip(self) -> ClipEncoder:
        """The first CLIP model; searches and edits use its size and its texts."""
        return self.clips[0][0]

    def to(self, device: torch.device | str) -> Encoders:
        """Copy all to a device; the originals stay where they are."""
        clips = tuple((_copied(clip, device), weight) for clip, weight in self.clips)
        return Encoders(clips, _copied(self.perceptual, device))


def clips_for(encoders: Encoders | EncodersOnDemand, dtype: torch.dtype | None) -> tuple[ClipEncoder, ...]:
    """The CLIP models for forward passes under autocast to a type; None: for those without."""
    return tuple(
        clip.lowered(dtype) if dtype is not None and isinstance(clip, ClipEncoder) else clip
        for clip, _ in encoders.clips
    )


def check_encoders(encoders: Encoders | EncodersOnDemand) -> None:
    """Refuse encoders with weights that are NaN or infinite; raises ValueError that names the first."""
    advice = "load its file again, or use another"
    networks = [("CLIP model", clip) for clip, _ in encoders.clips]
    for kind, network in [*networks, ("perceptual net", encoders.perceptual)]:
        check_weights(network, f"the {kind} {getattr(network, 'name', '')}".rstrip(), advice)


class EncodersOnDemand:
    """`Encoders` of which each is loaded when it is first asked for; serves wherever `Encoders` do.

    Safe to use from several threads: one loads, the others wait. A load that failed or was stopped is tried
    again at the next use.

    Attributes:
        clip_name: known without loading.
        perceptual_name: known without loading.
    """

    def __init__(
        self,
        clip: Callable[[], ClipEncoder],
        perceptual: Callable[[], Perceptual],
        clip_name: str,
        perceptual_name: str,
        more_clips: Sequence[tuple[Callable[[], ClipEncoder], float]] = (),
    ) -> None:
        """Keep how to load.

        Args:
            clip: called once, at the first use.
            perceptual: the same.
            clip_name: for messages and records.
            perceptual_name: the same.
            more_clips: further CLIP models with their weights; the first one's is 1.
        """
        self.clip_name = clip_name
        self.perceptual_name = perceptual_name
        self._clips = [(_Once(load), weight) for load, weight in ((clip, 1.0), *more_clips)]
        self._perceptual = _Once(perceptual)

    @property
    def clip(self) -> ClipEncoder:
        """CLIP, the same object at every use.

        Raises:
            EncoderError: weights are missing or do not fit.
        """
        return self._clips[0][0].get()

    @property
    def clips(self) -> WeightedClips:
        """All CLIP models with their weights."""
        return tuple((once.get(), weight) for once, weight in self._clips)

    @property
    def perceptual(self) -> Perceptual:
        """The perceptual net, the same object at every use.

        Raises:
            EncoderError: weights are missing or do not fit.
        """
        return self._perceptual.get()

    def load(self) -> Encoders:
        """Load all now; raises EncoderError when weights are missing or do not fit."""
        return Encoders(self.clips, self.perceptual)

    def to(self, device: torch.device | str) -> EncodersOnDemand:
        """Return those whose encoders are copied to a device when they are first asked for."""
        (first, _), *others = self._clips

        def there(once: _Once[ClipEncoder]) -> Callable[[], ClipEncoder]:
            return lambda: _copied(once.get(), device)

        return EncodersOnDemand(
            there(first),
            lambda: _copied(self.perceptual, device),
            self.clip_name,
            self.perceptual_name,
            [(there(once), weight) for once, weight in others],
        )

    def __repr__(self) -> str:
        return f"EncodersOnDemand(clip={self.clip_name!r}, perceptual={self.perceptual_name!r})"


class _Once(Generic[_Loaded]):
    """A value that is made at its first use, by one thread."""

    def __init__(self, make: Callable[[], _Loaded]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._values: list[_Loaded] = []

    def get(self) -> _Loaded:
        with self._lock:
            if not self._values:
                self._values.append(self._make())
            return self._values[0]


def _copied(module: _Module, device: torch.device | str) -> _Module:
    """Copy a module to a device, outside inference mode: such copies can take part in training."""
    with gradients():
        return copy.deepcopy(module).to(device)
