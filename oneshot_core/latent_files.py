"""Latents as files: one safetensors file with the codes and, in its header, where they came from."""

from __future__ import annotations

from pathlib import Path

from .checkpoints import CheckpointError, read_tensors, write_tensors
from .latents import SPACES, Latent

FORMAT, FORMAT_VERSION = "oneshot-latent", 1


def save_latent(latent: Latent, path: Path | str) -> Path:
    """Write a latent; atomic.

    Args:
        latent: any space; its origin must be JSON values.
        path: final name, usually ending in .safetensors.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "space": latent.space,
        "family": latent.family,
        "origin": latent.origin,
    }
    return write_tensors(path, {"latent": latent.values.detach().cpu().float()}, header)


def load_latent(path: Path | str) -> Latent:
    """Read a file of `save_latent`.

    Raises:
        CheckpointError: missing, damaged, or not such a file; the message says what was found.
    """
    tensors, header = read_tensors(path)
    found, version = header.get("format"), header.get("format_version")
    if (found, version) != (FORMAT, FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: is no latent of this program (found {found!r}, version {version!r}); give a file that "
            "`search` or save_latent() wrote"
        )
    space, family, origin = header.get("space"), header.get("family"), header.get("origin")
    values = tensors.get("latent")
    if space not in SPACES or not isinstance(family, str) or not isinstance(origin, dict) or values is None:
        raise CheckpointError(f"{path}: the header of the latent is damaged; make it again")
    if not values.is_floating_point() or not bool(values.isfinite().all()):
        raise CheckpointError(f"{path}: the latent is not made of finite numbers; make it again")
    try:
        return Latent(space, values, family, origin)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
