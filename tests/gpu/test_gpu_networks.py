"""Operations, networks and encoders give on the GPU what they give on the CPU, gradients included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gpu_support import DRY_RUN, error, normal
from stand_ins import randomised, tiny_discriminator, tiny_generator
from torch import Tensor, nn

from oneshot_core.demo.making.faces import draw
from oneshot_core.demo.making.judge import JUDGE_LOOKS
from oneshot_core.demo.world import demo_encoders, demo_generator
from oneshot_core.features import ClipEncoder, build_clip
from oneshot_core.features.perceptual import package_net
from oneshot_core.networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from oneshot_core.objective.adversarial import r1_penalty
from oneshot_core.ops import bias_act, blur_kernel, modulated_conv2d, upfirdn2d
from oneshot_core.tensors import seeded

# ||gpu - cpu|| / ||cpu||
FLOAT32, FLOAT64, BFLOAT16 = 2e-5, 1e-12, 5e-2
# StyleGAN2's widths up to 256 px (config-f); a sixteenth where the CPU only tries the tests themselves
WIDTHS = tuple(width // (16 if DRY_RUN else 1) for width in (512, 512, 512, 512, 512, 256, 128))


def with_gradients(work: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The result of some work and its gradient for each input, of a fixed random projection."""
    given = [x.detach().clone().requires_grad_(True) for x in inputs]
    out = work(*given)
    weights = normal(*out.shape, purpose="projection").to(out)
    return [out, *torch.autograd.grad((out * weights).sum(), given)]


def assert_near(work: Callable[..., Tensor], device: torch.device, tolerance: float, *inputs: Tensor) -> None:
    wanted = with_gradients(work, *inputs)
    found = with_gradients(work, *(x.to(device) for x in inputs))
    assert all(a.device.type == device.type for a in found)
    errors = [error(a, b) for a, b in zip(found, wanted, strict=True)]
    assert max(errors) < tolerance, errors


OPERATIONS = {
    "filter": lambda x, w, s: upfirdn2d(x, blur_kernel().to(x), pad=(2, 1)),
    "up": lambda x, w, s: upfirdn2d(x, blur_kernel(gain=4.0).to(x), up=2, pad=(2, 1)),
    "down": lambda x, w, s: upfirdn2d(x, blur_kernel().to(x), down=2, pad=(1, 1)),
    "activation": lambda x, w, s: bias_act(x, s[0], clamp=1.5),
    "modulated": lambda x, w, s: modulated_conv2d(x, w, s),
    "modulated up": lambda x, w, s: modulated_conv2d(x, w, s, blur_kernel(gain=4.0).to(x), up=2),
    "modulated plain": lambda x, w, s: modulated_conv2d(x, w, s, demodulate=False),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FLOAT32), (torch.float64, FLOAT64)])
def test_operations(name: str, dtype: torch.dtype, tolerance: float, device: torch.device) -> None:
    inputs = normal(3, 8, 17, 13, dtype=dtype), normal(8, 8, 3, 3, dtype=dtype), normal(3, 8, dtype=dtype)

    def work(*given: Tensor) -> Tensor:
        return OPERATIONS[name](*given) + 0 * sum(x.sum() for x in given)

    assert_near(work, device, tolerance, *inputs)


def generator_256() -> Generator:
    return randomised(Generator(GeneratorConfig(256, WIDTHS)), 0)


def discriminator_256() -> Discriminator:
    return randomised(Discriminator(DiscriminatorConfig(256, WIDTHS)), 0)


def drawn_by(generator: Generator) -> Callable[[Tensor], Tensor]:
    def work(z: Tensor) -> Tensor:
        return generator.synthesize(generator.map(z), generator.constant_noise())

    return work


@pytest.mark.parametrize("make", [tiny_generator, generator_256], ids=["tiny", "256 px"])
def test_generator(make: Callable[[], Generator], device: torch.device, figure: Callable) -> None:
    generator = make()
    z = normal(2, generator.config.z_dim)
    wanted = with_gradients(drawn_by(generator), z)
    found = with_gradients(drawn_by(generator.to(device)), z.to(device))
    errors = [error(a, b) for a, b in zip(found, wanted, strict=True)]
    figure(errors=errors)
    assert max(errors) < 10 * FLOAT32


def test_generator_in_float64_agrees_to_the_last_digits(device: torch.device) -> None:
    generator = tiny_generator().double()
    z = normal(2, generator.config.z_dim, dtype=torch.float64)
    wanted = drawn_by(generator)(z)
    assert error(drawn_by(generator.to(device))(z.to(device)), wanted) < FLOAT64


@pytest.mark.parametrize("make", [tiny_discriminator, discriminator_256], ids=["tiny", "256 px"])
@pytest.mark.parametrize("patch", [False, True], ids=["image", "patch"])
def test_discriminator(make: Callable[[], Discriminator], patch: bool, device: torch.device) -> None:
    judge = make()
    images = normal(2, 3, judge.config.size, judge.config.size)
    work = (lambda x: judge.patch_features(x, 0)) if patch else judge.score
    wanted = with_gradients(work, images)
    judge.to(device)
    found = with_gradients(work, images.to(device))
    errors = [error(a, b) for a, b in zip(found, wanted, strict=True)]
    assert max(errors) < 10 * FLOAT32, errors


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-10)])
def test_the_r1_penalty_has_its_second_derivatives(
    dtype: torch.dtype, tolerance: float, device: torch.device
) -> None:
    def gradient(where: torch.device) -> Tensor:
        judge = tiny_discriminator().to(where, dtype).requires_grad_(True)
        real = normal(2, 3, 64, 64, dtype=dtype).to(where).requires_grad_(True)
        r1_penalty(judge.score(real), real).backward()
        return torch.cat([p.grad.flatten().cpu() for p in judge.parameters() if p.grad is not None])

    wanted = gradient(torch.device("cpu"))
    assert wanted.abs().max() > 0 and error(gradient(device), wanted) < tolerance


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_formats_change_nothing(channels_last: bool, device: torch.device) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator, judge = tiny_generator(), tiny_discriminator()
    z = normal(2, generator.config.z_dim)
    image = drawn_by(generator)(z)
    score = judge.score(image)
    for network in (generator, judge):
        network.to(device).to(memory_format=layout)
    found = drawn_by(generator)(z.to(device))
    assert error(found, image) < 10 * FLOAT32
    assert error(judge.score(image.to(device).to(memory_format=layout)), score) < 10 * FLOAT32


def test_bfloat16_stays_near(device: torch.device, figure: Callable) -> None:
    generator, judge = generator_256(), discriminator_256()
    z = normal(2, 512)
    image = drawn_by(generator)(z)
    features = judge.patch_features(image, 0)
    generator.to(device), judge.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        drawn = drawn_by(generator)(z.to(device))
        judged = judge.patch_features(image.to(device), 0)
    errors = {"generator": error(drawn, image), "discriminator": error(judged, features)}
    figure(**errors)
    assert 0 < min(errors.values()) and max(errors.values()) < BFLOAT16


def vit() -> ClipEncoder:
    import open_clip

    return ClipEncoder(build_clip({**open_clip.get_model_config("ViT-B-32"), "quick_gelu": True}))


@pytest.mark.parametrize("make", [vit, lambda: demo_encoders().clip], ids=["ViT-B/32", "demo"])
def test_clip(make: Callable[[], ClipEncoder], device: torch.device, figure: Callable) -> None:
    clip = make()
    images = normal(2, 3, 128, 128).clamp(-1, 1)
    wanted = with_gradients(clip.encode_images, images)
    tokens = torch.randint(1, 400, (3, clip.model.context_length), generator=seeded(0, 0, "tokens"))
    text = clip.encode_tokens(tokens)
    there = ClipEncoder(clip.model.to(device))
    try:
        found = with_gradients(there.encode_images, images.to(device))
        with torch.autocast(device.type, torch.bfloat16):
            lowered = there.encode_images(images.to(device))
        said = there.encode_tokens(tokens)
    finally:
        clip.model.to("cpu")
    errors = [error(a, b) for a, b in zip(found, wanted, strict=True)]
    figure(errors=errors, bfloat16=error(lowered, wanted[0]), text=error(said, text))
    assert max(errors) < 1e-3 and error(said, text) < 1e-4
    assert error(lowered, wanted[0]) < BFLOAT16


def alexnet() -> nn.Module:
    net = package_net("alex")
    net.backbone.to_empty(device="cpu")
    with torch.no_grad():
        for name, weight in net.backbone.named_parameters():
            fan = weight[0].numel() if weight.ndim > 1 else 1
            weight.copy_(normal(*weight.shape, purpose=name) * (2 / fan) ** 0.5 * (weight.ndim > 1))
    return net.requires_grad_(False).eval()


@pytest.mark.parametrize("make", [alexnet, lambda: demo_encoders().perceptual], ids=["AlexNet", "demo"])
def test_perceptual_distance(make: Callable[[], nn.Module], device: torch.device) -> None:
    net = make()
    first, second = normal(2, 3, 128, 128).clamp(-1, 1), normal(2, 3, 128, 128, purpose="b").clamp(-1, 1)
    wanted = with_gradients(net, first, second)
    net.to(device)
    try:
        found = with_gradients(net, first.to(device), second.to(device))
    finally:
        net.to("cpu")
    errors = [error(a, b) for a, b in zip(found, wanted, strict=True)]
    assert max(errors) < 1e-3, errors


@pytest.mark.parametrize("look", JUDGE_LOOKS)
def test_the_painter_paints_the_same_there(look: str, device: torch.device, figure: Callable) -> None:
    """But for pixels where rounding decides, such as the border of two cells."""
    factors = torch.rand(8, 25, generator=seeded(0, 0, "faces"))
    wanted, found = draw(factors, look), draw(factors.to(device), look)
    assert found.device.type == device.type
    apart = (found.cpu() - wanted).abs()
    figure(share=float((apart > 0.02).float().mean()), mean=float(apart.mean()))
    assert float((apart > 0.02).float().mean()) < 0.005 and float(apart.mean()) < 1e-3


def test_the_demo_generator(device: torch.device) -> None:
    bundle = demo_generator()
    z = normal(4, bundle.generator.config.z_dim)
    there = bundle.to(device)
    assert bundle.generator.const.device.type == "cpu"
    assert error(drawn_by(there.generator)(z.to(device)), drawn_by(bundle.generator)(z)) < 10 * FLOAT32
