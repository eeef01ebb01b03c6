"""The perceptual nets: parity with the lpips package, dropout by seed, files, errors."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from types import SimpleNamespace

import lpips
import pytest
import torch
import torchvision
from file_server import serving
from safetensors import safe_open
from safetensors.torch import save_file

from oneshot_core.features import (
    EncoderError,
    Perceptual,
    SmallConfig,
    load_perceptual,
    read_perceptual,
    save_perceptual,
    small_net,
)
from oneshot_core.features import perceptual as module
from oneshot_core.features.weights import torchvision_source

NETS = ["alex", "vgg", "squeeze"]


def pictures(count: int = 2, size: int = 64, seed: int = 5) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def features_state(net: str) -> dict[str, torch.Tensor]:
    """Invent backbone weights under torchvision's names (features part only, classifiers are big)."""
    backbone = module.package_net(net).backbone
    generator = torch.Generator().manual_seed(7)
    state = {}
    for key, value in backbone.state_dict().items():
        spread = (2 / value[0].numel()) ** 0.5 if value.ndim == 4 else 0.05
        state[f"features.{key.partition('.')[2]}"] = torch.randn(value.shape, generator=generator) * spread
    return state


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("backbones")
    files = {net: folder / f"{net}.safetensors" for net in NETS}
    for net, path in files.items():
        save_file(features_state(net), path)
    return files


def package_lpips(net: str, state: dict[str, torch.Tensor]) -> lpips.LPIPS:
    """Build the package's own network with the same backbone, and the heads read from its file."""
    with torch.device("meta"), warnings.catch_warnings():  # no time lost on random classifiers
        warnings.simplefilter("ignore")
        original = lpips.LPIPS(net=net, pnet_rand=True, pretrained=False, verbose=False)
    places = {key.partition(".")[2]: key for key in original.net.state_dict()}
    backbone = {places[key.removeprefix("features.")]: value for key, value in state.items()}
    original.net.load_state_dict(backbone, assign=True)
    heads = torch.load(Path(lpips.__file__).parent / f"weights/v0.1/{net}.pth", map_location="cpu")
    for layer, head in enumerate(original.lins):
        head.load_state_dict({"model.1.weight": heads[f"lin{layer}.model.1.weight"]}, assign=True)
    return original.eval()


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_equals_the_package(net, backbones):
    perceptual = load_perceptual(net, backbones[net], allow_download=False)
    original = package_lpips(net, features_state(net))
    x, y = pictures(seed=1), pictures(seed=2)
    with torch.no_grad():
        expected = original(x, y).flatten()
        torch.testing.assert_close(perceptual(x, y), expected, rtol=1e-6, atol=1e-6)
        cached = perceptual.features(y[:1])
        torch.testing.assert_close(
            perceptual.distance(perceptual.features(x), cached),
            original(x, y[:1]).flatten(),
            rtol=1e-6,
            atol=1e-6,
        )
        doubled = perceptual.double()(x.double(), y.double())
        torch.testing.assert_close(
            doubled, original.double()(x.double(), y.double()).flatten(), rtol=0, atol=1e-12
        )


def test_frozen_and_differentiable(backbones):
    perceptual = load_perceptual("alex", backbones["alex"])
    x = pictures(seed=1).requires_grad_()
    perceptual(x, pictures(seed=2)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(not weight.requires_grad for weight in perceptual.parameters())
    assert not perceptual.training
    assert perceptual(x, x).abs().max() == 0


def test_training_mode_changes_nothing(backbones):
    perceptual = load_perceptual("squeeze", backbones["squeeze"])
    x, y = pictures(seed=1), pictures(seed=2)
    before = perceptual(x, y)
    assert torch.equal(perceptual.train()(x, y), before)


def test_a_position_without_features_has_a_finite_gradient():
    perceptual = small_net(SmallConfig((4, 4)))
    torch.nn.init.constant_(perceptual.backbone.convs[0].bias, -100)
    x = pictures(1, 8).requires_grad_()
    perceptual(x, pictures(1, 8, seed=6)).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_dropout_is_seeded_and_unbiased(backbones):
    perceptual = load_perceptual("alex", backbones["alex"])
    a, b = perceptual.features(pictures(seed=1)), perceptual.features(pictures(seed=2))
    plain = perceptual.distance(a, b)

    def draw(seed: int) -> torch.Tensor:
        return perceptual.distance(a, b, dropout=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2)) and not torch.equal(draw(1), plain)
    state = torch.random.get_rng_state()
    many = torch.stack([draw(seed) for seed in range(200)])
    assert torch.equal(torch.random.get_rng_state(), state)
    error = many.std(dim=0) / 200**0.5
    assert ((many.mean(dim=0) - plain).abs() < 4 * error).all()


def test_dropout_zeroes_half_of_the_squared_differences():
    mask = module._mask(torch.zeros(4, 8, 16, 16), torch.Generator().manual_seed(0))
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    assert mask.mean().item() == pytest.approx(1, abs=0.05)


def test_backbone_file_forms(tmp_path, backbones):
    state = features_state("squeeze")
    whole = state | {"classifier.1.weight": torch.zeros(1000, 512, 1, 1)}
    bare = {key.removeprefix("features."): value for key, value in state.items()}
    torch.save(whole, tmp_path / "whole.pth")
    save_file(bare, tmp_path / "bare.safetensors")
    x, y = pictures(seed=1), pictures(seed=2)
    expected = load_perceptual("squeeze", backbones["squeeze"])(x, y)
    for name in ("whole.pth", "bare.safetensors"):
        assert torch.equal(load_perceptual("squeeze", tmp_path / name)(x, y), expected)


def test_wrong_backbones_are_refused(tmp_path, backbones):
    with pytest.raises(EncoderError, match=r"missing \(slice.*unexpected"):
        load_perceptual("alex", backbones["vgg"])
    deeper = features_state("vgg") | {"features.30.weight": torch.zeros(512, 512, 3, 3)}
    save_file(deeper, tmp_path / "vgg19.safetensors")
    with pytest.raises(EncoderError, match=r"1 unexpected \(30\.weight\)"):
        load_perceptual("vgg", tmp_path / "vgg19.safetensors")
    with pytest.raises(EncoderError, match="alex, vgg, squeeze or demo"):
        load_perceptual("resnet")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Serve the backbone of SqueezeNet at an address with its hash; torch's cache folder is empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.delenv("http_proxy", raising=False)
    torch.save(features_state("squeeze"), tmp_path / "published.pth")
    data = (tmp_path / "published.pth").read_bytes()
    with serving() as server:
        name = f"squeezenet1_1-{hashlib.sha256(data).hexdigest()[:8]}.pth"
        server.files[f"/{name}"] = data
        weights = {"IMAGENET1K_V1": SimpleNamespace(url=f"{server.url}/{name}")}
        monkeypatch.setattr(torchvision.models, "get_model_weights", lambda architecture: weights)
        yield server


def test_missing_backbone_says_file_place_and_origin(tmp_path, published):
    (address,) = (f"{published.url}{path}" for path in published.files)
    published.files.clear()
    for allow, reason in ((False, "downloads are switched off"), (True, "answered 404")):
        with pytest.raises(EncoderError) as caught:
            load_perceptual("squeeze", folder=tmp_path / "mine", allow_download=allow)
        places = (str(tmp_path / "mine"), str(tmp_path / "torch" / "checkpoints"))
        for part in (reason, address, Path(address).name, *places, "squeezenet1_1"):
            assert part in str(caught.value)
    assert len(published.asked) == 1


@pytest.mark.parametrize("folder", [None, "mine"])
def test_backbone_comes_from_the_folder_or_torchs_cache_else_a_checked_download(tmp_path, published, folder):
    place = tmp_path / folder if folder else None
    seen: list[tuple[int, int | None]] = []
    first = load_perceptual("squeeze", folder=place, progress=lambda *at: seen.append(at))
    assert seen[-1][0] == seen[-1][1] > 0
    (name,) = (Path(path).name for path in published.files)
    assert [path.name for path in (place or tmp_path / "torch" / "checkpoints").iterdir()] == [name]
    second = load_perceptual("squeeze", folder=place, allow_download=False)
    assert len(published.asked) == 1
    x, y = pictures(seed=1), pictures(seed=2)
    assert torch.equal(first(x, y), second(x, y))


def test_a_damaged_backbone_is_not_kept(tmp_path, published):
    published.files = {path: data[:-1] + b"?" for path, data in published.files.items()}
    with pytest.raises(EncoderError, match="wanted [0-9a-f]{8}; it was thrown away"):
        load_perceptual("squeeze", folder=tmp_path / "mine")
    assert not list((tmp_path / "mine").iterdir())


def test_published_backbones_carry_a_hash():
    for net in module.PUBLISHED.values():
        source = torchvision_source(net.architecture)
        assert len(source.sha256) >= 8 and source.sha256 in source.url


def test_too_small_or_unequal_pictures(backbones):
    for net in NETS:
        perceptual = load_perceptual(net, backbones[net])
        side = perceptual.minimum_px
        perceptual.features(pictures(1, side))
        with pytest.raises(ValueError, match=f"at least {side} px"):
            perceptual.features(pictures(1, side - 1))
        with pytest.raises(RuntimeError):  # the stated minimum is the real one
            perceptual.backbone(pictures(1, side - 1))
    with pytest.raises(ValueError, match="unequal size"):
        perceptual(pictures(1, 64), pictures(1, 32))
    with pytest.raises(ValueError, match="compares 7 maps"):
        perceptual.distance([torch.zeros(1)], [torch.zeros(1)])


# The demo's net


def test_small_net_round_trip(tmp_path):
    torch.manual_seed(0)
    net = small_net()
    assert 0.3e6 < sum(weight.numel() for weight in net.parameters()) < 0.5e6
    maps = net.features(pictures(2, 128))
    assert [tuple(layer.shape[1:3]) for layer in maps] == [(24, 128), (48, 64), (96, 32), (128, 16), (128, 8)]
    torch.testing.assert_close(maps[0].norm(dim=1).max(), torch.tensor(1.0))
    with torch.no_grad():
        for head in net.heads:
            head.normal_()
    with pytest.raises(ValueError, match="clamp_heads"):
        save_perceptual(net, tmp_path / "net.safetensors")
    net.clamp_heads()
    path = save_perceptual(net, tmp_path / "deep" / "net.safetensors")
    loaded = load_perceptual("demo", path, allow_download=False)
    x, y = pictures(seed=1), pictures(seed=2)
    assert torch.equal(loaded(x, y), net(x, y))
    assert not any(weight.requires_grad for weight in loaded.parameters())
    assert all(weight.requires_grad for weight in read_perceptual(path).parameters())
    assert isinstance(loaded, Perceptual) and loaded.name == "demo"


def test_layout_comes_from_the_header_and_wrong_files_are_refused(tmp_path, monkeypatch):
    save_perceptual(small_net(SmallConfig((8, 16))), tmp_path / "narrow.safetensors")
    state = torch.random.get_rng_state()
    assert len(load_perceptual("demo", tmp_path / "narrow.safetensors").heads) == 2
    assert torch.equal(torch.random.get_rng_state(), state)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(EncoderError, match="no perceptual net of this project"):
        load_perceptual("demo", tmp_path / "other.safetensors")
    monkeypatch.setattr(module, "DEMO_FILE", tmp_path / "absent.safetensors")
    with pytest.raises(EncoderError, match="belongs to this project"):
        load_perceptual("demo")
    with pytest.raises(ValueError, match="widths"):
        SmallConfig(())


def test_loading_inside_inference_mode_gives_ordinary_weights(tmp_path):
    path = save_perceptual(small_net(SmallConfig((4, 8))), tmp_path / "net.safetensors")
    with torch.inference_mode():
        net = load_perceptual("demo", path)
    x = pictures(1, 16).requires_grad_()
    net(x, pictures(1, 16, seed=6)).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path, value):
    net = small_net(SmallConfig((4, 8)))
    path = save_perceptual(net, tmp_path / "net.safetensors")
    header = {"oneshot": safe_open(path, "pt").metadata()["oneshot"]}
    net.backbone.convs[1].bias.data[0] = value
    with pytest.raises(ValueError, match=r"the perceptual net: backbone.convs.1.bias is not made of finite"):
        save_perceptual(net, path)
    save_file(net.state_dict(), path, metadata=header)
    with pytest.raises(EncoderError, match=r"backbone.convs.1.bias is not made of finite numbers"):
        read_perceptual(path)
