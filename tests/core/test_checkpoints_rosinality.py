"""rosinality-style files: dialects are read, what is written loads in torch and under the original names."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oneshot_core import checkpoints
from oneshot_core.checkpoints import CheckpointError, GeneratorBundle, Provenance, rosinality
from oneshot_core.networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

SIZE, WIDTHS, STYLE, LAYERS = 32, (12, 12, 10, 8), 16, 3
CONFIG = GeneratorConfig(SIZE, WIDTHS, z_dim=STYLE, w_dim=STYLE, mapping_layers=LAYERS)
D_CONFIG = DiscriminatorConfig(SIZE, WIDTHS)


@pytest.fixture(scope="module")
def bundle() -> GeneratorBundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = [Generator(CONFIG), Generator(CONFIG), Discriminator(D_CONFIG)]
        mean = torch.randn(STYLE)
    for network in networks:
        network.eval().requires_grad_(False)
    ema, raw, discriminator = networks
    return GeneratorBundle(ema, discriminator, raw, mean, Provenance("test", "x"))


def original_shapes(widths: tuple[int, ...], style: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of rosinality's Generator, written down from the reference, not from the writer."""
    shapes: dict[str, tuple[int, ...]] = {"input.input": (1, widths[0], 4, 4)}
    for index in range(1, layers + 1):
        shapes[f"style.{index}.weight"], shapes[f"style.{index}.bias"] = (style, style), (style,)

    def conv(name: str, inputs: int, outputs: int, kernel: int) -> None:
        shapes[f"{name}.conv.weight"] = (1, outputs, inputs, kernel, kernel)
        shapes[f"{name}.conv.modulation.weight"] = (inputs, style)
        shapes[f"{name}.conv.modulation.bias"] = (inputs,)

    def styled(name: str, inputs: int, outputs: int) -> None:
        conv(name, inputs, outputs, 3)
        shapes[f"{name}.noise.weight"], shapes[f"{name}.activate.bias"] = (1,), (outputs,)

    styled("conv1", widths[0], widths[0])
    conv("to_rgb1", widths[0], 3, 1)
    shapes["to_rgb1.bias"] = (1, 3, 1, 1)
    for level, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        styled(f"convs.{2 * level}", inputs, outputs)
        styled(f"convs.{2 * level + 1}", outputs, outputs)
        conv(f"to_rgbs.{level}", outputs, 3, 1)
        shapes[f"to_rgbs.{level}.bias"] = (1, 3, 1, 1)
        shapes[f"convs.{2 * level}.conv.blur.kernel"] = shapes[f"to_rgbs.{level}.upsample.kernel"] = (4, 4)
    for index in range(2 * len(widths) - 1):
        side = 2 ** ((index + 5) // 2)
        shapes[f"noises.noise_{index}"] = (1, 1, side, side)
    return shapes


def equal(network: torch.nn.Module | None, other: torch.nn.Module | None) -> bool:
    assert network is not None and other is not None
    ours, theirs = network.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def written(bundle: GeneratorBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(bundle, tmp_path_factory.mktemp("pt") / "x.pt", format="rosinality")


class TestWriting:
    def test_names_and_shapes(self, written: Path) -> None:
        values = torch.load(written, weights_only=True)  # an independent reader
        assert list(values) == ["g_ema", "g", "d", "latent_avg"]
        expected = original_shapes(WIDTHS, STYLE, LAYERS)
        for label in ("g_ema", "g"):
            assert {name: tuple(value.shape) for name, value in values[label].items()} == expected
            assert all(value.dtype == torch.float32 for value in values[label].values())
        row = torch.tensor([1.0, 3.0, 3.0, 1.0])
        blur = torch.outer(row, row) / 64
        assert torch.equal(values["g_ema"]["convs.0.conv.blur.kernel"], 4 * blur)
        assert torch.equal(values["g_ema"]["to_rgbs.1.upsample.kernel"], 4 * blur)
        assert torch.equal(values["d"]["convs.1.conv2.0.kernel"], blur)
        assert torch.equal(values["d"]["convs.3.skip.0.kernel"], blur)
        assert values["d"]["final_linear.1.weight"].shape == (1, 12)

    def test_reads_back_exactly(self, written: Path, bundle: GeneratorBundle) -> None:
        found = checkpoints.load(written)
        assert equal(found.generator, bundle.generator) and equal(found.raw_generator, bundle.raw_generator)
        assert equal(found.discriminator, bundle.discriminator)
        assert torch.equal(found.mean_latent, bundle.mean_latent)
        assert found.provenance.format == "rosinality" and found.family == bundle.family

    def test_without_discriminator(self, bundle: GeneratorBundle, tmp_path: Path) -> None:
        path = checkpoints.save(bundle, tmp_path / "x.pt", format="rosinality", with_discriminator=False)
        assert "d" not in torch.load(path, weights_only=True)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"c_dim": 3}, "conditional"),
            ({"conv_clamp": 256.0}, "conv_clamp 256.0"),
            ({"mapping_lr_multiplier": 0.1}, "mapping learning rate 0.1"),
            ({"z_dim": 20}, "mapping widths that differ"),
            ({"mapping_width": 20}, "mapping widths that differ"),
            ({"image_channels": 4}, "4 image channels"),
        ],
    )
    def test_not_expressible(
        self, bundle: GeneratorBundle, tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        other = dataclasses.replace(bundle, generator=Generator(dataclasses.replace(CONFIG, **change)))
        with pytest.raises(CheckpointError, match=message):
            checkpoints.save(other, tmp_path / "x.pt", format="rosinality")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mbstd_group": None}, "deviation groups of None"),
            ({"conv_clamp": 1.0}, "without the discriminator"),
        ],
    )
    def test_discriminator_not_expressible(
        self, bundle: GeneratorBundle, tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        network = Discriminator(dataclasses.replace(D_CONFIG, **change))
        other = dataclasses.replace(bundle, discriminator=network)
        with pytest.raises(CheckpointError, match=message):
            checkpoints.save(other, tmp_path / "x.pt", format="rosinality")
        checkpoints.save(other, tmp_path / "x.pt", format="rosinality", with_discriminator=False)

    def test_narrow_widths_are_mentioned(
        self, bundle: GeneratorBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            checkpoints.save(bundle, tmp_path / "x.pt", format="rosinality")
        assert "only programs that read widths" in caplog.text


class TestDialects:
    @pytest.fixture
    def state(self, bundle: GeneratorBundle) -> dict[str, Tensor]:
        return rosinality.generator_state(bundle.generator)

    def load(self, values: Any, tmp_path: Path, legacy: bool = False) -> GeneratorBundle:
        torch.save(values, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        return checkpoints.load(tmp_path / "x.pt")

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("prefix", ["", "module."])
    @pytest.mark.parametrize("bare", [False, True])
    def test_layout(
        self,
        state: dict[str, Tensor],
        bundle: GeneratorBundle,
        tmp_path: Path,
        legacy: bool,
        prefix: str,
        bare: bool,
    ) -> None:
        named = {prefix + name: value for name, value in state.items()}
        found = self.load(named if bare else {"g_ema": named}, tmp_path, legacy)
        assert equal(found.generator, bundle.generator)
        estimate = found.provenance.inferred["mean_latent"]
        assert estimate["seed"] == 0 and estimate["samples"] == 10_000
        assert torch.equal(found.mean_latent, checkpoints.estimate_mean_latent(bundle.generator))

    def test_only_g(self, state: dict[str, Tensor], bundle: GeneratorBundle, tmp_path: Path) -> None:
        found = self.load({"g": state}, tmp_path)
        assert equal(found.generator, bundle.generator) and found.raw_generator is None

    def test_training_file(self, bundle: GeneratorBundle, tmp_path: Path) -> None:
        assert bundle.raw_generator is not None and bundle.discriminator is not None
        values = {
            "g": rosinality.generator_state(bundle.raw_generator),
            "d": rosinality.discriminator_state(bundle.discriminator),
            "g_ema": rosinality.generator_state(bundle.generator),
            "g_optim": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
            "args": argparse.Namespace(size=SIZE, arch="stylegan2"),
            "ada_aug_p": torch.tensor(0.3),
        }
        found = self.load(values, tmp_path)
        assert equal(found.generator, bundle.generator) and equal(found.raw_generator, bundle.raw_generator)
        assert equal(found.discriminator, bundle.discriminator)
        assert checkpoints.inspect(tmp_path / "x.pt")["kind"] == "rosinality training"

    def test_e4e(self, state: dict[str, Tensor], bundle: GeneratorBundle, tmp_path: Path) -> None:
        parts = {f"decoder.{name}": value for name, value in state.items()} | {"encoder.input": torch.ones(3)}
        mean = bundle.mean_latent.expand(CONFIG.num_layers, -1).clone()
        found = self.load({"state_dict": parts, "latent_avg": mean, "opts": {"device": "cuda"}}, tmp_path)
        assert found.provenance.format == checkpoints.detect(tmp_path / "x.pt") == "e4e"
        assert equal(found.generator, bundle.generator) and torch.equal(found.mean_latent, bundle.mean_latent)

    @pytest.mark.parametrize("shape", [(STYLE,), (1, STYLE), (CONFIG.num_layers, STYLE)])
    def test_mean_latent_shapes(
        self, state: dict[str, Tensor], tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        mean = torch.randn(STYLE)
        assert torch.equal(
            self.load({"g_ema": state, "latent_avg": mean.expand(shape)}, tmp_path).mean_latent, mean
        )

    def test_missing_noise(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        without = {name: value for name, value in state.items() if not name.startswith("noises.")}
        first, second = self.load({"g_ema": without}, tmp_path), self.load({"g_ema": without}, tmp_path)
        assert equal(first.generator, second.generator), "the made-up noise is always the same"
        assert float(first.generator.constant_noise()[-1].std()) == pytest.approx(1, abs=0.1)
        assert any("noise" in note for note in first.provenance.notes)

    def test_missing_and_extra_kernels(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        plain = {name: value for name, value in state.items() if "kernel" not in name}
        plain["convs.1.conv.blur.kernel"] = state["convs.0.conv.blur.kernel"]
        self.load({"g_ema": plain}, tmp_path)

    def test_half_precision(self, state: dict[str, Tensor], bundle: GeneratorBundle, tmp_path: Path) -> None:
        found = self.load({"g_ema": {name: value.half() for name, value in state.items()}}, tmp_path)
        assert found.generator.const.dtype == torch.float32
        assert torch.equal(found.generator.const, bundle.generator.const.half().float())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"convs.3.conv.weight": None}, "missing: convs.3.conv.weight"),
            ({"swagan.weight": torch.ones(2)}, "unexpected: swagan.weight"),
            (
                {"convs.3.conv.weight": torch.ones(1, 10, 11, 3, 3)},
                r"\[1, 10, 11, 3, 3\] instead of \[1, 10, 10, 3",
            ),
            ({"noises.noise_2": None}, "missing: noises.noise_2"),
            ({"conv1.noise.weight": torch.ones(1, dtype=torch.int32)}, "type torch.int32"),
            ({"convs.0.conv.blur.kernel": torch.ones(4, 4)}, r"not the blur \[1, 3, 3, 1\]"),
            ({"convs.0.conv.blur.kernel": torch.ones(3, 3)}, r"not the blur \[1, 3, 3, 1\]"),
            ({"style.2.weight": None}, "style.2.weight is missing"),
            ({"input.input": None}, "input.input is missing"),
            ({"conv1.activate.bias": torch.full((12,), float("nan"))}, "conv1.activate.bias holds numbers"),
        ],
    )
    def test_damaged_network(
        self, state: dict[str, Tensor], tmp_path: Path, change: dict[str, Tensor | None], message: str
    ) -> None:
        changed = {name: value for name, value in {**state, **change}.items() if value is not None}
        with pytest.raises(CheckpointError, match=message) as caught:
            self.load({"g_ema": changed}, tmp_path)
        assert "x.pt: " in str(caught.value)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"init_w": torch.ones(1, 16)}, "a latent code"),
            ({"d": {"a": torch.ones(1)}}, "has no generator"),
            ({"weights": torch.ones(1)}, "no generator in the layout of a known program: .* called weights;"),
            ({"g_ema": torch.ones(1)}, "called g_ema;"),
            ({"g_ema": {}}, "no named tensors at all"),
            ({"g_ema": {3: torch.ones(1)}}, r"no named tensors at all \(it holds g_ema\)"),
            ({"state_dict": {"a.proj": torch.ones(1)}}, r"called state_dict\.a\.proj;"),
            ([torch.ones(1)], "no networks"),
        ],
    )
    def test_other_files(self, values: Any, message: str, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=message):
            self.load(values, tmp_path)

    def test_mean_latent_of_another_width(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"latent_avg has shape \[8\], expected \[16\]"):
            self.load({"g_ema": state, "latent_avg": torch.ones(8)}, tmp_path)

    def test_networks_of_different_sizes(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        small = rosinality.discriminator_state(Discriminator(DiscriminatorConfig(16, (12, 12, 10))))
        found = self.load({"g_ema": state, "d": small}, tmp_path)
        assert found.discriminator is None
        assert any("d is made for 16 px, the generator for 32" in note for note in found.provenance.notes)

    def test_endless_repetition(self, tmp_path: Path) -> None:
        """Names and shapes of a network a hundred times any real one, in a file of a few kilobytes."""
        shapes = original_shapes((4096,) * 4, 512, 8)
        values = {"g_ema": {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}}
        with pytest.raises(CheckpointError, match="repeat few numbers endlessly"):
            self.load(values, tmp_path)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ((512,) * 4, None),
        ((512, 512, 512, 512, 256), 1),
        ((512, 512, 512, 512, 512, 256, 128, 64, 32), 2),
        ((512, 512, 512, 512, 128, 64), 0.5),
        ((512, 512, 512, 512, 512, 256, 100), None),
        ((64,) * 6, None),
    ],
)
def test_channel_multiplier(channels: tuple[int, ...], expected: float | None) -> None:
    assert rosinality.channel_multiplier(channels) == expected
