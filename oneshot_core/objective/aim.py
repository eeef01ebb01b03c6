"""What an adaptation aims at: target pictures, reference latent, texts; and their features, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..features import Encoders
from ..latents import Latent
from ..tensors import Images, Latents, owned


@dataclass(frozen=True)
class Aim:
    """What a generator is adapted to. A method needs some of it; `Preset.needs` says what.

    Args:
        targets: [M, 3, S, S] in [-1, 1], of the generator's size; None for methods that aim at texts alone.
        reference: the latent whose picture is the first target's counterpart: [1, W] or [1, L, W], or a
            `Latent` with such values.
        source_text: what the source generator draws, such as "photo".
        target_text: what the adapted generator is to draw, such as "sketch".
    """

    targets: Images | None = None
    reference: Latents | Latent | None = None
    source_text: str = ""
    target_text: str = ""

    def to(self, like: Tensor) -> Aim:
        """Copy the tensors to the device and dtype of another one."""

        def moved(value: Tensor | None) -> Tensor | None:
            # What a ComfyUI node got is an inference tensor, which autograd could not save.
            return None if value is None else owned(value).to(like)

        return Aim(moved(self.targets), moved(self.codes), self.source_text, self.target_text)

    @property
    def codes(self) -> Latents | None:
        """Values of the reference."""
        return self.reference.values if isinstance(self.reference, Latent) else self.reference

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are given, by name."""
        # Names of inputs of a run: part of its settings, so they stay as they are.
        named = {"target": self.targets, "reference": self.codes}
        return {name: value for name, value in named.items() if value is not None}

    def texts(self) -> Mapping[str, str]:
        """The texts that are given, by name."""
        named = {"source_text": self.source_text, "target_text": self.target_text}
        return {name: text for name, text in named.items() if text}


class AimFeatures:
    """An aim as the encoders see it; each thing is computed once, on first use, without gradient.

    Args:
        aim: on the device of the work.
        encoders: CLIP models and perceptual net.
    """

    def __init__(self, aim: Aim, encoders: Encoders) -> None:
        # The target is never augmented and never changes, so its features do not either.
        self.aim, self.encoders = aim, encoders

    @property
    def targets(self) -> Images:
        """[M, 3, S, S]; raises ValueError where the aim has none."""
        if self.aim.targets is None:
            raise ValueError("a term compares with a target picture, but none was given")
        return self.aim.targets

    @cached_property
    def clip(self) -> tuple[Tensor, ...]:
        """Unit CLIP features [M, D] of the targets, per CLIP model."""
        with torch.no_grad():
            # Outside the run's autocast: made once, so full precision costs nothing.
            return tuple(encoder.encode_images(self.targets) for encoder, _ in self.encoders.clips)

    @cached_property
    def perceptual(self) -> Any:
        """Feature maps of the perceptual net for the first target."""
        with torch.no_grad():
            # The reference is the counterpart of the first target only.
            return self.encoders.perceptual.features(self.targets[:1])
