"""The verb edit: latents changed by a text or by directions, and their pictures before and after."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import GeneratorBundle, check_family, check_pair
from ..editing.direction import Direction, apply_direction, check_direction
from ..editing.direction_files import load_direction, save_direction
from ..editing.gradient_directions import GradientConfig, text_direction
from ..editing.mapper import LatentMapper, apply_mapper
from ..editing.mapper_config import MapperConfig
from ..editing.mapper_files import load_mapper, save_mapper
from ..editing.mapper_training import train_mapper, training_states
from ..editing.optimisation import EditConfig, EditResult, direction_of_edit, edit_latents
from ..edits import STYLE
from ..encoder_choice import EncoderChoice, encoder_notes
from ..features import ClipEncoder
from ..features.identity import IdentityNet, load_arcface
from ..kept_folders import KeptFolders
from ..latent_files import save_latent
from ..latents import Latent
from ..pictures import Row, labelled_grid, save_png, thumbnails
from ..pictures.plots import loss_plot
from ..sampling import SampleConfig, count_of, iter_codes, keys_of, parse_seeds, sample
from ..tensors import owned
from .console import BadInput, Interrupted, ProgressBar, note
from .edit_options import DIRECTION, GRADIENT, LEVELS, MAPPER, OPTIMISATION, check_options, given
from .following import UNFINISHED, followed_steps, gone_on_with
from .interrupts import Signalled
from .resources import (
    open_generator,
    open_latent,
    out_folder,
    out_path,
    prepare,
    report,
    shown_download,
)

SHOWN = 8  # latents on the sheet
GRADIENT_STRENGTH = 4.0  # sigmas of the strongest channel, where none is given
STATE = "mapper_training.safetensors"


@dataclass
class _Job:
    """What is edited and by whom."""

    options: Namespace
    out: Path
    device: torch.device
    bundle: GeneratorBundle
    adapted: GeneratorBundle | None
    latent: Latent | None  # None: of --start

    @property
    def strength(self) -> float:
        """By which everything is multiplied."""
        return 1.0 if self.options.strength is None else float(self.options.strength)


@dataclass
class _Edited:
    """What a method made.

    Args:
        before: the latents.
        after: with their edits.
        files: that were written beside them, by kind.
        told: JSON values for the report.
    """

    before: Latent
    after: Latent
    files: dict[str, Path] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)


def edit_command(options: Namespace) -> None:
    """`edit`: edit latents, and write them, a sheet of before and after, and what was found on the way."""
    began = time.monotonic()
    check_options(options)
    job = _job(options)
    with gone_on_with(job.out / UNFINISHED, "edit") as kept:
        edited = _METHODS[options.method](job, kept)
        files = {
            "latent": save_latent(edited.after, job.out / "edited.safetensors"),
            "sheet": save_png(_sheet(job, edited), job.out / "sheet.png"),
            **edited.files,
        }
    told = {"files": {kind: str(path) for kind, path in files.items()}, **edited.told}
    report(options, {**told, "seconds": round(time.monotonic() - began, 1)})


def _job(options: Namespace) -> _Job:
    device = prepare(options)
    out_path(options.out)
    bundle = open_generator(options.generator, device)
    adapted = open_generator(options.adapted, device) if options.adapted else None
    if adapted is not None:
        check_pair(bundle, adapted)
    latent = _latent(options, bundle)
    if latent is not None:
        check_family(latent, bundle)
    return _Job(options, out_folder(options.out), device, bundle, adapted, latent)


def _latent(options: Namespace, bundle: GeneratorBundle) -> Latent | None:
    """Codes of a file, or of seeds, truncated, in w+; None where --start makes one."""
    if options.start is not None:
        if options.class_index is not None:
            raise BadInput("--class is for --seeds; leave it out")
        return None
    if options.latent is not None:
        if options.psi is not None or options.class_index is not None:
            raise BadInput("--psi and --class are for --seeds; a latent from a file is edited as it is")
        return open_latent(options.latent, bundle)
    seeds = parse_seeds(options.seeds)
    classes = () if options.class_index is None else (options.class_index,)
    config = SampleConfig(psi=1.0 if options.psi is None else options.psi)
    chunks = [owned(one.codes).cpu().float() for one in iter_codes(bundle, seeds, config, classes=classes)]
    origin = {"method": "seeds", "seeds": list(seeds), "generator": bundle.title, "psi": config.psi}
    return Latent("w+", torch.cat(chunks), bundle.family, origin)


def _clip(job: _Job) -> ClipEncoder:
    """Open CLIP, with a bar for a download, and tell what is assumed of it."""
    options = job.options
    choice = EncoderChoice.suited_to(job.bundle).named(options.clip)
    with shown_download(options.quiet) as progress:
        opened = choice.open(allow_download=not options.offline, progress=progress)
        clip = opened.clip
    for text in [*choice.notes(), *encoder_notes(job.bundle, opened.clip_name, "")]:
        note(text)
    for text in (options.text, options.neutral_text):
        for line in clip.text_notes(text) if text else []:
            note(line)
    return clip if job.device.type == "cpu" else opened.to(job.device).clip


def _identity(job: _Job) -> IdentityNet | None:
    return None if job.options.identity is None else load_arcface(job.options.identity).to(job.device)


def _sheet(job: _Job, edited: _Edited) -> Any:
    """Rows of latents before and after, by the generator and the one adapted from it."""
    part = slice(min(SHOWN, count_of(edited.after)))
    rows = list[Row]()
    config = SampleConfig(keep_codes=True, batch_size=job.options.batch)
    for label, bundle in (("", job.bundle), (" · adapted", job.adapted)):
        if bundle is not None:
            for name, latent in (("before", edited.before), ("after", edited.after)):
                rows.append((f"{name}{label}", thumbnails(sample(bundle, latent.part(part), config))))
    captions = [str(key) for key in keys_of(edited.after)[part]]
    title = job.options.text or ", ".join(edit.name for edit in edited.after.edits[-1:])
    return labelled_grid(rows, columns=captions, title=title)


# Methods ------------------------------------------------------------------------------------------------


def _optimised(job: _Job, kept: KeptFolders) -> _Edited:
    """StyleCLIP's latent optimisation."""
    options = job.options
    names = ("steps", "learning_rate", "l2_weight", "space", "views", "seed", "preprocessing", "start")
    weight = 0.1 if options.identity and options.identity_weight is None else options.identity_weight
    config = EditConfig(**given(options, *names), identity_weight=weight or 0.0, batch_size=options.batch)
    if options.start is not None and options.psi is not None:
        config = replace(config, psi=options.psi)
    steps = config.steps * (1 if job.latent is None else len(job.latent.values))
    clip, identity = _clip(job), _identity(job)
    with followed_steps("edit", steps, options.quiet) as follow:
        result = edit_latents(
            job.bundle, clip, job.latent, options.text, config,
            neutral_text=options.neutral_text or "", identity=identity, callbacks=[follow], kept=kept,
        )  # fmt: skip
    before = job.latent or _start_of(result)
    files = {}
    if any(bool(vector.any()) for vector in result.change.vectors.values()):
        made = direction_of_edit(result, job.bundle)
        files["direction"] = save_direction(made, job.out / "direction.safetensors")
    else:
        note("nothing changed, so there is no direction; allow more steps, or a higher learning rate")
    losses = loss_plot(result.losses, job.out / "losses.png", title=options.text)
    last = {term: values[-1] for term, values in result.losses.items()}
    return _Edited(before, result.latent, {**files, "losses": losses}, {"losses": last})


def _start_of(result: EditResult) -> Latent:
    """The latent that an edit without a given one started from."""
    edited, change = result.latent, result.change
    if change.space == STYLE:
        return replace(edited, edits=edited.edits[:-1])
    return replace(edited, values=edited.values - torch.stack(list(change.vectors.values()), dim=1))


def _mapped(job: _Job, kept: KeptFolders) -> _Edited:
    """StyleCLIP's latent mapper, from a file or trained."""
    files, told = dict[str, Path](), dict[str, Any]()
    if job.options.mapper is not None:
        mapper = load_mapper(job.options.mapper)
        for line in mapper.notes:
            note(f"{Path(job.options.mapper).name}: {line}")
        mapper.check(job.bundle)
    else:
        mapper, files, told = _trained(job)
    latent = _wanted(job)
    return _Edited(latent, apply_mapper(job.bundle, mapper, latent, job.strength), files, told)


def _trained(job: _Job) -> tuple[LatentMapper, dict[str, Path], dict[str, Any]]:
    options = job.options
    names = ("steps", "learning_rate", "l2_weight", "space", "views", "seed", "preprocessing", "optimiser",
             "validate_every", "identity_weight")  # fmt: skip
    chosen = given(options, *names) | {level: level not in (options.without or ()) for level in LEVELS}
    if options.single:
        chosen["kind"] = "single"
    config = MapperConfig(**chosen, batch_size=options.batch)
    latents = open_latent(options.train_on, job.bundle) if options.train_on else None
    states = training_states(job.out / STATE)
    if options.fresh:
        states.remove()
    clip, identity = _clip(job), _identity(job)
    try:
        with followed_steps("train", config.steps, options.quiet) as follow:
            result = train_mapper(
                job.bundle, clip, options.text, config, latents=latents,
                neutral_text=options.neutral_text or "", identity=identity, callbacks=[follow],
                state_file=states.path,
            )  # fmt: skip
    except Signalled as stop:
        text = "the training was stopped; the same command goes on from there"
        raise Interrupted(text, stop.number) from None
    files = {
        "mapper": save_mapper(result.mapper, job.out / "mapper.safetensors"),
        "losses": loss_plot(result.losses, job.out / "losses.png", title=options.text),
    }
    states.forget_previous()
    return result.mapper, files, {"best_step": result.best_step}


def _by_gradient(job: _Job, kept: KeptFolders) -> _Edited:
    """The direction of style space from the neutral text to the text."""
    options, clip = job.options, _clip(job)
    most = {"most_samples": options.samples} if options.samples is not None else {}
    config = GradientConfig(**given(options, "seed"), **most)
    with ProgressBar("measure", config.first_samples, quiet=options.quiet) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        asked = job.bundle, clip, options.text, options.neutral_text, config
        found = text_direction(*asked, progress=tell, kept=kept)
    for line in found.notes:
        note(line)
    latent, direction = _wanted(job), found.direction
    strength = GRADIENT_STRENGTH if options.strength is None else job.strength
    file = save_direction(direction, job.out / "direction.safetensors")
    return _Edited(latent, apply_direction(latent, direction, strength), {"direction": file})


def _directed(job: _Job, kept: KeptFolders) -> _Edited:
    """Directions from files."""
    found: list[tuple[Direction, float]] = []
    for name, strength in job.options.direction:
        found.append((load_direction(name), strength))
        check_direction(found[-1][0], job.bundle)
    latent = edited = _wanted(job)
    for direction, strength in found:
        edited = apply_direction(edited, direction, strength * job.strength)
    return _Edited(latent, edited)


_METHODS: dict[str, Callable[[_Job, KeptFolders], _Edited]] = {
    OPTIMISATION: _optimised,
    MAPPER: _mapped,
    GRADIENT: _by_gradient,
    DIRECTION: _directed,
}


def _wanted(job: _Job) -> Latent:
    assert job.latent is not None  # only optimisation takes --start
    return job.latent
