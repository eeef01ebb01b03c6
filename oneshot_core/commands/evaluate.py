"""The verb evaluate: how good adapted generators are, one by one or beside each other."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import GeneratorBundle, check_pair
from ..choices import DEMO_TARGET
from ..demo.world import target_path
from ..encoder_choice import EncoderChoice, encoder_notes
from ..evaluation import (
    Evaluation,
    EvaluationConfig,
    Judges,
    Referee,
    compare,
    load_faces,
    load_inception,
    snapshot_rows,
)
from ..evaluation.comparison import Comparison, Opened
from ..evaluation.taking_part import NO_PART, TOOK_PART, clip_part
from ..features import BytesProgress, Encoders
from ..frames import Frame
from ..pictures import load_target, save_png
from ..pictures.files import pictures_in
from ..quads import Quad
from ..run_folder import RESULT, WORK
from ..sampling import parse_seeds
from ..tensors import Images
from ..training.loop import snapshot_files
from ..writing import atomic_path
from .console import BadInput, ProgressBar, note, say
from .resources import open_generator, out_folder, out_path, placed, prepare, report, shown_download


def evaluate_command(options: Namespace) -> None:
    """`evaluate`: judge, and write the report, the figures as JSON and the sheet."""
    began = time.monotonic()
    config = _config(options)
    device, _ = prepare(options), out_path(options.out)
    source = open_generator(options.generator, device)
    rows = list(_rows(options, source, device))
    targets = [_target(name, source.size, options) for name in options.target]
    references = _references(options, source.size)
    judges = _judges(options, source, device)
    if options.strict:
        _refuse(rows, judges)
    out = out_folder(options.out)
    with ProgressBar("evaluate", len(config.seeds) * (len(rows) + 1), quiet=options.quiet) as bar:
        referee = Referee(
            source,
            targets,
            judges,
            config,
            references=references,
            rows=len(rows),
            progress=lambda done, _: bar.update(done),
        )
        found = compare(referee, rows)
    _write(options, found, out, round(time.monotonic() - began, 1))


def _config(options: Namespace) -> EvaluationConfig:
    if options.snapshots and len(options.adapted) > 1:
        raise BadInput("--snapshots compares those of one run; give one folder")
    classes = () if options.class_index is None else (options.class_index,)
    return EvaluationConfig(
        parse_seeds(options.seeds), psi=options.psi, classes=classes, batch_size=options.batch
    )


def _rows(options: Namespace, source: GeneratorBundle, device: torch.device) -> Iterator[Opened]:
    """A row per generator, which is read now, or per snapshot, which are read one by one."""
    if options.snapshots:
        folder = Path(options.adapted[0])
        files = snapshot_files((folder if folder.is_dir() else folder.parent) / WORK)
        if not files:
            raise BadInput(f"{folder} is not the folder of a run that keeps snapshots; give its --out")
        yield from snapshot_rows(files, lambda bundle: placed(bundle, device))
        return
    for name in options.adapted:
        file = Path(name) / RESULT if Path(name).is_dir() else name
        bundle = open_generator(str(file), device)
        check_pair(source, bundle)
        yield str(name), _given(bundle)


def _given(bundle: GeneratorBundle) -> Any:
    return lambda: bundle


def _target(name: str, size: int, options: Namespace) -> Images:
    path = target_path(name.removeprefix(DEMO_TARGET)) if name.startswith(DEMO_TARGET) else Path(name)
    given = {one: getattr(options, one) for one in ("zoom", "offset_x", "offset_y")}
    place = {name: value for name, value in given.items() if value is not None}
    quad = None if options.quad is None else Quad.of(options.quad)
    found = load_target(path, size, Frame(options.fit, **place, quad=quad))
    for text in found.notes:
        note(text)
    return found.image


def _references(options: Namespace, size: int) -> list[Images]:
    """Reference pictures, of files and of all picture files in folders, framed as targets are."""
    paths: list[Path] = []
    for name in map(Path, options.reference):
        inner = pictures_in(name)
        if name.is_dir() and not inner:
            raise BadInput(f"--reference {name} holds no picture files")
        paths += inner if name.is_dir() else [name]
    return [load_target(path, size).image for path in paths]


def _judges(options: Namespace, source: GeneratorBundle, device: torch.device) -> Judges:
    """Open the networks that judge, with a bar for every download."""
    with shown_download(options.quiet) as progress:
        encoders = _encoders(options, source, progress)
        inception = None
        if options.reference:
            inception = load_inception(
                options.inception, allow_download=not options.offline, device=device, progress=progress
            )
    faces = load_faces(options.faces, device) if options.faces else None
    return Judges(placed(encoders, device), inception, faces)


def _encoders(options: Namespace, source: GeneratorBundle, progress: BytesProgress) -> Encoders:
    """The CLIP models, each of the weight 1, and the perceptual net."""
    opened = []
    for name in options.clip or [None]:
        choice = EncoderChoice.judging(source).named(name, options.lpips)
        opened.append(choice.open(allow_download=not options.offline, progress=progress))
        for text in [*choice.notes(), *encoder_notes(source, opened[-1].clip_name, "")]:
            note(text)
    return Encoders(tuple((one.clip, 1.0) for one in opened), opened[0].perceptual)


def _refuse(rows: list[Opened], judges: Judges) -> None:
    """Refuse CLIP models that took part in an adaptation, or may have."""
    for name, give in rows:
        bundle = give()
        for clip, _ in judges.encoders.clips:
            part = clip_part(bundle, clip)
            if part != NO_PART:
                how = "took part" if part == TOOK_PART else "may have taken part"
                raise BadInput(
                    f"CLIP {clip.name} {how} in the adaptation of {name}; name another (--clip), or leave "
                    "--strict out"
                )


def _write(options: Namespace, found: Comparison, out: Path, seconds: float) -> None:
    one: Evaluation | Comparison = found.rows[0][1] if len(found.rows) == 1 else found
    files = {
        "sheet": out / "evaluation.png",
        "report": out / "evaluation.txt",
        "figures": out / "evaluation.json",
    }
    save_png(one.sheet(), files["sheet"])
    figures = json.dumps(one.values(), indent=2, allow_nan=False)
    for name, text in (("report", one.text()), ("figures", figures)):
        with atomic_path(files[name]) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
    if not options.json:
        say(one.text())
    told = {name: str(path) for name, path in files.items()}
    report(options, {"files": told, "evaluation": one.values(), "seconds": seconds})
