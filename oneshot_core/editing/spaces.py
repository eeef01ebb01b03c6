"""The numbers that an edit may move, as one tensor per code: its W+ code, or its styles side by side.

Source: StyleCLIP (arXiv 2103.17249) section 4; `work_in_stylespace` of orpatashnik/StyleCLIP
optimization/run_optimization.py, which leaves the styles of colours alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..edits import MAX_EDITS, STYLE, W_PLUS, LatentEdit, edited_codes, edited_styles
from ..latents import Latent
from ..networks import Generator
from ..tensors import Latents, Styles, owned
from .style_layout import convolution_styles


def slot_widths(generator: Generator) -> tuple[int, ...]:
    """Numbers of each slot of a W+ code, [W] * L."""
    return (generator.config.w_dim,) * generator.config.num_layers


def edit_widths(generator: Generator, space: str) -> tuple[int, ...]:
    """What a `LatentEdit` of that space has as `widths`."""
    return generator.style_widths if space == STYLE else slot_widths(generator)


@dataclass(frozen=True)
class Variable:
    """What moves of n codes, and how pictures come from it.

    Args:
        generator: who draws.
        space: "w+": the code itself; "style": the styles of its convolutions.
        base: [n, L, W], with the W+ edits that the latent carries.
        edits: style edits that the latent carries, for these n codes; they stay in what is drawn.
        start: [n, L, W], or [n, C] of all styles of convolutions side by side; made here.
    """

    generator: Generator
    space: str
    base: Latents
    edits: tuple[LatentEdit, ...] = ()
    start: Latents = field(init=False)
    _fixed: Styles = field(init=False)

    def __post_init__(self) -> None:
        with torch.no_grad():
            fixed = edited_styles(self.generator.affine(self.base), self.edits)
        start = self.base if self.space == W_PLUS else _beside(fixed)
        object.__setattr__(self, "start", owned(start))
        object.__setattr__(self, "_fixed", fixed)

    @classmethod
    def of(cls, generator: Generator, space: str, latent: Latent) -> Variable:
        """The variable of a latent; without gradient."""
        with torch.no_grad():
            base = owned(edited_codes(latent.unedited(generator), latent.edits))
        return cls(generator, space, base, latent.style_edits)

    @property
    def parts(self) -> Styles:
        """What a mapper looks at: every slot of the code, or every style, those of colours too, [n, C]."""
        return self._fixed if self.space == STYLE else self.base.unbind(dim=1)

    def moved(self, changes: Mapping[int, Tensor]) -> tuple[Latents, list[Tensor]]:
        """Add changes by slot or style of a convolution; what has none stays.

        Returns:
            Values like `start`; and what was added, [n, L, W] in one tensor or [n, C] per style.
        """
        keys = range(self.base.shape[1]) if self.space == W_PLUS else convolution_styles(len(self._fixed))
        added = [changes.get(key, torch.zeros_like(self.parts[key])) for key in keys]
        if self.space == W_PLUS:
            added = [torch.stack(added, dim=1)]
        return self.start + torch.cat(added, dim=1), added

    def styles(self, values: Latents) -> Styles:
        """Styles to draw values [n, ...] with, differentiable."""
        if self.space == W_PLUS:
            return edited_styles(self.generator.affine(values), self.edits)
        styles, own = list(self._fixed), iter(self.split(values))
        for index in convolution_styles(len(styles)):
            styles[index] = next(own)
        return tuple(styles)

    def split(self, values: Latents) -> tuple[Tensor, ...]:
        """Values [n, ...] by slot or by style of a convolution, [n, C] each."""
        if self.space == W_PLUS:
            return values.unbind(dim=1)
        widths = [self._fixed[index].shape[1] for index in convolution_styles(len(self._fixed))]
        return values.split(widths, dim=1)

    def change(self, values: Latents) -> dict[int, Tensor]:
        """What was added to the start, by slot or style, [n, C] each, float32 on the CPU."""
        moved = [owned(part).float().cpu() for part in self.split(values.detach() - self.start)]
        keys = range(len(moved)) if self.space == W_PLUS else convolution_styles(len(self._fixed))
        return dict(zip(keys, moved, strict=True))

    def render(self, values: Latents, noise: Sequence[Tensor]) -> Tensor:
        """Pictures [n, 3, S, S] of values, differentiable."""
        return self.generator.render(self.styles(values), noise)


def _beside(styles: Styles) -> Latents:
    return torch.cat([styles[index] for index in convolution_styles(len(styles))], dim=1)


def check_room(latent: Latent, space: str) -> None:
    """Refuse a latent to which an edit of styles cannot be added; raises ValueError."""
    if space == STYLE and len(latent.style_edits) >= MAX_EDITS:
        raise ValueError(
            f"the latent carries {MAX_EDITS} edits of styles already; edit the latent from before some of "
            "them, or edit in w+"
        )
