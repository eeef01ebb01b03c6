"""StyleCLIP's global directions: which channels of style space follow a change of text, and how far.

Source: StyleCLIP (arXiv 2103.17249) section 6; orpatashnik/StyleCLIP global_directions (GetDt, GetBoundary,
Inference.py). Selection by number of channels as in Multi2One (arXiv 2302.13331): a number means the same for
every dictionary, a threshold does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..edits import STYLE
from ..features import ClipEncoder
from ..features.prompts import templates_for
from ..tensors import check_finite, check_shape
from .dictionary import Channels, Dictionary, channel_title
from .direction import Direction
from .style_layout import check_styles

CHANNELS = 50  # where nothing else is asked for: colours need 10 to 20, large shapes 100 to 200
AUTO_BETAS = tuple(float(beta) for beta in np.arange(0.1, 0.3, 0.01))
AUTO_CHANNELS = 20  # that the automatic threshold leaves more of, for faces; 100 for anything else
LEAST_CHANGE = 1e-4  # of a text's unit feature: less is rounding noise
SHOWN = 8  # channels that a summary names


@dataclass(frozen=True)
class Selection:
    """Which channels a direction takes.

    Exactly one of `channels`, `beta` and `auto_channels` decides; where none is given it is 50 channels.
    """

    channels: int | None = None  # that many, those of the highest relevance
    beta: float | None = None  # those whose relevance, a cosine without its sign, is at least this
    auto_channels: int | None = None  # the highest threshold of 0.10 to 0.29 that leaves more than so many
    layers: tuple[int, ...] | None = None  # styles that may change; None: all
    per_layer: int | None = None  # at most so many of each style; None: any number

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
        given = [name for name in ("channels", "beta", "auto_channels") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give only one of channels, beta and auto_channels, got {' and '.join(given)}")
        if not given:
            object.__setattr__(self, "channels", CHANNELS)
        for name in ("channels", "per_layer"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.auto_channels is not None and self.auto_channels < 0:
            raise ValueError(f"auto_channels must be 0 or more, got {self.auto_channels}")
        if self.beta is not None and not 0 <= self.beta:
            raise ValueError(f"beta (usually 0.08 to 0.3) must be 0 or more, got {self.beta}")

    def check(self, count: int) -> None:
        """Refuse layers that a generator of `count` styles lacks; raises ValueError."""
        if self.layers is not None:
            check_styles(self.layers, count)


@dataclass(frozen=True)
class Selected:
    """What a selection took.

    Args:
        amplitudes: [K] float64, the relevance of what was taken divided by the largest, else 0.
        channels: number taken.
        beta: threshold that takes the same, the smallest relevance taken; of a threshold given, that one.
    """

    amplitudes: Tensor
    channels: int
    beta: float


@dataclass(frozen=True)
class GlobalDirection:
    """A direction that was read from a dictionary, and how.

    Args:
        direction: strength 1 moves the strongest channel by one sigma.
        channels: number of channels it changes.
        beta: threshold that gives the same channels.
        strongest: (style, channel, relevance) of up to 8 channels, in order.
    """

    direction: Direction
    channels: int
    beta: float
    strongest: tuple[tuple[int, int, float], ...]

    def summary(self) -> str:
        """Say in one line what was taken."""
        first = "; ".join(f"{channel_title(*place)} {value:+.3f}" for *place, value in self.strongest[:3])
        return f"{self.channels} channels, threshold {self.beta:.3f}; strongest: {first}"


@torch.no_grad()
def text_feature(clip: ClipEncoder, text: str, templates: Sequence[str] | None = None) -> Tensor:
    """Unit feature [D] of a text: the mean of its unit features in all templates.

    Args:
        clip: reads texts.
        text: such as "a smiling face".
        templates: sentences with {} for the text; None: CLIP's 79, as far as the model knows their words.

    Raises:
        ValueError: an empty text, or words that the model does not know.
        EncoderError: it reads no text.
    """
    if not text.strip():
        raise ValueError('the text is empty; say what the pictures show, such as "face"')
    clip.check_text(text)
    sentences = [one.format(text) for one in (templates_for(clip) if templates is None else templates)]
    return F.normalize(clip.encode_text(sentences).mean(dim=0), dim=0).cpu()


def text_change(
    clip: ClipEncoder, text: str, neutral_text: str, templates: Sequence[str] | None = None
) -> Tensor:
    """Unit change [D] from a neutral text to another.

    Args:
        clip: reads texts.
        text: what the pictures are to show.
        neutral_text: what they show now, in the same words but for the one thing.
        templates: see `text_feature`.

    Raises:
        ValueError: both texts mean the same to the model; see also `text_feature`.
    """
    change = text_feature(clip, text, templates) - text_feature(clip, neutral_text, templates)
    if float(change.norm()) < LEAST_CHANGE:
        raise ValueError(
            f"the CLIP model {clip.name} reads the same in text {text!r} and neutral_text {neutral_text!r}; "
            "let them differ in the one thing to be changed"
        )
    return F.normalize(change, dim=0)


def relevance(dictionary: Dictionary, change: Tensor) -> Tensor:
    """Cosine [K] float64 of every channel's row with a unit change [D] of CLIP's feature.

    Raises:
        ValueError: the change is of another width than the rows, as of another CLIP model, or not finite.
    """
    check_shape(change, "the change of the text's feature", (dictionary.rows.shape[1],))
    check_finite(change, "the change of the text's feature")
    return dictionary.rows.double() @ change.detach().cpu().double()


def select(channels: Channels, values: Tensor, selection: Selection | None = None) -> Selected:
    """Choose channels by their relevance.

    Args:
        channels: that `values` belong to, such as a dictionary's.
        values: [K] relevance; its sign says which way a channel moves.
        selection: how; default the 50 channels of the highest relevance.

    Raises:
        ValueError: layers that do not exist, a threshold that no channel reaches, or values that are all 0.
    """
    selection = selection or Selection()
    check_shape(values, "the relevance", (len(channels.styles),))
    check_finite(values, "the relevance")
    size = values.double().abs()
    allowed = _allowed(channels, size, selection)
    if selection.channels is not None:
        ranked = torch.where(allowed, size, -1.0).sort(descending=True, stable=True).indices
        taken = torch.zeros_like(allowed)
        taken[ranked[: selection.channels]] = True
        taken &= allowed & (size > 0)
        beta = float(size[taken].min()) if bool(taken.any()) else 0.0
    else:
        beta = _threshold(size[allowed], selection)
        taken = allowed & (size >= beta) & (size > 0)
    if not bool(taken.any()):
        raise ValueError(_nothing(size[allowed], selection, beta))
    amplitudes = torch.where(taken, values.double(), 0.0) / size[taken].max()
    return Selected(amplitudes, int(taken.sum()), beta)


def _threshold(size: Tensor, selection: Selection) -> float:
    if selection.beta is not None:
        return selection.beta
    return _auto_beta(size, selection.auto_channels or 0)


def _allowed(channels: Channels, size: Tensor, selection: Selection) -> Tensor:
    """Which rows [K] may be taken: those of the layers, and of each layer the most relevant."""
    allowed = torch.ones(len(size), dtype=torch.bool)
    if selection.layers is not None:
        chosen = check_styles(selection.layers, len(channels.statistics.widths))
        allowed = torch.isin(channels.styles, torch.tensor(chosen))
    if selection.per_layer is not None:
        for style in channels.styles.unique().tolist():
            own = (channels.styles == style).nonzero().flatten()
            ranked = own[size[own].sort(descending=True, stable=True).indices]
            allowed[ranked[selection.per_layer :]] = False
    return allowed


def _nothing(size: Tensor, selection: Selection, beta: float) -> str:
    """Say why a selection took no channel."""
    if not len(size):
        layers = ", ".join(map(str, selection.layers or ()))
        return f"nothing was measured of the layers {layers}; choose others, or measure them"
    highest = float(size.max())
    if highest == 0:
        return "no channel follows this change at all; say it in other words"
    return (
        f"no channel reaches the threshold beta {beta:g}: the highest relevance is {highest:.3f}; lower beta "
        f"below that, or take a number of channels instead"
    )


def auto_beta(values: Tensor, more_than: int = AUTO_CHANNELS) -> float:
    """StyleCLIP's automatic threshold: the highest of 0.10, 0.11, ..., 0.29 that leaves enough channels.

    Args:
        values: [K] relevance.
        more_than: channels that must be exceeded; StyleCLIP has 20 for faces and 100 for all else.

    Returns:
        0.1 where no threshold leaves enough.
    """
    return _auto_beta(values.double().abs(), more_than)


def _auto_beta(size: Tensor, more_than: int) -> float:
    enough = [beta for beta in AUTO_BETAS if int((size >= beta).sum()) > more_than]
    return max(enough, default=AUTO_BETAS[0])


def channel_vectors(channels: Channels, amplitudes: Tensor) -> dict[int, Tensor]:
    """Vectors by style, float64: every channel's amplitude times its sigma.

    Args:
        channels: with the sigmas, such as a dictionary's.
        amplitudes: [K] in sigmas, one per channel; styles of which all are 0 get no vector.
    """
    check_shape(amplitudes, "the amplitudes", (len(channels.styles),))
    vectors = {}
    for style in channels.styles[amplitudes != 0].unique().tolist():
        own = channels.styles == style
        vector = torch.zeros(channels.statistics.widths[style], dtype=torch.float64)
        vector[channels.channels[own]] = amplitudes[own].double()
        vectors[style] = vector * channels.statistics.sigma[style].double()
    return vectors


def style_direction(
    channels: Channels, amplitudes: Tensor, texts: Mapping[str, str] | None = None
) -> Direction:
    """Make the direction that changes channels by amplitudes in sigmas.

    Args:
        channels: that are meant, with their sigmas.
        amplitudes: [K] in sigmas at strength 1, one per channel.
        texts: of the direction, such as name, method, text, neutral_text, clip.

    Raises:
        ValueError: nothing is changed.
    """
    statistics = channels.statistics
    vectors = {style: vector.float() for style, vector in channel_vectors(channels, amplitudes).items()}
    own = {
        "measured": statistics.measured,
        "fingerprint": statistics.fingerprint,
        "family": statistics.family,
        **(texts or {}),
    }
    return Direction(
        STYLE, vectors, statistics.widths,
        sigma={style: statistics.sigma[style].float() for style in vectors},
        mean={style: statistics.mean[style].float() for style in vectors},
        **own,
    )  # fmt: skip


def direction_of(
    dictionary: Dictionary, amplitudes: Tensor, texts: Mapping[str, str] | None = None
) -> Direction:
    """Make a direction of a dictionary's channels that says what it was read from; see `style_direction`."""
    own = {"clip": dictionary.clip, "dictionary": dictionary.digest, **(texts or {})}
    return style_direction(dictionary, amplitudes, own)


def global_direction(
    dictionary: Dictionary,
    change: Tensor,
    selection: Selection | None = None,
    texts: Mapping[str, str] | None = None,
) -> GlobalDirection:
    """Read the direction of a change of CLIP's feature from a dictionary.

    Args:
        dictionary: of the generator that is to be edited, or of its source.
        change: [D] unit, such as from `text_change`.
        selection: which channels; default the 50 of the highest relevance.
        texts: see `direction_of`.

    Returns:
        The direction: relevance, divided by the largest, times sigma; and what was taken.

    Raises:
        ValueError: see `relevance` and `select`.
    """
    values = relevance(dictionary, change)
    taken = select(dictionary, values, selection)
    ranked = taken.amplitudes.abs().sort(descending=True, stable=True).indices[: min(SHOWN, taken.channels)]
    strongest = tuple(
        (int(dictionary.styles[row]), int(dictionary.channels[row]), float(values[row])) for row in ranked
    )
    direction = direction_of(dictionary, taken.amplitudes, {"method": "global", **(texts or {})})
    return GlobalDirection(direction, taken.channels, taken.beta, strongest)


def find_direction(
    dictionary: Dictionary,
    clip: ClipEncoder,
    text: str,
    neutral_text: str,
    selection: Selection | None = None,
    name: str = "",
) -> GlobalDirection:
    """Find the global direction from one text to another.

    Args:
        dictionary: measured with the same CLIP model.
        clip: reads the texts.
        text: what the pictures are to show, such as "a smiling face".
        neutral_text: what they show now, such as "a face".
        selection: which channels; default the 50 of the highest relevance.
        name: of the direction; "": the text.

    Raises:
        ValueError: another CLIP model than the dictionary's, or see `text_change` and `select`.
    """
    dictionary.check_clip(clip)
    change = text_change(clip, text, neutral_text)
    texts = {"name": name or text, "text": text, "neutral_text": neutral_text, "clip": clip.name}
    return global_direction(dictionary, change, selection, texts)
