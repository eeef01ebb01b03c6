"""Saving and loading of bundles: round trips, provenance, inspection, and what errors say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from oneshot_core import checkpoints
from oneshot_core.checkpoints import CheckpointError, GeneratorBundle, Provenance
from oneshot_core.networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

CONFIG = GeneratorConfig(32, (12, 12, 10, 8), z_dim=16, w_dim=16, mapping_layers=3)
D_CONFIG = DiscriminatorConfig(32, (12, 12, 10, 8))
PARENT = {"file_name": "parent.pt", "sha256": None, "family": "f"}


def make(
    config: GeneratorConfig = CONFIG,
    d_config: DiscriminatorConfig | None = D_CONFIG,
    raw: bool = False,
    seed: int = 0,
) -> GeneratorBundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(config).eval().requires_grad_(False)
        for conv in generator.convs:
            conv.noise_strength.fill_(0.1)
        discriminator = None if d_config is None else Discriminator(d_config).eval().requires_grad_(False)
        other = Generator(config).eval().requires_grad_(False) if raw else None
        mean = torch.randn(config.w_dim)
    provenance = Provenance("test", "made.pt", None, {"a": 1}, ("a note",), {"parent": PARENT, "steps": 3})
    return GeneratorBundle(generator, discriminator, other, mean, provenance)


def same(a: torch.nn.Module | None, b: torch.nn.Module | None) -> bool:
    if a is None or b is None:
        return a is b
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class TestNative:
    @pytest.mark.parametrize("raw", [False, True])
    @pytest.mark.parametrize("with_discriminator", [False, True])
    def test_round_trip_is_exact(self, tmp_path: Path, raw: bool, with_discriminator: bool) -> None:
        bundle = make(raw=raw)
        path = checkpoints.save(bundle, tmp_path / "a.safetensors", with_discriminator=with_discriminator)
        found = checkpoints.load(path)
        assert same(found.generator, bundle.generator)
        # both the raw generator and the discriminator serve training only
        assert same(found.raw_generator, bundle.raw_generator if with_discriminator else None)
        assert same(found.discriminator, bundle.discriminator if with_discriminator else None)
        assert torch.equal(found.mean_latent, bundle.mean_latent)
        assert found.generator.config == CONFIG and found.family == bundle.family
        w = bundle.generator.map(torch.ones(2, 16))
        noise = bundle.generator.constant_noise()
        assert torch.equal(found.generator.synthesize(w, noise), bundle.generator.synthesize(w, noise))

    def test_networks_are_ready_to_use(self, tmp_path: Path) -> None:
        """Ordinary tensors without gradients, in eval mode, even when loaded inside inference mode."""
        checkpoints.save(make(raw=True), tmp_path / "a.safetensors")
        with torch.inference_mode():
            found = checkpoints.load(tmp_path / "a.safetensors")
        for network in (found.generator, found.raw_generator, found.discriminator):
            assert network is not None and not network.training
            for parameter in network.parameters():
                assert not parameter.requires_grad and not parameter.is_inference()
        assert not found.mean_latent.is_inference()

    def test_unusual_configuration(self, tmp_path: Path) -> None:
        config = GeneratorConfig(
            16, (6, 5, 4), z_dim=7, w_dim=9, c_dim=3, mapping_layers=2, mapping_lr_multiplier=0.1,
            mapping_width=11, label_width=5, conv_clamp=2.5,
        )  # fmt: skip
        d_config = DiscriminatorConfig(
            16,
            (6, 5, 4),
            c_dim=3,
            cmap_dim=5,
            mapping_layers=2,
            mbstd_group=None,
            conv_clamp=1.0,
        )
        bundle = make(config, d_config)
        found = checkpoints.load(checkpoints.save(bundle, tmp_path / "a.safetensors"))
        assert found.generator.config == config
        assert found.discriminator is not None and found.discriminator.config == d_config
        assert same(found.generator, bundle.generator) and same(found.discriminator, bundle.discriminator)

    def test_float16(self, tmp_path: Path) -> None:
        bundle = make()
        full = checkpoints.save(bundle, tmp_path / "a.safetensors")
        half = checkpoints.save(bundle, tmp_path / "b.safetensors", dtype="float16")
        assert half.stat().st_size < 0.7 * full.stat().st_size
        found = checkpoints.load(half)
        assert found.family == bundle.family, "a smaller file must not make a stranger of a generator"
        assert torch.equal(found.mean_latent, bundle.mean_latent)
        for name, value in found.generator.state_dict().items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, bundle.generator.state_dict()[name], rtol=1e-3, atol=1e-6)

    def test_float16_overflow(self, tmp_path: Path) -> None:
        bundle = make()
        bundle.generator.const.fill_(1e6)
        with pytest.raises(ValueError, match="generator.const has values beyond the range of float16"):
            checkpoints.save(bundle, tmp_path / "a.safetensors", dtype="float16")
        assert list(tmp_path.iterdir()) == []

    def test_header(self, tmp_path: Path) -> None:
        path = checkpoints.save(make(), tmp_path / "a.safetensors")
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["oneshot"])
        assert header["format"] == "oneshot-stylegan" and header["format_version"] == 1
        assert header["generator"] == CONFIG.to_dict() and header["discriminator"] == D_CONFIG.to_dict()
        assert header["provenance"]["history"] == {"parent": PARENT, "steps": 3}

    def test_provenance(self, tmp_path: Path) -> None:
        first = checkpoints.save(make(), tmp_path / "a.safetensors")
        found = checkpoints.load(first).provenance
        assert (found.format, found.file_name) == ("oneshot-stylegan", "a.safetensors")
        assert found.sha256 == hashlib.sha256(first.read_bytes()).hexdigest()
        assert found.inferred == {"a": 1} and found.notes == ("a note",)
        origin = {"format": "test", "file_name": "made.pt", "sha256": None}
        assert found.history == {"origin": origin, "parent": PARENT, "steps": 3}
        second = checkpoints.load(checkpoints.save(checkpoints.load(first), tmp_path / "b.safetensors"))
        assert second.provenance.history["origin"] == origin, "the first origin is kept"

    def test_same_bundle_same_file(self, tmp_path: Path) -> None:
        a = checkpoints.save(make(), tmp_path / "a.safetensors").read_bytes()
        assert a == checkpoints.save(make(), tmp_path / "b.safetensors").read_bytes()

    def test_expected_digest(self, tmp_path: Path) -> None:
        path = checkpoints.save(make(), tmp_path / "a.safetensors")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert checkpoints.load(path, expected_sha256=digest.upper()).provenance.sha256 == digest
        with pytest.raises(CheckpointError, match=f"SHA-256 {digest}, expected 00"):
            checkpoints.load(path, expected_sha256="00")

    def test_failed_write_keeps_the_old_file(self, tmp_path: Path) -> None:
        path = checkpoints.save(make(), tmp_path / "a.safetensors")
        before = path.read_bytes()
        bad = dataclasses.replace(make(seed=1), provenance=Provenance("test", "x", history={"a": object()}))
        with pytest.raises(ValueError, match="not JSON"):
            checkpoints.save(bad, path)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]

    def test_loading_leaves_the_random_state_alone(self, tmp_path: Path) -> None:
        path = checkpoints.save(make(), tmp_path / "a.safetensors")
        torch.manual_seed(5)
        expected = torch.randn(3)
        torch.manual_seed(5)
        checkpoints.load(path)
        assert torch.equal(torch.randn(3), expected)

    def test_bad_arguments(self, tmp_path: Path) -> None:
        for settings in ({"format": "onnx"}, {"dtype": "int8"}, {"format": "rosinality", "dtype": "float16"}):
            with pytest.raises(ValueError, match="onnx|int8|float16"):
                checkpoints.save(make(), tmp_path / "a", **settings)
        assert list(tmp_path.iterdir()) == []


class TestDamagedNative:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return checkpoints.save(make(), tmp_path / "a.safetensors")

    def rewritten(
        self, path: Path, header: dict[str, Any] | None = None, **tensors: torch.Tensor | None
    ) -> Path:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["oneshot"])
        values = {**load_file(path), **{name.replace("__", "."): value for name, value in tensors.items()}}
        kept = {name: value for name, value in values.items() if value is not None}
        save_file(kept, path, {"oneshot": json.dumps({**metadata, **(header or {})})})
        return path

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ({"format": "oneshot-latent"}, "is no generator but a latent of this project; .* read it"),
            (
                {"format": "oneshot-wings"},
                "'oneshot-wings'; a generator of this project has 'oneshot-stylegan'",
            ),
            ({"format": 3}, "damaged header .*format must be a text"),
            ({"format_version": "1"}, "damaged header .*format_version must be a whole number"),
            ({"format_version": 2}, "format_version 2; this program knows 1"),
            ({"generator": {**CONFIG.to_dict(), "wings": 2}}, "wings"),
            ({"generator": {**CONFIG.to_dict(), "size": 48}}, "power of two"),
            ({"generator": None}, "damaged header"),
            ({"provenance": {}}, "damaged header"),
            ({"provenance": {**make().provenance.to_dict(), "notes": [3]}}, "damaged header"),
            ({"generator": {**CONFIG.to_dict(), "w_dim": 20}}, "wrong: "),
        ],
    )
    def test_header(self, path: Path, header: dict[str, Any], message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as caught:
            checkpoints.load(self.rewritten(path, header))
        assert str(caught.value).startswith(str(path))

    def test_missing_unexpected_and_wrong_weights(self, path: Path) -> None:
        self.rewritten(
            path,
            generator__const=None,
            generator__extra=torch.ones(1),
            generator__convs__0__bias=torch.ones(3),
        )
        with pytest.raises(CheckpointError) as caught:
            checkpoints.load(path)
        for part in (
            "missing: generator.const",
            "unexpected: generator.extra",
            "convs.0.bias [3] instead of [12]",
        ):
            assert part in str(caught.value)

    def test_whole_numbers(self, path: Path) -> None:
        with pytest.raises(CheckpointError, match="type torch.int64, allowed are floating-point"):
            checkpoints.load(self.rewritten(path, generator__const=torch.ones(12, 4, 4, dtype=torch.int64)))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("name", ["generator__convs__1__bias", "mean_latent"])
    def test_not_finite(self, path: Path, value: float, name: str) -> None:
        current = load_file(path)[name.replace("__", ".")]
        with pytest.raises(CheckpointError, match="not finite"):
            checkpoints.load(self.rewritten(path, **{name: torch.full_like(current, value)}))

    def test_foreign_safetensors(self, tmp_path: Path) -> None:
        save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
        with pytest.raises(
            CheckpointError, match="no generator in the layout of a known program: .* called a;"
        ):
            checkpoints.load(tmp_path / "x.safetensors")

    def test_truncated(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(CheckpointError, match="no sound safetensors"):
            checkpoints.load(path)

    def test_missing(self, tmp_path: Path) -> None:
        for action in (checkpoints.load, checkpoints.inspect, checkpoints.detect):
            with pytest.raises(CheckpointError, match="none.pkl: cannot be read: No such file"):
                action(tmp_path / "none.pkl")


class TestTensorFiles:
    """The container that other parts of the engine use for their own files."""

    def test_round_trip(self, tmp_path: Path) -> None:
        tensors = {"a": torch.randn(3, 4).T, "b": torch.ones(2).half(), "c": torch.arange(3)}
        header = {"format": "oneshot-latent", "format_version": 3, "x": [1, None, "\u00e9"]}
        path = checkpoints.write_tensors(tmp_path / "deep" / "x.safetensors", tensors, header)
        found, read = checkpoints.read_tensors(path)
        assert read == header and found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        path.write_bytes(b"")  # what was read does not depend on the file any more
        assert torch.equal(found["a"], tensors["a"])

    def test_header_needs_a_format(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="needs format"):
            checkpoints.write_tensors(tmp_path / "x.safetensors", {}, {"format": "x"})


class TestBundle:
    def test_family(self) -> None:
        bundle = make()
        assert len(bundle.family) == 64 and bundle.family == make().family
        assert bundle.family != make(seed=1).family
        adapted = make()
        adapted.generator.const.add_(1.0)
        adapted.generator.convs[0].affine.weight.mul_(2.0)
        assert adapted.family == bundle.family, "what adaptation changes is no part of the family"
        assert dataclasses.replace(bundle, generator=make().generator.double()).family == bundle.family

    def test_sizes(self) -> None:
        assert (make().size, make().num_layers) == (32, 8)

    def test_mean_latent_estimate(self) -> None:
        generator = make().generator
        first = checkpoints.estimate_mean_latent(generator, 2500)
        assert torch.equal(first, checkpoints.estimate_mean_latent(generator, 2500))
        assert not torch.equal(first, checkpoints.estimate_mean_latent(generator, 2500, seed=1))
        reference = generator.map_single(
            torch.randn(50_000, 16, generator=torch.Generator().manual_seed(3))
        ).mean(0)
        torch.testing.assert_close(first, reference, atol=0.1 * float(reference.std()), rtol=0.1)

    def test_mean_latent_of_a_conditional_generator(self) -> None:
        config = dataclasses.replace(CONFIG, c_dim=3)
        assert checkpoints.estimate_mean_latent(make(config).generator, 100).shape == (16,)


class TestInspect:
    def test_own_format(self, tmp_path: Path) -> None:
        path = checkpoints.save(make(raw=True), tmp_path / "a.safetensors")
        found = checkpoints.inspect(path)
        assert json.loads(json.dumps(found)) == found
        assert found["format"] == checkpoints.detect(path) == "oneshot-stylegan"
        assert found["size"] == 32 and found["channels"] == {"4": 12, "8": 12, "16": 10, "32": 8}
        assert found["raw_generator"] is True and found["discriminator"] == D_CONFIG.to_dict()
        assert found["bytes"] == path.stat().st_size
        expected = sum(value.numel() for value in make().generator.state_dict().values())
        assert found["parameters"]["generator"] == expected

    def test_without_discriminator(self, tmp_path: Path) -> None:
        path = checkpoints.save(make(), tmp_path / "a.safetensors", with_discriminator=False)
        assert checkpoints.inspect(path)["discriminator"] is False


def test_a_bundle_is_copied_to_a_device() -> None:
    bundle = make(raw=True)
    moved = bundle.to("meta")
    for network in (moved.generator, moved.discriminator, moved.raw_generator):
        assert network is not None and all(value.is_meta for value in network.state_dict().values())
    assert not any(value.is_meta for value in bundle.generator.state_dict().values())
    assert moved.mean_latent is bundle.mean_latent


class TestFreshDiscriminator:
    def test_it_has_the_generators_widths_and_seeded_normal_weights(self) -> None:
        bundle = make(GeneratorConfig(32, (40, 32, 24, 16), z_dim=16, w_dim=16, conv_clamp=256.0), None)
        state = torch.get_rng_state()
        found = checkpoints.with_fresh_discriminator(bundle, seed=3)
        assert torch.equal(state, torch.get_rng_state())
        assert found.discriminator is not None and found.generator is bundle.generator
        assert found.discriminator.config == DiscriminatorConfig(32, (40, 32, 24, 16), conv_clamp=256.0)
        weights = {name: value for name, value in found.discriminator.named_parameters()}
        drawn = torch.cat([value.flatten() for name, value in weights.items() if name.endswith("weight")])
        assert abs(float(drawn.mean())) < 0.02 and abs(float(drawn.std()) - 1) < 0.02
        assert not any(value.any() for name, value in weights.items() if name.endswith("bias"))
        assert not any(value.requires_grad for value in weights.values())
        scores = found.discriminator.score(torch.randn(4, 3, 32, 32))
        assert scores.shape == (4, 1) and float(scores.abs().max()) < 10  # of a sane magnitude
        assert same(found.discriminator, checkpoints.with_fresh_discriminator(bundle, 3).discriminator)
        assert not same(found.discriminator, checkpoints.with_fresh_discriminator(bundle, 4).discriminator)

    def test_provenance_says_so_and_the_file_keeps_it(self, tmp_path: Path) -> None:
        found = checkpoints.with_fresh_discriminator(make(d_config=None), seed=3)
        assert found.provenance.notes == ("a note", "fresh discriminator (seed 3, not trained)")
        again = checkpoints.load(checkpoints.save(found, tmp_path / "fresh.safetensors"))
        assert same(again.discriminator, found.discriminator)
        assert any("fresh discriminator (seed 3" in note for note in again.provenance.notes)

    def test_it_replaces_a_discriminator_and_follows_dtype_and_inference_mode(self) -> None:
        bundle = make()
        bundle.generator.double()
        with torch.inference_mode():
            found = checkpoints.with_fresh_discriminator(bundle)
        assert found.discriminator is not None and not same(found.discriminator, bundle.discriminator)
        values = found.discriminator.state_dict().values()
        assert all(value.dtype == torch.float64 and not value.is_inference() for value in values)

    def test_conditional_generators_are_refused(self) -> None:
        config = dataclasses.replace(CONFIG, c_dim=3)
        with pytest.raises(ValueError, match="conditional generator \\(3 classes\\)"):
            checkpoints.with_fresh_discriminator(make(config, None))
