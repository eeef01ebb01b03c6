"""Network files: detect, inspect, load and save; no file that is opened here can run code.

Reads the own safetensors format, state dicts of StyleGAN2 generators in the layouts of all known programs
(torch files, pickles, safetensors), NVIDIA `.pkl` of StyleGAN2 networks and legacy TensorFlow `.pkl`; writes
the own format and rosinality `.pt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from ..digests import file_sha256
from ..texts import printable
from . import layouts, native, nvidia, rosinality, tensorflow
from .assemble import (
    CheckpointPlan,
    build_discriminator,
    build_generator,
    in_three_colours,
    with_fresh_discriminator,
)
from .bundle import (
    MEAN_LATENT_SAMPLES,
    MEAN_LATENT_SEED,
    GeneratorBundle,
    Provenance,
    check_family,
    check_pair,
    estimate_mean_latent,
    related,
)
from .native import read_tensors, verify, write_tensors
from .restricted import KNOWN_FILES, container, read_contents, read_state_dict
from .stored import CheckpointError, UnsafePickleError, describe, naming, opened

__all__ = [
    "CheckpointError",
    "GeneratorBundle",
    "Provenance",
    "UnsafePickleError",
    "check_family",
    "check_pair",
    "detect",
    "estimate_mean_latent",
    "inspect",
    "load",
    "read_state_dict",
    "read_tensors",
    "related",
    "save",
    "verify",
    "with_fresh_discriminator",
    "write_tensors",
]


@contextmanager
def _opened_plan(path: Path) -> Iterator[CheckpointPlan]:
    """Open a file of any known format and plan its networks; they can be built inside the block."""
    with naming(path):
        with opened(path) as data:
            size = data.size
            if container(data) != "safetensors":
                root = read_contents(data).root
                yield _checked(_plan(root), size)
                return
        with native.opened_plan(path) as plan:
            yield _checked(plan, size)


def _checked(plan: CheckpointPlan, file_bytes: int) -> CheckpointPlan:
    plan.check(file_bytes)
    in_three_colours(plan)
    plan.notes = [printable(note) for note in plan.notes]
    return plan


def _plan(root: Any) -> CheckpointPlan:
    if tensorflow.is_network_file(root):
        return tensorflow.read_plan(root)
    if nvidia.is_network_file(root):
        return nvidia.read_plan(root)
    if isinstance(root, dict):
        return layouts.read_plan(root)
    raise CheckpointError(f"holds {describe(root)}, no networks; {KNOWN_FILES}")


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def detect(path: Path | str) -> str:
    """Tell the format of a network file.

    Returns:
        "oneshot-stylegan", "rosinality", "e4e", "nvidia", "tensorflow", "basicsr", "genforce" or
        "mmgeneration".

    Raises:
        CheckpointError: not a network file that `load` could read; the message says why.
        UnsafePickleError: the file asks for something that no network file needs.
    """
    with _opened_plan(Path(path)) as plan:
        return plan.format


def load(path: Path | str, *, expected_sha256: str | None = None) -> GeneratorBundle:
    """Read a network file of any known format.

    Args:
        path: the file; its format is told from its content, never from its name.
        expected_sha256: hex digest that the whole file must have; None accepts any.

    Returns:
        The networks on the CPU in float32. A mean latent that the file lacks is estimated from 10,000 latents
        with seed 0, and `provenance.inferred` says so.

    Raises:
        CheckpointError: missing, damaged, of another kind or architecture, or with the wrong digest.
        UnsafePickleError: the file asks for something that no network file needs; nothing in it was run.
    """
    path = Path(path)
    sha256 = _sha256(path)
    if expected_sha256 is not None and sha256 != expected_sha256.lower():
        raise CheckpointError(
            f"{path}: has the SHA-256 {sha256}, expected {expected_sha256}; it is another or a damaged file"
        )
    with torch.inference_mode(False), torch.no_grad(), _opened_plan(path) as plan:
        generator = build_generator(plan.generator)
        raw = None if plan.raw_generator is None else build_generator(plan.raw_generator)
        discriminator = None if plan.discriminator is None else build_discriminator(plan.discriminator)
        inferred = dict(plan.inferred)
        if plan.mean_latent is None:
            mean = estimate_mean_latent(generator)
            inferred["mean_latent"] = _ESTIMATE
        else:
            mean = plan.mean_latent.read().float().clone()
        if not bool(mean.isfinite().all()):
            raise CheckpointError("the mean latent is not finite (NaN or infinity); use an earlier snapshot")
    provenance = Provenance(
        plan.format, printable(path.name), sha256, inferred, tuple(plan.notes), plan.history
    )
    return GeneratorBundle(generator, discriminator, raw, mean, provenance)


_ESTIMATE = {
    "how": "mean of the mapping of random latents",
    "samples": MEAN_LATENT_SAMPLES,
    "seed": MEAN_LATENT_SEED,
}


def inspect(path: Path | str) -> dict[str, Any]:
    """Describe a network file without building its networks.

    Returns:
        JSON values: file_name, bytes, sha256, format, kind (the program that writes such files), size (px),
        channels by resolution, channel_multiplier (None where it cannot be told), z_dim, w_dim, c_dim,
        mapping_layers, num_layers, image_channels, conv_clamp, raw_generator, discriminator (False, or its
        settings), mean_latent ("stored" or "estimated"), parameters per network, inferred, notes, history.

    Raises:
        CheckpointError, UnsafePickleError: as `load`, except for weights that are not finite.
    """
    path = Path(path)
    with _opened_plan(path) as plan:
        config = plan.generator.config
        channels = {str(4 << level): width for level, width in enumerate(config.channels)}
        discriminator: Any = False
        if plan.discriminator is not None:
            discriminator = plan.discriminator.config.to_dict()
        settings = config.to_dict()
        described = {
            "file_name": path.name,
            "bytes": path.stat().st_size,
            "sha256": _sha256(path),
            "format": plan.format,
            "kind": plan.kind,
            **{name: settings[name] for name in settings if name != "channels"},
            "channels": channels,
            "channel_multiplier": rosinality.channel_multiplier(config.channels),
            "num_layers": config.num_layers,
            "raw_generator": plan.raw_generator is not None,
            "discriminator": discriminator,
            "mean_latent": "estimated" if plan.mean_latent is None else "stored",
            "parameters": {network.label: network.parameters for network in plan.networks()},
            "inferred": plan.inferred,
            "notes": plan.notes,
            "history": plan.history,
        }
    return described


def save(
    bundle: GeneratorBundle,
    path: Path | str,
    *,
    format: Literal["safetensors", "rosinality"] = "safetensors",
    dtype: Literal["float32", "float16"] = "float32",
    with_discriminator: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a bundle to a file, in one step: the final name never holds half a file.

    Args:
        bundle: what to write.
        path: final name; an existing file is replaced.
        format: "safetensors", the own format with everything in it; "rosinality", a `.pt` for other programs.
        dtype: "float32" or, for safetensors only, "float16".
        with_discriminator: whether to include the discriminator.
        metadata: texts for the header of a safetensors file, such as the workflow that made it.

    Returns:
        The path.

    Raises:
        ValueError: unknown format or dtype, or metadata for a format that has no place for it; a weight
            is NaN or infinite, then nothing is written.
        CheckpointError: the networks cannot be expressed in the format.
    """
    path = Path(path)
    bundle.check_finite(training=with_discriminator)
    check_format(format, dtype)
    if format == "safetensors":
        native.write(bundle, path, dtype, with_discriminator, metadata)
    elif format == "rosinality":
        if metadata:
            raise ValueError("rosinality files have no place for metadata; use format 'safetensors'")
        rosinality.write(bundle, path, with_discriminator)
    return path


def check_format(format: str, dtype: str) -> None:
    """Refuse a format that cannot be written, or not in that type of weights; raises ValueError."""
    if format not in ("safetensors", "rosinality"):
        raise ValueError(f"format must be 'safetensors' or 'rosinality', got {format!r}")
    if format == "rosinality" and dtype != "float32":
        raise ValueError(f"rosinality files are float32, got dtype {dtype!r}; use format 'safetensors'")
