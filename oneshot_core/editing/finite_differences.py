"""Dictionaries by finite differences: every channel is moved to both sides, and CLIP looks at the pictures.

For channel c and every sample: its value becomes mean - 5 sigma and mean + 5 sigma; of the difference of the
two unit features the unit vectors are averaged over the samples, and the mean is a row. What was measured so
far is saved as it goes.

Source: StyleCLIP (arXiv 2103.17249) section 6; orpatashnik/StyleCLIP global_directions/SingleChannel.py.
Deviations: the channel gets its own value back before the next one (the published program leaves it at its
mean in all pictures, editing.md 1c); pictures are reduced in floating point unless `eight_bit` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches import check_chunk, check_drawn
from ..checkpoints import GeneratorBundle, check_family
from ..features import ClipEncoder
from ..fingerprints import encoder_fingerprint, fingerprint, network_fingerprint
from ..latents import Latent, truncate
from ..networks import Generator
from ..ranges import check_number
from ..sampling import random_latents
from ..saved_states import DamagedState, SavedState, StateFile, run_saved
from ..tensors import Images, Latents, Styles, check_weights, owned
from ..threads import ThreadWatch
from .clip_features import picture_features
from .dictionary import Dictionary, all_rows, channel_title
from .statistics import StyleStatistics, style_statistics
from .style_layout import check_styles, convolution_styles, resolution_of

MAX_IMAGES = 4096
PREFIX_BYTES = 512 * 1024**2  # features that may be kept of what lies before the layer that changes
STATE_FORMAT, STATE_VERSION = "oneshot-dictionary-state", 1
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DictionaryConfig:
    """Settings of a dictionary by finite differences."""

    images: int = 16  # samples that each channel is changed in; StyleCLIP has 100
    sigmas: float = 5.0  # how far to both sides of the mean
    seed: int = 0  # of the first sample; the others follow
    styles: tuple[int, ...] | None = None  # of which all channels are measured; None: of all convolutions
    channels: tuple[tuple[int, int], ...] | None = None  # (style, channel) each, instead of all of `styles`
    max_px: int | None = None  # pictures are drawn up to this side; finer layers are then not measured
    eight_bit: bool = False  # show CLIP 8-bit pictures that Pillow reduced, as the published program does
    restore: bool = True  # False repeats its fault: a channel stays at its mean for those after it
    batch_size: int = 16  # pictures that are drawn at once; needs memory

    def __post_init__(self) -> None:
        for name in ("styles", "channels"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(
                    self, name, tuple(tuple(one) if name == "channels" else one for one in given)
                )
        if not 1 <= self.images <= MAX_IMAGES:
            raise ValueError(f"images must be 1 to {MAX_IMAGES}, got {self.images}")
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size must be at least 2, one picture to each side, got {self.batch_size}"
            )
        check_number(self.sigmas, "sigmas (StyleCLIP: 5)", above=0, high=100)
        if self.styles is not None and self.channels is not None:
            raise ValueError("give styles or single channels, not both")
        if self.max_px is not None and self.max_px < 4:
            raise ValueError(f"max_px must be at least 4, got {self.max_px}")

    def describe(self) -> dict[str, Any]:
        """Return what determines the result as JSON values; `batch_size` changes no more than last bits."""
        values = asdict(self)
        del values["batch_size"]
        for name in ("styles", "channels"):
            values[name] = None if values[name] is None else [
                list(one) if name == "channels" else one for one in values[name]
            ]  # fmt: skip
        return values

    def places(self, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Style [K] and channel [K] of every row that is measured.

        Args:
            widths: channels of every style of the generator.

        Raises:
            ValueError: a style or channel that does not exist, or none is left.
        """
        if self.channels is not None:
            return self._listed(widths)
        if self.styles is None:
            chosen = convolution_styles(len(widths))
        else:
            chosen = check_styles(self.styles, len(widths), "styles")
        kept = [style for style in chosen if self._drawn(style)]
        if not kept:
            raise ValueError(f"none of the layers is drawn at max_px {self.max_px}; raise it")
        return all_rows(widths, kept)

    def _listed(self, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = sorted(set(self.channels or ()))
        if not rows:
            raise ValueError("channels is empty; leave it out to measure all")
        check_styles([style for style, _ in rows], len(widths), "channels")
        for style, channel in rows:
            if not 0 <= channel < widths[style]:
                raise ValueError(f"{channel_title(style, channel)} does not exist; it has {widths[style]}")
            if not self._drawn(style):
                raise ValueError(f"{channel_title(style, channel)} is finer than max_px {self.max_px}")
        table = torch.tensor(rows)
        return table[:, 0].clone(), table[:, 1].clone()

    def _drawn(self, style: int) -> bool:
        return self.max_px is None or resolution_of(style) <= self.max_px


def channel_row(minus: Tensor, plus: Tensor) -> tuple[Tensor, float, float]:
    """One row of a dictionary from unit features.

    Args:
        minus: [N, D] of N samples with the channel below its mean.
        plus: [N, D] above.

    Returns:
        The row [D] float64, of length 1 (0 where no picture changed); the length of the mean unit change, 0
        to 1; and the mean length of the change.
    """
    change = plus.double() - minus.double()
    mean = F.normalize(change, dim=1).mean(dim=0)
    return F.normalize(mean, dim=0), float(mean.norm()), float(change.norm(dim=1).mean())


def moved_styles(
    styles: Styles, style: int, channel: int, statistics: StyleStatistics, sigmas: float
) -> Styles:
    """Styles of 2n pictures: n with a channel `sigmas` deviations below its mean, then n above.

    Args:
        styles: [n, C] each, as `Generator.affine` gives them.
        style: which of them is changed.
        channel: and where.
        statistics: whose mean and deviation are meant.
        sigmas: how far.
    """
    moved = [torch.cat([one, one]) for one in styles]
    mean, sigma = float(statistics.mean[style][channel]), float(statistics.sigma[style][channel])
    count = len(styles[style])
    moved[style][:count, channel] = mean - sigmas * sigma
    moved[style][count:, channel] = mean + sigmas * sigma
    return tuple(moved)


class PartialDrawing:
    """A stage of `Generator.render` that draws up to some side, and what lies before a layer only once.

    Args:
        first: level of the layer that changes; 0 is 4 px. Levels before it are drawn at the first call.
        last: level after which nothing is drawn: the picture stays as small as that.
        keeps: whether to keep what lies before `first`.
    """

    def __init__(self, first: int, last: int, keeps: bool) -> None:
        self.first, self.last, self.keeps = first, last, keeps
        self._level = 0
        self._before: tuple[Tensor, Images] | None = None

    def begin(self) -> PartialDrawing:
        """Start a picture."""
        self._level = 0
        return self

    def __call__(self, part: Callable[..., Any], x: Tensor, image: Images, *rest: Any, **_: Any) -> Any:
        """Draw a level, or take it from before."""
        self._level += 1
        if self._level > self.last:
            return x, image
        if self._level >= self.first:
            return part(x, image, *rest)
        if self._before is not None:
            return self._before
        drawn = part(x, image, *rest)
        if self.keeps and self._level == self.first - 1:
            self._before = drawn
        return drawn


class _Samples:
    """The samples that every channel is changed in, chunk by chunk."""

    def __init__(
        self, generator: Generator, codes: Latents, clip: ClipEncoder, config: DictionaryConfig
    ) -> None:
        self.generator, self.clip, self.config = generator, clip, config
        chunks = codes.to(generator.const).split(max(1, config.batch_size // 2))
        self.styles = [[owned(one) for one in generator.affine(chunk)] for chunk in chunks]
        self.noise = generator.constant_noise()
        side = generator.config.size if config.max_px is None else min(config.max_px, generator.config.size)
        self._last = side.bit_length() - 3
        self._level, self._stages = -1, list[PartialDrawing]()

    @property
    def width(self) -> int:
        """Numbers of a feature of CLIP."""
        side = self.generator.config.size
        images = torch.zeros(1, self.generator.config.image_channels, side, side).to(self.generator.const)
        return picture_features(self.clip, images.float()).shape[1]

    def set_to_mean(self, style: int, channel: int, statistics: StyleStatistics) -> None:
        """Give a channel its mean in all samples."""
        for styles in self.styles:
            styles[style][:, channel] = float(statistics.mean[style][channel])

    def features(self, style: int, channel: int, statistics: StyleStatistics) -> tuple[Tensor, Tensor]:
        """Unit features [N, D] with the channel below its mean, and above."""
        level = (style + 1) // 3
        if level != self._level:
            self._level, self._stages = level, [self._stage(level, styles) for styles in self.styles]
        minus, plus = [], []
        for styles, stage in zip(self.styles, self._stages, strict=True):
            moved = moved_styles(tuple(styles), style, channel, statistics, self.config.sigmas)
            images = self.generator.render(moved, self.noise, stage.begin())
            seen = picture_features(self.clip, images.float(), self.config.eight_bit).cpu()
            check_drawn(seen, range(len(seen)))
            below, above = seen.chunk(2)
            minus.append(below)
            plus.append(above)
        return torch.cat(minus), torch.cat(plus)

    def _stage(self, level: int, styles: Sequence[Tensor]) -> PartialDrawing:
        config = self.generator.config
        before = max(0, level - 1)
        side, width = 4 << before, config.channels[before]
        all_samples = sum(len(one[0]) for one in self.styles)
        keeps = 4 * 2 * all_samples * (width + 3) * side**2 <= PREFIX_BYTES
        return PartialDrawing(level, self._last, keeps)


def dictionary_settings(
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    config: DictionaryConfig,
    statistics: StyleStatistics,
    codes: Latents,
) -> dict[str, Any]:
    """Everything that determines a dictionary, as JSON values; see `settings_key`."""
    return {
        "method": "finite differences",
        "generator": network_fingerprint(bundle.generator),
        "clip": encoder_fingerprint(clip),
        "statistics": statistics.digest,
        "codes": fingerprint({"codes": codes.float()}),
        "config": config.describe(),
    }


@torch.no_grad()
def sample_codes(
    bundle: GeneratorBundle,
    config: DictionaryConfig,
    statistics: StyleStatistics,
    latent: Latent | None = None,
) -> Latents:
    """Codes [N, L, W] of the samples that channels are changed in.

    Args:
        bundle: the generator; a conditional one gets its classes in turn.
        config: number and first seed.
        statistics: with whose truncation they are drawn.
        latent: codes instead, taken as they are.
    """
    if latent is not None:
        check_family(latent, bundle)
        return owned(latent.codes(bundle.generator, "a dictionary"))
    c_dim = bundle.generator.config.c_dim
    classes = [index % c_dim for index in range(config.images)] if c_dim else []
    seeds = range(config.seed, config.seed + config.images)
    codes = random_latents(bundle, seeds, classes).codes(bundle.generator)
    return owned(truncate(codes, bundle.mean_latent, statistics.psi, statistics.cutoff))


def measure_dictionary(
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    config: DictionaryConfig | None = None,
    statistics: StyleStatistics | None = None,
    *,
    latent: Latent | None = None,
    state: Path | str | None = None,
    progress: Progress | None = None,
) -> Dictionary:
    """Measure a dictionary by finite differences: 2 x images pictures for every channel.

    Args:
        bundle: the generator, adapted or not, of any size.
        clip: reads the pictures, on the generator's device.
        config: settings; default `DictionaryConfig()`.
        statistics: of its styles; None: measured from 100,000 codes at psi 0.7.
        latent: samples instead of those of `config`, taken as they are.
        state: file in which what was measured is kept; a stopped measurement goes on from it, with the same
            result bit for bit. None: nothing is kept. It stays there at the end; see `StateFile.remove`.
        progress: told after each channel how many of how many are done; one that raises stops.

    Raises:
        ValueError: settings, statistics or a latent that do not fit the generator, or weights that are not
            finite.
        StateError: the state belongs to other settings.
        FloatingPointError: a picture is not finite.
    """
    config = config or DictionaryConfig()
    bundle.check_finite()
    check_weights(clip, f"the CLIP model {clip.name}", "load its file again, or use another")
    check_chunk(bundle, min(config.batch_size, 2 * config.images))
    with torch.inference_mode(False), torch.no_grad():
        statistics = statistics or style_statistics(bundle)
        statistics.check_fits(bundle)
        styles, channels = config.places(statistics.widths)
        codes = sample_codes(bundle, config, statistics, latent)
        settings = dictionary_settings(bundle, clip, config, statistics, codes)
        work = _Measurement(
            _Samples(bundle.generator, codes, clip, config), statistics, styles, channels, settings
        )
        run_saved(work, None if state is None else state_file(state), counted(progress))
        rows, rho, effect = work.whole()
        return Dictionary(
            rows, styles, channels, statistics,
            rho=torch.tensor(rho, dtype=torch.float32),
            effect=torch.tensor(effect, dtype=torch.float32) / (2 * config.sigmas),
            clip=clip.name, clip_fingerprint=settings["clip"], method=settings["method"], settings=settings,
        )  # fmt: skip


class _Measurement:
    """The rows so far."""

    def __init__(
        self,
        samples: _Samples,
        statistics: StyleStatistics,
        styles: Tensor,
        channels: Tensor,
        settings: Mapping[str, Any],
    ) -> None:
        self._samples, self._statistics, self._settings = samples, statistics, settings
        self._places = list(zip(styles.tolist(), channels.tolist(), strict=True))
        self.rows = list[tuple[Tensor, float, float]]()  # with rho and effect
        self._saved = 0  # rows

    def whole(self) -> tuple[Tensor, list[float], list[float]]:
        """Rows [K, D], rho and effect."""
        rows, rho, effect = zip(*self.rows, strict=True)
        return torch.stack(rows), list(rho), list(effect)

    def run(self, callbacks: Sequence[Callable[[tuple[int, int]], None]]) -> None:
        """Measure what is missing."""
        samples, total = self._samples, len(self._places)
        if not samples.config.restore:
            for place in self._places[: len(self.rows)]:
                samples.set_to_mean(*place, self._statistics)
        with ThreadWatch(samples.generator.const.device, "dictionary") as watch:
            for number in range(len(self.rows), total):
                watch.begin()
                self._measure(*self._places[number])
                watch.end(number + 1, self._places[number][0])
                for callback in callbacks:
                    callback((number + 1, total))

    def _measure(self, style: int, channel: int) -> None:
        row, rho, effect = channel_row(*self._samples.features(style, channel, self._statistics))
        self.rows.append((row.float(), rho, effect))
        if not self._samples.config.restore:
            self._samples.set_to_mean(style, channel, self._statistics)

    def save(self, states: StateFile) -> None:
        """Write the rows; atomic, and none twice."""
        if len(self.rows) == self._saved:
            return
        rows, rho, effect = self.whole()
        states.save(SavedState(len(rows), self._settings, {"rows": rows}, {"rho": rho, "effect": effect}))
        self._saved = len(rows)

    def restore(self, states: StateFile, path: Path) -> None:
        """Go on from a file; one that raises DamagedState has changed nothing."""
        width = self._samples.width
        found = states.read(path, self._settings, lambda count: {"rows": torch.zeros(count, width)})
        if not 0 < found.step <= len(self._places):
            raise DamagedState(f"{path}: has {found.step} rows, there are {len(self._places)}")
        told = found.history
        self.rows = list(zip(found.tensors["rows"], told["rho"], told["effect"], strict=True))
        self._saved = found.step


def counted(progress: Progress | None) -> list[Callable[[tuple[int, int]], None]]:
    """What steps tell that count themselves: how many of how many are done."""
    return [] if progress is None else [lambda now: progress(*now)]


def state_file(path: Path | str) -> StateFile:
    """The state of a measurement that is under way."""
    return StateFile(Path(path), STATE_FORMAT, STATE_VERSION, "a dictionary that is being measured")
