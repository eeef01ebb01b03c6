"""Inversion by optimisation: the projectors of NVIDIA and rosinality, II2S, and refinement of a given code.

Source: stylegan2-ada-pytorch projector.py; rosinality/stylegan2-pytorch projector.py; ZPdesu/MindTheGap
models/II2S.py (editing.md 4.1, 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches import check_batch, check_drawn
from ..checkpoints import GeneratorBundle, check_family
from ..draws import Draws, SeededDraws
from ..features import Perceptual
from ..fingerprints import encoder_fingerprint, fingerprint, latent_fingerprint, network_fingerprint
from ..kept_folders import KeptFolders, KeptWork, kept_work
from ..latent_chunks import ChunkedWork, optimise_chunks
from ..latent_optimiser import LatentOptimiser, StepProgress
from ..latents import Latent, drawn_noise
from ..memory import check_memory
from ..quads import Quad
from ..resampling import downsample, reduced_picture
from ..tensors import Images, Latents, check_finite, check_shape, check_weights, gradients, is_finite, owned
from ..training.memory import inversion_step_bytes
from ..whitening import Whitening, whitening_of
from .config import NVIDIA, InversionConfig
from .noise import jitter_at, noise_regulariser, normalised
from .statistics import CodeStatistics

PICTURE_COPIES = 4  # that are held at the end: given, with stored noise, with optimised noise, in chunks


@dataclass(frozen=True)
class Given:
    """What an inversion draws or measures itself where it is not given.

    Args:
        draws: of jitter and noise; None: seeded by the settings.
        statistics: of random codes; None: measured as the settings say.
        whitening: for the prior; None: that of the generator's family.
        reduced: the pictures as the perceptual net sees them, [N, 3, s, s]; None: reduced here.
    """

    draws: Draws | None = None
    statistics: CodeStatistics | None = None
    whitening: Whitening | None = None
    reduced: Images | None = None


@dataclass(frozen=True)
class InversionResult:
    """The codes and what they look like.

    Args:
        latent: space "w" [N, W] or "w+" [N, L, W]; its origin has the settings and the alignment quads.
        images: [N, 3, S, S] with the generator's stored noise, as every other picture of the latent has it;
            float32 on the CPU, not clamped.
        losses: per term the unweighted value of every step, mean over the pictures.
        projected: the same with the optimised noise maps; None: none were optimised.
        noise: these maps, one [N, 1, r, r] per convolution; empty: none. No latent holds them.
    """

    latent: Latent
    images: Images
    losses: dict[str, list[float]]
    projected: Images | None = None
    noise: tuple[Tensor, ...] = ()


def invert_pictures(  # noqa: PLR0913 - what to invert how, and how to follow it
    bundle: GeneratorBundle,
    pictures: Images,
    perceptual: Perceptual | None,
    config: InversionConfig = NVIDIA,
    *,
    start: Latent | None = None,
    quads: Sequence[Quad | None] | None = None,
    callbacks: Sequence[Callable[[StepProgress], None]] = (),
    given: Given = Given(),
    kept: KeptFolders | None = None,
    poll: Callable[[], None] | None = None,
) -> InversionResult:
    """Find the codes whose pictures are given pictures, each as if it were alone.

    Args:
        bundle: who draws; photos are inverted with the source generator, and then drawn by an adapted one.
        pictures: [N, 3, S, S] in [-1, 1], S the generator's size, framed as its own pictures are.
        perceptual: compares pictures, on the generator's device; None where its weight is 0.
        config: settings, such as a row of `METHODS`.
        start: a code per picture, or one for all, such as an encoder's; None: the mean code.
        quads: where each picture was cut from its photo (FFHQ's alignment), kept in the latent's origin.
        callbacks: called after every step with the rounds done, summed over all pictures; may raise.
        given: what is not to be drawn or measured here.
        kept: where the work is kept, saved every 30 s and at any end; the same work is gone on with there, to
            what an uninterrupted one would have given, and one that is done takes no step. None: nowhere.
        poll: called while another process is at the same work; may raise to give up.

    Returns:
        The codes, their pictures, the losses: "perceptual", "pixel", "noise" and "prior" as far as they
        take part.

    Raises:
        ValueError: see `check_inversion`; something given together with `kept`; or a step that does not fit
            main memory.
        FloatingPointError: a loss or a gradient became NaN or infinite; the message names term, picture and
            step.
    """
    check_inversion(bundle, pictures, perceptual, config, start)
    if kept is not None and any(value is not None for value in vars(given).values()):
        raise ValueError("what is kept does not know what was given; leave out kept, or given")
    corners = quad_values(quads, len(pictures))
    asked = (bundle, pictures, perceptual, config, start)
    with gradients(), kept_work(kept, lambda: inversion_settings(*asked), poll) as saved:
        work = _Work(bundle, perceptual, config, given)
        own = owned(pictures).to(bundle.generator.const)
        chunks, losses = _run(work, own, start, callbacks, saved)
        values, images = (torch.cat([getattr(one, name) for one in chunks]) for name in ("codes", "images"))
        noise = tuple(torch.cat(maps) for maps in zip(*(one.noise for one in chunks), strict=True))
        projected = torch.cat([one.projected for one in chunks]) if noise else None
    origin: dict[str, Any] = {
        "method": "inversion", "generator": bundle.title, "settings": config.describe(),
    }  # fmt: skip
    origin |= {} if start is None else {"start": start.origin}
    origin |= {} if corners is None else {"quads": corners}
    latent = Latent(config.space, values, bundle.family, origin)
    return InversionResult(latent, images, losses, projected, noise)


def check_inversion(
    bundle: GeneratorBundle,
    pictures: Images,
    perceptual: Perceptual | None,
    config: InversionConfig,
    start: Latent | None = None,
) -> None:
    """Refuse what cannot be inverted, before any work starts.

    Raises:
        ValueError: pictures of another shape or not finite, no perceptual net though it has a weight, weights
            that are not finite, a start of another generator or number, a conditional generator whose codes
            would have to be averaged, or more than main memory holds.
    """
    check_shape(pictures, "pictures", (None, 3, bundle.size, bundle.size))
    count = len(pictures)
    if not count:
        raise ValueError("the pictures hold none; give at least one")
    check_finite(pictures, "the pictures", "give other pictures")
    bundle.check_finite()
    if config.perceptual and perceptual is None:
        raise ValueError("the perceptual distance has a weight but there is no perceptual net; give one")
    check_weights(perceptual, "the perceptual net", "load its file again, or use another")
    if start is not None:
        check_family(start, bundle, "start")
        if len(start.values) not in (1, count):
            raise ValueError(
                f"the start must hold one code, or {count}, one per picture; it has {len(start.values)}"
            )
        if config.space == "w" and start.space != "w":
            raise ValueError(
                f"the start is in {start.space}, which space 'w' cannot begin at; use space 'w+'"
            )
    if config.mean and bundle.generator.config.c_dim:
        raise ValueError(
            f"{bundle.title} is a conditional generator, of which no mean code is drawn; set mean to 0 and "
            "jitter off"
        )
    chunk = _chunk_size(config, count)
    check_batch(bundle, count, chunk, copies=PICTURE_COPIES, advice="invert fewer pictures at a time")
    if bundle.generator.const.device.type == "cpu":
        needed = inversion_step_bytes(bundle, perceptual, chunk, optimised=config.noise == "optimised")
        what = f"{chunk} pictures inverted at once"
        check_memory(needed, what, "lower batch_size" if chunk > 1 else "use a smaller perceptual net")


def inversion_settings(
    bundle: GeneratorBundle,
    pictures: Images,
    perceptual: Perceptual | None,
    config: InversionConfig,
    start: Latent | None = None,
) -> dict[str, Any]:
    """Everything that determines an inversion's codes, as JSON values."""
    found = {
        "generator": network_fingerprint(bundle.generator),
        "mean": fingerprint({"mean": bundle.mean_latent}),
        "pictures": fingerprint({"pictures": pictures}),
        "perceptual": encoder_fingerprint(perceptual) if config.perceptual else "",
        "inversion": config.describe(),
    }
    return found | ({} if start is None else {"start": latent_fingerprint(start)})


def _chunk_size(config: InversionConfig, count: int) -> int:
    return count if config.jointly else min(config.batch_size, count)


def quad_values(quads: Sequence[Quad | None] | None, count: int) -> list[dict[str, Any] | None] | None:
    """The quads of `count` pictures as JSON values, for a latent's origin.

    Raises:
        ValueError: another number of quads.
    """
    if quads is None:
        return None
    if len(quads) != count:
        raise ValueError(f"quads must be {count}, one per picture, got {len(quads)}")
    return [None if one is None else one.values() for one in quads]


class _Work:
    """What all chunks of an inversion share."""

    def __init__(
        self, bundle: GeneratorBundle, perceptual: Perceptual | None, config: InversionConfig, given: Given
    ) -> None:
        self.bundle, self.generator, self.config, self.given = bundle, bundle.generator, config, given
        self.perceptual = perceptual if config.perceptual else None
        self.like = bundle.generator.const
        self.draws = given.draws or SeededDraws(config.seed)
        size = bundle.size
        self.factor = 1 << max(0, (size // config.compare_px).bit_length() - 1)
        self.whitening: Whitening | None = None
        if config.prior:
            self.whitening = (given.whitening or whitening_of(bundle)).to(self.like)

    @cached_property
    def statistics(self) -> CodeStatistics:
        """Of random codes."""
        config = self.config
        measured = partial(CodeStatistics.measured, self.generator)
        return self.given.statistics or measured(config.mean, config.mean_seed, config.draw)

    def codes(self, start: Latent | None, count: int) -> Latents:
        """Where the codes start: [N, W] or [N, L, W]."""
        if start is None:
            mean = self.statistics.mean if self.config.mean else self.bundle.mean_latent
            codes: Latents = owned(mean).to(self.like)[None]
        else:
            given = start.values.to(self.like) if self.config.space == "w" else start.codes(self.generator)
            codes = owned(given)
        if self.config.space == "w+":
            codes = self.generator.broadcast(codes)
        return codes.expand(count, *codes.shape[1:]).clone()

    def reduced(self, images: Images) -> Images:
        """Pictures as the perceptual net sees them; differentiable."""
        if self.config.bicubic:
            return downsample(images, self.factor)
        return images if self.factor == 1 else F.avg_pool2d(images, self.factor)

    def seen(self, targets: Images, first: int) -> list[Tensor]:
        """The perceptual net's features of the pictures that are aimed at."""
        assert self.perceptual is not None
        with torch.no_grad():
            if self.given.reduced is not None:
                small = owned(self.given.reduced[first : first + len(targets)]).to(self.like)
            else:
                # Mind the Gap reduces its pictures as files of 8 bits, and what is drawn by its own filter.
                reduce = partial(reduced_picture, factor=self.factor) if self.config.bicubic else self.reduced
                small = reduce(targets)
            return self.perceptual.features(small)


@dataclass(frozen=True)
class _Finished:
    """Results of a chunk; codes and pictures float32 on the CPU."""

    codes: Latents
    images: Images
    projected: Images
    noise: tuple[Tensor, ...]


def _run(
    work: _Work,
    pictures: Images,
    start: Latent | None,
    callbacks: Sequence[Callable[[StepProgress], None]],
    saved: KeptWork | None,
) -> tuple[list[_Finished], dict[str, list[float]]]:
    """Invert pictures chunk by chunk; also return the mean loss per term and step."""
    count = len(pictures)
    size, codes = _chunk_size(work.config, count), work.codes(start, count)

    def make(first: int) -> _Chunk:
        part = slice(first, first + size)
        return _Chunk(work, pictures[part], codes[part], first)

    chunked = ChunkedWork("inversion", work.config.steps, count, size, codes.device, saved)
    return optimise_chunks(chunked, make, _Chunk.finished, callbacks)


class _Chunk:
    """Pictures that are inverted at once, each as if it were alone unless the settings say otherwise."""

    def __init__(self, work: _Work, targets: Images, codes: Latents, first: int) -> None:
        self.work, self.targets, self.first = work, targets, first
        config = work.config
        # One draw for all pictures: what a picture gets must not depend on the others.
        self.drawn = len(targets) if config.jointly else 1
        maps: Sequence[Tensor] = ()
        if config.noise == "optimised":
            drawn = drawn_noise(work.generator, work.draws, 0, "invert.start", self.drawn)
            maps = [one.expand(len(targets), -1, -1, -1) for one in drawn]
        self.optimiser = LatentOptimiser(codes, config.schedule, maps)
        self.seen = None if work.perceptual is None else work.seen(targets, first)

    def update(self, step: int) -> tuple[Images, dict[str, Tensor]]:
        """Do step 0, 1, ...; return the pictures [n, 3, S, S] before it and each term's values [n]."""
        config, codes = self.work.config, self.optimiser.codes
        images = self.work.generator.synthesize(self._jittered(step), self._noise(step))
        losses, total = dict[str, Tensor](), torch.zeros(()).to(codes)

        def add(name: str, weight: float, values: Tensor) -> None:
            nonlocal total
            losses[name] = values
            total = total + weight * values.sum()

        if self.work.perceptual is not None and self.seen is not None:
            features = self.work.perceptual.features(self.work.reduced(images))
            add("perceptual", config.perceptual, self.work.perceptual.distance(features, self.seen))
        if config.pixel:
            squared = (images - self.targets).square()
            add(
                "pixel", config.pixel, squared.mean()[None] if config.jointly else squared.mean(dim=(1, 2, 3))
            )
        if self.optimiser.others and config.regulariser:
            add("noise", config.regulariser, noise_regulariser(self.optimiser.others, config.jointly))
        if self.work.whitening is not None:
            add("prior", config.prior, self.work.whitening.unlikeliness(codes))
        for name, values in losses.items():
            self._check(f"term {name!r}", values[:, None], step)

        def check(what: str, values: Tensor) -> None:
            self._check(what, values.flatten(1), step)

        self.optimiser.update(step, total, check)
        self._normalise()
        return images.detach(), {name: values.detach() for name, values in losses.items()}

    def _jittered(self, step: int) -> Latents:
        """The codes that are drawn: those that are optimised, and in the first steps noise."""
        codes, config = self.optimiser.codes, self.work.config
        if not config.jitter:
            return codes
        drawn = self.work.draws.normal(step, "invert.code", (self.drawn, *codes.shape[1:])).to(codes)
        return codes + drawn * (self.work.statistics.spread * jitter_at(step, config.steps))

    def _noise(self, step: int) -> list[Tensor]:
        """Noise maps of a step."""
        generator = self.work.generator
        if self.work.config.noise == "fresh":
            return drawn_noise(generator, self.work.draws, step, "invert", batch=1)
        return self.optimiser.others or generator.constant_noise()

    @torch.no_grad()
    def _normalise(self) -> None:
        """Keep optimised maps of mean 0 and size 1."""
        config = self.work.config
        for noise in self.optimiser.others:
            noise.copy_(normalised(noise, config.unbiased, config.jointly))

    def _check(self, what: str, values: Tensor, step: int) -> None:
        """Refuse [n, K] values of which some are not finite, naming the first picture that has them."""
        if is_finite(values):
            return
        place = int((~values.isfinite().all(dim=1)).nonzero()[0])
        raise FloatingPointError(
            f"the inversion's {what} became NaN or infinite at step {step} for picture {self.first + place} "
            f"(seed {self.work.config.seed}); lower the learning rate or that term's weight, or leave that "
            "picture out"
        )

    @torch.no_grad()
    def finished(self) -> _Finished:
        """Codes and their pictures, with stored noise and with the optimised."""
        generator, codes = self.work.generator, self.optimiser.codes
        keys = range(self.first, self.first + len(codes))
        images = check_drawn(generator.synthesize(codes, generator.constant_noise()), keys)
        projected = generator.synthesize(codes, self.optimiser.others) if self.optimiser.others else images
        codes, images, projected = (owned(one).float().cpu() for one in (codes, images, projected))
        return _Finished(codes, images, projected, tuple(owned(one).cpu() for one in self.optimiser.others))
