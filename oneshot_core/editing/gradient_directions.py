"""Text directions by gradients: one backward pass per sample finds the channels that a text asks for.

The gradients of some samples are averaged (`style_gradients`), the channels that the samples agree on are
taken, each by its mean effect. Samples are doubled until two halves of them rank the channels alike.

Source: the sign rule of StyleMC (arXiv 2112.08493), made smooth; whitening, selection and the test by halves
are this project's (editing.md 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import GeneratorBundle
from ..features import ClipEncoder
from ..fingerprints import encoder_fingerprint, fingerprint, network_fingerprint
from ..kept_folders import KeptFolders, KeptWork, kept_work
from ..ranges import check_number
from ..saved_states import DamagedState, SavedState, StateFile, run_saved
from ..tensors import seeded
from .direction import Direction, check_told
from .finite_differences import MAX_IMAGES
from .global_directions import Selected, Selection, select, style_direction, text_change
from .statistics import Progress, StyleStatistics
from .style_gradients import (
    StyleGradients,
    StyleView,
    rank_correlation,
    take_gradients,
    view_of,
)

METHOD = "gradient"
STATE_FORMAT, STATE_VERSION = "oneshot-gradients", 1
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
        values = asdict(self)
        layers = self.selection.layers
        values["selection"]["layers"] = None if layers is None else list(layers)
        return values


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
        beta: threshold of the method's score that takes the same channels; None: not known.
    """

    direction: Direction
    method: str
    samples: int
    forwards: int
    backwards: int
    agreement: float | None = None
    notes: tuple[str, ...] = ()
    beta: float | None = None

    def details(self) -> str:
        """Say in one line how it was found."""
        told = [f"{self.samples} samples"] if self.samples else []
        if self.agreement is not None:
            told[-1] += f", whose halves agree to {self.agreement:.2f}"
        if self.beta is not None:
            told.append(f"threshold {self.beta:.3g} takes the same channels")
        return "; ".join(told)

    def summary(self) -> str:
        """Say in one line what was found and how."""
        return "; ".join(filter(None, [self.direction.summary(), self.details()]))


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


def text_direction(  # noqa: PLR0913 - what is asked of whom, and how to follow it
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    text: str,
    neutral_text: str,
    config: GradientConfig | None = None,
    statistics: StyleStatistics | None = None,
    *,
    name: str = "",
    progress: Progress | None = None,
    kept: KeptFolders | None = None,
    poll: Callable[[], None] | None = None,
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
        kept: where gradients are kept, so that a stopped work goes on with the same result bit for bit, and
            one that is done is not done again; None: nowhere.
        poll: called while another process is at the same work; may raise to give up.

    Raises:
        ValueError: texts that CLIP cannot read or that mean the same to it, settings or statistics that do
            not fit, weights that are not finite, or a step that does not fit main memory.
        EncoderError: the CLIP model reads no text.
        FloatingPointError: a picture is not finite.
        WriteError: `kept` cannot be written.
    """
    config = config or GradientConfig()
    check_told({"text": text, "neutral_text": neutral_text, "name": name})
    view = checked_view(bundle, clip, config, statistics)
    with torch.inference_mode(False):
        change = text_change(clip, text, neutral_text)
        found = kept_gradients(view, change, config, progress, kept, poll)
        selected = _selected(found.gradients, config.score, config.selection)
        taken = _mean_effects(found.gradients, selected)
        texts = {"name": name or text, "text": text, "neutral_text": neutral_text, "method": METHOD}
        direction = style_direction(found.gradients, taken, {**texts, "clip": clip.name})
    return TextDirection(
        direction, METHOD, len(found.gradients.values), found.forwards, found.backwards, found.agreement,
        (*clip.text_notes(text), *agreement_notes(found, config)), selected.beta,
    )  # fmt: skip


def checked_view(
    bundle: GeneratorBundle, clip: ClipEncoder, config: GradientConfig, statistics: StyleStatistics | None
) -> StyleView:
    """Refuse what gradients cannot be taken of; see `text_direction`."""
    config.selection.check(len(bundle.generator.style_widths))
    view = view_of(bundle, clip, statistics)
    view.check_memory(config.batch_size)
    layers = config.selection.layers
    if layers is not None and min(layers) >= view.count:
        raise ValueError(
            f"none of these layers is drawn at {view.max_px} px, which is all that {clip.name} reads; choose "
            "coarser ones"
        )
    return view


def gradient_settings(view: StyleView, change: Tensor, config: GradientConfig) -> dict[str, Any]:
    """Everything that determines gradients, as JSON values; see `settings_key`."""
    return {
        "method": METHOD,
        "generator": network_fingerprint(view.bundle.generator),
        "mean": fingerprint({"mean": view.bundle.mean_latent}),
        "clip": encoder_fingerprint(view.clip),
        "statistics": view.statistics.digest,
        "truncation": [view.statistics.psi, view.statistics.cutoff],
        "change": fingerprint({"change": change}),
        "config": config.describe(),
    }


def kept_gradients(
    view: StyleView,
    change: Tensor,
    config: GradientConfig,
    progress: Progress | None,
    kept: KeptFolders | None,
    poll: Callable[[], None] | None,
) -> FoundGradients:
    """Find gradients and keep them; see `text_direction`."""
    with kept_work(kept, lambda: gradient_settings(view, change, config), poll) as saved:
        return find_gradients(view, change, config, progress, saved)


def find_gradients(
    view: StyleView,
    change: Tensor,
    config: GradientConfig,
    progress: Progress | None = None,
    saved: KeptWork | None = None,
) -> FoundGradients:
    """Take gradients of samples until two halves of them rank the channels alike.

    Args:
        view: generator, CLIP and statistics.
        change: [D] unit change of CLIP's feature.
        config: settings.
        progress: see `text_direction`.
        saved: where samples are saved, and gone on with.
    """
    if not config.reach:
        return _looked(_Look(view, change, config, saved, "look"), progress)
    first = replace(config, reach=0.0, most_samples=config.first_samples, probes=0)
    if config.score == "cosine":
        first = replace(first, score="effect")
    begun = _looked(_Look(view, change, first, saved, "first_look"), progress)
    shift = chosen_channels(begun.gradients, first.score, config.selection) * config.reach / 2
    found = _looked(_Look(view, change, config, saved, "look", shift), progress, config.first_samples)
    return replace(
        found, forwards=begun.forwards + found.forwards, backwards=begun.backwards + found.backwards
    )


def _looked(look: _Look, progress: Progress | None, before: int = 0) -> FoundGradients:
    """Look at samples, or go on; `before` samples were looked at already."""

    def told(now: _Look) -> None:
        if progress is not None:
            progress(before + now.done, before + now.total)

    found = run_saved(look, look.states, [told])
    if look.states is not None:
        look.states.forget_previous()
    return found


class _Look:
    """Gradients at samples, each moved by `shift` [K]; saved in `saved` by a name."""

    def __init__(
        self,
        view: StyleView,
        change: Tensor,
        config: GradientConfig,
        saved: KeptWork | None,
        name: str,
        shift: Tensor | None = None,
    ) -> None:
        self._view, self._config, self._shift = view, config, shift
        draws = torch.randn(config.probes, len(change), generator=seeded(config.seed, 0, "gradient.probes"))
        self._directions = torch.cat([change[None], draws.to(change)])
        self._parts = list[Tensor]()
        self.total, self._saved = config.first_samples, 0
        self.states: StateFile | None = None
        if saved is not None:
            self._settings = {**saved.settings, "look": name}
            path = saved.folder / f"{name}.safetensors"
            self.states = StateFile(path, STATE_FORMAT, STATE_VERSION, "gradients of a text direction")

    @property
    def done(self) -> int:
        """Samples so far."""
        return sum(part.shape[1] for part in self._parts)

    def run(self, callbacks: Sequence[Callable[[_Look], None]]) -> FoundGradients:
        """Take the gradients that are missing."""
        config = self._config

        def taken(values: Tensor) -> None:
            self._parts.append(values)
            for callback in callbacks:
                callback(self)

        while True:
            seeds = range(config.seed + self.done, config.seed + self.total)
            take_gradients(self._view, self._directions, seeds, config.batch_size, taken, self._shift)
            found = self._found()
            if found.agreement >= config.agreement or self.total == config.most_samples:
                return found
            self.total = min(2 * self.total, config.most_samples)

    def _found(self) -> FoundGradients:
        """What the first `total` samples say; a state that was read may hold more."""
        values = torch.cat(self._parts, dim=1)[:, : self.total]
        lengths = values[1:].square().mean(dim=0).sqrt() if self._config.probes else None
        found = StyleGradients(values[0], *self._view.places, self._view.statistics, lengths)
        score = SCORES[self._config.score]
        agreement = rank_correlation(score(found.half(0)), score(found.half(1)))
        return FoundGradients(found, agreement, self.total, self.total * len(self._directions))

    def save(self, states: StateFile) -> None:
        """Write what was taken; atomic. No sample twice, and never what is not finite."""
        if self.done == self._saved:
            return
        values = torch.cat(self._parts, dim=1)
        sizes = values.double().abs().mean(dim=(0, 2))
        if bool(sizes.isfinite().all()):
            count = values.shape[1]
            states.save(SavedState(count, self._settings, {"values": values}, {"size": sizes.tolist()}))
            self._saved = count

    def restore(self, states: StateFile, path: Path) -> None:
        """Go on from a file; one that raises DamagedState has changed nothing."""

        def like(count: int) -> dict[str, Tensor]:
            width = len(self._view.places[0])
            return {"values": torch.empty(len(self._directions), count, width, device="meta")}

        found = states.read(path, self._settings, like)
        if not 0 < found.step <= self._config.most_samples:
            raise DamagedState(
                f"{path}: holds {found.step} samples, at most {self._config.most_samples} are looked at"
            )
        self._parts, self._saved = [found.tensors["values"]], found.step


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
    return _mean_effects(found, _selected(found, score, selection))


def _selected(found: StyleGradients, score: str, selection: Selection | None) -> Selected:
    return select(found, SCORES[score](found), selection)


def _mean_effects(found: StyleGradients, selected: Selected) -> Tensor:
    amplitudes = torch.where(selected.amplitudes != 0, found.effect, 0.0)
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
