"""Pretraining of the perceptual net, and what the other encoders' trainings share with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...features import Perceptual, SmallConfig, small_net
from ...tensors import Images, seeded
from .faces import NUM_FACTORS, TRAINING_LOOKS
from .pool import Pool
from .pretrain import Trainee, cosine, run_stage

CLIP_LOOKS: tuple[str, ...] = ("plain", *TRAINING_LOOKS)
_DETAIL_PX = 8  # side of the little picture that the embedding of a crop must be able to tell


@dataclass(frozen=True)
class EncoderStage:
    """Length and rate of an encoder's training."""

    steps: int
    batch: int
    rate: float = 0.001  # Adam's learning rate at the start, falling to a hundredth


PERCEPTUAL_STAGE = EncoderStage(2500, 48, 0.002)


def _indices(pool: Pool, batch: int, random: torch.Generator) -> Tensor:
    return torch.randint(len(pool), (batch,), generator=random)


def _uniform(count: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=random)


def windows(images: Images, centres: Tensor, scales: Tensor, angles: Tensor, size_px: int) -> Images:
    """Cut square windows out of pictures by bicubic sampling.

    Args:
        images: [N, 3, H, H].
        centres: [N, 2] (x, y) of the windows' centres, -1 to 1.
        scales: [N] side of the window relative to the picture.
        angles: [N] rotation in radians.
        size_px: side of the result.
    """
    cos, sin = torch.cos(angles) * scales, torch.sin(angles) * scales
    theta = torch.stack(
        [torch.stack([cos, -sin, centres[:, 0]], 1), torch.stack([sin, cos, centres[:, 1]], 1)], 1
    )
    grid = F.affine_grid(theta, [len(images), 3, size_px, size_px], align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def _whole(images: Images, size_px: int, random: torch.Generator) -> Images:
    """View whole pictures, a little moved, turned and zoomed, a rectangle of some erased."""
    count = len(images)
    views = windows(
        images,
        torch.stack([_uniform(count, -0.1, 0.1, random), _uniform(count, -0.1, 0.1, random)], 1),
        _uniform(count, 0.75, 1.1, random),
        _uniform(count, -0.15, 0.15, random),
        size_px,
    )
    top, left = (torch.randint(0, size_px * 3 // 4, (count,), generator=random) for _ in range(2))
    height, width = (torch.randint(2, size_px // 3, (count,), generator=random) for _ in range(2))
    line = torch.arange(size_px)
    rows = (line >= top[:, None]) & (line < (top + height)[:, None])
    columns = (line >= left[:, None]) & (line < (left + width)[:, None])
    erased = rows[:, None, :, None] & columns[:, None, None, :]
    erased &= (torch.rand(count, generator=random) < 0.3).view(-1, 1, 1, 1)
    return views.masked_fill(erased, 0.0)


def _crops(images: Images, size_px: int, random: torch.Generator) -> Images:
    """View small windows of 1/8 to 1/2 of the side, as the patch losses do."""
    count = len(images)
    scales = torch.exp(_uniform(count, math.log(0.125), math.log(0.5), random))
    reach = (1 - scales)[:, None]
    centres = torch.stack([_uniform(count, -1, 1, random), _uniform(count, -1, 1, random)], 1) * reach
    return windows(images, centres, scales, torch.zeros(count), size_px)


def look_prompts(looks: Sequence[str]) -> list[str]:
    """Say each look in a plain sentence, for telling looks apart by text."""
    return [f"{'an' if look[0] in 'aeiou' else 'a'} {look} of a person" for look in looks]


class _PerceptualTask(nn.Module):
    """The perceptual backbone in training: which look, which factors, where in the picture."""

    def __init__(self, looks: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(seeded(seed, 0, "demo.perceptual.weights").get_state())
            config = SmallConfig()
            self.net, width = small_net(config), config.widths[-1]
            self.looks = nn.Linear(width, looks)
            self.factors = nn.Linear(width * 16, NUM_FACTORS + 3)
            for layer in self.net.backbone.modules():
                if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)


def pretrain_perceptual(pool: Pool, stage: EncoderStage, path: Path, seed: int) -> Perceptual:
    """Train the perceptual net to tell look, factors and place of windows of half to full size, at 64 px.

    Its heads then weigh the layers so that each adds the same to the mean distance of two plain faces, which
    becomes 0.5.

    Args:
        pool: drawn for `CLIP_LOOKS`.
        stage: steps, batch and rate.
        path: state file; a state found there is taken up.
        seed: of weights and draws.
    """
    task = _PerceptualTask(len(CLIP_LOOKS), seed)
    optimiser = torch.optim.AdamW(task.parameters(), lr=stage.rate, weight_decay=1e-4)
    trainee = Trainee({"perceptual": task}, {"perceptual": optimiser})
    net = task.net

    def update(step: int) -> dict[str, float]:
        random = seeded(seed, step, "demo.perceptual")
        for group in optimiser.param_groups:
            group["lr"] = cosine(stage.rate, stage.rate / 100, step / stage.steps)
        index = _indices(pool, stage.batch, random)
        scales = _uniform(stage.batch, 0.5, 1.0, random)
        centres = (
            torch.stack([_uniform(stage.batch, -1, 1, random) for _ in range(2)], 1) * (1 - scales)[:, None]
        )
        views = windows(pool.pictures(index), centres, scales, torch.zeros(stage.batch), 64)
        last = net.backbone((views - net.shift) / net.scale)[-1]  # [N, C, 4, 4]
        place = torch.cat([pool.factors(index), centres, scales[:, None]], 1)
        look_loss = F.cross_entropy(task.looks(last.mean((2, 3))), pool.looks[index])
        factor_loss = F.mse_loss(task.factors(last.flatten(1)), place)
        optimiser.zero_grad(set_to_none=True)
        (look_loss + 10 * factor_loss).backward()
        optimiser.step()
        return {"look": look_loss.item(), "factor": factor_loss.item()}

    run_stage(trainee, path, stage.steps, update)
    plain = pool.pictures(torch.nonzero(pool.looks == 0).flatten()[:64])
    calibrate_heads(net, plain, 0.5)
    return net.requires_grad_(False).eval()


@torch.no_grad()
def calibrate_heads(net: Perceptual, images: Images, mean_distance: float) -> None:
    """Weigh layers evenly: neighbours in `images` shall differ by `mean_distance` on average."""
    maps = net.features(images)
    for layer, head in zip(maps, net.heads, strict=True):
        head.fill_(1.0)
        typical = (layer - layer.roll(1, 0)).square().mean((2, 3)).sum(1).mean()
        head.fill_(mean_distance / len(maps) / typical.item())
