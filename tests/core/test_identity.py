"""The identity net: its shape, what part of a picture it sees, its file."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from oneshot_core.features import EncoderError
from oneshot_core.features.identity import ArcFace, identity_distance, load_arcface
from oneshot_core.features.irse import BLOCKS, Bottleneck, IrSe50

TINY = (4, 6, 8, 10)


def tiny() -> ArcFace:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ArcFace(TINY).eval().requires_grad_(False)


def test_the_published_network_has_the_published_size():
    """43.8 M parameters, as the InsightFace port states for IR-SE50 with 112 px."""
    with torch.device("meta"):
        count = sum(value.numel() for value in ArcFace().parameters())
    assert count == 43_797_696


def test_maps_are_halved_at_the_first_block_of_every_stage():
    with torch.device("meta"):
        network, x = IrSe50(TINY), torch.empty(1, 3, 64, 64)
    firsts = [sum(BLOCKS[:stage]) for stage in range(4)]
    shapes = [tuple(one.shape) for one in network.eval().maps(x, firsts)]
    assert shapes == [(1, 4, 32, 32), (1, 6, 16, 16), (1, 8, 8, 8), (1, 10, 4, 4)]


def test_a_block_without_change_of_width_passes_every_second_position_by():
    block = Bottleneck(4, 4, 2).eval().requires_grad_(False)
    block.res_layer[4].weight.fill_(0)  # the last norm: nothing but the shortcut is left
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(block(x), x[:, :, ::2, ::2])


def test_features_have_unit_length_and_a_gradient():
    picture = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)).requires_grad_(True)
    features = tiny()(picture)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    distance = identity_distance(features, features.detach().flip(0))
    assert distance.shape == (2,)
    torch.testing.assert_close(distance[0], distance[1])  # a pair is as far apart either way round
    (gradient,) = torch.autograd.grad(distance.sum(), picture)
    assert float(gradient.abs().max()) > 0


def test_only_the_face_of_an_aligned_picture_counts():
    network = tiny()
    picture = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(3))
    outside, inside = picture.clone(), picture.clone()
    outside[:, :, :35], outside[:, :, 223:], outside[..., :32], outside[..., 220:] = (1.0,) * 4
    inside[:, :, 35] = 1.0
    assert torch.equal(network(outside), network(picture))
    assert not torch.equal(network(inside), network(picture))


def test_small_pictures_are_enlarged_by_repetition():
    small = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    large = F.interpolate(small, scale_factor=4, mode="nearest")
    torch.testing.assert_close(tiny()(small), tiny()(large), atol=1e-6, rtol=0)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "model_ir_se50.safetensors"
    with pytest.raises(EncoderError, match="there is no weights file"):
        load_arcface(path)
    save_file(tiny().state_dict(), path)
    with pytest.raises(EncoderError, match="does not fit ArcFace"):
        load_arcface(path)


def test_the_published_layout_is_read(tmp_path, monkeypatch):
    from oneshot_core.features import identity

    network = tiny()
    torch.save(network.state_dict(), tmp_path / "model_ir_se50.pth")
    monkeypatch.setattr(identity, "ArcFace", lambda: ArcFace(TINY))
    read = load_arcface(tmp_path / "model_ir_se50.pth")
    assert not any(value.requires_grad for value in read.parameters()) and not read.training
    picture = torch.zeros(1, 3, 256, 256)
    assert torch.equal(read(picture), network(picture))
