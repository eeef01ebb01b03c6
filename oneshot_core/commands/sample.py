"""The verb sample: pictures from seeds or latents, one file each, and a grid."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..batches import check_chunk
from ..checkpoints import GeneratorBundle
from ..interpolation import interpolate
from ..latent_files import save_latent
from ..latents import Latent
from ..pairs import iter_pairs
from ..pictures import Row, labelled_grid, save_png, thumbnails
from ..sampling import (
    SampleConfig,
    Samples,
    count_of,
    iter_codes,
    keys_of,
    parse_seeds,
    random_latents,
    render_codes,
    truncation_sweep,
)
from ..tensors import Images
from .console import BadInput, ProgressBar
from .resources import open_generator, open_latent, out_folder, prepare, report

COLUMNS, MAX_SHOWN = 8, 64  # of the grid


@dataclass
class _Job:
    """What is drawn, and the first pictures for the grid."""

    options: Namespace
    out: Path
    bundle: GeneratorBundle
    source: GeneratorBundle | None
    samples: Samples
    config: SampleConfig
    reference: Latent | None
    classes: tuple[int, ...]
    done: int = 0
    shown: list[Images] = field(default_factory=list)
    shown_source: list[Images] = field(default_factory=list)

    def write(self, images: Images, keys: list[int], prefix: str = "") -> None:
        """Write pictures as files that hold what is needed to draw them again."""
        bundle = self.source if prefix and self.source else self.bundle
        settings = {**self.config.describe(), **_generator_of(bundle)}
        for offset, key in enumerate(keys):
            path = self.out / f"{prefix}{self._name(self.done + offset, key)}.png"
            text = json.dumps({**settings, "seed": key})
            save_png(images[offset : offset + 1], path, text={"oneshot": text})

    def _name(self, index: int, key: int) -> str:
        if self.options.interpolate:
            return f"frame_{index:06d}"
        return f"sample_{index:06d}" if self.options.latent else f"seed_{key:06d}"


def _generator_of(bundle: GeneratorBundle) -> dict[str, Any]:
    """What a picture's file says of who drew it: the generator's file, and the looks that were added."""
    known = bundle.provenance
    if known.format != "look":
        return {"generator_sha256": known.sha256}
    return {"generator_sha256": known.history["parent"]["sha256"], "looks": known.history["looks"]}


def sample(options: Namespace) -> None:
    """`sample`: draw pictures from seeds or latents."""
    job = _job(options)
    files = {}
    if options.save_latent:
        kept = job.samples
        if not isinstance(kept, Latent):
            kept = random_latents(job.bundle, kept, job.classes, job.config.seed_draw)
        files["latent"] = str(save_latent(kept, options.save_latent))
    if options.sweep:
        rows = _sweep(job)
    else:
        _draw(job)
        files["pictures"] = str(job.out)
        rows = _rows(job)
    captions = [_caption(job, key) for key in keys_of(job.samples)[:COLUMNS]]
    whole = len(rows) <= 2 or bool(options.sweep)  # else the columns hold several seeds
    grid = labelled_grid(rows, columns=captions if whole else ())
    files["grid"] = str(save_png(grid, job.out / "grid.png"))
    report(options, {"files": files, "count": count_of(job.samples), "settings": job.config.describe()})


def _job(options: Namespace) -> _Job:
    """Read the options and open the files."""
    if options.sweep and (options.source or options.interpolate):
        raise BadInput("--sweep draws one generator's samples; leave out --source and --interpolate")
    if options.loop and not options.interpolate:
        raise BadInput("--loop belongs to --interpolate")
    if options.mix_slots and not options.mix_seeds:
        raise BadInput("--mix-slots needs --mix-seeds")
    config = _config(options)
    seeds = () if options.latent else parse_seeds(options.seeds)
    device = prepare(options)
    bundle = open_generator(options.generator, device, options.looks)
    if config.mix_to is not None and config.mix_to > bundle.num_layers:
        raise BadInput(
            f"--mix-slots must lie within 0-{bundle.num_layers - 1}, the slots of this generator, got "
            f"{config.mix_from}-{config.mix_to - 1}"
        )
    samples: Samples = open_latent(options.latent, bundle) if options.latent else seeds
    reference = open_latent(options.replace_with, bundle) if options.replace_with else None
    source = open_generator(options.source, device) if options.source else None
    classes: tuple[int, ...] = () if options.class_index is None else (options.class_index,)
    if options.interpolate:
        if not isinstance(samples, Latent):
            samples, classes = random_latents(bundle, samples, classes, config.seed_draw), ()
        samples = interpolate(bundle, samples, options.interpolate, loop=options.loop)
    return _Job(options, out_folder(options.out), bundle, source, samples, config, reference, classes)


def _config(options: Namespace) -> SampleConfig:
    first, end = options.mix_slots or (0, None)
    return SampleConfig(
        psi=options.psi,
        cutoff=options.cutoff,
        noise=options.noise,
        noise_seed=options.noise_seed,
        mix_seeds=parse_seeds(options.mix_seeds) if options.mix_seeds else (),
        mix_from=first,
        mix_to=end,
        replace_from=options.replace_from,
        batch_size=options.batch,
        seed_draw=options.seed_draw,
    )


def _chunks(job: _Job) -> Iterator[tuple[Images, Images | None, list[int]]]:
    """Pictures, the source generator's pictures where it is given, and keys."""
    if job.source is not None:
        pairs = iter_pairs(
            job.source, job.bundle, job.samples, job.config, classes=job.classes, reference=job.reference
        )
        for pair, keys in pairs:
            yield pair.adapted, pair.source, keys
        return
    check_chunk(job.bundle, min(job.config.batch_size, count_of(job.samples)))
    codes = iter_codes(job.bundle, job.samples, job.config, classes=job.classes, reference=job.reference)
    for part, keys, edits in codes:
        yield render_codes(job.bundle.generator, part, keys, job.config, edits), None, keys


def _draw(job: _Job) -> None:
    """Write every picture as soon as it is drawn; the first ones stay for the grid."""
    with ProgressBar("sample", count_of(job.samples), quiet=job.options.quiet) as bar:
        for images, source, keys in _chunks(job):
            job.write(images, keys)
            if source is not None:
                job.write(source, keys, "source_")
            if job.done < MAX_SHOWN:
                room = MAX_SHOWN - job.done
                job.shown.append(thumbnails(images[:room]))
                job.shown_source += [] if source is None else [thumbnails(source[:room])]
            job.done += len(images)
            bar.update(job.done)


def _rows(job: _Job) -> list[Row]:
    """Rows of at most eight pictures, with their seeds where several rows are needed."""
    images = torch.cat(job.shown)
    if job.source is not None:
        source = torch.cat(job.shown_source)[:COLUMNS]
        return [("source", source), ("adapted", images[:COLUMNS])]
    if len(images) <= COLUMNS:
        return [(job.bundle.provenance.file_name, images)]
    keys = keys_of(job.samples)
    return [
        (" · ".join(_caption(job, key) for key in (keys[start], keys[start : start + COLUMNS][-1])), part)
        for start, part in zip(range(0, len(images), COLUMNS), images.split(COLUMNS), strict=True)
    ]


def _caption(job: _Job, key: int) -> str:
    kind = "frame" if job.options.interpolate else "sample" if job.options.latent else "seed"
    return f"{kind} {key}"


def _sweep(job: _Job) -> list[Row]:
    """One row per truncation, of the first eight samples."""
    samples = job.samples
    if isinstance(samples, Latent):
        samples = samples.part(slice(COLUMNS))
    else:
        samples = samples[:COLUMNS]
    psis = job.options.sweep
    return [
        (f"psi {psi:g}", thumbnails(images))
        for psi in psis
        for images in truncation_sweep(job.bundle, samples, [psi], job.config, classes=job.classes)
    ]
