"""What determines a result, written down in this one place: inputs by fingerprint, settings by value.

Fingerprints are SHA-256 over names, shapes and values, computed once per network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .checkpoints import GeneratorBundle
from .features import Encoders, EncodersOnDemand
from .latents import Latent
from .objective import Aim, Preset

TEXTS = ("source_text", "target_texts", "target_weights", "text_weights")
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


def latent_fingerprint(latent: Latent) -> str:
    """`fingerprint` of a latent's codes and of the edits that it carries."""
    codes = {f"values.{latent.space}": latent.values}
    for number, edit in enumerate(latent.edits):
        codes |= {f"{number}.{edit.space}.{key}": edit.strength * v for key, v in edit.vectors.items()}
    return fingerprint(codes)


def network_fingerprint(network: nn.Module) -> str:
    """SHA-256 in hex over a network's state and what it computes with that; computed again only after its
    tensors were changed or replaced.

    A 1024 px generator with its discriminator and a CLIP have about 1 GB, which takes a second to hash.
    """
    return hashlib.sha256(f"{_state_fingerprint(network)}{_architecture(network)}".encode()).hexdigest()


def _architecture(network: nn.Module) -> str:
    """What two networks of the same tensors may differ in: activations, heads, settings of a layer."""
    told = [f"{getattr(network, 'config', '')!r}"]
    for name, module in network.named_modules():
        heads = getattr(module, "num_heads", "")
        told.append(f"{name} {type(module).__name__} {module.extra_repr()} {heads}")
    return "\n".join(told)


def _state_fingerprint(network: nn.Module) -> str:
    tensors = network.state_dict(keep_vars=True)
    if any(value.is_inference() for value in tensors.values()):  # they do not count their changes
        return fingerprint(tensors)
    stamp = tuple((name, value.data_ptr(), value._version) for name, value in tensors.items())
    known = _KNOWN.get(network)
    if known is None or known[0] != stamp:
        known = _KNOWN[network] = stamp, fingerprint(tensors)
    return known[1]


def encoder_fingerprint(encoder: Any) -> str:
    """SHA-256 in hex over an encoder's network, its preprocessing and how it reads text."""
    network = network_fingerprint(encoder) if isinstance(encoder, nn.Module) else ""
    tokenizer = getattr(encoder, "tokenizer", None)
    words = (
        "" if tokenizer is None else f"{type(tokenizer).__name__} {getattr(tokenizer, 'context_length', '')}"
    )
    told = f"{network}{getattr(encoder, 'preprocess', '')!r}{words}"
    return hashlib.sha256(told.encode()).hexdigest()


def clip_fingerprints(encoders: Encoders | EncodersOnDemand) -> list[list[Any]]:
    """Fingerprint and weight of every CLIP model."""
    return [[encoder_fingerprint(clip), weight] for clip, weight in encoders.clips]


def inputs_of(
    bundle: GeneratorBundle,
    encoders: Encoders | EncodersOnDemand,
    aim: Aim,
    mask: Tensor | None = None,
    start: Tensor | None = None,
) -> dict[str, Any]:
    """Fingerprint everything that a search or an adaptation works with, as JSON values.

    Args:
        bundle: the source generator.
        encoders: CLIP models and perceptual net.
        aim: pictures, reference, texts, as far as they are given.
        mask: what of the target counts; None: all.
        start: where a search starts, if not at the mean latent.
    """
    optional = {"raw": bundle.raw_generator, "discriminator": bundle.discriminator}
    named = {**aim.tensors(), "mask": mask, "start": start}
    return {
        "size": bundle.size,
        "source": network_fingerprint(bundle.generator),
        **{name: network_fingerprint(network) for name, network in optional.items() if network is not None},
        "mean": fingerprint({"mean": bundle.mean_latent}),
        "clip": clip_fingerprints(encoders),
        "perceptual": encoder_fingerprint(encoders.perceptual),
        **{name: fingerprint({name: value}) for name, value in named.items() if value is not None},
        **aim.texts(),
    }


def determining(
    inputs: Mapping[str, Any],
    *,
    search: Mapping[str, Any] | None = None,
    preset: Preset | None = None,
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe what determines a result, but for the number of training steps, as JSON values.

    A state that is saved, a run that is kept and a recipe's key all hold this; what is not in it must not
    change a result.

    Args:
        inputs: from `inputs_of`; only what the work sees is taken.
        search: what `SearchConfig` describes, where a search is part of the work.
        preset: of the adaptation, where that is part of the work.
        training: what `TrainConfig` describes.
    """
    seen = {"source", "clip", "target", "mask"}
    seen |= {name for name in inputs if name.startswith("direction.")}
    values: dict[str, Any] = {}
    if search is not None:
        left_out = {"steps"} if preset is None else set()  # before a training, they decide the reference
        values["search"] = {name: value for name, value in search.items() if name not in left_out}
        raw = search["profile"]["trains_raw_generator"] and "raw" in inputs
        seen |= {"perceptual", "start", "raw" if raw else "mean"}
    if preset is not None:
        values |= {"preset": preset.describe(), **(training or {})}
        seen |= set(TEXTS)
        needs = preset.needs
        seen |= {"reference"} if search is None and needs.reference else set()
        seen |= {"perceptual"} if needs.perceptual else set()
        seen |= {"mean", "discriminator"}  # the result's file holds them, whether they are trained or not
        seen |= {"raw"} if preset.start == "raw" else set()
    values["inputs"] = {name: value for name, value in inputs.items() if name in seen}
    return json.loads(json.dumps(values))
