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

    @pytest.mark.parametrize(("height", "width"), [(4, 2), (3, 5)])
    def test_not_square(self, tmp_path: Path, height: int, width: int) -> None:
        network = nvidia_generator()
        network.at("synthesis.b4").tensors["const"] = torch.ones(CHANNELS[4], height, width)
        message = f"not square: it grows from {height} x {width} points .* {4 * height} x {4 * width} px"
        with pytest.raises(CheckpointError, match=message) as caught:
            checkpoints.load(write(tmp_path / "n.pkl", self.root(G_ema=network)))
        assert "damaged" not in str(caught.value)

    def test_square_of_another_side(self, tmp_path: Path) -> None:
        network = nvidia_generator()
        network.at("synthesis.b4").tensors["const"] = torch.ones(CHANNELS[4], 5, 5)
        with pytest.raises(CheckpointError, match="grows from 5 x 5 points"):
            checkpoints.load(write(tmp_path / "n.pkl", self.root(G_ema=network)))

    @pytest.mark.parametrize("attributes", [{"c_dim": 3}, {"z_dim": Z - 4}])
    def test_labels_are_lost(self, tmp_path: Path, attributes: Tree) -> None:
        network = nvidia_generator()
        network.attributes = attributes
        with pytest.raises(CheckpointError, match="is conditional .* class labels"):
            checkpoints.load(write(tmp_path / "n.pkl", self.root(G_ema=network)))

    def test_other_architecture_is_not_called_damaged(self, tmp_path: Path) -> None:
        network = nvidia_generator()
        network.at("synthesis.b8.attention").tensors["query"] = torch.ones(2)
        with pytest.raises(CheckpointError, match="unexpected: synthesis.b8.attention.query") as caught:
            checkpoints.load(write(tmp_path / "n.pkl", self.root(G_ema=network)))
        assert "damaged" not in str(caught.value)

    def damaged_judge(self, network: Module) -> None:
        del network.at("b4.fc").tensors["bias"]

    def other_size(self, network: Module) -> None:
        del network.children["b16"]

    def unknown_value(self, network: Module) -> None:
        network.at("b16.conv0").attributes["conv_clamp"] = [1]

    def attention(self, network: Module) -> None:
        network.at("b8.attention").tensors["query"] = torch.ones(2)

    @pytest.mark.parametrize("change", [damaged_judge, other_size, unknown_value, attention])
    def test_what_is_odd_about_the_discriminator_is_noted(
        self, tmp_path: Path, change: Callable[[Any, Module], None]
    ) -> None:
        network = nvidia_discriminator()
        change(self, network)
        path = write(tmp_path / "n.pkl", self.root(G_ema=nvidia_generator(), D=network))
        bundle = checkpoints.load(path)
        assert bundle.discriminator is None
        (note,) = bundle.provenance.notes
        assert note.startswith("the discriminator was left out: D") and "fresh discriminator" in note
        assert checkpoints.inspect(path)["notes"] == [note]

    def test_what_is_odd_about_the_other_generator_is_noted(self, tmp_path: Path) -> None:
        network = nvidia_generator()
        del network.at("synthesis.b16").children["torgb"]
        bundle = checkpoints.load(write(tmp_path / "n.pkl", self.root(G_ema=nvidia_generator(), G=network)))
        assert bundle.raw_generator is None and "without averaging was left out" in bundle.provenance.notes[0]

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


def recoloured(network: Module, count: int) -> Module:
    """The same network with so many colours: the first ones, the last repeated."""
    for side in CHANNELS:
        layer = network.at(f"synthesis.b{side}.torgb")
        chosen = [min(index, 2) for index in range(count)]
        layer.tensors = {
            name: value[chosen] if not name.startswith("affine") else value
            for name, value in layer.tensors.items()
        }
    return network


class TestColours:
    """Networks of other colours than three draw ordinary pictures; `info` and loading agree."""

    def drawn(self, path: Path) -> torch.Tensor:
        bundle = checkpoints.load(path)
        assert bundle.generator.config.image_channels == checkpoints.inspect(path)["image_channels"] == 3
        generator = bundle.generator
        z = torch.randn(2, Z, generator=torch.Generator().manual_seed(1))
        return generator.render(generator.affine(generator.map(z)), None)

    def test_grey(self, tmp_path: Path) -> None:
        thrice = nvidia_generator()
        for side in CHANNELS:
            layer = thrice.at(f"synthesis.b{side}.torgb")
            layer.tensors["weight"] = layer.tensors["weight"][[0, 0, 0]]
            layer.tensors["bias"] = layer.tensors["bias"][[0, 0, 0]]
        expected = self.drawn(write(tmp_path / "thrice.pkl", {"G_ema": thrice}))
        network, judge = recoloured(nvidia_generator(), 1), nvidia_discriminator()
        layer = judge.at("b16.fromrgb")
        layer.tensors["weight"] = layer.tensors["weight"][:, :1]
        path = write(tmp_path / "grey.pkl", {"G_ema": network, "G": network, "D": judge})
        assert torch.equal(self.drawn(path), expected)
        bundle = checkpoints.load(path)
        assert bundle.discriminator is None and bundle.raw_generator is not None
        assert any(
            "grey pictures (1 channel)" in note and "left out" in note for note in bundle.provenance.notes
        )
        saved = checkpoints.save(bundle, tmp_path / "again.safetensors")
        assert torch.equal(self.drawn(saved), expected)

    def test_transparency(self, tmp_path: Path) -> None:
        expected = self.drawn(write(tmp_path / "plain.pkl", {"G_ema": nvidia_generator()}))
        path = write(tmp_path / "rgba.pkl", {"G_ema": recoloured(nvidia_generator(), 4)})
        assert torch.equal(self.drawn(path), expected)
        assert "4 channels" in checkpoints.inspect(path)["notes"][0]

    def test_tensorflow_grey(self, tmp_path: Path) -> None:
        network = tf_generator()
        synthesis = network.components["synthesis"]
        synthesis.variables = [
            (name, value[..., :1] if name.endswith(("ToRGB/weight", "ToRGB/bias")) else value)
            for name, value in synthesis.variables
        ]
        image = self.drawn(write(tmp_path / "t.pkl", network))
        assert torch.equal(image[:, 0], image[:, 1]) and torch.equal(image[:, 0], image[:, 2])
        colours = self.drawn(write(tmp_path / "c.pkl", tf_generator()))
        assert torch.equal(image[:, 0], colours[:, 0])

    @pytest.mark.parametrize("count", [2, 5, 12])
    def test_other_counts(self, tmp_path: Path, count: int) -> None:
        path = write(tmp_path / "n.pkl", {"G_ema": recoloured(nvidia_generator(), count)})
        for read in (checkpoints.load, checkpoints.inspect):
            with pytest.raises(CheckpointError, match=f"these would have {count}$"):
                read(path)

    def test_discriminator_of_other_colours(self, tmp_path: Path) -> None:
        judge = nvidia_discriminator()
        layer = judge.at("b16.fromrgb")
        layer.tensors["weight"] = layer.tensors["weight"][:, :1]
        bundle = checkpoints.load(write(tmp_path / "n.pkl", {"G_ema": nvidia_generator(), "D": judge}))
        assert bundle.discriminator is None
        assert "D is made for 1 colour channels, the generator for 3" in " ".join(bundle.provenance.notes)


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

    @pytest.mark.parametrize(
        "settings",
        [
            {"resolution_w": SIZE, "resolution_h": SIZE},
            {"randomize_noise": True, "dtype": "float32", "is_training": True, "truncation_psi_val": None},
            {"mapping_func": "G_mapping", "synthesis_func": "G_synthesis", "is_template_graph": False},
            {"res_log2": 3, "min_h": 4, "min_w": 4},
            {"init_res": [4, 4]},
            {"resolution_w": SIZE},
        ],
    )
    def test_settings_of_the_run(self, tmp_path: Path, settings: Tree) -> None:
        plain = checkpoints.load(self.write(tmp_path)).generator.state_dict()
        path = self.write(tmp_path, settings, settings)
        found = checkpoints.load(path)
        assert all(torch.equal(value, plain[name]) for name, value in found.generator.state_dict().items())
        assert found.discriminator is not None
        of_the_run = "randomize_noise" in settings or "mapping_func" in settings
        assert any("settings of the run" in note for note in found.provenance.notes) == of_the_run

    def test_unknown_setting_of_the_generator_is_noted(self, tmp_path: Path) -> None:
        bundle = checkpoints.load(self.write(tmp_path, {"wings\x1b[31m": 2, "tail": [[]]}))
        (note,) = [note for note in bundle.provenance.notes if "not known" in note]
        assert (
            note.startswith("Gs was built with settings that are not known: tail, wings")
            and "\x1b" not in note
        )

    def test_unknown_setting_of_the_discriminator_leaves_it_out(self, tmp_path: Path) -> None:
        bundle = checkpoints.load(self.write(tmp_path, None, {"use_spectral_norm": True}))
        assert bundle.discriminator is None
        assert "not known: use_spectral_norm" in " ".join(bundle.provenance.notes)

    @pytest.mark.parametrize(
        ("settings", "sides"),
        [
            ({"resolution_w": 16, "resolution_h": 32}, "32 x 16 px"),
            ({"resolution_w": 8}, "16 x 8 px"),
            ({"min_h": 3, "min_w": 5}, "3 x 5 points"),
            ({"init_res": (4, 2)}, "4 x 2 points"),
        ],
    )
    def test_not_square(self, tmp_path: Path, settings: Tree, sides: str) -> None:
        with pytest.raises(CheckpointError, match=f"not square: it was made for {sides}"):
            checkpoints.load(self.write(tmp_path, settings))

    def test_constant_that_is_not_square(self, tmp_path: Path) -> None:
        network = tf_generator()
        network.components["synthesis"].variables[0] = ("4x4/Const/const", np.ones((1, 8, 4, 2), np.float32))
        with pytest.raises(CheckpointError, match="not square: it grows from 4 x 2 points"):
            checkpoints.load(write(tmp_path / "t.pkl", network))

    @pytest.mark.parametrize("settings", [{"label_size": 3}, {"latent_size": Z - 4}])
    def test_labels_are_lost(self, tmp_path: Path, settings: Tree) -> None:
        with pytest.raises(CheckpointError, match="is conditional .* class labels"):
            checkpoints.load(self.write(tmp_path, settings))

    def test_labels_of_the_first_version(self, tmp_path: Path) -> None:
        network = tf_generator()
        network.components["mapping"].variables.append(("LabelConcat/weight", np.ones((3, Z), np.float32)))
        with pytest.raises(CheckpointError, match="is conditional .* class labels.*LabelConcat"):
            checkpoints.load(write(tmp_path / "t.pkl", network))

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
