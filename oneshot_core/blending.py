"""Blending a generator with one adapted from it: by weight, as a whole or per resolution."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .checkpoints import GeneratorBundle, Provenance, related
from .ranges import check_number
from .tensors import owned

STRENGTHS = (-1.0, 2.0)  # allowed; outside 0 and 1 the weights are extrapolated
_MAPPING = "mapping."


def blend_generators(
    first: GeneratorBundle,
    second: GeneratorBundle,
    strength: float | Mapping[int, float],
    *,
    name: str = "",
) -> GeneratorBundle:
    """Interpolate every weight between two related generators.

    Args:
        first: strength 0, usually the source.
        second: strength 1, usually adapted from it; or both were adapted from one source.
        strength: one number for everything, or one per resolution 4, 8, ..., size (missing ones: 0) for the
            convolutions, RGB layer and noise there. From -1 to 2: beyond 0 and 1 the difference between the
            two is extrapolated, for a look that is more than the second's, or the opposite of it.
        name: of the result, for records; "": made of both names.

    Returns:
        A bundle of its own on the CPU, without discriminators. Where both have the same mapping network, and
        so the same latents, it and the mean latent are the first's; else they are interpolated too.

    Raises:
        ValueError: the two are not related or not built alike, a strength or a resolution is out of range, or
            strengths differ by resolution while the mapping networks differ.

    Source: rinongal/StyleGAN-nada generate_videos.py (all weights alike); Pinkney and Adler 2020
        (arXiv 2010.05334), layer swapping, with their gradual variant as numbers between 0 and 1.
    """
    _check_pair(first, second)
    config = first.generator.config
    strengths = _strengths(strength, config.size)
    with torch.inference_mode(False), torch.no_grad():
        ours = {key: owned(value).cpu() for key, value in first.generator.state_dict().items()}
        theirs = {key: value.to(ours[key]) for key, value in second.generator.state_dict().items()}
        whole = _whole_strength(strength, first, second, ours, theirs)
        state = {}
        for key, value in ours.items():
            amount = whole if key.startswith(_MAPPING) else strengths[resolution_of(key)]
            state[key] = torch.lerp(value, theirs[key], amount)
        mean = torch.lerp(owned(first.mean_latent), second.mean_latent.to(first.mean_latent), whole)
        generator = copy.deepcopy(first.generator).cpu()
        generator.load_state_dict(state, assign=True)
    return GeneratorBundle(generator.eval(), None, None, mean, _provenance(first, second, strength, name))


def swap_from(size: int, resolution: int) -> dict[int, float]:
    """Strengths of a layer swap: pose and shape from the first generator, texture from the second.

    Args:
        size: of the generators, in pixels.
        resolution: from here on, 4, 8, ... or size, everything is the second's; 32 is usual at 1024 px.

    Returns:
        Strength per resolution, 0 below `resolution` and 1 from it on, for `blend_generators`.

    Raises:
        ValueError: the generator has no such resolution.

    Source: Pinkney and Adler 2020 (arXiv 2010.05334), section 3.
    """
    sides = resolutions(size)
    if resolution not in sides:
        raise ValueError(f"resolution must be one of {_listed(sides)} for {size} px, got {resolution}")
    return {side: float(side >= resolution) for side in sides}


def resolutions(size: int) -> list[int]:
    """List the resolutions 4, 8, ... of a generator of `size` px."""
    return [2**level for level in range(2, int(math.log2(size)) + 1)]


def resolution_of(key: str) -> int:
    """Tell at which resolution a tensor of `Generator.state_dict()` works; the mapping network has none."""
    found = re.match(r"(convs|to_rgbs)\.(\d+)\.", key)
    if found is None:
        return 4  # the constant
    index = int(found[2])
    return 2 ** (index + 2) if found[1] == "to_rgbs" else 2 ** ((index + 1) // 2 + 2)


def _listed(sides: list[int]) -> str:
    return ", ".join(map(str, sides))


_DIFFERENCES = {  # of two shapes, what users know first
    "size": "pictures of {} px",
    "c_dim": "{} classes",
    "channels": "widths {}",
}
_ONLY = "only a generator and one adapted from it can be blended"


def _check_pair(first: GeneratorBundle, second: GeneratorBundle) -> None:
    one, other = (bundle.generator.config.to_dict() for bundle in (first, second))
    for key in (*_DIFFERENCES, *one):
        if one[key] != other[key]:
            told = _DIFFERENCES.get(key, f"{key} {{}}")
            ours, theirs = (told.format(_plain(values[key])) for values in (one, other))
            raise ValueError(
                f"{first.title} ({ours}) and {second.title} ({theirs}) are not built alike: {_ONLY}"
            )
    if not (related(first, second.family) or related(second, first.family)):
        raise ValueError(f"{first.title} and {second.title} are not related: {_ONLY}")


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _strengths(strength: float | Mapping[int, float], size: int) -> dict[int, float]:
    """Strength per resolution; raises ValueError for what is out of range."""
    sides = resolutions(size)
    given = strength if isinstance(strength, Mapping) else dict.fromkeys(sides, strength)
    if unknown := sorted(set(given) - set(sides)):
        raise ValueError(f"a generator of {size} px has the resolutions {_listed(sides)}, got {unknown}")
    for value in given.values():
        check_number(value, "strength (usually 0 to 1)", *STRENGTHS)
    return {side: float(given.get(side, 0.0)) for side in sides}


def _whole_strength(
    strength: float | Mapping[int, float],
    first: GeneratorBundle,
    second: GeneratorBundle,
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
) -> float:
    """Strength for mapping network and mean latent: 0, the first's, where both have the same mapping."""
    if all(torch.equal(ours[key], theirs[key]) for key in ours if key.startswith(_MAPPING)):
        return 0.0
    if isinstance(strength, Mapping):
        raise ValueError(
            f"the mapping networks of {first.title} and {second.title} differ, and they have no resolution; "
            "give one strength for everything"
        )
    return float(strength)


def _provenance(
    first: GeneratorBundle, second: GeneratorBundle, strength: float | Mapping[int, float], name: str
) -> Provenance:
    def described(bundle: GeneratorBundle) -> dict[str, Any]:
        known = bundle.provenance
        return {
            "file_name": known.file_name,
            "sha256": known.sha256,
            "family": bundle.family,
            "history": dict(known.history),
        }

    amounts = (
        {str(side): float(value) for side, value in strength.items()}
        if isinstance(strength, Mapping)
        else float(strength)
    )
    one, other = described(first), described(second)
    parent = {key: one[key] for key in ("file_name", "sha256", "family")}
    history = {"parent": parent, "blend": {"first": one, "second": other, "strength": amounts}}
    name = name or f"{first.provenance.file_name} + {second.provenance.file_name}"
    return Provenance("blended", name, history=history)


def parse_strengths(text: str) -> dict[int, float]:
    """Read strengths per resolution such as "4: 0, 16: 0.5, 32: 1".

    Raises:
        ValueError: something else is written there.
    """
    strengths: dict[int, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        resolution, _, value = part.partition(":")
        try:
            strengths[int(resolution)] = float(value)
        except ValueError:
            raise ValueError(
                f"strengths are written as resolution: strength, such as 16: 0.5, 32: 1; cannot read {part!r}"
            ) from None
    if not strengths:
        raise ValueError("no strengths given; give at least one, such as 32: 1")
    return strengths
