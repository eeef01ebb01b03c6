"""The phases of one optimiser round, in order: discriminator, its R1 penalty, generator, moving average."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..draws import derived_generator
from ..latents import drawn_noise, mix
from ..networks import Generator
from ..objective import StepContext
from ..objective.adversarial import Fool, logistic, r1_penalty
from ..objective.terms import PatchConsistency
from ..tensors import Images, Latents
from .state import PRECISIONS, TrainState


@dataclass(frozen=True)
class Round:
    """What is fixed for one round: its step and its kind."""

    state: TrainState
    step: int
    reference: bool

    @property
    def path(self) -> str | None:
        """Discriminator path that the generator must fool in this round; None: no adversarial term."""
        for term in self.state.preset.objective(self.reference).active:
            if isinstance(term, Fool):
                return "image" if self.state.heads is None else term.path
        return None

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


def _forward_pass(state: TrainState) -> AbstractContextManager[Any]:
    """Open the run's precision for a forward pass of generator, discriminator or CLIP.

    Opened here only. Outside it, and so in float32, stay styles and demodulation, the RGB skip, R1, losses,
    the perceptual net, the weights, their average and the optimisers (performance.md section 3).
    """
    dtype = PRECISIONS[state.precision]
    return torch.autocast(state.source.const.device.type, dtype) if dtype else nullcontext()


def _drawn(state: TrainState, generator: Generator, codes: Latents, noise: list[Tensor]) -> Images:
    """Render codes in the run's precision; the images have the weights' dtype."""
    styles = generator.affine(codes)
    with _forward_pass(state):
        return generator.render(styles, noise).to(styles[0].dtype)


def _encoded(state: TrainState, images: Images) -> Tensor:
    """Unit CLIP features, computed in the run's precision, of float32 or wider."""
    with _forward_pass(state):
        features = state.target.encoders.clip.encode_images(images)
        return features.to(torch.promote_types(features.dtype, torch.float32))


def start_round(state: TrainState) -> Round:
    """Open the round of the state's current step."""
    return Round(state, state.step, state.preset.schedule.is_reference(state.step))


def phases_due(current: Round) -> list[str]:
    """Name the phases of a round in order; how often each comes is data of the preset."""
    due = ["generator", "average"]
    plan = current.state.preset.discriminator
    if plan is None or current.path is None:
        return due
    return ["discriminator", *(["r1"] if plan.r1_gamma and _r1_due(current) else []), *due]


def _r1_interval(state: TrainState) -> tuple[int, float]:
    """How often R1 comes: every so many steps of its kind, and the same in steps of all kinds."""
    plan, schedule = state.preset.discriminator, state.preset.schedule
    assert plan is not None
    if not (state.preset.profile.r1_on_reference and schedule.reference_steps):
        return plan.r1_every, plan.r1_every
    share = schedule.reference_steps / schedule.cycle
    every = max(1, round(plan.r1_every * share))
    return every, every / share


def _r1_due(current: Round) -> bool:
    state = current.state
    every, _ = _r1_interval(state)
    if state.preset.profile.r1_on_reference and state.preset.schedule.reference_steps:
        return current.reference and state.preset.schedule.references_before(current.step) % every == 0
    return current.step % every == 0


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


def _logits(current: Round, path: str | None, images: Images, purpose: str) -> Tensor:
    """Judge images on a discriminator path: [N, 1] or [N, 1, h, w]."""
    state = current.state
    assert state.discriminator is not None
    if path == "image" or state.heads is None:
        return state.discriminator.score(images)
    head = _head(current, purpose)
    return state.heads(state.discriminator.patch_features(images, head), head)


def _judged(current: Round, path: str | None, images: Images, purpose: str) -> Tensor:
    """Judge images in the run's precision; the logits have the images' dtype, for the losses."""
    with _forward_pass(current.state):
        return _logits(current, path, images, purpose).to(images.dtype)


def _real(current: Round) -> Images:
    """The target once, or a batch of it with random horizontal flips."""
    target = current.state.target.image
    if current.reference:
        return target
    flips = current.state.draws.integers(current.step, "real.flip", 2, (current.batch,)).tolist()
    mirrored = target.flip(3)
    return torch.cat([mirrored if flip else target for flip in flips])


def _optimise(current: Round, names: tuple[str, ...], loss: Tensor, blamed: Callable[[], str]) -> None:
    """Backward and one step of the named optimisers; nothing is changed when loss or gradient is not finite.

    Args:
        current: the round.
        names: of the optimisers.
        loss: scalar with gradient.
        blamed: names what to blame for a gradient that is not finite.
    """
    state = current.state
    if not bool(torch.isfinite(loss)):
        return  # the loop names the term
    optimisers = [state.optimisers[name] for name in names if name in state.optimisers]
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=not state.preset.profile.zero_filled_grads)
    loss.backward()
    trained = [p for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]
    norms = torch._foreach_norm([p.grad for p in trained if p.grad is not None])
    if not bool(torch.isfinite(torch.stack(norms)).all()):
        raise state.broken(f"the gradient of the {blamed()} became NaN or infinite")
    for optimiser in optimisers:
        optimiser.step()


def _update_discriminator(current: Round) -> dict[str, Tensor]:
    with torch.no_grad():
        codes = _codes(current, "discriminator", "discriminator")
        fake = _drawn(current.state, current.state.adapted, codes, _noise(current, "discriminator"))
    fake_logits = _judged(current, current.path, fake, "fake")
    real_logits = _judged(current, current.path, _real(current), "real")
    loss = logistic(real_logits, fake_logits)
    _optimise(current, ("discriminator", "heads"), loss, lambda: "discriminator's loss")
    return {
        "discriminator": loss.detach(),
        "real_score": real_logits.detach().mean(),
        "fake_score": fake_logits.detach().mean(),
    }


def _regularise_discriminator(current: Round) -> dict[str, Tensor]:
    plan = current.state.preset.discriminator
    assert plan is not None
    real = _real(current).detach().requires_grad_(True)
    logits = _logits(current, current.path, real, "r1")
    penalty = r1_penalty(logits, real)
    loss = plan.r1_gamma / 2 * _r1_interval(current.state)[1] * penalty
    if current.state.preset.profile.r1_keeps_score:
        loss = loss + 0 * logits.flatten(1).mean(dim=1)[0]
    _optimise(current, ("discriminator", "heads"), loss, lambda: "discriminator's penalty r1")
    return {"r1": penalty.detach()}


def _update_generator(current: Round) -> dict[str, Tensor]:
    state = current.state
    objective = state.preset.objective(current.reference)
    trained = [p for p in state.adapted.parameters() if p.requires_grad]
    with _frozen(state.discriminator, state.heads):
        total, values = objective(_generator_context(current))
        _optimise(
            current,
            ("adapted",),
            total,
            lambda: f"generator's {objective.blamed(lambda: _generator_context(current), trained)}",
        )
    return {**values, "generator": total.detach()}


def _generator_context(current: Round) -> StepContext:
    """Draw the round's pictures; the same at every call."""
    state = current.state
    profile, objective = state.preset.profile, state.preset.objective(current.reference)
    codes, noise = _codes(current, "adapted", "adapted"), _noise(current, "adapted")
    adapted = _drawn(state, state.adapted, codes, noise)

    def render_source() -> Images:
        """Draw the same latents with the source; the official profile redraws crossover and noise."""
        same_codes = codes if profile.shared_mixing else _codes(current, "adapted", "source")
        same_noise = noise if profile.shared_noise else _noise(current, "source")
        return _drawn(state, state.source, same_codes, same_noise)

    use_dropout = profile.lpips_dropout and current.reference
    context = StepContext(
        target=state.target,
        adapted=adapted,
        logits=lambda path: _judged(current, path, adapted, "adapted"),
        render_source=render_source,
        dropout=derived_generator(state.draws, current.step, "dropout") if use_dropout else None,
        encode=lambda images: _encoded(state, images),
    )
    for term in objective.active:
        if isinstance(term, PatchConsistency):
            context.crops_xy, context.crop_px = _crops(current, term)
    return context


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
