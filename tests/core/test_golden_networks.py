"""Networks and patch heads against the recorded numbers of the originals (golden sections 2 to 4)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import golden_support as golden
import pytest
import torch
from rosinality_names import (
    discriminator_config,
    fill,
    generator_config,
    original_name,
    original_shape,
    original_state,
    stored_shapes,
)
from safetensors import safe_open
from torch import Tensor

from oneshot_core.latents import mix, truncate
from oneshot_core.networks import (
    PATCH_LOCATIONS,
    Discriminator,
    DiscriminatorConfig,
    Generator,
    PatchHeads,
    patch_location,
)
from oneshot_core.objective.adversarial import logistic, non_saturating, path_length_penalty, r1_penalty
from oneshot_core.ops import blur_kernel

pytestmark = pytest.mark.golden
DTYPES = {"f32": torch.float32, "f64": torch.float64}
# where float32 tells the same, make test leaves float64, which takes several times as long, to test-golden
WIDTHS = ["f32", pytest.param("f64", marks=pytest.mark.slow)]
CLOSE = {"f32": 1e-4, "f64": 1e-9}  # images and logits, max abs
CLOSE_MAPPING = {"f32": 2e-5, "f64": 1e-9}
LAZY = 16  # the recorded R1 gradients are those of 10 / 2 * r1 * 16
SLICED = re.compile(r"(?P<name>[\w.]+?)(?P<a>\[.*\])?\.(?P<width>f32|f64)(?P<b>\[.*\])?")


class Recorded:
    """One fixture: its description, its tensors, and networks regenerated from the weight formula."""

    def __init__(self, path: Path) -> None:
        self.stem, self.description, self.tensors = path.stem, golden.describe(path), golden.tensors_of(path)
        self.meta = self.description.get("meta", self.description)
        self.seed = self.meta["weight_seed"]

    def weights(self, prefix: str):
        rules = golden.rules("rosinality_rules")
        return lambda name, shape: golden.formula_weights(name, shape, self.seed, prefix, rules)

    @lru_cache(maxsize=2)  # noqa: B019
    def generator(self, width: str) -> Generator:
        """Build the generator and verify its weights first."""
        shapes = self.meta["state_dict_shapes"]
        network = fill(Generator(generator_config(shapes)), self.weights(self.meta["weight_prefix"]))
        golden.check_weights(with_kernels(network, shapes, 4.0), self.description["weight_checks"])
        return network.to(DTYPES[width])

    @lru_cache(maxsize=2)  # noqa: B019
    def discriminator(self, width: str) -> Discriminator:
        """Build the discriminator and verify its weights first."""
        patched = "d_prefix" in self.meta
        shapes = self.meta["d_state_dict_shapes" if patched else "state_dict_shapes"]
        prefix = self.meta["d_prefix" if patched else "weight_prefix"]
        network = fill(Discriminator(discriminator_config(shapes)), self.weights(prefix))
        checks = self.description["weight_checks"]
        if patched:
            checks = {k[len(prefix) :]: v for k, v in checks.items() if k.startswith(prefix)}
        golden.check_weights(with_kernels(network, shapes, 1.0), checks)
        return network.to(DTYPES[width])

    @lru_cache(maxsize=2)  # noqa: B019
    def heads(self, width: str) -> PatchHeads:
        """Build the patch heads and verify their weights first."""
        prefix = self.meta["extra_prefix"]
        network = fill(PatchHeads(self.discriminator(width).config), self.weights(prefix))
        assert stored_shapes(network) == self.meta["extra_state_dict_shapes"]
        checks = self.description["weight_checks"].items()
        golden.check_weights(
            original_state(network), {k[len(prefix) :]: v for k, v in checks if k.startswith(prefix)}
        )
        return network.to(DTYPES[width])

    def given(self, key: str, width: str) -> Tensor:
        return self.tensors[f"in.{key}"].detach().clone().to(DTYPES[width])

    def noise(self, kind: str, width: str) -> list[Tensor]:
        count = sum(key.startswith(f"in.{kind}.") for key in self.tensors)
        return [self.given(f"{kind}.{index}", width) for index in range(count)]

    def outputs(self, pattern: str) -> list[re.Match]:
        """Match the names of the recorded results."""
        return [found for key in self.tensors if (found := re.fullmatch(pattern, key))]


@lru_cache(maxsize=3)
def recorded(path: Path) -> Recorded:
    return Recorded(path)


def with_kernels(network, shapes: dict, up_gain: float) -> dict[str, Tensor]:
    """Return the stored tensors plus the low-pass filters that the original stores too; all else agrees."""
    state = dict(original_state(network))
    kernels = {name for name in shapes if name.endswith("kernel")}
    assert stored_shapes(network) == {name: shape for name, shape in shapes.items() if name not in kernels}
    return state | {name: blur_kernel(gain=up_gain) for name in kernels}


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    error = float((found.detach().double() - wanted.double()).abs().max())
    assert found.shape == wanted.shape
    assert error <= tolerance, f"max abs {error:.3g}"


def assert_gradient(found: Tensor, wanted: Tensor, width: str, scale: float = 0.0) -> None:
    """Float64: relative to the largest entry of the whole gradient; float32: relative L2."""
    difference = found.detach().double().reshape(wanted.shape) - wanted.double()
    if width == "f64":
        error = float(difference.abs().max()) / max(scale, float(wanted.abs().max()))
        assert error <= 1e-7, f"relative {error:.3g}"
    else:
        assert float(difference.norm()) <= 1e-2 * float(wanted.double().norm())


def entries(case: Recorded, prefix: str, width: str) -> list[tuple[str, str, str | None]]:
    """List the recorded gradients as (key, original name, slice)."""
    found = []
    for key in case.tensors:
        match = SLICED.fullmatch(key[len(prefix) :]) if key.startswith(prefix) else None
        if match and match["width"] == width:
            found.append((key, match["name"], match["a"] or match["b"]))
    return found


def leaves(case: Recorded, prefix: str, width: str, *networks) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """Freeze all parameters but those with a recorded gradient; return these with the original's shapes."""
    names = {name for _, name, _ in entries(case, prefix, width)}
    found = {}
    for network in networks:
        start = "extra." if isinstance(network, PatchHeads) else ""
        for name, parameter in network.named_parameters():
            original = start + original_name(name)
            parameter.requires_grad_(original in names)
            if original in names:
                found[original] = (parameter, original_shape(name, parameter.shape))
    return found


def assert_gradients(
    case: Recorded, loss: Tensor, inputs: dict, prefix: str, checks: str, width: str
) -> None:
    """Compare every recorded gradient, whole or sliced, and the checksums of the whole one."""
    gradients = torch.autograd.grad(loss, [value for value, _ in inputs.values()])
    shaped = [value.reshape(shape) for value, (_, shape) in zip(gradients, inputs.values(), strict=True)]
    found = dict(zip(inputs, shaped, strict=True))
    recorded_ones = entries(case, prefix, width)
    assert recorded_ones
    for key, name, cut in recorded_ones:
        whole = found[name]
        scale = float(whole.abs().max())
        assert_gradient(golden.part(whole, cut), case.tensors[key], width, scale)
        if (check := case.meta.get(f"{checks}.{name}.{width}")) and width == "f64":
            flat = whole.flatten()
            samples = torch.tensor(check["sample"], dtype=torch.float64)
            assert_gradient(flat[check["sample_index"]], samples, width, scale)
            assert abs(float(flat.norm()) - check["l2"]) <= 1e-7 * check["l2"]


# ---- section 2: the generator


def codes(case: Recorded, width: str, key: str = "z") -> Tensor:
    return case.generator(width).map(case.given(key, width))


def mean(case: Recorded, width: str) -> Tensor:
    """Mean of w over 512 latents of the formula."""
    z_dim = case.meta["style_dim"]
    z = torch.from_numpy(golden.formula_draw(f"{case.stem}/zmean", (512, z_dim), case.seed)).float()
    return case.generator(width).map_single(z.to(DTYPES[width])).mean(dim=0)


def mixed(case: Recorded, width: str) -> Tensor:
    return mix(codes(case, width), codes(case, width, "z2"), case.meta["inject_index"])


def truncated(case: Recorded, width: str, w: Tensor) -> Tensor:
    return truncate(w, mean(case, width), case.meta["truncation"])


def stored(case: Recorded, width: str) -> list[Tensor]:
    return case.generator(width).constant_noise()


IMAGES = {  # recorded image -> (its code, its noise)
    "z_buffers": (codes, stored),
    "z_noise_list": (codes, lambda case, width: case.noise("noise", width)),
    "z_noise_batched": (codes, lambda case, width: case.noise("noise_batched", width)),
    "w_buffers": (lambda case, width: codes(case, width)[:, 0], stored),
    "wplus_buffers": (lambda case, width: case.given("wplus", width), stored),
    "wplus_buffers_unfused": (lambda case, width: case.given("wplus", width), stored),  # here: no other form
    "wplus_noise_list": (
        lambda case, width: case.given("wplus", width),
        lambda case, width: case.noise("noise", width),
    ),
    "z_trunc": (lambda case, width: truncated(case, width, codes(case, width)), stored),
    "mix": (mixed, stored),
    "mix_trunc": (lambda case, width: truncated(case, width, mixed(case, width)), stored),
}
SMOKE = ("z_buffers", "mix_trunc")  # images that are compared in float32 too
OFTEN = (*SMOKE, "wplus_noise_list")  # images that make test compares in float64
IMAGE_CASES = [
    *((kind, "f32") for kind in SMOKE),
    *((kind, "f64") for kind in OFTEN),
    *(pytest.param(kind, "f64", marks=pytest.mark.slow) for kind in IMAGES if kind not in OFTEN),
]
GENERATORS = golden.cases("rosinality_g_*.json")
DISCRIMINATORS = golden.cases("rosinality_d_*.json")
PATCHED = golden.cases("oneshotclip_patchd_*.json")


def test_every_kind_of_network_was_recorded():
    for pattern in ("rosinality_g_*.json", "rosinality_d_*.json", "oneshotclip_patchd_*.json"):
        assert golden.descriptions(pattern), f"{golden.golden_dir()} has no {pattern}"


@pytest.mark.parametrize("path", GENERATORS)
def test_generator_has_the_recorded_layout(path):
    case = recorded(path)
    config = case.generator("f64").config
    assert (config.size, config.num_layers) == (case.meta["size"], case.meta["n_latent"])
    assert (config.w_dim, config.mapping_layers) == (case.meta["style_dim"], case.meta["n_mlp"])
    assert {match[1] for match in case.outputs(r"out\.img\.(\w+)\.f64")} == set(IMAGES)


@pytest.mark.parametrize("width", DTYPES)
@pytest.mark.parametrize("path", GENERATORS)
@torch.no_grad()
def test_mapping(path, width):
    case = recorded(path)
    wanted = case.tensors
    tolerance = CLOSE_MAPPING[width]
    generator = case.generator(width)
    assert_close(generator.map_single(case.given("z", width)), wanted[f"out.mapping.w.{width}"], tolerance)
    assert_close(generator.map_single(case.given("z2", width)), wanted[f"out.mapping.w2.{width}"], tolerance)
    assert_close(mean(case, width)[None], wanted[f"out.mapping.w_avg512.{width}"], tolerance)
    assert_close(codes(case, width), wanted[f"out.latent.z.{width}"], tolerance)
    assert_close(mixed(case, width), wanted[f"out.latent.mix.{width}"], tolerance)


@pytest.mark.parametrize(("kind", "width"), IMAGE_CASES)
@pytest.mark.parametrize("path", GENERATORS)
@torch.no_grad()
def test_images(path, kind, width):
    case = recorded(path)
    code, noise = IMAGES[kind]
    image = case.generator(width).synthesize(code(case, width), noise(case, width))
    assert_close(image, case.tensors[f"out.img.{kind}.{width}"], CLOSE[width])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", GENERATORS)
def test_generator_gradients(path, width):
    case = recorded(path)
    generator = case.generator(width)
    inputs = leaves(case, "out.grad.", width, generator)
    w = case.given("wplus", width).requires_grad_(True)
    loss = (generator.synthesize(w, case.noise("noise", width)) * case.given("R", width)).sum()
    wanted = case.meta[f"loss.{width}"]
    assert abs(float(loss.detach()) - wanted) <= (1e-9 if width == "f64" else 1e-4) * max(1.0, abs(wanted))
    assert_gradients(case, loss, inputs | {"wplus": (w, w.shape)}, "out.grad.", "gradcheck", width)


@pytest.mark.slow
@pytest.mark.parametrize("path", GENERATORS)
def test_path_length_penalty(path):
    case, width = recorded(path), "f64"
    generator = case.generator(width).requires_grad_(False)
    wanted = case.meta[f"path.{width}"]
    w = codes(case, width).detach().requires_grad_(True)
    image = generator.synthesize(w, case.noise("noise", width))
    start = torch.tensor(wanted["mean_path_length_in"], dtype=DTYPES[width])
    penalty, updated, lengths = path_length_penalty(
        image, w, case.given("pl_noise", width), start, wanted["decay"]
    )
    assert_close(penalty, torch.tensor(wanted["penalty"], dtype=torch.float64), 1e-9)
    assert_close(updated, torch.tensor(wanted["path_mean"], dtype=torch.float64), 1e-9)
    assert_close(lengths, torch.tensor(wanted["lengths"], dtype=torch.float64), 1e-9)


# ---- section 3: the discriminator


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", DISCRIMINATORS)
@torch.no_grad()
def test_logits(path, width):
    case = recorded(path)
    found = case.outputs(rf"out\.logits\.b(\d+)\.{width}")
    assert found
    for match in found:
        logits = case.discriminator(width).score(case.given("x", width)[: int(match[1])])
        assert_close(logits, case.tensors[match[0]], CLOSE[width])


@pytest.mark.slow
@pytest.mark.parametrize("path", DISCRIMINATORS)
def test_r1_and_its_gradients(path):
    case, width = recorded(path), "f64"
    discriminator = case.discriminator(width)
    inputs = leaves(case, "out.r1grad.", width, discriminator)
    real = case.given("x", width)[:2].requires_grad_(True)
    penalty = r1_penalty(discriminator.score(real), real)
    wanted = case.meta[f"r1.{width}"]
    assert abs(float(penalty.detach()) - wanted) <= 1e-9 * wanted
    assert_gradients(case, 10 / 2 * penalty * LAZY, inputs, "out.r1grad.", "r1gradcheck", width)


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", DISCRIMINATORS)
def test_adversarial_losses_and_the_gradient_of_the_images(path, width):
    case = recorded(path)
    discriminator = case.discriminator(width).requires_grad_(False)
    wanted = case.tensors[f"out.dinput_grad.{width}"]
    images = case.given("x", width)[: len(wanted)].requires_grad_(True)
    compared = 0
    for key, value in case.meta.items():
        if match := re.fullmatch(rf"d_logistic\(real=first(\d+),fake=last(\d+)\)\.{width}", key):
            logits = discriminator.score(images)  # one call: the minibatch deviation mixes both kinds
            loss = logistic(logits[: int(match[1])], logits[-int(match[2]) :])
            assert abs(float(loss.detach()) - value) <= CLOSE[width]
            (gradient,) = torch.autograd.grad(loss, images)
            assert_gradient(gradient, wanted, width)
            compared += 1
        if match := re.fullmatch(rf"g_nonsaturating\(all(\d+)\)\.{width}", key):
            loss = non_saturating(discriminator.score(images[: int(match[1])]))
            assert abs(float(loss.detach()) - value) <= CLOSE[width]
            compared += 1
    assert compared == 2


# ---- section 4: the patch discriminator


def judged(discriminator: Discriminator, heads: PatchHeads, kind: str, images: Tensor) -> Tensor:
    """Logits on "global" or "patchP"."""
    if kind == "global":
        return discriminator.score(images)
    index = int(kind.removeprefix("patch"))
    return heads(discriminator.patch_features(images, index), index)


def judge(case: Recorded, width: str, kind: str, images: Tensor) -> Tensor:
    return judged(case.discriminator(width), case.heads(width), kind, images)


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", PATCHED)
@torch.no_grad()
def test_patch_maps_and_global_logits(path, width):
    case = recorded(path)
    images = case.given("x", width)
    found = {}
    for match in case.outputs(rf"out\.(global|patch\d+)(_flag\d+)?\.{width}"):
        if match[1] not in found:  # any flag above 0 gives the same map
            found[match[1]] = judge(case, width, match[1], images)
        assert_close(found[match[1]], case.tensors[match[0]], CLOSE[width])
        assert list(found[match[1]].shape) == case.meta.get(f"{match[1]}_shape", [len(images), 1])
    assert set(found) == {"global", *(f"patch{index}" for index in range(len(PATCH_LOCATIONS)))}
    assert case.outputs(rf"out\.gns_input_grad\.\w+\.{width}(\[.*\])?") or width == "f32"
    alone = judge(case, width, "global", images[:1])
    assert_close(alone, case.tensors[f"out.global_b1.{width}"], CLOSE[width])


def kinds(pattern: str) -> list:
    """One parameter per fixture and discriminator path with a recorded value of a name."""
    found = []
    for path in golden.descriptions("oneshotclip_patchd_*.json"):
        for key in golden.describe(path):
            if match := re.fullmatch(pattern, key):
                found.append(pytest.param(path, match[1], id=f"{path.stem}-{match[1]}"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("path", "kind"), kinds(r"r1\.(\w+)\.f64"))
def test_patch_r1_and_its_gradients(path, kind):
    case, width, prefix = recorded(path), "f64", f"out.r1grad.{kind}."
    inputs = leaves(case, prefix, width, case.discriminator(width), case.heads(width))
    real = case.given("x", width).requires_grad_(True)
    penalty = r1_penalty(judge(case, width, kind, real), real)
    wanted = case.meta[f"r1.{kind}.{width}"]
    assert abs(float(penalty.detach()) - wanted) <= 1e-9 * wanted
    assert_gradients(case, 10 / 2 * penalty * LAZY, inputs, prefix, f"r1gradcheck.{kind}", width)


@pytest.mark.parametrize(("path", "kind"), kinds(r"r1_grad_none\.(\w+)"))
def test_r1_leaves_the_recorded_parameters_without_gradient(path, kind):
    """Which layers get none does not depend on widths, so narrow networks tell."""
    case = recorded(path)
    size = case.meta["size"]
    config = DiscriminatorConfig(size=size, channels=(2,) * (size.bit_length() - 2))
    discriminator, heads = Discriminator(config), PatchHeads(config)
    images = torch.zeros(1, 3, size, size).requires_grad_(True)
    logits = judged(discriminator, heads, kind, images)
    loss = r1_penalty(logits, images) + 0 * logits.flatten(1).mean(dim=1)[0]  # as the official code adds it
    loss.backward()
    without = [
        start + original_name(name)
        for start, network in (("", discriminator), ("extra.", heads))
        for name, parameter in network.named_parameters()
        if parameter.grad is None
    ]
    assert sorted(without) == sorted(case.meta[f"r1_grad_none.{kind}"])


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("path", "kind"), kinds(r"g_ns\.(\w+)\.f64"))
def test_patch_generator_loss_and_the_gradient_of_the_images(path, kind, width):
    case = recorded(path)
    for network in (case.discriminator(width), case.heads(width)):
        network.requires_grad_(False)
    images = case.given("x", width).requires_grad_(True)
    loss = non_saturating(judge(case, width, kind, images))
    assert abs(float(loss.detach()) - case.meta[f"g_ns.{kind}.{width}"]) <= CLOSE[width]
    if found := golden.recorded_part(case.tensors, f"out.gns_input_grad.{kind}.{width}"):
        wanted, cut = found
        (gradient,) = torch.autograd.grad(loss, images)
        assert_gradient(golden.part(gradient, cut), wanted, width, float(gradient.abs().max()))


FALLTHROUGH = sorted(golden.golden_dir().glob("*_fallthrough.safetensors"))


@pytest.mark.parametrize("path", FALLTHROUGH, ids=lambda path: path.stem)
@torch.no_grad()
def test_small_patch_discriminator_falls_through_to_the_global_logit(path):
    """Below 64 px the original silently judged whole images; here the patch path does not exist."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    images, metadata = tensors["in.x"], metadata or {}
    size = int(metadata.get("size", images.shape[-1]))
    # widths up to 32 px do not depend on the channel multiplier
    config = DiscriminatorConfig(size=size, channels=(512,) * (size.bit_length() - 2))
    rules, seed = golden.rules("rosinality_rules"), int(metadata.get("seed", 3))
    discriminator = fill(
        Discriminator(config), lambda name, shape: golden.formula_weights(name, shape, seed, "d.", rules)
    )
    assert size < 64
    with pytest.raises(ValueError, match="64 px"):
        patch_location(config, 0)
    flags = [match for key in tensors if (match := re.fullmatch(r"out\.flag\d+\.(f32|f64)", key))]
    assert flags
    for match in flags:
        assert torch.equal(tensors[match[0]], tensors[f"out.global.{match[1]}"])
        logits = discriminator.to(DTYPES[match[1]]).score(images.to(DTYPES[match[1]]))
        assert_close(logits, tensors[match[0]], CLOSE[match[1]])
