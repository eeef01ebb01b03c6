"""Walks from sample to sample: straight lines in w, great circles in z; latents one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .checkpoints import GeneratorBundle
from .edits import LatentEdit
from .latents import Latent, z_from_seeds
from .memory import check_memory
from .sampling import SampleConfig, Samples, count_of, iter_codes, keys_of
from .tensors import owned

SMALLEST_ANGLE = 1e-4  # below it, and as near to half a turn, rounding decides on the circle
TINY = 1e-20  # a length that counts as none


def interpolate(
    bundle: GeneratorBundle,
    samples: Samples,
    frames: int,
    *,
    space: str = "w",
    loop: bool = False,
    psi: float = 1.0,
) -> Latent:
    """Walk from sample to sample; draw the result with `sample` or `iter_samples`.

    Args:
        bundle: whose mapping network is used.
        samples: K >= 2 seeds or codes.
        frames: per stretch between two samples; the last sample itself is added at the end.
        space: "w": straight lines between codes; "z": great circles between seeds or z.
        loop: go back to the first sample at the end; the frame that would repeat it is left out.
        psi: truncation of seeds and z, where the walk is in w; latents in w and w+ stay as they are. A walk
            in z is truncated when it is drawn.

    Returns:
        Space "w+" or "z", [(K - 1) * frames + 1, ...], or [K * frames, ...] with `loop`.

    Raises:
        ValueError: fewer than two samples, no frames, or z asked for codes that are in w.
    """
    if count_of(samples) < 2 or frames < 1:
        raise ValueError(
            f"interpolation needs at least 2 samples and 1 frame, got {count_of(samples)} and {frames}"
        )
    ends = _ends(bundle, samples, space, psi)
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


def _ends(bundle: GeneratorBundle, samples: Samples, space: str, psi: float) -> Tensor:
    """Codes to walk between, float32 on the CPU."""
    if space == "w":
        config = SampleConfig(psi=psi, keep_codes=True)
        return torch.cat([owned(chunk.codes).cpu().float() for chunk in iter_codes(bundle, samples, config)])
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


def join_latents(bundle: GeneratorBundle, latents: Sequence[Latent], psi: float = 1.0) -> Latent:
    """Put the codes of several latents one after another, each with its own edits.

    Args:
        bundle: whose mapping network is used.
        latents: at least one, of the bundle's family.
        psi: truncation of those in z; others stay as they are.

    Returns:
        Space "w+"; W+ edits are in the codes, edits of styles are carried, per code.

    Raises:
        ValueError: no latent, or one of another family or widths.
    """
    if not latents:
        raise ValueError("there is no latent to join; give at least one")
    ends = [_ends(bundle, latent, "w", psi) for latent in latents]
    counts, edits = [len(codes) for codes in ends], list[LatentEdit]()
    for place, latent in enumerate(latents):
        before, after = sum(counts[:place]), sum(counts[place + 1 :])
        edits += [_spread(edit, before, counts[place], after) for edit in latent.style_edits]
    told = {"method": "joined", "generator": bundle.title, "joined": [latent.origin for latent in latents]}
    keys = [latent.origin.get("seeds", []) for latent in latents]
    if [len(one) for one in keys] == counts:
        told["seeds"] = [seed for one in keys for seed in one]
    return Latent("w+", torch.cat(ends), bundle.family, told, tuple(edits))


def _spread(edit: LatentEdit, before: int, count: int, after: int) -> LatentEdit:
    """An edit of some of the codes only: nothing is added to those before and after."""
    vectors = {}
    for index, vector in edit.vectors.items():
        rows = vector if vector.ndim == 2 else vector.expand(count, -1)
        vectors[index] = torch.nn.functional.pad(rows, (0, 0, before, after))
    return replace(edit, vectors=vectors)
