"""What of a generator is trained: parts by name, and layers that are chosen anew in every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..choices import PARTS, STYLE_OFFSETS
from ..networks import Generator
from ..ranges import MOST_RATE, check_number


def part_of(name: str) -> str:
    """Name the part of a generator that a parameter belongs to.

    Args:
        name: of a parameter of `Generator`, such as "convs.3.affine.weight".

    Returns:
        One of `PARTS`: the mapping network; the learnt constant; affine layers, weights with biases and noise
        strengths of the convolutions; all of the RGB layers, their affine layers too. Never the style
        offsets, which are the biases of all affine layers and so lie in two of these.
    """
    first, last = name.split(".")[0], name.split(".")[-1]
    if first == "convs":
        return "affine" if ".affine." in name else "noise" if last == "noise_strength" else "convolution"
    # A KeyError means a new kind of layer, which needs a part first.
    return {"mapping": "mapping", "const": "constant", "to_rgbs": "rgb"}[first]


def _is_in(name: str, part: str) -> bool:
    """Whether a parameter belongs to a part; an affine layer's bias is in two."""
    return name.endswith(".affine.bias") if part == STYLE_OFFSETS else part_of(name) == part


@dataclass(frozen=True)
class Trainable:
    """Which parts of the generator are trained.

    Args:
        parts: by name (`PARTS`).
        layers: of these convolutions alone, counted from that at 4 px; what belongs to none, such as the
            constant, stays. None: of all. Those that a generator lacks are left out.
    """

    # As published: all but mapping and RGB (methods.md B1), so a latent keeps its meaning in the child.
    parts: tuple[str, ...] = ("constant", "affine", "convolution", "noise")
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            found = repr(unknown[0]) if unknown else "none"
            raise ValueError(f"trainable parts are one or more of {', '.join(PARTS)}, got {found}")

    def names(self, generator: Generator) -> frozenset[str]:
        """Names of the parameters that are trained.

        Raises:
            ValueError: the generator has nothing of a part.
        """
        every = [name for name, _ in generator.named_parameters()]
        found = {part: frozenset(name for name in every if _is_in(name, part)) for part in self.parts}
        empty = [part for part in self.parts if not found[part]]
        if empty:
            raise ValueError(
                f"the generator has no parameter of the part {empty[0]!r}, which is to be trained"
            )
        names = frozenset[str]().union(*found.values())
        return names if self.layers is None else _of_layers(names, self.layers)


# StyleGAN-NADA's "phases": convolutions that are trained beside the constant (rinongal/StyleGAN-nada).
PHASES = {
    "texture": (0, *range(3, 11)),
    "shape": (0, 1, 2),
    "no_fine": tuple(range(11)),
    "shape_expanded": (0, 1, 2, 3),
}


def _of_layers(names: frozenset[str], layers: Sequence[int]) -> frozenset[str]:
    """The names without those of other convolutions."""
    chosen = tuple(f"convs.{layer}." for layer in layers)
    return frozenset(name for name in names if not name.startswith("convs.") or name.startswith(chosen))


@dataclass(frozen=True)
class Selection:
    """Layers that matter most for a text are trained, chosen anew in every step.

    Some latents are moved a little towards the text, slot by slot; the layers whose slots moved most are
    trained in the step, the others rest.

    Args:
        layers: how many; None: a share of all.
        share: of the generator's slots.
        codes: latents that are moved.
        steps: of the moving.
        rate: of its plain gradient descent.
        published: the published list of layers, in which slot 1 stands for the first RGB layer and each slot
            from 2 on for the layer of the slot before; the chosen ones are trained whole, the constant never.

    Source: StyleGAN-NADA (arXiv 2108.00946) section 4.2; rinongal/StyleGAN-nada ZSSGAN.determine_opt_layers.
    """

    layers: int | None = None
    share: float = 2 / 3
    codes: int = 8
    steps: int = 1
    rate: float = 0.01
    published: bool = False

    def __post_init__(self) -> None:
        check_number(self.share, "the share of layers", above=0, high=1)
        check_number(self.rate, "the rate of the selection", above=0, high=MOST_RATE)
        if min(self.codes, self.steps) < 1 or (self.layers is not None and self.layers < 1):
            raise ValueError(
                f"a selection needs at least 1 layer, code and step, got {self.layers}, {self.codes} and "
                f"{self.steps}"
            )

    def chosen(self, moved: Tensor) -> list[int]:
        """The slots that moved most, the most first.

        Args:
            moved: [L], how far each slot moved.
        """
        # The last slot feeds RGB alone, which has no layer of its own to train.
        ranked = moved if self.published else moved[:-1]
        wanted = round(self.share * len(moved)) if self.layers is None else self.layers
        return [int(slot) for slot in ranked.topk(min(max(1, wanted), len(ranked))).indices]

    def names(self, slots: list[int], trained: frozenset[str], generator: Generator) -> frozenset[str]:
        """Names of the parameters that are trained in a step.

        Args:
            slots: the chosen ones.
            trained: names of all that the method trains.
            generator: whose they are.
        """
        if not self.published:
            return _of_layers(trained, slots)
        modules = tuple("to_rgbs.0." if slot == 1 else f"convs.{slot - 1 if slot else 0}." for slot in slots)
        return frozenset(name for name, _ in generator.named_parameters() if name.startswith(modules))
