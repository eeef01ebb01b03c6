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

from ..networks import DiscriminatorConfig, GeneratorConfig
from ..tensors import atomic_path, owned
from .assemble import CheckpointPlan, Layout, NetworkPlan, expected_shapes, match
from .bundle import GeneratorBundle, Provenance
from .stored import CheckpointError, Source, describe, naming, opened
from .tensor_file import STORED_TYPES, check_sum, stored_checksums, write_file

_Config = TypeVar("_Config", GeneratorConfig, DiscriminatorConfig)
FORMAT = "oneshot-stylegan"
FORMAT_VERSION = 1
HEADER_KEY = "oneshot"
MAX_HEADER_BYTES = 16 * 1024**2
DTYPES = {"float32": torch.float32, "float16": torch.float16}


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
    """Open a file of `write_tensors`: its tensors, unread, and its header, valid inside the block."""
    _check_start(path)
    try:
        with safe_open(path, framework="pt") as file:
            header, names = _header(file.metadata()), list(file.keys())
            sums = stored_checksums(file.metadata(), names, HEADER_KEY)
            yield {name: _source(file, name, sums.get(name)) for name in names}, header
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"is no sound safetensors file ({str(error)[:200]}); copy or download it again"
        ) from error


def _check_start(path: Path) -> None:
    """Check the declared length of the header before anything parses it."""
    with opened(path) as data:
        length = int.from_bytes(data.read(0, 8), "little")
        if length > min(data.size - 8, MAX_HEADER_BYTES):
            raise CheckpointError(
                f"declares a header of {length} bytes; the file has {data.size} bytes and at most "
                f"{MAX_HEADER_BYTES} are allowed. It is truncated, damaged or no safetensors file"
            )


def _header(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get(HEADER_KEY)
    if text is None:
        raise CheckpointError(
            f"is a safetensors file without the header {HEADER_KEY!r}, not one of this program; "
            "load the original checkpoint (.pt or .pkl) and convert it"
        )
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"has a damaged header: {str(error)[:200]}") from error
    if not isinstance(header, dict) or not isinstance(header.get("format"), str):
        raise CheckpointError(f"has the header {describe(header)} without a format")
    return header


def _source(file: Any, name: str, wanted: str | None) -> Source:
    part = file.get_slice(name)
    dtype = STORED_TYPES.get(part.get_dtype())
    if dtype is None:
        raise CheckpointError(f"tensor {name[:80]} has the type {part.get_dtype()}, which is not supported")
    shape = tuple(part.get_shape())
    return Source(name, shape, dtype, lambda: check_sum(name, file.get_tensor(name), wanted))


@contextmanager
def opened_plan(path: Path) -> Iterator[CheckpointPlan]:
    """Plan the networks of a generator file; the plan can be built inside the block.

    Raises:
        CheckpointError: another format or version, unknown settings, missing or ill-shaped weights.
    """
    with opened_file(path) as (sources, header):
        yield _plan(sources, header)


def _plan(sources: Mapping[str, Source], header: Mapping[str, Any]) -> CheckpointPlan:
    if header["format"] != FORMAT:
        raise CheckpointError(f"has the format {describe(header['format'])}; a generator has {FORMAT!r}")
    if header.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"has format_version {describe(header.get('format_version'))}; this program knows "
            f"{FORMAT_VERSION}. Update it, or write the file again with this version"
        )
    try:
        provenance = Provenance.from_dict(header["provenance"])
        generator = GeneratorConfig.from_dict(header["generator"])
        discriminator = None
        if header.get("discriminator") is not None:
            discriminator = DiscriminatorConfig.from_dict(header["discriminator"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"has a damaged header: {type(error).__name__} {str(error)[:200]}") from error
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


def _network(config: _Config, sources: Mapping[str, Source], label: str) -> NetworkPlan[_Config]:
    table = {name: Layout(f"{label}.{name}") for name in expected_shapes(config)}
    own = {name: source for name, source in sources.items() if name.startswith(f"{label}.")}
    return match(label, config, table, own)


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
