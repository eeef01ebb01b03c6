"""Text directions by gradients: one backward pass per sample finds the channels that a text asks for.

The gradients of some samples are averaged (`style_gradients`), the channels that the samples agree on are
taken, each by its mean effect. Samples are doubled until two halves of them rank the channels alike.

Source: the sign rule of StyleMC (arXiv 2112.08493), made smooth; whitening, selection and the test by halves
are this project's (editing.md 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import GeneratorBundle
from ..features import ClipEncoder
from ..ranges import check_number
from ..tensors import check_weights, seeded
from .direction import Direction
from .finite_differences import MAX_IMAGES
from .global_directions import Selection, select, style_direction, text_change
from .statistics import Progress, StyleStatistics, style_statistics
from .style_gradients import (
    StyleGradients,
    StyleView,
    counted,
    measured_gradients,
    rank_correlation,
)

METHOD = "gradient"
# What decides which channels are taken; how far each moves is always its mean effect.
SCORES: Mapping[str, Callable[[StyleGradients], Tensor]] = {
    "consistency": lambda found: found.consistency,
    "effect": lambda found: found.effect,
    "consistency x effect": lambda found: found.consistency.abs() * found.effect,
    "cosine": lambda found: found.cosine,
}


@dataclass(frozen=True)
class GradientConfig:
    """Settings of a text direction by gradients.

    A first look at the samples gives a direction; with `reach` the gradients that count are then taken
    half-way along it, where what comes and goes, such as a beard, is about to come in more of the samples.
    """

    samples: int = 64  # of each first look, not more than `most_samples`; doubled until two halves agree
    most_samples: int = 256  # that are looked at, whether they agree by then or not
    agreement: float = 0.9  # rank correlation of two halves that is enough
    score: str = "consistency x effect"  # one of `SCORES`, by which channels are ranked
    selection: Selection = field(default_factory=Selection)  # how many; a threshold is one of the score
    probes: int = 0  # random directions per sample that measure lengths; the score "cosine" needs some
    reach: float = 4.0  # strength, in sigmas of the strongest channel, whose half is meant; 0: no second look
    seed: int = 0  # of the first sample; the others follow
    batch_size: int = 8  # samples at once; needs memory

    def __post_init__(self) -> None:
        if self.samples < 2 or not 2 <= self.most_samples <= MAX_IMAGES:
            raise ValueError(
                f"samples must be at least 2 and most_samples 2 to {MAX_IMAGES}, got {self.samples} and "
                f"{self.most_samples}"
            )
        check_number(self.agreement, "agreement", low=-1, high=1)
        check_number(self.reach, "reach", low=0, high=100)
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {self.score!r}")
        if self.score == "cosine" and self.probes < 1:
            raise ValueError("the score cosine needs probes, 16 for a fifth of error; got 0")
        if self.probes < 0 or self.batch_size < 1:
            raise ValueError(
                f"probes must be 0 or more and batch_size at least 1, got {self.probes} and {self.batch_size}"
            )

    @property
    def first_samples(self) -> int:
        """Samples of each first look."""
        return min(self.samples, self.most_samples)

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class TextDirection:
    """A direction from one text to another, and how it was found.

    Args:
        direction: strength 1 moves the strongest channel by one sigma.
        method: what found it.
        samples: faces that it was measured on.
        forwards: pictures that were drawn and read.
        backwards: of them taken back, once per sample and direction of CLIP's space.
        agreement: rank correlation of the channels between two halves of the samples; None: not measured.
        notes: sentences for the user.
    """

    direction: Direction
    method: str
    samples: int
    forwards: int
    backwards: int
    agreement: float | None = None
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Say in one line what was found and how."""
        looked = f"; {self.samples} samples" if self.samples else ""
        agreed = "" if self.agreement is None else f", whose halves agree to {self.agreement:.2f}"
        return f"{self.direction.summary()}{looked}{agreed}"


@dataclass(frozen=True)
class FoundGradients:
    """Gradients along one change of CLIP's feature, and what they cost.

    Args:
        gradients: of all samples.
        agreement: of two halves of them.
        forwards: pictures drawn.
        backwards: passes back.
    """

    gradients: StyleGradients
    agreement: float
    forwards: int
    backwards: int


def text_direction(
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    text: str,
    neutral_text: str,
    config: GradientConfig | None = None,
    statistics: StyleStatistics | None = None,
    *,
    name: str = "",
    progress: Progress | None = None,
) -> TextDirection:
    """Find the direction of style space from one text to another, without a dictionary.

    Args:
        bundle: the generator, adapted or not.
        clip: reads pictures and texts, on the generator's device.
        text: what the pictures are to show, such as "a smiling face".
        neutral_text: what they show now, in the same words but for the one thing.
        config: settings; default `GradientConfig()`.
        statistics: of the generator's styles; None: measured from 100,000 codes at psi 0.7.
        name: of the direction; "": the text.
        progress: told after each batch how many samples of how many are done; the second number grows where
            samples are doubled. One that raises stops.

    Raises:
        ValueError: texts that CLIP cannot read or that mean the same to it, settings or statistics that do
            not fit, weights that are not finite, or a step that does not fit main memory.
        EncoderError: the CLIP model reads no text.
        FloatingPointError: a picture is not finite.
    """
    config = config or GradientConfig()
    view = checked_view(bundle, clip, config.batch_size, statistics)
    with torch.inference_mode(False):
        change = text_change(clip, text, neutral_text)
        found = find_gradients(view, change, config, progress)
        taken = chosen_channels(found.gradients, config.score, config.selection)
        texts = {"name": name or text, "text": text, "neutral_text": neutral_text, "method": METHOD}
        direction = style_direction(found.gradients, taken, {**texts, "clip": clip.name})
    return TextDirection(
        direction, METHOD, len(found.gradients.values), found.forwards, found.backwards, found.agreement,
        (*clip.text_notes(text), *agreement_notes(found, config)),
    )  # fmt: skip


def checked_view(
    bundle: GeneratorBundle, clip: ClipEncoder, batch_size: int, statistics: StyleStatistics | None
) -> StyleView:
    """Refuse what gradients cannot be taken of; see `text_direction`."""
    bundle.check_finite()
    check_weights(clip, f"the CLIP model {clip.name}", "load its file again, or use another")
    statistics = statistics or style_statistics(bundle)
    statistics.check_fits(bundle)
    view = StyleView(bundle, clip, statistics)
    view.check_memory(batch_size)
    return view


def find_gradients(
    view: StyleView, change: Tensor, config: GradientConfig, progress: Progress | None = None
) -> FoundGradients:
    """Take gradients of samples until two halves of them rank the channels alike.

    Args:
        view: generator, CLIP and statistics.
        change: [D] unit change of CLIP's feature.
        config: settings.
        progress: see `text_direction`.
    """
    if not config.reach:
        return _looked(view, change, config, None, 0, progress)
    first = replace(config, reach=0.0, most_samples=config.first_samples, probes=0)
    if config.score == "cosine":
        first = replace(first, score="effect")
    begun = _looked(view, change, first, None, 0, progress)
    shift = chosen_channels(begun.gradients, first.score, config.selection) * config.reach / 2
    found = _looked(view, change, config, shift, config.first_samples, progress)
    return replace(
        found, forwards=begun.forwards + found.forwards, backwards=begun.backwards + found.backwards
    )


def _looked(
    view: StyleView,
    change: Tensor,
    config: GradientConfig,
    shift: Tensor | None,
    before: int,
    progress: Progress | None,
) -> FoundGradients:
    """Gradients at samples, each moved by `shift` [K]; `before` samples were looked at already."""
    draws = torch.randn(config.probes, len(change), generator=seeded(config.seed, 0, "gradient.probes"))
    directions = torch.cat([change[None], draws.to(change)])
    parts, done, total = list[Tensor](), 0, config.first_samples
    while True:
        seeds = range(config.seed + done, config.seed + total)
        told = counted(progress, before + done, before + total)
        parts.append(measured_gradients(view, directions, seeds, config.batch_size, shift=shift, told=told))
        values = torch.cat(parts, dim=1)
        lengths = values[1:].square().mean(dim=0).sqrt() if config.probes else None
        found = StyleGradients(values[0], *view.places, view.statistics, lengths)
        score = SCORES[config.score]
        agreement = rank_correlation(score(found.half(0)), score(found.half(1)))
        done = total
        if agreement >= config.agreement or done == config.most_samples:
            return FoundGradients(found, agreement, done, done * len(directions))
        total = min(2 * done, config.most_samples)


def agreement_notes(found: FoundGradients, config: GradientConfig) -> tuple[str, ...]:
    """Say where the samples do not agree, and what to do."""
    if found.agreement >= config.agreement:
        return ()
    count = len(found.gradients.values)
    return (
        f"two halves of {count} samples rank the channels with a correlation of {found.agreement:.2f}, below "
        f"{config.agreement:g}: the direction may change with other samples; allow more of them, or say in "
        "other words what is to change",
    )


def chosen_channels(found: StyleGradients, score: str, selection: Selection | None = None) -> Tensor:
    """Amplitudes [K] float64 in sigmas of the channels that are taken: mean effects, the largest 1.

    Args:
        found: the gradients.
        score: one of `SCORES`, by which channels are ranked.
        selection: how many, in which layers.

    Raises:
        ValueError: see `global_directions.select`.
    """
    taken = select(found, SCORES[score](found), selection).amplitudes != 0
    amplitudes = torch.where(taken, found.effect, 0.0)
    return amplitudes / amplitudes.abs().max()


def shortlist(found: StyleGradients, count: int, selection: Selection | None = None) -> list[tuple[int, int]]:
    """(style, channel) of the channels whose consistency times effect is highest.

    Args:
        found: the gradients.
        count: how many.
        selection: of which the layers count.
    """
    score = SCORES["consistency x effect"](found)
    layers = None if selection is None else selection.layers
    taken = select(found, score, Selection(channels=count, layers=layers)).amplitudes != 0
    return list(zip(found.styles[taken].tolist(), found.channels[taken].tolist(), strict=True))
