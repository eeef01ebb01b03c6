"""Network pickles of NVIDIA's repositories and of TensorFlow, written here by a few independent lines."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oneshot_core import checkpoints
from oneshot_core.checkpoints import CheckpointError

SIZE, CHANNELS, Z, W, LABELS = 16, {4: 8, 8: 6, 16: 4}, 10, 12, 3
FILTER = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
Tree = dict[str, Any]


class EasyDict(dict):
    """Pickles under the name of dnnlib's class."""

    __module__ = "dnnlib.util"


class Network:
    """Pickles under the name of the TensorFlow repository's class."""

    __module__ = "dnnlib.tflib.network"


class Module:
    """Pickles as the repositories' modules do: as a call with its source text and its state."""

    def __init__(self, name: str) -> None:
        self.name, self.tensors, self.buffers, self.children = name, {}, {}, {}
        self.attributes: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            "_parameters": {name: torch.nn.Parameter(value) for name, value in self.tensors.items()},
            "_buffers": self.buffers, "_modules": self.children, "training": False, **self.attributes,
        }  # fmt: skip
        source = "raise RuntimeError('executed')\n" * 200
        description = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": self.name,
            "state": state,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (description,)

    def at(self, path: str) -> Module:
        module = self
        for name in path.split(".") if path else []:
            module = module.children.setdefault(name, Module("Layer"))
        return module


@pytest.fixture(autouse=True)
def names_of_the_repositories(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `pickle.dump` find the classes under the names that real files use; reading needs none of this."""

    def _reconstruct_persistent_obj(description: Any) -> None:
        raise AssertionError("the reader must not call this")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    for package in ("torch_utils", "dnnlib", "dnnlib.tflib"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    for value in (_reconstruct_persistent_obj, EasyDict, Network):
        module = ModuleType(value.__module__)
        setattr(module, value.__name__, value)
        monkeypatch.setitem(sys.modules, value.__module__, module)
    yield


class Draw:
    """Random tensors from one seed."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


def fill(module: Module, tensors: dict[str, Tensor]) -> Module:
    for name, value in tensors.items():
        path, _, leaf = name.rpartition(".")
        target = module.at(path)
        is_buffer = leaf in ("noise_const", "resample_filter", "w_avg")
        (target.buffers if is_buffer else target.tensors)[leaf] = value
    return module


def nvidia_generator(conditional: bool = False, noise: bool = True) -> Module:
    draw, tensors = Draw(), {}
    label = W if conditional else 0
    if conditional:
        tensors |= {"mapping.embed.weight": draw(W, LABELS), "mapping.embed.bias": draw(W)}
    tensors |= {"mapping.fc0.weight": draw(14, Z + label), "mapping.fc0.bias": draw(14)}
    tensors |= {"mapping.fc1.weight": draw(W, 14), "mapping.fc1.bias": draw(W), "mapping.w_avg": draw(W)}
    tensors["synthesis.b4.const"] = draw(CHANNELS[4], 4, 4)
    for side, width in CHANNELS.items():
        block = f"synthesis.b{side}"
        inputs = CHANNELS.get(side // 2, width)
        layers = {"conv1": (width, width, 3), "torgb": (width, 3, 1)} | (
            {"conv0": (inputs, width, 3)} if side > 4 else {}
        )
        for name, (i, o, k) in layers.items():
            tensors |= {
                f"{block}.{name}.weight": draw(o, i, k, k), f"{block}.{name}.bias": draw(o),
                f"{block}.{name}.affine.weight": draw(i, W), f"{block}.{name}.affine.bias": draw(i),
            }  # fmt: skip
            if k == 3 and noise:
                tensors[f"{block}.{name}.noise_strength"] = torch.tensor(0.25)
                tensors[f"{block}.{name}.noise_const"] = draw(side, side)
        tensors[f"{block}.resample_filter"] = FILTER
    module = fill(Module("Generator"), tensors)
    for path in ("mapping.fc0", "mapping.fc1"):
        module.at(path).attributes = {"bias_gain": np.float64(0.02), "activation": "lrelu"}
    return module


def nvidia_discriminator() -> Module:
    draw, tensors = Draw(), {}
    for side in (16, 8):
        width, below = CHANNELS[side], CHANNELS[side // 2]
        tensors |= {
            f"b{side}.conv0.weight": draw(width, width, 3, 3), f"b{side}.conv0.bias": draw(width),
            f"b{side}.conv1.weight": draw(below, width, 3, 3), f"b{side}.conv1.bias": draw(below),
            f"b{side}.skip.weight": draw(below, width, 1, 1),
        }  # fmt: skip
    tensors |= {"b16.fromrgb.weight": draw(4, 3, 1, 1), "b16.fromrgb.bias": draw(4)}
    tensors |= {"b4.conv.weight": draw(8, 9, 3, 3), "b4.conv.bias": draw(8)}
    tensors |= {
        "b4.fc.weight": draw(8, 128),
        "b4.fc.bias": draw(8),
        "b4.out.weight": draw(1, 8),
        "b4.out.bias": draw(1),
    }
    module = fill(Module("Discriminator"), tensors)
    module.at("b4.mbstd").attributes = {"group_size": 8, "num_channels": 1}
    return module


def write(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


class TestNvidia:
    def root(self, **modules: Any) -> Tree:
        return {"training_set_kwargs": EasyDict(path="x"), "augment_pipe": None, **modules}

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    @pytest.mark.parametrize("conditional", [False, True])
    def test_reads(self, tmp_path: Path, protocol: int, conditional: bool) -> None:
        generator = nvidia_generator(conditional)
        generator.at("synthesis.b16.conv1").attributes["conv_clamp"] = None
        path = write(tmp_path / "n.pkl", self.root(G_ema=generator, D=nvidia_discriminator()), protocol)
        bundle = checkpoints.load(path)
        config = bundle.generator.config
        assert (config.size, config.channels, config.z_dim, config.w_dim) == (SIZE, (8, 6, 4), Z, W)
        assert (config.c_dim, config.mapping_width, config.mapping_layers) == (
            LABELS if conditional else 0,
            14,
            2,
        )
        assert config.mapping_lr_multiplier == 0.02, "what the layers used, not a default"
        assert bundle.discriminator is not None and bundle.discriminator.config.mbstd_group == 8
        assert bundle.raw_generator is None
        conv = generator.at("synthesis.b8.conv0")
        assert torch.equal(bundle.generator.convs[1].weight, conv.tensors["weight"])
        assert torch.equal(bundle.generator.convs[1].noise_const, conv.buffers["noise_const"])
        assert torch.equal(bundle.mean_latent, generator.at("mapping").buffers["w_avg"])

    def test_frozen_discriminator_layers_are_buffers(self, tmp_path: Path) -> None:
        network = nvidia_discriminator()
        layer = network.at("b16.conv0")
        layer.buffers, layer.tensors = layer.tensors, {}
        bundle = checkpoints.load(write(tmp_path / "n.pkl", self.root(G_ema=nvidia_generator(), D=network)))
        assert bundle.discriminator is not None
        assert torch.equal(bundle.discriminator.blocks[0].conv1.weight, layer.buffers["weight"])

    def test_settings_of_the_layers(self, tmp_path: Path) -> None:
        network = nvidia_generator()
        for side in CHANNELS:
            for name in ("conv0", "conv1", "torgb")[side == 4 :]:
                network.at(f"synthesis.b{side}.{name}").attributes["conv_clamp"] = 256
        found = checkpoints.load(write(tmp_path / "n.pkl", self.root(G=network)))
        assert found.generator.config.conv_clamp == 256.0
        network.at("synthesis.b8.conv1").attributes["conv_clamp"] = 3
        with pytest.raises(CheckpointError, match="different conv_clamp"):
            checkpoints.load(write(tmp_path / "n.pkl", self.root(G=network)))

    def test_without_noise(self, tmp_path: Path) -> None:
        bundle = checkpoints.load(write(tmp_path / "n.pkl", self.root(G_ema=nvidia_generator(noise=False))))
        assert all(float(conv.noise_strength) == 0 for conv in bundle.generator.convs)
        assert any("without noise" in note for note in bundle.provenance.notes)

    def test_mean_is_estimated_when_it_is_missing(self, tmp_path: Path) -> None:
        network = nvidia_generator()
        del network.at("mapping").buffers["w_avg"]
        bundle = checkpoints.load(write(tmp_path / "n.pkl", self.root(G_ema=network)))
        assert bundle.provenance.inferred["mean_latent"]["samples"] == 10_000

    def remove_torgb(self, network: Module) -> None:
        del network.at("synthesis.b4").children["torgb"]

    def add_skip(self, network: Module) -> None:
        network.at("synthesis.b8.skip").tensors["weight"] = torch.ones(6, 8, 1, 1)

    def stylegan3(self, network: Module) -> None:
        network.at("synthesis.input").buffers["freqs"] = torch.ones(4, 2)

    def other_filter(self, network: Module) -> None:
        network.at("synthesis.b8").buffers["resample_filter"] = torch.ones(4, 4)

    def other_activation(self, network: Module) -> None:
        network.at("synthesis.b8.conv1").attributes["activation"] = "swish"

    def wrong_mean(self, network: Module) -> None:
        network.at("mapping").buffers["w_avg"] = torch.ones(5)

    def missing_block(self, network: Module) -> None:
        del network.at("synthesis").children["b8"]

    def endless(self, network: Module) -> None:
        network.at("synthesis").children["b8"].children["again"] = network.at("synthesis")
        network.at("synthesis").children["more"] = network.at("synthesis.b8")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (remove_torgb, "architecture 'orig'"),
            (add_skip, "architecture 'resnet'"),
            (stylegan3, "StyleGAN3 is not supported"),
            (other_filter, r"not the blur \[1, 3, 3, 1\]"),
            (other_activation, "different activation|activation the text 'swish'"),
            (wrong_mean, r"mapping.w_avg has shape \[5\]"),
            (missing_block, r"blocks for the sides \[4, 16\] px"),
            (endless, "more than 2000 layers|pickle"),
        ],
    )
    def test_refused(self, tmp_path: Path, change: Callable[[Any, Module], None], message: str) -> None:
        network = nvidia_generator()
        change(self, network)
        try:
            path = write(tmp_path / "n.pkl", self.root(G_ema=network))
        except RecursionError:
            pytest.skip("pickle cannot write it")
        with pytest.raises(CheckpointError, match=message):
            checkpoints.load(path)

    def test_other_discriminator_is_left_out(self, tmp_path: Path) -> None:
        network = nvidia_discriminator()
        for side in (16, 8):
            del network.at(f"b{side}").children["skip"]
        bundle = checkpoints.load(write(tmp_path / "n.pkl", self.root(G_ema=nvidia_generator(), D=network)))
        assert bundle.discriminator is None
        assert any("'orig'" in note for note in bundle.provenance.notes)

    def test_only_a_discriminator(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="discriminator only"):
            checkpoints.load(write(tmp_path / "n.pkl", self.root(D=nvidia_discriminator())))


def tf_network(name: str, variables: dict[str, Any], components: Any = None, **settings: Any) -> Network:
    network = Network()
    network.version, network.name, network.static_kwargs = 4, name, settings
    network.components, network.build_module_src = components or {}, "raise RuntimeError('executed')"
    network.variables = list(variables.items())
    return network


def tf_generator(**settings: Any) -> Network:
    draw, variables = Draw(), {}

    def conv(name: str, i: int, o: int, k: int) -> None:
        variables[f"{name}/weight"], variables[f"{name}/bias"] = draw(k, k, i, o).numpy(), draw(o).numpy()
        variables[f"{name}/mod_weight"], variables[f"{name}/mod_bias"] = draw(W, i).numpy(), draw(i).numpy()
        if k == 3:
            variables[f"{name}/noise_strength"] = np.float32(0.5)

    variables["4x4/Const/const"] = draw(1, 8, 4, 4).numpy()
    conv("4x4/Conv", 8, 8, 3)
    conv("4x4/ToRGB", 8, 3, 1)
    for side in (8, 16):
        conv(f"{side}x{side}/Conv0_up", CHANNELS[side // 2], CHANNELS[side], 3)
        conv(f"{side}x{side}/Conv1", CHANNELS[side], CHANNELS[side], 3)
        conv(f"{side}x{side}/ToRGB", CHANNELS[side], 3, 1)
    for index, side in enumerate((4, 8, 8, 16, 16)):
        variables[f"noise{index}"] = draw(1, 1, side, side).numpy()
    mapping = {"Dense0/weight": draw(Z, W).numpy(), "Dense0/bias": draw(W).numpy()}
    parts = {"synthesis": tf_network("G_synthesis", variables), "mapping": tf_network("G_mapping", mapping)}
    outer = {"lod": np.float32(0), "dlatent_avg": draw(W).numpy()}
    return tf_network("G", outer, parts, resolution=SIZE, num_channels=3, **settings)


def tf_discriminator(**settings: Any) -> Network:
    draw, variables = Draw(), {"lod": np.float32(0)}
    shapes = {
        "16x16/FromRGB": (1, 1, 3, 4),
        "4x4/Conv": (3, 3, 9, 8),
        "4x4/Dense0": (128, 8),
        "Output": (8, 1),
    }
    for side in (16, 8):
        width, below = CHANNELS[side], CHANNELS[side // 2]
        shapes |= {
            f"{side}x{side}/Conv0": (3, 3, width, width),
            f"{side}x{side}/Conv1_down": (3, 3, width, below),
        }
        variables[f"{side}x{side}/Skip/weight"] = draw(1, 1, width, below).numpy()
    for name, shape in shapes.items():
        variables[f"{name}/weight"], variables[f"{name}/bias"] = draw(*shape).numpy(), draw(shape[-1]).numpy()
    return tf_network("D", variables, resolution=SIZE, **settings)


class TestTensorFlow:
    def write(
        self, path: Path, settings: Tree | None = None, d_settings: Tree | None = None, protocol: int = 4
    ) -> Path:
        generator = tf_generator(**(settings or {}))
        networks = (generator, tf_discriminator(**(d_settings or {})), generator)
        return write(path / "t.pkl", networks, protocol)

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_reads(self, tmp_path: Path, protocol: int) -> None:
        settings = {"mapping_lrmul": 0.05, "truncation_psi": 0.7}
        bundle = checkpoints.load(self.write(tmp_path, settings, {"mbstd_group_size": 2}, protocol))
        config = bundle.generator.config
        assert (config.size, config.channels, config.z_dim, config.w_dim) == (SIZE, (8, 6, 4), Z, W)
        assert config.mapping_lr_multiplier == 0.05 and bundle.raw_generator is not None
        source = dict(tf_generator().components["synthesis"].variables)
        up = torch.from_numpy(source["8x8/Conv0_up/weight"])
        assert torch.equal(bundle.generator.convs[1].weight[2, 3], up[:, :, 3, 2].flip(0, 1))
        assert torch.equal(
            bundle.generator.convs[2].weight[1, 0].T,
            torch.from_numpy(source["8x8/Conv1/weight"])[:, :, 0, 1].T,
        )
        affine = bundle.generator.to_rgbs[1].affine
        assert torch.equal(affine.weight.T, torch.from_numpy(source["8x8/ToRGB/mod_weight"]))
        assert torch.equal(affine.bias, torch.from_numpy(source["8x8/ToRGB/mod_bias"]) + 1)
        assert float(bundle.generator.convs[0].noise_strength) == 0.5
        assert bundle.discriminator is not None and bundle.discriminator.config.mbstd_group == 2

    def test_deviation_group_not_stated(self, tmp_path: Path) -> None:
        """NVIDIA's converter takes the whole batch then; the note tells."""
        path = write(
            tmp_path / "t.pkl", (tf_generator(mapping_lrmul=0.01), tf_discriminator(), tf_generator())
        )
        bundle = checkpoints.load(path)
        assert bundle.discriminator is not None and bundle.discriminator.config.mbstd_group is None
        assert any("whole batch" in note for note in bundle.provenance.notes)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"architecture": "orig"}, "architecture the text 'orig'"),
            ({"architecture": "resnet"}, "architecture 'resnet'"),
            ({"nonlinearity": "relu"}, "nonlinearity the text 'relu'"),
            ({"resample_kernel": [1, 1]}, "has the blur"),
            ({"mapping_lrmul": -1}, "mapping_lrmul is -1"),
        ],
    )
    def test_settings(self, tmp_path: Path, settings: Tree, message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            checkpoints.load(self.write(tmp_path, settings))

    @pytest.mark.parametrize("version", [2, 3, None, "4"])
    def test_older_versions(self, tmp_path: Path, version: Any) -> None:
        old = tf_generator()
        old.version = version
        with pytest.raises(CheckpointError, match="ProGAN or StyleGAN"):
            checkpoints.load(write(tmp_path / "t.pkl", (tf_generator(), tf_discriminator(), old)))

    def test_lod_layers(self, tmp_path: Path) -> None:
        old = tf_generator()
        old.components["synthesis"].variables.append(("ToRGB_lod0/weight", np.ones((1, 1, 4, 3), np.float32)))
        with pytest.raises(CheckpointError, match="configurations A to D"):
            checkpoints.load(write(tmp_path / "t.pkl", (tf_generator(), tf_discriminator(), old)))

    @pytest.mark.parametrize("value", ["text", None, np.ones(3, np.int32), np.ones((2, 2), np.float32)])
    def test_odd_variables(self, tmp_path: Path, value: Any) -> None:
        old = tf_generator()
        synthesis = old.components["synthesis"]
        synthesis.variables = [
            (name, value if name == "4x4/Conv/bias" else v) for name, v in synthesis.variables
        ]
        with pytest.raises(CheckpointError, match="4x4/Conv/bias"):
            checkpoints.load(write(tmp_path / "t.pkl", (tf_generator(), tf_discriminator(), old)))
