"""Latents as files: the own safetensors file with its header, and what other programs write.

Of other programs come W and W+ codes of projectors and encoders as numpy files (.npz, .npy), torch files
(.pt) and plain safetensors. They say neither space nor generator: the space follows from the name and the
shape, the generator stays unknown, and `latent_notes` says what was assumed.

Source: NVlabs/stylegan2-ada-pytorch projector.py (`w` [1, L, W] in .npz); rosinality/stylegan2-pytorch
projector.py ({file: {img, latent, noise}}); omertov/encoder4editing, eladrich/pixel2style2pixel
(latents [N, L, W] in .pt); cyclomon/OneshotCLIP train_oneshot.py (init_w [1, W]).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints import CheckpointError, write_tensors
from .checkpoints.arrays import opened_npz, read_npy
from .checkpoints.native import HEADER_KEY, opened_tensors
from .checkpoints.rebuild import NumpyArray
from .checkpoints.restricted import read_contents
from .checkpoints.stored import Source, StoredTensor, describe, naming, opened
from .containers import START_BYTES, recognised, told
from .edit_files import edit_header, edit_tensors, read_edits
from .json_values import Fields, JsonError, parse
from .latents import SPACES, Latent
from .tensors import owned

FORMAT, FORMAT_VERSION = "oneshot-latent", 2
READ_VERSIONS = (1, 2)  # 1 knew no edits
SLOTS = range(6, 19, 2)  # of generators from 16 to 1024 px
MAX_EXPANSION_BYTES = 24 * 1024**2  # that codes may have beyond the file, as where rows repeat one another
MAX_CODES = 100_000
_W_NAMES = (
    "w w+ wp w_plus wplus ws w_opt projected_w init_w latent latents latent_code latent_codes latent_in "
    "dlatent dlatents dlatents_out code codes embedding"
).split()
_Z_NAMES = ("z", "zs", "latent_z", "z_latent", "latents_z")
_MOST_NESTED = 3
_SHOWN = 4  # names that an error lists
_WIDTH_TO_JUDGE, _NORMAL = 64, 0.08  # enough numbers to tell z from w; how far from 1 their square may be
UNKNOWN_FAMILY = (
    "the file does not say which generator its latents belong to; they fit the one that they were made with, "
    "and those adapted from it"
)


def save_latent(latent: Latent, path: Path | str) -> Path:
    """Write a latent; atomic.

    Args:
        latent: any space, with its edits; its origin must be JSON values.
        path: final name, usually ending in .safetensors.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "space": latent.space,
        "family": latent.family,
        "origin": latent.origin,
        "edits": [edit_header(edit) for edit in latent.edits],
    }
    tensors = {"latent": latent.values.detach().cpu().float()}
    for number, edit in enumerate(latent.edits):
        tensors |= edit_tensors(edit, number)
    return write_tensors(path, tensors, header)


def latent_notes(latent: Latent) -> list[str]:
    """Return what was assumed when a file of another program was read, as sentences; none for own files."""
    notes = latent.origin.get("notes", [])
    return [line for line in notes if isinstance(line, str)] if isinstance(notes, list) else []


def load_latent(path: Path | str, slots: int | None = None) -> Latent:
    """Read latents: a file of `save_latent`, or codes that another program wrote.

    The container is told from the content: safetensors, a torch file, .npy or .npz. A number of dimensions
    decides the space: [W] and [N, W] are w, [N, L, W] is w+, and so is [L, W] where L is `slots` (or, without
    it, where a generator can have so many); names such as `z` decide before that.

    Args:
        path: the file.
        slots: number L of slots of the generator that will draw, which tells one code of w+ from several of
            w; None: not known.

    Returns:
        Float32 on the CPU. For other programs' files `family` is "" and `latent_notes` has sentences.

    Raises:
        CheckpointError: missing, damaged, not finite, or no latents; the message says what was found.
    """
    path = Path(path)
    with naming(path):
        with opened(path) as data:
            start = data.read(0, min(data.size, START_BYTES))
            found = recognised(start, data.size)
            kind = "" if found is None else found.name
            if kind == "npy":
                return _foreign(read_npy(data).read(), "", "a numpy file (.npy)", slots)
            if kind == "npz":
                with open(path, "rb") as file, opened_npz(file, data) as arrays:
                    return _picked(arrays, "a numpy file (.npz)", data.size, slots)
            if kind in ("torch-zip", "torch-legacy", "pickle"):
                with torch.inference_mode(False):
                    return _picked(read_contents(data).root, "a torch file", data.size, slots)
            if kind != "safetensors":
                wanted = "latents"
                advice = "give a file of `search`, or a projector's .npz, .npy or .pt"
                raise CheckpointError(told(start, data.size, wanted, advice) or f"holds no latents; {advice}")
        with opened_tensors(path) as (sources, texts):
            if HEADER_KEY in texts:
                return _own(sources, texts[HEADER_KEY])
            return _picked(sources, "a safetensors file", path.stat().st_size, slots)


def _own(sources: Mapping[str, Source], text: str) -> Latent:
    """Read a file of `save_latent`."""
    try:
        header = Fields(parse(text, "the header"), "the header")
        found, version = header.value("format", None), header.value("format_version", None)
        if found != FORMAT or version not in READ_VERSIONS:
            raise CheckpointError(
                f"is no latent of this program (found {describe(found)}, version {describe(version)}); "
                "give a file that `search` or save_latent() wrote"
            )
        space, family = header.text("space", choices=SPACES), header.text("family")
        origin: dict[str, Any] = header.value("origin")
        _check_origin(Fields(origin, "the header: origin"))
        edits = read_edits(header, {name: source for name, source in sources.items() if name != "latent"})
    except JsonError as error:
        raise CheckpointError(f"the header of the latent is damaged ({error}); make it again") from error
    if "latent" not in sources:
        raise CheckpointError("the latent is damaged: it holds no tensor 'latent'; make it again")
    try:
        return Latent(space, _finite(sources["latent"].read()), family, origin, edits)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _check_origin(origin: Fields) -> None:
    """Check what others read of it."""
    if "seeds" in origin.names() and not all(type(seed) is int for seed in origin.items("seeds", MAX_CODES)):
        raise JsonError("the header: origin: seeds must be whole numbers")


def _finite(values: Tensor) -> Tensor:
    if not values.is_floating_point() or not bool(values.isfinite().all()):
        raise CheckpointError("the latent is not made of finite numbers (NaN or infinity); make it again")
    if values.numel() == 0:
        raise CheckpointError(
            f"the latent has shape {list(values.shape)}, so it holds no code; make it again"
        )
    values = owned(values.float())
    if not bool(values.isfinite().all()):
        raise CheckpointError("the latent has numbers beyond the range of float32; make it again")
    return values


# What other programs write -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """The codes of a file and what is known of them."""

    values: Tensor
    name: str = ""  # of the entry
    stacked: bool = False  # of one entry per picture, so that the first dimension counts them


def _picked(root: Any, container: str, file_bytes: int, slots: int | None) -> Latent:
    """Find the codes in what a file holds."""
    limit = file_bytes + MAX_EXPANSION_BYTES
    found = _found(root, limit, _MOST_NESTED)
    return _foreign(found.values, found.name, container, slots, found.stacked)


def _found(root: Any, limit: int, nested: int) -> _Found:
    source = _source(root)
    if source is not None:
        return _Found(_read(source, limit))
    if isinstance(root, Mapping) and root:
        return _of_entries(root, limit, nested)
    if isinstance(root, list | tuple) and root:
        return _Found(_stacked([_source(value) for value in root], limit), stacked=True)
    raise CheckpointError(f"holds {describe(root)}, no latents; give an array of numbers [N, L, W] or [N, W]")


def _of_entries(entries: Mapping[Any, Any], limit: int, nested: int) -> _Found:
    """Choose the entry that holds codes: by its name, as the only array, or one array per picture."""
    names = {key.lower(): key for key in entries if isinstance(key, str)}
    networks = ("g_ema", "state_dict", "params_ema", "g")
    if any(name in networks or name.endswith((".weight", ".bias")) for name in names):
        raise CheckpointError("is a checkpoint of networks, not latents; give it as the generator")
    for name in (*_W_NAMES, *_Z_NAMES):
        source = _source(entries[names[name]]) if name in names else None
        if source is not None:
            return _Found(_read(source, limit), name)
        if name in names and isinstance(entries[names[name]], list | tuple):
            return _Found(_found(entries[names[name]], limit, 0).values, name, stacked=True)
    arrays = {key: source for key, value in entries.items() if (source := _source(value)) is not None}
    if len(arrays) == 1:
        return _Found(_read(next(iter(arrays.values())), limit), str(next(iter(arrays))))
    if len(arrays) == len(entries) and len({source.shape for source in arrays.values()}) == 1:
        return _Found(_stacked(list(arrays.values()), limit), stacked=True)
    inner = [value for value in entries.values() if isinstance(value, Mapping)]
    if not arrays and nested and len(inner) == len(entries):
        if len(inner) == 1 and "latent" not in inner[0]:
            return _found(inner[0], limit, nested - 1)
        if all(_source(value.get("latent")) is not None for value in inner):
            return _Found(_stacked([_source(value["latent"]) for value in inner], limit), stacked=True)
    shown = ", ".join(ascii(str(key)[:30]) for key in list(entries)[:_SHOWN])
    raise CheckpointError(
        f"holds {len(entries)} entries ({shown}{', …' if len(entries) > _SHOWN else ''}), none of which is "
        f"known to hold latents; save them alone, or under the name w (w and w+) or z"
    )


def _source(value: Any) -> Source | None:
    """Return a value of a file as a tensor that can be read, None where it is none."""
    if isinstance(value, NumpyArray):
        value = value.tensor
    if isinstance(value, StoredTensor):
        value = value.source("the latent")
    return value if isinstance(value, Source) else None


def _read(source: Source, limit: int) -> Tensor:
    if source.numel * source.dtype.itemsize > limit:
        raise CheckpointError(
            f"declares latents of shape {list(source.shape)}, far more than the file has; it is damaged"
        )
    return source.read()


def _stacked(sources: Sequence[Source | None], limit: int) -> Tensor:
    """Put one code per picture together: each [W], [1, W], [L, W] or [1, L, W]."""
    known = [source for source in sources if source is not None]
    if len(known) != len(sources) or len({source.shape for source in known}) != 1:
        raise CheckpointError("holds a list of things that are not all codes of one shape; save an array")
    total = sum(source.numel * source.dtype.itemsize for source in known)
    if len(known) > MAX_CODES or total > limit:
        raise CheckpointError(f"declares {len(known)} codes of {total} bytes, far more than the file has")
    tensors = [source.read() for source in known]
    one = known[0].shape
    return torch.stack(
        [value.reshape(one[1:]) if len(one) > 1 and one[0] == 1 else value for value in tensors]
    )


def _foreign(values: Tensor, name: str, container: str, slots: int | None, stacked: bool = False) -> Latent:
    """Make a latent of another program's codes: space from name and shape, notes about what was assumed."""
    found = list(values.shape)
    if not values.is_floating_point():
        raise CheckpointError(f"holds numbers of type {values.dtype}; latents are floating-point numbers")
    values = _finite(values)
    if values.ndim > 3:  # [N, 1, L, W] and the like; the last two are never dropped
        lead = math.prod(values.shape[:-2])
        if lead != max(values.shape[:-2]):
            raise CheckpointError(f"holds numbers of shape {found}; latents are [N, W] (w) or [N, L, W] (w+)")
        values = values.reshape(lead, *values.shape[-2:])
    if values.ndim == 0:
        raise CheckpointError("holds one number; latents are [N, W] (w) or [N, L, W] (w+)")
    notes = [f"{container} of another program: {UNKNOWN_FAMILY}"]
    space, values, assumed = _spaced(values, name, slots, stacked)
    notes += assumed
    if len(values) > MAX_CODES:
        raise CheckpointError(f"holds {len(values)} codes; at most {MAX_CODES} are read")
    if space == "w" and _looks_like_z(values):
        notes.append(
            "its numbers look like z codes (mean 0, spread 1) but were taken as w; if they are z, save them "
            "in a .npz under the name z"
        )
    origin = {"method": "file", "container": container, "entry": name, "shape": found, "notes": notes}
    return Latent(space, values, "", origin)


def _spaced(values: Tensor, name: str, slots: int | None, stacked: bool) -> tuple[str, Tensor, list[str]]:
    """Decide the space; returns it, the codes in its shape, and sentences about what was assumed."""
    if values.ndim == 1:
        values = values[None]
    if values.ndim == 3 and values.shape[1] == 1:
        values, stacked = values[:, 0], True  # [N, 1, W]: one row per code
    if name in _Z_NAMES:
        if values.ndim != 2:
            raise CheckpointError(f"holds z codes of shape {list(values.shape)}; they are [N, Z]")
        return "z", values, []
    if values.ndim == 3:
        return "w+", values, []
    rows = len(values)
    one_code = rows > 1 and not stacked and (rows == slots if slots else rows in SLOTS)
    if not one_code:
        several = f"its {rows} rows were taken as {rows} codes in w, one picture each"
        return "w", values, [several] if rows > 1 and not stacked else []
    why = (
        "as many as the generator has slots" if slots else f"as a generator of {2 ** (rows // 2 + 1)} px has"
    )
    return "w+", values[None], [f"its {rows} rows were taken as one code in w+, {why}"]


def _looks_like_z(values: Tensor) -> bool:
    """Tell whether every code has the length of a standard normal draw."""
    if values.shape[1] < _WIDTH_TO_JUDGE:
        return False
    tolerance = max(_NORMAL, 4 * (2 / values.shape[1]) ** 0.5)  # four standard deviations of the mean square
    squares = values.square().mean(dim=1)
    return bool(((squares - 1).abs() < tolerance).all() and (values.mean(dim=1).abs() < tolerance).all())
