"""Configurations of CLIP models from outside: read as typed values and bounded before anything is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import json_values
from ..json_values import Fields, JsonError
from .weights import EncoderError

# Entries that decide about size: the largest published models stay far below.
_MOST: dict[str, int] = {
    "embed_dim": 8192,
    "image_size": 1024,
    "patch_size": 512,
    "layers": 128,
    "width": 16384,
    "head_width": 4096,
    "heads": 256,
    "context_length": 4096,
    "vocab_size": 1_000_000,
    "n_queries": 4096,
    "attn_pooler_queries": 4096,
    "attn_pooler_heads": 256,
    "attentional_pool": 4096,
    "embed_cls": 1,
    "depth": 128,
}
_LISTS = ("layers", "image_size", "patch_size")  # may be a list: stages of a ResNet, height and width
_SWITCHES = ("attentional_pool", "embed_cls")  # may be true or false
_MOST_ENTRIES = 16
_MOST_OTHER = 65_536
_MOST_MLP_RATIO = 64.0
_MOST_WORDS = 100_000
_SPARE_WEIGHTS = 1_000_000  # of small parts that the estimate leaves out or counts too high
PARTS = ("vision_cfg", "text_cfg")


def read_config(config: Mapping[str, Any] | Path | str) -> dict[str, Any]:
    """Read a configuration: a mapping of JSON values, or a JSON file.

    Raises:
        EncoderError: not readable, no JSON object, or beyond the bounds; the message names the entry.
    """
    if isinstance(config, (Path, str)):
        try:
            values = json_values.read(Path(config))
        except (OSError, JsonError) as error:
            raise EncoderError(
                f"the CLIP configuration {config} is not a readable JSON file: {error}"
            ) from error
    else:
        values = config
    if not isinstance(values, Mapping):
        raise EncoderError(f"a CLIP configuration is a JSON object, got {type(values).__name__}")
    model: dict[str, Any] = {**_part(values, "model_cfg", values)}
    if "tokenizer" in values:
        model["tokenizer"] = values["tokenizer"]
    numbers = _part(values, "preprocess_cfg", {})
    _check(model)
    return {"model": model, **{name: _three(numbers, name) for name in ("mean", "std") if name in numbers}}


def _part(values: Mapping[str, Any], name: str, default: Mapping[str, Any]) -> Mapping[str, Any]:
    found = values.get(name, default)
    if not isinstance(found, Mapping):
        raise EncoderError(
            f"the CLIP configuration: {name} must be an object, found {json_values.told(found)}"
        )
    return found


def _three(values: Mapping[str, Any], name: str) -> tuple[float, ...]:
    try:
        found = Fields(values, "the CLIP configuration: preprocess_cfg").numbers(name, 3)
        if len(found) != 3 or (name == "std" and min(found) <= 0):
            raise JsonError(f"{name} must be three numbers, std positive")
    except JsonError as error:
        raise EncoderError(str(error)) from error
    return tuple(found)


def _check(model: Mapping[str, Any]) -> None:
    """Check types and bounds of everything that decides about a model's size."""
    absent = [key for key in ("embed_dim", *PARTS) if key not in model]
    if absent:
        raise EncoderError(f"the CLIP configuration lacks {', '.join(absent)}; it has {', '.join(model)}")
    _bounded(model, "the CLIP configuration")
    for name in (*PARTS, "multimodal_cfg"):
        if name in model:
            _bounded(_part(model, name, {}), f"the CLIP configuration: {name}")
    tokenizer = _part(model, "tokenizer", {})
    words = tokenizer.get("words")
    if words is not None and not (
        isinstance(words, list | tuple)
        and len(words) <= _MOST_WORDS
        and all(isinstance(word, str) for word in words)
    ):
        raise EncoderError(f"the CLIP configuration: tokenizer: words must be at most {_MOST_WORDS} texts")


def _bounded(values: Mapping[str, Any], what: str) -> None:
    for name, value in values.items():
        if isinstance(value, list | tuple) and (name not in _MOST or name in _LISTS):
            if len(value) > _MOST_ENTRIES or (name in _LISTS and not value):
                raise EncoderError(f"{what}: {name} must be a list of 1 to {_MOST_ENTRIES} numbers")
            for one in value:
                _bounded_number(one, str(name), what)
        else:
            _bounded_number(value, str(name), what)


def _bounded_number(value: Any, name: str, what: str) -> None:
    if name == "mlp_ratio" or name.endswith("_ratio"):
        if not _is_number(value) or not 0 < value <= _MOST_MLP_RATIO:
            raise EncoderError(f"{what}: {name} must be a number up to {_MOST_MLP_RATIO:g}")
    elif name in _MOST and not (name in _SWITCHES and isinstance(value, bool)):
        if type(value) is not int or not 0 < value <= _MOST[name]:
            raise EncoderError(f"{what}: {name} must be a whole number from 1 to {_MOST[name]}")
    elif _is_number(value) and not abs(value) <= _MOST_OTHER:
        raise EncoderError(f"{what}: {name} is {value:g}, beyond any model; at most {_MOST_OTHER}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_size(model: Mapping[str, Any], held: int, source: Path | str) -> None:
    """Refuse a configuration that asks for far more weights than its file has, before anything is built.

    Args:
        model: a configuration of `read_config`.
        held: number of weights in the file.
        source: the file, for the message.

    Raises:
        EncoderError: with both numbers.
    """
    needed = _least(model["vision_cfg"], picture=True) + _least(model["text_cfg"], picture=False)
    if needed > held + _SPARE_WEIGHTS:
        raise EncoderError(
            f"the CLIP configuration asks for at least {needed:,} weights, {source} has {held:,}; give the "
            "configuration that belongs to the file"
        )


def _least(part: Mapping[str, Any], picture: bool) -> int:
    """Estimate from below how many weights a tower has."""
    if "timm_model_name" in part or "hf_model_name" in part:
        return 0
    width = part.get("width", 768 if picture else 512)
    layers = part.get("layers", 12)
    if not isinstance(layers, int):
        return 0  # a ResNet, whose stages are bounded in their number and width
    ratio = part.get("mlp_ratio", 4.0)
    blocks = int(layers * (4 + 2 * ratio) * width * width)
    if picture:
        return blocks
    return blocks + width * (part.get("vocab_size", 49408) + part.get("context_length", 77))
