"""The networks of KID, FID and identity: from files, without running or downloading anything."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from oneshot_core.evaluation import faces, inception, load_faces, load_inception
from oneshot_core.evaluation.inception import reference_figures
from oneshot_core.features import EncoderError


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of the names and shapes of the package's Inception; torch-fidelity is a test dependency."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object) -> None:
            """Keep the random ones."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blank = Blank("inception", ["2048"], feature_extractor_weights_path=nothing)
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(blank.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_is_read_from_a_file_and_sees_8_bit_colours(weights: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("downloaded"))
    network = load_inception(weights)
    levels = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    images = levels / 127.5 - 1
    found = network(images)
    assert found.shape == (2, 2048) and found.dtype == torch.float32 and not found.requires_grad
    with torch.inference_mode():  # as ComfyUI runs nodes
        assert torch.equal(network(images + 1e-4), found)
    assert not torch.equal(found[0], found[1])


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(EncoderError, match="not the weights of FID's Inception"):
        load_inception(tmp_path / "other.safetensors")


def test_a_pickle_that_runs_something_is_not_run(tmp_path: Path) -> None:
    evil = tmp_path / "evil.pth"
    evil.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(ValueError, match="evil.pth"):
        load_inception(evil)
    assert not Path("ran").exists()


def test_missing_weights_say_where_they_belong_and_nothing_is_downloaded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    with pytest.raises(EncoderError, match=r"no weights of FID's Inception: .*downloads are switched off"):
        load_inception(folder=tmp_path)


@pytest.mark.parametrize(
    ("module", "load", "package"),
    [(inception, load_inception, "torch-fidelity"), (faces, load_faces, "facenet-pytorch")],
)
def test_a_missing_package_is_named(module, load, package: str, monkeypatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(EncoderError, match=f"pip install .*{package}"):
        load("weights.pt")


def test_subsets_are_as_large_as_the_smaller_set() -> None:
    draws = torch.Generator().manual_seed(0)
    few, many = torch.randn(8, 4, generator=draws), torch.randn(20, 4, generator=draws)
    found = reference_figures(many, few, "net")
    assert (found.pictures, found.subset_size, found.subsets, found.name) == (8, 8, 100, "net")
    assert found.kid_deviation > 0


class InceptionResnetV1(nn.Module):
    """Stands where facenet-pytorch's does, which needs an older torch than this program."""

    def __init__(self, pretrained: str | None, classify: bool) -> None:
        super().__init__()
        assert pretrained is None and not classify  # else it would download
        self.last_linear = nn.Linear(3, 4)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        assert faces.shape[1:] == (3, 160, 160)
        return self.last_linear(faces.mean((2, 3)))


def test_faces_are_cut_out_and_the_file_is_only_read(tmp_path: Path, monkeypatch) -> None:
    package = ModuleType("facenet_pytorch")
    package.InceptionResnetV1 = InceptionResnetV1
    monkeypatch.setitem(sys.modules, "facenet_pytorch", package)
    monkeypatch.setattr(faces, "find_spec", lambda _: object())
    state = InceptionResnetV1(None, False).state_dict()
    save_file({**state, "logits.weight": torch.zeros(2, 4)}, tmp_path / "faces.safetensors")
    network = load_faces(tmp_path / "faces.safetensors")
    images = torch.full((2, 3, 256, 256), -1.0)
    images[..., 35:223, 32:220] = 0.5  # the face; what is around does not count
    inner = network(images)
    assert torch.allclose(inner, network(torch.full((2, 3, 64, 64), 0.5)), atol=1e-6)
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(EncoderError, match="does not fit InceptionResnetV1"):
        load_faces(tmp_path / "other.safetensors")
