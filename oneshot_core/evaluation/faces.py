"""The network of the identity figure: a face-recognition net, an extra, with weights from a file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..features import EncoderError
from ..features.weights import load_strict, read_weights
from ..tensors import Images, gradients

# Where the face lies in a picture framed as FFHQ's are, in 256ths: what GODA's script takes for the same net
# family (methods.md F): rows 35 to 222, columns 32 to 219.
TOP, LEFT, SIDE, WHOLE = 35, 32, 188, 256
INPUT_PX = 160


class Faces:
    """InceptionResnetV1 of facenet-pytorch: 512 features of a face in a picture that is framed as FFHQ's are.

    No face is looked for: pictures framed otherwise, or of no face, give figures without meaning.
    """

    name = "InceptionResnetV1"

    def __init__(self, network: Any) -> None:
        """Take the package's network."""
        self._network = network

    def __call__(self, images: Images) -> Tensor:
        """Return [N, 512] of pictures [N, 3, S, S] in [-1, 1], which are the network's own range."""
        with gradients(), torch.no_grad():
            size = images.shape[-1]
            top, left, side = (round(part * size / WHOLE) for part in (TOP, LEFT, SIDE))
            face = images[..., top : top + side, left : left + side].clamp(-1, 1).float()
            fitted = F.interpolate(face, (INPUT_PX, INPUT_PX), mode="bilinear", antialias=True)
            found: Tensor = self._network(fitted.to(next(self._network.parameters()).device))
            return found


def load_faces(weights: Path | str, device: torch.device | str = "cpu") -> Faces:
    """Load the network of the identity figure.

    Args:
        weights: a state of facenet-pytorch's InceptionResnetV1 (such as its 20180402-114759-vggface2.pt), or
            the same tensors as .safetensors; nothing in it is run. Nothing is downloaded.
        device: where it computes.

    Raises:
        EncoderError: the package facenet-pytorch is missing, or the file does not fit.
    """
    if find_spec("facenet_pytorch") is None:
        raise EncoderError(
            "identity needs the package facenet-pytorch, which is not installed: pip install --no-deps "
            "facenet-pytorch (its declared versions of torch are older than this program's)"
        )
    from facenet_pytorch import InceptionResnetV1

    path = Path(weights).expanduser()
    tensors = {key: value for key, value in read_weights(path).items() if not key.startswith("logits.")}
    with gradients():
        network = InceptionResnetV1(pretrained=None, classify=False)
        load_strict(network, tensors, path)
    return Faces(network.eval().requires_grad_(False).to(device))
