"""The own format: one safetensors file whose header says in JSON what it is.

Metadata key "oneshot" holds a JSON object with at least `format` and `format_version`. For generators it also
holds the configs and the provenance; tensors are named `generator.*`, `raw_generator.*`, `discriminator.*`
and `mean_latent`. Other parts of the engine use `write_tensors` and `read_tensors` for their own files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .. import json_values
from ..containers import START_BYTES, recognised, told
from ..json_values import Fields, JsonError
from ..networks import DiscriminatorConfig, GeneratorConfig
from ..tensors import owned
from ..writing import atomic_path
from . import layouts
from .assemble import CheckpointPlan, Layout, NetworkPlan, expected_shapes, match
from .bundle import GeneratorBundle, Provenance
from .stored import CheckpointError, Source, describe, naming, opened
from .tensor_file import READ_TYPES, check_sum, stored_checksums, write_file

_Config = TypeVar("_Config", GeneratorConfig, DiscriminatorConfig)
FORMAT = "oneshot-stylegan"
FORMAT_VERSION = 1
HEADER_KEY = "oneshot"
MAX_HEADER_BYTES = 16 * 1024**2
DTYPES = {"float32": torch.float32, "float16": torch.float16}
OTHER_FILES = {  # format in the header: what it is, and who reads it
    "oneshot-latent": "a latent of this project; `sample --latent` and the node Load StyleGAN Latent read it",
    "oneshot-direction": "a direction of this project; `edit --direction` and Load Direction read it",
    "oneshot-dictionary": "a dictionary of style space; `directions text --dictionary` reads it",
    "oneshot-dictionary-state": "a dictionary half measured; `directions dictionary` goes on from it",
    "oneshot-style-statistics": "statistics of style space, as every dictionary holds them",
    "oneshot-mapper": "a latent mapper of this project; `edit --mapper` reads it",
    "oneshot-look": "a look of this project; `sample --look` and the node Load Look read it",
    "oneshot-search": "the state of a latent search; `search` with the same --out goes on from it",
    "oneshot-mapper-training": "the state of a mapper's training; `edit` with the same --out goes on from it",
    "oneshot-run": "the state of an unfinished training; `adapt` with the same --out goes on from it",
    "oneshot-perceptual": "weights of the perceptual loss; --lpips reads them",
    "oneshot-e4e": "an e4e encoder; `invert --e4e` reads it",
    "oneshot-identity": "a face recogniser, for the identity term of edits",
    "oneshot-demo-clip": "the demo's CLIP; the word demo stands for it",
    "oneshot-demo-judge": "the demo's judge of faces; `demo` reads it",
}


def check_kind(header: Mapping[str, Any], kind: str, version: int, what: str, again: str) -> None:
    """Refuse a file of `write_tensors` that holds something else, or is of another version.

    Args:
        header: of the file.
        kind: the format that is read.
        version: of it.
        what: the user's word for what the file should hold, such as "look".
        again: what the user does to get a file of this version, such as "make".

    Raises:
        CheckpointError: it says what was found, and who reads that.
    """
    found = header["format"]
    if found != kind:
        known = "a generator; Load StyleGAN2 reads it" if found == FORMAT else OTHER_FILES.get(found)
        raise CheckpointError(f"is no {what} but {known or f'a file of the format {describe(found)}'}")
    if header["format_version"] != version:
        raise CheckpointError(
            f"is a {what} of format_version {header['format_version']}; this program knows {version}. Update "
            f"it, or {again} the {what} again with this version"
        )


def write_tensors(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    keep: Path | None = None,
) -> Path:
    """Write tensors and a JSON header as one file, in one step; equal content gives equal bytes.

    Args:
        path: final name; an existing file is replaced only when the new one is complete.
        tensors: any device; they are copied to the CPU, one at a time.
        header: JSON values, among them `format` (text) and `format_version` (whole number).
        metadata: further texts beside the header, such as the workflow that made the file.
        keep: name that an existing file gets when the new one is complete; None: it is replaced.

    Returns:
        The path.

    Raises:
        ValueError: the header lacks `format` or `format_version`, or holds something that is not JSON; a
            tensor of a type that is not stored.
        OSError: the file cannot be written; a full disk is called that.
    """
    path = Path(path)
    if not isinstance(header.get("format"), str) or not isinstance(header.get("format_version"), int):
        raise ValueError(f"the header needs format (text) and format_version (number), got {sorted(header)}")
    try:
        text = json.dumps(header, allow_nan=False, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"the header of {path.name} holds something that is not JSON: {error}") from error
    with atomic_path(path, keep) as temporary, open(temporary, "wb") as file:
        write_file(file, tensors, {**(metadata or {}), HEADER_KEY: text}, HEADER_KEY)
    return path


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Returns:
        The tensors, in memory of their own, and the header.

    Raises:
        CheckpointError: missing, damaged, or a safetensors file of another origin.
    """
    path = Path(path)
    with naming(path), opened_file(path) as (sources, header):
        return {name: owned(source.read()) for name, source in sources.items()}, header


def verify(path: Path | str) -> dict[str, Any]:
    """Read a file of `write_tensors` through and compare it with its checksums, one tensor at a time.

    Returns:
        Its header.

    Raises:
        CheckpointError: missing, damaged, or a safetensors file of another origin.
    """
    path = Path(path)
    with naming(path), opened_file(path) as (sources, header):
        for source in sources.values():
            source.read()
        return header


@contextmanager
def opened_file(path: Path) -> Iterator[tuple[dict[str, Source], dict[str, Any]]]:
    """Open a file of `write_tensors`: its tensors, unread, and its header, valid inside the block.

    Raises:
        CheckpointError: missing, damaged, or a safetensors file of another origin.
    """
    with opened_tensors(path) as (sources, texts):
        if HEADER_KEY not in texts:
            raise CheckpointError(
                "is a safetensors file without this project's header: another program wrote it, or a tool "
                "that saved it again dropped the header (metadata); give the original file"
            )
        yield sources, _header(texts[HEADER_KEY])


def _check_start(path: Path) -> None:
    """Check the declared length of the header before anything parses it."""
    with opened(path) as data:
        start = data.read(0, min(data.size, START_BYTES))
        found = recognised(start, data.size)
        if found is not None and found.name != "safetensors":
            raise CheckpointError(told(start, data.size, "a safetensors file") or "")
        if data.size < 8:
            raise CheckpointError(f"has {data.size} bytes; it is truncated: copy or download it again")
        length = int.from_bytes(data.read(0, 8), "little")
        if length > min(data.size - 8, MAX_HEADER_BYTES):
            raise CheckpointError(
                f"declares a header of {length} bytes; the file has {data.size} bytes and at most "
                f"{MAX_HEADER_BYTES} are allowed. It is truncated, damaged or no safetensors file"
            )


def _header(text: str) -> dict[str, Any]:
    """Parse this project's header; raises CheckpointError where it is not the JSON object that it must be."""
    try:
        header: dict[str, Any] = json_values.parse(text, "the header")
        fields = Fields(header, "the header")
        fields.text("format")
        fields.whole("format_version", 0)
    except JsonError as error:
        raise CheckpointError(f"has a damaged header ({error}); copy or download the file again") from error
    return header


def _source(file: Any, name: str, wanted: str | None) -> Source:
    part = file.get_slice(name)
    kind = part.get_dtype()
    dtype = READ_TYPES.get(kind)
    if dtype is None:
        raise CheckpointError(f"tensor {name[:80]} has the type {kind}, which is not supported")
    shape = tuple(part.get_shape())
    return Source(name, shape, dtype, lambda: check_sum(name, file.get_tensor(name), wanted))


@contextmanager
def opened_plan(path: Path) -> Iterator[CheckpointPlan]:
    """Plan the networks of a safetensors file; the plan can be built inside the block.

    Raises:
        CheckpointError: of another kind or version, unknown settings, missing or ill-shaped weights.
    """
    with opened_tensors(path) as (sources, texts):
        if HEADER_KEY in texts:
            yield _plan(sources, _header(texts[HEADER_KEY]))
        else:
            yield layouts.read_flat_plan(sources)


def _plan(sources: Mapping[str, Source], header: Mapping[str, Any]) -> CheckpointPlan:
    if header["format"] != FORMAT:
        raise CheckpointError(other_file(header["format"]))
    if header["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"has format_version {header['format_version']}; this program knows {FORMAT_VERSION}. Update it, "
            "or write the file again with this version"
        )
    try:
        fields = Fields(header, "the header")
        provenance = Provenance.from_dict(fields.value("provenance"))
        generator = GeneratorConfig.from_dict(fields.value("generator"))
        discriminator = None
        if "discriminator" in fields:
            discriminator = DiscriminatorConfig.from_dict(fields.value("discriminator"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"has a damaged header ({str(error)[:200]}); copy the file again") from error
    plan = CheckpointPlan(FORMAT, FORMAT, _network(generator, sources, "generator"))
    if any(name.startswith("raw_generator.") for name in sources):
        plan.raw_generator = _network(generator, sources, "raw_generator")
    if discriminator is not None:
        plan.discriminator = _network(discriminator, sources, "discriminator")
    plan.mean_latent = sources.get("mean_latent")
    if plan.mean_latent is None or plan.mean_latent.shape != (generator.w_dim,):
        raise CheckpointError(f"has no mean_latent of shape [{generator.w_dim}]; the file is damaged")
    plan.inferred, plan.notes = dict(provenance.inferred), list(provenance.notes)
    origin = {"format": provenance.format, "file_name": provenance.file_name, "sha256": provenance.sha256}
    plan.history = {"origin": origin, **provenance.history}
    return plan


def other_file(kind: str) -> str:
    """Say what a file of another format than the generators' is, and who reads it.

    Args:
        kind: the header's format.
    """
    known = OTHER_FILES.get(kind)
    if known is None:
        return f"has the format {describe(kind)}; a generator of this project has {FORMAT!r}"
    return f"is no generator but {known}"


def _network(config: _Config, sources: Mapping[str, Source], label: str) -> NetworkPlan[_Config]:
    table = {name: Layout(f"{label}.{name}") for name in expected_shapes(config)}
    own = {name: source for name, source in sources.items() if name.startswith(f"{label}.")}
    return match(label, config, table, own)


@contextmanager
def opened_tensors(path: Path) -> Iterator[tuple[dict[str, Source], dict[str, str]]]:
    """Open any safetensors file: its tensors, unread, and its texts, valid inside the block.

    Raises:
        CheckpointError: another container, damaged, or with a type of numbers that is not known here.
    """
    _check_start(path)
    try:
        with safe_open(path, framework="pt") as file:
            texts, names = dict(file.metadata() or {}), list(file.keys())
            sums = stored_checksums(texts, names, HEADER_KEY)
            yield {name: _source(file, name, sums.get(name)) for name in names}, texts
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"is no sound safetensors file ({str(error)[:200]}); copy or download it again"
        ) from error


def write(
    bundle: GeneratorBundle,
    path: Path,
    dtype: str = "float32",
    with_discriminator: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a bundle.

    Args:
        bundle: what to write.
        path: final name, by custom ending in ".safetensors"; replaced in one step.
        dtype: "float32", or "float16" for half the size. The mapping network and the mean latent stay
            float32, so that latents keep their meaning and the family its fingerprint.
        with_discriminator: whether to include it; needed for adapting, not for sampling.
        metadata: see `write_tensors`.

    Raises:
        ValueError: unknown dtype, or a weight too large for float16.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    tensors = _state(bundle.generator, "generator", DTYPES[dtype])
    if bundle.raw_generator is not None and with_discriminator:  # both serve training only
        tensors |= _state(bundle.raw_generator, "raw_generator", DTYPES[dtype])
    discriminator = bundle.discriminator if with_discriminator else None
    if discriminator is not None:
        tensors |= _state(discriminator, "discriminator", DTYPES[dtype])
    tensors["mean_latent"] = bundle.mean_latent.float()
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dtype": dtype,
        "generator": bundle.generator.config.to_dict(),
        "discriminator": None if discriminator is None else discriminator.config.to_dict(),
        "provenance": bundle.provenance.to_dict(),
    }
    write_tensors(path, tensors, header, metadata)


def _state(network: nn.Module, label: str, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {}
    for name, value in network.state_dict().items():
        kept = torch.float32 if name.startswith("mapping.") else dtype
        tensors[f"{label}.{name}"] = value.to(kept)
        if bool(torch.isfinite(value).all()) and not bool(torch.isfinite(tensors[f"{label}.{name}"]).all()):
            raise ValueError(f"{label}.{name} has values beyond the range of float16; write it as float32")
    return tensors
