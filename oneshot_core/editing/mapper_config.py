"""What decides the training of a latent mapper: its settings and its loss.

Source: orpatashnik/StyleCLIP mapper/options/train_options.py and mapper/training/coach.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..edits import EDIT_SPACES, STYLE, W_PLUS
from ..features.identity import IdentityNet, identity_distance
from ..networks import Generator
from ..ranges import MOST_RATE, check_number
from ..tensors import Images
from .goal import TextGoal, check_preprocessing
from .mapper import STEP, levels_groups, single_groups, style_groups

KINDS, OPTIMISERS = ("levels", "single"), ("ranger", "adam")
IDENTITY_WEIGHT = 0.1  # StyleCLIP's, where there is an identity network


@dataclass(frozen=True)
class MapperConfig:
    """Settings of a mapper's training.

    Source: StyleCLIP's defaults (mapper/options/train_options.py), but for the numbers of steps: its 50,000
        take 10 hours.
    """

    space: str = W_PLUS  # or "style": one MLP per style of a convolution
    kind: str = "levels"  # in w+: MLPs of coarse, medium and fine slots; "single": one of all slots
    coarse: bool = True  # of "levels": whether these slots are changed
    medium: bool = True
    fine: bool = True  # off for edits that leave colours alone
    steps: int = 2000  # optimiser rounds
    batch_size: int = 2
    learning_rate: float = 0.5
    optimiser: str = "ranger"  # or "adam"
    step: float = STEP  # by which what the network gives is multiplied
    clip_weight: float = 1.0
    l2_weight: float = 0.8  # of the mean squared change
    identity_weight: float | None = None  # None: 0.1 where there is an identity network, else 0
    preprocessing: str = "default"  # or "legacy", see `TextGoal.features`
    views: int = 0  # random crops that CLIP sees instead of the picture
    seed: int = 0  # of weights, drawn latents, their order and the views
    psi: float = 0.7  # truncation of latents that are drawn
    validate_every: int = 200  # steps; and after the last
    validation_codes: int = 8  # held back of those given, or drawn

    def __post_init__(self) -> None:
        for name, known in (("space", EDIT_SPACES), ("kind", KINDS), ("optimiser", OPTIMISERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("steps", "batch_size", "validate_every", "validation_codes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.space == W_PLUS and self.kind == "levels" and not (self.coarse or self.medium or self.fine):
            raise ValueError("coarse, medium and fine are all off; a mapper needs at least one group")
        check_preprocessing(self.preprocessing)
        check_number(self.learning_rate, "learning_rate", above=0, high=MOST_RATE)
        check_number(self.psi, "psi (usually 0.5 to 1)", low=-10, high=10)
        check_number(self.step, "step (usually 0.1)", above=0, high=MOST_RATE)
        for name in ("clip_weight", "l2_weight"):
            check_number(getattr(self, name), name, low=0)
        if self.identity_weight is not None:
            check_number(self.identity_weight, "identity_weight", low=0)
        if self.views < 0:
            raise ValueError(f"views must be 0 or more, got {self.views}")

    def weights(self, identity: IdentityNet | None) -> dict[str, float]:
        """Weight of each term: clip, identity, deviation."""
        known = self.identity_weight
        who = known if known is not None else IDENTITY_WEIGHT if identity is not None else 0.0
        return {"clip": self.clip_weight, "identity": who, "deviation": self.l2_weight}

    def groups(self, generator: Generator) -> dict[str, tuple[int, ...]]:
        """Slots or styles of each MLP."""
        if self.space == STYLE:
            return style_groups(len(generator.style_widths))
        slots = generator.config.num_layers
        if self.kind == "single":
            return single_groups(slots)
        return levels_groups(slots, coarse=self.coarse, medium=self.medium, fine=self.fine)

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class MapperLoss:
    """The loss of a mapper: how far pictures are from the text, and codes and faces from what they were.

    Args:
        goal: what CLIP is to see.
        weights: of clip, identity and deviation; a term of weight 0 is not computed.
        identity: recognises faces; None without that term.
    """

    goal: TextGoal | None
    weights: Mapping[str, float]
    identity: IdentityNet | None = None

    def __call__(
        self, images: Images, before: Images, changes: Sequence[Tensor], step: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the terms, each the mean over the batch.

        Args:
            images: [N, 3, S, S] of the changed codes.
            before: [N, 3, S, S] of the codes.
            changes: what was added, one tensor for a W+ code, or one per style; of each the mean of squares
                is taken, and their sum.
            step: decides the views.

        Returns:
            The weighted sum, and each term by its name.

        Source: orpatashnik/StyleCLIP mapper/training/coach.py calc_loss.
        """
        terms: dict[str, Tensor] = {}
        if self.weights["clip"] and self.goal is not None:
            terms["clip"] = self.goal.distance(images, before, step).mean()
        if self.weights["identity"] and self.identity is not None:
            with torch.no_grad():
                who = self.identity(before)
            terms["identity"] = identity_distance(self.identity(images), who).mean()
        if self.weights["deviation"]:
            terms["deviation"] = torch.stack([change.square().mean() for change in changes]).sum()
        if not terms:
            raise ValueError("every term of the mapper's loss has the weight 0; give one of them a weight")
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum(), terms
