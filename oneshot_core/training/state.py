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

from ..checkpoints import GeneratorBundle
from ..draws import Draws
from ..features import Encoders, check_encoders
from ..networks import Discriminator, DiscriminatorConfig, Generator, PatchHeads
from ..objective import Preset, Target
from ..objective.terms import PatchConsistency, SemanticConsistency
from ..saved_states import SavedState, StateFile
from ..tensors import Images, check_finite, check_shape, gradients, is_finite, owned
from .fingerprints import encoder_fingerprint, fingerprint, network_fingerprint

STATE_FORMAT = "oneshot-run"
STATE_VERSION = 2
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}  # of forward passes: autocast to what; None: none


@dataclass
class TrainState:
    """The running state of an adaptation.

    Args:
        preset: the method.
        source: frozen source generator.
        adapted: the generator that is trained.
        ema: its moving average, the result.
        discriminator: None for methods without one.
        heads: patch heads; None where no patch path is used.
        target: the picture with cached features.
        reference: [1, W] or [1, L, W] latent of reference steps.
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
    target: Target
    reference: Tensor
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
        target: Images,
        reference: Tensor,
        preset: Preset,
        draws: Draws,
        settings: Mapping[str, Any] | None = None,
        precision: str = "float32",
    ) -> TrainState:
        """Set up a run: private copies of the networks, fresh patch heads, fresh optimisers.

        Args:
            bundle: the source; it is not changed.
            encoders: CLIP and perceptual net.
            target: [1, 3, S, S] in [-1, 1].
            reference: [1, W] or [1, L, W].
            preset: the method.
            draws: where random numbers come from, also the initial weights of the patch heads.
            settings: further values that determine the result, such as the seed.
            precision: of forward passes: "float32", or "bfloat16" under autocast.

        Raises:
            ValueError: target, reference or discriminator do not fit the preset or the generator, or the
                generator's device does not know the precision.
        """
        check_run(bundle, target, reference, preset)
        check_encoders(encoders)
        check_precision(precision, bundle.generator.const.device)
        source = private_copy(_trained(bundle, preset))
        adapted = private_copy(source)
        for name, parameter in adapted.named_parameters():
            parameter.requires_grad_(not name.startswith(preset.frozen))
        like = source.const
        discriminator = heads = None
        if preset.discriminator is not None:
            assert bundle.discriminator is not None
            discriminator = private_copy(bundle.discriminator).requires_grad_(True)
            if _uses_heads(preset, bundle.size):
                heads = fresh_heads(discriminator.config, draws).to(like)
        described = run_settings(bundle, encoders, target, reference, preset, settings)
        return cls(
            preset=preset,
            source=source,
            adapted=adapted,
            ema=private_copy(bundle.generator),
            discriminator=discriminator,
            heads=heads,
            target=Target(owned(target).to(like), encoders),
            reference=owned(reference).to(like),
            draws=draws,
            settings=described | precision_setting(precision),
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
        for name in losses:
            self.history.setdefault(name, [float("nan")] * self.step)
        for name, values in self.history.items():
            values.append(losses.get(name, float("nan")))

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        yield "adapted", self.adapted
        yield "ema", self.ema
        if self.discriminator is not None:
            yield "discriminator", self.discriminator
        if self.heads is not None:
            yield "heads", self.heads

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the run by a flat name; the frozen source is not among them."""
        found = self._networks()
        for prefix, optimiser in self.optimisers.items():
            for index, values in optimiser.state_dict()["state"].items():
                found |= {f"adam.{prefix}.{index}.{name}": value for name, value in values.items()}
        return found

    def _networks(self) -> dict[str, Tensor]:
        return {
            f"{prefix}.{name}": value
            for prefix, module in self._modules()
            for name, value in module.state_dict().items()
        }

    def save(self, path: Path | str) -> None:
        """Write everything that is needed to go on exactly; atomic, the state before it is kept beside it.

        Raises:
            FloatingPointError: a weight is NaN or infinite; the file that is there is left alone.
            WriteError: the disk refuses.
        """
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
            for index, parameter in enumerate(parameters):
                place = f"adam.{prefix}.{index}"
                yield {
                    f"{place}.step": torch.zeros(()),
                    f"{place}.exp_avg": parameter.detach(),
                    f"{place}.exp_avg_sq": parameter.detach(),
                }

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        for prefix, module in self._modules():
            start = f"{prefix}."
            part = {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
            module.load_state_dict(part)
        for prefix, optimiser in self.optimisers.items():
            _load_adam(optimiser, f"adam.{prefix}.", tensors, self.preset.profile.zero_filled_grads)


def state_file(path: Path | str) -> StateFile:
    """The state of a run at a path, and the one before it."""
    return StateFile(Path(path), STATE_FORMAT, STATE_VERSION, "a saved run")


def run_settings(
    bundle: GeneratorBundle,
    encoders: Encoders,
    target: Images,
    reference: Tensor,
    preset: Preset,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe what determines a run, but for its number of steps, as JSON values.

    Args:
        bundle: the source.
        encoders: CLIP and perceptual net.
        target: [1, 3, S, S] in [-1, 1].
        reference: [1, W] or [1, L, W].
        preset: the method.
        settings: further values, such as the seed.

    Returns:
        The method in words and numbers, everything else by its fingerprint.
    """
    judge = bundle.discriminator if preset.discriminator is not None else None
    described = {
        "preset": preset.describe(),
        "source": network_fingerprint(_trained(bundle, preset)),
        "discriminator": None if judge is None else network_fingerprint(judge),
        "clip": encoder_fingerprint(encoders.clip),
        "perceptual": encoder_fingerprint(encoders.perceptual),
        "target": fingerprint({"target": target}),
        "reference": fingerprint({"reference": reference}),
        **(settings or {}),
    }
    return json.loads(json.dumps(described))


def _trained(bundle: GeneratorBundle, preset: Preset) -> Generator:
    """The generator that training starts from: the profile decides between the average and the raw one."""
    raw = bundle.raw_generator if preset.profile.trains_raw_generator else None
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
    if preset.discriminator is not None and bundle.discriminator is None:
        raise ValueError(
            f"preset {preset.name} trains a discriminator, but {bundle.provenance.file_name} has none; "
            "load a checkpoint with its discriminator (key `d`, or an NVIDIA .pkl), or give the generator a "
            "fresh one (with_fresh_discriminator)"
        )
    heads = preset.discriminator is None or _uses_heads(preset, bundle.size)
    if not heads and bundle.discriminator is not None:
        group = bundle.discriminator.config.mbstd_group or preset.batch
        if preset.batch % min(group, preset.batch):
            raise ValueError(f"the discriminator needs a batch divisible by {group}, got {preset.batch}")
    for term in preset.on_random.active:
        if isinstance(term, PatchConsistency):
            term.places(bundle.size, preset.profile.crop_reaches_edge)
        if isinstance(term, SemanticConsistency) and preset.batch < 2:
            raise ValueError(
                "semantic consistency compares pairs of images: the batch must be at least 2, got 1"
            )
    for kind, steps in (
        ("reference", preset.schedule.reference_steps),
        ("random", preset.schedule.random_steps),
    ):
        if steps and not preset.objective(kind == "reference").active:
            raise ValueError(f"every term of the {kind} steps has weight 0; give one of them a weight")


def check_run(bundle: GeneratorBundle, target: Images, reference: Tensor, preset: Preset) -> None:
    """Refuse what cannot be adapted, before any work starts.

    Raises:
        ValueError: see `check_adaptable`; a target or reference of another shape; NaN or infinity in one
            of them or in a weight of the generator, its discriminator or its mean latent.
    """
    check_adaptable(bundle, preset)
    bundle.check_finite(training=True)
    config = bundle.generator.config
    check_shape(target, "target", (1, 3, bundle.size, bundle.size))
    if reference.ndim == 3:
        check_shape(reference, "reference latent", (1, config.num_layers, config.w_dim))
    else:
        check_shape(reference, "reference latent", (1, config.w_dim))
    check_finite(target, "the target", "give another picture")
    check_finite(reference, "the reference latent", "search it again")


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
    if size >= 64:
        return True
    if preset.profile.patch_needs_64px:
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


def private_copy(module: Any) -> Any:
    """Deep-copy a network into ordinary, frozen, contiguous tensors in evaluation mode."""
    with torch.inference_mode(False), torch.no_grad():
        clone = copy.deepcopy(module)
        for part in clone.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    part._parameters[name] = nn.Parameter(
                        value.detach().clone().contiguous(), requires_grad=False
                    )
            for name, value in part._buffers.items():
                if value is not None:
                    part._buffers[name] = value.detach().clone().contiguous()
        return clone.eval()


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
