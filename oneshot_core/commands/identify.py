"""What a file is that `info` is given and that is no generator: this project's other files, their readers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import quad_files, recipe, run_folder
from ..checkpoints import CheckpointError
from ..checkpoints.native import OTHER_FILES, opened_file
from ..json_values import Fields, JsonError, parse, read, told
from ..latent_files import load_latent
from ..look_files import FORMAT as LOOK_FORMAT
from ..look_files import load_look
from ..runners import manifest, plan

_JSON_FILES = {  # format in a JSON file: what it is, and who reads it
    plan.FORMAT: "a batch plan; `batch` runs it",
    manifest.FORMAT: "the manifest of a batch; `batch` with the same --out goes on from it",
    run_folder.FORMAT: "the record of a run; `adapt` with the same --out goes on from it, `recipe` prints it",
    quad_files.FORMAT: "a quad: where an aligned picture lies in its photo; `paste` and `--quad` read it",
    recipe.FORMAT: "a recipe; `adapt --recipe` follows it",
}
_LATENT_READERS = OTHER_FILES["oneshot-latent"].split("; ", 1)[1]
_FIRST_BYTES = 4_096
_FOLDERS = {  # a file that a folder of this project holds: what the folder is
    run_folder.RECORD: "a folder of results: adapted.safetensors, and reference.safetensors, its latent",
    manifest.FILE_NAME: "a folder of results of `batch`; its manifest.jsonl says what became of every job",
}


def identified(path: Path) -> dict[str, Any] | None:
    """Tell what a file or folder is that is no generator.

    Args:
        path: where it is.

    Returns:
        JSON values: file_name, bytes (of a file), format, what (a text), details by name, and notes; None for
        what is none of this project's other files.
    """
    if path.is_dir():
        found = next((what for name, what in _FOLDERS.items() if (path / name).is_file()), None)
        return None if found is None else _described(path, "folder", found)
    if not path.is_file():
        return None
    return _tensor_file(path) or _latents(path) or _json_file(path)


def _described(
    path: Path, kind: str, what: str, details: Mapping[str, Any] | None = None, notes: list[str] | None = None
) -> dict[str, Any]:
    size = {"bytes": path.stat().st_size} if path.is_file() else {}
    values = {"file_name": path.name, **size, "format": kind, "what": what}
    return {**values, "details": dict(details or {}), "notes": notes or []}


def _tensor_file(path: Path) -> dict[str, Any] | None:
    """A safetensors file with this project's header, but not a generator's."""
    try:
        with opened_file(path) as (sources, header):
            kind = header["format"]
            what = OTHER_FILES.get(kind)
            if what is None or kind == "oneshot-latent":  # a latent is described by its own reader
                return None
            if kind == LOOK_FORMAT:
                return _look(path)
            details = {name: header[name] for name in ("step", "steps") if isinstance(header.get(name), int)}
            return _described(path, kind, what, {**details, "tensors": len(sources)})
    except CheckpointError:
        return None


def _look(path: Path) -> dict[str, Any]:
    look = load_look(path)
    origin = {name: getattr(look, name) for name in ("name", "source", "target", "method", "steps")}
    details = {**{name: value for name, value in origin.items() if value}, "numbers": sum(look.widths)}
    if look.family:
        details["family"] = look.family[:12]
    return _described(path, LOOK_FORMAT, OTHER_FILES[LOOK_FORMAT], details)


def _latents(path: Path) -> dict[str, Any] | None:
    try:
        latent = load_latent(path)
    except CheckpointError:
        return None
    notes = latent.origin.get("notes", [])
    details: dict[str, Any] = {"space": latent.space, "shape": list(latent.values.shape)}
    said = [line for line in notes if isinstance(line, str)] if isinstance(notes, list) else []
    if not latent.family:  # only other programs' latents do not say whose they are
        return _described(path, "latents", f"latents of another program; {_LATENT_READERS}", details, said)
    details["family"] = latent.family[:12]
    return _described(path, "oneshot-latent", OTHER_FILES["oneshot-latent"], details, said)


def _json_file(path: Path) -> dict[str, Any] | None:
    with open(path, "rb") as file:
        start = file.read(_FIRST_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start.startswith((b"{", b"[")):
        return None
    try:
        values = _first_line(path) if path.suffix.lower() == plan.LINES else read(path)
    except JsonError as error:
        if path.suffix.lower() != ".json":
            return None
        raise CheckpointError(f"{error}; no generator, and no sound JSON file either") from error
    if not isinstance(values, dict):
        return _described(path, "json", f"a JSON file: {told(values)}; no verb reads it")
    fields = Fields(values, "the file")
    try:
        known = _JSON_FILES.get(fields.text("format", ""))
    except JsonError:
        known = None
    if known is not None:
        counts = {name: len(values[name]) for name in ("jobs",) if isinstance(values.get(name), dict | list)}
        return _described(path, str(values["format"]), known, counts)
    return _described(path, "json", _workflow(values))


def _first_line(path: Path) -> Any:
    """The first of a file's JSON lines, which says what the others are."""
    with open(path, "rb") as file:
        return parse(file.readline(plan.MAX_LINE_BYTES), str(path))


def _workflow(values: Mapping[str, Any]) -> str:
    if isinstance(values.get("nodes"), list) and "links" in values:
        return "a workflow of ComfyUI as its page saves it; open it there (`batch` takes the API form)"
    if values and all(isinstance(node, dict) and "class_type" in node for node in values.values()):
        return "a workflow of ComfyUI in the API form; the entry workflow of a batch plan names it"
    return "a JSON file of no format of this project; no verb reads it"
