"""PN space: W with its last activation undone, and whitened: there, random codes are nearly standard normal.

The squared length of a code in it says how plausible the code is: II2S holds codes near with it, and a user's
latent that lies far outside can be told.

Source: Zhu et al., Improved StyleGAN Embedding: Where are the Good Latents?, arXiv 2012.09036, section 3;
ZPdesu/MindTheGap models/II2S.py (editing.md 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from .checkpoints import GeneratorBundle
from .latents import Latent, labels
from .networks import Generator
from .ops import LEAKY_SLOPE
from .tensors import Latents, seeded

SAMPLES, SEED = 100_000, 0  # random codes that are measured; the published script takes 1,000,000
CHUNK = 5_000
PROBED = 10_000  # of them, the ones that say how far random codes lie at most
LEAST_SPREAD = 1e-5  # of a direction, against the widest: keeps one without any spread finite


@dataclass(frozen=True)
class Whitening:
    """The principal components of P space, and how codes are told in them.

    Args:
        mean: [W], of p.
        components: [W, W], one unit direction of p per row, the widest first.
        deviation: [W], standard deviation of p along each.
        farthest: the largest `unlikeliness` of 10,000 random codes; infinite: not measured.
    """

    mean: Tensor
    components: Tensor
    deviation: Tensor
    farthest: float = float("inf")

    @classmethod
    def measured(cls, generator: Generator, samples: int = SAMPLES, seed: int = SEED) -> Whitening:
        """Measure random codes of a generator; the same on every device, but for rounding.

        Args:
            generator: any device and dtype; a conditional one gets its classes in turn.
            samples: random codes.
            seed: of their draws.

        Returns:
            See `of`.
        """
        return cls.of(lambda: _random_codes(generator, samples, seed))

    @classmethod
    def of(cls, draw: Callable[[], Iterator[Latents]]) -> Whitening:
        """Measure given codes.

        Args:
            draw: gives them from the start at every call, [n, W] at a time; more than W in all.

        Returns:
            Float64 on the CPU. Covariance and components are exact: codes are summed up chunk by chunk, so
            that memory does not grow with their number.

        Raises:
            ValueError: too few of them.
        """
        with torch.inference_mode(False), torch.no_grad():
            # About a first mean: sums of squares about 0 would lose digits to it.
            about = _p(next(draw())).mean(dim=0)
            width = len(about)
            samples, total, products = 0, torch.zeros_like(about), torch.zeros(width, width).to(about)
            for centred in (_p(w) - about for w in draw()):
                samples += len(centred)
                total += centred.sum(dim=0)
                products += centred.T @ centred
            if samples <= width:
                raise ValueError(f"the whitening of codes of width {width} needs more codes, got {samples}")
            shift = total / samples
            covariance = (products - samples * shift[:, None] * shift) / (samples - 1)
            variance, directions = torch.linalg.eigh(covariance)
            # Widest first; the sign, which is arbitrary, so that the largest entry is positive.
            rows = directions.T.flip(0)
            largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
            spread = variance.flip(0).clamp_min(0).sqrt()
            spread = spread.clamp_min(LEAST_SPREAD * float(spread[0]))
            found = cls(about + shift, rows * largest.sign(), spread)
            probed = islice(draw(), max(1, PROBED // CHUNK))
            farthest = max(float(found.unlikeliness(w.cpu().double()).max()) for w in probed)
        return cls(found.mean, found.components, found.deviation, farthest)

    def to(self, like: Tensor) -> Whitening:
        """Copy it to the device and dtype of a tensor."""
        mean, components, deviation = (one.to(like) for one in (self.mean, self.components, self.deviation))
        return Whitening(mean, components, deviation, self.farthest)

    @cached_property
    def _scaled(self) -> Tensor:
        return self.components.T / self.deviation  # [W, W]: p -> v

    def into(self, w: Latents) -> Latents:
        """Codes of W or W+ in PN, of the same shape [..., W]; differentiable."""
        return (unactivated(w) - self.mean) @ self._scaled

    def back(self, v: Latents) -> Latents:
        """Codes of PN in W or W+, of the same shape [..., W]."""
        return F.leaky_relu((v * self.deviation) @ self.components + self.mean, LEAKY_SLOPE)

    def unlikeliness(self, w: Latents) -> Tensor:
        """Mean square of codes [N, W] or [N, L, W] in PN, [N]: about 1 for random codes; differentiable."""
        return self.into(w).square().flatten(1).mean(dim=1)

    def notes(self, latent: Latent, generator: Generator) -> list[str]:
        """Say where a latent lies farther out than random codes do.

        Args:
            latent: any space; z is mapped.
            generator: who draws it, of the family that was measured.

        Returns:
            One sentence, or none.
        """
        with torch.inference_mode(False), torch.no_grad():
            found = self.unlikeliness(latent.codes(generator).cpu().to(self.mean))
        outside = (found > self.farthest).nonzero().flatten().tolist()
        if not outside:
            return []
        which = (
            "the code" if len(found) == 1 else f"{len(outside)} of {len(found)} codes (first {outside[0]})"
        )
        return [
            f"{which} lies out of range: {float(found.max()):.1f} where random codes of this generator have "
            f"1, and at most {self.farthest:.1f} (mean square in PN space); edits and adapted generators may "
            "fail there"
        ]


def unactivated(w: Latents) -> Latents:
    """P space: the last leaky ReLU of the mapping network undone; its gain only rescales."""
    return F.leaky_relu(w, 1 / LEAKY_SLOPE)


def _p(w: Latents) -> Tensor:
    """Codes in P space, float64 on the CPU."""
    return unactivated(w.cpu().double())


def _random_codes(generator: Generator, samples: int, seed: int) -> Iterator[Latents]:
    """Random codes in W, [n, W] at a time."""
    config, weight = generator.config, generator.mapping.layers[0].weight
    for step, start in enumerate(range(0, samples, CHUNK)):
        count = min(CHUNK, samples - start)
        z = torch.randn(count, config.z_dim, generator=seeded(seed, step, "whitening.z"))
        classes = [index % config.c_dim for index in range(start, start + count)] if config.c_dim else None
        c = labels(classes, count, config.c_dim)
        yield generator.map_single(z.to(weight), None if c is None else c.to(weight))


_KNOWN: dict[str, Whitening] = {}
_MOST_KNOWN = 4


def whitening_of(bundle: GeneratorBundle) -> Whitening:
    """The whitening of a generator's family, measured at its first use; that takes seconds."""
    key = bundle.family
    if key not in _KNOWN:
        while len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.pop(next(iter(_KNOWN)))
        _KNOWN[key] = Whitening.measured(bundle.generator)
    return _KNOWN[key]
