"""Who a face is: unit features of a face recogniser, and how far two pictures are apart in them.

Source: the identity loss of StyleCLIP and e4e (editing.md 1a): ArcFace on IR-SE50, file model_ir_se50.pth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.native import write_tensors
from ..tensors import Images, check_shape, gradients
from .irse import WIDTHS, IrSe50
from .weights import load_strict, read_weights, stored_weights

# Where the face lies in a picture that is framed as FFHQ's are: first row, first column, side, of 256 px.
TOP, LEFT, SIDE, WHOLE = 35, 32, 188, 256
INPUT_PX, FEATURES = 112, 512
FORMAT, FORMAT_VERSION = "oneshot-identity", 1


class IdentityNet(Protocol):
    """What looks at faces: the ArcFace net here, or that of `load_faces`, which has no gradient."""

    name: str

    def __call__(self, images: Images) -> Tensor:
        """[N, 3, S, S] in [-1, 1], framed as FFHQ's pictures are -> features [N, D]."""
        ...


class ArcFace(IrSe50):
    """Face recogniser: 512 unit features of the face in a picture that is framed as FFHQ's are.

    No face is looked for: pictures framed otherwise, or of no face, give figures without meaning.
    Differentiable. State-dict names are those of model_ir_se50.pth.
    """

    name = "ArcFace (IR-SE50)"

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        """Build it with torch's initial weights.

        Args:
            widths: channels of the four stages.
        """
        super().__init__(widths)
        width, side = widths[-1], INPUT_PX >> len(widths)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(width * side**2, FEATURES),
            nn.BatchNorm1d(FEATURES),
        )

    def forward(self, images: Images) -> Tensor:
        """Unit features [N, 512] of pictures [N, 3, S, S] in [-1, 1]; smaller ones are enlarged."""
        check_shape(images, "images", (None, 3, None, None))
        x = images.to(next(self.parameters()).dtype)
        if x.shape[-2:] != (WHOLE, WHOLE):
            x = F.adaptive_avg_pool2d(x, WHOLE)
        face = F.adaptive_avg_pool2d(x[:, :, TOP : TOP + SIDE, LEFT : LEFT + SIDE], INPUT_PX)
        (last,) = self.maps(face, (len(self.body) - 1,))
        features: Tensor = self.output_layer(last)
        return F.normalize(features, dim=1)


def identity_distance(features: Tensor, before: Tensor) -> Tensor:
    """1 - cosine of two pictures' features, [N]; the second may be one for all.

    Args:
        features: [N, D], of any length.
        before: [N, D] or [1, D]; no gradient flows into them.
    """
    return 1 - F.cosine_similarity(features, before.detach(), dim=1)


def save_arcface(network: ArcFace, path: Path | str, dtype: str = "float16") -> Path:
    """Write the identity net as one safetensors file that `load_arcface` reads; atomic.

    Args:
        network: what to write.
        path: final name, by custom ending in .safetensors.
        dtype: "float16" (88 MB) or "float32".

    Raises:
        ValueError: another dtype, or a weight beyond its range.
    """
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "dtype": dtype}
    return write_tensors(path, stored_weights(network, dtype), header)


def load_arcface(weights: Path | str) -> ArcFace:
    """Load the identity net with frozen weights.

    Args:
        weights: model_ir_se50.pth, or the same tensors as .safetensors; nothing in it is run. Nothing is
            downloaded.

    Returns:
        Frozen, float32, on the CPU.

    Raises:
        EncoderError: missing, damaged, or of another network.
    """
    path = Path(weights).expanduser()
    with gradients():
        with torch.device("meta"):
            network = ArcFace()
        load_strict(network, read_weights(path), path)
        return network.eval().requires_grad_(False)
