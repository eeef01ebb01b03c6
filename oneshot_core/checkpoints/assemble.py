"""From described tensors to networks: every reader makes a plan, which is checked before memory is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from ..tensors import seeded
from .bundle import GeneratorBundle
from .restricted import MAX_EXPANSION_BYTES
from .stored import CheckpointError, Source, UnsafePickleError

Config: TypeAlias = GeneratorConfig | DiscriminatorConfig
Shape: TypeAlias = tuple[int, ...]
_Config = TypeVar("_Config", GeneratorConfig, DiscriminatorConfig)
_Module = TypeVar("_Module", bound=nn.Module)
_COLOURS = 3
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Layout:
    """How a file lays out one weight of ours."""

    name: str  # in the file
    file_shape: Callable[[Shape], Shape] = lambda shape: shape  # from the shape in networks.py
    read: Callable[[Tensor], Tensor] = lambda tensor: tensor  # to that shape, except for a plain reshape


@dataclass(frozen=True)
class NetworkPlan(Generic[_Config]):
    """A network that a file describes: its shape, and where each weight comes from."""

    label: str  # how the file calls it
    config: _Config
    sources: Mapping[str, Source]  # by the state-dict names of networks.py, complete and of the right shape

    @property
    def parameters(self) -> int:
        """Number of stored values."""
        return sum(source.numel for source in self.sources.values())


@dataclass
class CheckpointPlan:
    """Everything a file holds, known from names and shapes alone."""

    format: str
    kind: str  # the dialect: which program wrote such files
    generator: NetworkPlan[GeneratorConfig]
    raw_generator: NetworkPlan[GeneratorConfig] | None = None
    discriminator: NetworkPlan[DiscriminatorConfig] | None = None
    mean_latent: Source | None = None
    inferred: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    history: dict[str, Any] = field(default_factory=dict)

    def networks(self) -> list[NetworkPlan[Any]]:
        """The networks that are present."""
        plans: tuple[NetworkPlan[Any] | None, ...] = (self.generator, self.raw_generator, self.discriminator)
        return [plan for plan in plans if plan is not None]

    def check(self, file_bytes: int) -> None:
        """Refuse networks that do not fit each other, or that need far more memory than the file has."""
        size = self.generator.config.size
        for plan in self.networks()[1:]:
            if plan.config.size != size:
                raise CheckpointError(
                    f"{plan.label} is made for {plan.config.size} px, {self.generator.label} for {size} px"
                )
        if self.raw_generator is not None and self.raw_generator.config != self.generator.config:
            raise CheckpointError(f"{self.raw_generator.label} and {self.generator.label} differ in shape")
        needed = 4 * sum(plan.parameters for plan in self.networks())
        if needed > 2 * file_bytes + MAX_EXPANSION_BYTES:
            raise CheckpointError(
                f"the networks need {needed / 1e6:.0f} MB and the file has {file_bytes / 1e6:.1f} MB: its "
                "tensors repeat few numbers endlessly. That is no real network; refused"
            )


def in_three_colours(plan: CheckpointPlan) -> None:
    """Let networks of grey pictures, or of pictures with transparency, draw ordinary colour pictures.

    Everything else of this program works on three channels. Grey is drawn thrice; of four channels the first
    three are drawn. A note says so. The discriminator judges other pictures and is left out.
    """
    found = plan.generator.config.image_channels
    if found == _COLOURS:
        return
    plan.generator = _recoloured(plan.generator)
    if plan.raw_generator is not None:
        plan.raw_generator = _recoloured(plan.raw_generator)
    what = "grey pictures (1 channel), drawn as three equal channels"
    if found != 1:
        what = "pictures with transparency (4 channels), of which the 3 colour channels are drawn"
    left = "" if plan.discriminator is None else "; its discriminator judges such pictures and was left out"
    plan.notes.append(f"the network was made for {what}{left}")
    plan.discriminator = None


def _recoloured(plan: NetworkPlan[GeneratorConfig]) -> NetworkPlan[GeneratorConfig]:
    sources = dict(plan.sources)
    for name, source in plan.sources.items():
        if name.startswith("to_rgbs.") and name.endswith((".weight", ".bias")) and ".affine." not in name:
            sources[name] = source.converted((_COLOURS, *source.shape[1:]), _three_channels)
    return replace(plan, config=replace(plan.config, image_channels=_COLOURS), sources=sources)


def _three_channels(tensor: Tensor) -> Tensor:
    return tensor.expand(_COLOURS, *tensor.shape[1:]) if len(tensor) == 1 else tensor[:_COLOURS]


def make_config(kind: type[_Config], **values: Any) -> _Config:
    """Make a config; raises CheckpointError where the values found in a file are impossible."""
    try:
        return kind(**values)
    except ValueError as error:
        raise CheckpointError(f"describes a network that is not supported: {error}") from error


@lru_cache(maxsize=8)
def expected_shapes(config: Config) -> Mapping[str, Shape]:
    """Shapes of all stored tensors of a network, without taking memory for it."""
    with _ShapesOnly():
        network = Generator(config) if isinstance(config, GeneratorConfig) else Discriminator(config)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def match(
    label: str,
    config: _Config,
    table: Mapping[str, Layout],
    tensors: Mapping[str, Source],
    ignored: Callable[[str], bool] = lambda name: False,
) -> NetworkPlan[_Config]:
    """Find each weight of a network among a file's tensors.

    Args:
        label: how the file calls the network, for messages.
        config: shape of the network.
        table: layout of each weight, by the names of networks.py.
        tensors: what the file has, by its own names.
        ignored: whether a tensor of the file has no place and needs none.

    Returns:
        The complete plan.

    Raises:
        CheckpointError: with the first missing, unexpected and ill-shaped names.
    """
    sources, missing, wrong = {}, [], []
    for name, shape in expected_shapes(config).items():
        layout = table[name]
        source = tensors.get(layout.name)
        if source is None:
            missing.append(layout.name)
        elif source.shape != layout.file_shape(shape):
            wrong.append(f"{layout.name} {list(source.shape)} instead of {list(layout.file_shape(shape))}")
        elif source.dtype not in FLOATS:
            wrong.append(f"{layout.name} has type {source.dtype}, allowed are floating-point numbers")
        else:
            sources[name] = _laid_out(source, layout, shape)
    used = {layout.name for layout in table.values()}
    unexpected = [name for name in tensors if name not in used and not ignored(name)]
    if missing or unexpected or wrong:
        raise CheckpointError(_mismatch(label, config, missing, unexpected, wrong))
    return NetworkPlan(label, config, sources)


def _laid_out(source: Source, layout: Layout, shape: Shape) -> Source:
    return source.converted(shape, lambda tensor: layout.read(tensor).reshape(shape))


def _mismatch(label: str, config: Config, missing: list[str], unexpected: list[str], wrong: list[str]) -> str:
    parts = []
    for what, names in (("missing", missing), ("unexpected", unexpected), ("wrong", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{what}: {', '.join(name[:100] for name in names[:3])}{more}")
    kind = "generator" if isinstance(config, GeneratorConfig) else "discriminator"
    return (
        f"{label} looks like a StyleGAN2 {kind} for {config.size} px but does not fit one "
        f"({'; '.join(parts)}). It has other layers than the standard ones; use a StyleGAN2 network with the "
        "standard layers"
    )


def optional_discriminator(
    plan: Callable[[], NetworkPlan[DiscriminatorConfig]], generator: GeneratorConfig, notes: list[str]
) -> NetworkPlan[DiscriminatorConfig] | None:
    """Plan a discriminator, which drawing does not need: one that cannot be used is left out with a note.

    Args:
        plan: makes the plan; its CheckpointError says why there is none.
        generator: what the discriminator would judge.
        notes: gets one line when it is left out.

    Returns:
        The plan, or None.

    Raises:
        UnsafePickleError: as `plan`; what could run something is refused wherever it stands.
    """
    try:
        found = plan()
        _check_judges(found, generator)
    except UnsafePickleError:
        raise
    except CheckpointError as error:
        notes.append(
            f"the discriminator was left out: {error}. Pictures can be drawn; to adapt the generator, "
            "give it a fresh discriminator or take a file that holds a standard one"
        )
        return None
    return found


def optional_raw_generator(
    plan: Callable[[], NetworkPlan[GeneratorConfig]], generator: GeneratorConfig, notes: list[str]
) -> NetworkPlan[GeneratorConfig] | None:
    """Plan the generator without averaging, which drawing does not need; see `optional_discriminator`."""
    try:
        found = plan()
        if found.config != generator:
            raise CheckpointError(f"{found.label} and the averaged generator differ in shape")
    except UnsafePickleError:
        raise
    except CheckpointError as error:
        notes.append(f"the generator without averaging was left out: {error}")
        return None
    return found


def _check_judges(plan: NetworkPlan[DiscriminatorConfig], generator: GeneratorConfig) -> None:
    """Refuse a discriminator for other pictures than the generator draws."""
    for name, unit in (("size", "px"), ("image_channels", "colour channels"), ("c_dim", "classes")):
        judged, drawn = getattr(plan.config, name), getattr(generator, name)
        if judged not in ((0, drawn) if name == "c_dim" else (drawn,)):  # one without classes ignores them
            raise CheckpointError(f"{plan.label} is made for {judged} {unit}, the generator for {drawn}")


def check_constant(label: str, shape: Shape, levels: int) -> None:
    """Refuse networks that draw no squares, by the learnt constant that their pictures grow from.

    Args:
        label: how the file calls the network, for messages.
        shape: of the constant; the last two are its height and width.
        levels: how often the sides are doubled.

    Raises:
        CheckpointError: height and width differ, or are not 4.
    """
    height, width = shape[-2:]
    if height != width:
        raise CheckpointError(
            f"{label} is not square: it grows from {height} x {width} points to pictures of "
            f"{height << min(levels, 16)} x {width << min(levels, 16)} px (height x width); only square "
            "networks are supported"
        )
    if height != 4:
        raise CheckpointError(f"{label} grows from {height} x {width} points; StyleGAN2 starts from 4 x 4")


def check_labels(label: str, classes: Any, latents: Any, found_classes: int, found_latents: int) -> None:
    """Refuse a conditional generator that lost the weights of its labels.

    Args:
        label: how the file calls the network, for messages.
        classes: number of classes that the file states; looked at only if it is a whole number.
        latents: width of z that it states, likewise.
        found_classes: number of classes by the tensors, 0 without tensors for labels.
        found_latents: width of z by the tensors.

    Raises:
        CheckpointError: classes are stated and not found, or z would be wider than stated.
    """
    lost = type(classes) is int and classes > 0 and not found_classes
    if lost or (type(latents) is int and 0 < latents < found_latents and not found_classes):
        raise CheckpointError(
            f"{label} is conditional (it draws by class labels), but the weights of its labels are not in "
            f"the file: its mapping takes {found_latents} numbers, of which z is only a part. Use the file "
            "that it was made from, or an unconditional network"
        )


def require(tensors: Mapping[str, Source], name: str, label: str, dimensions: int) -> Shape:
    """Return the shape of a tensor that the shape of the network is read from."""
    source = tensors.get(name)
    if source is None or len(source.shape) != dimensions:
        found = f"has shape {list(source.shape)}" if source else "is missing"
        first = ", ".join(list(tensors)[:3]) or "nothing"
        raise CheckpointError(
            f"{label} is no StyleGAN2 network: {name} {found}; it holds {len(tensors)} tensors "
            f"({first[:200]})"
        )
    return source.shape


def drawn_noise(names: Iterable[str], shapes: Mapping[str, Shape], seed: int = 0) -> dict[str, Source]:
    """Make up noise maps that a file lacks; the same ones every time."""

    def source(name: str) -> Source:
        shape = shapes[name]
        return Source(
            name, shape, torch.float32, lambda: torch.randn(shape, generator=seeded(seed, 0, f"noise.{name}"))
        )

    return {name: source(name) for name in names}


def zeros(name: str, shape: Shape) -> Source:
    """A tensor of zeros in place of one that a file need not have."""
    return Source(name, shape, torch.float32, lambda: torch.zeros(shape))


@torch.inference_mode(False)
def with_fresh_discriminator(bundle: GeneratorBundle, seed: int = 0) -> GeneratorBundle:
    """Give a generator a discriminator that has learnt nothing, for files without one.

    Args:
        bundle: an unconditional generator; it is not changed. A discriminator that it has is left behind.
        seed: of the weights.

    Returns:
        The bundle with a discriminator of the generator's widths, device and dtype: residual blocks,
        minibatch deviation over groups of 4 with 1 feature, weights N(0, 1) (before the equalised
        learning-rate gain), biases 0. Provenance says so in a note.

    Raises:
        ValueError: the generator is conditional.
    """
    config = bundle.generator.config
    if config.c_dim:
        raise ValueError(
            f"{bundle.title} is a conditional generator ({config.c_dim} classes), which cannot be adapted "
            "and gets no fresh discriminator; give one without classes"
        )
    with _NoInitialDraws():
        judge = Discriminator(
            DiscriminatorConfig(
                config.size, config.channels, config.image_channels, conv_clamp=config.conv_clamp
            )
        )
    with torch.no_grad():
        for name, weight in judge.named_parameters():
            if name.endswith("weight"):
                weight.copy_(torch.randn(weight.shape, generator=seeded(seed, 0, f"discriminator.{name}")))
    note = f"fresh discriminator (seed {seed}, not trained)"
    return replace(
        bundle,
        discriminator=judge.to(bundle.generator.const).eval().requires_grad_(False),
        provenance=replace(bundle.provenance, notes=(*bundle.provenance.notes, note)),
    )


class _ShapesOnly(TorchFunctionMode):
    """Makes new weights without memory.

    Not `torch.device("meta")`: the first division of such a tensor imports torch's compiler, which takes
    seconds and 150 MB.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.randn, torch.zeros):
            return torch.empty(*args, device="meta")
        if func is torch.full:
            return torch.empty(args[0], device="meta")
        if func in (torch.Tensor.div, torch.Tensor.__truediv__) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class _NoInitialDraws(TorchFunctionMode):
    """Leaves new weights unset: they are overwritten at once, and the global random state stays as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.randn:
            func = torch.empty
        return func(*args, **(kwargs or {}))


def build_generator(plan: NetworkPlan[GeneratorConfig]) -> Generator:
    """Make the generator of a plan, in float32, eval mode, without gradients.

    Raises:
        CheckpointError: a weight is not finite, or the file's data ends early.
    """
    with torch.inference_mode(False), _NoInitialDraws():
        generator = Generator(plan.config)
    return _filled(generator, plan)


def build_discriminator(plan: NetworkPlan[DiscriminatorConfig]) -> Discriminator:
    """Make the discriminator of a plan; see `build_generator`."""
    with torch.inference_mode(False), _NoInitialDraws():
        discriminator = Discriminator(plan.config)
    return _filled(discriminator, plan)


def _filled(network: _Module, plan: NetworkPlan[Any]) -> _Module:
    with torch.inference_mode(False), torch.no_grad():
        for name, target in network.state_dict().items():
            target.copy_(plan.sources[name].read())
            if not torch.isfinite(target).all():
                raise CheckpointError(
                    f"{plan.label}: {plan.sources[name].name} holds numbers that are not finite (NaN or "
                    "infinity); the training that wrote it had broken down, use an earlier snapshot"
                )
        return network.eval().requires_grad_(False)
