"""Network pickles of NVlabs stylegan2-ada-pytorch and of the stylegan3 repository's StyleGAN2.

Shapes are read from the tensors, arithmetic settings (clamp, learning-rate multiplier, deviation groups) from
the attributes that the modules really used, so the differing defaults of the two repositories do not matter.

Source: checkpoints.md B (structure, names, variants).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..networks import DiscriminatorConfig, GeneratorConfig
from . import foreign
from .assemble import (
    CheckpointPlan,
    Layout,
    NetworkPlan,
    check_constant,
    check_labels,
    expected_shapes,
    make_config,
    match,
    optional_discriminator,
    optional_raw_generator,
    require,
    zeros,
)
from .rebuild import TF_NETWORK, ForeignRecord, Record, whole_object
from .rosinality import channel_multiplier, is_blur
from .stored import CheckpointError, Source, StoredTensor, describe

MAX_MODULES = 2_000
MAX_DEPTH = 8
MAX_ENTRIES = 10_000  # parameters and buffers, None among them; NVIDIA's largest networks have about 250
MAX_NAME = 100
_ROLES = {  # the names that files give to a network
    "G_ema": ("G_ema", "g_ema", "generator_ema"),
    "G": ("G", "g", "generator", "netG", "model"),
    "D": ("D", "d", "discriminator", "netD"),
}


@dataclass
class _Module:
    """All tensors and the settings of one network, by dotted path."""

    label: str
    tensors: dict[str, Source] = field(default_factory=dict)
    settings: dict[str, dict[Any, Any]] = field(default_factory=dict)
    kind: str = ""  # name of its class

    def setting(self, name: str, *paths: str) -> Any:
        """Return an attribute that the modules at `paths` must agree on; None where no one states it."""
        found = [self.settings[path][name] for path in paths if name in self.settings.get(path, {})]
        for value in found:  # nested values are never compared: that can take for ever
            if value is not None and type(value) not in (bool, int, float, str):
                raise CheckpointError(
                    f"{self.label}: {name} of a layer is {describe(value)}, expected a number, a text or None"
                )
        if any(value != found[0] for value in found):
            raise CheckpointError(f"{self.label}: layers with different {name} are not supported")
        return found[0] if found else None


def is_network_file(root: Any) -> bool:
    """Whether an object has the layout of these files: a module, or a dict with modules for networks."""
    if isinstance(root, dict):
        generators = [root.get(name) for role in ("G_ema", "G") for name in _ROLES[role]]
        judges = [root.get(name) for name in _ROLES["D"]]
        return not any(isinstance(value, dict) for value in generators) and any(
            _is_module(value) for value in (*generators, *judges)
        )
    return _is_module(root)


def _is_module(value: Any) -> bool:
    return isinstance(value, Record) and value.kind != TF_NETWORK


def _by_role(root: Any) -> dict[str, tuple[str, Any]]:
    """The networks of a file under the names G_ema, G and D, each with the file's own name for it."""
    if isinstance(root, Record):
        return {"D": ("D", root)} if _is_discriminator(root) else {"G_ema": ("the generator", root)}
    found = {}
    for role, names in _ROLES.items():
        values = [(name, root[name]) for name in names if root.get(name) is not None]
        if values:
            found[role] = values[0]
    return found


def _is_discriminator(record: Record) -> bool:
    children = _part(record, "_modules", "the module")
    return "b4" in children and "synthesis" not in children


def read_plan(root: dict[Any, Any] | Record) -> CheckpointPlan:
    """Plan the networks of a network pickle, or of a torch file with the same modules.

    Args:
        root: a dict with module records under G_ema, G and D (each may be missing, but not both generators),
            or the record of a generator alone.

    Returns:
        The plan; format "nvidia".

    Raises:
        CheckpointError: StyleGAN3, another architecture, missing or ill-shaped weights.
    """
    modules = _by_role(root)
    main = "G_ema" if "G_ema" in modules else "G"
    if main not in modules:
        raise CheckpointError("holds a discriminator only; a file with G_ema or G is needed")
    notes: list[str] = []
    label, record = modules[main]
    module = collect(record, label)
    plan = CheckpointPlan("nvidia", _kind(record), plan_generator(module, notes), notes=notes)
    config = plan.generator.config
    if main == "G_ema" and "G" in modules:
        name, raw = modules["G"]
        plan.raw_generator = optional_raw_generator(
            lambda: plan_generator(collect(raw, name), []), config, notes
        )
    if "D" in modules:
        title, judge = modules["D"]
        plan.discriminator = optional_discriminator(
            lambda: plan_discriminator(collect(judge, title)), config, notes
        )
    average = module.tensors.get("mapping.w_avg")
    if average is not None:
        if average.shape != (config.w_dim,):
            raise CheckpointError(f"mapping.w_avg has shape {list(average.shape)}")
        plan.mean_latent = average
    plan.inferred["shape"] = "size, widths, dimensions and mapping depth were read from the tensors' shapes"
    plan.inferred["channel_multiplier"] = channel_multiplier(config.channels)
    return plan


def _kind(record: Record) -> str:
    """Tell the repository: the newer one flattened the synthesis settings into the generator's."""
    settings = record.state.get("_init_kwargs")
    names = set(settings) if isinstance(settings, dict) else set()
    return "stylegan3 repository" if names & {"channel_base", "fused_modconv_default"} else "stylegan2-ada"


def collect(record: Any, label: str) -> _Module:
    """Gather the tensors of a module tree; parameters and buffers alike (frozen layers are buffers)."""
    if not isinstance(record, Record):
        raise CheckpointError(f"{label} is {describe(record)}, not a network module")
    found = _Module(label, kind=record.kind)
    entries = 0
    for path, module in _walk(record, label):
        if isinstance(module, ForeignRecord):
            raise _of_another_program(record, label)
        found.settings[path[:-1]] = module.state
        for part in ("_parameters", "_buffers"):
            own = _part(module, part, label)
            entries += len(own)
            if entries > MAX_ENTRIES:
                raise CheckpointError(
                    f"{label} has more than {MAX_ENTRIES} tensors; no StyleGAN2 network has"
                )
            for name, value in own.items():
                if isinstance(value, StoredTensor):
                    found.tensors[f"{path}{name}"] = value.source(f"{path}{name}")
    if not found.tensors:
        raise CheckpointError(f"{label} ({record.described}) holds no tensors")
    return found


def _walk(record: Record, label: str) -> Iterator[tuple[str, Record]]:
    """Yield the modules of a tree with their dotted paths, each path ending in a dot but the root's."""
    waiting: list[tuple[str, Any]] = [("", record)]
    visited = 0
    while waiting:
        path, module = waiting.pop()
        if module is None:
            continue
        visited += 1
        if not isinstance(module, Record):
            raise CheckpointError(f"{label}: {path[:80]} is {describe(module)}, not a network module")
        children = _part(module, "_modules", label)
        if visited + len(waiting) + len(children) > MAX_MODULES or path.count(".") > MAX_DEPTH:
            raise CheckpointError(f"{label} has more than {MAX_MODULES} layers; that is no StyleGAN2 network")
        yield path, module
        waiting += [(f"{path}{name}.", child) for name, child in children.items()]


def state_dict(label: str, tensors: dict[str, Source]) -> _Module:
    """A network of which only the tensors are known, by its state dict's names; no layer states a setting."""
    return _Module(label, tensors)


def _part(module: Record, kind: str, label: str) -> dict[str, Any]:
    values = module.state.get(kind, {})
    if (
        not isinstance(values, dict)
        or len(values) > MAX_ENTRIES
        or not all(isinstance(name, str) and len(name) <= MAX_NAME for name in values)
    ):
        raise CheckpointError(f"{label}: {kind} of a layer is {describe(values)}, not a dict of named parts")
    return values


def _of_another_program(record: Record, label: str) -> CheckpointError:
    """Say whose network this is: of a known program, or an object that needs its program's code."""
    names = []
    for path, module in _walk(record, label):
        names.append(module.kind)
        names += [f"{path}{name}" for name in _part(module, "_parameters", label)]
    known = foreign.program(names)
    if known is None:
        return CheckpointError(f"{label} {whole_object(record)}")
    return CheckpointError(
        f"{label} is {record.described}, a network of {known}, no StyleGAN2 network; only those can be used"
    )


def _resolutions(module: _Module, prefix: str) -> list[int]:
    """Block resolutions, ascending; raises CheckpointError when they are not 4, 8, 16, ..."""
    found = {re.fullmatch(rf"{prefix}b(\d{{1,5}})\..*", name) for name in module.tensors}
    sides = sorted({int(hit[1]) for hit in found if hit})
    if not sides or sides != [4 << level for level in range(len(sides))]:
        blocks = f"blocks for the sides {sides[:12]} px" if sides else "no blocks b4, b8, ..."
        raise CheckpointError(
            f"{module.label} is no StyleGAN2 network: it has {blocks}; StyleGAN2 has blocks for 4, 8, ... "
            "px up to its size"
        )
    return sides


def _refuse_stylegan3(module: _Module) -> None:
    if any(name.startswith("synthesis.input.") for name in module.tensors) or any(
        re.fullmatch(r"synthesis\.L\d+_\d+_\d+\..*", name) for name in module.tensors
    ):
        raise CheckpointError(
            f"{module.label} is a StyleGAN3 generator. StyleGAN3 is not supported and cannot be converted; "
            "use a StyleGAN2 network (the stylegan3 repository trains them with --cfg=stylegan2)"
        )


def _refuse_other_programs(module: _Module) -> None:
    """Refuse networks of other programs by name, also those that hold a StyleGAN2 among other parts."""
    is_like = "synthesis.b4.const" in module.tensors
    said = foreign.refusal([module.kind, *module.tensors], wrappers_only=is_like)
    if said is not None:
        raise CheckpointError(f"{module.label} {said}")


def plan_generator(module: _Module, notes: list[str]) -> NetworkPlan[GeneratorConfig]:
    """Infer a generator's shape and settings and find every weight."""
    _refuse_stylegan3(module)
    _refuse_other_programs(module)
    tensors, label = module.tensors, module.label
    sides = _resolutions(module, "synthesis.")
    check_constant(label, require(tensors, "synthesis.b4.const", label, 3), len(sides) - 1)
    if any(f"synthesis.b{side}.skip.weight" in tensors for side in sides):
        raise _architecture(label, "resnet", "skip")
    if any(f"synthesis.b{side}.torgb.weight" not in tensors for side in sides):
        raise _architecture(label, "orig", "skip")
    convs = [f"synthesis.b{side}.{conv}" for side in sides for conv in ("conv0", "conv1")][1:]
    to_rgbs = [f"synthesis.b{side}.torgb" for side in sides]
    config = make_config(
        GeneratorConfig,
        size=sides[-1],
        channels=tuple(require(tensors, f"synthesis.b{side}.conv1.weight", label, 4)[0] for side in sides),
        image_channels=require(tensors, f"{to_rgbs[0]}.weight", label, 4)[0],
        conv_clamp=_number(module.setting("conv_clamp", *convs, *to_rgbs), "conv_clamp"),
        **_mapping(module),
    )
    _check_settings(module, [*convs, *_dense(module)])
    table = generator_table(config)
    available = dict(tensors)
    shapes = expected_shapes(config)
    if not any(name.endswith((".noise_strength", ".noise_const")) for name in tensors):
        unused = [name for name in table if name.endswith((".noise_strength", ".noise_const"))]
        available.update({table[name].name: zeros(table[name].name, shapes[name]) for name in unused})
        notes.append(f"{label} was made without noise; its noise strengths were set to 0")
    return match(label, config, table, available, _is_extra)


def _is_extra(name: str) -> bool:
    """Tensors without a place of their own: blur kernels (checked) and the mean latent (kept beside)."""
    return name == "mapping.w_avg" or name.endswith("resample_filter")


def _architecture(label: str, found: str, supported: str) -> CheckpointError:
    return CheckpointError(
        f"{label} has the architecture {found!r}; supported is {supported!r} only. Use a network "
        "trained with the standard configuration"
    )


def _dense(module: _Module) -> list[str]:
    names = (name.removesuffix(".weight") for name in module.tensors)
    return sorted(path for path in names if re.fullmatch(r"mapping\.fc\d+", path))


def _mapping(module: _Module) -> dict[str, Any]:
    """Read the generator's mapping network from its shapes."""
    tensors, label = module.tensors, module.label
    dense = _dense(module)
    first = require(tensors, "mapping.fc0.weight", label, 2)
    last = require(tensors, f"mapping.fc{len(dense) - 1}.weight", label, 2)
    conditional = "mapping.embed.weight" in tensors
    embed = require(tensors, "mapping.embed.weight", label, 2) if conditional else (0, 0)
    stated = module.settings.get("", {})
    check_labels(label, stated.get("c_dim"), stated.get("z_dim"), embed[1], first[1] - embed[0])
    return {
        "z_dim": first[1] - embed[0],
        "w_dim": last[0],
        "c_dim": embed[1],
        "mapping_layers": len(dense),
        "mapping_lr_multiplier": _lr_multiplier(module, dense),
        "mapping_width": first[0] if first[0] != last[0] else None,
        "label_width": embed[0] if conditional and embed[0] != last[0] else None,
    }


def _lr_multiplier(module: _Module, dense: list[str]) -> float:
    """The gain on a bias is the learning-rate multiplier itself; 0.01 where a file does not say."""
    value = _number(module.setting("bias_gain", *dense), "bias_gain")
    return 0.01 if value is None else value


def _number(value: Any, what: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise CheckpointError(f"{what} is {describe(value)}, expected a positive number or None")
    return float(value)


def _check_settings(module: _Module, layers: list[str]) -> None:
    """Refuse activations and blurs that the networks here do not have."""
    activation = module.setting("activation", *layers)
    if activation not in (None, "lrelu"):
        raise CheckpointError(
            f"{module.label} has the activation {describe(activation)}; supported is 'lrelu'"
        )
    for name, source in module.tensors.items():
        if name.endswith("resample_filter") and not (
            source.shape == (4, 4) and source.dtype.is_floating_point and is_blur(source.read())
        ):
            raise CheckpointError(
                f"{module.label}: {name} is not the blur [1, 3, 3, 1]; no other is supported"
            )


def _styled(ours: str, theirs: str) -> dict[str, Layout]:
    parts = ("weight", "bias", "affine.weight", "affine.bias")
    return {f"{ours}.{part}": Layout(f"{theirs}.{part}") for part in parts}


def generator_table(config: GeneratorConfig) -> dict[str, Layout]:
    """Layout of every generator weight in these files, by our names."""
    table = {"const": Layout("synthesis.b4.const"), **mapping_table(config.mapping_layers, config.c_dim)}
    for index in range(config.num_convs):
        side = 4 << ((index + 1) // 2)
        theirs = f"synthesis.b{side}.conv{0 if index % 2 else 1}"
        table.update(_styled(f"convs.{index}", theirs))
        for part in ("noise_strength", "noise_const"):
            table[f"convs.{index}.{part}"] = Layout(f"{theirs}.{part}")
    for level in range(len(config.channels)):
        table.update(_styled(f"to_rgbs.{level}", f"synthesis.b{4 << level}.torgb"))
    return table


def mapping_table(layers: int, c_dim: int) -> dict[str, Layout]:
    """Layout of a mapping network's weights, by our names."""
    names = {f"mapping.layers.{index}": f"mapping.fc{index}" for index in range(layers)}
    if c_dim:
        names["mapping.embed"] = "mapping.embed"
    return {
        f"{ours}.{part}": Layout(f"{theirs}.{part}")
        for ours, theirs in names.items()
        for part in ("weight", "bias")
    }


def plan_discriminator(module: _Module) -> NetworkPlan[DiscriminatorConfig]:
    """Infer a discriminator's shape and settings and find every weight."""
    tensors, label = module.tensors, module.label
    sides = _resolutions(module, "")
    top = f"b{sides[-1]}"
    if f"{top}.skip.weight" not in tensors:
        found = "skip" if f"b{sides[0]}.fromrgb.weight" in tensors else "orig"
        raise _architecture(label, found, "resnet")
    image = require(tensors, f"{top}.fromrgb.weight", label, 4)
    channels = tuple(require(tensors, f"b{side}.conv1.weight", label, 4)[0] for side in sides[1:]) + image[:1]
    final = require(tensors, "b4.conv.weight", label, 4)
    dense = _dense(module)
    conditional = "mapping.embed.weight" in tensors
    embed = require(tensors, "mapping.embed.weight", label, 2) if conditional else (0, 0)
    label_dim = require(tensors, "b4.out.weight", label, 2)[0]
    convs = [f"b{side}.{conv}" for side in sides[1:] for conv in ("conv0", "conv1")]
    deviation = module.settings.get("b4.mbstd", {})
    config = make_config(
        DiscriminatorConfig,
        size=sides[-1],
        channels=channels,
        image_channels=image[1],
        c_dim=embed[1],
        cmap_dim=label_dim if conditional and label_dim != channels[0] else None,
        mapping_layers=len(dense) if conditional else 8,
        mapping_lr_multiplier=_lr_multiplier(module, dense),
        mapping_width=embed[0] if conditional and embed[0] != label_dim else None,
        mbstd_group=_group(deviation.get("group_size", 4)),
        mbstd_features=final[1] - channels[0],
        conv_clamp=_number(module.setting("conv_clamp", f"{top}.fromrgb", *convs, "b4.conv"), "conv_clamp"),
    )
    if config.mbstd_features < 1:
        raise CheckpointError(f"{label} has no minibatch standard deviation layer, which is not supported")
    _check_settings(module, [f"{top}.fromrgb", *convs, "b4.conv", "b4.fc", *dense])
    return match(label, config, discriminator_table(config), tensors, _is_extra)


def _group(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(
            f"the minibatch deviation has groups of {describe(value)}, expected 1 or more or None"
        )
    return value


def discriminator_table(config: DiscriminatorConfig) -> dict[str, Layout]:
    """Layout of every discriminator weight in these files, by our names."""
    names = {"from_rgb": f"b{config.size}.fromrgb"}
    for level in range(len(config.channels) - 1):
        ours, theirs = f"blocks.{level}", f"b{config.size >> level}"
        names[f"{ours}.conv1"], names[f"{ours}.conv2"] = f"{theirs}.conv0", f"{theirs}.conv1"
    names |= {"final_conv": "b4.conv", "final_linear": "b4.fc", "output": "b4.out"}
    table = {
        f"{ours}.{part}": Layout(f"{theirs}.{part}")
        for ours, theirs in names.items()
        for part in ("weight", "bias")
    }
    for level in range(len(config.channels) - 1):
        table[f"blocks.{level}.skip.weight"] = Layout(f"b{config.size >> level}.skip.weight")
    return table | (mapping_table(config.mapping_layers, config.c_dim) if config.c_dim else {})
