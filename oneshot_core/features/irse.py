"""IR-SE50: the residual network under e4e's encoder and under the ArcFace identity net, in one place.

Stem (3x3 convolution, batch norm, PReLU), then 24 residual blocks in four stages of 64, 128, 256 and 512
channels, the first block of each with stride 2. State-dict names are those of the published files.

Source: Deng et al., ArcFace, arXiv 1801.07698 (improved residual units); Hu et al., Squeeze-and-Excitation,
arXiv 1709.01507; names and order of TreB1eN/InsightFace_Pytorch model.py (editing.md 4.3).
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)  # channels of the four stages, as published
BLOCKS = (3, 4, 14, 3)  # of each stage
SQUEEZED = 16  # how much narrower the squeeze of a block is


class SqueezeExcite(nn.Module):
    """Channels weighted by what all positions together show."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // SQUEEZED)
        self.fc1 = nn.Conv2d(channels, narrow, 1, bias=False)
        self.fc2 = nn.Conv2d(narrow, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(means))))


class Bottleneck(nn.Module):
    """One residual block: norm, convolution, PReLU, convolution, norm, squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        # A window of 1: plain subsampling, as the published code writes it; it has no weights.
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_layer = nn.Sequential(conv, nn.BatchNorm2d(outputs))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            SqueezeExcite(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H / stride, W / stride]."""
        residual: Tensor = self.res_layer(x)
        return residual + self.shortcut_layer(x)


class IrSe50(nn.Module):
    """Stem and blocks; what comes out of them is the business of those who build on it."""

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        """Build it with torch's initial weights.

        Args:
            widths: channels of the four stages.
        """
        super().__init__()
        self.widths = tuple(widths)
        width = widths[0]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        blocks = list[nn.Module]()
        for channels, count in zip(widths, BLOCKS, strict=True):
            for index in range(count):
                blocks.append(Bottleneck(width, channels, 1 if index else 2))
                width = channels
        self.body = nn.Sequential(*blocks)

    def maps(self, images: Tensor, places: Container[int]) -> list[Tensor]:
        """Feature maps after some of the blocks, in their order.

        Args:
            images: [N, 3, H, W] in [-1, 1].
            places: numbers of the blocks, from 0; sides are halved at the blocks 0, 3, 7 and 21.
        """
        x, found = self.input_layer(images), list[Tensor]()
        for place, block in enumerate(self.body):
            x = block(x)
            if place in places:
                found.append(x)
        return found
