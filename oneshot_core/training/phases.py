"""The phases of one optimiser round, in order: selection of layers, discriminator, its R1 penalty, generator,
its path length, moving average.

A phase that trains is a loss and the networks it moves; `run_phase` takes the step. The memory estimate
computes the same losses on shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..copies import fast_layout
from ..latents import drawn_noise
from ..networks import Generator
from ..objective import MAIN, StepContext, StepDraws, StepKind, View
from ..objective.adversarial import logistic, path_length_penalty, r1_penalty
from ..objective.aim import drawn_place
from ..objective.batches import Batch, CodeRequest
from ..precision import forward_pass
from ..stages import kept
from ..tensors import Images, Latents
from .selection import moving_loss, select, start_codes
from .state import TrainState


@dataclass(frozen=True)
class Round:
    """What is fixed for one round: its step and its kind."""

    state: TrainState
    step: int
    kind: StepKind

    @property
    def path(self) -> str | None:
        """Discriminator path that the generator must fool in this round; None: no adversarial term."""
        path = self.kind.path
        # Below 64 px patch features do not exist; the plan's `small` allowed the image path then.
        return "image" if path is not None and self.state.heads is None else path

    @property
    def draws(self) -> StepDraws:
        """Random numbers of this round."""
        return StepDraws(self.state.draws, self.step)

    @property
    def place(self) -> int:
        """Which of the targets that have a counterpart this round is about."""
        aim = self.state.goal.aim
        return int(drawn_place(aim, max(1, aim.pairs), self.state.draws, self.step, "target"))


@dataclass(frozen=True)
class Update:
    """What a phase wants to do.

    Args:
        loss: scalar with gradient.
        networks: names of the optimisers that step.
        values: unweighted losses by name.
        blamed: names what to blame for a gradient that is not finite.
        done: called after the step.
    """

    loss: Tensor
    networks: tuple[str, ...]
    values: Mapping[str, Tensor]
    blamed: Callable[[], str]
    done: Callable[[], None] = lambda: None


@contextmanager
def _frozen(*modules: nn.Module | None) -> Iterator[None]:
    """Switch gradients off for networks that only pass them through."""
    parameters = [
        p for module in modules if module is not None for p in module.parameters() if p.requires_grad
    ]
    for parameter in parameters:
        # Weights are off while the graph is recorded; that they are on again in backward changes nothing.
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _forward_pass(state: TrainState) -> AbstractContextManager[Any]:
    """Open the run's precision; here only."""
    return forward_pass(state.source.const.device, state.precision)


def _rendered(state: TrainState, generator: Generator, codes: Latents, noise: list[Tensor]) -> Images:
    """Render codes in the run's precision; the images have the weights' dtype."""
    # Outside autocast, which would round what the affine layers give to bfloat16.
    styles = generator.affine(codes)
    with _forward_pass(state):
        return generator.render(styles, noise, state.stage).to(styles[0].dtype)


def _encoded(state: TrainState, index: int, images: Images) -> Tensor:
    """Unit features of a CLIP model, computed in the run's precision, of float32 or wider."""
    with _forward_pass(state):
        features = state.stage(state.clips[index].encode_images, images)
        return features.to(torch.promote_types(features.dtype, torch.float32))


def start_round(state: TrainState) -> Round:
    """Open the round of the state's current step."""
    return Round(state, state.step, state.preset.kind(state.step))


def phases_due(current: Round) -> list[str]:
    """Name the phases of a round in order; how often each comes is data of the preset."""
    preset = current.state.preset
    plan, path = preset.discriminator, preset.path_length
    # Without texts nothing says which layers matter.
    due = ["select"] if preset.selection is not None and current.state.goal.aim.target_texts else []
    if plan is not None and current.path is not None:
        due.append("discriminator")
        # The official order: R1 follows the discriminator's own update and is an update by itself.
        due += ["r1"] if plan.r1_gamma and _r1_due(current) else []
    due.append("generator")
    due += ["path"] if path is not None and path.weight and current.step % path.every == 0 else []
    return due if preset.optimiser.average_half_life is None else [*due, "average"]


def _r1_interval(state: TrainState) -> tuple[str | None, int, float]:
    """When R1 comes: the kind whose steps count (None: all), every so many of them, the same in all steps."""
    plan, preset = state.preset.discriminator, state.preset
    assert plan is not None
    steps = {kind.name: kind.steps for kind in preset.due}
    if plan.r1_kind not in steps:  # counted in all kinds, or in one that this schedule leaves out
        return None, plan.r1_every, plan.r1_every
    # Under the published schedule every 4th reference step, which is the published every 16th (Q10).
    share = steps[plan.r1_kind] / preset.cycle
    every = max(1, round(plan.r1_every * share))
    # Lazy regularisation: R1 weighs as much as the steps it stands for (16 by default).
    return plan.r1_kind, every, every / share


def _r1_due(current: Round) -> bool:
    kind, every, _ = _r1_interval(current.state)
    if kind is None:
        return current.step % every == 0
    return current.kind.name == kind and current.state.preset.count_before(current.step, kind) % every == 0


def run_phase(name: str, current: Round) -> dict[str, Tensor]:
    """Run one phase and return its unweighted losses by name."""
    if name in _ACTIONS:
        _ACTIONS[name](current.state)
        return {}
    update = phase_update(name, current)
    _optimise(current, update)
    update.done()
    return dict(update.values)


def phase_update(name: str, current: Round) -> Update:
    """Compute the loss of a phase that trains, without taking the step."""
    return _UPDATES[name](current)


def _purpose(batch: str, purpose: str) -> str:
    """Purpose of a draw for a batch; the main batch has the plain ones."""
    return purpose if batch == MAIN else f"{batch}.{purpose}"


def _codes(
    current: Round, batch: str, drawing: Generator, purpose: str, plan_of: str, plan: Batch | None = None
) -> Latents:
    """Codes of a generator call, w+ [N, L, W].

    Args:
        current: the round.
        batch: name of the batch.
        drawing: the generator that is called.
        purpose: whose z and mixing decision are used.
        plan_of: whose crossover is used.
        plan: the batch, where it is none of the kind's own.
    """
    state, plan = current.state, plan or current.kind.batches[batch]

    def request(mapper: Generator) -> CodeRequest:
        purposes = _purpose(batch, purpose), _purpose(batch, plan_of)
        return CodeRequest(mapper, state.goal.aim, current.draws, plan.size, *purposes, place=current.place)

    return plan.codes(request, drawing, state.source)


def _noise(current: Round, batch: str, purpose: str) -> list[Tensor]:
    state, size = current.state, current.kind.batches[batch].size
    return drawn_noise(state.source, state.draws, current.step, _purpose(batch, purpose), size)


def _head(current: Round, purpose: str) -> int:
    """Draw a patch head; one per update, or one per call where the plan says so."""
    plan = current.state.preset.discriminator
    assert plan is not None
    # Fake, real and R1 share a head; the published code draws one for each (Q8). The generator has its own.
    shared = plan.one_head_per_update and purpose != "adapted"
    return int(current.draws.integers(f"{'update' if shared else purpose}.head", plan.heads))


def _logits(current: Round, path: str | None, images: Images, purpose: str, parts: int = 1) -> Tensor:
    """Judge images on a discriminator path: [N, 1] or [N, 1, h, w]; see `Discriminator.score` for parts."""
    state = current.state
    assert state.discriminator is not None
    # The generator's phase only passes gradients on through it: none of its weights are computed.
    passing = partial(_frozen, state.discriminator, state.heads) if purpose == "adapted" else nullcontext
    # A 1x1 convolution hands on the layout it is given; in the wrong one all of the first block is slow.
    images = images.contiguous(memory_format=fast_layout(images.device))
    # A graph that is differentiated twice is kept whole.
    stage = kept if purpose == "r1" else partial(state.stage, context=passing)
    with passing():
        if path == "image" or state.heads is None:
            return state.discriminator.score(images, parts=parts, stage=stage)
        # Nothing behind the feature map is computed; the published code runs all blocks, each twice.
        head = _head(current, purpose)
        return state.heads(state.discriminator.patch_features(images, head, stage), head)


def _discriminated(current: Round, path: str | None, images: Images, purpose: str, parts: int = 1) -> Tensor:
    """Judge images in the run's precision; the logits have the images' dtype, for the losses."""
    with _forward_pass(current.state):
        return _logits(current, path, images, purpose, parts).to(images.dtype)


def _both_discriminated(current: Round, fake: Images, real: Images) -> Sequence[Tensor]:
    """Logits of fake and real images, in one pass where it is the same: a batch of both costs less."""
    one_head = current.path == "image" or _head(current, "fake") == _head(current, "real")
    if one_head and len(fake) == len(real):
        return _discriminated(current, current.path, torch.cat([fake, real]), "fake", parts=2).chunk(2)
    return [_discriminated(current, current.path, *one) for one in ((fake, "fake"), (real, "real"))]


def _real(current: Round) -> Images:
    """The target once, or a batch of drawn targets with random horizontal flips."""
    goal, plan = current.state.goal, current.kind.real
    if plan is None or not plan.flips:
        return goal.targets[current.place : current.place + 1]
    # One purpose per step: R1 sees the very pictures that the discriminator's update saw.
    shape = (current.kind.batches[MAIN].size,)
    flips = current.draws.integers("real.flip", 2, shape).tolist()
    places = drawn_place(goal.aim, len(goal.targets), current.state.draws, current.step, "real.index", shape)
    drawn = goal.targets[places.to(goal.targets.device)]
    return torch.stack([one.flip(2) if flip else one for one, flip in zip(drawn, flips, strict=True)])


def _optimise(current: Round, update: Update) -> None:
    """Backward and one step of the named optimisers; nothing changes when loss or gradient is not finite."""
    state = current.state
    if not bool(torch.isfinite(update.loss)):
        return  # the loop names the term
    # Small pictures and image-only methods have no heads.
    optimisers = [state.optimisers[name] for name in update.networks if name in state.optimisers]
    for optimiser in optimisers:
        # Zeros instead of None let layers without a gradient age in Adam: parity with torch 1.7 (Q11).
        optimiser.zero_grad(set_to_none=not state.preset.optimiser.zero_filled_grads)
    update.loss.backward()
    trained = [p for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]
    # One look at the device for all. A norm that overflows counts too: Adam squares what is in it.
    norms = torch._foreach_norm([p.grad for p in trained if p.grad is not None])
    if not norms:
        raise ValueError(f"no gradient reaches what the {current.kind.name} steps train; check the batches")
    if not bool(torch.isfinite(torch.stack(norms)).all()):
        raise state.broken(f"the gradient of the {update.blamed()} became NaN or infinite")
    for optimiser in optimisers:
        optimiser.step()


def _discriminator(current: Round) -> Update:
    state = current.state
    with torch.no_grad():
        # Without a graph: in reference steps the published code goes back through G for nothing (Q12).
        codes = _codes(current, MAIN, state.adapted, "discriminator", "discriminator")
        fake = _rendered(state, state.adapted, codes, _noise(current, MAIN, "discriminator"))
    fake_logits, real_logits = _both_discriminated(current, fake, _real(current))
    loss = logistic(real_logits, fake_logits)
    scores = {"real_score": real_logits.detach().mean(), "fake_score": fake_logits.detach().mean()}
    values = {"discriminator": loss.detach(), **scores}
    # Heads step in reference rounds too, as published; without a gradient Adam skips them.
    return Update(loss, ("discriminator", "heads"), values, lambda: "discriminator's loss")


def _r1(current: Round) -> Update:
    plan = current.state.preset.discriminator
    assert plan is not None
    real = _real(current).detach().requires_grad_(True)
    # Not `_discriminated`: squared gradients stay in float32.
    logits = _logits(current, current.path, real, "r1")
    penalty = r1_penalty(logits, real)
    loss = plan.r1_gamma / 2 * _r1_interval(current.state)[2] * penalty
    if plan.r1_keeps_score:
        # As rosinality's train.py: what R1 has no gradient for, such as the last bias, gets zeros.
        loss = loss + 0 * logits.flatten(1).mean(dim=1)[0]
    values = {"r1": penalty.detach()}
    return Update(loss, ("discriminator", "heads"), values, lambda: "discriminator's penalty r1")


def _view(current: Round, name: str) -> View:
    """The pictures of a batch, drawn when a term first asks for them."""
    state, batch = current.state, current.kind.batches[name]
    # Other latents and noise than the discriminator's update: reusing its pictures would be another method.
    codes = _codes(current, name, state.adapted, "adapted", "adapted")
    noise = _noise(current, name, "adapted")

    def of_source() -> tuple[Latents, list[Tensor]]:
        """Codes and noise for the same latents; the official profile redraws crossover and noise."""
        plan_of = "adapted" if batch.shared_mixing else "source"
        # Repaired Q1 and Q2: with an own crossover the consistency terms compared pictures of other codes.
        own_codes = codes if batch.shared_codes else _codes(current, name, state.source, "adapted", plan_of)
        return own_codes, noise if batch.shared_noise else _noise(current, name, "source")

    def source() -> Images:
        return _rendered(state, state.source, *of_source())

    def features(adapted: bool, count: int) -> list[Tensor]:
        drawing, given = (state.adapted, (codes, noise)) if adapted else (state.source, of_source())
        styles = drawing.affine(given[0])
        with _forward_pass(state):
            found = drawing.render_features(styles, given[1], count, state.stage)
        return [one.to(styles[0].dtype) for one in found]

    return View(
        lambda: _rendered(state, state.adapted, codes, noise),
        source,
        lambda index, images: _encoded(state, index, images),
        features,
        batch.size,
        len(state.source.convs),
    )


def _generator(current: Round) -> Update:
    state, objective = current.state, current.kind.objective
    total, values = objective(_context(current))

    def blamed() -> str:
        trained = [p for p in state.adapted.parameters() if p.requires_grad]
        return f"generator's {objective.blamed(lambda: _context(current), trained)}"

    return Update(total, ("adapted",), {**values, "generator": total.detach()}, blamed)


def _context(current: Round) -> StepContext:
    """What the round's terms see; the same at every call."""
    state = current.state
    views = {name: _view(current, name) for name in current.kind.batches}
    return StepContext(
        goal=state.goal,
        views=views,
        draws=current.draws,
        encode=lambda index, images: _encoded(state, index, images),
        logits=lambda path: _discriminated(current, path, views[MAIN].adapted, "adapted"),
        place=current.place,
    )


def _path(current: Round) -> Update:
    state, plan = current.state, current.state.preset.path_length
    assert plan is not None
    batch = plan.batch(current.kind.batches[MAIN])
    codes = _codes(current, MAIN, state.adapted, "path", "path", batch)
    # A mapping that is not trained leaves codes without a graph, which lengths need.
    codes = codes if codes.requires_grad else codes.detach().requires_grad_(True)
    noise = drawn_noise(state.source, state.draws, current.step, "path", batch.size)
    # Neither autocast nor stages: the graph is differentiated twice, in float32.
    images = state.adapted.synthesize(codes, noise)
    direction = current.draws.normal("path.direction", tuple(images.shape)).to(images)
    penalty, mean, lengths = path_length_penalty(images, codes, direction, state.path_mean, plan.decay)
    loss = plan.weight * plan.every * penalty
    if plan.keeps_picture:
        loss = loss + 0 * images[0, 0, 0, 0]
    values = {"path": penalty.detach(), "path_length": lengths.detach().mean()}

    def done() -> None:
        state.path_mean = mean

    return Update(loss, ("adapted",), values, lambda: "generator's penalty path", done)


def _select(state: TrainState) -> None:
    """Choose the layers that are trained in this step."""
    select(state, partial(_rendered, state, state.adapted), partial(_encoded, state))


def selection_loss(current: Round) -> Tensor:
    """What the selection of layers computes, for an estimate of its memory."""
    state = current.state
    codes = start_codes(state).requires_grad_(True)
    return moving_loss(state, codes, 0, partial(_rendered, state, state.adapted), partial(_encoded, state))


@torch.no_grad()
def _update_average(state: TrainState) -> None:
    """Move every parameter of the average towards the trained one; parameters only, never buffers."""
    averaged, trained = _parameters(state.ema), _parameters(state.adapted)
    # Frozen ones too: where training starts from the raw weights, their average moves there (Q22).
    torch._foreach_lerp_(averaged, trained, 1 - state.preset.optimiser.average_decay(state.step))


def _parameters(generator: Generator) -> list[Tensor]:
    return [parameter.data for parameter in generator.parameters()]


_UPDATES: dict[str, Callable[[Round], Update]] = {
    "discriminator": _discriminator,
    "r1": _r1,
    "generator": _generator,
    "path": _path,
}
_ACTIONS: dict[str, Callable[[TrainState], None]] = {"select": _select, "average": _update_average}
