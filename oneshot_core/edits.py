"""Edits that a latent carries: changes of its W+ code and of its styles, kept apart from the code itself.

Kept apart, because they come in at another place than the code: a code is truncated, mixed and replaced
first; then W+ edits are added; the drawing generator's own affine layers turn the sum into styles; then style
edits are added to those. So one edit works on the source and on every generator adapted from it, also where
the adapted affine layers give other styles (never the source's styles in an adapted generator).

Source: StyleCLIP (arXiv 2103.17249) section 6 for offsets of styles; the order is that of the project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .ranges import check_number
from .tensors import Latents, Styles, check_finite, owned
from .texts import printable

W_PLUS, STYLE = "w+", "style"
EDIT_SPACES = (W_PLUS, STYLE)
MOST_STRENGTH = 1000.0  # of an edit, in either direction
MAX_EDITS = 64  # that one latent carries


@dataclass(frozen=True)
class LatentEdit:
    """A change of W+ codes or of styles, the same for all codes of a latent or one for each.

    Args:
        space: "w+" or "style".
        vectors: what is added at strength 1, float32: by slot (w+) or by style in the order of
            `Generator.affine` (style), each [C] for all codes or [N, C] for the N codes of the latent. What
            has no vector is not changed.
        widths: numbers of each slot or style of the generators that it fits; [W] * L in w+.
        strength: factor, any sign.
        name: what it is called, "" when nothing names it.
        measured: title of the generator whose statistics its unit stands for, "" when it has none.
    """

    space: str
    vectors: Mapping[int, Tensor]
    widths: tuple[int, ...]
    strength: float = 1.0
    name: str = ""
    measured: str = ""

    def __post_init__(self) -> None:
        if self.space not in EDIT_SPACES:
            raise ValueError(f"an edit is in {' or '.join(EDIT_SPACES)}, got {self.space!r}")
        check_number(self.strength, f"strength of {self.title}", low=-MOST_STRENGTH, high=MOST_STRENGTH)
        object.__setattr__(self, "vectors", checked_vectors(self.vectors, self.widths, self.title, (1, 2)))

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"the edit {printable(self.name)}" if self.name else f"an edit in {self.space}"

    @property
    def count(self) -> int | None:
        """Number N of codes it was made for; None: it fits any number."""
        return next((len(vector) for vector in self.vectors.values() if vector.ndim == 2), None)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> LatentEdit:
        """Change its vectors of one row per code, [N, C] -> [M, C]; those for all codes stay."""
        if self.count is None:
            return self
        changed = {key: change(value) if value.ndim == 2 else value for key, value in self.vectors.items()}
        return replace(self, vectors=changed)


def checked_vectors(
    vectors: Mapping[int, Tensor], widths: Sequence[int], name: str, dimensions: Sequence[int]
) -> dict[int, Tensor]:
    """Check vectors by index; return them in order, in memory of their own.

    Args:
        vectors: [C] or [N, C] by index.
        widths: C of every index.
        name: of what they belong to, for messages.
        dimensions: that they may have.

    Raises:
        ValueError: an index, shape or number of rows that does not fit, or a value that is not finite.
    """
    rows = {len(vector) for vector in vectors.values() if vector.ndim == 2}
    if len(rows) > 1:
        raise ValueError(
            f"{name} has vectors for {' and '.join(map(str, sorted(rows)))} codes; make it again"
        )
    kept = {}
    for index in sorted(vectors):
        vector = vectors[index]
        if not 0 <= index < len(widths):
            raise ValueError(f"{name} changes number {index} of {len(widths)}; the first is 0")
        if vector.ndim not in dimensions or vector.shape[-1] != widths[index]:
            raise ValueError(
                f"{name} must have {widths[index]} numbers for number {index}, got the shape "
                f"{list(vector.shape)}"
            )
        check_finite(vector, name, "make it again, or leave it out")
        kept[index] = owned(vector)
    return kept


def check_fitting(
    edits: Iterable[LatentEdit], slots: Sequence[int], styles: Sequence[int], name: str
) -> None:
    """Refuse edits that were made for generators of other widths.

    Args:
        edits: what a latent carries.
        slots: numbers of each slot of the generator, [W] * L.
        styles: numbers of each of its styles.
        name: how the user calls the generator.
    """
    for edit in edits:
        own = tuple(slots if edit.space == W_PLUS else styles)
        if edit.widths != own:
            raise ValueError(
                f"{edit.title} does not fit {name}: it was made for {_told(edit.widths)}, and {name} has "
                f"{_told(own)}; use a generator of those widths, or make the edit with this one"
            )


def edited_codes(codes: Latents, edits: Iterable[LatentEdit]) -> Latents:
    """Add the W+ edits to codes [N, L, W]; those of styles are left out."""
    for edit in edits:
        if edit.space == W_PLUS:
            change = torch.zeros_like(codes)
            for slot, vector in edit.vectors.items():
                change[:, slot] = vector.to(codes)
            codes = codes + edit.strength * change
    return codes


def edited_styles(styles: Styles, edits: Iterable[LatentEdit]) -> Styles:
    """Add the style edits to what `Generator.affine` gave, [N, C] each; those of W+ are left out."""
    changed = list(styles)
    for edit in edits:
        if edit.space == STYLE:
            for index, vector in edit.vectors.items():
                changed[index] = changed[index] + edit.strength * vector.to(changed[index])
    return tuple(changed)


def part_of(edits: Iterable[LatentEdit], part: slice) -> tuple[LatentEdit, ...]:
    """The edits of a part of a latent's codes."""
    return tuple(edit.mapped(lambda vector: vector[part]) for edit in edits)


def _told(widths: Sequence[int]) -> str:
    return f"{len(widths)} layers of {sum(widths):,} numbers"
