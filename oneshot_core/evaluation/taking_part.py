"""Whether an encoder took part in an adaptation: by fingerprint, from what the result says of its making."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..checkpoints import GeneratorBundle
from ..fingerprints import encoder_fingerprint

TOOK_PART, NO_PART, UNKNOWN = "took part", "took no part", "unknown"
MOST_BLENDED = 16  # blends of blends that are looked into


def clip_part(bundle: GeneratorBundle, clip: Any) -> str:
    """Say whether a CLIP model took part in an adaptation.

    Args:
        bundle: the adapted generator; of a blend what both sides say counts.
        clip: the model.

    Returns:
        `TOOK_PART`, `NO_PART`, or `UNKNOWN` where the file does not say how it was made: one that was never
        adapted, or was saved in another format.
    """
    told = [[one[0] for one in inputs.get("clip", [])] for inputs in _inputs(bundle)]
    return _part(told, encoder_fingerprint(clip))


def perceptual_part(bundle: GeneratorBundle, net: Any) -> str:
    """Say whether a perceptual net took part; see `clip_part`."""
    told = [[inputs["perceptual"]] if "perceptual" in inputs else [] for inputs in _inputs(bundle)]
    return _part(told, encoder_fingerprint(net))


def _part(told: list[list[str]], own: str) -> str:
    if not told:
        return UNKNOWN
    return TOOK_PART if any(own in one for one in told) else NO_PART


def _inputs(bundle: GeneratorBundle) -> list[Mapping[str, Any]]:
    return [one for one in _each_inputs(bundle.provenance.history, MOST_BLENDED) if _is_read(one)]


def _each_inputs(history: Mapping[str, Any], left: int) -> Iterator[Mapping[str, Any]]:
    """Fingerprints of what every adaptation worked with that a history tells of."""
    settings = history.get("settings")
    if isinstance(settings, Mapping) and isinstance(settings.get("inputs"), Mapping):
        yield settings["inputs"]
    blend = history.get("blend")
    sides = blend if isinstance(blend, Mapping) and left else {}
    for inner in (sides.get("first"), sides.get("second")):
        if isinstance(inner, Mapping) and isinstance(inner.get("history"), Mapping):
            yield from _each_inputs(inner["history"], left - 1)


def _is_read(inputs: Mapping[str, Any]) -> bool:
    """Whether an adaptation says what it worked with in the form that is written now: files hold anything."""
    clips = inputs.get("clip")
    listed = isinstance(clips, list) and all(isinstance(one, list) and one for one in clips)
    return listed and isinstance(inputs.get("perceptual", ""), str)
