"""Tiny networks and encoders that stand in for the real ones in quick tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneshot_core.checkpoints.bundle import GeneratorBundle, Provenance
from oneshot_core.draws import SeededDraws
from oneshot_core.features import Encoders
from oneshot_core.networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from oneshot_core.objective import Aim
from oneshot_core.tensors import owned, seeded


class StandInClip:
    """Unit features of 4x4 averages; remembers what it was shown."""

    def __init__(self, dim: int = 12) -> None:
        self.preprocess = SimpleNamespace(image_size=16)
        self.weight = owned(torch.randn(48, dim, generator=seeded(0, 0, "stand-in clip")))
        self.seen: list[Tensor] = []

    def encode_images(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        pooled = F.adaptive_avg_pool2d(images, 4).flatten(1)
        return F.normalize(torch.tanh(pooled @ self.weight.to(pooled)), dim=1)


class StandInPerceptual:
    """Mean squared difference of averages; remembers the dropout it was given."""

    def __init__(self) -> None:
        self.dropouts: list[torch.Generator | None] = []

    def features(self, images: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(images, 2), F.avg_pool2d(images, 4)]

    def distance(
        self, first: list[Tensor], second: list[Tensor], dropout: torch.Generator | None = None
    ) -> Tensor:
        self.dropouts.append(dropout)
        total = torch.zeros(len(first[0])).to(first[0])
        for a, b in zip(first, second, strict=True):
            difference = (a - b).square()
            if dropout is not None:
                difference = difference * 2 * torch.rand(difference.shape, generator=dropout).round().to(a)
            total = total + difference.flatten(1).mean(dim=1)
        return total


def stand_in_encoders() -> Encoders:
    return Encoders.of(StandInClip(), StandInPerceptual())


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Give a network seeded weights: convolutions N(0, 1), everything else near its initial value."""
    with torch.no_grad():
        for name, value in network.state_dict().items():
            drawn = torch.randn(value.shape, generator=seeded(seed, 0, name)).to(value)
            near = name.endswith(("bias", "noise_strength"))
            wide = name.startswith("mapping.layers") and name.endswith("weight")
            value.copy_(value + 0.1 * drawn if near else drawn * (100 if wide else 1))
    return network.eval().requires_grad_(False)


def tiny_generator(size: int = 64, seed: int = 0, width: int = 6, **settings) -> Generator:
    channels = (width,) * (size.bit_length() - 2)
    config = GeneratorConfig(size, channels, **{"z_dim": 5, "w_dim": 7, "mapping_layers": 2, **settings})
    return randomised(Generator(config), seed)


def tiny_discriminator(size: int = 64, seed: int = 0, width: int = 6, **settings) -> Discriminator:
    channels = (width,) * (size.bit_length() - 2)
    return randomised(Discriminator(DiscriminatorConfig(size, channels, **settings)), seed)


def tiny_bundle(
    size: int = 64, seed: int = 0, raw: bool = False, judge: bool = True, **settings
) -> GeneratorBundle:
    generator = tiny_generator(size, seed, **settings)
    z = torch.randn(200, generator.config.z_dim, generator=seeded(seed, 0, "mean"))
    labels = torch.eye(generator.config.c_dim).repeat(200, 1)[:200] if generator.config.c_dim else None
    return GeneratorBundle(
        generator=generator,
        discriminator=tiny_discriminator(size, seed) if judge else None,
        raw_generator=tiny_generator(size, seed + 100, **settings) if raw else None,
        mean_latent=generator.map_single(z, labels).mean(dim=0),
        provenance=Provenance(format="stand-in", file_name="tiny"),
    )


def picture(size: int = 64, seed: int = 0) -> Tensor:
    """A smooth target [1, 3, S, S] in [-1, 1]."""
    coarse = torch.randn(1, 3, 4, 4, generator=seeded(seed, 0, "picture"))
    return torch.tanh(F.interpolate(coarse, size=(size, size), mode="bilinear"))


def tiny_aim(bundle: GeneratorBundle) -> Aim:
    """The smooth target, and the mean latent as its counterpart."""
    return Aim(picture(bundle.size), bundle.mean_latent[None])


@dataclass
class NotedDraws:
    """Seeded draws that note every draw; `integers` may be pinned to the highest value."""

    seed: int = 0
    highest: bool = False
    table: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    def _noted(self, kind: str, step: int, purpose: str, *arguments) -> Tensor:
        values = getattr(SeededDraws(self.seed), kind)(step, purpose, *arguments)
        self.table[step, purpose] = values
        return values

    def normal(self, step, purpose, shape):
        return self._noted("normal", step, purpose, shape)

    def uniform(self, step, purpose, shape=()):
        return self._noted("uniform", step, purpose, shape)

    def integers(self, step, purpose, high, shape=()):
        values = self._noted("integers", step, purpose, high, shape)
        return torch.full_like(values, high - 1) if self.highest else values
