"""What an adaptation aims at: target pictures, reference latents, texts; and their features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..draws import Draws
from ..features import Encoders
from ..features.prompts import part_directions, prompted, text_direction
from ..latents import Latent
from ..ranges import check_number
from ..resampling import as_pictures, reduced_picture
from ..tensors import Images, Latents, owned


@dataclass(frozen=True)
class Aim:
    """What a generator is adapted to. A method needs some of it; `Preset.needs` says what.

    Args:
        targets: [M, 3, S, S] in [-1, 1], of the generator's size; None for methods that aim at texts alone.
        reference: latents whose pictures are the counterparts of the first targets, one each: [R, W] or
            [R, L, W] with R from 1 to M, or a `Latent` with such values.
        source_text: what the source generator draws, such as "photo".
        target_texts: what the adapted generator is to draw, such as "sketch"; several are mixed.
        target_weights: share of each target, positive; empty: all the same.
        text_weights: share of each target text, positive; empty: all the same.
        directions: [D] per CLIP model, where the wanted change is known as a direction of its feature space;
            it then takes the place of what texts and pictures say.

    Raises:
        ValueError: weights that are not as many as what they weigh, or not positive.
    """

    targets: Images | None = None
    reference: Latents | Latent | None = None
    source_text: str = ""
    target_texts: tuple[str, ...] = ()
    target_weights: tuple[float, ...] = ()
    text_weights: tuple[float, ...] = ()
    directions: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        pictures = 0 if self.targets is None else len(self.targets)
        for what, weights, count in (
            ("target", self.target_weights, pictures),
            ("text", self.text_weights, len(self.target_texts)),
        ):
            if weights and len(weights) != count:
                raise ValueError(
                    f"{len(weights)} {what} weights were given for {count} {what}s; give one each, or none"
                )
            for weight in weights:
                check_number(weight, f"a {what} weight", above=0)

    def to(self, like: Tensor) -> Aim:
        """Copy the tensors to the device and dtype of another one."""

        def moved(value: Tensor | None) -> Tensor | None:
            # What a ComfyUI node got is an inference tensor, which autograd could not save.
            return None if value is None else owned(value).to(like)

        directions = tuple(owned(value).to(like) for value in self.directions)
        return replace(self, targets=moved(self.targets), reference=moved(self.codes), directions=directions)

    @property
    def codes(self) -> Latents | None:
        """Values of the reference."""
        if not isinstance(self.reference, Latent):
            return self.reference
        return self.reference.folded("an adaptation's reference").values

    @property
    def pairs(self) -> int:
        """How many targets have a counterpart."""
        return 0 if self.codes is None else len(self.codes)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are given, by name."""
        # Names of inputs of a run: part of its settings, so they stay as they are.
        named = {"target": self.targets, "reference": self.codes}
        named |= {f"direction.{index}": value for index, value in enumerate(self.directions)}
        return {name: value for name, value in named.items() if value is not None}

    def texts(self) -> Mapping[str, Any]:
        """Texts and weights that are given, by name, as JSON values."""
        named = {
            "source_text": self.source_text,
            "target_texts": list(self.target_texts),
            "target_weights": list(self.target_weights),
            "text_weights": list(self.text_weights),
        }
        return {name: value for name, value in named.items() if value}

    def share(self, place: int, of: int) -> float:
        """Share of a target among the first `of`."""
        weights = (self.target_weights or (1.0,) * of)[:of]
        return weights[place] / sum(weights)


class AimFeatures:
    """An aim as the encoders see it; each thing is computed once, on first use, without gradient.

    Args:
        aim: on the device of the work.
        encoders: CLIP models and perceptual net.
        source_pictures: draws pictures of the source generator, [N, 3, S, S] for a count N; None where
            nothing is compared with them.
    """

    def __init__(
        self, aim: Aim, encoders: Encoders, source_pictures: Callable[[int], Images] | None = None
    ) -> None:
        # Targets are never augmented and never change, so their features do not either.
        self.aim, self.encoders, self._source_pictures = aim, encoders, source_pictures
        self._known: dict[tuple[Any, ...], Any] = {}

    @property
    def targets(self) -> Images:
        """[M, 3, S, S]; raises ValueError where the aim has none."""
        if self.aim.targets is None:
            raise ValueError("a term compares with a target picture, but none was given")
        return self.aim.targets

    def _once(self, *key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._known:
            with torch.no_grad():
                # Outside the run's autocast: made once, so full precision costs nothing.
                self._known[key] = make()
        return self._known[key]

    @cached_property
    def clip(self) -> tuple[Tensor, ...]:
        """Unit CLIP features [M, D] of the targets, per CLIP model."""
        with torch.no_grad():
            return tuple(encoder.encode_images(self.targets) for encoder, _ in self.encoders.clips)

    def perceptual(self, place: int = 0, down: int = 1) -> Any:
        """Feature maps of the perceptual net for one target, made smaller by a factor before."""
        return self._once(
            "perceptual",
            place,
            down,
            make=lambda: self.encoders.perceptual.features(self.reduced(place, down)),
        )

    def reduced(self, place: int, down: int) -> Images:
        """One target [1, 3, S / down, S / down], made smaller as a file would be."""
        one = self.targets[place : place + 1]
        return (
            one if down == 1 else self._once("reduced", place, down, make=lambda: reduced_picture(one, down))
        )

    def texture(self, index: int) -> Tensor:
        """CLIP features of the targets before they are normalised, [M, D]."""
        encoder = self.encoders.clips[index][0]
        return self._once("texture", index, make=lambda: encoder.raw_images(self.targets))

    # Directions in CLIP's feature space ------------------------------------------------------------------

    def direction(
        self, index: int, pictures: bool = True, as_files: bool = False, sources: int = 16
    ) -> Tensor:
        """Unit direction [D] of the wanted change, for one CLIP model.

        Args:
            index: of the CLIP model.
            pictures: whether the targets count, and not the texts alone.
            as_files: the targets are seen as CLIP's own code sees files of 8 bits.
            sources: pictures of the source generator that stand for what is.

        Raises:
            ValueError: the aim says nothing about it.
        """
        if self.aim.directions:
            return self.aim.directions[index]
        return self._once(
            "direction",
            index,
            pictures,
            as_files,
            sources,
            make=lambda: self._direction(index, pictures, as_files, sources),
        )

    def _direction(self, index: int, pictures: bool, as_files: bool, sources: int) -> Tensor:
        parts: list[tuple[float, Tensor]] = []
        encoder = self.encoders.clips[index][0]
        for place, text in enumerate(self.aim.target_texts):
            weight = self.aim.text_weights[place] if self.aim.text_weights else 1.0
            parts.append((weight, text_direction(encoder, self.aim.source_text, text)))
        if pictures and self.aim.targets is not None:
            parts.append((1.0, self._picture_direction(index, as_files, sources)))
        if not parts:
            raise ValueError(
                "a term changes pictures along a direction, but no texts and no target were given"
            )
        if len(parts) == 1:
            return parts[0][1]
        return F.normalize(torch.stack([weight * part for weight, part in parts]).sum(dim=0), dim=0)

    def _picture_direction(self, index: int, as_files: bool, sources: int) -> Tensor:
        if self._source_pictures is None:
            raise ValueError("a term compares the target with source pictures, but there is no source here")
        encoder = self.encoders.clips[index][0]
        seen = encoder.encode_pictures(as_pictures(self.targets)) if as_files else self.clip[index]
        shares = torch.tensor([self.aim.share(place, len(seen)) for place in range(len(seen))]).to(seen)
        target = seen.mean(dim=0) if not self.aim.target_weights else (shares[:, None] * seen).sum(dim=0)
        return picture_direction(encoder.encode_images(self._source_pictures(sources)), target)

    def part_directions(self, index: int) -> Tensor:
        """Unit directions [P, D] of parts of what the texts name, for one CLIP model; of the first text."""
        encoder = self.encoders.clips[index][0]
        source, target = self.aim.source_text, self.aim.target_texts[0]
        return self._once("parts", index, make=lambda: part_directions(encoder, source, target))

    def text(self, index: int, template: str = "{}") -> Tensor:
        """Unit feature [D] of the target texts' mean, each in a template, for one CLIP model."""

        def mean() -> Tensor:
            encoder = self.encoders.clips[index][0]
            features = encoder.encode_text([template.format(one) for one in self.aim.target_texts])
            if len(features) == 1:
                return features[0]
            weights = torch.tensor(self.aim.text_weights or [1.0] * len(features)).to(features)
            return F.normalize((weights[:, None] * features).sum(dim=0), dim=0)

        return self._once("text", index, template, make=mean)

    def mean_texts(self, index: int) -> tuple[Tensor, Tensor]:
        """Unit means [D] of source and first target text over the templates, for one CLIP model."""
        encoder = self.encoders.clips[index][0]

        def means() -> tuple[Tensor, Tensor]:
            texts = self.aim.source_text, self.aim.target_texts[0]
            first, second = (F.normalize(prompted(encoder, text).mean(dim=0), dim=0) for text in texts)
            return first, second

        return self._once("mean texts", index, make=means)


def picture_direction(source: Tensor, target: Tensor) -> Tensor:
    """Unit direction [D] from the pictures of a generator to a target.

    Args:
        source: [N, D] unit features of its pictures.
        target: [D], mean of the unit features of the targets.

    Source: StyleGAN-NADA, style_img_dir: means of unit features, their difference normalised last.
    """
    return F.normalize(target - source.mean(dim=0), dim=0)


def drawn_place(
    aim: Aim, count: int, draws: Draws, step: int, purpose: str, shape: tuple[int, ...] = ()
) -> Tensor:
    """Draw which of the first `count` targets are meant, by their shares: int64 of the shape."""
    if count == 1:
        return torch.zeros(shape, dtype=torch.int64)
    if not aim.target_weights:
        return draws.integers(step, purpose, count, shape)
    ends = torch.tensor([aim.share(place, count) for place in range(count)]).cumsum(0)[:-1]
    return torch.bucketize(draws.uniform(step, purpose, shape), ends, right=True)
