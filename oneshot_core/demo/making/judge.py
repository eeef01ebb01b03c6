"""The judge: a small network that measures results in the demo world and takes no part in making them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checkpoints.native import read_tensors, write_tensors
from ...tensors import Images, check_shape
from .faces import HELD_OUT_LOOKS, NUM_FACTORS, TRAINING_LOOKS

JUDGE_LOOKS: tuple[str, ...] = ("plain", *TRAINING_LOOKS, *HELD_OUT_LOOKS)
FORMAT, FORMAT_VERSION = "oneshot-demo-judge", 1
_WIDTHS = (24, 48, 80, 112)  # channels after each halving
_GROUPS = 8
_INPUT_PX = 128


class JudgeNet(nn.Module):
    """Convolutional network that tells the look and the factors of a portrait, and offers its features.

    Strided 5x5 and 3x3 convolutions with group norm and SiLU; the features are the last map's mean and
    standard deviation over positions, so they hold texture as well as shape.
    """

    feature_dim = 2 * _WIDTHS[-1] + 2 * _WIDTHS[1]

    def __init__(self, looks: Sequence[str] = JUDGE_LOOKS) -> None:
        super().__init__()
        self.looks = tuple(looks)
        before = (3, *_WIDTHS[:-1])
        self.downs = nn.ModuleList(
            nn.Conv2d(i, o, 5 if i == 3 else 3, stride=2, padding=2 if i == 3 else 1)
            for i, o in zip(before, _WIDTHS, strict=True)
        )
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in _WIDTHS[1:])
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, width) for width in _WIDTHS)
        self.look_head = nn.Linear(self.feature_dim, len(self.looks))
        self.places = nn.Linear(_WIDTHS[-1] * 16, 192)  # the last map, in place: shapes and where they are
        self.factor_head = nn.Linear(192, NUM_FACTORS)

    def maps(self, images: Images) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps after the last three halvings: [N, 48, 32, 32], [N, 80, 16, 16], [N, 112, 8, 8].

        The first sees strokes and colours, the last who it is, nearly whatever the look; the one between sees
        both, which is what comparing a picture with its truth needs.
        """
        check_shape(images, "images", (None, 3, None, None))
        x = images.to(self.look_head.weight.dtype)
        if x.shape[-1] != _INPUT_PX:
            x = F.interpolate(x, size=(_INPUT_PX, _INPUT_PX), mode="bilinear", antialias=True)
        found = []
        for level, (down, norm) in enumerate(zip(self.downs, self.norms, strict=True)):
            x = F.silu(norm(down(x)))
            if level:
                x = x + F.silu(self.convs[level - 1](x))
                found.append(x)
        early, middle, late = found
        return early, middle, late

    def features(self, images: Images) -> Tensor:
        """Describe pictures by what a Fréchet or kernel distance compares.

        Args:
            images: [N, 3, H, W] in [-1, 1], square; resized to 128 px where needed.

        Returns:
            [N, feature_dim] float32: mean and standard deviation over positions of an early and the last map.
        """
        early, _, late = self.maps(images)
        return self.statistics(early, late)

    def statistics(self, early: Tensor, late: Tensor) -> Tensor:
        """Return what `features` does from the first and the last of `maps`."""
        parts = [part for x in (early, late) for part in (x.mean((2, 3)), (x.var((2, 3)) + 1e-4).sqrt())]
        return torch.cat(parts, dim=1)

    def forward(self, images: Images) -> tuple[Tensor, Tensor]:
        """Return look logits [N, looks] and factors [N, NUM_FACTORS] (unbounded)."""
        early, _, late = self.maps(images)
        return self.told(early, late)

    def told(self, early: Tensor, late: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does from the first and the last of `maps`."""
        shape = F.silu(self.places(F.avg_pool2d(late, 2).flatten(1)))
        return self.look_head(self.statistics(early, late)), self.factor_head(shape)


def save_judge(judge: JudgeNet, path: Path) -> None:
    """Write a judge in float16."""
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "looks": list(judge.looks)}
    write_tensors(path, {name: value.half() for name, value in judge.state_dict().items()}, header)


def load_judge(path: Path) -> JudgeNet:
    """Read a judge, frozen, float32, on the CPU.

    Raises:
        CheckpointError: missing or damaged.
        ValueError: the file holds something else.
    """
    tensors, header = read_tensors(path)
    if header["format"] != FORMAT:
        raise ValueError(f"{path.name} has the format {header['format']!r}, a judge has {FORMAT!r}")
    with torch.random.fork_rng(devices=[]):
        judge = JudgeNet(header["looks"])
    judge.load_state_dict({name: value.float() for name, value in tensors.items()})
    return judge.requires_grad_(False).eval()
