"""StyleGAN2: generator (skip architecture) and discriminator (residual) with image and patch heads.

Data flows `map -> affine -> render`; a forward pass draws no random number and has no mode flag. Weights are
stored as the originals store them (before the equalised learning-rate gain), so files convert by renaming.

Source: "Analyzing and Improving the Image Quality of StyleGAN" (StyleGAN2); arithmetic as in NVlabs
stylegan2-ada-pytorch training/networks.py and rosinality stylegan2-pytorch model.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network_configs import DiscriminatorConfig as DiscriminatorConfig
from .network_configs import GeneratorConfig as GeneratorConfig
from .ops import (
    ACTIVATION_GAIN,
    LEAKY_SLOPE,
    bias_act,
    blur_kernel,
    demodulation,
    modulated_conv2d,
    upfirdn2d,
)
from .stages import Stage, kept
from .tensors import Images, Latents, Noise, Styles, check_shape

NORM_EPS = 1e-8  # of latent norm and minibatch deviation, as in both originals
_Module = TypeVar("_Module", bound=nn.Module)


def _stack(modules: Iterable[_Module]) -> Sequence[_Module]:
    """Register modules as a list whose elements keep their type for the type checker."""
    return cast("Sequence[_Module]", nn.ModuleList(modules))


class Linear(nn.Module):
    """Fully connected layer with equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, lr_multiplier: float = 1.0, bias_init: float = 0.0) -> None:
        super().__init__()
        # Equalised learning rate: the initialisation's scale is a factor at run time, because Adam's steps do
        # not depend on a weight's scale (progressive GAN, section 4.1).
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias_init))
        self.lr_multiplier = lr_multiplier
        self.gain = lr_multiplier / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, I] -> [N, O]."""
        return F.linear(x, self.weight * self.gain, self.bias * self.lr_multiplier)

    def activated(self, x: Tensor) -> Tensor:
        """[N, I] -> [N, O], through leaky ReLU."""
        weight = self.weight * (self.gain * ACTIVATION_GAIN)
        x = F.linear(x, weight, self.bias * (self.lr_multiplier * ACTIVATION_GAIN))
        return F.leaky_relu_(x, LEAKY_SLOPE)


class Conv(nn.Module):
    """Convolution with equalised learning rate, optional filtered down-sampling and leaky ReLU."""

    blur: Tensor

    def __init__(self, inputs: int, outputs: int, kernel_px: int, down: int = 1, act: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel_px, kernel_px))
        self.bias = nn.Parameter(torch.zeros(outputs)) if act else None
        self.gain = 1 / math.sqrt(inputs * kernel_px**2)
        self.kernel_px, self.down, self.act = kernel_px, down, act
        # A constant, not a weight; rosinality's files carry it, and their reader checks it.
        self.register_buffer("blur", blur_kernel(), persistent=False)

    def forward(self, x: Tensor, clamp: float | None = None) -> Tensor:
        """[N, I, H, W] -> [N, O, H / down, W / down]."""
        # The activation's gain is in weight and bias: a leaky ReLU lets positive factors through, and no pass
        # over the picture is needed for it.
        act = ACTIVATION_GAIN if self.act else 1.0
        weight, bias = self.weight * (self.gain * act), None if self.bias is None else self.bias * act
        if self.down == 1:
            x = F.conv2d(x, weight, bias, padding=self.kernel_px // 2)
        elif self.kernel_px == 1:  # filter and decimate first: the same values, a quarter of the work
            x = F.conv2d(upfirdn2d(x, self.blur, down=2, pad=(1, 1)), weight, bias)
        else:
            # The filter comes before the stride, against aliasing; its padding serves the 3x3 kernel too.
            x = F.conv2d(upfirdn2d(x, self.blur, pad=(2, 2)), weight, bias, stride=2)
        if not self.act:
            return x
        x = F.leaky_relu_(x, LEAKY_SLOPE)
        return x if clamp is None else x.clamp(-clamp, clamp)


class MappingNetwork(nn.Module):
    """Mapping network: normalise, embed the label, a stack of leaky-ReLU layers."""

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        layers: int,
        lr_multiplier: float,
        width: int,
        label_width: int,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim = z_dim, c_dim
        self.embed = Linear(c_dim, label_width) if c_dim else None
        first = z_dim + (label_width if c_dim else 0)
        widths = [first, *[width] * (layers - 1), w_dim]
        self.layers: Sequence[Linear] = _stack(Linear(i, o, lr_multiplier) for i, o in pairwise(widths))

    def forward(self, z: Tensor | None, c: Tensor | None) -> Tensor:
        """[N, Z], [N, c_dim] -> [N, W]."""
        # A discriminator's mapping has labels only.
        parts = [] if z is None else [_unit_rms(z)]
        if self.embed is not None:
            if c is None:
                raise ValueError(f"this network is conditional: give c, one-hot, of shape [N, {self.c_dim}]")
            check_shape(c, "c", (None, self.c_dim))
            # As NVIDIA's, so that a label weighs as much as z; rosinality has no labels.
            parts.append(_unit_rms(self.embed(c)))
        x = torch.cat(parts, dim=1)
        for layer in self.layers:
            # The last layer too: w is a leaky ReLU's output, which II2S undoes (editing.md 4.2).
            x = layer.activated(x)
        return x


def _unit_rms(x: Tensor) -> Tensor:
    """Scale each row to a root mean square of 1."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + NORM_EPS)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias and leaky ReLU."""

    noise_const: Tensor
    blur: Tensor

    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int, up: int) -> None:
        super().__init__()
        self.affine = Linear(w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        # One strength for all channels of a layer.
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.gain = 1 / math.sqrt(inputs * 9)
        self.up, self.resolution = up, resolution
        # Saved, though no optimiser moves it: pictures with stored noise repeat only with these maps.
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("blur", blur_kernel(gain=4.0), persistent=False)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None, clamp: float | None) -> Tensor:
        """[N, I, H, W], [N, I], [1 or N, 1, r, r] -> [N, O, r, r]."""
        # Demodulation cancels this gain but for its epsilon; as in rosinality's model.py.
        weight = self.weight * self.gain
        x = modulated_conv2d(x, weight, style, self.blur, demodulate=False, up=self.up)
        if noise is not None:
            noise = noise.to(x.dtype) * self.noise_strength
        # Demodulated here, in the same pass over the picture as all that follows.
        return bias_act(x, self.bias, clamp, demodulation(weight, style), noise)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(self, inputs: int, image_channels: int, w_dim: int) -> None:
        super().__init__()
        self.affine = Linear(w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(image_channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(image_channels))
        self.gain = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor, style: Tensor, clamp: float | None) -> Tensor:
        """[N, I, r, r], [N, I] -> [N, image_channels, r, r]."""
        # The gain stays with the weight, so styles mean the same as in StyleCLIP's files (editing.md 0).
        x = modulated_conv2d(x, self.weight * self.gain, style, demodulate=False)
        # Under autocast the float32 bias lifts this, and so the sum of the RGB layers, out of bfloat16.
        x = x + self.bias.reshape(1, -1, 1, 1)
        return x if clamp is None else x.clamp(-clamp, clamp)


class Generator(nn.Module):
    """StyleGAN2 generator in three steps: `map` z to w, `affine` w to styles, `render` styles to images."""

    blur: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        w = config.w_dim
        width, label = config.mapping_width or w, config.label_width or w
        layers, lr_multiplier = config.mapping_layers, config.mapping_lr_multiplier
        self.mapping = MappingNetwork(config.z_dim, config.c_dim, w, layers, lr_multiplier, width, label)
        self.const = nn.Parameter(torch.randn(config.channels[0], 4, 4))
        convs = [StyledConv(config.channels[0], config.channels[0], w, 4, up=1)]
        to_rgbs = [ToRGB(config.channels[0], config.image_channels, w)]
        # `convs[2 * level - 1]` and `convs[2 * level]` belong to level 1, 2, ...: 8 px, 16 px, ...
        for level, (inputs, outputs) in enumerate(pairwise(config.channels)):
            resolution = 2 ** (level + 3)
            convs.append(StyledConv(inputs, outputs, w, resolution, up=2))
            convs.append(StyledConv(outputs, outputs, w, resolution, up=1))
            to_rgbs.append(ToRGB(outputs, config.image_channels, w))
        self.convs: Sequence[StyledConv] = _stack(convs)
        self.to_rgbs: Sequence[ToRGB] = _stack(to_rgbs)
        self.register_buffer("blur", blur_kernel(gain=4.0), persistent=False)

    def map_single(self, z: Latents, c: Tensor | None = None) -> Latents:
        """Map z to one w per sample.

        Args:
            z: [N, Z], standard normal; its scale is normalised away.
            c: [N, c_dim] one-hot labels, needed by conditional generators only.

        Returns:
            [N, W].
        """
        check_shape(z, "z", (None, self.config.z_dim))
        return self.mapping(z, c)

    def map(self, z: Latents, c: Tensor | None = None) -> Latents:
        """Map z to a W+ code with the same w in every slot: [N, Z] -> [N, L, W]."""
        return self.broadcast(self.map_single(z, c))

    def broadcast(self, w: Latents) -> Latents:
        """Repeat a w over all slots: [N, W] -> [N, L, W]; a W+ code passes through."""
        if w.ndim == 2:
            w = w.unsqueeze(1).expand(-1, self.config.num_layers, -1)
        check_shape(w, "w", (None, self.config.num_layers, self.config.w_dim))
        return w

    def affine(self, w: Latents) -> Styles:
        """Turn a code into styles, one per modulated convolution (the StyleSpace of the literature).

        Args:
            w: [N, W] or [N, L, W]. Convolution k reads slot k, the RGB layer at level j reads slot 2j + 1.

        Returns:
            Tensors [N, C] in forward order: conv 4, rgb 4, then per level up-conv, conv, rgb.
        """
        w = self.broadcast(w)
        # An RGB layer shares its slot with the next level's up-sampling convolution; the last has one to
        # itself, hence one slot more than convolutions.
        styles = [self.convs[0].affine(w[:, 0]), self.to_rgbs[0].affine(w[:, 1])]
        for level in range(1, len(self.to_rgbs)):
            styles.append(self.convs[2 * level - 1].affine(w[:, 2 * level - 1]))
            styles.append(self.convs[2 * level].affine(w[:, 2 * level]))
            styles.append(self.to_rgbs[level].affine(w[:, 2 * level + 1]))
        return tuple(styles)

    def affine_layers(self) -> tuple[Linear, ...]:
        """The layers that `affine` calls, in its order."""
        layers = [self.convs[0].affine, self.to_rgbs[0].affine]
        for level in range(1, len(self.to_rgbs)):
            layers += [conv.affine for conv in self.convs[2 * level - 1 : 2 * level + 1]]
            layers.append(self.to_rgbs[level].affine)
        return tuple(layers)

    @property
    def style_widths(self) -> tuple[int, ...]:
        """Numbers of each style, in the order of `affine`."""
        return tuple(len(layer.bias) for layer in self.affine_layers())

    def render(self, styles: Styles, noise: Noise | None, stage: Stage = kept) -> Images:
        """Draw images.

        Args:
            styles: what `affine` returns, possibly edited.
            noise: one map [1 or N, 1, r, r] per convolution (`noise_shapes`); None for no noise.
            stage: runs each resolution from 8 px on, see `stages`.

        Returns:
            [N, 3, size, size], nominally in [-1, 1], not clamped.
        """
        self._check_render(styles, noise)
        maps: Sequence[Tensor | None] = [None] * len(self.convs) if noise is None else list(noise)
        clamp = self.config.conv_clamp
        # The latent enters by styles alone; the input is the same for all.
        x = self.const.unsqueeze(0).expand(styles[0].shape[0], -1, -1, -1)
        x = self.convs[0](x, styles[0], maps[0], clamp)
        image = self.to_rgbs[0](x, styles[1], clamp)
        for level in range(1, len(self.to_rgbs)):
            own = styles[3 * level - 1 : 3 * level + 2], maps[2 * level - 1 : 2 * level + 1]
            x, image = stage(partial(self._level, level), x, image, *own)
        return image

    def _level(
        self, level: int, x: Tensor, image: Images, styles: Styles, maps: Sequence[Tensor | None]
    ) -> tuple[Tensor, Images]:
        """Features [N, C, r, r] and picture [N, 3, r, r] of one resolution from those of the one below."""
        clamp = self.config.conv_clamp
        x = self.convs[2 * level - 1](x, styles[0], maps[0], clamp)
        x = self.convs[2 * level](x, styles[1], maps[1], clamp)
        # Skip architecture: every resolution adds its colours to the enlarged sum of those below.
        image = upfirdn2d(image, self.blur, up=2, pad=(2, 1))
        return x, image + self.to_rgbs[level](x, styles[2], clamp)

    def render_features(
        self, styles: Styles, noise: Noise | None, count: int, stage: Stage = kept
    ) -> list[Tensor]:
        """Draw as far as the first convolutions, without colours.

        Args:
            styles: as for `render`.
            noise: as for `render`.
            count: number of convolutions, at most `len(self.convs)`.
            stage: runs each convolution from 8 px on.

        Returns:
            What each of them gives after its activation: tensors [N, C, r, r] in forward order.
        """
        self._check_render(styles, noise)
        x = self.const.unsqueeze(0).expand(styles[0].shape[0], -1, -1, -1)
        features = list[Tensor]()
        for index, conv in enumerate(self.convs[:count]):
            # Every level has three styles, of which the last is its colours'.
            style = styles[index + (index + 1) // 2]
            given = x, style, None if noise is None else noise[index], self.config.conv_clamp
            x = conv(*given) if index == 0 else stage(conv, *given)
            features.append(x)
        return features

    def _check_render(self, styles: Styles, noise: Noise | None) -> None:
        if len(styles) != len(self.convs) + len(self.to_rgbs):
            raise ValueError(
                f"render needs the {len(self.convs) + len(self.to_rgbs)} styles of affine, got {len(styles)}"
            )
        if noise is not None and len(noise) != len(self.convs):
            raise ValueError(f"noise must hold {len(self.convs)} maps, got {len(noise)}")

    def synthesize(self, w: Latents, noise: Noise | None) -> Images:
        """Shorthand for `render(affine(w), noise)`: [N, W] or [N, L, W] -> [N, 3, size, size]."""
        return self.render(self.affine(w), noise)

    def noise_shapes(self) -> list[tuple[int, int]]:
        """Height and width of each convolution's noise map, in forward order."""
        return [(conv.resolution, conv.resolution) for conv in self.convs]

    def constant_noise(self) -> list[Tensor]:
        """The noise maps stored with the weights, each [1, 1, r, r]."""
        return [conv.noise_const[None, None] for conv in self.convs]


class ResidualBlock(nn.Module):
    """Two convolutions and a filtered skip, halving the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = Conv(inputs, inputs, 3)
        self.conv2 = Conv(inputs, outputs, 3, down=2)
        self.skip = Conv(inputs, outputs, 1, down=2, act=False)

    def forward(self, x: Tensor, clamp: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs of conv1, of conv2 (both before the skip is added) and of the block."""
        first = self.conv1(x, clamp)
        second = self.conv2(first, clamp)
        # Two summands of one variance: the root keeps it.
        return first, second, (second + self.skip(x)) / math.sqrt(2)


class Discriminator(nn.Module):
    """StyleGAN2 residual discriminator: one logit per image, or a feature map for a patch head."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels[::-1]
        self.from_rgb = Conv(config.image_channels, widths[0], 1)
        self.blocks: Sequence[ResidualBlock] = _stack(ResidualBlock(i, o) for i, o in pairwise(widths))
        last = config.channels[0]
        self.final_conv = Conv(last + config.mbstd_features, last, 3)
        self.final_linear = Linear(last * 16, last)  # 4 x 4 places
        self.output = Linear(last, config.label_dim if config.c_dim else 1)
        self.mapping: MappingNetwork | None = None
        if config.c_dim:
            width = config.mapping_width or config.label_dim
            self.mapping = MappingNetwork(
                0,
                config.c_dim,
                config.label_dim,
                config.mapping_layers,
                config.mapping_lr_multiplier,
                width,
                width,
            )

    def score(self, images: Images, c: Tensor | None = None, parts: int = 1, stage: Stage = kept) -> Tensor:
        """Judge whole images.

        Args:
            images: [N, 3, size, size]; N / parts must be divisible by min(N / parts, mbstd_group).
            c: [N, c_dim] one-hot labels of a conditional discriminator.
            parts: batches of one size in N, each with its own minibatch deviation, as in as many calls.
            stage: runs each block, see `stages`.

        Returns:
            Logits [N, 1]; positive means "real".
        """
        size, clamp = self.config.size, self.config.conv_clamp
        check_shape(images, "images", (None, self.config.image_channels, size, size))
        x = stage(self.from_rgb, images, clamp)
        for block in self.blocks:
            x = stage(block, x, clamp)[2]
        x = self.final_conv(torch.cat([self._with_deviation(one) for one in x.tensor_split(parts)]), clamp)
        x = self.output(self.final_linear.activated(x.flatten(1)))
        if self.mapping is None:
            return x
        # Projection discriminator, as in NVIDIA's DiscriminatorEpilogue.
        label = self.mapping(None, c)
        return (x * label).sum(dim=1, keepdim=True) / math.sqrt(label.shape[1])

    def _with_deviation(self, x: Tensor) -> Tensor:
        """Append the minibatch standard deviation; sample b belongs to group b mod (N / group)."""
        n, c, h, w = x.shape
        # A reference step has batch 1: deviation 0, the map the constant 1e-4 (methods.md B5).
        group = n if self.config.mbstd_group is None else min(n, self.config.mbstd_group)
        if n % group:
            raise ValueError(f"the discriminator needs a batch divisible by {group}, got {n} images")
        features = self.config.mbstd_features
        wide = x if x.dtype == torch.float64 else x.float()  # a statistic: float32 under autocast too
        # A group's samples lie n / group apart in the batch: the order of images is part of the score.
        y = wide.reshape(group, -1, features, c // features, h, w)
        y = torch.sqrt(y.var(dim=0, unbiased=False) + NORM_EPS).mean(dim=(2, 3, 4))  # [N / group, features]
        y = y.reshape(-1, features, 1, 1).repeat(group, 1, h, w)
        return torch.cat([x, y.to(x.dtype)], dim=1)

    def patch_features(self, images: Images, index: int, stage: Stage = kept) -> Tensor:
        """Compute the feature map that patch head `index` judges, and nothing behind it.

        Args:
            images: [N, 3, size, size].
            index: 0: conv 2 of block 64->32; 1, 2: convs 1, 2 of block 32->16; 3: conv 1 of block 16->8.
            stage: runs each block, see `stages`.

        Returns:
            [N, C, 32, 32] for 0 and 1, [N, C, 16, 16] for 2 and 3, before the skip is added.

        Raises:
            ValueError: the images are smaller than 64 px or the index is out of range.

        Source: cyclomon/OneshotCLIP model.py, Patch_Discriminator (methods.md B5).
        """
        resolution, second = patch_location(self.config, index)
        clamp = self.config.conv_clamp
        x = stage(self.from_rgb, images, clamp)
        for level, block in enumerate(self.blocks):
            if self.config.size >> level == resolution:
                first = block.conv1(x, clamp)
                # Nothing deeper, nor this block's skip, enters it: equal bits, less work (performance.md 2).
                return block.conv2(first, clamp) if second else first
            x = stage(block, x, clamp)[2]
        raise AssertionError("patch_location returned a resolution that the network does not have")


# (input side of the block, second conv?): what has side 32 or 16 on the way down, before a skip is added. A
# logit of the first map sees about a quarter of the picture's side at 256 to 1024 px (methods.md B5).
PATCH_LOCATIONS = ((64, True), (32, False), (32, True), (16, False))


def patch_location(config: DiscriminatorConfig, index: int) -> tuple[int, bool]:
    """Locate patch feature `index`: input side of its block, and whether it is the second conv."""
    if config.size < 64:
        raise ValueError(
            f"patch heads need images of at least 64 px, this discriminator takes {config.size} px"
        )
    if not 0 <= index < len(PATCH_LOCATIONS):
        raise ValueError(f"patch head index must be 0 to {len(PATCH_LOCATIONS) - 1}, got {index}")
    return PATCH_LOCATIONS[index]


class PatchHeads(nn.Module):
    """Four 3x3 convolutions that turn discriminator features into maps of logits, freshly initialised.

    Source: cyclomon/OneshotCLIP model.py, Extra; its leaky ReLU on the logits is kept (methods.md Q9).
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = []
        for index in range(len(PATCH_LOCATIONS)):
            resolution, second = patch_location(config, index)
            level = int(math.log2(resolution)) - 2
            # The second convolution of a block has the width of the next, coarser level.
            widths.append(config.channels[level - 1 if second else level])
        # All four exist although the published run draws the first only (highp 1).
        self.heads: Sequence[Conv] = _stack(Conv(width, 1, 3) for width in widths)

    def forward(self, features: Tensor, index: int) -> Tensor:
        """[N, C, h, w] -> logits [N, 1, h, w] of head `index`."""
        return self.heads[index](features)
