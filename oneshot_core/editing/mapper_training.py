"""Training of latent mappers: the step on drawn or given latents, validation, a state to go on from.

Source: StyleCLIP (arXiv 2103.17249) section 5; orpatashnik/StyleCLIP mapper/training/coach.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..batches import check_chunk
from ..checkpoints import GeneratorBundle, check_family
from ..draws import SeededDraws
from ..features import ClipEncoder
from ..features.identity import IdentityNet
from ..fingerprints import encoder_fingerprint, fingerprint, latent_fingerprint, network_fingerprint
from ..latent_optimiser import StepProgress
from ..latents import Latent, truncate
from ..memory import check_memory
from ..pace import Pace
from ..saved_states import DamagedState, SavedState, StateError, StateFile, run_saved
from ..tensors import Images, check_weights, gradients, is_finite, owned
from ..threads import ThreadWatch
from ..training.memory import editing_step_bytes
from .goal import TextGoal, check_legacy
from .mapper import LatentMapper, MapperNet, fresh_net
from .mapper_config import MapperConfig, MapperLoss
from .optimisation import check_identity, check_texts
from .ranger import Ranger, RangerPlan
from .spaces import Variable, edit_widths

log = logging.getLogger(__name__)

STATE_FORMAT, STATE_VERSION = "oneshot-mapper-training", 1
MOMENTS = 12  # copies of the weights in a step: gradient, four of the state, the best, what is saved of them


@dataclass(frozen=True)
class MapperResult:
    """A trained mapper.

    Args:
        mapper: as it was at the best validation.
        losses: per term one value per step; "validation", the weighted sum on latents that no step trains
            on, is NaN where a step has none.
        best_step: after which the mapper was taken.
    """

    mapper: LatentMapper
    losses: dict[str, list[float]]
    best_step: int


def train_mapper(  # noqa: PLR0913 - what to train for on what, and how to follow it
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    text: str,
    config: MapperConfig | None = None,
    *,
    latents: Latent | None = None,
    neutral_text: str = "",
    identity: IdentityNet | None = None,
    callbacks: Sequence[Callable[[StepProgress], None]] = (),
    state_file: Path | str | None = None,
) -> MapperResult:
    """Train a mapper for one text.

    Args:
        bundle: who draws; on the device of the training.
        clip: reads pictures and text, on that device.
        text: what pictures are to show.
        config: settings; default `MapperConfig()`.
        latents: codes to train on, such as inverted pictures; the last ones are held back for validation.
            None: latents are drawn and truncated, the same w in all slots. Train on the kind of codes that
            the mapper is for: it sees those of inversions, whose slots differ, otherwise (see `Mlp`).
        neutral_text: see `edit_latents`.
        identity: recognises faces, on that device.
        callbacks: called after every step; one that raises stops the training.
        state_file: where it is saved every minute and at any end; a file found there with the same settings
            is resumed and gives what an uninterrupted training would have given. None: nothing is written.

    Returns:
        The mapper of the best validation, and the losses.

    Raises:
        ValueError: something does not fit or is not finite; the state file has other settings or more steps.
        FloatingPointError: a loss, a gradient or a weight is not finite; the message names step and seed.
    """
    config = config or MapperConfig()
    check_mapper_training(bundle, clip, text, neutral_text, config, latents, identity)
    with gradients():
        goal = TextGoal.of(clip, text, neutral_text, config.preprocessing, config.views, config.seed)
        loss = MapperLoss(goal, config.weights(identity), identity)
        training = _Training(bundle, loss, config, latents, {"text": text, "neutral_text": neutral_text})
        states = None if state_file is None else training_states(state_file)
        return run_saved(training, states, callbacks)


def training_states(path: Path | str) -> StateFile:
    """The state of a training at a path, and the one before it."""
    return StateFile(Path(path), STATE_FORMAT, STATE_VERSION, "a mapper's training")


def check_mapper_training(
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    text: str,
    neutral_text: str,
    config: MapperConfig,
    latents: Latent | None = None,
    identity: IdentityNet | None = None,
) -> None:
    """Refuse what a mapper cannot be trained with, before any work; see `train_mapper`. Raises ValueError."""
    if not text.strip():
        raise ValueError('the text is empty; say what the pictures are to show, such as "a smiling face"')
    weights = config.weights(identity)
    if not any(weights.values()):
        raise ValueError("every term of the mapper's loss has the weight 0; give one of them a weight")
    check_identity(weights["identity"], identity)
    check_texts(clip, text, neutral_text)
    if config.preprocessing == "legacy":
        check_legacy(bundle.size, clip.preprocess.image_size)
    bundle.check_finite()
    check_weights(clip, f"the CLIP model {clip.name}", "load its file again, or use another")
    if latents is not None:
        check_family(latents, bundle)
        if len(latents.values) <= config.validation_codes:
            raise ValueError(
                f"there are {len(latents.values)} latents, of which {config.validation_codes} are held back "
                "(validation_codes); give more, or hold back fewer"
            )
    elif bundle.generator.config.c_dim:
        raise ValueError(f"{bundle.title} needs a class for random latents; give latents to train on")
    MapperNet(config.space, edit_widths(bundle.generator, config.space), config.groups(bundle.generator))
    check_chunk(bundle, config.batch_size)
    if bundle.generator.const.device.type == "cpu" and isinstance(clip, torch.nn.Module):
        asked = identity if weights["identity"] else None
        needed = editing_step_bytes(bundle, clip, config.batch_size, config.views, identity=asked)
        what = f"a step of the mapper's training on {config.batch_size} latents"
        check_memory(needed + MOMENTS * _net_bytes(bundle, config), what, "lower batch_size")


def _net_bytes(bundle: GeneratorBundle, config: MapperConfig) -> int:
    generator = bundle.generator
    net = MapperNet(config.space, edit_widths(generator, config.space), config.groups(generator))
    return 4 * sum(value.numel() for value in net.parameters())


class _Training:
    """One training: the network, its optimiser, the best so far, and where latents come from."""

    def __init__(
        self,
        bundle: GeneratorBundle,
        loss: MapperLoss,
        config: MapperConfig,
        latents: Latent | None,
        texts: Mapping[str, str],
    ) -> None:
        self.bundle, self.loss, self.config, self.texts = bundle, loss, config, dict(texts)
        generator = self.generator = bundle.generator
        self.draws, self.noise = SeededDraws(config.seed), generator.constant_noise()
        widths = edit_widths(generator, config.space)
        net = fresh_net(config.space, widths, config.groups(generator), config.seed)
        self.net = net.to(generator.const.device, generator.const.dtype)
        plan = RangerPlan(learning_rate=config.learning_rate)
        self.optimiser: torch.optim.Optimizer = (
            Ranger(self.net.parameters(), plan)
            if config.optimiser == "ranger"
            else torch.optim.Adam(self.net.parameters(), lr=config.learning_rate)
        )
        self.given = latents
        count = 0 if latents is None else len(latents.values) - config.validation_codes
        self.train = None if latents is None else latents.part(slice(0, count))
        self.held = (
            self._drawn("mapper.validation", 0, config.validation_codes)
            if latents is None
            else latents.part(slice(count, None))
        )
        self.best: dict[str, Tensor] = {}
        self.step, self.saved_step, self.amid_step = 0, -1, False
        self.history: dict[str, list[float]] = {}
        self._settings: dict[str, Any] | None = None

    def _drawn(self, purpose: str, step: int, count: int) -> Latent:
        """Truncated random codes in w."""
        z = self.draws.normal(step, purpose, (count, self.generator.config.z_dim))
        with torch.no_grad():
            w = self.generator.map_single(z.to(self.generator.const))
            w = truncate(w, self.bundle.mean_latent, self.config.psi)
        return Latent("w", owned(w), self.bundle.family)

    def _batch(self, step: int) -> Latent:
        """What a step trains on: drawn, or chosen among those given."""
        count = self.config.batch_size
        if self.train is None:
            return self._drawn("mapper.z", step, count)
        chosen = self.draws.integers(step, "mapper.index", len(self.train.values), (count,))
        edits = tuple(edit.mapped(lambda vector: vector[chosen]) for edit in self.train.edits)
        return replace(self.train, values=self.train.values[chosen], edits=edits)

    def losses(self, latent: Latent, step: int) -> tuple[Tensor, dict[str, Tensor], Images]:
        """Weighted sum, terms and pictures of a latent's codes with the network as it is."""
        variable = Variable.of(self.generator, self.config.space, latent)
        with torch.no_grad():
            before = variable.render(variable.start, self.noise)
        given = self.net([owned(part) for part in variable.parts])
        values, added = variable.moved({key: self.config.step * one for key, one in given.items()})
        images = variable.render(values, self.noise)
        total, terms = self.loss(images, before, added, step)
        return total, terms, images.detach()

    def run(self, callbacks: Sequence[Callable[[StepProgress], None]]) -> MapperResult:
        """Run all steps."""
        steps = self.config.steps
        pace = Pace(steps, self.step)
        with ThreadWatch(self.generator.const.device, "training") as watch:
            while self.step < steps:
                watch.begin()
                images, values = self._one_step()
                watch.end(self.step + 1)
                self._record(values)
                self.step += 1
                self.amid_step = False
                told = {name: value for name, value in values.items() if value == value}  # no NaN
                preview, left = partial(torch.clone, images), pace.left(self.step)
                now = StepProgress(self.step, steps, told, left, preview, notes=watch.notes)
                for callback in callbacks:
                    callback(now)
        return self._result()

    def _one_step(self) -> tuple[Images, dict[str, float]]:
        step, number = self.step, self.step + 1
        total, terms, images = self.losses(self._batch(step), step)
        values = {name: float(value.detach()) for name, value in terms.items()}
        self._check("loss", total, step)
        self.optimiser.zero_grad(set_to_none=True)
        parameters = list(self.net.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
            self._check("gradient", gradient, step)
            parameter.grad = gradient
        self.amid_step = True
        self.optimiser.step()
        for parameter in parameters:
            self._check("weight", parameter.detach(), step)
        due = number % self.config.validate_every == 0 or number == self.config.steps
        values["validation"] = self._validated(step) if due else float("nan")
        return images, values

    def _validated(self, step: int) -> float:
        """Loss on the latents that were held back; the network is kept when it is the lowest so far."""
        count, size = len(self.held.values), self.config.batch_size
        total = 0.0
        with torch.no_grad():
            for first in range(0, count, size):
                part = self.held.part(slice(first, first + size))
                total += float(self.losses(part, 0)[0]) * len(part.values)
        loss = total / count
        self._check("validation loss", torch.tensor(loss), step)
        if not self.best or loss < min(value for value in self.history["validation"] if value == value):
            self.best = {name: owned(value) for name, value in self.net.state_dict().items()}
        return loss

    def _record(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)

    def _check(self, what: str, values: Tensor, step: int) -> None:
        if not is_finite(values):
            raise FloatingPointError(
                f"the {what} of the mapper's training became NaN or infinite at step {step} (seed "
                f"{self.config.seed}); lower the learning rate or a weight, or change the seed"
            )

    def _result(self) -> MapperResult:
        curve = self.history["validation"]
        places = [index for index, value in enumerate(curve) if value == value]
        best = min(places, key=lambda index: curve[index])
        groups, widths = self.net.groups, self.net.widths
        net = MapperNet(self.config.space, widths, groups)
        net.load_state_dict(
            {name: owned(value).float().cpu() for name, value in self.best.items()}, assign=True
        )
        mapper = LatentMapper(
            net.eval().requires_grad_(False), self.config.step,
            text=self.texts["text"], neutral_text=self.texts["neutral_text"],
            clip=self.loss.goal.clip.name if self.loss.goal else "", measured=self.bundle.title,
            fingerprint=network_fingerprint(self.generator), family=self.bundle.family,
        )  # fmt: skip
        return MapperResult(mapper, dict(self.history), best + 1)

    @property
    def settings(self) -> dict[str, Any]:
        """What determines the training, but for the number of steps."""
        if self._settings is None:
            described = {name: value for name, value in self.config.describe().items() if name != "steps"}
            described["identity_weight"] = self.loss.weights["identity"]
            goal, who = self.loss.goal, self.loss.identity
            inputs = {
                "source": network_fingerprint(self.generator),
                "mean": fingerprint({"mean": self.bundle.mean_latent}),
                "clip": encoder_fingerprint(goal.clip) if goal else "",
                "identity": encoder_fingerprint(who) if self.loss.weights["identity"] else "",
                "latents": "" if self.given is None else latent_fingerprint(self.given),
                **self.texts,
            }
            self._settings = json.loads(json.dumps({"mapper": described, "inputs": inputs}))
        return self._settings

    def save(self, states: StateFile) -> None:
        """Write the state; atomic. Nothing amid a step, and no step twice; never what is not finite."""
        if self.amid_step or self.step == self.saved_step:
            return
        tensors = {
            **{f"net.{name}": value for name, value in self.net.state_dict().items()},
            **{f"best.{name}": value for name, value in self.best.items()},
            **self._moments(),
        }
        if not all(map(is_finite, tensors.values())):
            log.warning("the mapper is not finite after step %d; its saved state was left", self.step)
            return
        states.save(SavedState(self.step, self.settings, tensors, self.history))
        self.saved_step = self.step

    def _moments(self) -> dict[str, Tensor]:
        """What the optimiser keeps, by names of weights."""
        return {
            f"moment.{name}.{key}": value
            for name, parameter in self.net.named_parameters()
            for key, value in self.optimiser.state.get(parameter, {}).items()
        }

    def _like_moments(self) -> dict[str, Tensor]:
        keys = ("exp_avg", "exp_avg_sq", *(("slow",) if self.config.optimiser == "ranger" else ()))
        like: dict[str, Tensor] = {}
        for name, parameter in self.net.named_parameters():
            like[f"moment.{name}.step"] = torch.zeros(())
            like |= {f"moment.{name}.{key}": parameter.detach() for key in keys}
        return like

    def restore(self, states: StateFile, path: Path) -> None:
        """Continue from a saved training; a bad one changes nothing.

        Raises:
            DamagedState: a StateError too: the file is damaged, or its parts do not fit together.
            StateError: it has other settings or more steps.
        """
        own = self.net.state_dict()
        like = {f"net.{name}": value for name, value in own.items()}
        best = {f"best.{name}": value for name, value in own.items()}
        moments = self._like_moments()
        saved = states.read(path, self.settings, like, [best, moments], allow_nan=True)
        if saved.step > self.config.steps:
            raise StateError(
                f"{path} holds a training of {saved.step} steps, asked for {self.config.steps}; ask for at "
                "least as many, or use another folder"
            )
        curve = saved.history.get("validation", [])
        validated = any(value == value for value in curve)
        whole = (
            bool(saved.step)
            == any(name in saved.tensors for name in moments)
            == ("validation" in saved.history)
        )
        if not whole or validated != any(name in saved.tensors for name in best):
            raise DamagedState(f"{path}: its curves and moments are not those of {saved.step} steps")
        self._take(saved)

    def _take(self, saved: SavedState) -> None:
        tensors = saved.tensors
        self.net.load_state_dict({name: tensors[f"net.{name}"] for name in self.net.state_dict()})
        self.best = {
            name: owned(tensors[f"best.{name}"])
            for name in self.net.state_dict()
            if f"best.{name}" in tensors
        }
        if saved.step:
            for name, parameter in self.net.named_parameters():
                start = f"moment.{name}."
                self.optimiser.state[parameter] = {
                    key.removeprefix(start): owned(value).to(parameter.device if "step" not in key else "cpu")
                    for key, value in tensors.items()
                    if key.startswith(start)
                }
        self.step = self.saved_step = saved.step
        self.history = {name: list(values) for name, values in saved.history.items()}
