"""Image and feature losses, side by side; each is a frozen dataclass `term(step) -> scalar`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ranges import check_number
from ..resampling import downsample
from ..tensors import Images
from ..whitening import Whitening
from .contract import MAIN, Needs, StepContext, Term

NEGATIVES = ("image", "crop_major", "all")


def similarity_difference(adapted: Tensor, source: Tensor) -> Tensor:
    """Compare how alike the images of a batch are to each other in two domains.

    Args:
        adapted: [N, D] features, N >= 2.
        source: [N, D] features of the same latents.

    Returns:
        Mean over ordered pairs i != j of (cos(adapted_i, adapted_j) - cos(source_i, source_j)) ** 2.

    Source: paper, semantic consistency L_con; cyclomon/OneshotCLIP losses.py (methods.md B6).
    """
    if adapted.shape[0] < 2:
        raise ValueError("semantic consistency compares pairs of images: the batch must be at least 2")
    adapted, source = F.normalize(adapted, dim=1), F.normalize(source, dim=1)
    # Similarities, not features, are held: the whole domain may move as long as images keep their relations.
    difference = (adapted @ adapted.T - source @ source.T).square()
    # The diagonal says 1 = 1, but for rounding.
    own = torch.eye(len(adapted), dtype=torch.bool, device=adapted.device)
    # At the published batch of 2 both ordered pairs are the same one.
    return difference.masked_fill(own, 0).sum() / (len(adapted) * (len(adapted) - 1))


def patch_contrast(
    adapted: Tensor,
    source: Tensor,
    images: int,
    negatives: str = "image",
    temperature: float = 1.0,
    self_logit: float | None = None,
) -> Tensor:
    """Tell each crop's own source crop from other crops (InfoNCE).

    Args:
        adapted: [K * N, D] features of crops, crop-major: (crop 0, image 0), (crop 0, image 1), ...; of any
            length, they are compared by cosine.
        source: [K * N, D] features of the same crops of the source images; no gradient flows into them.
        images: N.
        negatives: "image": the other crops of the same image; "crop_major": the published grouping, N blocks
            of K consecutive rows, which mixes images; "all": all other rows.
        temperature: tau.
        self_logit: similarity that replaces a crop's own in the negatives (-10 in the published code, before
            the division by tau); None leaves it out.

    Returns:
        Loss per row [K * N], in the order of `adapted`.

    Source: paper, patch consistency L_patch; cyclomon/OneshotCLIP losses.py PatchNCE (methods.md B6, Q3, Q4).
    """
    rows, dim = adapted.shape
    adapted, source = F.normalize(adapted, dim=1), F.normalize(source.detach(), dim=1)
    order = torch.arange(rows, device=adapted.device)
    if negatives == "image":
        # Image-major: (image 0, crop 0), (image 0, crop 1), ... The published code takes crop-major rows for
        # these and so contrasts a crop with crops of other images too (Q3).
        order = order.reshape(-1, images).T.reshape(-1)
    groups = 1 if negatives == "all" else images
    q, k = adapted[order].reshape(groups, -1, dim), source[order].reshape(groups, -1, dim)
    similar = torch.bmm(q, k.transpose(1, 2))  # [G, n, n]
    own = torch.eye(similar.shape[1], dtype=torch.bool, device=similar.device)
    # The published -10 adds exp(-10 / tau) to the sum, which only a large tau would make felt (Q4).
    masked = similar.masked_fill(own, -torch.inf if self_logit is None else self_logit).reshape(rows, -1)
    # The crop's own similarity counts once, as the positive.
    positive = (q * k).sum(dim=2).reshape(rows, 1)
    logits = torch.cat([positive, masked], dim=1) / temperature
    losses = torch.logsumexp(logits, dim=1) - logits[:, 0]
    return torch.zeros_like(losses).index_copy(0, order, losses)


@dataclass(frozen=True)
class SemanticConsistency(Term):
    """Images keep their mutual CLIP similarities (L_con)."""

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({MAIN}), pairs=frozenset({MAIN}), clip=True)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar; see `similarity_difference`."""
        view = step.view()
        return step.over_clips(lambda i: similarity_difference(view.clip(i), view.source_clip(i)))


@dataclass(frozen=True)
class PatchConsistency(Term):
    """Each crop stays closest to the same crop of the source image (L_patch).

    Args:
        crops: K locations, shared by the whole batch and both generators.
        crop_px: side of a crop; None: an eighth of the image.
        temperature: tau of the contrast.
        negatives: see `patch_contrast`.
        self_logit: see `patch_contrast`.
        reaches_edge: whether a crop may touch the last row and column.
        purpose: of the draws of the corners.
    """

    # Published tau 1: a weak, smooth pull, the loss stays near log 16 = 2.8. Not to be lowered in passing.
    crops: int = 16
    crop_px: int | None = None
    temperature: float = 1.0
    negatives: str = "image"
    self_logit: float | None = None
    reaches_edge: bool = True
    purpose: str = "crops"

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({MAIN}), clip=True)

    def __post_init__(self) -> None:
        if self.negatives not in NEGATIVES:
            raise ValueError(f"negatives must be one of {', '.join(NEGATIVES)}, got {self.negatives!r}")
        check_number(self.temperature, "temperature", above=0)
        if self.self_logit is not None:
            check_number(self.self_logit, "self_logit")
        if self.crops < 2:
            raise ValueError(f"patch consistency needs at least 2 crops, got {self.crops}")

    @property
    def draws(self) -> tuple[str, ...]:
        """See `Term.draws`."""
        return (self.purpose,)

    def side(self, size: int) -> int:
        """Side of a crop for images of `size` px; raises ValueError when it does not fit."""
        # The published 128 px are an eighth of 1024; they do not grow or shrink with the picture (Q6).
        side = max(1, round(size / 8)) if self.crop_px is None else self.crop_px
        if not 1 <= side <= size:
            raise ValueError(f"crops of {side} px do not fit into images of {size} px; lower crop_px")
        return side

    def places(self, size: int) -> int:
        """Number of left (and of top) corners a crop can have in images of `size` px.

        Raises:
            ValueError: crops of this side have no place.
        """
        # The published code's exclusive bound loses the last row and column (Q5).
        places = size - self.side(size) + int(self.reaches_edge)
        if places < 1:
            raise ValueError(
                f"crops of {self.side(size)} px have no place in images of {size} px with the official "
                f"profile, which never reaches the last row; set crop_px to at most {size - 1} ({size // 8} "
                "is an eighth)"
            )
        return places

    def check(self, size: int) -> None:
        """See `Term.check`."""
        self.places(size)

    def fitted(self, size: int) -> tuple[PatchConsistency, str | None]:
        """Crops of the published 128 px become an eighth of pictures that are not larger."""
        if self.crop_px is None or self.crop_px < size:
            return self, None
        note = f"crops of {self.crop_px} px do not fit into pictures of {size} px; using {size // 8} px"
        return replace(self, crop_px=None), note

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar; mean of `patch_contrast` over crops and images."""
        view = step.view()
        images, size = view.adapted.shape[0], view.adapted.shape[-1]
        side = self.side(size)
        # One set of corners for both generators and all images: positives must show the same place.
        corners = step.draws.integers(self.purpose, self.places(size), (self.crops, 2)).tolist()
        adapted = _crops(view.adapted, corners, side)

        def contrast(index: int) -> Tensor:
            with torch.no_grad():
                # The source's half of CLIP's work needs no graph (Q12).
                source = step.encode(index, _crops(view.source, corners, side))
            features = step.encode(index, adapted)
            rows = patch_contrast(features, source, images, self.negatives, self.temperature, self.self_logit)
            return rows.mean()

        return step.over_clips(contrast)


def _crops(images: Images, corners: list[list[int]], side: int) -> Images:
    """Cut squares out of every image: [K * N, 3, side, side], crop-major; corners are (left, top)."""
    return torch.cat([images[:, :, y : y + side, x : x + side] for x, y in corners])


@dataclass(frozen=True)
class Lpips(Term):
    """Perceptual distance to the target.

    Args:
        dropout: LPIPS stays in training mode, as in the published code.
        view: batch that is compared.
        down: pictures are made smaller by this factor before; 0: to 256 px, at most by 4.
    """

    dropout: bool = False
    view: str = MAIN
    down: int = 1

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({self.view}), target=True, perceptual=True)

    def check(self, size: int) -> None:
        """See `Term.check`."""
        _check_down(self.down, size)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar, mean over the batch."""
        perceptual, images = step.goal.encoders.perceptual, step.view(self.view).adapted
        down = _factor(self.down, images.shape[-1])
        features = perceptual.features(downsample(images, down))
        # The published code forgot eval(), so half of the squared differences drop out at random (Q13).
        dropout = step.draws.generator("dropout") if self.dropout else None
        return perceptual.distance(features, step.goal.perceptual(step.place, down), dropout=dropout).mean()


@dataclass(frozen=True)
class PixelMse(Term):
    """Mean squared difference to the target over all values.

    Args:
        view: batch that is compared.
        down: pictures are made smaller by this factor before; 0: to 256 px, at most by 4.
    """

    view: str = MAIN
    down: int = 1

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({self.view}), target=True)

    def check(self, size: int) -> None:
        """See `Term.check`."""
        _check_down(self.down, size)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar."""
        images = step.view(self.view).adapted
        down = _factor(self.down, images.shape[-1])
        return (downsample(images, down) - step.goal.reduced(step.place, down)).square().mean()


def _factor(down: int, size: int) -> int:
    """The factor by which pictures of `size` px are made smaller; 0: to the 256 px of Mind the Gap."""
    return down or min(4, max(1, size // 256))


def _check_down(down: int, size: int) -> None:
    """Refuse a factor that pictures of `size` px cannot be made smaller by; raises ValueError."""
    factor = _factor(down, size)
    if down < 0 or size % factor or size < 4 * factor:
        raise ValueError(f"pictures of {size} px cannot be made smaller by {down}; give a power of two, or 0")


@dataclass(frozen=True)
class ClipSimilarity(Term):
    """1 - cosine between CLIP features of the pictures and of the target.

    Args:
        view: batch that is compared; a search has one of augmented pictures.
    """

    view: str = MAIN

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({self.view}), target=True, clip=True)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar, mean over the pictures."""
        view = step.view(self.view)
        # Both sides have unit length.
        return step.over_clips(lambda i: (1 - (view.clip(i) * step.target_clip(i)).sum(dim=1)).mean())


@dataclass(frozen=True)
class Plausibility(Term):
    """II2S's prior: mean square of the latent in PN space, about 1 for random codes.

    Args:
        whitening: of the generator's codes, on the device of the work; None: in tables that are only read.
    """

    whitening: Whitening | None = None

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(latent=True)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar, mean over latents, slots and dimensions."""
        if step.latent is None or self.whitening is None:
            raise ValueError("the plausibility term belongs to a latent search; this step has no latent")
        return self.whitening.unlikeliness(step.latent).mean()


@dataclass(frozen=True)
class LatentDeviation(Term):
    """Mean squared distance of the latent from the mean latent, over dimensions."""

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(latent=True)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar."""
        if step.latent is None or step.mean_latent is None:
            raise ValueError("the latent-deviation term belongs to a latent search; this step has no latent")
        # The paper writes the norm of the difference; the mean over dimensions is the code's (methods.md B8).
        return (step.latent - step.mean_latent).square().mean()
