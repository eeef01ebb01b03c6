"""Latent codes: spaces z, w and w+; mean and truncation; mixing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import torch
from torch import Tensor

from .choices import NVIDIA_DRAW, OWN_DRAW
from .draws import Draws
from .edits import STYLE, LatentEdit, check_fitting, edited_codes, edited_styles, part_of
from .networks import Generator
from .tensors import Latents, Styles, check_finite, check_shape, seeded
from .texts import printable

SPACES = ("z", "w", "w+")


@dataclass(frozen=True)
class Latent:
    """A latent code and where it came from.

    Args:
        space: "z" [N, Z], "w" [N, W] or "w+" [N, L, W].
        values: the code, float32.
        family: fingerprint of the generator family it belongs to, "" when unknown.
        origin: JSON values about the seeds or the search that made it.
        edits: changes that come on top, in this order: those of W+ are added to the truncated, mixed and
            replaced code, those of styles to what the drawing generator's affine layers make of it.
    """

    space: str
    values: Tensor
    family: str = ""
    origin: dict[str, Any] = field(default_factory=dict)
    edits: tuple[LatentEdit, ...] = ()

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise ValueError(f"latent space must be one of {', '.join(SPACES)}, got {self.space!r}")
        check_shape(self.values, f"a latent in {self.space}", (None,) * (3 if self.space == "w+" else 2))
        check_finite(self.values, f"the latent in {self.space}", "make it again, or load another")
        object.__setattr__(self, "edits", tuple(self.edits))
        for edit in self.edits:
            if edit.count not in (None, len(self.values)):
                raise ValueError(
                    f"{edit.title} was made for {edit.count} codes, and this latent has {len(self.values)}"
                )

    @property
    def style_edits(self) -> tuple[LatentEdit, ...]:
        """The edits of styles."""
        return tuple(edit for edit in self.edits if edit.space == STYLE)

    def part(self, part: slice) -> Latent:
        """Some of the codes, with their edits, and their seeds where these are known."""
        origin, seeds = self.origin, self.origin.get("seeds")
        if isinstance(seeds, list) and len(seeds) == len(self.values):
            origin = {**origin, "seeds": seeds[part]}
        return replace(self, values=self.values[part], origin=origin, edits=part_of(self.edits, part))

    def codes(self, generator: Generator, user: str = "what is done here") -> Latents:
        """Return w+ codes [N, L, W] for a generator: z is mapped, w is repeated, W+ edits are added.

        For whoever works with codes alone; who draws pictures calls `styles`.

        Args:
            generator: who is to draw.
            user: who takes codes alone, for the message.

        Raises:
            ValueError: the latent carries edits of styles, which a code cannot hold; it has another width or
                number of slots than the generator, or is in z and the generator conditional.
        """
        if self.style_edits:
            self._refuse_edits(user)
        return edited_codes(self.unedited(generator), self.edits)

    def folded(self, user: str = "what is done here") -> Latent:
        """The latent with its W+ edits in the code, so that who reads the values alone has all of it.

        Args:
            user: who takes codes alone, for the message.

        Raises:
            ValueError: it carries edits of styles, or is in z and carries any: neither fits into the code.
        """
        if not self.edits:
            return self
        if self.style_edits or self.space == "z":
            self._refuse_edits(user)
        slots = len(self.edits[0].widths)
        values = self.values if self.space == "w+" else self.values[:, None].expand(-1, slots, -1)
        return replace(self, space="w+", values=edited_codes(values, self.edits), edits=())

    def _refuse_edits(self, user: str) -> None:
        names = ", ".join(edit.title for edit in self.edits)
        raise ValueError(
            f"this latent carries edits ({names}) that are no part of its code, and {user} uses codes alone; "
            "give the latent from before those edits"
        )

    def styles(self, generator: Generator) -> Styles:
        """Return styles [N, C] as `Generator.affine` does, with all edits: what `Generator.render` draws."""
        codes = edited_codes(self.unedited(generator), self.edits)
        return edited_styles(generator.affine(codes), self.edits)

    def unedited(self, generator: Generator) -> Latents:
        """Return w+ codes [N, L, W] without the edits; see `codes`."""
        self.check(generator)
        if self.space == "z":
            if generator.config.c_dim:
                raise ValueError(
                    "this latent (z) has no class, which a conditional generator needs; draw it first with a "
                    "class, and take the latent that comes with the pictures"
                )
            return generator.map(self.values.to(generator.const))
        return generator.broadcast(self.values.to(generator.const))

    @property
    def generator_name(self) -> str:
        """The generator that it was made with, as its origin tells; "" when unknown."""
        origin: Any = self.origin
        while isinstance(origin, Mapping):
            recipe = origin.get("recipe")
            told = origin.get("generator") or (recipe.get("generator") if isinstance(recipe, Mapping) else "")
            if isinstance(told, str) and told:
                return printable(told)
            origin = origin.get("edited")
        return ""

    def check(self, generator: Generator, name: str = "the generator", what: str = "latent") -> None:
        """Refuse a generator of another width or number of slots.

        Args:
            generator: who is to draw it.
            name: how the user calls the generator.
            what: and this latent.

        Raises:
            ValueError: it says what both have.
        """
        config, found = generator.config, list(self.values.shape[1:])
        width = config.z_dim if self.space == "z" else config.w_dim
        wanted = [config.num_layers, width] if self.space == "w+" else [width]
        if found != wanted:
            ours, theirs = (
                f"{f'{one[0]} slots of ' if one[1:] else ''}width {one[-1]}" for one in (found, wanted)
            )
            raise ValueError(
                f"this {what} is for another generator: its codes in {self.space} have {ours}, those of "
                f"{name} ({config.size} px) have {theirs}; use the generator that the {what} was made with"
            )
        slots = [config.w_dim] * config.num_layers
        check_fitting(self.edits, slots, generator.style_widths, name)


def z_from_seeds(seeds: Sequence[int], z_dim: int, draw: str = OWN_DRAW) -> Latents:
    """Draw one z per seed; a seed gives the same z in every batch and on every device.

    Args:
        seeds: N of them; NVIDIA's are 0 to 2**32 - 1.
        z_dim: width Z.
        draw: "own", or "nvidia" for the pictures that NVIDIA's programs draw from a seed.

    Returns:
        [N, Z] float32.

    Raises:
        ValueError: no seeds, or one that NVIDIA's programs cannot have.

    Source: NVlabs stylegan2-ada-pytorch generate.py (`RandomState(seed).randn`), as StyleGAN3's.
    """
    if not seeds:
        raise ValueError("no seeds given; give at least one, such as 0 or 0-15")
    if draw != NVIDIA_DRAW:
        return torch.stack([torch.randn(z_dim, generator=seeded(seed, 0, "z")) for seed in seeds])
    largest = max(seeds)
    if largest >= 2**32:
        raise ValueError(f"NVIDIA's seeds are 0 to {2**32 - 1}, got {largest}; choose a smaller one")
    drawn = [numpy.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return torch.from_numpy(numpy.stack(drawn)).float()


def labels(classes: Sequence[int] | None, count: int, c_dim: int) -> Tensor | None:
    """Return one-hot labels [N, c_dim] of a conditional generator, None for an unconditional one.

    Args:
        classes: class per sample, or one for all; None: class 0 for all.
        count: number of samples N.
        c_dim: number of classes.

    Raises:
        ValueError: classes for an unconditional generator, or a class out of range.
    """
    if c_dim == 0:
        if classes:
            raise ValueError("classes were given but this generator is unconditional; leave them out")
        return None
    chosen = list(classes or [0])
    chosen = chosen * count if len(chosen) == 1 else chosen
    if len(chosen) != count or any(not 0 <= value < c_dim for value in chosen):
        raise ValueError(
            f"classes must be numbers from 0 to {c_dim - 1}, one for all pictures or one for each of the "
            f"{count}, got {', '.join(map(str, classes or [0]))}"
        )
    return torch.nn.functional.one_hot(torch.tensor(chosen), c_dim).float()


def truncate(w: Latents, mean: Tensor, psi: float, cutoff: int | None = None) -> Latents:
    """Pull codes towards the mean: mean + psi * (w - mean).

    Args:
        w: [N, W] or [N, L, W].
        mean: [W].
        psi: 1 leaves w as it is, 0 gives the mean.
        cutoff: number of first slots that are truncated, as in NVIDIA's `truncation_cutoff`; None: all.

    Returns:
        Codes of the shape of `w`.
    """
    truncated = torch.lerp(mean.to(w).expand_as(w), w, psi)
    if cutoff is None or w.ndim == 2:
        return truncated
    return torch.cat([truncated[:, :cutoff], w[:, cutoff:]], dim=1)


def mix(first: Latents, second: Latents, crossover: int, end: int | None = None) -> Latents:
    """Take slots `crossover` up to `end` from the second code, all others from the first.

    Args:
        first: [N, L, W].
        second: [N, L, W] or [1, L, W].
        crossover: first slot that is replaced, 0 to L.
        end: slot after the last replaced one; None: L.

    Returns:
        [N, L, W].
    """
    slots = first.shape[1]
    end = slots if end is None else end
    if not 0 <= crossover <= end <= slots:
        raise ValueError(f"slots to mix must lie within 0 and {slots}, got {crossover} to {end}")
    replaced = second[:, crossover:end].expand(first.shape[0], -1, -1)
    return torch.cat([first[:, :crossover], replaced, first[:, end:]], dim=1)


def drawn_noise(generator: Generator, draws: Draws, step: int, purpose: str, batch: int) -> list[Tensor]:
    """Draw fresh noise maps for a batch: one [batch, 1, r, r] per convolution, in the generator's dtype."""
    return [
        draws.normal(step, f"{purpose}.noise.{index}", (batch, 1, *shape)).to(generator.const)
        for index, shape in enumerate(generator.noise_shapes())
    ]
