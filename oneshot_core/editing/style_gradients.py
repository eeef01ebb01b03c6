"""Gradients of what CLIP sees with respect to styles: one backward pass tells every channel of a sample.

For a sample of styles s, unit feature h(s) of its picture and a direction d of CLIP's space, the gradient of
h . d by s_c, times sigma_c, is what channel c adds to the agreement with d per sigma. Finite differences need
two pictures per channel for that. They are a secant 10 sigma long about the mean, which sees things come and
go; the gradient is the tangent at a natural sample (editing.md 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batches import check_drawn
from ..checkpoints import GeneratorBundle
from ..features import ClipEncoder
from ..latents import truncate
from ..memory import check_memory
from ..networks import Generator
from ..sampling import random_latents
from ..tensors import Styles, check_weights, gradients, owned
from ..threads import ThreadWatch
from ..training.memory import editing_step_bytes
from .clip_features import picture_features
from .dictionary import all_rows
from .finite_differences import PartialDrawing
from .statistics import StyleStatistics, style_statistics

TINY = 1e-30  # squared gradients below which a channel counts as one that nothing follows


@dataclass(frozen=True)
class StyleGradients:
    """Gradients of some samples, per sigma of each channel.

    Args:
        values: [N, K] of N samples and K channels.
        styles: [K] int64, the style of each channel, in the order of `Generator.affine`.
        channels: [K] int64, its channel in that style.
        statistics: whose sigma is meant.
        lengths: [N, K] how far the unit feature moves per sigma, whatever the direction; None: not measured.
    """

    values: Tensor
    styles: Tensor
    channels: Tensor
    statistics: StyleStatistics
    lengths: Tensor | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every style of the generators that they fit."""
        return self.statistics.widths

    @property
    def effect(self) -> Tensor:
        """Mean gradient [K] float64: what a channel adds to the agreement per sigma."""
        return self.values.double().mean(dim=0)

    @property
    def consistency(self) -> Tensor:
        """Mean over root mean square [K] float64, -1 to 1: whether the samples agree on the sign."""
        squares = self.values.double().square().mean(dim=0)
        return self.effect / squares.clamp_min(TINY).sqrt()

    @property
    def cosine(self) -> Tensor:
        """Mean share [K] float64 of a channel's whole effect on CLIP that lies along the direction.

        The counterpart of StyleCLIP's relevance by finite differences.

        Raises:
            ValueError: the lengths were not measured.
        """
        if self.lengths is None:
            raise ValueError("the cosine needs lengths; measure the gradients with probes")
        return (self.values.double() / self.lengths.double().clamp_min(TINY)).mean(dim=0)

    def half(self, which: int) -> StyleGradients:
        """Every other sample, the even (0) or the odd ones (1)."""
        lengths = None if self.lengths is None else self.lengths[which::2]
        return StyleGradients(self.values[which::2], self.styles, self.channels, self.statistics, lengths)


def rank_correlation(one: Tensor, two: Tensor) -> float:
    """Spearman's rank correlation of two lists of numbers, [K] each; equal numbers share the mean rank."""
    ranks = torch.stack([_ranks(one), _ranks(two)])
    ranks = ranks - ranks.mean(dim=1, keepdim=True)
    lengths = ranks.norm(dim=1)
    if not bool(lengths.all()):  # all numbers of a list are equal: it ranks nothing
        return 0.0
    return float((ranks[0] * ranks[1]).sum() / lengths.prod())


def _ranks(values: Tensor) -> Tensor:
    _, places, counts = values.unique(sorted=True, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[places]


class StyleView:
    """A generator as a CLIP sees it: styles in, unit features out, drawn no larger than CLIP reads.

    Args:
        bundle: who draws, with its stored noise.
        clip: reads the pictures, on the generator's device.
        statistics: with whose truncation samples are drawn.
    """

    def __init__(self, bundle: GeneratorBundle, clip: ClipEncoder, statistics: StyleStatistics) -> None:
        self.bundle, self.clip, self.statistics = bundle, clip, statistics
        self.max_px = drawn_px(bundle.generator, clip)
        self._last = self.max_px.bit_length() - 3  # level; 0 is 4 px
        self._noise = bundle.generator.constant_noise()
        # Finer layers are not drawn, so nothing follows them.
        self.count = 3 * self._last + 2
        self.places = all_rows(statistics.widths, range(self.count))
        device = bundle.generator.const
        self.sigma = torch.cat(list(statistics.sigma[: self.count])).to(device)  # [K]

    @torch.no_grad()
    def sampled(self, seeds: Sequence[int]) -> Styles:
        """Styles [N, C] of the samples of some seeds; of a conditional generator its classes in turn."""
        generator, statistics = self.bundle.generator, self.statistics
        c_dim = generator.config.c_dim
        classes = [seed % c_dim for seed in seeds] if c_dim else []
        codes = random_latents(self.bundle, seeds, classes).codes(generator)
        return generator.affine(truncate(codes, self.bundle.mean_latent, statistics.psi, statistics.cutoff))

    def features(self, styles: Styles) -> Tensor:
        """Unit features [N, D] of the pictures of styles, with gradient."""
        stage = PartialDrawing(0, self._last, keeps=False).begin()
        images = self.bundle.generator.render(styles, self._noise, stage)
        return picture_features(self.clip, images)

    def gradients(self, styles: Styles, directions: Tensor) -> Tensor:
        """Gradients [M, N, K] of N samples' agreement with M directions [M, D], per sigma."""
        leaves = [owned(style).requires_grad_() for style in styles[: self.count]]
        features = self.features((*leaves, *styles[self.count :]))
        check_drawn(features, range(len(features)))
        # Features are normalised in the graph: else a direction would reward their length.
        agreed = features @ directions.to(features).T
        found = []
        for number in range(len(directions)):
            # Samples do not touch each other, so the gradient of the sum holds that of each.
            parts = torch.autograd.grad(
                agreed[:, number].sum(), leaves, retain_graph=number + 1 < len(directions)
            )
            found.append(torch.cat(parts, dim=1) * self.sigma.to(features))
        return torch.stack(found)

    def check_memory(self, samples: int) -> None:
        """Refuse a step that main memory cannot hold; on a device its own limit tells."""
        if self.bundle.generator.const.device.type == "cpu" and isinstance(self.clip, torch.nn.Module):
            needed = editing_step_bytes(self.bundle, self.clip, samples, max_px=self.max_px)
            what = f"the gradients of {samples} pictures of {self.max_px} px taken at once"
            check_memory(needed, what, "lower batch_size" if samples > 1 else "use a smaller CLIP model")


def view_of(bundle: GeneratorBundle, clip: ClipEncoder, statistics: StyleStatistics | None) -> StyleView:
    """Look at a generator; None: statistics are measured. Raises ValueError for weights that are not finite,
    and for statistics of another family."""
    bundle.check_finite()
    check_weights(clip, f"the CLIP model {clip.name}", "load its file again, or use another")
    statistics = statistics or style_statistics(bundle)
    statistics.check_fits(bundle)
    return StyleView(bundle, clip, statistics)


def drawn_px(generator: Generator, clip: ClipEncoder) -> int:
    """Side up to which pictures are drawn for a CLIP: the first that is not below what it reads."""
    side = 4
    while side < min(clip.preprocess.image_size, generator.config.size):
        side *= 2
    return side


def take_gradients(
    view: StyleView,
    directions: Tensor,
    seeds: Sequence[int],
    batch_size: int,
    each: Callable[[Tensor], None],
    shift: Tensor | None = None,
) -> None:
    """Take the gradients of samples, batch by batch.

    Args:
        view: generator, CLIP and statistics.
        directions: [M, D] of CLIP's space.
        seeds: of the N samples.
        batch_size: n samples at once; changes no more than last bits.
        each: gets each batch's gradients [M, n, K], float32 on the CPU; one that raises stops.
        shift: [K] in sigmas, where the gradients are taken instead of at the samples themselves.

    Raises:
        FloatingPointError: a picture is not finite.
    """
    with gradients(), ThreadWatch(view.bundle.generator.const.device, "direction") as watch:
        for first in range(0, len(seeds), batch_size):
            watch.begin()
            styles = view.sampled(seeds[first : first + batch_size])
            if shift is not None:
                styles = shifted(styles, shift, view)
            found = view.gradients(styles, directions).float().cpu()
            watch.end(first // batch_size + 1, len(styles[0]))
            each(found)


def shifted(styles: Styles, shift: Tensor, view: StyleView) -> Styles:
    """Add [K] in sigmas to styles."""
    widths = [style.shape[1] for style in styles[: view.count]]
    parts = (shift.to(view.sigma) * view.sigma).split(widths)
    moved = [style + part.to(style) for style, part in zip(styles, parts, strict=False)]
    return (*moved, *styles[view.count :])
