"""The verb directions: what to add to latents, found by texts or without, and the files that hold it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import CheckpointError, GeneratorBundle
from ..checkpoints.native import opened_file
from ..editing.components import ganspace_directions, reference_direction, sefa_directions
from ..editing.dictionary import Dictionary
from ..editing.dictionary_files import (
    DICTIONARY_FORMAT,
    load_dictionary,
    load_styleclip_dictionary,
    save_dictionary,
)
from ..editing.direction import Direction, combine
from ..editing.direction_files import load_direction, save_direction
from ..editing.finite_differences import DictionaryConfig, measure_dictionary, state_file
from ..editing.foreign_directions import load_boundary, load_components
from ..editing.global_directions import Selection, find_direction
from ..editing.gradient_dictionary import GradientDictionaryConfig, measure_gradient_dictionary
from ..editing.gradient_directions import GradientConfig
from ..editing.statistics import (
    COUNT,
    DriftReport,
    Progress,
    StyleStatistics,
    drift_report,
    style_statistics,
)
from ..editing.text_methods import TextRequest, find_text_direction
from ..encoder_choice import EncoderChoice, encoder_notes
from ..features import ClipEncoder
from .console import BadInput, ProgressBar, note, say, say_json
from .following import UNFINISHED, gone_on_with
from .resources import open_generator, open_latent, out_folder, prepare, shown_download


def directions_command(options: Namespace) -> None:
    """`directions ACTION`: find, measure, combine, convert or show directions."""
    _ACTIONS[options.action](options)


# Finding ------------------------------------------------------------------------------------------------


def _text(options: Namespace) -> None:
    out = _new_file(options)
    selection = Selection(
        options.channels, options.beta, options.auto_beta, options.layers, options.per_layer
    )
    if options.auto_beta is not None and not options.dictionary:
        raise BadInput(
            "--auto-beta is StyleCLIP's threshold of a dictionary: give --dictionary, or --channels"
        )
    device = prepare(options)
    bundle = open_generator(options.generator, device)
    clip = _clip(options, bundle, device)
    if options.dictionary:
        for line in clip.text_notes(options.to):
            note(line)
        dictionary = load_dictionary(options.dictionary)
        dictionary.check_fits(bundle)
        found = find_direction(dictionary, clip, options.to, options.neutral, selection, options.name)
        told = {
            "channels": found.channels,
            "beta": found.beta,
            "strongest": [list(one) for one in found.strongest],
        }
        _write(options, found.direction, out, told, found.summary())
        return
    statistics = _measured_statistics(options, bundle)
    with gone_on_with(out.with_name(f"{out.stem}.{UNFINISHED}"), "search for a direction") as kept:
        request = TextRequest(
            options.to, options.neutral, GradientConfig(selection=selection, seed=options.seed),
            statistics, name=options.name, kept=kept,
        )  # fmt: skip
        with _bar(options, options.by) as show:
            made = find_text_direction(options.by, bundle, clip, request, show)
        for line in made.notes:
            note(line)
        told = {
            "samples": made.samples, "agreement": made.agreement, "channels": made.direction.channels,
            "beta": made.beta,
        }  # fmt: skip
        _write(options, made.direction, out, told, made.details())


def _sefa(options: Namespace) -> None:
    bundle = open_generator(options.generator, torch.device("cpu"))
    _write_all(options, sefa_directions(bundle, options.layers, options.count))


def _ganspace(options: Namespace) -> None:
    bundle = open_generator(options.generator, prepare(options))
    with _bar(options, "codes") as show:
        found = ganspace_directions(bundle, options.count, options.samples, options.seed, progress=show)
    _write_all(options, found)


def _difference(options: Namespace) -> None:
    out = _new_file(options)
    bundle = open_generator(options.generator, prepare(options))
    with_it, without = (open_latent(name, bundle) for name in (options.with_it, options.without))
    name = options.name or f"{Path(options.with_it).stem} - {Path(options.without).stem}"
    _write(options, reference_direction(bundle, with_it, without, name), out)


def _combine(options: Namespace) -> None:
    out = _new_file(options)
    found = combine([(load_direction(file), factor) for file, factor in options.parts])
    if options.slots:
        found = found.limited(range(*options.slots))
    _write(options, replace(found, name=options.name or found.name), out)


# Dictionaries -------------------------------------------------------------------------------------------


def _dictionary(options: Namespace) -> None:
    out = _new_file(options)
    differences = DictionaryConfig(
        options.images, options.sigmas, options.seed, options.layers, None, options.max_px, options.eight_bit,
        batch_size=max(2, options.batch),
    )  # fmt: skip
    device = prepare(options)
    bundle = open_generator(options.generator, device)
    clip = _clip(options, bundle, device)
    statistics = _measured_statistics(options, bundle)
    path = out.with_name(f"{out.stem}.state.safetensors")
    if options.fresh:
        state_file(path).remove()
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.by == "gradients":
        config = GradientDictionaryConfig(options.images, options.seed, options.layers, options.batch)
        with _bar(options, "gradients") as show:
            found = measure_gradient_dictionary(bundle, clip, config, statistics, state=path, progress=show)
    else:
        with _bar(options, "channels") as show:
            found = measure_dictionary(bundle, clip, differences, statistics, state=path, progress=show)
    _write_dictionary(options, found, out)
    state_file(path).remove()


def _measured_statistics(options: Namespace, bundle: GeneratorBundle) -> StyleStatistics:
    with _bar(options, "codes") as show:
        return style_statistics(
            bundle, options.samples or COUNT, options.psi, options.cutoff, options.seed, progress=show
        )


def _write_dictionary(options: Namespace, dictionary: Dictionary, out: Path) -> None:
    save_dictionary(dictionary, out, half=getattr(options, "half", False))
    if options.json:
        say_json({"file": str(out), "bytes": out.stat().st_size, **_described(dictionary)})
        return
    say(f"{out}: {dictionary.summary()}; {out.stat().st_size / 1e6:,.1f} MB")


def _described(dictionary: Dictionary) -> dict[str, Any]:
    statistics = dictionary.statistics
    told: dict[str, Any] = {
        "channels": len(dictionary.rows),
        "layers": dictionary.styles.unique().tolist(),
        "method": dictionary.method,
        "clip": dictionary.clip,
        "measured": statistics.measured,
        "psi": statistics.psi,
        "digest": dictionary.digest,
    }
    for name in ("rho", "effect"):
        values = getattr(dictionary, name)
        if values is not None:
            told[name] = float(values.mean())
    return told


# Other programs' files, and what files hold -------------------------------------------------------------


def _convert(options: Namespace) -> None:
    bundle = open_generator(options.generator, torch.device("cpu"))
    if options.statistics:
        out = _new_file(options)
        _write_dictionary(options, load_styleclip_dictionary(options.input, options.statistics, bundle), out)
        return
    if Path(options.out).suffix.lower() != ".safetensors":
        _write_all(options, load_components(options.input, bundle, options.count))
        return
    out = _new_file(options)
    direction = load_boundary(options.input, bundle)
    _write(options, replace(direction, name=options.name or direction.name), out)


def _show(options: Namespace) -> None:
    if options.adapted:
        if not options.generator or options.file:
            raise BadInput(
                "--adapted compares a generator with its source: give that as --generator, no FILE"
            )
        cpu = torch.device("cpu")
        source, adapted = (open_generator(name, cpu) for name in (options.generator, options.adapted))
        _show_drift(options, drift_report(source, adapted))
        return
    if not options.file:
        raise BadInput("give a FILE to show, or --generator and --adapted")
    path = Path(options.file)
    if _kind(path) == DICTIONARY_FORMAT:
        dictionary = load_dictionary(path)
        _tell(options, dictionary.summary(), _described(dictionary))
        return
    direction = load_direction(path)
    _tell(options, direction.summary(), _values(direction))


def _kind(path: Path) -> str:
    """Format of a file of this project; "" for any other, of which its reader says more."""
    try:
        with opened_file(path) as (_, header):
            return str(header["format"])
    except CheckpointError:
        return ""


def _show_drift(options: Namespace, report: DriftReport) -> None:
    if options.json:
        layers = [{"title": layer.title, **vars(layer)} for layer in report.layers]
        told = {"source": report.source, "adapted": report.adapted, "psi": report.psi}
        say_json({**told, "layers": layers, "notes": report.notes()})
        return
    say(f"{'style':<40} correlation  shift, sigma  sigma")
    say(f"{'':<40} least  mean   rms    most   ratio")
    for layer in report.layers:
        say(
            f"{layer.title:<40} {layer.least_correlation:>5.3f}  {layer.correlation:>5.3f}  "
            f"{layer.shift:>5.2f}  {layer.most_shift:>5.2f}  {layer.ratio:>5.2f}"
        )
    for line in report.notes():
        note(line)


def _values(direction: Direction) -> dict[str, Any]:
    texts = ("name", "method", "kind", "text", "neutral_text", "clip", "measured")
    return {
        **{name: value for name in texts if (value := getattr(direction, name))},
        "changed": {str(index): int(one.count_nonzero()) for index, one in direction.vectors.items()},
        "length": float(torch.cat([one.flatten() for one in direction.vectors.values()]).norm()),
    }


def _tell(options: Namespace, line: str, values: dict[str, Any]) -> None:
    if options.json:
        say_json(values)
        return
    say(line)
    for name, value in values.items():
        shown = ", ".join(f"{key}: {one}" for key, one in value.items()) if isinstance(value, dict) else value
        say(f"{name.replace('_', ' '):<14} {shown}")


# Shared -------------------------------------------------------------------------------------------------


def _clip(options: Namespace, bundle: GeneratorBundle, device: torch.device) -> ClipEncoder:
    """The CLIP that the options name, on the device."""
    choice = EncoderChoice.suited_to(bundle).named(options.clip)
    if choice.more_clips:
        raise BadInput("directions are found with one CLIP model; give one as --clip")
    for line in (*choice.notes(), *encoder_notes(bundle, choice.clip, choice.perceptual)):
        note(line)
    with shown_download(options.quiet) as progress:
        encoders = choice.open(allow_download=not options.offline, progress=progress)
        return encoders.clip if device.type == "cpu" else encoders.to(device).clip


@contextmanager
def _bar(options: Namespace, label: str) -> Iterator[Progress]:
    """A bar that learns its length from the first call."""
    bars: list[ProgressBar] = []

    def show(done: int, total: int) -> None:
        if not bars:
            bars.append(ProgressBar(label, total, quiet=options.quiet))
        bars[0].total = total
        bars[0].update(done)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


def _new_file(options: Namespace) -> Path:
    out = Path(options.out)
    if out.suffix.lower() != ".safetensors":
        raise BadInput(f"--out must end in .safetensors, got {out.name!r}")
    if out.exists() and not options.force:
        raise BadInput(f"{out} exists; choose another name, or add --force to replace it")
    return out


def _write(
    options: Namespace, direction: Direction, out: Path, told: dict[str, Any] | None = None, more: str = ""
) -> None:
    save_direction(direction, out)
    if options.json:
        say_json({"file": str(out), **_values(direction), **(told or {})})
        return
    say(f"{out}: {direction.summary()}" + (f"; {more}" if more else ""))


def _write_all(options: Namespace, directions: Sequence[Direction]) -> None:
    """Write a file per direction into a folder, named by number and by what the direction is called."""
    folder, files = out_folder(options.out), []
    for number, direction in enumerate(directions):
        files.append(save_direction(direction, folder / f"{direction.method}_{number:03d}.safetensors"))
    if options.json:
        say_json({"files": [str(path) for path in files], "names": [one.name for one in directions]})
        return
    for path, direction in zip(files, directions, strict=True):
        say(f"{path}: {direction.summary()}")


_ACTIONS: dict[str, Callable[[Namespace], None]] = {
    "text": _text, "sefa": _sefa, "ganspace": _ganspace, "difference": _difference, "combine": _combine,
    "dictionary": _dictionary, "convert": _convert, "show": _show,
}  # fmt: skip
