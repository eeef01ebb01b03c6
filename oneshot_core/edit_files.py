"""Edits of latents in files: tensors `edit.<number>.<slot or style>`, the rest in the JSON header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .checkpoints.stored import Source
from .edits import EDIT_SPACES, MAX_EDITS, MOST_STRENGTH, LatentEdit
from .json_values import Fields, JsonError

MAX_LAYERS = 64  # 26 styles at 1024 px, 3 more for each doubling
MAX_WIDTH = 1_000_000
MAX_NAME = 2000  # characters


def edit_header(edit: LatentEdit) -> dict[str, Any]:
    """What the header holds of an edit, as JSON values."""
    return {
        "space": edit.space,
        "widths": list(edit.widths),
        "strength": edit.strength,
        "name": edit.name,
        "measured": edit.measured,
    }


def edit_tensors(edit: LatentEdit, number: int) -> dict[str, Tensor]:
    """Its vectors by their names in the file."""
    return vector_tensors(f"edit.{number}", edit.vectors)


def read_edits(header: Fields, sources: Mapping[str, Source]) -> tuple[LatentEdit, ...]:
    """Read the edits of a file.

    Args:
        header: of the file; without "edits" there are none.
        sources: the tensors that are edits'.

    Raises:
        JsonError: an entry or a tensor that is missing, too many, or not what is allowed.
    """
    entries = list(header.objects("edits", MAX_EDITS)) if "edits" in header else []
    read, names = list[LatentEdit](), set[str]()
    for number, fields in enumerate(entries):
        widths = read_widths(fields)
        vectors = read_vectors(f"edit.{number}", widths, sources, names)
        try:
            edit = LatentEdit(
                fields.text("space", choices=EDIT_SPACES), vectors, widths,
                fields.number("strength", -MOST_STRENGTH, MOST_STRENGTH),
                short_text(fields, "name"), short_text(fields, "measured"),
            )  # fmt: skip
        except ValueError as error:
            raise JsonError(str(error)) from error
        read.append(edit)
    if set(sources) != names:
        raise JsonError(f"it holds a tensor that belongs to nothing: {sorted(set(sources) - names)[0]!r}")
    return tuple(read)


def vector_tensors(prefix: str, vectors: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Vectors by index as tensors of a file."""
    return {f"{prefix}.{index}": vector.detach().cpu().float() for index, vector in vectors.items()}


def read_widths(fields: Fields) -> tuple[int, ...]:
    """Read the numbers of each slot or style."""
    widths = fields.items("widths", MAX_LAYERS)
    if not widths or not all(type(width) is int and 0 < width <= MAX_WIDTH for width in widths):
        raise JsonError("widths must be a list of positive whole numbers")
    return tuple(widths)


def read_vectors(
    prefix: str, widths: tuple[int, ...], sources: Mapping[str, Source], names: set[str]
) -> dict[int, Tensor]:
    """Read vectors by index; adds the names of the tensors read to `names`."""
    vectors = {}
    for index in range(len(widths)):
        source = sources.get(name := f"{prefix}.{index}")
        if source is None:
            continue
        if source.dtype != torch.float32 or not 1 <= len(source.shape) <= 2:
            raise JsonError(f"its tensor {name} is {source.dtype} of shape {list(source.shape)}")
        names.add(name)
        vectors[index] = source.read()
    return vectors


def short_text(fields: Fields, name: str) -> str:
    """Read a text of at most 2,000 characters."""
    text = fields.text(name)
    if len(text) > MAX_NAME:
        raise JsonError(f"{name} is longer than {MAX_NAME} characters")
    return text
