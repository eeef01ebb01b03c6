"""Legacy network pickles of the TensorFlow StyleGAN2 and StyleGAN2-ADA repositories (Network version 4).

Source: checkpoints.md C; the same results as the converters of NVIDIA's PyTorch repositories, except that a
discriminator without a stated group of the minibatch deviation takes the whole batch, as theirs does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..networks import DiscriminatorConfig, GeneratorConfig
from ..texts import printable
from .assemble import (
    CheckpointPlan,
    Layout,
    NetworkPlan,
    Shape,
    check_constant,
    check_labels,
    make_config,
    match,
    optional_discriminator,
    optional_raw_generator,
    require,
)
from .rebuild import TF_NETWORK, NumpyArray, Record
from .rosinality import channel_multiplier
from .stored import CheckpointError, Source, describe

SUPPORTED_VERSION = 4
MAX_VARIABLES = 2_000
MAX_NETWORKS = 8
MAX_SETTINGS = 200
_IGNORED_VARIABLES = re.compile(r"(.*/)?(lod|dlatent_avg)")
_SHAPE_SETTINGS = {  # what the tensors tell as well
    *("latent_size", "label_size", "dlatent_size", "resolution", "num_channels", "mapping_layers"),
    *("label_fmaps", "mapping_fmaps", "fmap_base", "fmap_max", "fmap_decay", "fmap_min"),
    *("res_log2", "resolution_log2", "img_resolution", "img_channels", "num_layers"),
}
_HARMLESS_SETTINGS = {
    *("w_avg_beta", "num_fp16_res", "truncation_psi", "truncation_cutoff", "style_mixing_prob", "structure"),
    *("conditioning", "fused_modconv", "freeze_layers", "dlatent_broadcast", "dlatent_avg_beta"),
}
_RUN_SETTINGS = {  # how a network was run, not what it is: they change no weight and no arithmetic
    *("randomize_noise", "dtype", "is_training", "is_validation", "is_template_graph", "return_dlatents"),
    *("mapping_func", "synthesis_func", "truncation_psi_val", "truncation_cutoff_val"),
}
_READ_SETTINGS = {"mapping_lrmul", "conv_clamp", "mbstd_group_size", "mbstd_num_features", "resample_kernel"}
_FIXED_SETTINGS = {  # settings that change the arithmetic: the only values that are supported
    "mapping_nonlinearity": ("lrelu",),
    "nonlinearity": ("lrelu",),
    "act": ("lrelu",),
    "architecture": ("skip", "resnet"),
    "use_noise": (True,),
    "normalize_latents": (True,),
    "demodulate": (True,),
}
_SIDES = {  # settings of forks that draw no squares: pairs that must be equal
    ("resolution_h", "resolution_w"): "px",
    ("res_h", "res_w"): "px",
    ("min_h", "min_w"): "points at its smallest level",
}


def is_network_file(root: Any) -> bool:
    """Whether a pickle's object has the layout of these files: networks, alone, in a row or by name."""
    values = root.values() if isinstance(root, dict) else root if isinstance(root, tuple | list) else [root]
    if len(values) > MAX_NETWORKS:
        return False
    return any(_is_network(item) for item in values)


def _is_network(value: Any) -> bool:
    return isinstance(value, Record) and value.kind == TF_NETWORK


def _by_role(root: Any) -> dict[str, Record]:
    """The networks of a file under the names G, D and Gs: by name, by the triple's order, by their parts."""
    if isinstance(root, dict):
        named = {"G_ema": "Gs", "Gs": "Gs", "G": "G", "D": "D"}
        return {named[name]: value for name, value in root.items() if name in named and _is_network(value)}
    networks = [value for value in (root if isinstance(root, tuple | list) else [root]) if _is_network(value)]
    if len(networks) == 3:
        return dict(zip(("G", "D", "Gs"), networks, strict=True))
    found = {}
    for network in networks:  # of two generators the later one is the average
        if not _draws(network):
            found["D"] = network
        else:
            found |= {"G": found["Gs"], "Gs": network} if "Gs" in found else {"Gs": network}
    return found


def _draws(network: Record) -> bool:
    """Whether a network is a generator: it has components; files of old versions tell by name."""
    components = network.state.get("components")
    name = network.state.get("name")
    return bool(isinstance(components, dict) and components) or (type(name) is str and name.startswith("G"))


def read_plan(root: Any) -> CheckpointPlan:
    """Plan the networks of a legacy pickle.

    Args:
        root: the records of G, D and Gs (the moving average), or some of them, one generator at least.

    Returns:
        The plan; format "tensorflow".

    Raises:
        CheckpointError: another version or architecture, missing or ill-shaped variables.
    """
    networks = _by_role(root)
    main = "Gs" if "Gs" in networks else "G"
    if main not in networks:
        raise CheckpointError("holds a discriminator only; a file with G or Gs is needed")
    for label, record in networks.items():
        _check_version(record, label)
    notes: list[str] = []
    average = _variables(networks[main], main)
    plan = CheckpointPlan(
        "tensorflow", "TensorFlow", _plan_generator(networks[main], average, main, notes), notes=notes
    )
    config = plan.generator.config
    if main == "Gs" and "G" in networks:
        plan.raw_generator = optional_raw_generator(
            lambda: _plan_generator(networks["G"], _variables(networks["G"], "G"), "G", []), config, notes
        )
    if "D" in networks:
        plan.discriminator = optional_discriminator(
            lambda: _plan_discriminator(networks["D"], _variables(networks["D"], "D")), config, notes
        )
        if plan.discriminator is not None and plan.discriminator.config.mbstd_group is None:
            notes.append(
                "D does not state the group size of its minibatch deviation; the whole batch is taken"
            )
    plan.mean_latent = average.get("dlatent_avg")
    if plan.mean_latent is not None and plan.mean_latent.shape != (config.w_dim,):
        raise CheckpointError(f"dlatent_avg has shape {list(plan.mean_latent.shape)}")
    plan.inferred["shape"] = "size, widths, dimensions and mapping depth were read from the variables' shapes"
    plan.inferred["channel_multiplier"] = channel_multiplier(config.channels)
    return plan


def _check_version(record: Record, label: str) -> None:
    version = record.state.get("version")
    if version != SUPPORTED_VERSION:
        raise CheckpointError(
            f"{label} is a TensorFlow network of version {describe(version)}; StyleGAN2 has version "
            f"{SUPPORTED_VERSION}, lower ones are ProGAN or StyleGAN, which are not supported"
        )


def _settings(record: Record, label: str) -> tuple[dict[str, Any], list[str]]:
    """Return the construction settings and the names of those that are not known.

    Raises:
        CheckpointError: a value that this program's networks do not have.
    """
    settings = record.state.get("static_kwargs")
    if not isinstance(settings, dict) or len(settings) > MAX_SETTINGS:
        raise CheckpointError(f"{label}: its settings (static_kwargs) are {describe(settings)}, not a dict")
    for name, allowed in _FIXED_SETTINGS.items():
        value = settings.get(name)
        if value is not None and not any(
            value is one or value == one for one in allowed if type(value) is type(one)
        ):
            raise CheckpointError(f"{label} has {name} {describe(value)}; supported is {allowed}")
    _check_square(settings, label)
    kernel = settings.get("resample_kernel")
    if kernel is not None and not _is_blur_row(kernel):
        raise CheckpointError(f"{label} has the blur {describe(kernel)}; supported is [1, 3, 3, 1]")
    known = _SHAPE_SETTINGS | _HARMLESS_SETTINGS | _READ_SETTINGS | _RUN_SETTINGS | set(_FIXED_SETTINGS)
    known |= {name for pair in _SIDES for name in pair} | {"init_res"}
    return settings, sorted(printable(str(name)[:40]) for name in settings if name not in known)


def _is_blur_row(kernel: Any) -> bool:
    """Whether a value is the row [1, 3, 3, 1]; numbers alone are compared, nested values can be endless."""
    if type(kernel) not in (list, tuple) or len(kernel) != 4:
        return False
    return all(type(tap) in (int, float) for tap in kernel) and list(kernel) == [1, 3, 3, 1]


def _check_square(settings: Mapping[str, Any], label: str) -> None:
    """Refuse the settings of forks that draw no squares, with their sides."""
    sides = {pair: (settings.get(pair[0]), settings.get(pair[1])) for pair in _SIDES}
    start = settings.get("init_res")
    if isinstance(start, list | tuple) and len(start) == 2:
        sides["init_res", "init_res"] = (start[0], start[1])
    for pair, (height, width) in sides.items():
        if height is None and width is None:
            continue
        other = settings.get("resolution") if _SIDES.get(pair) == "px" else 4
        height, width = (other if side is None else side for side in (height, width))
        if type(height) is not int or type(width) is not int:
            raise CheckpointError(f"{label} has {pair[0]} {describe(height)} and {pair[1]} {describe(width)}")
        if height != width:
            raise CheckpointError(
                f"{label} is not square: it was made for {height} x {width} {_SIDES.get(pair, 'points')} "
                "(height x width); only square networks are supported"
            )


def _note_unknown(label: str, unknown: list[str], settings: Mapping[str, Any], notes: list[str]) -> None:
    """Say which settings were not used.

    A setting that is not known does not sink a generator whose tensors fit completely: forks add settings of
    the run far more often than they change the arithmetic and keep all shapes. Which it was stays visible.
    """
    of_the_run = sorted(_RUN_SETTINGS & set(settings))
    if of_the_run:
        notes.append(f"{label}: settings of the run, of no use here: {', '.join(of_the_run)}")
    if unknown:
        notes.append(
            f"{label} was built with settings that are not known: {', '.join(unknown[:8])}. All its tensors "
            "fit; should the pictures look wrong, one of these changes the arithmetic"
        )


def _variables(record: Record, label: str) -> dict[str, Source]:
    """Gather the variables of a network and of its components, prefixed as NVIDIA's converter does."""
    components = record.state.get("components")
    parts: list[tuple[str, Any]] = [("", record)]
    if isinstance(components, dict):
        parts += [(f"{name}/", part) for name, part in list(components.items())[:8]]
    found: dict[str, Source] = {}
    for prefix, part in parts:
        variables = part.state.get("variables") if _is_network(part) else None
        if not isinstance(variables, list) or len(variables) > MAX_VARIABLES:
            raise CheckpointError(
                f"{label}: the variables of {prefix or 'the network'} are {describe(variables)}"
            )
        for entry in variables:
            if not isinstance(entry, tuple) or len(entry) != 2 or not isinstance(entry[0], str):
                raise CheckpointError(f"{label}: a variable is {describe(entry)}, not a name and an array")
            name = prefix + entry[0]
            found[name] = _source(name, entry[1], label)
    if any("_lod" in name for name in found):
        raise CheckpointError(
            f"{label} has the architecture 'orig' (configurations A to D); supported are the standard ones, "
            "configuration E and F"
        )
    return found


def _source(name: str, value: Any, label: str) -> Source:
    """Describe a variable: an array, or a single number."""
    if isinstance(value, NumpyArray) and value.tensor is not None:
        return value.tensor.source(name)
    if type(value) in (int, float):
        return Source(name, (), torch.float32, lambda: torch.tensor(float(value)))
    raise CheckpointError(f"{label}: variable {name[:80]} is {describe(value)}, not an array")


def _ignored(name: str) -> bool:
    return _IGNORED_VARIABLES.fullmatch(name) is not None


def _sides(tensors: Mapping[str, Source], pattern: str, label: str) -> list[int]:
    hits = [re.fullmatch(pattern, name) for name in tensors]
    sides = sorted(int(hit[1]) for hit in hits if hit)
    if not sides or sides != [8 << level for level in range(len(sides))]:
        raise CheckpointError(
            f"{label} has layers for the sides {sides[:12]} px; expected 8, 16, ... up to its size"
        )
    return [4, *sides]


def _plan_generator(
    record: Record, tensors: Mapping[str, Source], label: str, notes: list[str]
) -> NetworkPlan[GeneratorConfig]:
    settings, unknown = _settings(record, label)
    _note_unknown(label, unknown, settings, notes)
    if any("LabelConcat" in name for name in tensors):
        raise CheckpointError(
            f"{label} is conditional (it draws by class labels) in the way of the first StyleGAN2, which "
            "joins labels and z in one layer (LabelConcat); that is not supported. Use an unconditional "
            "network, or a conditional one of StyleGAN2-ADA"
        )
    sides = _sides(tensors, r"synthesis/(\d{1,5})x\1/Conv0_up/weight", label)
    if settings.get("architecture") == "resnet" or any("/Skip/" in name for name in tensors):
        raise CheckpointError(f"{label} has the architecture 'resnet'; supported is 'skip' only")
    layers = sum(1 for name in tensors if re.fullmatch(r"mapping/Dense\d+/weight", name))
    first = require(tensors, "mapping/Dense0/weight", label, 2)
    last = require(tensors, f"mapping/Dense{layers - 1}/weight", label, 2)
    conditional = "mapping/LabelEmbed/weight" in tensors
    embed = require(tensors, "mapping/LabelEmbed/weight", label, 2) if conditional else (0, 0)
    stated = settings.get("label_size"), settings.get("latent_size")
    check_labels(label, *stated, embed[0], first[0] - embed[1])
    check_constant(label, require(tensors, "synthesis/4x4/Const/const", label, 4), len(sides) - 1)
    widths = [require(tensors, "synthesis/4x4/Conv/weight", label, 4)[3]]
    widths += [require(tensors, f"synthesis/{side}x{side}/Conv1/weight", label, 4)[3] for side in sides[1:]]
    config = make_config(
        GeneratorConfig,
        size=sides[-1],
        channels=tuple(widths),
        z_dim=first[0] - embed[1],
        w_dim=last[1],
        c_dim=embed[0],
        mapping_layers=layers,
        mapping_lr_multiplier=_number(settings, "mapping_lrmul") or 0.01,
        mapping_width=first[1] if first[1] != last[1] else None,
        label_width=embed[1] if conditional and embed[1] != last[1] else None,
        image_channels=require(tensors, "synthesis/4x4/ToRGB/weight", label, 4)[3],
        conv_clamp=_number(settings, "conv_clamp"),
    )
    return match(label, config, generator_table(config), tensors, _ignored)


def _number(settings: Mapping[str, Any], name: str) -> float | None:
    value = settings.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise CheckpointError(f"{name} is {describe(value)}, expected a positive number")
    return float(value)


def _plan_discriminator(record: Record, tensors: Mapping[str, Source]) -> NetworkPlan[DiscriminatorConfig]:
    label = "D"
    settings, unknown = _settings(record, label)
    if unknown:
        raise CheckpointError(f"D was built with settings that are not known: {', '.join(unknown[:8])}")
    sides = _sides(tensors, r"(\d{1,5})x\1/Conv0/weight", label)
    if settings.get("architecture") == "skip" or f"{sides[-1]}x{sides[-1]}/Skip/weight" not in tensors:
        raise CheckpointError("D has the architecture 'skip' or 'orig'; supported is 'resnet' only")
    image = require(tensors, f"{sides[-1]}x{sides[-1]}/FromRGB/weight", label, 4)
    widths = [require(tensors, f"{side}x{side}/Conv1_down/weight", label, 4)[3] for side in sides[1:]]
    conditional = "LabelEmbed/weight" in tensors
    embed = require(tensors, "LabelEmbed/weight", label, 2) if conditional else (0, 0)
    label_dim = require(tensors, "Output/weight", label, 2)[1]
    group = settings.get("mbstd_group_size")
    if group is not None and (type(group) is not int or group < 1):
        raise CheckpointError(f"mbstd_group_size is {describe(group)}, expected 1 or more or None")
    config = make_config(
        DiscriminatorConfig,
        size=sides[-1],
        channels=(*widths, image[3]),
        image_channels=image[2],
        c_dim=embed[0],
        cmap_dim=label_dim if conditional and label_dim != widths[0] else None,
        mapping_layers=sum(1 for name in tensors if re.fullmatch(r"Mapping\d+/weight", name)) or 8,
        mapping_lr_multiplier=_number(settings, "mapping_lrmul") or 0.1,
        mapping_width=embed[1] if conditional and embed[1] != label_dim else None,
        mbstd_group=group,
        mbstd_features=require(tensors, "4x4/Conv/weight", label, 4)[2] - widths[0],
        conv_clamp=_number(settings, "conv_clamp"),
    )
    if config.mbstd_features < 1:
        raise CheckpointError("D has no minibatch standard deviation layer, which is not supported")
    return match(label, config, discriminator_table(config), tensors, _ignored)


def _transposed_shape(shape: Shape) -> Shape:
    return (shape[1], shape[0])


def _conv_shape(shape: Shape) -> Shape:
    """[out, in, k, k] -> [k, k, in, out]."""
    return (shape[2], shape[3], shape[1], shape[0])


def _conv(tensor: Tensor) -> Tensor:
    """[k, k, in, out] -> [out, in, k, k]."""
    return tensor.permute(3, 2, 0, 1)


def _flipped_conv(tensor: Tensor) -> Tensor:
    """The same, turned by half a turn: TensorFlow's transposed convolution is a true convolution."""
    return tensor.flip(0, 1).permute(3, 2, 0, 1)


def _same(shape: Shape) -> Shape:
    return shape


def _dense(ours: str, theirs: str) -> dict[str, Layout]:
    return {
        f"{ours}.weight": Layout(f"{theirs}/weight", _transposed_shape, lambda tensor: tensor.T),
        f"{ours}.bias": Layout(f"{theirs}/bias"),
    }


def _styled(ours: str, theirs: str, read: Callable[[Tensor], Tensor] = _conv) -> dict[str, Layout]:
    """Names of a modulated convolution; its style bias is stored around 0 and used around 1."""
    return {
        f"{ours}.weight": Layout(f"{theirs}/weight", _conv_shape, read),
        f"{ours}.bias": Layout(f"{theirs}/bias"),
        f"{ours}.affine.weight": Layout(f"{theirs}/mod_weight", _transposed_shape, lambda tensor: tensor.T),
        f"{ours}.affine.bias": Layout(f"{theirs}/mod_bias", _same, lambda tensor: tensor + 1),
    }


def generator_table(config: GeneratorConfig) -> dict[str, Layout]:
    """Layout of every generator weight in these files, by our names."""
    table = {"const": Layout("synthesis/4x4/Const/const", lambda shape: (1, *shape))}
    for index in range(config.mapping_layers):
        table |= _dense(f"mapping.layers.{index}", f"mapping/Dense{index}")
    if config.c_dim:
        table |= _dense("mapping.embed", "mapping/LabelEmbed")
    for index in range(config.num_convs):
        side = 4 << ((index + 1) // 2)
        name = "Conv" if index == 0 else "Conv0_up" if index % 2 else "Conv1"
        theirs = f"synthesis/{side}x{side}/{name}"
        table |= _styled(f"convs.{index}", theirs, _flipped_conv if index % 2 else _conv)
        table[f"convs.{index}.noise_strength"] = Layout(f"{theirs}/noise_strength")
        table[f"convs.{index}.noise_const"] = Layout(f"synthesis/noise{index}", lambda shape: (1, 1, *shape))
    for level in range(len(config.channels)):
        table |= _styled(f"to_rgbs.{level}", f"synthesis/{4 << level}x{4 << level}/ToRGB")
    return table


def discriminator_table(config: DiscriminatorConfig) -> dict[str, Layout]:
    """Layout of every discriminator weight in these files, by our names."""
    table: dict[str, Layout] = {}

    def conv(ours: str, theirs: str) -> None:
        table[f"{ours}.weight"] = Layout(f"{theirs}/weight", _conv_shape, _conv)
        table[f"{ours}.bias"] = Layout(f"{theirs}/bias")

    conv("from_rgb", f"{config.size}x{config.size}/FromRGB")
    for level in range(len(config.channels) - 1):
        side = f"{config.size >> level}x{config.size >> level}"
        conv(f"blocks.{level}.conv1", f"{side}/Conv0")
        conv(f"blocks.{level}.conv2", f"{side}/Conv1_down")
        table[f"blocks.{level}.skip.weight"] = Layout(f"{side}/Skip/weight", _conv_shape, _conv)
    conv("final_conv", "4x4/Conv")
    table |= _dense("final_linear", "4x4/Dense0") | _dense("output", "Output")
    if config.c_dim:
        table |= _dense("mapping.embed", "LabelEmbed")
        for index in range(config.mapping_layers):
            table |= _dense(f"mapping.layers.{index}", f"Mapping{index}")
    return table
