"""Networks among named tensors: which program's layout they have, which of them is the generator that draws.

One detection for torch files, pickles and safetensors: a network is a prefix behind which a layout's telling
names stand (`named`), whatever lies around it. What no layout fits is named by `foreign`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ..networks import DiscriminatorConfig, GeneratorConfig
from . import dialects, foreign, nvidia, rosinality
from .assemble import (
    CheckpointPlan,
    Layout,
    NetworkPlan,
    expected_shapes,
    make_config,
    match,
    optional_discriminator,
    optional_raw_generator,
    require,
)
from .dialects import Dialect
from .named import NamedTensors, gather, label, of_sources, rank
from .restricted import KNOWN_FILES
from .stored import CheckpointError, Source

MAX_MEAN_ROWS = 64  # of a mean latent; one per layer
_NVIDIA_SIGNS = ("synthesis.b4.const", "synthesis.b4.conv1.noise_const", "synthesis.b4.torgb.affine.weight")
_JUDGE_SIGNS = {  # layout: names of a discriminator
    "rosinality": ("convs.0.0.weight", "final_linear.1.weight"),
    "nvidia": ("b4.out.weight", "b4.fc.weight"),
    "oneshot-stylegan": ("from_rgb.weight", "final_linear.weight"),
}
_KINDS = {
    "basicsr": "BasicSR",
    "genforce": "genforce",
    "mmgeneration": "MMGeneration",
    "nvidia": "state dict with NVIDIA's names",
    "oneshot-stylegan": "oneshot-stylegan, header lost",
}
_AROUND_DECODERS = (  # what stands beside a decoder: who writes such files
    ("hypernet", "HyperStyle"),
    ("mapper", "StyleCLIP mapper"),
    ("encoder", "e4e"),
)


@dataclass(frozen=True)
class _Found:
    """A network of a known layout: everything whose names start with a prefix."""

    layout: str
    prefix: str
    dialect: Dialect | None = None  # None: NVIDIA's names


def read_plan(root: Mapping[Any, Any]) -> CheckpointPlan:
    """Plan the networks of a torch file's or pickle's dict.

    Args:
        root: dicts, nested in any way, with tensors among other values.

    Returns:
        The plan; its format is "rosinality", "e4e", "nvidia", "basicsr", "genforce" or "mmgeneration".

    Raises:
        CheckpointError: no StyleGAN2 generator of a known layout inside, or an ill-shaped one; what it is
            instead is said where it is known.
    """
    return _plan(gather(root))


def read_flat_plan(sources: Mapping[str, Source]) -> CheckpointPlan:
    """Plan the networks of a flat file, as a safetensors file without this project's header is.

    Args:
        sources: tensors by name.

    Returns:
        The plan; formats as of `read_plan`, or "oneshot-stylegan" for a file that lost its header.

    Raises:
        CheckpointError: as `read_plan`.
    """
    return _plan(of_sources(sources))


def _plan(named: NamedTensors) -> CheckpointPlan:
    names = [*named.tensors, *named.classes]
    if (text := foreign.refusal(names, wrappers_only=True)) is not None:
        raise CheckpointError(text)
    generators = sorted(_generators(named), key=lambda found: rank(found.prefix))
    if not generators:
        raise CheckpointError(_no_generator(named))
    main = generators[0]
    judges = _judges(named, [found.prefix for found in generators])
    others = [found.prefix for found in (*generators, *judges)] + named.judges()
    notes = ["the file is a bare state dict; it was taken as the generator"] if not main.prefix else []
    plan = CheckpointPlan(
        main.layout, _kind(named, main), _generator(named, main, others, notes), notes=notes
    )
    used = [main.prefix]
    for found in generators[1:]:
        if plan.raw_generator is None and _is_raw(found, main):
            plan.raw_generator = optional_raw_generator(
                partial(_generator, named, found, others, []), plan.generator.config, notes
            )
            used.append(found.prefix)
    plan.discriminator = _discriminator(named, judges, plan)
    plan.mean_latent = _mean_latent(named, main, plan.generator.config.w_dim)
    _note_rest(named, plan, [*used, *(found.prefix for found in judges[:1])], main)
    _add_inferred(plan, main)
    return plan


def _generators(named: NamedTensors) -> list[_Found]:
    found = [
        _Found(dialect.name, prefix, dialect)
        for dialect in dialects.DIALECTS
        for prefix in named.prefixes(dialect.signs)
    ]
    return found + [_Found("nvidia", prefix) for prefix in named.prefixes(_NVIDIA_SIGNS)]


def _generator(
    named: NamedTensors, found: _Found, others: list[str], notes: list[str]
) -> NetworkPlan[GeneratorConfig]:
    tensors = named.network(found.prefix, others)
    if found.dialect is not None:
        return rosinality.plan_generator(label(found.prefix), tensors, notes, found.dialect)
    module = nvidia.state_dict(label(found.prefix), tensors)
    plan = nvidia.plan_generator(module, notes)
    if not plan.config.c_dim:
        rosinality.refuse_lost_labels(plan.label, tensors, plan.config.z_dim, plan.config.w_dim)
    return plan


def _is_raw(found: _Found, main: _Found) -> bool:
    """Whether a network is the generator without averaging that belongs to the main one."""
    if found.layout != main.layout:
        return False
    if main.layout == dialects.OWN.name:
        return found.prefix.endswith("raw_generator.")
    copy, plain, _ = rank(found.prefix)
    return plain and not copy and not rank(main.prefix)[1]


def _judges(named: NamedTensors, generators: list[str]) -> list[_Found]:
    found = [
        _Found(layout, prefix)
        for layout, signs in _JUDGE_SIGNS.items()
        for prefix in named.prefixes(signs)
        if prefix not in generators
    ]
    return sorted(found, key=lambda judge: rank(judge.prefix)[2])


def _discriminator(
    named: NamedTensors, judges: list[_Found], plan: CheckpointPlan
) -> NetworkPlan[DiscriminatorConfig] | None:
    if judges:
        return optional_discriminator(
            lambda: _plan_judge(named, judges[0]), plan.generator.config, plan.notes
        )
    if unknown := named.judges():
        return optional_discriminator(
            lambda: _unknown_judge(named, unknown[0]), plan.generator.config, plan.notes
        )
    return None


def _plan_judge(named: NamedTensors, found: _Found) -> NetworkPlan[DiscriminatorConfig]:
    tensors, name = named.below(found.prefix), label(found.prefix)
    if found.layout == "rosinality":
        return rosinality.plan_discriminator(name, tensors)
    if found.layout == "nvidia":
        return nvidia.plan_discriminator(nvidia.state_dict(name, tensors))
    return _plan_own_judge(name, tensors)


def _unknown_judge(named: NamedTensors, prefix: str) -> NetworkPlan[DiscriminatorConfig]:
    first = ", ".join(name[:60] for name in list(named.below(prefix))[:3])
    raise CheckpointError(f"{label(prefix)} has layers of no known layout ({first})")


def _plan_own_judge(name: str, tensors: Mapping[str, Source]) -> NetworkPlan[DiscriminatorConfig]:
    """Plan a discriminator of this project's names without the header's settings."""
    image = require(tensors, "from_rgb.weight", name, 4)
    levels = sum(f"blocks.{level}.conv2.weight" in tensors for level in range(rosinality.MAX_LAYERS))
    widths = [image[0]]
    widths += [require(tensors, f"blocks.{level}.conv2.weight", name, 4)[0] for level in range(levels)]
    final = require(tensors, "final_conv.weight", name, 4)
    if any(tensor.startswith("mapping.") for tensor in tensors):
        raise CheckpointError(f"{name} judges by class, and the settings of that are lost")
    config = make_config(
        DiscriminatorConfig,
        size=4 << min(levels, 16),
        channels=tuple(widths[::-1]),
        image_channels=image[1],
        mbstd_features=final[1] - widths[-1],
    )
    return match(name, config, {ours: Layout(ours) for ours in expected_shapes(config)}, tensors)


def _mean_latent(named: NamedTensors, main: _Found, width: int) -> Source | None:
    """Describe the stored mean: [W], [1, W], or [L, W] with the same row for every layer (e4e)."""
    inside = "mapping.w_avg" if main.dialect is None else main.dialect.mean
    value = named.mean_of(main.prefix, () if inside is None else (inside,))
    if value is None:
        return None
    rows = value.shape[0] if len(value.shape) == 2 else 1
    if len(value.shape) not in (1, 2) or value.shape[-1] != width or not 1 <= rows <= MAX_MEAN_ROWS:
        raise CheckpointError(
            f"{value.name} has shape {list(value.shape)}, expected [{width}] or [layers, {width}]"
        )

    def one_row(tensor: Tensor) -> Tensor:
        rows = tensor.reshape(-1, width)
        return rows[0] if bool((rows == rows[0]).all()) else rows.float().mean(dim=0)

    return value.converted((width,), one_row)


def _kind(named: NamedTensors, main: _Found) -> str:
    """Name the program whose files look like this (checkpoints.md A.1)."""
    if main.layout in _KINDS:
        return _KINDS[main.layout]
    if main.prefix.endswith("decoder."):
        return _around_decoder(named, main.prefix) or "encoder file"
    names = set(named.entries)
    if "style_latent" in names:
        return "Mind the Gap"
    if names & {"args", "d_optim"}:
        return "rosinality training"
    only = {("g_ema", "g_optim"): "StyleGAN-NADA", ("g",): "JoJoGAN", ("g_ema",): "OneshotCLIP"}
    return only.get(tuple(sorted(names)), "rosinality")


def _around_decoder(named: NamedTensors, prefix: str) -> str | None:
    around = prefix.removesuffix("decoder.")
    beside = {name.split(".")[0] for name in named.below(around)}
    return next((kind for part, kind in _AROUND_DECODERS if part in beside), None)


def _note_rest(named: NamedTensors, plan: CheckpointPlan, used: list[str], main: _Found) -> None:
    """Say what was taken where that is not obvious, and what of the file is not used."""
    if main.prefix.endswith("decoder."):
        if plan.kind == "e4e" and plan.format == "rosinality":
            plan.format = "e4e"
            plan.notes.append(
                "an e4e encoder file: its decoder was taken as the generator, its encoder is not used"
            )
        else:
            plan.notes.append(f"a file of kind {plan.kind}: its decoder was taken as the generator")
    rest = named.unused(used, () if plan.mean_latent is None else (plan.mean_latent.name,))
    if rest:
        more = f" and {len(rest) - 8} more" if len(rest) > 8 else ""
        plan.notes.append(f"not used: {', '.join(name[:40] for name in rest[:8])}{more}")


def _add_inferred(plan: CheckpointPlan, main: _Found) -> None:
    config = plan.generator.config
    plan.inferred["shape"] = "size, widths, dimensions and mapping depth were read from the tensors' shapes"
    plan.inferred["channel_multiplier"] = rosinality.channel_multiplier(config.channels)
    plan.inferred["mapping_lr_multiplier"] = config.mapping_lr_multiplier
    if main.layout in ("nvidia", dialects.OWN.name):
        plan.inferred["conv_clamp"] = "not stated without the original's settings; no bound was assumed"


def _no_generator(named: NamedTensors) -> str:
    """Say what a file without a generator of a known layout is."""
    if "init_w" in named.tensors:
        return (
            "a latent code written by OneshotCLIP (init_w), not a generator; give the file of the generator"
        )
    if (text := foreign.refusal([*named.tensors, *named.classes])) is not None:
        return text
    if _judges(named, []):
        return f"has no generator, a discriminator only; {KNOWN_FILES}"
    if not named.tensors:
        entries = ", ".join(name[:30] for name in named.entries[:5]) or "nothing"
        return f"has no generator and no named tensors at all (it holds {entries}); {KNOWN_FILES}"
    first = ", ".join(name[:60] for name in list(named.tensors)[:5])
    return (
        f"has no generator in the layout of a known program: its {len(named.tensors)} tensors are called "
        f"{first}{', ...' if len(named.tensors) > 5 else ''}; {KNOWN_FILES}"
    )
