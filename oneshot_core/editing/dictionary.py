"""Dictionaries: for every channel of style space, which way a picture moves in CLIP's space when it changes.

With one, any text becomes a direction by a product of a matrix and a vector. Source: StyleCLIP (arXiv
2103.17249) section 6; its file of rows is `fs3.npy`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..checkpoints import GeneratorBundle, related
from ..features import ClipEncoder
from ..fingerprints import encoder_fingerprint, fingerprint
from ..tensors import check_finite, check_shape
from ..texts import printable
from .statistics import StyleStatistics
from .style_layout import convolution_styles, style_title

UNIT_ERROR = 1e-2  # by which the length of a row may differ from 1: half precision rounds


class Channels(Protocol):
    """Channels of style space about which something was measured: those of a dictionary, or of gradients."""

    @property
    def styles(self) -> Tensor:
        """[K] int64, the style of each, in the order of `Generator.affine`."""

    @property
    def channels(self) -> Tensor:
        """[K] int64, its channel in that style."""

    @property
    def statistics(self) -> StyleStatistics:
        """Of the styles; one sigma is the unit of strengths."""


@dataclass(frozen=True)
class Dictionary:
    """Unit rows, one per measured channel.

    Args:
        rows: [K, D], each of length 1, or 0 where nothing could be seen of a channel.
        styles: [K] int64, the style of each row, in the order of `Generator.affine`.
        channels: [K] int64, its channel in that style.
        statistics: of the styles; one sigma is the unit of strengths.
        rho: [K] how well the samples agree, the length of their mean unit change, 0 to 1; None: not known.
        effect: [K] mean length of the change of the unit feature per sigma; None: not known.
        clip: name of the CLIP model.
        clip_fingerprint: SHA-256 of its weights and preprocessing, "" when unknown.
        method: what made it, such as "finite differences".
        settings: JSON values of how it was made.
    """

    rows: Tensor
    styles: Tensor
    channels: Tensor
    statistics: StyleStatistics
    rho: Tensor | None = None
    effect: Tensor | None = None
    clip: str = ""
    clip_fingerprint: str = ""
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_shape(self.rows, "the rows of a dictionary", (None, None))
        if not len(self.rows):
            raise ValueError("a dictionary needs at least one row; choose more layers or channels")
        check_finite(self.rows, "the rows of a dictionary", "measure it again")
        for name in ("styles", "channels", "rho", "effect"):
            values = getattr(self, name)
            if values is not None:
                check_shape(values, f"the {name} of a dictionary", (len(self.rows),))
                check_finite(values, f"the {name} of a dictionary", "measure it again")
        self._check_places()
        lengths = self.rows.double().norm(dim=1)
        wrong = (lengths - 1).abs() > UNIT_ERROR
        if bool((wrong & (lengths > 0)).any()):
            raise ValueError(
                "the rows of a dictionary must have length 1, found one of length "
                f"{float(lengths[wrong][0]):.3g}; StyleCLIP's single_channel.npy is no dictionary, fs3.npy is"
            )

    def _check_places(self) -> None:
        widths = torch.tensor(self.statistics.widths)
        if self.styles.is_floating_point() or self.channels.is_floating_point():
            raise ValueError("styles and channels of a dictionary are whole numbers")
        inside = (self.styles >= 0) & (self.styles < len(widths))
        if not bool(inside.all()):
            raise ValueError(f"a row of the dictionary is of style {int(self.styles[~inside][0])}, unknown")
        if bool(((self.channels < 0) | (self.channels >= widths[self.styles])).any()):
            raise ValueError("a row of the dictionary is of a channel that its style does not have")
        places = self.styles * (int(widths.max()) + 1) + self.channels
        if len(places.unique()) != len(places):
            raise ValueError("a dictionary has two rows of one channel; make it again")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every style of the generators that it fits."""
        return self.statistics.widths

    @property
    def digest(self) -> str:
        """SHA-256 in hex over everything that a direction read from it depends on."""
        tensors = {"rows": self.rows, "styles": self.styles, "channels": self.channels}
        numbers = fingerprint(tensors), self.statistics.digest, self.clip_fingerprint
        return hashlib.sha256("".join(numbers).encode()).hexdigest()

    def summary(self) -> str:
        """Say in one line what it is and where it came from."""
        layers = len(self.styles.unique())
        where = f", measured on {printable(self.statistics.measured)}" if self.statistics.measured else ""
        how = f" by {self.method}" if self.method else ""
        clip = f", CLIP {printable(self.clip)}" if self.clip else ""
        return f"{len(self.rows):,} channels of {layers} layers{how}{where}{clip}"

    def check_fits(self, bundle: GeneratorBundle) -> None:
        """Refuse a generator of another family or of other widths.

        Raises:
            ValueError: it says what both are.
        """
        if not related(bundle, self.statistics.family):
            raise ValueError(
                f"this dictionary was measured on {printable(self.statistics.measured) or 'a generator'}, "
                f"which is not of the family of {bundle.title}; use that generator, or one adapted from it, "
                "or measure a dictionary of this one"
            )
        self.statistics.check_fits(bundle, "this dictionary")

    def check_clip(self, clip: ClipEncoder) -> None:
        """Refuse a CLIP model with which it was not measured: its rows mean nothing to another.

        Raises:
            ValueError: it names both.
        """
        if self.clip_fingerprint and self.clip_fingerprint != encoder_fingerprint(clip):
            raise ValueError(
                f"this dictionary was measured with {printable(self.clip) or 'another CLIP model'}, and "
                f"{clip.name} is another or is fed in another way; use that one, or measure again"
            )


def all_rows(widths: Sequence[int], styles: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """Style [K] and channel [K] of every row, in StyleCLIP's order: styles from coarse to fine.

    Args:
        widths: channels of every style.
        styles: which; None: those of all convolutions, as in StyleCLIP.
    """
    chosen = convolution_styles(len(widths)) if styles is None else styles
    parts = [torch.full((widths[style],), style) for style in chosen]
    return torch.cat(parts), torch.cat([torch.arange(widths[style]) for style in chosen])


def channel_title(style: int, channel: int) -> str:
    """What messages call a channel."""
    return f"channel {channel} of {style_title(style)}"
