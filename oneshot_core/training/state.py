"""Everything a run consists of: networks, optimisers, moving average, step and losses; saving and resuming
it."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import CheckpointError, GeneratorBundle
from ..checkpoints.native import read_tensors, write_tensors
from ..draws import Draws
from ..features import Encoders
from ..latents import Latent
from ..networks import Discriminator, DiscriminatorConfig, Generator, PatchHeads
from ..objective import MAIN, Aim, AimFeatures, Preset
from ..sampling import check_family
from ..tensors import check_shape, gradients
from .fingerprints import clip_fingerprints, encoder_fingerprint, fingerprint, network_fingerprint

STATE_FORMAT = "oneshot-run"
STATE_VERSION = 1
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}  # of forward passes: autocast to what; None: none


class StateError(CheckpointError):
    """A saved run that cannot go on: damaged, no saved run at all, or one with other settings."""


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
        history: per logged name the value of each step; NaN where a step does not compute it.
        amid_step: whether some networks are a phase ahead of the others, a state not to be saved.
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

    def __post_init__(self) -> None:
        check_precision(self.precision)
        self.history: dict[str, list[float]] = {}
        self.amid_step = False
        plan = self.preset.optimiser
        self.optimisers: dict[str, torch.optim.Adam] = {
            "adapted": _adam(self.adapted, plan.adam(plan.generator_ratio))
        }
        if self.preset.discriminator is not None:
            settings = plan.adam(self.preset.discriminator.ratio)
            for name, module in (("discriminator", self.discriminator), ("heads", self.heads)):
                if module is not None:
                    self.optimisers[name] = _adam(module, settings)

    @classmethod
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

        The source generator is only read, so it is no copy where it is on the device already.

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
        start = _trained(bundle, preset)
        place = start.const.device if device is None else torch.device(device)
        check_precision(precision, place)
        source = start if start.const.device == place else private_copy(start, place)
        adapted = private_copy(start, place)
        trained = preset.trainable.names(adapted)
        for name, parameter in adapted.named_parameters():
            parameter.requires_grad_(name in trained)
        averaged = preset.optimiser.average_half_life is not None
        discriminator = heads = None
        if preset.needs.path is not None:
            assert bundle.discriminator is not None
            discriminator = private_copy(bundle.discriminator, place).requires_grad_(True)
            if _uses_heads(preset, bundle.size):
                heads = fresh_heads(discriminator.config, draws).to(source.const)
        return cls(
            preset=preset,
            source=source,
            adapted=adapted,
            ema=private_copy(bundle.generator, place) if averaged else adapted,
            discriminator=discriminator,
            heads=heads,
            goal=AimFeatures(aim.to(source.const), encoders),
            draws=draws,
            settings=dict(settings or {}) | precision_setting(precision),
            precision=precision,
        )

    def record(self, losses: Mapping[str, float]) -> None:
        """Append the losses of the step that is under way; names that it lacks get NaN."""
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

    def freeze(self) -> None:
        """End the training: no network takes gradients any more."""
        for _, module in self._modules():
            module.requires_grad_(False)
            module.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the run by a flat name; the frozen source is not among them."""
        found = {
            f"{prefix}.{name}": value
            for prefix, module in self._modules()
            for name, value in module.state_dict().items()
        }
        for prefix, optimiser in self.optimisers.items():
            for index, values in optimiser.state_dict()["state"].items():
                found |= {f"adam.{prefix}.{index}.{name}": value for name, value in values.items()}
        for name, history in self.history.items():
            found[f"history.{name}"] = torch.tensor(history, dtype=torch.float64)
        return found

    def save(self, path: Path | str) -> None:
        """Write everything that is needed to go on exactly; atomic.

        Raises:
            FloatingPointError: a weight is NaN or infinite; the file that is there is left alone.
        """
        tensors = {name: value.detach().cpu() for name, value in self.tensors().items()}
        for name, value in tensors.items():
            if not name.startswith("history.") and not bool(torch.isfinite(value).all()):
                raise FloatingPointError(
                    f"{name} is not finite after step {self.step}; the state was not saved"
                )
        header = {
            "format": STATE_FORMAT,
            "format_version": STATE_VERSION,
            "step": self.step,
            "settings": self.settings,
        }
        write_tensors(path, tensors, header)

    def restore(self, path: Path | str) -> None:
        """Continue from a saved state.

        Raises:
            StateError: the file is damaged, is not a saved run, or was made with other settings; then the
                message names the first that differ.
        """
        try:
            tensors, header = read_tensors(path)
        except CheckpointError as error:
            raise StateError(str(error)) from error
        if header.get("format") != STATE_FORMAT or header.get("format_version") != STATE_VERSION:
            raise StateError(
                f"{path} is not a saved run of version {STATE_VERSION} (found {header.get('format')!r}, "
                f"version {header.get('format_version')!r}); give the state file of a run folder"
            )
        differing = differences(header.get("settings"), self.settings)
        if differing:
            raise StateError(
                f"{path} belongs to a run with other settings ({', '.join(differing[:4])} differ); "
                "use the same settings or another run folder"
            )
        try:
            with gradients():  # in inference mode, which callers may be in, Adam could not go on with them
                self._load(tensors)
            self.step = int(header["step"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise StateError(
                f"{path} lacks a part of a saved run ({str(error)[:200]}); remove it to start anew"
            ) from error

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        for prefix, module in self._modules():
            start = f"{prefix}."
            part = {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
            module.load_state_dict(part)
        for prefix, optimiser in self.optimisers.items():
            _load_adam(optimiser, f"adam.{prefix}.", tensors, self.preset.optimiser.zero_filled_grads)
        start = "history."
        self.history = {
            name[len(start) :]: value.tolist() for name, value in tensors.items() if name.startswith(start)
        }


def run_settings(
    bundle: GeneratorBundle,
    encoders: Encoders,
    aim: Aim,
    preset: Preset,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe what determines a run, but for its number of steps, as JSON values.

    Args:
        bundle: the source.
        encoders: CLIP models and perceptual net.
        aim: pictures, reference, texts.
        preset: the method.
        settings: further values, such as the seed.

    Returns:
        The method in words and numbers, everything else by its fingerprint.
    """
    needs = preset.needs
    discriminator = bundle.discriminator if needs.path is not None else None
    described = {
        "preset": preset.describe(),
        "source": network_fingerprint(_trained(bundle, preset)),
        "discriminator": None if discriminator is None else network_fingerprint(discriminator),
        "clip": clip_fingerprints(encoders),
        "perceptual": encoder_fingerprint(encoders.perceptual) if needs.perceptual else None,
        **{name: fingerprint({name: value}) for name, value in aim.tensors().items()},
        **aim.texts(),
        **(settings or {}),
    }
    return json.loads(json.dumps(described))


def _trained(bundle: GeneratorBundle, preset: Preset) -> Generator:
    """The generator that training starts from: the average, or the raw one where method and file have it."""
    raw = bundle.raw_generator if preset.start == "raw" else None
    return raw or bundle.generator


def check_adaptable(bundle: GeneratorBundle, preset: Preset) -> None:
    """Refuse a generator that a preset cannot adapt, before any work (even the search) starts.

    Raises:
        ValueError: no discriminator, a conditional generator, too small, a batch or crops that do not fit.
    """
    if bundle.generator.config.c_dim:
        raise ValueError(
            f"{bundle.provenance.file_name} is a conditional generator ({bundle.generator.config.c_dim} "
            "classes), which cannot be adapted; give an unconditional checkpoint"
        )
    needs = preset.needs
    if needs.path is not None:
        _check_discriminator(bundle, preset)
    if needs.latent:
        raise ValueError(
            f"preset {preset.name} has a term that belongs to a latent search; leave it out of the adaptation"
        )
    preset.trainable.names(bundle.generator)
    for kind in preset.due:
        kind.check(bundle.size)


def _check_discriminator(bundle: GeneratorBundle, preset: Preset) -> None:
    """Refuse a missing discriminator, or batches that it cannot judge."""
    if bundle.discriminator is None:
        raise ValueError(
            f"preset {preset.name} trains a discriminator, but {bundle.provenance.file_name} has none; "
            "load a checkpoint with its discriminator (key `d`, or an NVIDIA .pkl), or give the generator a "
            "fresh one (with_fresh_discriminator)"
        )
    heads = _uses_heads(preset, bundle.size)
    for kind in preset.due:
        if kind.path is None or (heads and kind.path == "patch"):
            continue
        size = kind.batches[MAIN].size
        group = bundle.discriminator.config.mbstd_group or size
        if size % min(group, size):
            raise ValueError(f"the discriminator needs a batch divisible by {group}, got {size}")


def check_run(bundle: GeneratorBundle, aim: Aim, preset: Preset) -> None:
    """Refuse what cannot be adapted, before any work starts; raises ValueError."""
    check_adaptable(bundle, preset)
    needs, config = preset.needs, bundle.generator.config
    if needs.target and aim.targets is None:
        raise ValueError(f"preset {preset.name} needs a target picture; none was given")
    if needs.reference and aim.reference is None:
        raise ValueError(f"preset {preset.name} needs the reference latent; search for it, or give one")
    if needs.texts and not (aim.source_text.strip() and aim.target_text.strip()):
        raise ValueError(f"preset {preset.name} needs a source text and a target text; give both")
    if aim.targets is not None:
        check_shape(aim.targets, "target", (None, 3, bundle.size, bundle.size))
        if not len(aim.targets):
            raise ValueError("the targets hold no picture; give at least one")
    reference = aim.codes
    if isinstance(aim.reference, Latent):
        if aim.reference.space == "z":
            raise ValueError(
                "the reference latent must be in w or w+, got z; map it first with Latent.codes()"
            )
        check_family(aim.reference, bundle)
    if reference is not None and reference.ndim == 3:
        check_shape(reference, "reference latent", (1, config.num_layers, config.w_dim))
    elif reference is not None:
        check_shape(reference, "reference latent", (1, config.w_dim))


def precision_setting(precision: str) -> dict[str, str]:
    """The precision as a setting that determines the result; the default is none, so old runs go on."""
    return {} if precision == "float32" else {"precision": precision}


def check_precision(precision: str, device: torch.device | None = None) -> None:
    """Refuse a precision that is unknown, or that a device cannot autocast to; raises ValueError."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    dtype = PRECISIONS[precision]
    if device is None or dtype is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch only warns and goes on in float32; here that is an error
            with torch.autocast(device.type, dtype):
                works = torch.is_autocast_enabled(device.type)
    except RuntimeError:
        works = False
    if not works:
        raise ValueError(
            f"torch {torch.__version__} has no {precision} forward passes on the device {device.type}; use "
            "the precision float32, or another device"
        )


def _uses_heads(preset: Preset, size: int) -> bool:
    """Whether random steps go through patch heads; too small a generator is refused unless the profile
    says."""
    if not any(kind.path == "patch" for kind in preset.due):
        return False
    if size >= 64:
        return True
    assert preset.discriminator is not None
    if preset.discriminator.small == "refuse":
        raise ValueError(
            f"patch heads need a generator of at least 64 px, this one makes {size} px; use the profile "
            "'official', which judges whole images instead"
        )
    return False


def fresh_heads(config: DiscriminatorConfig, draws: Draws) -> PatchHeads:
    """Make patch heads with drawn N(0, 1) weights and zero biases."""
    heads = PatchHeads(config)
    with torch.no_grad():
        for index, head in enumerate(heads.heads):
            head.weight.copy_(draws.normal(0, f"heads.{index}.weight", head.weight.shape))
    return heads


def private_copy(module: Any, device: torch.device | str | None = None) -> Any:
    """Copy a network into ordinary, frozen, contiguous tensors in evaluation mode, each weight once.

    Args:
        module: the network.
        device: of the copy; None: that of the network.
    """
    memo: dict[int, Any] = {}
    with torch.inference_mode(False), torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            plain = value.detach().to(device or value.device, copy=True).contiguous()
            memo[id(value)] = (
                nn.Parameter(plain, requires_grad=False) if isinstance(value, nn.Parameter) else plain
            )
        return copy.deepcopy(module, memo).eval()


def _adam(module: nn.Module, settings: Mapping[str, Any]) -> torch.optim.Adam:
    parameters = list(module.parameters())
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return torch.optim.Adam(parameters, eps=1e-8, fused=fused, **settings)


def _load_adam(
    optimiser: torch.optim.Adam, prefix: str, tensors: Mapping[str, Tensor], zero_filled: bool
) -> None:
    """Put saved moments back; under zero-filled gradients, what was once trained has a zero gradient
    again."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            index, key = name[len(prefix) :].split(".", 1)
            states.setdefault(int(index), {})[key] = value.clone()
    saved = optimiser.state_dict()
    optimiser.load_state_dict({"state": states, "param_groups": saved["param_groups"]})
    if zero_filled:
        for group in optimiser.param_groups:
            for position, parameter in enumerate(group["params"]):
                if position in states:
                    parameter.grad = torch.zeros_like(parameter)


def differences(saved: Any, wanted: Any, path: str = "") -> list[str]:
    """Name the settings in which two JSON values differ, as dotted paths."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        found: list[str] = []
        for key in sorted(set(saved) | set(wanted)):
            found += differences(saved.get(key), wanted.get(key), f"{path}.{key}" if path else key)
        return found
    return [] if saved == wanted else [path]
