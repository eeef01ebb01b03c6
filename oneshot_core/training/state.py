"""What a run consists of: networks, optimisers, moving average, step, losses; how it is saved and resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import GeneratorBundle
from ..copies import fast_layout, private_copy
from ..draws import Draws
from ..features import Encoders, check_encoders, clips_for
from ..latents import drawn_noise
from ..networks import Discriminator, DiscriminatorConfig, Generator, PatchHeads
from ..objective import Aim, AimFeatures, Preset
from ..precision import PRECISIONS, check_precision, precision_setting
from ..saved_states import SavedState, StateFile
from ..stages import Stage, kept
from ..tensors import gradients, is_finite
from .checks import check_run, trained_generator, uses_heads

STATE_FORMAT = "oneshot-run"
STATE_VERSION = 3
PATH_MEAN = "path.mean"


@dataclass
class TrainState:
    """The running state of an adaptation.

    Args:
        preset: the method.
        source: frozen source generator.
        adapted: the generator that is trained.
        ema: its moving average, the result; the trained generator itself for methods without an average.
        discriminator: None for methods without one.
        heads: patch heads; None where no patch path is used.
        goal: what is aimed at, with cached features.
        draws: where random numbers come from.
        settings: JSON of everything that determines the result; a saved state of other settings is refused.
        step: steps done.
        precision: of forward passes, a key of `PRECISIONS`.
        stage: runs parts of the networks; decides what of them is kept for the backward pass.
        history: per logged name the value of each step; NaN where a step does not compute it.
        amid_step: whether some networks are a phase ahead of the others, a state not to be saved.
        path_mean: running mean of path lengths, scalar, where they are regularised.
    """

    preset: Preset
    source: Generator
    adapted: Generator
    ema: Generator
    discriminator: Discriminator | None
    heads: PatchHeads | None
    goal: AimFeatures
    draws: Draws
    settings: dict[str, Any]
    step: int = 0
    precision: str = "float32"
    stage: Stage = kept

    def __post_init__(self) -> None:
        check_precision(self.precision)
        self.history: dict[str, list[float]] = {}
        self.about: dict[str, Any] = {}  # JSON values for the headers of what comes out of it
        self.notes: tuple[str, ...] = ()  # for the user, about how the run goes
        self.amid_step = False
        self.path_mean = torch.zeros((), dtype=torch.float32).to(self.source.const)
        self.chosen: list[int] = []  # slots of the layers that the step trains, where they are selected
        self.clips = clips_for(self.goal.encoders, PRECISIONS[self.precision])
        plan = self.preset.optimiser
        self.optimisers: dict[str, torch.optim.Adam] = {
            # All parameters, frozen ones too, as published: those never have a gradient and are skipped.
            "adapted": _adam(self.adapted, plan.adam(plan.generator_ratio))
        }
        if (other := self.preset.discriminator) is not None:
            settings = plan.adam(other.ratio, other.learning_rate)
            for name, module in (("discriminator", self.discriminator), ("heads", self.heads)):
                if module is not None:
                    self.optimisers[name] = _adam(module, settings)

    @classmethod
    # Parameters made in ComfyUI's inference mode could not be trained (comfyui.md 3.1).
    @torch.inference_mode(False)
    def create(
        cls,
        bundle: GeneratorBundle,
        encoders: Encoders,
        aim: Aim,
        preset: Preset,
        draws: Draws,
        settings: Mapping[str, Any] | None = None,
        precision: str = "float32",
        device: torch.device | str | None = None,
    ) -> TrainState:
        """Set up a run: private copies of the networks that are trained, fresh patch heads, fresh optimisers.

        Args:
            bundle: the source; it is not changed.
            encoders: CLIP models and perceptual net, on the device.
            aim: what the preset needs of it; see `Preset.needs`.
            preset: the method.
            draws: where random numbers come from, also the initial weights of the patch heads.
            settings: what determines the result; a saved state of other settings is refused.
            precision: of forward passes: "float32", or "bfloat16" under autocast.
            device: where to train; None: where the generator is.

        Raises:
            ValueError: aim or discriminator do not fit the preset or the generator, or the device does not
                know the precision.
        """
        check_run(bundle, aim, preset)
        check_encoders(encoders)
        start = trained_generator(bundle, preset)
        place = start.const.device if device is None else torch.device(device)
        check_precision(precision, place)
        layout = fast_layout(place)
        # The source too: in another layout its pictures would differ from the untrained copy's in last bits.
        source, adapted = (private_copy(start, place, layout) for _ in range(2))
        trained = preset.trainable.names(adapted)
        for name, parameter in adapted.named_parameters():
            parameter.requires_grad_(name in trained)
        averaged = preset.optimiser.average_half_life is not None
        discriminator = heads = None
        if preset.needs.path is not None:
            assert bundle.discriminator is not None
            discriminator = private_copy(bundle.discriminator, place, layout).requires_grad_(True)
            if uses_heads(preset, bundle.size):
                heads = fresh_heads(discriminator.config, draws).to(source.const)
        return cls(
            preset=preset,
            source=source,
            adapted=adapted,
            # From `g_ema` even where training starts from the raw `g`, as published (Q22).
            ema=private_copy(bundle.generator, place, layout) if averaged else adapted,
            discriminator=discriminator,
            heads=heads,
            # Copies: the caller's may be inference tensors.
            goal=AimFeatures(aim.to(source.const), encoders, partial(_source_pictures, source, draws)),
            draws=draws,
            settings=dict(settings or {}) | precision_setting(precision),
            precision=precision,
        )

    @property
    def place(self) -> str:
        """Step and seed, for messages."""
        seed = self.settings.get("seed")
        return f"step {self.step}" + ("" if seed is None else f" (seed {seed})")

    def broken(self, what: str) -> FloatingPointError:
        """Make the error of a step that turned something into NaN or infinity; says what to change."""
        precision = "" if self.precision == "float32" else ", use precision float32"
        return FloatingPointError(
            f"{what} at {self.place}; what was saved before is good, but the same run breaks there again: "
            f"lower the learning rate or the weight of that term{precision}, or change the seed"
        )

    def check_finite(self) -> None:
        """Refuse a state of which a weight is NaN or infinite.

        Raises:
            FloatingPointError: naming the first such weight, the step and the seed.
        """
        for label, module in self._modules():
            for name, value in module.state_dict().items():
                if not is_finite(value):
                    raise self.broken(f"the weight {label}.{name} became NaN or infinite before")

    def record(self, losses: Mapping[str, float]) -> None:
        """Append the losses of the step that is under way; names that it lacks get NaN."""
        # Reference and random steps have other terms; gaps keep all curves as long as the run.
        for name in losses:
            self.history.setdefault(name, [float("nan")] * self.step)
        for name, values in self.history.items():
            values.append(losses.get(name, float("nan")))

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        yield "adapted", self.adapted
        if self.ema is not self.adapted:
            yield "ema", self.ema
        if self.discriminator is not None:
            yield "discriminator", self.discriminator
        if self.heads is not None:
            yield "heads", self.heads

    def networks(self) -> list[nn.Module]:
        """The networks that the run owns."""
        return [module for _, module in self._modules()]

    @torch.inference_mode(False)
    def freeze(self) -> None:
        """End the training: no network takes gradients any more, and weights lie as in a file's network."""
        for _, module in self._modules():
            module.requires_grad_(False)
            module.zero_grad(set_to_none=True)
            # Else its pictures would differ in last bits from those of the same weights out of a file.
            module.to(memory_format=torch.contiguous_format)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the run by a flat name; the frozen source is not among them."""
        # Its fingerprint is in the settings; a state of another source is refused.
        found = self._networks()
        for prefix, optimiser in self.optimisers.items():
            for index, values in optimiser.state_dict()["state"].items():
                found |= {f"adam.{prefix}.{index}.{name}": value for name, value in values.items()}
        return found

    def _networks(self) -> dict[str, Tensor]:
        found = {
            f"{prefix}.{name}": value
            for prefix, module in self._modules()
            for name, value in module.state_dict().items()
        }
        return found if self.preset.path_length is None else {**found, PATH_MEAN: self.path_mean}

    def save(self, path: Path | str) -> None:
        """Write everything that is needed to go on exactly; atomic, the state before it is kept beside it.

        Raises:
            FloatingPointError: a weight is NaN or infinite; the file that is there is left alone.
            WriteError: the disk refuses.
        """
        # A step that broke must not replace the last good state.
        tensors = self.tensors()
        for name, value in tensors.items():
            if not is_finite(value):
                raise self.broken(f"{name} is not finite, so the state was not saved")
        state_file(path).save(SavedState(self.step, self.settings, tensors, self.history))

    def restore(self, path: Path | str) -> None:
        """Continue from a saved state; a bad one changes nothing.

        Raises:
            DamagedState: a StateError too: the file is damaged, or its parts do not fit together.
            StateError: the file is not a saved run, or was made with other settings; then the message names
                the first that differ.
        """
        path = Path(path)
        saved = state_file(path).read(
            path, self.settings, self._networks(), list(self._moments()), allow_nan=True
        )
        with gradients():  # in inference mode, which callers may be in, Adam could not go on with them
            self._load(saved.tensors)
        self.step, self.history = saved.step, dict(saved.history)

    def _moments(self) -> Iterator[dict[str, Tensor]]:
        """What Adam keeps of each parameter, by name, as tensors of the right shape and type."""
        for prefix, optimiser in self.optimisers.items():
            parameters = [value for group in optimiser.param_groups for value in group["params"]]
            # Adam numbers parameters by their place: their order is part of the file's format.
            for index, parameter in enumerate(parameters):
                place = f"adam.{prefix}.{index}"
                yield {
                    f"{place}.step": torch.zeros(()),
                    f"{place}.exp_avg": parameter.detach(),
                    f"{place}.exp_avg_sq": parameter.detach(),
                }

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        if PATH_MEAN in tensors:
            self.path_mean = tensors[PATH_MEAN].to(self.path_mean).clone()
        for prefix, module in self._modules():
            start = f"{prefix}."
            part = {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
            module.load_state_dict(part)
        for prefix, optimiser in self.optimisers.items():
            _load_adam(optimiser, f"adam.{prefix}.", tensors, self.preset.optimiser.zero_filled_grads)


def _source_pictures(source: Generator, draws: Draws, count: int) -> Tensor:
    """Pictures [N, 3, S, S] of the source for latents that are the same throughout a run; no gradient."""
    z = draws.normal(0, "direction.z", (count, source.config.z_dim)).to(source.const)
    with torch.no_grad():
        return source.synthesize(source.map(z), drawn_noise(source, draws, 0, "direction", count))


def state_file(path: Path | str) -> StateFile:
    """The state of a run at a path, and the one before it."""
    return StateFile(Path(path), STATE_FORMAT, STATE_VERSION, "a saved run")


def fresh_heads(config: DiscriminatorConfig, draws: Draws) -> PatchHeads:
    """Make patch heads with drawn N(0, 1) weights and zero biases."""
    heads = PatchHeads(config)
    with torch.no_grad():
        # Their constructor drew from torch's global state; a seed must fix them.
        for index, head in enumerate(heads.heads):
            head.weight.copy_(draws.normal(0, f"heads.{index}.weight", head.weight.shape))
    return heads


def _adam(module: nn.Module, settings: Mapping[str, Any]) -> torch.optim.Adam:
    parameters = list(module.parameters())
    # One kernel for all: the step itself took 3.4 times as long unfused on a CPU.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return torch.optim.Adam(parameters, eps=1e-8, fused=fused, **settings)


def _load_adam(
    optimiser: torch.optim.Adam, prefix: str, tensors: Mapping[str, Tensor], zero_filled: bool
) -> None:
    """Put saved moments back; under zero-filled gradients also the zero gradients of what was trained."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            index, key = name[len(prefix) :].split(".", 1)
            # Ordinary tensors, even if the file was read in inference mode, in the memory format of what they
            # move: the fused kernel walks through both by address.
            like = parameters[int(index)] if value.ndim == 4 else value
            moment = torch.empty_like(like, dtype=value.dtype, device=value.device, requires_grad=False)
            states.setdefault(int(index), {})[key] = moment.copy_(value)
    saved = optimiser.state_dict()
    optimiser.load_state_dict({"state": states, "param_groups": saved["param_groups"]})
    # An uninterrupted run holds zeros there, not None, and Adam ages what has zeros (Q11).
    if zero_filled:
        for position in states:
            parameters[position].grad = torch.zeros_like(parameters[position])
