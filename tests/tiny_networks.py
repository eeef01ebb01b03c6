"""Tiny untrained networks for tests: a bundle and encoders that build in milliseconds."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import torch
from torch import nn

from oneshot_core.checkpoints import GeneratorBundle, Provenance
from oneshot_core.copies import private_copy
from oneshot_core.features import Encoders
from oneshot_core.networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig


def tiny_bundle(size: int = 16, seed: int = 0, c_dim: int = 0, name: str = "tiny") -> GeneratorBundle:
    """A generator of 8 channels whose noise is visible, with its discriminator."""
    levels = size.bit_length() - 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = GeneratorConfig(size, (8,) * levels, z_dim=12, w_dim=12, c_dim=c_dim, mapping_layers=2)
        generator = Generator(config).eval().requires_grad_(False)
        for conv in generator.convs:
            conv.noise_strength.fill_(0.3)
        discriminator = Discriminator(DiscriminatorConfig(size, (8,) * levels, c_dim=c_dim))
        mean = torch.randn(12) * 0.1
    discriminator.eval().requires_grad_(False)
    return GeneratorBundle(generator, discriminator, None, mean, Provenance("test", f"{name}.pt"))


def changed(
    bundle: GeneratorBundle, ending: str | tuple[str, ...], seed: int = 3, scale: float = 0.3
) -> GeneratorBundle:
    """An adaptation of it that moved the weights whose names end so."""
    generator = private_copy(bundle.generator)
    draws = torch.Generator().manual_seed(seed)
    for name, value in generator.named_parameters():
        if name.endswith(ending):
            value += scale * torch.randn(value.shape, generator=draws)
    history = {
        "parent": {"file_name": bundle.provenance.file_name, "sha256": None, "family": bundle.family},
        "step": 7,
        "recipe": {"aim": {"target": "folder/pencil.png"}, "method": {"preset": "oneshot_clip"}},
    }
    known = Provenance("adapted", bundle.provenance.file_name, history=history)
    return dataclasses.replace(bundle, generator=generator, provenance=known)


class _Clip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("weight", torch.randn(6, 48, generator=generator))
        self.name = "tiny-clip"
        self.preprocess = SimpleNamespace(image_size=16)

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        small = nn.functional.interpolate(images, (4, 4), mode="bilinear").flatten(1)
        return nn.functional.normalize(small @ self.weight.to(small).T + 0.1, dim=1)


class _Perceptual(nn.Module):
    name = "tiny-perceptual"

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [nn.functional.avg_pool2d(images, 2)]

    def distance(self, a: list, b: list, dropout: torch.Generator | None = None) -> torch.Tensor:
        return sum(((x - y) ** 2).mean(dim=(1, 2, 3)) for x, y in zip(a, b, strict=True))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.distance(self.features(x), self.features(y))


def tiny_encoders() -> Encoders:
    """Stand-ins for CLIP and LPIPS: linear maps of the shrunken picture."""
    return Encoders.of(_Clip(), _Perceptual())


class TinyChoice:
    """Stands where the engine chooses encoders: it opens tiny ones, whatever is asked for."""

    clip_name = perceptual_name = "tiny"
    clip_file = perceptual_file = None
    more_clips = ()

    def open(self, **_):
        return self

    def load(self):
        return tiny_encoders()
