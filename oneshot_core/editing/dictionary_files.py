"""Files of statistics and dictionaries, and StyleCLIP's own: nothing that is read can run code.

Own files are safetensors. StyleCLIP's are `fs3.npy`, a numpy array of rows, and `S_mean_std`, a pickle of
two lists of arrays, which an own machine reads that knows arrays and nothing else.

Source: orpatashnik/StyleCLIP global_directions (editing.md 1c).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints import (
    CheckpointError,
    GeneratorBundle,
    describe,
    naming,
    opened,
    read_contents,
    write_tensors,
)
from ..checkpoints.arrays import read_npy
from ..checkpoints.native import OTHER_FILES, opened_file
from ..checkpoints.rebuild import NumpyArray
from ..checkpoints.stored import Source, StoredTensor
from ..edit_files import MAX_LAYERS, read_widths, short_text
from ..json_values import Fields, JsonError
from ..tensors import owned
from ..texts import printable
from .dictionary import Dictionary, all_rows
from .statistics import COUNT, MAX_COUNT, PSI, StyleStatistics
from .style_layout import convolution_styles

STATISTICS_FORMAT, DICTIONARY_FORMAT, FORMAT_VERSION = "oneshot-style-statistics", "oneshot-dictionary", 1
HALF_ROWS = torch.float16
MAX_FS3_BYTES = 512 * 1024**2
_TEXTS = ("measured", "fingerprint", "family")
_ROW_TENSORS = ("rows", "styles", "channels", "rho", "effect")


def save_statistics(statistics: StyleStatistics, path: Path | str) -> Path:
    """Write statistics; atomic. Numbers are kept in float64."""
    header = {
        "format": STATISTICS_FORMAT,
        "format_version": FORMAT_VERSION,
        **_statistics_header(statistics),
    }
    return write_tensors(path, _statistics_tensors(statistics), header)


def load_statistics(path: Path | str) -> StyleStatistics:
    """Read a file of `save_statistics`, or the statistics of a dictionary's file.

    Raises:
        CheckpointError: missing, damaged, or no statistics; the message says what was found.
    """
    path = Path(path)
    with naming(path), opened_file(path) as (sources, header):
        _check_kind(header, (STATISTICS_FORMAT, DICTIONARY_FORMAT), "statistics of styles")
        part = header if header["format"] == STATISTICS_FORMAT else header.get("statistics")
        try:
            return _read_statistics(Fields(part, "the header"), sources)
        except CheckpointError:
            raise
        except (JsonError, ValueError) as error:
            raise CheckpointError(f"holds damaged statistics ({error}); measure them again") from error


def save_dictionary(dictionary: Dictionary, path: Path | str, half: bool = False) -> Path:
    """Write a dictionary with its statistics; atomic.

    Args:
        dictionary: what to write.
        path: final name, usually ending in .safetensors.
        half: rows in float16, half as large; a relevance changes by less than 0.001.
    """
    header = {
        "format": DICTIONARY_FORMAT,
        "format_version": FORMAT_VERSION,
        "clip": dictionary.clip,
        "clip_fingerprint": dictionary.clip_fingerprint,
        "method": dictionary.method,
        "settings": dict(dictionary.settings),
        "statistics": _statistics_header(dictionary.statistics),
    }
    tensors = _statistics_tensors(dictionary.statistics)
    for name in _ROW_TENSORS:
        values = getattr(dictionary, name)
        if values is not None:
            tensors[name] = values if name in ("styles", "channels") else values.float()
    tensors["rows"] = tensors["rows"].to(HALF_ROWS if half else torch.float32)
    return write_tensors(path, tensors, header)


def load_dictionary(path: Path | str) -> Dictionary:
    """Read a file of `save_dictionary`; rows become float32.

    Raises:
        CheckpointError: missing, damaged, not finite, or no dictionary; the message says what was found.
    """
    path = Path(path)
    with naming(path), opened_file(path) as (sources, header):
        _check_kind(header, (DICTIONARY_FORMAT,), "dictionary")
        try:
            return _read_dictionary(Fields(header, "the header"), sources)
        except CheckpointError:
            raise
        except (JsonError, ValueError) as error:
            raise CheckpointError(f"is a damaged dictionary ({error}); measure it again") from error


def _check_kind(header: Mapping[str, Any], kinds: Sequence[str], what: str) -> None:
    kind, version = header["format"], header["format_version"]
    if kind not in kinds:
        raise CheckpointError(
            f"is no {what} but {OTHER_FILES.get(kind) or f'a file of the format {describe(kind)}'}"
        )
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"is of format_version {version}; this program knows {FORMAT_VERSION}. Update it, or measure the "
            "file again with this version"
        )


def _statistics_header(statistics: StyleStatistics) -> dict[str, Any]:
    return {
        "widths": list(statistics.widths),
        "psi": statistics.psi,
        "cutoff": statistics.cutoff,
        "count": statistics.count,
        "seed": statistics.seed,
        **{name: getattr(statistics, name) for name in _TEXTS},
    }


def _statistics_tensors(statistics: StyleStatistics) -> dict[str, Tensor]:
    named = (("mean", statistics.mean), ("sigma", statistics.sigma))
    return {name: torch.cat(values).double() for name, values in named}


def _read_statistics(fields: Fields, sources: Mapping[str, Source]) -> StyleStatistics:
    widths = read_widths(fields)
    parts = list[tuple[Tensor, ...]]()
    for name in ("mean", "sigma"):
        values = _tensor(sources, name, (torch.float64,), (sum(widths),))
        parts.append(tuple(owned(one) for one in values.split(widths)))
    cutoff = fields.whole("cutoff", 0, 10_000) if "cutoff" in fields else None
    return StyleStatistics(
        parts[0], parts[1], fields.number("psi", 0, 10), cutoff, fields.whole("count", 0, MAX_COUNT),
        fields.whole("seed"), short_text(fields, "measured"), short_text(fields, "fingerprint"),
        short_text(fields, "family"),
    )  # fmt: skip


def _read_dictionary(fields: Fields, sources: Mapping[str, Source]) -> Dictionary:
    statistics = _read_statistics(fields.object("statistics"), sources)
    rows = _tensor(sources, "rows", (torch.float32, HALF_ROWS), (None, None)).float()
    count = len(rows)
    places: dict[str, Any] = {
        name: _tensor(sources, name, (torch.int64,), (count,)) for name in ("styles", "channels")
    }
    known: dict[str, Any] = {
        name: _tensor(sources, name, (torch.float32,), (count,))
        for name in ("rho", "effect")
        if name in sources
    }
    strange = sorted(set(sources) - {*_ROW_TENSORS, "mean", "sigma"})
    if strange:
        raise JsonError(f"it holds another tensor: {strange[0]!r}")
    fields.object("settings")
    return Dictionary(
        rows, **places, statistics=statistics, **known,
        clip=short_text(fields, "clip"), clip_fingerprint=short_text(fields, "clip_fingerprint"),
        method=short_text(fields, "method"),
        settings=fields.value("settings"),
    )  # fmt: skip


def _tensor(
    sources: Mapping[str, Source], name: str, types: Sequence[torch.dtype], shape: Sequence[int | None]
) -> Tensor:
    source = sources.get(name)
    if source is None:
        raise JsonError(f"it has no tensor {name!r}")
    fits = len(source.shape) == len(shape) and all(
        want in (None, have) for have, want in zip(source.shape, shape, strict=True)
    )
    if source.dtype not in types or not fits:
        raise JsonError(f"its tensor {name!r} is {source.dtype} of shape {list(source.shape)}")
    return owned(source.read())


# StyleCLIP's files --------------------------------------------------------------------------------------


def load_styleclip_statistics(
    path: Path | str, bundle: GeneratorBundle, psi: float = PSI, cutoff: int | None = None
) -> StyleStatistics:
    """Read StyleCLIP's `S_mean_std`, a pickle of means and deviations of every style; nothing in it is run.

    Args:
        path: the file.
        bundle: the generator that it was measured on, of which the file says nothing.
        psi: truncation that it was measured with; the published files have 0.7.
        cutoff: and for how many slots; the published TensorFlow files have all.

    Raises:
        UnsafePickleError: the file asks for something else than arrays.
        CheckpointError: missing, damaged, or of another generator's widths.
    """
    path = Path(path)
    widths = bundle.generator.style_widths
    with torch.inference_mode(False), naming(path), opened(path) as data:
        root = read_contents(data).root
        if not isinstance(root, list | tuple) or len(root) != 2:
            raise CheckpointError(
                f"holds {describe(root)}; S_mean_std is a list of means and one of deviations"
            )
        mean, sigma = (_arrays(part, widths, bundle) for part in root)
    try:
        return StyleStatistics(mean, sigma, psi, cutoff, COUNT, 0, bundle.title, "", bundle.family)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _arrays(part: Any, widths: Sequence[int], bundle: GeneratorBundle) -> tuple[Tensor, ...]:
    """The arrays of a list, one per style, float64."""
    if not isinstance(part, list | tuple) or len(part) > MAX_LAYERS:
        raise CheckpointError(f"holds {describe(part)} where a list of arrays, one per style, was expected")
    found = []
    for value in part:
        stored = value.tensor if isinstance(value, NumpyArray) else value
        if not isinstance(stored, StoredTensor):
            raise CheckpointError(f"holds {describe(value)} where an array of a style was expected")
        found.append(owned(stored.source("an array").read().double().flatten()))
    if tuple(map(len, found)) != tuple(widths):
        raise CheckpointError(
            f"has {len(found)} styles of {sum(map(len, found)):,} channels, {bundle.title} has {len(widths)} "
            f"of {sum(widths):,}; give the generator that the file was measured on"
        )
    return tuple(found)


def load_styleclip_dictionary(
    fs3: Path | str, statistics: StyleStatistics | Path | str, bundle: GeneratorBundle
) -> Dictionary:
    """Read StyleCLIP's `fs3.npy`: rows of the convolutions' channels from coarse to fine.

    Args:
        fs3: the file; where it has fewer rows than the generator has such channels (5,376 instead of 6,048 at
            1024 px), the finest have none and are never chosen.
        statistics: of the styles, or the file `S_mean_std`.
        bundle: the generator that it was measured on.

    Returns:
        A dictionary that says neither how well its samples agreed nor which CLIP model it was measured with
        (StyleCLIP's: OpenAI's ViT-B/32).

    Raises:
        CheckpointError: missing, damaged, no such array, or more rows than the generator has channels.
    """
    path = Path(fs3)
    if not isinstance(statistics, StyleStatistics):
        statistics = load_styleclip_statistics(statistics, bundle)
    statistics.check_fits(bundle)
    widths = statistics.widths
    with torch.inference_mode(False), naming(path), opened(path) as data:
        if data.size > MAX_FS3_BYTES:
            raise CheckpointError(f"has {data.size:,} bytes; fs3.npy has about 12 million")
        digest = hashlib.sha256(data.read(0, data.size)).hexdigest()
        rows = read_npy(data, "the array").read()
        if rows.ndim != 2 or not rows.is_floating_point() or not len(rows):
            raise CheckpointError(
                f"holds an array of shape {list(rows.shape)}; fs3.npy is [channels, width of CLIP's features]"
            )
        styles, channels = all_rows(widths, convolution_styles(len(widths)))
        if len(rows) > len(styles):
            raise CheckpointError(
                f"has {len(rows):,} rows, {bundle.title} has {len(styles):,} channels of convolutions; give "
                "the generator that it was measured on"
            )
        # A channel that changes no picture gave 0/0 there.
        known = torch.where(rows.isfinite().all(dim=1, keepdim=True), rows.double(), 0.0)
        units = F.normalize(known, dim=1).float()
        try:
            return Dictionary(
                units, styles[: len(rows)], channels[: len(rows)], statistics,
                method="StyleCLIP's file", settings={"file": printable(path.name), "sha256": digest},
            )  # fmt: skip
        except ValueError as error:
            raise CheckpointError(str(error)) from error
