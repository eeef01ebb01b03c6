"""State dicts of other programs: the same pictures in every layout and container; what is none is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from oneshot_core import checkpoints
from oneshot_core.checkpoints import CheckpointError, GeneratorBundle
from oneshot_core.networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from tests import other_names
from tests.other_names import State
from tests.tiny_networks import tiny_bundle

BUNDLE = tiny_bundle(size=32, seed=3)
GENERATOR, MEAN = BUNDLE.generator, BUNDLE.mean_latent
JUDGE = BUNDLE.discriminator
PLAIN = other_names.rosinality(GENERATOR)
LAYOUTS = tuple(other_names.GENERATORS)


def pictures(generator: Generator) -> Tensor:
    z = torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
    return generator.synthesize(generator.map(z), generator.constant_noise())


EXPECTED = pictures(GENERATOR)


def loaded(values: Any, folder: Path) -> GeneratorBundle:
    torch.save(values, folder / "x.pt")
    return checkpoints.load(folder / "x.pt")


def refused(values: Any, folder: Path, message: str) -> None:
    """Loading and inspection refuse alike."""
    torch.save(values, folder / "x.pt")
    for read in (checkpoints.load, checkpoints.inspect, checkpoints.detect):
        with pytest.raises(CheckpointError, match=message):
            read(folder / "x.pt")


def notes(found: GeneratorBundle) -> str:
    return " | ".join(found.provenance.notes)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def draws_the_same(found: GeneratorBundle) -> bool:
    return torch.allclose(pictures(found.generator), EXPECTED, atol=1e-5)


class TestSamePictures:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_bare_state_dict(self, layout: str, tmp_path: Path) -> None:
        found = loaded(other_names.GENERATORS[layout](GENERATOR), tmp_path)
        assert draws_the_same(found) and found.provenance.format == layout
        assert "bare state dict" in notes(found)
        state = found.generator.state_dict()
        for name, value in GENERATOR.state_dict().items():
            torch.testing.assert_close(state[name], value, msg=name)
        assert checkpoints.detect(tmp_path / "x.pt") == layout
        assert checkpoints.inspect(tmp_path / "x.pt")["size"] == 32

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_safetensors(self, layout: str, tmp_path: Path) -> None:
        state = other_names.GENERATORS[layout](GENERATOR)
        save_file(state, tmp_path / "x.safetensors", metadata={"format": "pt"})
        found = checkpoints.load(tmp_path / "x.safetensors")
        assert draws_the_same(found) and found.provenance.format == layout

    @pytest.mark.parametrize(
        ("prefix", "layout"),
        [
            ("module.", "rosinality"),
            ("_orig_mod.", "basicsr"),
            ("_orig_mod.module.", "mmgeneration"),
            ("model.", "genforce"),
            ("model.G.", "nvidia"),
            ("generator._orig_mod.", "rosinality"),
            ("net.generator_ema.", "nvidia"),
        ],
    )
    def test_prefixes(self, layout: str, prefix: str, tmp_path: Path) -> None:
        state = prefixed(other_names.GENERATORS[layout](GENERATOR), prefix)
        values = {"state_dict": state, "epoch": 3, "hyper_parameters": {"a": torch.ones(2)}}
        found = loaded(values, tmp_path)
        assert draws_the_same(found) and found.discriminator is None

    @pytest.mark.parametrize(
        ("layout", "dtype"),
        [("rosinality", torch.bfloat16), ("genforce", torch.float16), ("nvidia", torch.float64)],
    )
    def test_other_precisions(self, layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
        state = {name: v.to(dtype) for name, v in other_names.GENERATORS[layout](GENERATOR).items()}
        found = loaded({"g_ema": state}, tmp_path)
        assert found.generator.const.dtype == torch.float32
        assert torch.equal(found.generator.const, GENERATOR.const.to(dtype).float())

    def test_the_mean_latent_inside_or_beside(self, tmp_path: Path) -> None:
        state = other_names.genforce(GENERATOR) | {"truncation.w_avg": MEAN}
        for values in (
            {"generator_smooth": state},
            {"G_ema": other_names.nvidia(GENERATOR, MEAN)},
            {"state_dict": prefixed(PLAIN, "model.G."), "latent_avg": MEAN},
            {"state_dict": {**prefixed(PLAIN, "model.G."), "model.latent_avg": MEAN[None]}},
            {**PLAIN, "latent_avg": MEAN},
        ):
            found = loaded(values, tmp_path)
            assert torch.equal(found.mean_latent, MEAN) and "mean_latent" not in found.provenance.inferred

    def test_z_narrower_than_w(self, tmp_path: Path) -> None:
        """Forks have z 64 and w 512; nothing of a label can be in fewer numbers than w."""
        config = GeneratorConfig(16, (8, 8, 8), z_dim=5, w_dim=12, mapping_layers=2)
        found = loaded({"g_ema": other_names.rosinality(Generator(config))}, tmp_path)
        assert found.generator.config.z_dim == 5


class TestRoots:
    def test_three_state_dicts_of_nvidia(self, tmp_path: Path) -> None:
        assert JUDGE is not None
        other = tiny_bundle(size=32, seed=4).generator
        found = loaded(
            {
                "G": other_names.nvidia(other),
                "D": other_names.nvidia_d(JUDGE),
                "G_ema": other_names.nvidia(GENERATOR),
            },
            tmp_path,
        )
        assert draws_the_same(found) and found.discriminator is not None and found.raw_generator is not None
        assert torch.equal(found.raw_generator.const, other.const)
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(found.discriminator.score(images), JUDGE.score(images))
        assert found.provenance.inferred["conv_clamp"].startswith("not stated")

    @pytest.mark.parametrize(
        ("averaged", "plain"),
        [
            ("g_ema", "g"),
            ("G_ema", "G"),
            ("params_ema", "params"),
            ("generator_smooth", "generator"),
            ("Gs", "G"),
        ],
    )
    def test_the_averaged_generator_draws(self, averaged: str, plain: str, tmp_path: Path) -> None:
        other = other_names.basicsr(tiny_bundle(size=32, seed=4).generator)
        found = loaded({plain: other, averaged: other_names.basicsr(GENERATOR)}, tmp_path)
        assert draws_the_same(found) and found.raw_generator is not None

    def test_a_frozen_copy_is_not_taken(self, tmp_path: Path) -> None:
        other = prefixed(other_names.rosinality(tiny_bundle(size=32, seed=4).generator), "generator_frozen.")
        found = loaded({"state_dict": {**other, **prefixed(PLAIN, "generator_trainable.")}}, tmp_path)
        assert draws_the_same(found) and found.raw_generator is None
        assert "not used: state_dict.generator_frozen" in notes(found)

    def test_another_generator_without_averaging_is_left_out(self, tmp_path: Path) -> None:
        small = other_names.rosinality(tiny_bundle(size=16).generator)
        found = loaded({"g": small, "g_ema": PLAIN}, tmp_path)
        assert draws_the_same(found) and found.raw_generator is None
        assert "without averaging was left out" in notes(found)

    @pytest.mark.parametrize(
        ("beside", "kind", "format_"),
        [
            ("encoder.input_layer.0.weight", "e4e", "e4e"),
            ("hypernet.input_layer.0.weight", "HyperStyle", "rosinality"),
            ("mapper.course_mapping.mapping.1.weight", "StyleCLIP mapper", "rosinality"),
            ("something.weight", "encoder file", "rosinality"),
        ],
    )
    def test_decoders(self, beside: str, kind: str, format_: str, tmp_path: Path) -> None:
        state = prefixed(PLAIN, "decoder.") | {beside: torch.ones(2)}
        found = loaded({"state_dict": state, "latent_avg": MEAN.expand(8, -1).clone(), "opts": {}}, tmp_path)
        assert draws_the_same(found) and torch.equal(found.mean_latent, MEAN)
        assert "its decoder was taken as the generator" in notes(found)
        info = checkpoints.inspect(tmp_path / "x.pt")
        assert (info["kind"], info["format"]) == (kind, format_)

    def test_states_of_optimisers_are_passed_over(self, tmp_path: Path) -> None:
        states: dict[Any, Any] = {index: {"exp_avg": torch.ones(2)} for index in range(50)}
        values = {"g_ema": PLAIN, "g_optim": {"state": states, "param_groups": [{"lr": 1.0}]}, "iter": 3}
        assert notes(loaded(values, tmp_path)) == "not used: g_optim, iter"

    def test_endless_dicts(self, tmp_path: Path) -> None:
        """Dicts that share their parts have more paths than the file has bytes."""
        nested: dict[str, Any] = {"end": torch.ones(1)}
        for _ in range(5):
            nested = {f"part{index}": nested for index in range(40)}
        refused(nested, tmp_path, "more than 10000 tensors or 200000 entries")

    def test_two_tensors_of_one_name(self, tmp_path: Path) -> None:
        refused({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, tmp_path, r"two tensors named a\.b")


class TestDiscriminators:
    def test_foreign_layers_are_left_out(self, tmp_path: Path) -> None:
        assert JUDGE is not None
        judge = other_names.rosinality_d(JUDGE)
        for change in (
            {"attention.query.weight": torch.ones(2, 2)},
            {"final_conv.0.weight": torch.ones(3, 3, 3, 3)},
        ):
            found = loaded({"g_ema": PLAIN, "d": {**judge, **change}}, tmp_path)
            assert found.discriminator is None and "the discriminator was left out: d" in notes(found)
            assert draws_the_same(found)
            assert checkpoints.inspect(tmp_path / "x.pt")["discriminator"] is False

    @pytest.mark.parametrize("name", ["d", "D", "discriminator", "netD", "dis"])
    def test_an_unknown_layout_is_left_out(self, name: str, tmp_path: Path) -> None:
        found = loaded(
            {"G_ema": PLAIN, name: {"layer0.weight": torch.ones(2), "layer0.bias": torch.ones(2)}}, tmp_path
        )
        assert f"{name} has layers of no known layout (layer0.weight, layer0.bias)" in notes(found)

    def test_another_size_is_left_out(self, tmp_path: Path) -> None:
        judge = other_names.nvidia_d(Discriminator(DiscriminatorConfig(64, (8,) * 5)))
        found = loaded({"G_ema": other_names.nvidia(GENERATOR), "D": judge}, tmp_path)
        assert "D is made for 64 px, the generator for 32" in notes(found) and draws_the_same(found)

    def test_other_layout_than_the_generator(self, tmp_path: Path) -> None:
        assert JUDGE is not None
        values = {"generator_ema": other_names.mmgeneration(GENERATOR), "d": other_names.rosinality_d(JUDGE)}
        assert loaded(values, tmp_path).discriminator is not None

    def test_alone(self, tmp_path: Path) -> None:
        assert JUDGE is not None
        refused({"d": other_names.rosinality_d(JUDGE)}, tmp_path, "no generator, a discriminator only")


class TestPlausibility:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_lost_labels(self, layout: str, tmp_path: Path) -> None:
        z_dim = 17 if layout == "basicsr" else 24
        config = GeneratorConfig(32, (8,) * 4, z_dim=z_dim, w_dim=12, mapping_layers=2)
        state = other_names.GENERATORS[layout](Generator(config))
        refused({"g_ema": state}, tmp_path, rf"conditional network \(class labels\): .* {z_dim} numbers")

    @pytest.mark.parametrize("name", ["label_embed.weight", "embedding.weight", "class_embedding.bias"])
    def test_layers_for_labels(self, name: str, tmp_path: Path) -> None:
        refused({"g_ema": {**PLAIN, name: torch.ones(3, 12)}}, tmp_path, rf"conditional network .*{name}")

    def test_labels_of_genforce(self, tmp_path: Path) -> None:
        state = other_names.genforce(GENERATOR) | {"mapping.label_weight": torch.ones(3, 12)}
        refused({"generator_smooth": state}, tmp_path, "conditional network")

    def test_conditional_networks_with_their_labels_load(self, tmp_path: Path) -> None:
        conditional = tiny_bundle(size=16, c_dim=3).generator
        found = loaded({"G_ema": other_names.nvidia(conditional)}, tmp_path)
        assert found.generator.config == conditional.config

    @pytest.mark.parametrize(
        ("layout", "height", "width"),
        [
            ("rosinality", 4, 2),
            ("basicsr", 3, 5),
            ("mmgeneration", 2, 4),
            ("genforce", 4, 8),
            ("nvidia", 6, 4),
        ],
    )
    def test_not_square(self, layout: str, height: int, width: int, tmp_path: Path) -> None:
        state = other_names.GENERATORS[layout](GENERATOR)
        name = next(
            name for name in state if name.endswith(("const", "constant_input.weight", "input.input"))
        )
        state[name] = torch.ones(*state[name].shape[:-2], height, width)
        refused(
            {"g_ema": state}, tmp_path, rf"not square: .*{height} x {width} .*{8 * height} x {8 * width} px"
        )

    @pytest.mark.parametrize("layout", ["rosinality", "nvidia"])
    def test_larger_constant(self, layout: str, tmp_path: Path) -> None:
        state = other_names.GENERATORS[layout](GENERATOR)
        name = next(name for name in state if name.endswith(("const", "input.input")))
        state[name] = torch.ones(*state[name].shape[:-2], 8, 8)
        refused({"g_ema": state}, tmp_path, "8 x 8 points; StyleGAN2 starts from 4 x 4")


class TestOwnNamesWithoutHeader:
    def write(self, path: Path, state: State) -> Path:
        save_file(state, path, metadata={"format": "pt"})
        return path

    def test_loads_with_a_note(self, tmp_path: Path) -> None:
        path = checkpoints.save(BUNDLE, tmp_path / "a.safetensors")
        from safetensors.torch import load_file

        found = checkpoints.load(self.write(tmp_path / "b.safetensors", load_file(path)))
        assert draws_the_same(found) and torch.equal(found.mean_latent, MEAN)
        assert found.generator.config == GENERATOR.config and found.discriminator is not None
        assert found.provenance.format == "oneshot-stylegan" and "header (metadata) was lost" in notes(found)

    def test_with_labels_and_the_raw_generator(self, tmp_path: Path) -> None:
        conditional, other = (tiny_bundle(size=16, c_dim=3, seed=seed).generator for seed in (1, 2))
        state = (
            other_names.own(conditional) | other_names.own(other, "raw_generator.") | {"mean_latent": MEAN}
        )
        found = checkpoints.load(self.write(tmp_path / "x.safetensors", state))
        assert found.generator.config == conditional.config
        assert torch.equal(found.generator.const, conditional.const)
        assert found.raw_generator is not None and torch.equal(found.raw_generator.const, other.const)

    def test_a_part_is_missing(self, tmp_path: Path) -> None:
        state = other_names.own(GENERATOR)
        del state["generator.convs.2.bias"]
        with pytest.raises(CheckpointError, match=r"missing: convs\.2\.bias"):
            checkpoints.load(self.write(tmp_path / "x.safetensors", state))


class TestForeignFiles:
    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("model.diffusion_model.input_blocks.0.0.weight",), "Stable Diffusion"),
            (("lora_unet_down_blocks_0_attentions_0.lora_down.weight",), "LoRA"),
            (("synthesis.input.freqs", "synthesis.L0_36_512.weight"), "StyleGAN3"),
        ],
    )
    def test_in_torch_and_safetensors_files(
        self, names: tuple[str, ...], message: str, tmp_path: Path
    ) -> None:
        state = {name: torch.ones(2) for name in names}
        refused(state, tmp_path, message)
        refused({"state_dict": state}, tmp_path, message)
        save_file(state, tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match=message):
            checkpoints.inspect(tmp_path / "x.safetensors")

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"res.0.conv.0.weight": 2}, "DualStyleGAN"),
            ({"to_rgbs.0.iwt.ll": 2, "to_rgbs.0.iwt.lh": 2}, "SWAGAN"),
        ],
    )
    def test_a_stylegan2_inside_another_network(
        self, more: dict[str, int], message: str, tmp_path: Path
    ) -> None:
        extra = {name: torch.ones(size) for name, size in more.items()}
        refused({"g_ema": {**prefixed(PLAIN, "generator."), **extra}}, tmp_path, message)

    def test_types_that_torch_alone_knows(self, tmp_path: Path) -> None:
        state = {"model.diffusion_model.a.weight": torch.ones(2).to(torch.float8_e4m3fn)}
        save_file(state, tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match="Stable Diffusion"):
            checkpoints.inspect(tmp_path / "x.safetensors")
