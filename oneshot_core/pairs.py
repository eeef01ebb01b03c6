"""Pairs of pictures: the same latents drawn by the source and by the adapted generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .batches import Filled, check_batch, check_chunk
from .checkpoints import GeneratorBundle, check_pair
from .edits import STYLE, edited_codes, part_of
from .latents import Latent, mix
from .sampling import (
    SampleConfig,
    Samples,
    count_of,
    iter_codes,
    render_codes,
    replacement_code,
    style_edits_of,
)
from .tensors import Images, owned


@dataclass(frozen=True)
class SamplePairs:
    """The same latents drawn by two generators.

    Args:
        source: [N, 3, S, S], by the source generator.
        adapted: [N, 3, S, S], by the adapted one.
        latent: the w+ codes of the adapted pictures; those of the source differ from `replace_from` on.
    """

    source: Images
    adapted: Images
    latent: Latent


def iter_pairs(
    source: GeneratorBundle,
    adapted: GeneratorBundle,
    samples: Samples,
    config: SampleConfig | None = None,
    *,
    classes: Sequence[int] = (),
    reference: Latent | None = None,
) -> Iterator[tuple[SamplePairs, list[int]]]:
    """Draw pairs chunk by chunk, each with its keys as in `iter_codes`; see `sample_pairs`."""
    check_pair(source, adapted)
    config = config or SampleConfig()
    config.check(source.num_layers)
    adapted.check_finite()
    check_chunk(adapted, min(config.batch_size, count_of(samples)))
    plain, last = replace(config, replace_from=None), replacement_code(source, reference)
    edited = samples.edits if isinstance(samples, Latent) else ()
    unedited = replace(samples, edits=()) if isinstance(samples, Latent) else samples
    done = 0
    for codes, keys, _ in iter_codes(source, unedited, plain, classes=classes, reference=reference):
        edits = part_of(edited, slice(done, done + len(keys)))
        done += len(keys)
        own = codes if config.replace_from is None else mix(codes, last.to(codes), config.replace_from)
        # Only now: replacement would take W+ edits of fine slots back.
        codes, own = edited_codes(codes, edits), edited_codes(own, edits)
        latent = Latent(
            "w+", owned(own).cpu().float(), source.family, _pairs_origin(source, keys, config),
            tuple(edit for edit in edits if edit.space == STYLE),
        )  # fmt: skip
        drawn = render_codes(adapted.generator, own.to(adapted.generator.const), keys, config, edits)
        yield SamplePairs(render_codes(source.generator, codes, keys, config, edits), drawn, latent), keys


def sample_pairs(
    source: GeneratorBundle,
    adapted: GeneratorBundle,
    samples: Samples,
    config: SampleConfig | None = None,
    *,
    classes: Sequence[int] = (),
    reference: Latent | None = None,
    progress: Callable[[int, int], None] | None = None,
    convert: Callable[[Images], Tensor] | None = None,
) -> SamplePairs:
    """Draw the same latents by the source and by the adapted generator.

    Args:
        source: who was adapted.
        adapted: the result.
        samples: seeds, or a latent of N codes.
        config: settings; `replace_from` is for the adapted pictures only, as in the published test script.
        classes: of conditional generators, one for all or one per sample; default class 0.
        reference: for `replace_from`; None: the mean latent.
        progress: told after each chunk how many of how many are done; one that raises stops.
        convert: applied to each chunk of pictures before it is kept, as in `sample_with_codes`.

    Returns:
        Both sets of pictures and the codes of the adapted ones.

    Raises:
        ValueError: the generators are not related, memory cannot hold all pictures, or see `iter_codes`.

    Source: methods.md C; one deviation: codes come from the source's mapping network, which the method
    freezes.
    """
    config, total = config or SampleConfig(), count_of(samples)
    check_batch(adapted, total, config.batch_size, copies=2)
    ours, theirs, codes, keys = Filled(total, convert), Filled(total, convert), Filled(total), list[int]()
    chunks = iter_pairs(source, adapted, samples, config, classes=classes, reference=reference)
    for part, part_keys in chunks:
        ours.add(part.source)
        theirs.add(part.adapted)
        codes.add(part.latent.values)
        keys += part_keys
        if progress is not None:
            progress(len(keys), total)
    origin = _pairs_origin(source, keys, config)
    latent = Latent("w+", codes.whole(), source.family, origin, style_edits_of(samples))
    return SamplePairs(ours.whole(), theirs.whole(), latent)


def _pairs_origin(source: GeneratorBundle, keys: list[int], config: SampleConfig) -> dict[str, Any]:
    told = {"method": "sample_pairs", "generator": source.title}
    return {**told, "seeds": keys, "settings": config.describe()}
