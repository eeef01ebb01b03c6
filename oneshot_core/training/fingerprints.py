"""Fingerprints of what determines a run: SHA-256 over names, shapes and values, once per network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..features import Encoders, EncodersOnDemand

_Stamp: TypeAlias = tuple[tuple[str, int, int], ...]
_KNOWN: WeakKeyDictionary[nn.Module, tuple[_Stamp, str]] = WeakKeyDictionary()


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hex over names, shapes, types and values; the order and the device do not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def network_fingerprint(network: nn.Module) -> str:
    """`fingerprint` of a network's state; computed again only after its tensors were changed or replaced.

    A 1024 px generator with its discriminator and a CLIP have about 1 GB, which takes a second to hash.
    """
    tensors = network.state_dict(keep_vars=True)
    if any(value.is_inference() for value in tensors.values()):  # they do not count their changes
        return fingerprint(tensors)
    stamp = tuple((name, value.data_ptr(), value._version) for name, value in tensors.items())
    known = _KNOWN.get(network)
    if known is None or known[0] != stamp:
        known = _KNOWN[network] = stamp, fingerprint(tensors)
    return known[1]


def encoder_fingerprint(encoder: Any) -> str:
    """SHA-256 in hex over an encoder's weights and its preprocessing."""
    weights = network_fingerprint(encoder) if isinstance(encoder, nn.Module) else ""
    return hashlib.sha256(f"{weights}{getattr(encoder, 'preprocess', '')!r}".encode()).hexdigest()


def clip_fingerprints(encoders: Encoders | EncodersOnDemand) -> list[list[Any]]:
    """Fingerprint and weight of every CLIP model."""
    return [[encoder_fingerprint(clip), weight] for clip, weight in encoders.clips]
