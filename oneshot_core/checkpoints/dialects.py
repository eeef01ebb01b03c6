"""How programs name the weights of a StyleGAN2 generator: one row per program, no code of its own.

Source: checkpoints.md A.2 (rosinality); the state dicts of BasicSR (basicsr/archs/stylegan2_arch.py),
MMGeneration (mmgen/models/architectures/stylegan) and genforce (models/stylegan2_generator.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from torch import Tensor

from ..networks import GeneratorConfig
from .assemble import Layout, Shape


@dataclass(frozen=True)
class Dialect:
    """Names and shapes of one program's generator.

    Names are templates: `{k}` counts from 0, `{n}` from 1, `{p}` from the layer behind the first.
    """

    name: str  # as in the provenance
    constant: str
    dense: str  # prefix of a mapping layer's names
    first_conv: str  # prefix of the convolution at 4 px
    conv: str
    first_rgb: str
    rgb: str
    noise: str  # noise map of a convolution
    signs: tuple[str, ...]  # names of which each says that a state dict has this layout
    dense_weight: str = "weight"
    dense_bias: str = "bias"
    weight: str = "conv.weight"  # of a modulated convolution, behind its prefix
    style_weight: str = "conv.modulation.weight"
    style_bias: str = "conv.modulation.bias"
    conv_bias: str = "activate.bias"
    rgb_bias: str = "bias"
    strength: str = "noise.weight"
    mean: str | None = None  # where the state dict itself holds the mean latent
    embed: str | None = None  # prefix of the label's embedding, where the program has labels
    axes: bool = True  # leading axes: weight [1, O, I, k, k], bias of RGB [1, 3, 1, 1], strength [1]
    const_axis: bool = True  # constant [1, C, 4, 4]
    noise_axes: bool = True  # noise maps [1, 1, r, r]
    turned: bool = False  # kernels of up-convolutions are turned by 180 degrees
    style_offset: float = 0.0  # what the program adds to a style's bias
    bgr: bool = False  # colours are blue, green, red
    extra: Collection[str] = field(
        default=()
    )  # names without a place of their own and without a meaning here
    note: str | None = None  # what is worth saying of each such file


ROSINALITY = Dialect(
    "rosinality",
    constant="input.input",
    dense="style.{n}",
    first_conv="conv1",
    conv="convs.{p}",
    first_rgb="to_rgb1",
    rgb="to_rgbs.{p}",
    noise="noises.noise_{k}",
    signs=("input.input", "conv1.conv.modulation.weight", "to_rgb1.conv.modulation.weight"),
)
BASICSR = Dialect(
    "basicsr",
    constant="constant_input.weight",
    dense="style_mlp.{n}",
    first_conv="style_conv1",
    conv="style_convs.{p}",
    first_rgb="to_rgb1",
    rgb="to_rgbs.{p}",
    noise="noises.noise{k}",
    weight="modulated_conv.weight",
    style_weight="modulated_conv.modulation.weight",
    style_bias="modulated_conv.modulation.bias",
    strength="weight",
    signs=("constant_input.weight", "style_conv1.modulated_conv.weight"),
)
MMGENERATION = Dialect(
    "mmgeneration",
    constant="constant_input.input",
    dense="style_mapping.{n}",
    dense_weight="linear.weight_orig",
    first_conv="conv1",
    conv="convs.{p}",
    first_rgb="to_rgb1",
    rgb="to_rgbs.{p}",
    noise="injected_noise_{k}",
    style_weight="conv.style_modulation.linear.weight_orig",
    style_bias="conv.style_modulation.bias",
    strength="noise_injector.weight",
    signs=("constant_input.input", "style_mapping.1.linear.weight_orig"),
    bgr=True,
    note="MMGeneration's networks draw blue, green, red; the colours were put in the order red, green, blue",
)
GENFORCE = Dialect(
    "genforce",
    constant="synthesis.early_layer.const",
    dense="mapping.dense{k}",
    first_conv="synthesis.layer0",
    conv="synthesis.layer{k}",
    first_rgb="synthesis.output0",
    rgb="synthesis.output{k}",
    noise="synthesis.layer{k}.noise",
    weight="weight",
    style_weight="style.weight",
    style_bias="style.bias",
    conv_bias="bias",
    strength="noise_strength",
    mean="truncation.w_avg",
    axes=False,
    turned=True,
    style_offset=1.0,
    signs=("synthesis.early_layer.const",),
    extra=("truncation.w_avg",),
)
OWN = Dialect(
    "oneshot-stylegan",
    constant="const",
    dense="mapping.layers.{k}",
    first_conv="convs.0",
    conv="convs.{k}",
    first_rgb="to_rgbs.0",
    rgb="to_rgbs.{k}",
    noise="convs.{k}.noise_const",
    weight="weight",
    style_weight="affine.weight",
    style_bias="affine.bias",
    conv_bias="bias",
    strength="noise_strength",
    embed="mapping.embed",
    axes=False,
    const_axis=False,
    noise_axes=False,
    signs=("convs.0.noise_const", "convs.0.affine.weight", "mapping.layers.0.weight"),
    note="a file of this project whose header (metadata) was lost when another tool saved it again; its "
    "settings were read from the shapes, its history is gone",
)
DIALECTS = (ROSINALITY, BASICSR, MMGENERATION, GENFORCE, OWN)


def _named(template: str, index: int) -> str:
    return template.format(k=index, n=index + 1, p=index - 1)


def _leading(shape: Shape) -> Shape:
    return (1, *shape)


def _same(shape: Shape) -> Shape:
    return shape


def _turn(tensor: Tensor) -> Tensor:
    return tensor.flip((-2, -1))


def _reversed_colours(tensor: Tensor) -> Tensor:
    """The colour axis is the first of [3, I, 1, 1] or [3], behind a leading axis where there is one."""
    return tensor.flip(1 if tensor.shape[0] == 1 else 0)


def conv_name(dialect: Dialect, index: int) -> str:
    """Prefix of convolution `index` in forward order, from 0."""
    return _named(dialect.conv, index) if index else dialect.first_conv


def rgb_name(dialect: Dialect, level: int) -> str:
    """Prefix of the RGB layer at level 0 (4 px), 1, ..."""
    return _named(dialect.rgb, level) if level else dialect.first_rgb


def dense_name(dialect: Dialect, index: int) -> str:
    """Name of mapping layer `index`'s weight, from 0."""
    return f"{_named(dialect.dense, index)}.{dialect.dense_weight}"


def generator_table(dialect: Dialect, config: GeneratorConfig) -> dict[str, Layout]:
    """Layout of every generator weight in a program's files, by our names."""
    axes = _leading if dialect.axes else _same
    table = {"const": Layout(dialect.constant, _leading if dialect.const_axis else _same)}
    if config.c_dim and dialect.embed:
        table |= {f"mapping.embed.{part}": Layout(f"{dialect.embed}.{part}") for part in ("weight", "bias")}
    for index in range(config.mapping_layers):
        theirs = _named(dialect.dense, index)
        table[f"mapping.layers.{index}.weight"] = Layout(f"{theirs}.{dialect.dense_weight}")
        table[f"mapping.layers.{index}.bias"] = Layout(f"{theirs}.{dialect.dense_bias}")
    for index in range(config.num_convs):
        ours, theirs = f"convs.{index}", conv_name(dialect, index)
        turned = dialect.turned and index % 2 == 1
        table |= _styled(dialect, ours, theirs, axes, _turn if turned else _unchanged)
        table[f"{ours}.bias"] = Layout(f"{theirs}.{dialect.conv_bias}")
        table[f"{ours}.noise_strength"] = Layout(f"{theirs}.{dialect.strength}", axes)
        maps: Callable[[Shape], Shape] = (lambda shape: (1, 1, *shape)) if dialect.noise_axes else _same
        table[f"{ours}.noise_const"] = Layout(_named(dialect.noise, index), maps)
    for level in range(len(config.channels)):
        ours, theirs = f"to_rgbs.{level}", rgb_name(dialect, level)
        colours = _reversed_colours if dialect.bgr else _unchanged
        table |= _styled(dialect, ours, theirs, axes, colours)
        bias: Callable[[Shape], Shape] = (lambda shape: (1, *shape, 1, 1)) if dialect.axes else _same
        table[f"{ours}.bias"] = Layout(f"{theirs}.{dialect.rgb_bias}", bias, colours)
    return table


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _styled(
    dialect: Dialect,
    ours: str,
    theirs: str,
    axes: Callable[[Shape], Shape],
    read: Callable[[Tensor], Tensor],
) -> dict[str, Layout]:
    """Names of a modulated convolution."""
    offset = dialect.style_offset
    return {
        f"{ours}.weight": Layout(f"{theirs}.{dialect.weight}", axes, read),
        f"{ours}.affine.weight": Layout(f"{theirs}.{dialect.style_weight}"),
        f"{ours}.affine.bias": Layout(
            f"{theirs}.{dialect.style_bias}", read=lambda tensor: tensor + offset if offset else tensor
        ),
    }
