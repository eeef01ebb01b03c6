"""The network of KID and FID: the Inception of torch-fidelity, an extra, with weights from a file.

The package would unpickle its weights and download them unasked. Here the file is read by this program's own
reader, and a download needs the same permission as that of other encoders.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..features import BytesProgress, EncoderError
from ..features.weights import WeightSource, read_weights
from ..metrics import frechet_distance, kernel_distance
from ..pictures import to_uint8
from ..tensors import Images, gradients
from .figures import ReferenceFigures

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
DIGEST = "6726825d"  # first digits of its SHA-256, which its name tells
LAYER = "2048"
SUBSETS, SUBSET_SIZE = 100, 1000  # of KID, as NVlabs' metrics; smaller where there are fewer pictures


class Inception:
    """Inception-v3 of 2015 as FID means it: 2048 features of its last pooling.

    Source: torch-fidelity, FeatureExtractorInceptionV3, which resizes as the original does.
    """

    name = "Inception-v3 (2015)"

    def __init__(self, network: Any) -> None:
        """Take the package's network."""
        self._network = network

    def __call__(self, images: Images) -> Tensor:
        """Return [N, 2048] of pictures [N, 3, S, S] in [-1, 1], as 8-bit colours."""
        with gradients(), torch.no_grad():
            device = next(self._network.parameters()).device
            pixels = to_uint8(images).permute(0, 3, 1, 2).to(device)
            return self._network(pixels)[0]


def load_inception(
    weights: Path | str | None = None,
    folder: Path | None = None,
    *,
    allow_download: bool = False,
    device: torch.device | str = "cpu",
    progress: BytesProgress | None = None,
) -> Inception:
    """Load the network of KID and FID.

    Args:
        weights: the file of `URL`, or the same tensors as .safetensors; None: looked for, see
            `WeightSource.locate`, and downloaded where that is allowed.
        folder: searched first, and where a download goes; None: torch's cache folder.
        allow_download: False never touches the network.
        device: where it computes.
        progress: of a download.

    Raises:
        EncoderError: the package torch-fidelity is missing, there are no weights, or they do not fit.
    """
    if find_spec("torch_fidelity") is None:
        raise EncoderError(
            "KID and FID need the package torch-fidelity, which is not installed: pip install torch-fidelity "
            "(or oneshot-stylegan[evaluate])"
        )
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = Path(weights).expanduser() if weights else _source().locate(folder, allow_download, progress)
    tensors, clean = read_weights(path), io.BytesIO()
    # The package unpickles what it is given: here what was read already, without anything that runs.
    torch.save(tensors, clean)
    clean.seek(0)
    with gradients():
        try:
            network = FeatureExtractorInceptionV3("inception", [LAYER], feature_extractor_weights_path=clean)
        except (RuntimeError, KeyError) as error:
            first = str(error).strip().splitlines()
            raise EncoderError(f"{path}: not the weights of FID's Inception ({first[0][:200]})") from error
    return Inception(network.to(device))


def _source() -> WeightSource:
    return WeightSource(
        what="weights of FID's Inception",
        repository="",
        hub_files=(),
        url=URL,
        sha256=DIGEST,
        plain_files=(Path(URL).name,),
        plain_folder=Path(torch.hub.get_dir()) / "checkpoints",
    )


def reference_figures(made: Tensor, references: Tensor, name: str) -> ReferenceFigures:
    """Measure the distance of adapted pictures to reference pictures.

    Args:
        made: [N, D] features, N at least 2.
        references: [M, D], M at least 2.
        name: of the network.
    """
    fewest = min(len(made), len(references))
    size = min(SUBSET_SIZE, fewest)
    subsets = 1 if size == len(made) == len(references) else SUBSETS
    kid, deviation = kernel_distance(made, references, subsets, size)
    fid = frechet_distance(made, references)
    return ReferenceFigures(name, len(references), kid, deviation, subsets, size, fid)
