"""Sampling: seeds to pictures, with truncation, mixing and noise modes.

Everything runs in chunks, and what a sample looks like depends on its own seed only, never on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .batches import Filled, check_batch, check_chunk, check_drawn
from .checkpoints import GeneratorBundle, check_family
from .choices import NOISE_MODES, OWN_DRAW, SEED_DRAWS
from .edits import LatentEdit, edited_codes, edited_styles, part_of
from .latents import Latent, labels, mix, truncate, z_from_seeds
from .memory import check_memory
from .networks import Generator
from .ranges import check_number
from .tensors import Images, Latents, Noise, owned, seeded

MAX_SEEDS = 1_000_000

Samples: TypeAlias = "Sequence[int] | Latent"  # seeds, or codes made elsewhere


@dataclass(frozen=True)
class SampleConfig:
    """Settings of a sampling; slots are the L inputs of a W+ code, coarse (0) to fine (L - 1).

    The test-time trick of the published code is `replace_from=11` with `psi=0.7`: pose and shape from the
    sample, fine strokes and colours from the mean (methods.md C).
    """

    psi: float = 1.0  # truncation: 1 leaves a code as it is, 0 gives the mean
    cutoff: int | None = None  # number of first slots that are truncated; None: all
    noise: str = "const"  # "const": the maps stored with the weights; "none"; "random": drawn per sample
    noise_seed: int = 0  # of the random noise, together with the sample's own seed
    mix_seeds: tuple[int, ...] = ()  # style mixing: one seed for all samples, or one per sample
    mix_from: int = 0  # first slot that comes from `mix_seeds`
    mix_to: int | None = None  # slot after the last one from `mix_seeds`; None: L
    replace_from: int | None = None  # slots from here on come from the mean or the reference latent
    batch_size: int = 8  # pictures per chunk
    keep_codes: bool = False  # draw latents in w and w+ as they are; psi is then for seeds and z alone
    seed_draw: str = OWN_DRAW  # how z is drawn from a seed, see `z_from_seeds`

    def __post_init__(self) -> None:
        object.__setattr__(self, "mix_seeds", tuple(self.mix_seeds))
        if self.noise not in NOISE_MODES:
            raise ValueError(f"noise must be one of {', '.join(NOISE_MODES)}, got {self.noise!r}")
        if self.seed_draw not in SEED_DRAWS:
            raise ValueError(f"seed_draw must be one of {', '.join(SEED_DRAWS)}, got {self.seed_draw!r}")
        check_number(self.psi, "psi (usually 0.5 to 1)", low=-10, high=10)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        for name in ("cutoff", "mix_from", "mix_to", "replace_from"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is a slot number from 0 on, got {value}")
        if self.mix_to is not None and self.mix_to < self.mix_from:
            raise ValueError(f"mix_to must not be below mix_from, got {self.mix_from} to {self.mix_to}")

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {**asdict(self), "mix_seeds": list(self.mix_seeds)}

    def check(self, slots: int) -> None:
        """Refuse slot numbers that a generator of that many slots does not have; raises ValueError."""
        for name in ("cutoff", "mix_from", "mix_to", "replace_from"):
            value = getattr(self, name)
            if value is not None and value > slots:
                raise ValueError(f"{name} must be at most {slots} for this generator, got {value}")


class Chunk(NamedTuple):
    """Some samples, ready to be drawn.

    Args:
        codes: [n, L, W], final: mapped, truncated, mixed, replaced, with the W+ edits.
        keys: n seeds, or positions where no seeds are known.
        edits: of styles, for these n samples; they come in when the styles are there.
    """

    codes: Latents
    keys: list[int]
    edits: tuple[LatentEdit, ...] = ()


def parse_seeds(text: str, what: str = "seeds") -> tuple[int, ...]:
    """Read a list of seeds and ranges such as "0-15,42"; ranges include both ends.

    Raises:
        ValueError: empty, not numbers, a range that runs backwards, or more than a million seeds.
    """
    seeds: list[int] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        low, dash, high = part.partition("-")
        try:
            first, last = int(low), int(high) if dash else int(low)
        except ValueError:
            raise ValueError(f"{what} are numbers and ranges such as 0-15,42; cannot read {part!r}") from None
        if last < first:
            raise ValueError(f"the range {part!r} runs backwards; write {last}-{first}")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise ValueError(f"{text!r} is more than {MAX_SEEDS:,} {what}; give fewer at once")
        seeds += range(first, last + 1)
    if not seeds:
        raise ValueError(f"no {what} given; give at least one, such as 0 or 0-15")
    return tuple(seeds)


def parse_classes(text: str) -> tuple[int, ...]:
    """Read numbers of classes or layers such as "0-3,7" like seeds; empty text gives none."""
    return parse_seeds(text, "classes and layers") if text.strip() else ()


def random_latents(
    bundle: GeneratorBundle, seeds: Sequence[int], classes: Sequence[int] = (), seed_draw: str = OWN_DRAW
) -> Latent:
    """Make one latent per seed; sampling it gives what sampling the seeds gives.

    Args:
        bundle: whose latent space is meant.
        seeds: one per sample.
        classes: of a conditional generator, one for all or one per sample; default class 0.
        seed_draw: how z is drawn from a seed, see `latents.z_from_seeds`.

    Returns:
        Space "z", or "w" for a conditional generator, whose w depends on the class.
    """
    generator = bundle.generator
    check_memory(8 * len(seeds) * generator.config.z_dim, f"latents of {len(seeds)} seeds", "give fewer")
    z = z_from_seeds(seeds, generator.config.z_dim, seed_draw)
    origin: dict[str, Any] = {"method": "seeds", "seeds": list(seeds), "generator": bundle.title}
    if seed_draw != OWN_DRAW:
        origin["seed_draw"] = seed_draw
    if not generator.config.c_dim:
        labels(classes, len(seeds), 0)
        return Latent("z", z, bundle.family, origin)
    c = labels(classes, len(seeds), generator.config.c_dim)
    assert c is not None
    with torch.no_grad():
        w = generator.map_single(z.to(generator.const), c.to(generator.const))
    return Latent("w", owned(w).cpu().float(), bundle.family, {**origin, "classes": list(classes or [0])})


@torch.no_grad()
def iter_codes(
    bundle: GeneratorBundle,
    samples: Samples,
    config: SampleConfig | None = None,
    *,
    classes: Sequence[int] = (),
    reference: Latent | None = None,
) -> Iterator[Chunk]:
    """Make final codes chunk by chunk: mapped, truncated, mixed, replaced, then edited.

    Args:
        bundle: generator and mean latent.
        samples: seeds or a latent of N codes.
        config: settings.
        classes: for seeds and z of a conditional generator, one for all or one per sample; default class 0.
        reference: one code, whose slots replace those from `config.replace_from` on; None: the mean latent.

    Yields:
        What `render_codes` draws.

    Raises:
        ValueError: a latent of another family, slots or classes out of range, mixing seeds that do not fit.
    """
    config = config or SampleConfig()
    keys, total = keys_of(samples), count_of(samples)
    _check(bundle, samples, config, total, reference)
    c = labels(_needed_classes(bundle, samples, classes), total, bundle.generator.config.c_dim)
    last = replacement_code(bundle, reference)
    for start in range(0, total, config.batch_size):
        part = slice(start, min(start + config.batch_size, total))
        own = _values(samples, part)
        codes = _mapped(bundle.generator, own, None if c is None else c[part], config.seed_draw)
        if not (config.keep_codes and isinstance(samples, Latent) and samples.space != "z"):
            codes = truncate(codes, bundle.mean_latent, config.psi, config.cutoff)
        if config.mix_seeds:
            seeds = config.mix_seeds if len(config.mix_seeds) == 1 else config.mix_seeds[part]
            one = None if c is None else c[part][: len(seeds)]
            other = _mapped(bundle.generator, list(seeds), one, config.seed_draw)
            other = truncate(other, bundle.mean_latent, config.psi, config.cutoff)
            codes = mix(codes, other, config.mix_from, config.mix_to)
        if config.replace_from is not None:
            codes = mix(codes, last.to(codes), config.replace_from)
        yield _edited(codes, keys[part], samples, part)


def _edited(codes: Latents, keys: list[int], samples: Samples, part: slice) -> Chunk:
    """Add a latent's W+ edits last, so that neither truncation nor replacement takes them back."""
    if not isinstance(samples, Latent):
        return Chunk(codes, keys)
    return Chunk(edited_codes(codes, part_of(samples.edits, part)), keys, part_of(samples.style_edits, part))


def keys_of(samples: Samples) -> list[int]:
    """Number every sample for its random noise: by its seed, or by position where no seeds are known."""
    if not isinstance(samples, Latent):
        return list(samples)
    seeds = samples.origin.get("seeds", [])
    return list(seeds) if len(seeds) == len(samples.values) else list(range(len(samples.values)))


def count_of(samples: Samples) -> int:
    """Count the samples."""
    return len(samples.values) if isinstance(samples, Latent) else len(samples)


def _values(samples: Samples, part: slice) -> Latent | list[int]:
    if isinstance(samples, Latent):
        return replace(samples, values=samples.values[part], edits=())
    return list(samples[part])


def _check(
    bundle: GeneratorBundle, samples: Samples, config: SampleConfig, total: int, reference: Latent | None
) -> None:
    if total == 0:
        raise ValueError("there is nothing to sample; give at least one seed or latent")
    config.check(bundle.num_layers)
    bundle.check_finite()
    if len(config.mix_seeds) not in (0, 1, total):
        raise ValueError(f"mix_seeds must be one seed or {total}, got {len(config.mix_seeds)}")
    if isinstance(samples, Latent):
        check_family(samples, bundle)
    if reference is not None:
        check_family(reference, bundle, "reference")
        if len(reference.values) != 1:
            raise ValueError(
                f"the reference must be one code, whose slots go into every picture; this one holds "
                f"{len(reference.values)}"
            )


def _needed_classes(
    bundle: GeneratorBundle, samples: Samples, classes: Sequence[int]
) -> Sequence[int] | None:
    """Classes as `labels` wants them; codes in w have theirs built in."""
    if isinstance(samples, Latent) and samples.space != "z" and classes:
        raise ValueError("classes belong to seeds and z; a latent in w has its class built in")
    return classes or None


def replacement_code(bundle: GeneratorBundle, reference: Latent | None) -> Latents:
    """Code [1, L, W] whose slots replace those of the samples."""
    if reference is not None:
        return reference.codes(bundle.generator, "a reference")
    return bundle.generator.broadcast(bundle.mean_latent[None].to(bundle.generator.const))


def _mapped(generator: Generator, samples: Latent | list[int], c: Tensor | None, draw: str) -> Latents:
    """Codes [n, L, W] of seeds or of a latent."""
    like = generator.const
    if isinstance(samples, Latent) and samples.space != "z":
        return samples.unedited(generator)
    z = samples.values if isinstance(samples, Latent) else z_from_seeds(samples, generator.config.z_dim, draw)
    return generator.map(z.to(like), None if c is None else c.to(like))


@torch.no_grad()
def render_codes(
    generator: Generator,
    codes: Latents,
    keys: Sequence[int],
    config: SampleConfig | None = None,
    edits: Sequence[LatentEdit] = (),
) -> Images:
    """Draw one chunk of codes.

    Args:
        generator: who draws.
        codes: [n, L, W].
        keys: n numbers that, with `noise_seed`, decide a sample's random noise; usually its seed.
        config: noise mode and seed.
        edits: of styles, for these n codes.

    Returns:
        [n, 3, S, S] float32 on the CPU, not clamped; FloatingPointError where one is not finite.
    """
    noise = _noise(generator, keys, config or SampleConfig())
    styles = edited_styles(generator.affine(codes), edits)
    return check_drawn(generator.render(styles, noise).float().cpu(), keys)


def _noise(generator: Generator, keys: Sequence[int], config: SampleConfig) -> Noise | None:
    if config.noise == "none":
        return None
    if config.noise == "const":
        return generator.constant_noise()
    return [
        torch.cat([_noise_map(config.noise_seed, key, index, shape) for key in keys]).to(generator.const)
        for index, shape in enumerate(generator.noise_shapes())
    ]


def _noise_map(seed: int, key: int, index: int, shape: tuple[int, int]) -> Tensor:
    return torch.randn(1, 1, *shape, generator=seeded(seed, key, f"sample.noise.{index}"))


def iter_samples(
    bundle: GeneratorBundle,
    samples: Samples,
    config: SampleConfig | None = None,
    *,
    classes: Sequence[int] = (),
    reference: Latent | None = None,
) -> Iterator[Images]:
    """Draw samples chunk by chunk, so that memory does not grow with their number; see `sample`."""
    config = config or SampleConfig()
    check_chunk(bundle, min(config.batch_size, count_of(samples)))
    for codes, keys, edits in iter_codes(bundle, samples, config, classes=classes, reference=reference):
        yield render_codes(bundle.generator, codes, keys, config, edits)


def sample(
    bundle: GeneratorBundle,
    samples: Samples,
    config: SampleConfig | None = None,
    *,
    classes: Sequence[int] = (),
    reference: Latent | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Draw samples.

    Args:
        bundle: the generator.
        samples: seeds, or a latent of N codes.
        config: truncation, mixing, noise, chunk size; default `SampleConfig()`.
        classes: of a conditional generator, one for all or one per sample; default class 0.
        reference: for `replace_from`; None: the mean latent.
        progress: told after each chunk how many of how many are done; one that raises stops.

    Returns:
        [N, 3, S, S] float32 on the CPU; the same for any chunk size up to rounding of the last bits.

    Raises:
        ValueError: see `iter_codes`; or memory cannot hold all pictures, then none is drawn.
    """
    images, _ = sample_with_codes(
        bundle, samples, config, classes=classes, reference=reference, progress=progress
    )
    return images


def sample_with_codes(
    bundle: GeneratorBundle,
    samples: Samples,
    config: SampleConfig | None = None,
    *,
    classes: Sequence[int] = (),
    reference: Latent | None = None,
    progress: Callable[[int, int], None] | None = None,
    convert: Callable[[Images], Tensor] | None = None,
) -> tuple[Tensor, Latent]:
    """Draw samples, and return the w+ codes that were drawn beside the pictures.

    Arguments as in `sample`, and `convert`: applied to each chunk [n, 3, S, S] before it is kept, so that all
    pictures are never held in two forms.
    """
    config, total = config or SampleConfig(), count_of(samples)
    check_batch(bundle, total, config.batch_size)
    images, codes, keys = Filled(total, convert), Filled(total), list[int]()
    chunks = iter_codes(bundle, samples, config, classes=classes, reference=reference)
    for part, part_keys, edits in chunks:
        images.add(render_codes(bundle.generator, part, part_keys, config, edits))
        codes.add(owned(part).cpu().float())
        keys += part_keys
        if progress is not None:
            progress(len(keys), total)
    origin = {"method": "sampled", "generator": bundle.title, "seeds": keys, "settings": config.describe()}
    return images.whole(), Latent("w+", codes.whole(), bundle.family, origin, style_edits_of(samples))


def style_edits_of(samples: Samples) -> tuple[LatentEdit, ...]:
    """Edits that the codes of drawn samples do not hold; those of W+ are in them."""
    return samples.style_edits if isinstance(samples, Latent) else ()


def truncation_sweep(
    bundle: GeneratorBundle,
    samples: Samples,
    psis: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    config: SampleConfig | None = None,
    *,
    classes: Sequence[int] = (),
) -> list[Images]:
    """Draw the same samples at several truncations: one [N, 3, S, S] per psi."""
    if not psis:
        raise ValueError("no psi given; give at least one, such as 0.7")
    config = config or SampleConfig()
    check_batch(bundle, count_of(samples) * len(psis), config.batch_size)
    return [sample(bundle, samples, replace(config, psi=psi), classes=classes) for psi in psis]


@torch.no_grad()
def mixed_latents(
    bundle: GeneratorBundle, first: Samples, second: Samples, config: SampleConfig | None = None
) -> Latent:
    """Mix every sample of one list with every sample of another.

    Args:
        bundle: the generator.
        first: R seeds or codes, whose slots stay.
        second: C seeds or codes, whose slots `config.mix_from` up to `config.mix_to` are taken.
        config: settings; its `mix_seeds` must be empty.

    Returns:
        Space "w+", [R * C, L, W], row by row: sample r mixed with each of `second`. Edits of styles are those
        of `first`, for slots are not theirs.

    Raises:
        ValueError: mixing seeds in the settings, or see `iter_codes`.
    """
    config = config or SampleConfig()
    if config.mix_seeds:
        raise ValueError("the samples to mix are arguments of their own; leave mix_seeds empty")
    total, wide = count_of(first) * count_of(second), count_of(second)
    check_memory(
        8 * total * bundle.num_layers * bundle.generator.config.w_dim, f"{total} latents", "mix fewer"
    )
    plain = replace(config, replace_from=None)
    rows = torch.cat([chunk.codes for chunk in iter_codes(bundle, first, plain)])
    others = torch.cat([chunk.codes for chunk in iter_codes(bundle, second, plain)])
    mixed = mix(
        rows.repeat_interleave(wide, 0), others.repeat(len(rows), 1, 1), config.mix_from, config.mix_to
    )
    edits = (edit.mapped(lambda each: each.repeat_interleave(wide, 0)) for edit in style_edits_of(first))
    told = {
        "method": "style mixing",
        "generator": bundle.title,
        "rows": keys_of(first),
        "columns": keys_of(second),
    }
    return Latent("w+", owned(mixed).cpu().float(), bundle.family, told, tuple(edits))


def mix_table(
    bundle: GeneratorBundle, first: Samples, second: Samples, config: SampleConfig | None = None
) -> list[Images]:
    """Draw `mixed_latents`: R tensors [C, 3, S, S], one per sample of `first`.

    Source: NVlabs stylegan2-ada-pytorch style_mixing.py (there the range of slots is inclusive).
    """
    config = config or SampleConfig()
    check_batch(bundle, count_of(first) * count_of(second), config.batch_size)
    latent = mixed_latents(bundle, first, second, config)
    return list(sample(bundle, latent, replace(config, psi=1.0)).split(count_of(second)))
