"""Adversarial losses: logistic discriminator loss, non-saturating generator loss, R1, path length."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors import Images, Latents
from .contract import MAIN, PATHS, Needs, StepContext, Term

TINY = 1e-30  # below it a squared length counts as zero: keeps the root's gradient finite


@dataclass(frozen=True)
class Fool(Term):
    """Non-saturating loss: softplus(-logit), averaged over images and places.

    Args:
        path: "image": the whole-image logit; "patch": a map of logits from a patch head.
    """

    path: str

    def __post_init__(self) -> None:
        if self.path not in PATHS:
            raise ValueError(f"a discriminator path is one of {', '.join(PATHS)}, got {self.path!r}")

    @property
    def needs(self) -> Needs:
        """See `Term.needs`."""
        return Needs(views=frozenset({MAIN}), path=self.path)

    def __call__(self, step: StepContext) -> Tensor:
        """Scalar."""
        if step.logits is None:
            raise ValueError("an adversarial term needs a discriminator plan; this preset has none")
        return non_saturating(step.logits(self.path))


def non_saturating(fake_logits: Tensor) -> Tensor:
    """Generator loss: mean softplus(-logit) of images that should look real."""
    # Not log(1 - D), whose gradient vanishes while the discriminator wins (Goodfellow et al. 2014).
    return F.softplus(-fake_logits).mean()


def logistic(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Discriminator loss: mean softplus(-real) + mean softplus(fake)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(logits: Tensor, images: Images) -> Tensor:
    """Squared gradient of the score with respect to real images.

    Args:
        logits: [N, 1] or maps [N, 1, h, w] of `images`; a map counts with its mean per image.
        images: [N, 3, S, S] that require grad.

    Returns:
        Scalar: mean over images of the sum of squared input gradients, differentiable.

    Source: Mescheder et al. 2018, equation 9; used as in StyleGAN2 with weight gamma / 2 * interval.
    """
    # As in few-shot adaptation, whose R1 meets maps of patch logits too (baselines.md 4).
    per_image = logits.flatten(1).mean(dim=1)
    # An image's logit depends on its own pixels, so one pass gives all gradients; only the minibatch
    # deviation couples them a little.
    (gradient,) = torch.autograd.grad(per_image.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


def path_length_penalty(
    images: Images, w: Latents, noise: Tensor, mean: Tensor, decay: float = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the length of the image's response to a step in w near its running mean.

    Args:
        images: [N, 3, S, S], a differentiable function of `w`.
        w: [N, L, W] that requires grad.
        noise: standard normal, shaped like `images`; it is divided by S here.
        mean: running mean length, scalar.
        decay: share of the new mean.

    Returns:
        The penalty (scalar, differentiable), the updated running mean, the lengths [N].

    Source: StyleGAN2 paper section 3.2, equation 4; rosinality train.py g_path_regularize.
    """
    scaled = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * scaled).sum(), w, create_graph=True)
    lengths = gradient.square().sum(dim=2).mean(dim=1).clamp_min(TINY).sqrt()
    # Not detached in the penalty, as rosinality has it: some gradient flows through the mean too.
    updated = mean + decay * (lengths.mean() - mean)
    return (lengths - updated).square().mean(), updated.detach(), lengths
