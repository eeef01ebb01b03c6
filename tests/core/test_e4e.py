"""The e4e encoder: what its rows mean, the files that it is read from, what is refused."""

from __future__ import annotations

import argparse

import pytest
import torch
from safetensors.torch import save_file
from stand_ins import picture, tiny_bundle

from oneshot_core.checkpoints.native import write_tensors
from oneshot_core.features import EncoderError
from oneshot_core.inversion.e4e import E4eEncoder, encode_pictures, load_e4e, save_e4e

WIDTHS = (4, 5, 6, 8)
ROWS = 8  # of a generator of 32 px
MEAN = torch.linspace(-1, 1, WIDTHS[-1])


def tiny() -> E4eEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = E4eEncoder(ROWS, WIDTHS).eval().requires_grad_(False)
    encoder.mean_latent = MEAN.expand(ROWS, -1).clone()
    return encoder


def published(encoder: E4eEncoder, **more) -> dict:
    """The object of a published file, decoder and all."""
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    state |= {"decoder.conv1.conv.weight": torch.zeros(2, 2), "decoder.noises.noise_0": torch.zeros(1)}
    opts = {"encoder_type": "Encoder4Editing", "stylegan_size": 32, "device": "cuda:0"}
    return {"state_dict": state, "latent_avg": MEAN, "opts": opts, **more}


@pytest.fixture
def bundle():
    return tiny_bundle(32, w_dim=WIDTHS[-1])


def test_the_published_encoder_has_the_published_size():
    with torch.device("meta"):
        assert sum(value.numel() for value in E4eEncoder(18).parameters()) == pytest.approx(267.1e6, rel=1e-3)


def test_every_row_is_the_first_and_what_its_own_head_adds():
    encoder = tiny()
    for head in list(encoder.styles)[1:]:
        head.linear.weight.zero_()
        head.linear.bias.zero_()
    codes = encoder(picture(64)) - encoder.mean_latent
    assert torch.allclose(codes, codes[:, :1].expand_as(codes), atol=1e-6)
    encoder.styles[5].linear.bias.fill_(0.5)
    changed = encoder(picture(64)) - encoder.mean_latent
    assert torch.allclose(changed[:, 5], codes[:, 5] + 0.5, atol=1e-6)
    assert torch.equal(changed[:, 4], codes[:, 4])


def test_pictures_are_encoded_each_by_itself(bundle):
    pictures = torch.cat([picture(32, seed=seed) for seed in range(2)])
    latent = encode_pictures(bundle, tiny(), pictures)
    assert (latent.space, tuple(latent.values.shape)) == ("w+", (2, ROWS, WIDTHS[-1]))
    assert latent.family == bundle.family and latent.origin["method"] == "e4e"
    torch.testing.assert_close(latent.values[1:], encode_pictures(bundle, tiny(), pictures[1:]).values)
    with pytest.raises(ValueError, match="codes of 8 slots of width 8, tiny .16 px. has 6 of width 8"):
        encode_pictures(tiny_bundle(16, w_dim=8), tiny(), pictures)
    with pytest.raises(ValueError, match="the pictures is not made of finite numbers"):
        encode_pictures(bundle, tiny(), pictures * torch.nan)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8,), (1, 8), (ROWS, 8), (1, ROWS, 8)], ids=str)
def test_the_published_file_is_read_without_its_decoder(tmp_path, shape):
    path, encoder = tmp_path / "e4e_ffhq_encode.pt", tiny()
    mean = MEAN.expand(shape).clone()
    torch.save(published(encoder, latent_avg=mean), path)
    read = load_e4e(path)
    assert torch.equal(read.mean_latent, encoder.mean_latent)
    assert all(torch.equal(one, read.state_dict()[name]) for name, one in encoder.state_dict().items())
    assert not any(value.requires_grad for value in read.parameters()) and not read.training


def test_older_files_hold_their_settings_as_an_object(tmp_path):
    settings = argparse.Namespace(encoder_type="Encoder4Editing", stylegan_size=32)
    torch.save(published(tiny(), opts=settings), tmp_path / "old.pt")
    assert load_e4e(tmp_path / "old.pt").rows == ROWS
    settings = argparse.Namespace(encoder_type="GradualStyleEncoder")
    torch.save(published(tiny(), opts=settings), tmp_path / "psp.pt")
    with pytest.raises(EncoderError, match="encoder of the kind 'GradualStyleEncoder'"):
        load_e4e(tmp_path / "psp.pt")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_encoder_is_kept_as_safetensors(tmp_path, dtype):
    encoder = tiny()
    read = load_e4e(save_e4e(encoder, tmp_path / "e4e.safetensors", dtype))
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(
            read.state_dict()[name], value, atol=1e-3 * (dtype == "float16"), rtol=1e-3
        )
    assert torch.equal(read.mean_latent, encoder.mean_latent)
    plain = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    save_file({**plain, "latent_avg": MEAN}, tmp_path / "plain.safetensors")
    assert torch.equal(load_e4e(tmp_path / "plain.safetensors").mean_latent, encoder.mean_latent)


def test_a_mean_latent_can_be_given_where_the_file_has_none(tmp_path):
    torch.save({"state_dict": published(tiny())["state_dict"]}, tmp_path / "x.pt")
    with pytest.raises(EncoderError, match="x.pt: holds no latent_avg"):
        load_e4e(tmp_path / "x.pt")
    assert torch.equal(load_e4e(tmp_path / "x.pt", MEAN).mean_latent, tiny().mean_latent)
    with pytest.raises(EncoderError, match=r"the given mean latent has shape \[5\]"):
        load_e4e(tmp_path / "x.pt", MEAN[:5])


def restyle(tensors):
    tensors["state_dict"]["encoder.input_layer.0.weight"] = torch.zeros(4, 6, 3, 3)


def truncated(tensors):
    del tensors["state_dict"]["encoder.latlayer1.weight"]


def infinite(tensors):
    tensors["state_dict"]["encoder.latlayer1.weight"].fill_(torch.inf)


def endless(tensors):
    """A file of a few bytes whose stage says that it has 10^9 channels."""
    tensors["state_dict"]["encoder.body.0.res_layer.1.weight"] = torch.zeros(1).expand(500_000_000, 1, 1, 1)


def no_backbone(tensors):
    del tensors["state_dict"]["encoder.body.3.res_layer.1.weight"]


def generator_alone(tensors):
    tensors["state_dict"] = {"decoder.conv1.conv.weight": torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (restyle, "six input channels are those of ReStyle"),
        (truncated, "1 missing"),
        (infinite, "not made of finite numbers"),
        (endless, "no IR-SE50"),
        (no_backbone, "no IR-SE50"),
        (generator_alone, "holds no e4e encoder"),
        (lambda tensors: tensors.update(latent_avg=torch.zeros(3, 8)), "its latent_avg has shape"),
    ],
    ids=["restyle", "truncated", "infinite", "endless", "no_backbone", "generator_alone", "mean"],
)
def test_what_is_no_e4e_file_is_refused(tmp_path, spoil, said):
    tensors = published(tiny())
    spoil(tensors)
    torch.save(tensors, tmp_path / "bad.pt")
    with pytest.raises(EncoderError, match=said) as error:
        load_e4e(tmp_path / "bad.pt")
    assert "bad.pt" in str(error.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = write_tensors(tmp_path / "x.safetensors", {}, {"format": "oneshot-latent", "format_version": 1})
    with pytest.raises(EncoderError, match="no e4e encoder .'oneshot-latent'"):
        load_e4e(path)
    with pytest.raises(EncoderError, match="cannot be read"):
        load_e4e(tmp_path / "nothing.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(EncoderError, match="no tensors by name"):
        load_e4e(tmp_path / "list.pt")


def test_code_in_a_file_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save(published(tiny(), more=Harmful()), tmp_path / "hostile.pt")
    with pytest.raises(EncoderError):
        load_e4e(tmp_path / "hostile.pt")
    assert not (tmp_path / "ran").exists()
