"""Losses by directions in CLIP's feature space: those of StyleGAN-NADA and of Mind the Gap, side by side.

Each is a frozen dataclass `term(step) -> scalar`, see `contract.py`; a loss is summed over the CLIP models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ranges import check_number
from ..tensors import Images
from .aim import AimFeatures
from .contract import MAIN, Needs, StepContext, Term

REFERENCE_VIEW = "reference"  # batch that draws the target's counterpart
TINY = 1e-24  # squared length below which a change counts as none; a nudged one has about 1e-16
NUDGE = 1e-6  # what is added to pictures that have not changed, as published


def direction_distance(adapted: Tensor, source: Tensor, direction: Tensor, softness: float = 0.0) -> Tensor:
    """Compare how pictures changed with how a text changed, by direction in CLIP's feature space.

    Args:
        adapted: [N, D] unit features of the pictures after the change.
        source: [N, D] unit features of the same pictures before it.
        direction: [D], text feature after minus text feature before; of any length but 0.
        softness: s in d / sqrt(|d| ** 2 + s ** 2), which replaces the unit vector d / |d| of a picture's
            change d. Above 0 a picture that has not changed yet has a finite gradient; 0: the cosine itself.

    Returns:
        [N], 0 (changed exactly along the direction) to 2, and 1 for no change.

    Source: StyleGAN-NADA (arXiv 2108.00946) section 4.1, equation 2; the softness is this project's.
    """
    return direction_agreement(adapted - source, direction[None], softness)


def direction_agreement(first: Tensor, second: Tensor, softness: float = 0.0) -> Tensor:
    """1 - cosine of two changes, row by row.

    Args:
        first: [N, D] changes that are trained.
        second: [N, D] or [1, D] changes that they shall be parallel to.
        softness: see `direction_distance`; of the first.

    Returns:
        [N], 0 to 2.
    """
    # The clamp only keeps the root's gradient from NaN: without softness an unchanged picture gave a gradient
    # of norm 6e5, from which Adam's second moment did not recover in 30 steps (baselines.md 4).
    length = (first.square().sum(dim=1) + softness**2).clamp_min(TINY).sqrt()
    return 1 - (first * F.normalize(second, dim=1)).sum(dim=1) / length


# StyleGAN-NADA ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Directional(Term):
    """Pictures change in CLIP's eyes as the texts, or the way from source pictures to the target, say.

    Args:
        softness: see `direction_distance`; as published 0.
        pictures: whether targets count, and not the texts alone.
        nudges: where no picture of the batch has changed at all, features are taken a little beside them, as
            published; with softness 0 their change would have no direction.
        as_files: targets are seen as files of 8 bits, as published.
        sources: pictures of the source that stand for what is, for a direction from pictures.

    Source: arXiv 2108.00946 section 4.1, equation 2; rinongal/StyleGAN-nada criteria/clip_loss.py.
    """

    softness: float = 0.1
    pictures: bool = True
    nudges: bool = False
    as_files: bool = False
    sources: int = 16

    def __post_init__(self) -> None:
        check_number(self.softness, "softness", low=0)
        if self.sources < 1:
            raise ValueError(f"a direction needs at least 1 source picture, got {self.sources}")

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({MAIN}), texts=not self.pictures, direction=self.pictures, clip=True)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar, mean over the pictures; see `direction_distance`."""
        view = step.view()

        def loss(index: int) -> Tensor:
            features, source = view.clip(index), view.source_clip(index)
            if self.nudges and not bool((features - source).sum()):
                features = step.encode(index, view.adapted + NUDGE)
            direction = step.goal.direction(index, self.pictures, self.as_files, self.sources)
            return direction_distance(features, source, direction.to(features), self.softness).mean()

        return step.over_clips(loss)


@dataclass(frozen=True)
class GlobalText(Term):
    """Pictures are like the target text, whatever they were before.

    Source: rinongal/StyleGAN-nada clip_loss.py, global_clip_loss: 1 - logit / 100 with the model's own scale.
    """

    template: str = "a {}"

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({MAIN}), texts=True, clip=True)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar, mean over the pictures."""
        view = step.view()
        return step.over_clips(lambda i: text_distance_of(step.goal, i, view.clip(i), self.template).mean())


def text_distance_of(goal: AimFeatures, index: int, features: Tensor, template: str) -> Tensor:
    """[N]: 1 - exp(logit scale) * cosine / 100 of pictures and the target text in a template.

    Args:
        goal: with the text.
        index: of the CLIP model.
        features: [N, D] unit features of the pictures.
        template: sentence with a place for the text.
    """
    text = goal.text(index, template).to(features)
    # 100 is the scale of OpenAI's models, which makes this 1 - cosine; others have their own.
    scale = goal.encoders.clips[index][0].logit_scale
    return 1 - scale * (features @ text) / 100


@dataclass(frozen=True)
class Manifold(Term):
    """A picture is as like its source picture as the texts are like each other.

    Source: rinongal/StyleGAN-nada clip_loss.py, clip_angle_loss; L1 between cosines.
    """

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({MAIN}), texts=True, clip=True)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar, mean over the pictures."""
        view = step.view()

        def loss(index: int) -> Tensor:
            features = view.clip(index)
            source, target = (mean.to(features) for mean in step.goal.mean_texts(index))
            return ((features * view.source_clip(index)).sum(dim=1) - source @ target).abs().mean()

        return step.over_clips(loss)


@dataclass(frozen=True)
class Texture(Term):
    """Pictures have the target's features themselves, by one of the CLIP models; a convolutional one sees
    texture.

    Args:
        model: index of the CLIP model, from the end where negative.

    Source: rinongal/StyleGAN-nada clip_loss.py, cnn_feature_loss: mean squared difference, not normalised.
    """

    model: int = -1

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({MAIN}), target=True, clip=True)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar, mean over pictures and features."""
        encoders = step.goal.encoders.clips
        index = self.model % len(encoders)
        seen = encoders[index][0].raw_images(step.view().adapted)
        target = step.goal.texture(index)
        # As many rows as pictures where the aim has them, else the step's own target for all.
        wanted = target if len(target) == len(seen) else target[step.place : step.place + 1]
        return F.mse_loss(seen, wanted.expand_as(seen).to(seen))


@dataclass(frozen=True)
class PatchDirectional(Term):
    """Crops change as some part of what the texts name would, such as its nose.

    Args:
        crop_px: side of a crop, even; None: half of the picture.
        crops: of each picture.
        purpose: of the draws of their places.

    Source: rinongal/StyleGAN-nada clip_loss.py, patch_directional_loss (crops of 510 of 1024 px, one each).
    """

    crop_px: int | None = None
    crops: int = 1
    purpose: str = "part_crops"

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({MAIN}), texts=True, clip=True)

    @property
    def draws(self) -> tuple[str, ...]:
        """See `Term.draws`."""
        return (self.purpose,)

    def side(self, size: int) -> int:
        """Side of a crop of pictures of `size` px, even."""
        return 2 * ((size // 2 if self.crop_px is None else self.crop_px) // 2)

    def check(self, size: int) -> None:
        """See `Term.check`."""
        if not 2 <= self.side(size) < size or self.crops < 1:
            raise ValueError(f"{self.crops} crops of {self.crop_px} px do not fit into pictures of {size} px")

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar: cosine distances to all parts, weighted by a softmax of the likeness; mean over both."""
        view = step.view()
        size, count = view.adapted.shape[-1], len(view.adapted)
        half = self.side(size) // 2
        # Corners (left, top); the middles lie from half to size - half - 1, as published.
        corners = step.draws.integers(self.purpose, size - 2 * half, (count * self.crops, 2)).tolist()

        def loss(index: int) -> Tensor:
            with torch.no_grad():
                source = step.encode(index, _own_crops(view.source, corners, 2 * half))
            change = F.normalize(
                step.encode(index, _own_crops(view.adapted, corners, 2 * half)) - source, dim=1
            )
            likeness = change @ step.goal.part_directions(index).to(change).T
            return ((1 - likeness) * likeness.softmax(dim=1)).mean()

        return step.over_clips(loss)


def _own_crops(images: Images, corners: list[list[int]], side: int) -> Images:
    """Cut crops out of each picture, those of one picture after each other: [N * K, 3, side, side]."""
    each = len(corners) // len(images)
    return torch.stack([images[i // each, :, y : y + side, x : x + side] for i, (x, y) in enumerate(corners)])


# Mind the Gap -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Across(Term):
    """Every picture changes as the reference's source picture does on its way to the target.

    Args:
        softness: see `direction_distance`; as published 0.

    Source: arXiv 2110.08398 section 3.2, L_clip_across; ZPdesu/MindTheGap losses.
    """

    softness: float = 0.1

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({MAIN, REFERENCE_VIEW}), target=True, clip=True)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar, mean over the pictures."""
        view, reference = step.view(), step.view(REFERENCE_VIEW)

        def loss(index: int) -> Tensor:
            change = view.clip(index) - view.source_clip(index)
            wanted = step.target_clip(index) - reference.source_clip(index)
            return direction_agreement(change, wanted, self.softness).mean()

        return step.over_clips(loss)


@dataclass(frozen=True)
class Within(Term):
    """Pictures differ from the target as their source pictures differ from the reference's.

    Source: arXiv 2110.08398 section 3.2, L_clip_within.
    """

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({MAIN, REFERENCE_VIEW}), target=True, clip=True)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar, mean over the pictures."""
        view, reference = step.view(), step.view(REFERENCE_VIEW)

        def loss(index: int) -> Tensor:
            new = view.clip(index) - step.target_clip(index)
            old = view.source_clip(index) - reference.source_clip(index)
            return direction_agreement(new, old).mean()

        return step.over_clips(loss)
