"""Pretraining of the demo's generator: supervised on (latent, picture) pairs, then with its discriminator."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, MappingNetwork
from ...tensors import Images, Latents, seeded
from .faces import FACTORS, NUM_FACTORS, factors_from_latents
from .pool import Z_DIM, Pool, respun_latents
from .pretrain import Muon, Trainee, average_into, cosine, mixed_precision, run_stage

CHANNELS = (128, 128, 128, 96, 48, 32)  # feature widths at 4, 8, ..., 128
W_DIM = 64  # half of z's: a search that walks in all directions of w must find trained ones there
_MAPPING_WIDTH = 192
_MAPPING_RATE = 10.0  # the mapping's weights are stored 100 times larger; this is their extra learning rate
_W_DEVIATION = 0.5  # of every coordinate of w over the latents, about that of large pretrained generators
_SPREAD_WEIGHT = 0.03  # of the term that gives w that deviation in all directions
_SPREAD_BATCH = 256
_HUES = ("background", "clothes")
_ONSET_WIDTH = 0.06  # a switch goes from absent to present within this much of its factor
_ADVERSARIAL_MOMENTUM = 0.5


@dataclass(frozen=True)
class MappingStage:
    """The mapping network's own pretraining, from latents to facts about the picture."""

    steps: int = 2500
    batch: int = 512
    rate: float = 0.03


@dataclass(frozen=True)
class SupervisedStage:
    """One resolution of the supervised pretraining."""

    size_px: int
    steps: int
    batch: int
    start_rate: float = 0.01  # Adam's learning rate, falling along a cosine
    end_rate: float = 0.001
    average: float = 0.99  # decay of the averaged generator per step


@dataclass(frozen=True)
class AdversarialStage:
    """The fine-tuning with a discriminator."""

    steps: int = 1300
    alone_steps: int = 200  # at first only the discriminator learns
    batch: int = 8
    generator_rate: float = 0.0004
    discriminator_rate: float = 0.02
    fooled_weight: float = 1.0
    supervised_weight: float = 3.0
    mixing: float = 0.5  # part of the pictures that are made from two latents
    r1: float = 0.3
    r1_every: int = 16
    average: float = 0.99  # decay of the averaged generator per step


SUPERVISED = (
    SupervisedStage(32, 1200, 16, 0.03, 0.008),
    SupervisedStage(64, 2000, 12, 0.02, 0.006),
    SupervisedStage(128, 4000, 8, 0.015, 0.0005),
)


MAPPING = MappingStage()
ADVERSARIAL = AdversarialStage()


def generator_config(size_px: int = 128, channels: tuple[int, ...] = CHANNELS) -> GeneratorConfig:
    """Describe the demo's generator at one stage of its growth."""
    levels = size_px.bit_length() - 2
    return GeneratorConfig(
        size_px, channels[:levels], Z_DIM, W_DIM, mapping_layers=4, mapping_width=_MAPPING_WIDTH
    )


def fresh_generator(config: GeneratorConfig, seed: int) -> Generator:
    """Build a generator whose weights and stored noise depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(seeded(seed, 0, "demo.generator.weights").get_state())
        generator = Generator(config).to(memory_format=torch.channels_last)
    with torch.no_grad():  # coordinates that no factor reads start silent, which saves half of the training
        first = generator.mapping.layers[0].weight  # [W, Z]
        first[:, NUM_FACTORS:] = 0
        first.mul_(math.sqrt(config.z_dim / NUM_FACTORS))
    return generator


def fresh_discriminator(config: DiscriminatorConfig, seed: int) -> Discriminator:
    """Build a discriminator whose weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(seeded(seed, 0, "demo.discriminator.weights").get_state())
        return Discriminator(config).to(memory_format=torch.channels_last)


def grow(small: Generator, large: Generator) -> None:
    """Copy a generator into one of a higher resolution, whose new levels start by adding nothing."""
    state = large.state_dict()
    state.update(small.state_dict())
    for level in range(len(small.to_rgbs), len(large.to_rgbs)):
        state[f"to_rgbs.{level}.weight"] = torch.zeros_like(state[f"to_rgbs.{level}.weight"])
    large.load_state_dict(state)


def draw_images(generator: Generator, w: Latents, random: torch.Generator) -> Images:
    """Render with fresh noise in mixed precision."""
    noise = [torch.randn(len(w), 1, *shape, generator=random) for shape in generator.noise_shapes()]
    with mixed_precision():
        return generator.synthesize(w, noise).float()


def picture_loss(images: Images, targets: Images) -> Tensor:
    """Compare pictures by L1: weighted towards the target's edges, of slopes, and at coarser scales."""
    across, down = _slopes(targets)
    edges = F.pad(across.abs(), (0, 1)) + F.pad(down.abs(), (0, 0, 0, 1))
    weight = 1 + 4 * F.avg_pool2d(edges.mean(1, keepdim=True), 3, 1, 1)
    difference = images - targets
    loss = (difference.abs() * weight).mean()
    across, down = _slopes(difference)
    coarse = F.avg_pool2d(difference, 2)
    for part in (across, down, coarse, F.avg_pool2d(coarse, 2)):
        loss = loss + 0.5 * part.abs().mean()
    return loss


def _slopes(images: Images) -> tuple[Tensor, Tensor]:
    return images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]


def _generator_optimiser(
    generator: Generator, rate: float, betas: tuple[float, float], without: Sequence[nn.Parameter] = ()
) -> torch.optim.Adam:
    mapping = list(generator.mapping.parameters())
    left_out = {id(p) for p in (*mapping, *without)}
    others = [p for p in generator.parameters() if id(p) not in left_out]
    groups = [{"params": others, "scale": 1.0}, {"params": mapping, "scale": _MAPPING_RATE}]
    return torch.optim.Adam(groups, lr=rate, betas=betas, eps=1e-8)


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def visible_facts(factors: Tensor) -> Tensor:
    """Turn factors into what is seen: hues as points on a circle, switches as how much of what kind.

    A linear read-out of these from w teaches the mapping network the sharp and the circular dependences long
    before the pictures do.

    Args:
        factors: [N, NUM_FACTORS] in [0, 1].

    Returns:
        [N, facts], roughly in [-1, 1].
    """
    facts = [2 * factors - 1]
    for factor, value in zip(FACTORS, factors.unbind(1), strict=True):
        if factor.name in _HUES:
            facts += [torch.stack([torch.cos(2 * math.pi * value), torch.sin(2 * math.pi * value)], 1)]
        if factor.onset is not None:
            shown = ((value - factor.onset) / _ONSET_WIDTH).clamp(0, 1)
            kind = ((value - factor.onset) / (1 - factor.onset)).clamp_min(0)
            facts += [torch.stack([2 * shown - 1, kind], 1)]
    return torch.cat(facts, dim=1)


def uneven_spread(w: Latents) -> Tensor:
    """Measure how far the covariance of w is from the same deviation in every direction.

    Without it a few directions hold most of w's variance, and a latent search, whose optimiser takes steps of
    one size along all, leaves what the generator was trained on.

    Args:
        w: [N, W], N well above W.

    Returns:
        Squared difference of covariance and identity per coordinate, in units of the wanted variance.
    """
    away = w - w.mean(0)
    covariance = away.t() @ away / (len(w) * _W_DEVIATION**2)
    return (covariance - torch.eye(w.shape[1])).square().sum() / w.shape[1]


def pretrain_mapping(stage: MappingStage, path: Path, seed: int) -> MappingNetwork:
    """Train the mapping network so that `visible_facts` can be read off w by one linear layer.

    Args:
        stage: steps, batch and rate.
        path: state file; a state found there is taken up.
        seed: of weights and draws.
    """
    mapping = fresh_generator(generator_config(16, (8, 8, 8)), seed).mapping
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(seeded(seed, 0, "demo.probe.weights").get_state())
        probe = nn.Linear(W_DIM, visible_facts(torch.zeros(1, NUM_FACTORS)).shape[1])
    groups = [
        {"params": list(mapping.parameters()), "scale": 1 / mapping.layers[0].lr_multiplier},
        {"params": list(probe.parameters()), "scale": 1.0},
    ]
    optimiser = torch.optim.Adam(groups, lr=stage.rate)
    trainee = Trainee({"mapping": mapping, "probe": probe}, {"mapping": optimiser})

    def update(step: int) -> dict[str, float]:
        random = seeded(seed, step, "demo.mapping")
        _set_rate(optimiser, cosine(stage.rate, stage.rate / 100, step / stage.steps))
        latents = torch.randn(stage.batch, Z_DIM, generator=random)
        w = mapping(latents, None)
        facts = F.mse_loss(probe(w), visible_facts(factors_from_latents(latents)))
        optimiser.zero_grad(set_to_none=True)
        spread = uneven_spread(w)
        (facts + _SPREAD_WEIGHT * spread).backward()
        optimiser.step()
        return {"facts": facts.item(), "spread": spread.item()}

    run_stage(trainee, path, stage.steps, update)
    return mapping


def _choose(pool: Pool, batch: int, random: torch.Generator) -> tuple[Latents, Images]:
    index = torch.randint(len(pool), (batch,), generator=random)
    return respun_latents(pool.latents[index], random), pool.pictures(index)


def pretrain_supervised(
    pool: Pool,
    stage: SupervisedStage,
    start: Generator | MappingNetwork,
    path: Path,
    seed: int,
    channels: tuple[int, ...] = CHANNELS,
) -> Trainee:
    """Train the generator at one resolution to draw the picture that belongs to each latent.

    Args:
        pool: plain faces at 128 px.
        stage: resolution, steps and rates.
        start: the generator of the stage before, to grow from; before the first, the mapping network.
        path: state file; a state found there is taken up.
        seed: of weights and draws.
        channels: feature widths at 4, 8, ...

    Returns:
        The trained state: modules "generator" and "average".
    """
    generator = fresh_generator(generator_config(stage.size_px, channels), seed)
    if isinstance(start, Generator):
        grow(start, generator)
    else:
        generator.mapping.load_state_dict(start.state_dict())
    average = copy.deepcopy(generator)
    matrices = [
        weight
        for name, weight in generator.named_parameters()
        if name.startswith("convs.") and name.endswith(".weight")
    ]
    optimisers = {
        "matrices": Muon(matrices, stage.start_rate),
        "others": _generator_optimiser(generator, stage.start_rate, (0.9, 0.99), matrices),
    }
    trainee = Trainee({"generator": generator, "average": average}, dict(optimisers))
    small = pool.reduced(stage.size_px)

    def update(step: int) -> dict[str, float]:
        random = seeded(seed, step, f"demo.supervised.{stage.size_px}")
        warm = min(1.0, (step + 1) / 50)
        rate = warm * cosine(stage.start_rate, stage.end_rate, step / stage.steps)
        latents, targets = _choose(small, stage.batch, random)
        images = draw_images(generator, generator.map(latents), random)
        loss = picture_loss(images, targets)
        others = torch.randn(_SPREAD_BATCH, Z_DIM, generator=random)
        spread = uneven_spread(generator.mapping(others, None))
        generator.zero_grad(set_to_none=True)
        (loss + _SPREAD_WEIGHT * spread).backward()
        for optimiser in optimisers.values():
            _set_rate(optimiser, rate)
            optimiser.step()
        average_into(average, generator, min(stage.average, (step + 1) / (step + 10)))
        l1 = (images.detach() - targets).abs().mean()
        return {"loss": loss.item(), "l1": l1.item(), "spread": spread.item()}

    run_stage(trainee, path, stage.steps, update)
    return trainee


def _mixed(
    generator: Generator, latents: Latents, mixing: float, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Map latents, some mixed with a second one; also return which are not.

    Of the mixed ones half take the second from a random layer on, as StyleGAN mixes styles, and half lie
    between the two in all layers, where a latent search passes through.
    """
    w, other = generator.map(latents), generator.map(torch.randn(latents.shape, generator=random))
    layers = generator.config.num_layers
    cut = torch.randint(1, layers, (len(w), 1), generator=random)
    mixes, between = torch.rand(2, len(w), 1, generator=random)
    late = torch.arange(layers)[None] >= cut
    shares = torch.where(between < 0.5, 2 * between, late.float()) * (mixes < mixing)  # [N, L]
    return torch.lerp(w, other, shares[:, :, None]), mixes[:, 0] >= mixing


def _r1(discriminator: Discriminator, images: Images) -> Tensor:
    images = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator.score(images).sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


class _Duel:
    """Generator against discriminator: the two updates of a round and the optimisers they use."""

    def __init__(self, generator: Generator, discriminator: Discriminator, stage: AdversarialStage) -> None:
        self.generator, self.discriminator, self.stage = generator, discriminator, stage
        betas = (_ADVERSARIAL_MOMENTUM, 0.99)
        generator.mapping.requires_grad_(False)
        matrices = [weight for name, weight in discriminator.named_parameters() if name.endswith("weight")]
        rest = [bias for name, bias in discriminator.named_parameters() if name.endswith("bias")]
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "generator": _generator_optimiser(generator, stage.generator_rate, betas),
            "discriminator": Muon(matrices, stage.discriminator_rate, _ADVERSARIAL_MOMENTUM),
            "biases": torch.optim.Adam(rest, lr=stage.discriminator_rate, betas=betas, eps=1e-8),
        }

    def score(self, images: Images) -> Tensor:
        """Judge pictures in mixed precision: [N, 3, H, W] -> [N, 1]."""
        with mixed_precision():
            return self.discriminator.score(images.contiguous(memory_format=torch.channels_last)).float()

    def set_rates(self, step: int) -> None:
        """Let both learning rates fall along a cosine; the discriminator's starts gently."""
        stage, progress = self.stage, step / self.stage.steps
        _set_rate(
            self.optimisers["generator"], cosine(stage.generator_rate, stage.generator_rate / 10, progress)
        )
        rate = stage.discriminator_rate * min(1.0, (step + 1) / 50)
        for name in ("discriminator", "biases"):
            _set_rate(self.optimisers[name], cosine(rate, rate / 10, progress))

    def draw_better(self, images: Images, targets: Images, pure: Tensor) -> dict[str, float]:
        """Update the generator; pictures that are not `pure` have no target and are only judged."""
        self.discriminator.requires_grad_(False)
        fooled = F.softplus(-self.score(images)).mean()
        supervised = picture_loss(images[pure], targets[pure]) if bool(pure.any()) else images.sum() * 0
        self.optimisers["generator"].zero_grad(set_to_none=True)
        (self.stage.fooled_weight * fooled + self.stage.supervised_weight * supervised).backward()
        self.optimisers["generator"].step()
        self.discriminator.requires_grad_(True)
        return {"fooled": fooled.item(), "supervised": supervised.item()}

    def judge_better(self, step: int, fakes: Images, reals: Images) -> dict[str, float]:
        """Update the discriminator."""
        for_fakes, for_reals = self.score(fakes), self.score(reals)
        judged = F.softplus(for_fakes).mean() + F.softplus(-for_reals).mean()
        total = judged
        if step % self.stage.r1_every == 0:
            part = reals[: max(1, self.stage.batch // 2)]
            total = total + self.stage.r1 / 2 * self.stage.r1_every * _r1(self.discriminator, part)
        self.discriminator.zero_grad(set_to_none=True)
        total.backward()
        self.optimisers["discriminator"].step()
        self.optimisers["biases"].step()
        right = ((for_fakes < 0).float().mean() + (for_reals > 0).float().mean()) / 2
        return {"judged": judged.item(), "right": right.item()}


def pretrain_adversarial(
    pool: Pool, stage: AdversarialStage, start: Trainee, path: Path, seed: int
) -> Trainee:
    """Fine-tune the generator with a discriminator, the pictures of the pool being the real ones.

    The supervised loss stays, weakly, so that a latent keeps its face; mixed latents are only judged. The
    mapping network rests.

    Args:
        pool: plain faces.
        stage: steps, rates and weights.
        start: what the last supervised stage returned.
        path: state file; a state found there is taken up.
        seed: of weights and draws.

    Returns:
        The trained state: modules "generator", "average" and "discriminator".

    Source: StyleGAN2, non-saturating logistic loss and lazy R1; the supervised term is this project's.
    """
    average = start.modules["average"]
    assert isinstance(average, Generator)
    generator = copy.deepcopy(average)
    config = DiscriminatorConfig(average.config.size, average.config.channels)
    discriminator = fresh_discriminator(config, seed)
    duel = _Duel(generator, discriminator, stage)
    modules = {"generator": generator, "average": average, "discriminator": discriminator}
    trainee = Trainee(dict(modules), duel.optimisers)

    def update(step: int) -> dict[str, float]:
        random = seeded(seed, step, "demo.adversarial")
        duel.set_rates(step)
        latents, targets = _choose(pool, stage.batch, random)
        w, pure = _mixed(generator, latents, stage.mixing, random)
        losses: dict[str, float] = {}
        with torch.set_grad_enabled(step >= stage.alone_steps):
            images = draw_images(generator, w, random)
        if step >= stage.alone_steps:
            losses = duel.draw_better(images, targets, pure)
            average_into(average, generator, stage.average)
        reals = _choose(pool, stage.batch, random)[1]
        return losses | duel.judge_better(step, images.detach(), reals)

    run_stage(trainee, path, stage.steps, update)
    return trainee
