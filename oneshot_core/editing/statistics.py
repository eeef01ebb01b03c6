"""Statistics of style space: mean and deviation of every channel, and how far an adaptation moved them.

A style is an affine function of w, so its mean and deviation follow exactly from the mean and the covariance
of w: those are summed in float64, chunk by chunk, and the styles of all layers cost nothing more.

Source: StyleCLIP (arXiv 2103.17249) section 6; orpatashnik/StyleCLIP global_directions/GetCode.py (population
deviation over 100,000 codes). Deviation: covariance of w instead of the styles of every sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints import GeneratorBundle, check_pair
from ..draws import Draws, SeededDraws
from ..fingerprints import fingerprint, network_fingerprint
from ..networks import Generator, Linear
from ..ranges import check_number
from ..tensors import check_finite
from .style_layout import slot_of, style_title

COUNT, PSI = 100_000, 0.7  # samples and truncation of StyleCLIP's files
MAX_COUNT = 10_000_000
DRIFT_COUNT = 10_000  # samples that show a drift to one per cent of a deviation
_CHUNK = 2000  # codes that are mapped at once

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LatentMoments:
    """Mean and covariance of w.

    Args:
        mean: [W] float64.
        covariance: [W, W] float64, divided by the count (population).
        count: samples.
        seed: of the draws.
    """

    mean: Tensor
    covariance: Tensor
    count: int
    seed: int


@dataclass(frozen=True)
class StyleStatistics:
    """Mean and deviation of every channel of every style.

    Args:
        mean: per style [C], in the order of `Generator.affine`.
        sigma: population deviations, likewise.
        psi: truncation of the codes towards the mean latent.
        cutoff: number of first slots that were truncated; None: all.
        count: samples.
        seed: of the draws.
        measured: title of the generator.
        fingerprint: SHA-256 of its weights, "" when unknown.
        family: fingerprint of its family, "" when unknown.
    """

    mean: tuple[Tensor, ...]
    sigma: tuple[Tensor, ...]
    psi: float = PSI
    cutoff: int | None = None
    count: int = COUNT
    seed: int = 0
    measured: str = ""
    fingerprint: str = ""
    family: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "sigma", tuple(self.sigma))
        shapes = [tuple(value.shape) for value in self.mean], [tuple(value.shape) for value in self.sigma]
        if shapes[0] != shapes[1] or not shapes[0] or any(len(shape) != 1 for shape in shapes[0]):
            raise ValueError(
                f"statistics need one mean and one deviation [C] per style, got {shapes[0][:3]} and "
                f"{shapes[1][:3]}"
            )
        for values in (*self.mean, *self.sigma):
            check_finite(values, "the statistics of the styles", "measure them again")
        if any(bool((values < 0).any()) for values in self.sigma):
            raise ValueError("a deviation of the styles is below 0; measure the statistics again")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every style."""
        return tuple(len(values) for values in self.mean)

    @property
    def digest(self) -> str:
        """SHA-256 in hex over the numbers."""
        named = {f"mean.{index}": value for index, value in enumerate(self.mean)}
        return fingerprint({**named, **{f"sigma.{index}": value for index, value in enumerate(self.sigma)}})

    def check_fits(self, bundle: GeneratorBundle, what: str = "these statistics") -> None:
        """Refuse a generator of other widths.

        Raises:
            ValueError: it says what both have.
        """
        own = bundle.generator.style_widths
        if own != self.widths:
            raise ValueError(
                f"{what} of {self.measured or 'another generator'} do not fit {bundle.title}: they have "
                f"{len(self.widths)} styles of {sum(self.widths):,} channels, the generator {len(own)} of "
                f"{sum(own):,}; measure them on this generator"
            )


def latent_moments(
    bundle: GeneratorBundle,
    count: int = COUNT,
    seed: int = 0,
    *,
    draws: Draws | None = None,
    progress: Progress | None = None,
) -> LatentMoments:
    """Measure mean and covariance of w before truncation.

    Args:
        bundle: any generator; a conditional one gets its classes in turn.
        count: samples, 2 to 10 million.
        seed: of the draws.
        draws: where z comes from, drawn in order under "statistics.z"; None: from the seed.
        progress: told after each chunk how many of how many are done; one that raises stops.

    Raises:
        ValueError: a count that is not allowed, or weights that are not finite.
    """
    bundle.check_finite()
    mean, covariance = _moments([bundle.generator], bundle.mean_latent, count, seed, draws, progress)
    return LatentMoments(mean, covariance, count, seed)


@torch.no_grad()
def _moments(
    generators: Sequence[Generator],
    near: Tensor,
    count: int,
    seed: int,
    draws: Draws | None,
    progress: Progress | None,
) -> tuple[Tensor, Tensor]:
    """Mean [M] and covariance [M, M] of the w of several generators for one z, side by side."""
    if not 2 <= count <= MAX_COUNT:
        raise ValueError(f"count must be 2 to {MAX_COUNT:,} samples, got {count}")
    source = draws or SeededDraws(seed)
    # Sums about a near point lose no digits to the mean.
    shift = near.detach().cpu().double().repeat(len(generators))
    total, products = torch.zeros_like(shift), torch.zeros(len(shift), len(shift), dtype=torch.float64)
    for step, start in enumerate(range(0, count, _CHUNK)):
        size = min(_CHUNK, count - start)
        config = generators[0].config
        z = source.normal(step, "statistics.z", (size, config.z_dim))
        classes = torch.arange(start, start + size) % max(1, config.c_dim)
        c = F.one_hot(classes, config.c_dim).float() if config.c_dim else None
        codes = torch.cat([_mapped(generator, z, c) for generator in generators], dim=1) - shift
        total += codes.sum(dim=0)
        products += codes.T @ codes
        if progress is not None:
            progress(start + size, count)
    mean = total / count
    return shift + mean, products / count - torch.outer(mean, mean)


def _mapped(generator: Generator, z: Tensor, c: Tensor | None) -> Tensor:
    like = generator.const
    return generator.map_single(z.to(like), None if c is None else c.to(like)).cpu().double()


def style_statistics(
    bundle: GeneratorBundle,
    count: int = COUNT,
    psi: float = PSI,
    cutoff: int | None = None,
    seed: int = 0,
    *,
    moments: LatentMoments | None = None,
    draws: Draws | None = None,
    progress: Progress | None = None,
) -> StyleStatistics:
    """Measure mean and deviation of every channel of every style.

    Args:
        bundle: the generator; an adapted one has its own statistics.
        count: samples.
        psi: truncation towards the mean latent, above 0.
        cutoff: number of first slots that are truncated; more than there are, or None: all. StyleCLIP's
            PyTorch version has 8, its TensorFlow files have all.
        seed: of the draws.
        moments: of w, where they were measured before; `count`, `seed` and `draws` are then not used.
        draws: see `latent_moments`.
        progress: see `latent_moments`.

    Returns:
        Float64 on the CPU.

    Raises:
        ValueError: a psi or cutoff that is not allowed; see also `latent_moments`.
    """
    check_number(psi, "psi (usually 0.5 to 1)", above=0, high=10)
    if cutoff is not None and cutoff < 0:
        raise ValueError(f"cutoff is a number of slots from 0 on, got {cutoff}")
    moments = moments or latent_moments(bundle, count, seed, draws=draws, progress=progress)
    centre = bundle.mean_latent.detach().cpu().double()
    means, sigmas = [], []
    for style, layer in enumerate(bundle.generator.affine_layers()):
        factor = psi if cutoff is None or slot_of(style) < cutoff else 1.0
        weight, bias = _affine(layer)
        means.append(weight @ torch.lerp(centre, moments.mean, factor) + bias)
        sigmas.append(factor * _deviation(weight, moments.covariance))
    return StyleStatistics(
        tuple(means), tuple(sigmas), float(psi), cutoff, moments.count, moments.seed, bundle.title,
        network_fingerprint(bundle.generator), bundle.family,
    )  # fmt: skip


def _affine(layer: Linear) -> tuple[Tensor, Tensor]:
    """Weight [C, W] and bias [C] that a layer multiplies with, float64 on the CPU."""
    weight, bias = (value.detach().cpu().double() for value in (layer.weight, layer.bias))
    return weight * layer.gain, bias * layer.lr_multiplier


def _deviation(weight: Tensor, covariance: Tensor) -> Tensor:
    """Deviation [C] of weight @ w."""
    return ((weight @ covariance) * weight).sum(dim=1).clamp(min=0).sqrt()


# Drift --------------------------------------------------------------------------------------------------

LEAST_CORRELATION = 0.9  # of a channel between source and adapted generator
MOST_SHIFT = 1.0  # of the mean, in deviations of the source: root mean square over a layer's channels
MOST_OF_ONE = 3.0  # the same of a single channel
RATIOS = (0.5, 2.0)  # of the deviations, median over a layer's channels


@dataclass(frozen=True)
class LayerDrift:
    """How one style of an adapted generator differs from its source's, for the same latents.

    Args:
        style: its number.
        least_correlation: the smallest correlation of a channel with itself, -1 to 1.
        correlation: mean over the channels.
        most_shift: largest shift of a channel's mean, in deviations of the source; never negative.
        shift: root mean square of the shifts.
        least_ratio: smallest ratio of deviations, adapted to source.
        ratio: median of the ratios.
        most_ratio: largest.
    """

    style: int
    least_correlation: float
    correlation: float
    most_shift: float
    shift: float
    least_ratio: float
    ratio: float
    most_ratio: float

    @property
    def title(self) -> str:
        """What messages call the style."""
        return style_title(self.style)


@dataclass(frozen=True)
class DriftReport:
    """How far an adaptation moved style space.

    Args:
        layers: one per style.
        source: title of the source.
        adapted: title of the adapted generator.
        psi: truncation; shifts in deviations are larger the smaller it is.
        count: samples.
    """

    layers: tuple[LayerDrift, ...]
    source: str
    adapted: str
    psi: float
    count: int

    @property
    def least_correlation(self) -> float:
        """The smallest correlation of any channel."""
        return min(layer.least_correlation for layer in self.layers)

    @property
    def most_shift(self) -> float:
        """The largest shift of any channel's mean, in deviations of the source."""
        return max(layer.most_shift for layer in self.layers)

    def notes(self) -> list[str]:
        """Say where style space moved so far that edits measured on the source may read differently."""
        kinds = (
            (
                [layer for layer in self.layers if layer.least_correlation < LEAST_CORRELATION],
                lambda layer: f"{layer.least_correlation:.2f}",
                f"channels follow the source's with a correlation below {LEAST_CORRELATION}, so that a "
                "direction of the source may mean something else there",
            ),
            (
                [one for one in self.layers if one.shift > MOST_SHIFT or one.most_shift > MOST_OF_ONE],
                lambda layer: f"{layer.shift:.1f}, at most {layer.most_shift:.1f}",
                f"means moved by more than {MOST_SHIFT:g} sigma (root mean square; or {MOST_OF_ONE:g} of one "
                "channel): offsets still fit, but never give this generator the source's styles themselves",
            ),
            (
                [layer for layer in self.layers if not RATIOS[0] <= layer.ratio <= RATIOS[1]],
                lambda layer: f"{layer.ratio:.2f}",
                f"deviations are less than {RATIOS[0]:g} or more than {RATIOS[1]:g} times the source's, so "
                "that a strength in sigmas of the source is another one here",
            ),
        )
        return [
            f"in {self.adapted}, {text} ({', '.join(f'{one.title}: {shown(one)}' for one in layers[:4])}"
            f"{f', and {len(layers) - 4} more' if len(layers) > 4 else ''})"
            for layers, shown, text in kinds
            if layers
        ]


def drift_report(
    source: GeneratorBundle,
    adapted: GeneratorBundle,
    count: int = DRIFT_COUNT,
    psi: float = PSI,
    cutoff: int | None = None,
    seed: int = 0,
    *,
    progress: Progress | None = None,
) -> DriftReport:
    """Compare the styles that two generators make of the same latents.

    Args:
        source: the generator that was adapted.
        adapted: what became of it; its mapping may have been trained too.
        count: samples.
        psi: truncation, each towards its own mean latent.
        cutoff: number of first slots that are truncated; None: all.
        seed: of the draws.
        progress: see `latent_moments`.

    Raises:
        ValueError: one was not adapted from the other, or see `style_statistics`.
    """
    check_pair(source, adapted)
    source.check_finite()
    adapted.check_finite()
    both = [source.generator, adapted.generator]
    mean, joint = _moments(both, source.mean_latent, count, seed, None, progress)
    width = source.generator.config.w_dim
    ends = (slice(width), slice(width, None))
    one, two = (
        style_statistics(
            bundle, psi=psi, cutoff=cutoff, moments=LatentMoments(mean[end], joint[end, end], count, seed)
        )
        for bundle, end in zip((source, adapted), ends, strict=True)
    )
    layers = zip(source.generator.affine_layers(), adapted.generator.affine_layers(), strict=True)
    compared = []
    for style, (first, second) in enumerate(layers):
        factor = psi if cutoff is None or slot_of(style) < cutoff else 1.0
        together = ((_affine(first)[0] @ joint[ends[0], ends[1]]) * _affine(second)[0]).sum(dim=1)
        compared.append(_drift(style, one, two, factor**2 * together))
    return DriftReport(tuple(compared), source.title, adapted.title, float(psi), count)


def _drift(style: int, source: StyleStatistics, adapted: StyleStatistics, together: Tensor) -> LayerDrift:
    """Compare one style; `together` is each channel's covariance with itself."""
    kept = (source.sigma[style] > 0) & (adapted.sigma[style] > 0)  # a channel that never moves has no sigma
    if not bool(kept.any()):
        return LayerDrift(style, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    old, new = source.sigma[style][kept], adapted.sigma[style][kept]
    correlation = (together[kept] / (old * new)).clamp(-1, 1)
    shift = (adapted.mean[style] - source.mean[style])[kept] / old
    ratio = new / old
    numbers = (
        correlation.min(), correlation.mean(), shift.abs().max(), shift.square().mean().sqrt(),
        ratio.min(), ratio.median(), ratio.max(),
    )  # fmt: skip
    return LayerDrift(style, *(float(number) for number in numbers))
