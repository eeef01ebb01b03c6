"""The verbs about checkpoint files: info and convert."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ..checkpoints import CheckpointError, UnsafePickleError, inspect, load, save
from ..features import EncoderError
from ..features.identity import load_arcface, save_arcface
from ..inversion import load_e4e, save_e4e
from .console import BadInput, say, say_json
from .identify import identified
from .resources import checkpoint_path, with_looks

FORMATS: dict[str, Literal["safetensors", "rosinality"]] = {
    ".safetensors": "safetensors",
    ".pt": "rosinality",
    ".pth": "rosinality",
}


def info(options: Namespace) -> None:
    """`info FILE`: say what a file is and holds, and what was left out."""
    path = checkpoint_path(options.file)
    try:
        values = inspect(path)
    except CheckpointError as error:
        other = None if isinstance(error, UnsafePickleError) else identified(path)
        if other is None:
            raise
        lines = _other(other)
    else:
        other, lines = None, _described(values)
    if options.json:
        say_json(values if other is None else other)
        return
    for label, text in lines:
        say(f"{label:<16} {text}")


def _other(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Lines for a file that is no generator."""
    size = f", {values['bytes'] / 1e6:,.1f} MB" if "bytes" in values else ""
    yield "file", f"{values['file_name']}{size}"
    yield "what", values["what"]
    for name, value in values["details"].items():
        yield name, str(value)
    for line in values["notes"]:
        yield "note", line


def _described(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Lines of the table: label and text."""
    yield "file", f"{values['file_name']}, {values['bytes'] / 1e6:,.1f} MB"
    yield "format", f"{values['format']} ({values['kind']})"
    yield "sha256", values["sha256"]
    yield "pictures", f"{values['size']} x {values['size']} px"
    yield "latents", f"z {values['z_dim']}, w {values['w_dim']}, {values['num_layers']} slots"
    classes = f"{values['c_dim']} classes" if values["c_dim"] else "unconditional"
    yield "mapping", f"{values['mapping_layers']} layers, {classes}"
    yield "widths", ", ".join(f"{side}: {width}" for side, width in values["channels"].items())
    for name, count in values["parameters"].items():
        yield name.replace("_", " "), f"{count / 1e6:,.2f} M parameters"
    if not values["discriminator"]:
        yield "discriminator", "none: the file can be sampled, but not adapted by a method that trains one"
    yield "mean latent", values["mean_latent"]
    for name, found in values["inferred"].items():
        yield "inferred", f"{name}: {found if isinstance(found, (str, int, float)) else json.dumps(found)}"
    for line in values["notes"]:
        yield "note", line
    parent = values["history"].get("parent")
    if isinstance(parent, dict):
        steps = values["history"].get("step")
        yield "adapted from", f"{parent.get('file_name')}" + ("" if steps is None else f", {steps} steps")
    for look in _looks(values["history"]):
        yield "with the look", look


def _looks(history: dict[str, Any]) -> Iterator[str]:
    """The looks that were added to a generator; the record comes from a file, which may hold anything."""
    added = history.get("looks")
    for look in added if isinstance(added, list) else []:
        if isinstance(look, dict):
            yield f"{look.get('name')}, strength {look.get('strength')}"


def _convert_encoder(options: Namespace, out: Path) -> None:
    """Write the encoder of an e4e file, or a face recogniser, as safetensors."""
    if out.suffix.lower() != ".safetensors":
        raise BadInput(f"OUT must end in .safetensors where an encoder is kept, got {out.name!r}")
    if options.looks or options.without_discriminator:
        raise BadInput(
            "--look and --without-discriminator belong to generators; leave out --encoder, or them"
        )
    try:
        encoder = load_e4e(options.input)
        kind = "e4e encoder"
        save_e4e(encoder, out, options.dtype)
    except EncoderError as error:
        try:
            network = load_arcface(options.input)
        except EncoderError:
            raise error from None
        kind = network.name
        save_arcface(network, out, options.dtype)
    result = {"file": str(out), "bytes": out.stat().st_size, "kind": kind, "dtype": options.dtype}
    if options.json:
        say_json(result)
        return
    say(f"{out}: {kind}, {options.dtype}, {out.stat().st_size / 1e6:,.1f} MB")


def convert(options: Namespace) -> None:
    """`convert IN OUT`: rewrite a checkpoint; the format follows from OUT's suffix."""
    out = Path(options.output)
    chosen = FORMATS.get(out.suffix.lower())
    if chosen is None:
        raise BadInput(f"OUT must end in .safetensors (own format) or .pt (rosinality's), got {out.name!r}")
    if out.exists() and not options.force:
        raise BadInput(f"{out} exists; choose another name, or add --force to replace it")
    if options.encoder:
        _convert_encoder(options, out)
        return
    bundle = with_looks(load(checkpoint_path(options.input)), options.looks)
    keep = not options.without_discriminator
    save(bundle, out, format=chosen, dtype=options.dtype, with_discriminator=keep)
    result = {
        "file": str(out),
        "bytes": out.stat().st_size,
        "format": chosen,
        "dtype": options.dtype,
        "discriminator": keep and bundle.discriminator is not None,
        "source": bundle.provenance.to_dict(),
    }
    if options.json:
        say_json(result)
        return
    extra = "with" if result["discriminator"] else "without"
    say(f"{out}: {chosen}, {options.dtype}, {out.stat().st_size / 1e6:,.1f} MB, {extra} discriminator")
