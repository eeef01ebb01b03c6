"""Checkpoints of the original programs: every layout is recognised, networks give the recorded values."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_support import cases, check_weights, describe, golden_dir, tensors_of
from torch import Tensor

from oneshot_core import checkpoints
from oneshot_core.checkpoints import CheckpointError, GeneratorBundle, nvidia, rosinality
from oneshot_core.networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

pytestmark = pytest.mark.golden

IMAGE_TOLERANCE = 1e-4
LATENT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-2  # relative L2


@cache
def loaded(path: Path) -> GeneratorBundle:
    return checkpoints.load(path)


def close(found: Tensor, recorded: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, recorded, rtol=0, atol=tolerance)


def truncated(bundle: GeneratorBundle, ws: Tensor, psi: float, cutoff: int | None) -> Tensor:
    ws = ws.clone()
    ws[:, :cutoff] = torch.lerp(bundle.mean_latent, ws[:, :cutoff], psi)
    return ws


def noise(generator: Generator, mode: str) -> list[Tensor] | None:
    return generator.constant_noise() if mode == "const" else None


def check_outputs(bundle: GeneratorBundle, tensors: dict[str, Tensor]) -> int:
    """Compare every recorded output of mapping and synthesis; return how many there were."""
    generator = bundle.generator
    ws = generator.map(tensors["in.z"], tensors.get("in.c"))
    count = 0
    for name, recorded in tensors.items():
        parts = re.fullmatch(
            r"out\.(ws|img)(?:_psi(\d+(?:\.\d+)?))?(?:_cutoff(\d+))?(?:\.(const|none))?", name
        )
        if not parts:
            continue
        kind, psi, cutoff, mode = parts.groups()
        latent = ws if psi is None else truncated(bundle, ws, float(psi), int(cutoff) if cutoff else None)
        if kind == "ws":
            close(latent, recorded, LATENT_TOLERANCE)
        else:
            latent = latent[: len(recorded)]  # of large batches, a small set holds the first pictures only
            assert len(latent) == len(recorded) > 0
            close(generator.synthesize(latent, noise(generator, mode or "const")), recorded, IMAGE_TOLERANCE)
        count += 1
    return count


def check_logits(bundle: GeneratorBundle, tensors: dict[str, Tensor]) -> int:
    assert bundle.discriminator is not None
    count = 0
    for name, recorded in tensors.items():
        if parts := re.fullmatch(r"out\.logits\.b(\d+)", name):
            first = slice(0, int(parts[1]))
            labels = tensors["in.c"][first] if "in.c" in tensors else None
            close(bundle.discriminator.score(tensors["in.dimg"][first], labels), recorded, LATENT_TOLERANCE)
            count += 1
    return count


def unsupported(description: dict[str, Any]) -> str | None:
    """Tell from the recorded names which architecture a file has, None for the supported one."""
    names = description["contents"]["G_ema"]["tensors"]
    if any(name.startswith("synthesis.input.") for name in names):
        return "StyleGAN3"
    if any(re.fullmatch(r"synthesis\.b\d+\.skip\.weight", name) for name in names):
        return "resnet"
    return None if "synthesis.b4.torgb.weight" in names else "orig"


SUPPORTED = cases("nv_*.json", lambda description: unsupported(description) is None)
UNSUPPORTED = cases("nv_*.json", lambda description: unsupported(description) is not None)


class TestNvidia:
    """Files of the two PyTorch repositories, section 5 of the fixtures' README."""

    @pytest.fixture
    def bundle(self, path: Path) -> GeneratorBundle:
        return loaded(path.with_suffix(".pkl"))

    @pytest.mark.parametrize("path", UNSUPPORTED)
    def test_unsupported_architecture(self, path: Path) -> None:
        for action in (checkpoints.load, checkpoints.inspect, checkpoints.detect):
            with pytest.raises(CheckpointError, match=unsupported(describe(path))):
                action(path.with_suffix(".pkl"))

    @pytest.mark.parametrize("path", SUPPORTED)
    def test_detected(self, path: Path) -> None:
        assert checkpoints.detect(path.with_suffix(".pkl")) == "nvidia"

    @pytest.mark.parametrize("path", SUPPORTED)
    def test_configuration(self, path: Path, bundle: GeneratorBundle) -> None:
        contents = describe(path)["contents"]
        stated = contents["G_ema"]["init_kwargs"]
        config = bundle.generator.config
        for ours, theirs in (
            ("z_dim", "z_dim"),
            ("w_dim", "w_dim"),
            ("c_dim", "c_dim"),
            ("size", "img_resolution"),
        ):
            assert getattr(config, ours) == stated[theirs]
        settings = {**stated, **stated.get("synthesis_kwargs", {})}
        flat = "synthesis_kwargs" not in stated
        assert config.conv_clamp == settings.get("conv_clamp", 256 if flat else None)
        assert config.mapping_layers == stated.get("mapping_kwargs", {}).get("num_layers", 8)
        epilogue = contents["D"]["init_kwargs"].get("epilogue_kwargs", {})
        assert bundle.discriminator is not None and bundle.raw_generator is not None
        assert bundle.discriminator.config.mbstd_group == epilogue.get("mbstd_group_size", 4)

    @pytest.mark.parametrize("path", SUPPORTED)
    def test_every_weight(self, path: Path, bundle: GeneratorBundle) -> None:
        contents = describe(path)["contents"]
        assert bundle.discriminator is not None and bundle.raw_generator is not None
        tables = {
            "G_ema": (bundle.generator, nvidia.generator_table(bundle.generator.config)),
            "G": (bundle.raw_generator, nvidia.generator_table(bundle.generator.config)),
            "D": (bundle.discriminator, nvidia.discriminator_table(bundle.discriminator.config)),
        }
        for label, (network, table) in tables.items():
            state = {table[name].name: value for name, value in network.state_dict().items()}
            if label == "G_ema":
                state["mapping.w_avg"] = bundle.mean_latent
            checks = contents[label]["checks"]
            check_weights(state, {name: check for name, check in checks.items() if name in state})
            rest = {name for name in checks if name not in state and not name.endswith("resample_filter")}
            assert rest <= {"mapping.w_avg"}

    @pytest.mark.parametrize("path", SUPPORTED)
    def test_generator(self, path: Path, bundle: GeneratorBundle) -> None:
        tensors = tensors_of(path)
        assert check_outputs(bundle, tensors) >= 6
        wplus = tensors["in.wplus"].clone().requires_grad_(True)
        images = bundle.generator.synthesize(wplus, bundle.generator.constant_noise())
        close(images.detach(), tensors["out.img_wplus"], IMAGE_TOLERANCE)
        (gradient,) = torch.autograd.grad((images * tensors["in.R"]).sum(), wplus)
        error = (gradient - tensors["out.grad_wplus"]).norm() / tensors["out.grad_wplus"].norm()
        assert error < GRADIENT_TOLERANCE

    @pytest.mark.parametrize("path", SUPPORTED)
    def test_discriminator(self, path: Path, bundle: GeneratorBundle) -> None:
        tensors = tensors_of(path)
        assert check_logits(bundle, tensors) >= 2
        recorded = next(value for name, value in describe(path).items() if name.startswith("r1_penalty"))
        images = tensors["in.dimg"][:2].clone().requires_grad_(True)
        labels = tensors["in.c"][:2] if "in.c" in tensors else None
        assert bundle.discriminator is not None
        (gradient,) = torch.autograd.grad(bundle.discriminator.score(images, labels).sum(), images)
        penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
        assert float(penalty) == pytest.approx(recorded, rel=1e-3)


class TestTensorFlow:
    """Legacy pickles, section 6 of the README. The same data may be there in several pickle protocols."""

    @staticmethod
    def files(path: Path) -> list[Path]:
        return sorted(path.parent.glob(f"{path.stem}*.pkl"))

    @pytest.mark.parametrize("path", cases("tf_legacy_*.json"))
    def test_every_weight_is_exact(self, path: Path) -> None:
        tensors = tensors_of(path)
        assert self.files(path)
        for file in self.files(path):
            assert checkpoints.detect(file) == "tensorflow"
            bundle = loaded(file)
            assert bundle.discriminator is not None and bundle.raw_generator is not None
            networks = {
                "G_ema": (bundle.generator, nvidia.generator_table(bundle.generator.config)),
                "G": (bundle.raw_generator, nvidia.generator_table(bundle.generator.config)),
                "D": (bundle.discriminator, nvidia.discriminator_table(bundle.discriminator.config)),
            }
            for label, (network, table) in networks.items():
                for name, value in network.state_dict().items():
                    assert torch.equal(value, tensors[f"state.{label}.{table[name].name}"]), (label, name)
            assert torch.equal(bundle.mean_latent, tensors["state.G_ema.mapping.w_avg"])

    @pytest.mark.parametrize("path", cases("tf_legacy_*.json"))
    def test_outputs(self, path: Path) -> None:
        for file in self.files(path):
            assert check_outputs(loaded(file), tensors_of(path)) >= 4
            assert check_logits(loaded(file), tensors_of(path)) >= 1

    @pytest.mark.parametrize("path", cases("tf_legacy_*.json"))
    def test_settings_of_the_converter(self, path: Path) -> None:
        stated = describe(path)["init_kwargs_after_conversion"]
        for file in self.files(path):
            bundle = loaded(file)
            assert bundle.discriminator is not None
            mapping = stated["G_ema"]["mapping_kwargs"]
            assert bundle.generator.config.mapping_lr_multiplier == mapping["lr_multiplier"]
            assert bundle.generator.config.conv_clamp == stated["G_ema"]["synthesis_kwargs"]["conv_clamp"]
            group = stated["D"]["epilogue_kwargs"]["mbstd_group_size"]
            assert bundle.discriminator.config.mbstd_group == group

    @pytest.mark.parametrize("path", cases("tf_legacy_*.json"))
    def test_as_rosinality(self, path: Path) -> None:
        """What rosinality's converter makes of the same file: read alike, and written key by key alike."""
        converted = path.with_name(f"{path.stem}_as_rosinality.pt")
        if not converted.exists():
            pytest.skip(f"no {converted.name}")
        bundle = loaded(converted)
        tensors = tensors_of(path)
        check_outputs(bundle, {name: value for name, value in tensors.items() if not name.endswith(".none")})
        check_logits(bundle, tensors)
        assert bundle.family == loaded(self.files(path)[0]).family
        recorded = tensors_of(converted)
        for file in self.files(path):
            original = loaded(file)
            assert original.discriminator is not None
            ours = {
                f"g_ema.{name}": value
                for name, value in rosinality.generator_state(original.generator).items()
            }
            ours |= {
                f"d.{name}": value
                for name, value in rosinality.discriminator_state(original.discriminator).items()
            }
            ours["latent_avg"] = original.mean_latent
            compared = {name for name in recorded if "kernel" not in name}
            assert compared == {name for name in ours if "kernel" not in name}
            for name in compared:
                assert torch.equal(ours[name], recorded[name]), name


def layouts() -> list[Any]:
    """One case per full-size layout: those in the table, and further ones without expectations."""
    table = golden_dir() / "skeleton" / "skeleton.json"
    expected = describe(table) if table.exists() else {}
    files = sorted((golden_dir() / "skeleton").glob("*.pt"))
    return [pytest.param(file, expected.get(file.name, {}), id=file.stem) for file in files]


class TestSkeletons:
    """Layouts of published files without weights, section 9 of the README."""

    @pytest.mark.parametrize(("path", "expected"), layouts())
    def test_inference(self, path: Path, expected: dict[str, Any]) -> None:
        found = checkpoints.inspect(path)
        keys = {"size": "size", "style_dim": "w_dim", "n_mlp": "mapping_layers", "kind": "kind"}
        for theirs, ours in keys.items():
            if theirs in expected:
                assert found[ours] == expected[theirs], theirs
        if "channel_multiplier" in expected:
            assert found["channel_multiplier"] == expected["channel_multiplier"]
        top = expected.get("top", [])
        assert found["raw_generator"] == ({"g", "g_ema"} <= set(top)) or not top
        assert bool(found["discriminator"]) == ("d" in top) or not top
        assert (found["mean_latent"] == "stored") == ("latent_avg" in top) or not top
        if not expected:
            assert found["format"] == "e4e"

    @pytest.mark.parametrize(("path", "expected"), layouts())
    def test_loads(self, path: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """The networks are really built. The estimate of the mean is tested elsewhere; it takes seconds."""
        monkeypatch.setattr(
            checkpoints, "estimate_mean_latent", lambda generator: torch.zeros(generator.config.w_dim)
        )
        bundle = checkpoints.load(path)
        assert bundle.size == expected.get("size", bundle.size)
        assert bundle.mean_latent.shape == (bundle.generator.config.w_dim,)
        assert all(value.is_contiguous() for value in bundle.generator.state_dict().values())

    def test_own_names_equal_the_recorded_tables(self) -> None:
        """The state dicts that we write have exactly the names and shapes of the original modules."""
        table = golden_dir() / "skeleton" / "rosinality_shapes.json"
        if not table.exists():
            pytest.skip(f"no {table.name}")
        for label, shapes in describe(table).items():
            size, multiplier = map(int, re.fullmatch(r"[gd]_(\d+)_cm(\d+)", label).groups())
            if size > 64:
                continue  # the same code; 100 MB each
            widths = tuple(512 if level <= 5 else (16_384 * multiplier) >> level for level in range(2, 11))
            widths = widths[: size.bit_length() - 2]
            assert {
                name: list(value.shape) for name, value in written(label[0], size, widths).items()
            } == shapes


def written(kind: str, size: int, widths: tuple[int, ...]) -> dict[str, Tensor]:
    if kind == "g":
        return rosinality.generator_state(Generator(GeneratorConfig(size, widths)))
    return rosinality.discriminator_state(Discriminator(DiscriminatorConfig(size, widths)))
