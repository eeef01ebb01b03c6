"""Walks from sample to sample: straight lines in w, great circles in z."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .checkpoints import GeneratorBundle
from .latents import Latent, z_from_seeds
from .memory import check_memory
from .sampling import Samples, count_of, iter_codes, keys_of
from .tensors import owned

SMALLEST_ANGLE = 1e-4  # below it, and as near to half a turn, rounding decides on the circle
TINY = 1e-20  # a length that counts as none


def interpolate(
    bundle: GeneratorBundle, samples: Samples, frames: int, *, space: str = "w", loop: bool = False
) -> Latent:
    """Walk from sample to sample; draw the result with `sample` or `iter_samples`.

    Args:
        bundle: whose mapping network is used.
        samples: K >= 2 seeds or codes.
        frames: per stretch between two samples; the last sample itself is added at the end.
        space: "w": straight lines between codes; "z": great circles between seeds or z.
        loop: go back to the first sample at the end; the frame that would repeat it is left out.

    Returns:
        Space "w+" or "z", [(K - 1) * frames + 1, ...], or [K * frames, ...] with `loop`.

    Raises:
        ValueError: fewer than two samples, no frames, or z asked for codes that are in w.
    """
    if count_of(samples) < 2 or frames < 1:
        raise ValueError(
            f"interpolation needs at least 2 samples and 1 frame, got {count_of(samples)} and {frames}"
        )
    ends = _ends(bundle, samples, space)
    total = frames * count_of(samples)
    check_memory(
        2 * 4 * total * ends[0].numel(), f"the codes of {total} frames", "ask for fewer frames or samples"
    )
    path = _path(ends, frames, loop, _slerp if space == "z" else torch.lerp)
    walked = {"frames": frames, "loop": loop, "ends": keys_of(samples)}
    origin = {"method": "interpolate", "generator": bundle.title, **walked}
    # Those of W+ are in the codes of a walk in w; a walk in z carries them on.
    edits = () if not isinstance(samples, Latent) else samples.edits if space == "z" else samples.style_edits
    walked_edits = tuple(edit.mapped(lambda ends: _path(ends, frames, loop, torch.lerp)) for edit in edits)
    return Latent("z" if space == "z" else "w+", path, bundle.family, origin, walked_edits)


def _path(ends: Tensor, frames: int, loop: bool, move: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Frames [F, ...] between ends [K, ...]."""
    nexts = ends.roll(-1, 0) if loop else ends[1:]
    parts = torch.arange(frames, dtype=ends.dtype) / frames
    path = [move(start, end, part) for start, end in zip(ends, nexts, strict=False) for part in parts]
    return torch.stack(path if loop else [*path, ends[-1]])


def _ends(bundle: GeneratorBundle, samples: Samples, space: str) -> Tensor:
    """Codes to walk between, float32 on the CPU."""
    if space == "w":
        return torch.cat([owned(codes).cpu().float() for codes, _, _ in iter_codes(bundle, samples)])
    if space != "z":
        raise ValueError(f"space must be w or z, got {space!r}")
    if not isinstance(samples, Latent):
        return z_from_seeds(samples, bundle.generator.config.z_dim)
    if samples.space != "z":
        raise ValueError(f"codes in {samples.space} cannot be interpolated in z; use space w")
    return owned(samples.values).cpu().float()


def _slerp(start: Tensor, end: Tensor, part: Tensor) -> Tensor:
    """Walk on a great circle, with the length changing evenly; [Z], [Z], [] -> [Z].

    Straight where no circle is given: from or to the origin, between (nearly) equal or opposite directions.
    """
    lengths = torch.lerp(start.norm(), end.norm(), part)
    if min(float(start.norm()), float(end.norm())) < TINY:
        return torch.lerp(start, end, part)
    a, b = start / start.norm(), end / end.norm()
    angle = torch.acos((a * b).sum().clamp(-1, 1))
    if angle < SMALLEST_ANGLE or angle > math.pi - SMALLEST_ANGLE:
        return torch.lerp(start, end, part)
    return lengths * (torch.sin((1 - part) * angle) * a + torch.sin(part * angle) * b) / torch.sin(angle)
