"""Latent mappers: small networks that give every code its own change towards one text, in a single pass.

Source: StyleCLIP (arXiv 2103.17249) section 5; orpatashnik/StyleCLIP mapper/latent_mappers.py. Names of
weights are those of its files, "course" too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import GeneratorBundle, related
from ..draws import SeededDraws
from ..edits import EDIT_SPACES, MAX_EDITS, MOST_STRENGTH, STYLE, LatentEdit
from ..latents import Latent
from ..networks import NORM_EPS, Linear
from ..ranges import check_number
from ..tensors import owned
from ..texts import printable
from .spaces import Variable, edit_widths
from .style_layout import convolution_styles

LAYERS, MULTIPLIER = 4, 0.01  # of one MLP; learning-rate multiplier of its layers
STEP = 0.1  # by which what a mapper gives is multiplied before it is added, in training and use alike
SINGLE, STYLE_PREFIX = "mapping", "mapper_"  # names of groups: of all slots; of one style
# Slots of each group: coarse are layers of 4 and 8 px, medium of 16 and 32 px, fine from 64 px on. What a
# layer of that resolution draws has the same share of the picture whatever its size, so generators of other
# sizes than 1024 px have the same borders, and small ones no fine group.
GROUPS = ("course_mapping", "medium_mapping", "fine_mapping")
BORDERS = (4, 8)


class Mlp(nn.Module):
    """Pixel norm over dimension 1, and four layers of leaky ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Number 0 is the norm, which has no weights.
        self.mapping = nn.ModuleDict(
            {str(number): Linear(width, width, MULTIPLIER) for number in range(1, LAYERS + 1)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, rows, W] or [N, C] -> the same.

        Dimension 1 is that of the rows in W+, as in the published network, whose weights depend on it. So of
        a code with the same w in all rows no more than signs come through.
        """
        x = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + NORM_EPS)
        for layer in self.mapping.values():
            assert isinstance(layer, Linear)
            x = layer.activated(x)
        return x


class MapperNet(nn.Module):
    """One MLP per group of slots, or per style; what belongs to none is not changed.

    Built without weights (on the meta device): `fresh_net` and readers of files give them.

    Args:
        space: "w+" or "style".
        widths: numbers of each slot or style, as a `LatentEdit` has them.
        groups: by its name in files, the slots or the one style of each MLP.
    """

    def __init__(self, space: str, widths: Sequence[int], groups: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        if space not in EDIT_SPACES:
            raise ValueError(f"a mapper is in {' or '.join(EDIT_SPACES)}, got {space!r}")
        self.space = space
        self.widths, self.groups = tuple(widths), {name: tuple(keys) for name, keys in groups.items()}
        if not groups:
            raise ValueError("the mapper has no group; switch at least one on")
        taken = [key for keys in self.groups.values() for key in keys]
        if len(set(taken)) != len(taken) or not all(0 <= key < len(widths) for key in taken):
            raise ValueError(f"groups of a mapper are of different numbers below {len(widths)}, got {groups}")
        for name, keys in self.groups.items():
            sides = {widths[key] for key in keys}
            if len(sides) != 1:
                raise ValueError(
                    f"the group {name} of a mapper has the widths {sorted(sides)}; one is needed"
                )
            if space == STYLE and len(keys) != 1:
                raise ValueError(f"the group {name} of a mapper has {len(keys)} styles; one is needed")
            with torch.device("meta"):
                self.add_module(name, Mlp(sides.pop()))

    def forward(self, parts: Sequence[Tensor]) -> dict[int, Tensor]:
        """Give the change of each part, before the step.

        Args:
            parts: [N, C] per slot or style, all of them.

        Returns:
            By slot or style that a group has, [N, C].
        """
        changes: dict[int, Tensor] = {}
        for name, keys in self.groups.items():
            network = self.get_submodule(name)
            if self.space == STYLE:
                changes[keys[0]] = network(parts[keys[0]])
            else:
                rows = network(torch.stack([parts[key] for key in keys], dim=1))
                changes |= dict(zip(keys, rows.unbind(dim=1), strict=True))
        return dict(sorted(changes.items()))


def fresh_net(space: str, widths: Sequence[int], groups: Mapping[str, Sequence[int]], seed: int) -> MapperNet:
    """A mapper as a training starts: weights N(0, 1) over the layers' multiplier, biases 0; trainable."""
    net, draws = MapperNet(space, widths, groups), SeededDraws(seed)
    state = {
        name: torch.zeros(value.shape)
        if name.endswith("bias")
        else draws.normal(0, f"mapper.{name}", value.shape) / MULTIPLIER
        for name, value in net.state_dict().items()
    }
    net.load_state_dict(state, assign=True)
    return net.requires_grad_(True)


def levels_groups(
    slots: int,
    *,
    coarse: bool = True,
    medium: bool = True,
    fine: bool = True,
    borders: tuple[int, int] = BORDERS,
) -> dict[str, tuple[int, ...]]:
    """Groups of `LevelsMapper` for a number of slots.

    Args:
        slots: L.
        coarse: whether the coarse slots have an MLP; what has none is not changed.
        medium: the same.
        fine: the same; off for edits that leave colours alone.
        borders: first slot of medium and of fine.
    """
    starts = (0, *borders, slots)
    wanted = zip(GROUPS, (coarse, medium, fine), strict=True)
    ranges = [range(min(low, slots), min(high, slots)) for low, high in pairwise(starts)]
    return {
        name: tuple(slots_of)
        for (name, on), slots_of in zip(wanted, ranges, strict=True)
        if on and len(slots_of)
    }


def single_groups(slots: int) -> dict[str, tuple[int, ...]]:
    """The one group of `SingleMapper`: all slots."""
    return {SINGLE: tuple(range(slots))}


def style_groups(count: int) -> dict[str, tuple[int, ...]]:
    """Groups of the mapper in style space: each style of a convolution by itself, those of colours not."""
    return {f"{STYLE_PREFIX}{index}": (index,) for index in convolution_styles(count)}


@dataclass(frozen=True)
class LatentMapper:
    """A trained mapper and what it is for; a value, whose network is frozen.

    Args:
        net: its MLPs, float32, frozen.
        step: by which what the network gives is multiplied; `STEP` in training and use alike.
        text: that it was trained for.
        neutral_text: what it was compared with, "" for none.
        clip: name of the CLIP model that read them, "" when unknown.
        measured: title of the generator that it was trained with, "" when unknown.
        fingerprint: SHA-256 of that generator's weights, "" when unknown.
        family: fingerprint of its family, "" when unknown.
        notes: sentences on what was assumed when a file of another program was read.
    """

    net: MapperNet
    step: float = STEP
    text: str = ""
    neutral_text: str = ""
    clip: str = ""
    measured: str = ""
    fingerprint: str = ""
    family: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number(self.step, "step of a mapper", low=-MOST_STRENGTH, high=MOST_STRENGTH)

    @property
    def space(self) -> str:
        """ "w+" or "style"."""
        return self.net.space

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"the mapper {printable(self.text)!r}" if self.text else f"a mapper in {self.space}"

    def summary(self) -> str:
        """Say in one line what it is and where it came from."""
        groups = self.net.groups
        what = f"{len(groups)} styles" if self.space == STYLE else ", ".join(groups)
        where = f", trained with {printable(self.measured)}" if self.measured else ""
        return f"{self.title}: {what} of {self.space}, step {self.step:g}{where}"

    def check(self, bundle: GeneratorBundle) -> None:
        """Refuse a generator of another family or other widths; raises ValueError."""
        if not related(bundle, self.family):
            raise ValueError(
                f"{self.title} was trained with {printable(self.measured) or 'another generator'}, which is "
                f"not of the family of {bundle.title}; use that generator, or one adapted from it"
            )
        own = edit_widths(bundle.generator, self.space)
        if self.net.widths != own:
            raise ValueError(
                f"{self.title} does not fit {bundle.title}: it has {len(self.net.widths)} layers of "
                f"{sum(self.net.widths):,} numbers, the generator {len(own)} of {sum(own):,}"
            )


@torch.no_grad()
def apply_mapper(
    bundle: GeneratorBundle, mapper: LatentMapper, latent: Latent, strength: float = 1.0
) -> Latent:
    """Add to every code what a mapper gives for it, as an edit that the latent carries.

    Args:
        bundle: a generator of the mapper's family; of an adapted one the styles are its own.
        mapper: for one text.
        latent: any space; its code is not changed.
        strength: 1 as trained; negative goes the other way.

    Raises:
        ValueError: mapper, generator and latent do not fit together, or the latent carries too many edits.
    """
    mapper.check(bundle)
    latent.check(bundle.generator, bundle.title)
    if len(latent.edits) >= MAX_EDITS:
        raise ValueError(f"the latent carries {MAX_EDITS} edits already; edit the latent from before some")
    with torch.inference_mode(False):
        changes = mapped(mapper, Variable.of(bundle.generator, mapper.space, latent).parts)
        vectors = {key: owned(change).float().cpu() for key, change in changes.items()}
        edit = LatentEdit(
            mapper.space, vectors, mapper.net.widths, float(strength), mapper.text, mapper.measured
        )
    origin: dict[str, Any] = {
        "method": "styleclip_mapper", "text": mapper.text, "strength": float(strength),
        "edited": latent.origin,
    }  # fmt: skip
    if "seeds" in latent.origin:  # on top, where they number the samples
        origin["seeds"] = latent.origin["seeds"]
    return replace(latent, origin=origin, edits=(*latent.edits, edit))


def mapped(mapper: LatentMapper, parts: Sequence[Tensor]) -> dict[int, Tensor]:
    """What is added at strength 1, by slot or style: the step times what the network gives.

    Args:
        mapper: of any device.
        parts: [N, C] per slot or style, in the network's type.
    """
    weight = next(mapper.net.parameters())
    found = mapper.net([part.to(weight) for part in parts])
    return {key: mapper.step * change.to(parts[key]) for key, change in found.items()}
