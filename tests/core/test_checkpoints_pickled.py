"""Network pickles of NVIDIA's repositories and of TensorFlow: what is read, settings, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from network_pickles import (
    CHANNELS,
    LABELS,
    SIZE,
    EasyDict,
    Module,
    Tree,
    W,
    Z,
    names_of_the_repositories,
    nvidia_discriminator,
    nvidia_generator,
    tf_discriminator,
    tf_generator,
    write,
)

from oneshot_core import checkpoints
from oneshot_core.checkpoints import CheckpointError

__all__ = ["names_of_the_repositories"]  # a fixture that every test here uses


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
