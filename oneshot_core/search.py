"""CLIP-guided latent search: the code of the source generator whose picture is closest to the target.

Source: paper section 3.1; cyclomon/OneshotCLIP train_oneshot.py, step 1 (methods.md A).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .augmentation import ViewAugmentation
from .checkpoints import GeneratorBundle
from .draws import Draws, SeededDraws
from .features import Encoders
from .latents import Latent, drawn_noise
from .networks import Generator
from .objective import DEFAULT, Profile, StepContext, Target
from .objective.presets import clip_search
from .tensors import Images, check_shape, gradients, owned


@dataclass(frozen=True)
class SearchConfig:
    """Settings of the latent search."""

    steps: int = 1000  # optimiser rounds
    learning_rate: float = 0.01  # Adam, on w directly
    seed: int = 0
    weights: Mapping[str, float] = field(
        default_factory=dict
    )  # of clip, deviation, lpips, pixel; 0 leaves one out
    augment: bool = True  # compare augmented views with the target; False: the image itself
    profile: Profile = DEFAULT

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}; to skip the search pass a latent")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        unknown = sorted(set(self.weights) - set(clip_search().names))
        if unknown:
            raise ValueError(f"the search has no term {unknown}; its terms: {', '.join(clip_search().names)}")

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "weights": dict(self.weights),
            "augment": self.augment,
            "profile": self.profile.name,
        }


@dataclass(frozen=True)
class SearchProgress:
    """State after one step, given to the callback.

    Args:
        step: steps done, 1 to `steps`.
        steps: steps in all.
        losses: unweighted value of each term at the start of this step.
        eta_seconds: estimate of the time left.
        latent: [1, W] after the step, a copy.
        image: [1, 3, S, S] of the code before the step.
    """

    step: int
    steps: int
    losses: dict[str, float]
    eta_seconds: float
    latent: Tensor
    image: Images


@dataclass(frozen=True)
class SearchResult:
    """The reference latent and what it looks like.

    Args:
        latent: space "w", [1, W].
        reconstruction: [1, 3, S, S] with the generator's stored noise.
        losses: per term one value per step.
    """

    latent: Latent
    reconstruction: Images
    losses: dict[str, list[float]]


def search_latent(
    bundle: GeneratorBundle,
    encoders: Encoders,
    target: Images,
    config: SearchConfig | None = None,
    *,
    draws: Draws | None = None,
    callbacks: Sequence[Callable[[SearchProgress], None]] = (),
) -> SearchResult:
    """Find the w whose image is closest to the target in CLIP's and LPIPS's eyes, not far from the mean
    latent.

    Args:
        bundle: the source generator; the search starts at its mean latent.
        encoders: CLIP and perceptual net.
        target: [1, 3, S, S] in [-1, 1], S the generator's size.
        config: settings; default `SearchConfig()`.
        draws: where noise and views come from; default seeded by `config.seed`.
        callbacks: called after every step; one that raises stops the search.

    Returns:
        The latent, its image, the losses.

    Raises:
        ValueError: the target's shape does not fit the generator.
        FloatingPointError: a loss became NaN or infinite; the message names term and step.
    """
    config = config or SearchConfig()
    check_shape(target, "target", (1, 3, bundle.size, bundle.size))
    with gradients():
        return _Search(bundle, encoders, target, config, draws or SeededDraws(config.seed)).run(callbacks)


class _Search:
    """One search: the latent, its optimiser, and what every step needs."""

    def __init__(
        self, bundle: GeneratorBundle, encoders: Encoders, target: Images, config: SearchConfig, draws: Draws
    ) -> None:
        raw = bundle.raw_generator if config.profile.trains_raw_generator else None
        self.bundle, self.config, self.draws = bundle, config, draws
        self.generator: Generator = raw or bundle.generator
        like = self.generator.const
        self.target = Target(owned(target).to(like), encoders)
        self.mean = owned(bundle.mean_latent).to(like)
        self.latent = self.mean[None].clone().requires_grad_(True)
        self.optimiser = torch.optim.Adam([self.latent], lr=config.learning_rate)
        self.objective = clip_search().reweighted(config.weights)
        profile = config.profile
        self.views = ViewAugmentation(
            views=profile.views,
            nearest_affine=profile.nearest_affine,
            jitter_on_signed=profile.jitter_on_signed,
        )

    def run(self, callbacks: Sequence[Callable[[SearchProgress], None]]) -> SearchResult:
        """Run all steps."""
        history: dict[str, list[float]] = {name: [] for name in self.objective.names}
        started = time.monotonic()
        for step in range(self.config.steps):
            image, losses = self._step(step)
            for name, value in losses.items():
                history[name].append(value)
            spent = time.monotonic() - started
            eta = spent / (step + 1) * (self.config.steps - step - 1)
            for callback in callbacks:
                callback(SearchProgress(step + 1, self.config.steps, losses, eta, owned(self.latent), image))
        return self._result({name: values for name, values in history.items() if values})

    def _step(self, step: int) -> tuple[Images, dict[str, float]]:
        noise = drawn_noise(self.generator, self.draws, step, "search", batch=1)
        image = self.generator.synthesize(self.latent, noise)
        use_views = self.config.augment and self.config.weights.get("clip", 1.0)
        context = StepContext(
            target=self.target,
            adapted=image,
            views=self.views(image, self.draws, step) if use_views else None,
            latent=self.latent,
            mean_latent=self.mean,
            dropout=self._dropout(step) if self.config.profile.lpips_dropout else None,
        )
        total, values = self.objective(context)
        losses = {name: float(value) for name, value in values.items()}
        for name, value in losses.items():
            if not abs(value) < float("inf"):
                raise FloatingPointError(f"the search's term {name!r} became {value} at step {step}")
        self.optimiser.zero_grad(set_to_none=True)
        (self.latent.grad,) = torch.autograd.grad(total, [self.latent])
        self.optimiser.step()
        return image.detach(), losses

    def _dropout(self, step: int) -> torch.Generator:
        """Masks of LPIPS's dropout for this step."""
        generator = torch.Generator(device="cpu")
        return generator.manual_seed(int(self.draws.integers(step, "search.dropout", 2**31)))

    def _result(self, history: dict[str, list[float]]) -> SearchResult:
        origin = {"method": "clip_search", "settings": self.config.describe()}
        latent = Latent("w", owned(self.latent).cpu(), self.bundle.family, origin)
        with torch.no_grad():
            image = self.generator.synthesize(self.latent, self.generator.constant_noise())
        return SearchResult(latent, owned(image), history)
