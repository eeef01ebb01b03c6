"""The verb adapt: one picture in, a generator out, in a folder that can be resumed."""

from __future__ import annotations

import hashlib
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import CheckpointError, GeneratorBundle, read_tensors, save
from ..features import Encoders
from ..latent_files import load_latent, save_latent
from ..latents import Latent
from ..objective import PROFILES, Aim, Preset
from ..objective.presets import PRESETS, with_half_life
from ..pictures import load_target, save_png
from ..pictures.covers import draw_cover, model_card
from ..pictures.plots import loss_plot
from ..pictures.sheets import adaptation_sheet
from ..sampling import parse_seeds, sample
from ..saved_states import finite
from ..search import SearchConfig
from ..tensors import Images
from ..training import AdaptResult, Progress, StopSignal, TrainConfig, TrainProgress, adapt, check_precision
from ..training.checks import check_adaptable, check_run
from ..training.masking import MASKED_FILE
from ..writing import set_aside
from .console import BadInput, Interrupted, ProgressBar, note
from .interrupts import stop_requests
from .resources import open_encoders, open_generator, open_latent, out_folder, prepare, report
from .run_folder import RunFolder, write_json
from .search import run_search

MAX_GRID_SEEDS = 64


@dataclass(frozen=True)
class Job:
    """One adaptation, ready to run.

    Args:
        source: the generator.
        encoders: CLIP and perceptual net.
        target: [1, 3, S, S].
        target_name: for labels.
        preset: the method.
        config: steps, seed, intervals.
        search: settings of the search; None with `latent`.
        latent: the reference latent where it is given.
        seeds: samples in the grid.
        psi: truncation of the samples in the grid.
        with_discriminator: whether the result's file holds it.
        quiet: no progress.
        fresh: throw an earlier run away.
        names: JSON values about files and encoders, part of the settings.
        mask: [1, 1, S, S] in [0, 1], where the target counts; None: everywhere.
    """

    source: GeneratorBundle
    encoders: Encoders
    target: Images
    target_name: str
    preset: Preset
    config: TrainConfig
    search: SearchConfig | None
    latent: Latent | None
    seeds: tuple[int, ...]
    psi: float = 0.7
    with_discriminator: bool = True
    quiet: bool = False
    fresh: bool = False
    names: dict[str, Any] = field(default_factory=dict)
    mask: torch.Tensor | None = None

    def settings(self) -> dict[str, Any]:
        """Everything that determines the result, but for the number of steps."""
        return {
            **self.names,
            "target_sha256": _digest(self.target),
            "encoders": {"clip": self.encoders.clip.name, "perceptual": self.encoders.perceptual.name},
            "search": None if self.search is None else self.search.describe(),
            "latent_sha256": None if self.latent is None else _digest(self.latent.values),
            "preset": self.preset.describe(),
            **self.config.describe(),
            **({} if self.mask is None else {"mask_sha256": _digest(self.mask)}),
        }


def _digest(tensor: torch.Tensor) -> str:
    values = tensor.detach().cpu().float().contiguous()
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def adapt_command(options: Namespace) -> None:
    """`adapt`: search, adapt, and write the generator, pictures, losses and settings."""
    report(options, run_job(*open_job(options)))


def open_job(options: Namespace) -> tuple[Job, Path]:
    """Check the options of `adapt` and load what they name.

    Returns:
        The job and its folder.
    """
    preset = _preset(options)
    search = None
    if not options.latent:
        search = SearchConfig(
            steps=options.search_steps,
            seed=options.seed,
            weights=dict(options.search_weight),
            profile=preset.profile,
        )
    config = TrainConfig(
        options.steps,
        options.seed,
        snapshot_every_steps=options.snapshot_every,
        precision=options.precision,
    )
    seeds = parse_seeds(options.seeds)
    if len(seeds) > MAX_GRID_SEEDS:
        raise BadInput(
            f"--seeds of the grid are at most {MAX_GRID_SEEDS}, got {len(seeds)}; `sample` draws more"
        )
    device = prepare(options)
    check_precision(config.precision, device)
    source = open_generator(options.generator, device)
    latent = open_latent(options.latent, source) if options.latent else None
    preset = fitted(preset, source, options.crop_px)
    if search is not None:
        search = replace(search, profile=preset.profile)
    check_adaptable(source, preset)
    target, mask = load_target(options.target, source.size, options.fit, options.mask)
    if latent is not None:
        check_run(source, Aim(target, latent), preset)
    folder = out_folder(options.out)
    job = Job(
        source=source,
        encoders=open_encoders(options, source, device),
        target=target,
        target_name=Path(options.target).name,
        preset=preset,
        config=config,
        search=search,
        latent=latent,
        seeds=seeds,
        with_discriminator=not options.without_discriminator,
        quiet=options.quiet,
        fresh=options.fresh,
        names={
            "generator": {"file_name": source.provenance.file_name, "sha256": source.provenance.sha256},
            "target": {"file_name": Path(options.target).name, "fit": options.fit},
        },
        mask=mask,
    )
    return job, folder


def _preset(options: Namespace) -> Preset:
    """The preset with what the options change."""
    if options.preset not in PRESETS:
        raise BadInput(f"--preset must be one of {', '.join(PRESETS)}, got {options.preset!r}")
    preset = PRESETS[options.preset](PROFILES[options.profile]).reweighted(dict(options.weight))
    preset = preset.rebatched(options.batch, options.mixing)
    if options.schedule is not None:
        preset = preset.scheduled({"reference": options.schedule[0], "random": options.schedule[1]})
    if options.learning_rate is not None:
        preset = replace(preset, optimiser=replace(preset.optimiser, learning_rate=options.learning_rate))
    if options.ema_half_life is not None:
        preset = with_half_life(preset, options.ema_half_life)
    return preset


def fitted(preset: Preset, source: GeneratorBundle, crop_px: int | None = None) -> Preset:
    """Set the side of the crops; where the official 128 px do not fit, an eighth of the picture."""
    if crop_px is not None:
        preset = preset.adjusted("patch", crop_px=crop_px)
    preset, notes = preset.fitted(source.size) if crop_px is None else (preset, [])
    for text in notes:
        note(text)
    return preset


def run_job(job: Job, path: Path) -> dict[str, Any]:
    """Run or resume an adaptation in a folder.

    Args:
        job: what to do.
        path: the folder.

    Returns:
        JSON values: files, steps, seconds, last losses.

    Raises:
        BadInput: the folder holds something else.
        Interrupted: the user stopped it; the folder keeps what is done.
    """
    folder = RunFolder(path, job.settings())
    with folder.held():
        return _run(job, folder)


def _run(job: Job, folder: RunFolder) -> dict[str, Any]:
    started, path = time.monotonic(), folder.path
    earlier = folder.open(job.config.steps, job.fresh)
    if earlier is not None and earlier["complete"]:
        note(f"{path} is done already ({earlier['step']} steps); more --steps go on from there")
        found = folder.placed(earlier["files"])
        return {"files": found, "step": earlier["step"], "losses": earlier["losses"]}
    before: dict[str, Any] = earlier or {"step": 0}
    kept: dict[str, Any] = {
        name: before[name] for name in ("files", "losses", "seconds", "result_step") if name in before
    }
    folder.record(before["step"], job.config.steps, kept)
    save_png(job.target, path / "target.png")
    latent, search_losses = _reference(job, folder)
    result = _adapt(job, folder, latent)
    if job.mask is not None:
        save_png(read_tensors(folder.run / MASKED_FILE)[0]["target"], path / "masked_target.png")
    curves = {"search": search_losses, "adapt": _listed(result.losses)}
    write_json(path / "losses.json", curves)
    card = model_card(result.bundle, draw_cover(result.bundle))
    save(result.bundle, folder.adapted, with_discriminator=job.with_discriminator, metadata=card)
    sheet = adaptation_sheet(
        job.source, result.bundle, job.target, latent, job.seeds, psi=job.psi, target_name=job.target_name
    )
    save_png(sheet, path / "grid.png")
    loss_plot(result.losses, path / "losses.png", title=f"{job.preset.name} on {job.target_name}")
    files = {
        "adapted": folder.adapted.name,
        "grid": "grid.png",
        "reference": "reference.png",
        "latent": folder.latent.name,
        "losses": "losses.png",
        "settings": "settings.json",
        "snapshots": f"{folder.run.name}/snapshots",
    }
    last = {name: _last(values) for name, values in result.losses.items()}
    seconds = time.monotonic() - started
    summary = {"files": files, "losses": last, "seconds": round(seconds, 1)}
    folder.record(result.step, job.config.steps, {**summary, "result_step": result.step})
    return {**summary, "files": folder.placed(files), "step": result.step}


def _last(values: list[float]) -> float | None:
    """Last value that was computed."""
    return next((value for value in reversed(values) if value == value), None)


def _reference(job: Job, folder: RunFolder) -> tuple[Latent, dict[str, Any]]:
    """The reference latent: given, found by an earlier run of this folder, or searched now."""
    losses: dict[str, Any] = {}
    latent = job.latent
    if latent is None and folder.latent.is_file():
        latent, losses = _kept_latent(folder), _listed(folder.search_losses())
    if latent is None:
        assert job.search is not None
        found = run_search(
            job.source, job.encoders, job.target, job.search, job.quiet, folder.search_state, job.mask
        )
        latent, losses = found.latent, _listed(found.losses)
        write_json(folder.path / "losses.json", {"search": losses})
    if job.latent is not None or not folder.latent.is_file():
        save_latent(latent, folder.latent)
    save_png(sample(job.source, latent), folder.path / "reference.png")
    return latent, losses


def _listed(curves: Mapping[str, Sequence[float]]) -> dict[str, list[float | None]]:
    return {name: finite(values) for name, values in curves.items()}


def _kept_latent(folder: RunFolder) -> Latent | None:
    """The latent that an earlier search found; one that is damaged is set aside and searched again."""
    try:
        return load_latent(folder.latent)
    except CheckpointError as error:
        set_aside(folder.latent, error)
        return None


def _adapt(job: Job, folder: RunFolder, latent: Latent) -> AdaptResult:
    """Train with a progress line; Ctrl-C ends after the current step and keeps it."""
    stop = StopSignal()
    with ProgressBar("adapt", job.config.steps, quiet=job.quiet) as bar:

        def show(now: TrainProgress) -> None:
            terms = {name: value for name, value in now.losses.items() if not name.endswith("_score")}
            bar.update(now.step, terms, now.eta_seconds)

        with stop_requests(stop.stop_and_keep) as interrupted:
            result = adapt(
                job.source,
                job.encoders,
                Aim(job.target, latent),
                job.preset,
                job.config,
                mask=job.mask,
                run_folder=folder.run,
                callbacks=[Progress(show), stop],
            )
    if interrupted and result.step < job.config.steps:
        folder.record(result.step, job.config.steps)
        raise Interrupted(
            f"stopped after step {result.step} of {job.config.steps}; the same command goes on from there. "
            f"The generator so far: {folder.run / 'snapshots' / f'step_{result.step:06d}.safetensors'}",
            interrupted[0],
        )
    return result
