"""The phases of one optimiser round, in order: discriminator, its R1 penalty, generator, moving average."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..latents import drawn_noise, mix
from ..networks import Generator
from ..objective import StepContext
from ..objective.adversarial import logistic, r1_penalty
from ..objective.terms import PatchConsistency
from ..tensors import Images, Latents
from .state import TrainState


@dataclass(frozen=True)
class Round:
    """What is fixed for one round: its step and its kind."""

    state: TrainState
    step: int
    reference: bool

    @property
    def path(self) -> str:
        """Discriminator path of this round; small generators have no patch path."""
        return "image" if self.reference or self.state.heads is None else "patch"

    @property
    def batch(self) -> int:
        """Images per generator call."""
        return 1 if self.reference else self.state.preset.batch


@contextmanager
def _frozen(*modules: nn.Module | None) -> Iterator[None]:
    """Switch gradients off for networks that only pass them through."""
    parameters = [
        p for module in modules if module is not None for p in module.parameters() if p.requires_grad
    ]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def start_round(state: TrainState) -> Round:
    """Open the round of the state's current step."""
    return Round(state, state.step, state.preset.schedule.is_reference(state.step))


def phases_due(state: TrainState, current: Round) -> list[str]:
    """Name the phases of a round in order; how often each comes is data of the preset."""
    due = ["generator", "average"]
    plan = state.preset.discriminator
    if plan is None:
        return due
    if not plan.r1_gamma:
        return ["discriminator", *due]
    schedule, profile = state.preset.schedule, state.preset.profile
    if profile.r1_on_reference and schedule.reference_steps:
        share = schedule.reference_steps / schedule.cycle
        every = max(1, round(plan.r1_every * share))
        r1 = current.reference and schedule.references_before(current.step) % every == 0
    else:
        r1 = current.step % plan.r1_every == 0
    return ["discriminator", *(["r1"] if r1 else []), *due]


def run_phase(name: str, current: Round) -> dict[str, Tensor]:
    """Run one phase and return its unweighted losses by name."""
    return _PHASES[name](current)


def _codes(current: Round, purpose: str, plan_of: str) -> Latents:
    """Draw the latents of a generator call, w+ [N, L, W].

    Args:
        current: the round.
        purpose: whose z and mixing decision are used.
        plan_of: whose crossover is used.
    """
    state, step = current.state, current.step
    generator, draws = state.source, state.draws
    if current.reference:
        return generator.broadcast(state.reference)
    mixing = float(draws.uniform(step, f"{purpose}.mix")) < state.preset.mixing
    z = draws.normal(step, f"{purpose}.z", (2 if mixing else 1, current.batch, generator.config.z_dim))
    with torch.no_grad():
        codes = [generator.map(part.to(generator.const)) for part in z]
    if not mixing:
        return codes[0]
    crossover = 1 + int(draws.integers(step, f"{plan_of}.crossover", generator.config.num_layers - 1))
    return mix(codes[0], codes[1], crossover)


def _noise(current: Round, purpose: str) -> list[Tensor]:
    return drawn_noise(current.state.source, current.state.draws, current.step, purpose, current.batch)


def _head(current: Round, purpose: str) -> int:
    """Draw a patch head; one per update in the default profile, one per call in the official one."""
    state = current.state
    assert state.preset.discriminator is not None
    shared = state.preset.profile.one_head_per_update and purpose != "adapted"
    heads = state.preset.discriminator.heads
    return int(state.draws.integers(current.step, f"{'update' if shared else purpose}.head", heads))


def _judge(current: Round, path: str, images: Images, purpose: str) -> Tensor:
    """Logits of images on a discriminator path: [N, 1] or [N, 1, h, w]."""
    state = current.state
    assert state.discriminator is not None
    if path == "image" or state.heads is None:
        return state.discriminator.score(images)
    head = _head(current, purpose)
    return state.heads(state.discriminator.patch_features(images, head), head)


def _real(current: Round) -> Images:
    """The target once, or a batch of it with random horizontal flips."""
    target = current.state.target.image
    if current.reference:
        return target
    flips = current.state.draws.integers(current.step, "real.flip", 2, (current.batch,)).tolist()
    mirrored = target.flip(3)
    return torch.cat([mirrored if flip else target for flip in flips])


def _optimise(current: Round, names: tuple[str, ...], loss: Tensor) -> None:
    """Backward and one step of the named optimisers."""
    state = current.state
    optimisers = [state.optimisers[name] for name in names if name in state.optimisers]
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=not state.preset.profile.zero_filled_grads)
    loss.backward()
    for optimiser in optimisers:
        optimiser.step()


def _update_discriminator(current: Round) -> dict[str, Tensor]:
    with torch.no_grad():
        codes = _codes(current, "critic", "critic")
        fake = current.state.adapted.synthesize(codes, _noise(current, "critic"))
    fake_logits = _judge(current, current.path, fake, "fake")
    real_logits = _judge(current, current.path, _real(current), "real")
    loss = logistic(real_logits, fake_logits)
    _optimise(current, ("discriminator", "heads"), loss)
    return {
        "discriminator": loss.detach(),
        "real_score": real_logits.detach().mean(),
        "fake_score": fake_logits.detach().mean(),
    }


def _regularise_discriminator(current: Round) -> dict[str, Tensor]:
    plan = current.state.preset.discriminator
    assert plan is not None
    real = _real(current).detach().requires_grad_(True)
    logits = _judge(current, current.path, real, "r1")
    penalty = r1_penalty(logits, real)
    loss = plan.r1_gamma / 2 * plan.r1_every * penalty
    if current.state.preset.profile.r1_keeps_score:
        loss = loss + 0 * logits.flatten(1).mean(dim=1)[0]
    _optimise(current, ("discriminator", "heads"), loss)
    return {"r1": penalty.detach()}


def _update_generator(current: Round) -> dict[str, Tensor]:
    state = current.state
    profile, objective = state.preset.profile, state.preset.objective(current.reference)
    codes = _codes(current, "adapted", "adapted")
    adapted = state.adapted.synthesize(codes, _noise(current, "adapted"))
    context = StepContext(
        target=state.target,
        adapted=adapted,
        judge=lambda path: _judge(current, path, adapted, "adapted"),
        dropout=_dropout(current) if profile.lpips_dropout and current.reference else None,
    )
    if not current.reference:
        context.source = _source_images(current)
    for item in objective.terms:
        if isinstance(item.term, PatchConsistency) and item.weight:
            context.crops_xy, context.crop_px = _crops(current, item.term)
    with _frozen(state.discriminator, state.heads):
        total, values = objective(context)
        _optimise(current, ("adapted",), total)
    return {**values, "generator": total.detach()}


def _dropout(current: Round) -> torch.Generator:
    """Masks of LPIPS's dropout for this round."""
    generator = torch.Generator(device="cpu")
    return generator.manual_seed(int(current.state.draws.integers(current.step, "dropout", 2**31)))


@torch.no_grad()
def _source_images(current: Round) -> Images:
    """What the source generator draws for the same latents."""
    profile, source = current.state.preset.profile, current.state.source
    codes = _codes(current, "adapted", "adapted" if profile.shared_mixing else "source")
    return source.synthesize(codes, _noise(current, "adapted" if profile.shared_noise else "source"))


def _crops(current: Round, term: PatchConsistency) -> tuple[Tensor, int]:
    """Draw the corners of the crops, [K, 2] as (left, top), and their side."""
    state = current.state
    size = state.source.config.size
    places = term.places(size, state.preset.profile.crop_reaches_edge)
    return state.draws.integers(current.step, "crops", places, (term.crops, 2)), term.side(size)


@torch.no_grad()
def _update_average(current: Round) -> dict[str, Tensor]:
    """Move every parameter of the average towards the trained one; parameters only, never buffers."""
    state = current.state
    averaged, trained = _parameters(state.ema), _parameters(state.adapted)
    torch._foreach_lerp_(averaged, trained, 1 - state.preset.optimiser.ema_decay)
    return {}


def _parameters(generator: Generator) -> list[Tensor]:
    return [parameter.data for parameter in generator.parameters()]


_PHASES = {
    "discriminator": _update_discriminator,
    "r1": _regularise_discriminator,
    "generator": _update_generator,
    "average": _update_average,
}
