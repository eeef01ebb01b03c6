"""Image towers of open_clip in the form that computes the same fastest, once their weights are frozen."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..copies import private_copy

_RESNET_PARTS = ("ModifiedResNet", "Bottleneck")  # modules with pairs conv1 and bn1, and so on
QUICK_GELU = 1.702  # factor inside the sigmoid, as in OpenAI's CLIP
FEW_TOKENS = 64  # up to here keeping the attention weights costs little memory


def tower_weight(tower: Any) -> Tensor:
    """Return a weight that the image tower multiplies with: its dtype is the tower's."""
    weights: list[Tensor] = list(tower.parameters())
    return next((weight for weight in weights if weight.ndim == 4), weights[0])


def run_length_first(tower: Any) -> None:
    """Let the image tower run in (length, batch, width) order, where every projection's input is contiguous.

    In (batch, length, width) order `nn.MultiheadAttention` transposes into a view, and torch runs a frozen
    projection of a non-contiguous 3-D input as a batched product with an expanded weight. Measured with
    open_clip 3.3, ViT-B/32, forward and backward of 8 pictures on one core: 24 bmm against none, 12 % slower.
    """
    transformer = getattr(tower, "transformer", None)
    blocks = list(getattr(transformer, "resblocks", ()))
    plain = all(isinstance(getattr(block, "attn", None), nn.MultiheadAttention) for block in blocks)
    if transformer is None or not plain or not getattr(transformer, "batch_first", False):
        return
    transformer.batch_first = False
    for block in blocks:
        block.attn.batch_first = False


def simplify(tower: Any) -> None:
    """Bring a frozen image tower into the cheapest form that computes the same."""
    _simplify_resnet(tower)
    run_length_first(tower)
    blocks = list(getattr(getattr(tower, "transformer", None), "resblocks", ()))
    if blocks and _makes_patches(getattr(tower, "conv1", None)):
        tower.conv1 = Patches(tower.conv1)
    for block in blocks:
        if type(getattr(block, "attn", None)) is nn.MultiheadAttention and not block.attn.batch_first:
            block.attn = SelfAttention(block.attn)
        _fold_quick_gelu(getattr(block, "mlp", None))


def lowered(tower: Any, dtype: torch.dtype) -> Any:
    """Copy a frozen image tower, with what it multiplies with in a narrow type.

    Autocast rounds the same weights to the same values, but of frozen ones at every call: for ViT-B/32 that
    was 2 % of a training step on a CPU.
    """
    copied = private_copy(tower, layout=layout_of(tower))
    for module in copied.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, SelfAttention, Patches)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return copied


def _makes_patches(layer: Any) -> bool:
    """Whether a layer is a convolution whose windows lie side by side."""
    return type(layer) is nn.Conv2d and (layer.stride, layer.padding, layer.dilation, layer.groups) == (
        layer.kernel_size, (0, 0), (1, 1), 1
    )  # fmt: skip


class Patches(nn.Module):
    """The convolution of a vision transformer that makes tokens of patches, as one matrix product.

    Its gradient as a convolution ran at 13 GFLOP/s a core where products run at 200 (bfloat16, 32 pixels).
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H / k, W / k]."""
        n, (o, i, high, wide) = len(x), self.weight.shape
        rows, columns = x.shape[2] // high, x.shape[3] // wide
        x = x[:, :, : rows * high, : columns * wide].reshape(n, i, rows, high, columns, wide)
        tokens = x.permute(0, 2, 4, 1, 3, 5).reshape(n * rows * columns, -1)
        found = F.linear(tokens, self.weight.flatten(1), self.bias)
        return found.reshape(n, rows, columns, o).permute(0, 3, 1, 2)


def _fold_quick_gelu(layers: Any) -> None:
    """Move QuickGELU's factor into the frozen layers around it: x sigmoid(1.702 x) = silu(1.702 x) / 1.702.

    SiLU is one operation where QuickGELU is three; forward and backward took a third of the time on a CPU.
    """
    if type(getattr(layers, "gelu", None)).__name__ != "QuickGELU":
        return
    with torch.no_grad():
        for values in layers.c_fc.parameters():
            values.mul_(QUICK_GELU)
        layers.c_proj.weight.div_(QUICK_GELU)
    layers.gelu = nn.SiLU()


class SelfAttention(nn.Module):
    """The self-attention of a vision transformer, with the projections of torch's module under their names.

    With few tokens on a CPU it is written out: torch's fused form is slow backward there. Both passes of a
    layer of ViT-B/32 took 0.75 of the time in float32 and 0.7 in bfloat16.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj, self.num_heads = attention.out_proj, attention.num_heads

    def forward(
        self, x: Tensor, *_: Tensor, need_weights: bool, attn_mask: None = None
    ) -> tuple[Tensor, None]:
        """[L, N, C] as query, key and value -> [L, N, C]."""
        assert not need_weights and attn_mask is None
        length, n, c = x.shape
        # 2-D: see `run_length_first`.
        projected = F.linear(x.reshape(-1, c), self.in_proj_weight, self.in_proj_bias)
        shape = (length, n, 3, self.num_heads, c // self.num_heads)
        query, key, value = projected.reshape(shape).permute(2, 1, 3, 0, 4)  # [N, heads, L, D] each
        if x.device.type == "cpu" and length <= FEW_TOKENS:
            attended = _attention(query, key.transpose(2, 3)).to(value.dtype) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(attended.permute(2, 0, 1, 3).reshape(-1, c)).reshape(x.shape), None


def _simplify_resnet(tower: Any) -> None:
    """Make open_clip's ResNets cheaper: no batch normalisation, attention pooling with one query.

    A frozen encoder's statistics are constants. The demo's CLIP took 0.8 of the time for it on one core,
    forward and backward, channels last in float32.
    """
    # By module too: timm's parts have the same names and another order.
    for part in [
        module
        for module in tower.modules()
        if type(module).__name__ in _RESNET_PARTS and "open_clip" in type(module).__module__
    ]:
        for number in "123":
            _fold_pair(part, f"conv{number}", f"bn{number}")
        if getattr(part, "downsample", None) is not None:
            _fold_pair(part.downsample, "0", "1")
        if getattr(part, "attnpool", None) is not None:
            part.attnpool = FirstQueryPool(part.attnpool)


def _fold_pair(parent: Any, conv: str, norm: str) -> None:
    parts = parent.get_submodule(conv).eval(), parent.get_submodule(norm).eval()
    setattr(parent, conv, fuse_conv_bn_eval(*parts).requires_grad_(False))
    setattr(parent, norm, nn.Identity())


def _attention(query: Tensor, key: Tensor) -> Tensor:
    """[..., L, D], [..., D, L] -> attention weights [..., L, L], of float32 or wider."""
    wide = torch.promote_types(query.dtype, torch.float32)
    # As in torch's fused form: logits rounded to bfloat16 gave a quarter more error, forward and backward.
    with torch.autocast(query.device.type, enabled=False):
        return torch.softmax(query.to(wide) @ key.to(wide) / math.sqrt(query.shape[-1]), dim=-1)


class FirstQueryPool(nn.Module):
    """The attention pooling of CLIP's ResNets; only the mean's query is computed, which is all that is read.

    It takes over the projections of open_clip's `AttentionPool2d`, under their names. Attention there is so
    sharp that gradients of the keys fall below 1e-38, and a matrix product of such numbers took 10 times as
    long on a CPU. So a place is given at least exp(-40) = 4e-18 of the strongest one's weight, which is below
    what float32 can add to it, and no gradient where it had less.
    """

    FLOOR = 40.0

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.positional_embedding, self.num_heads = pool.positional_embedding, pool.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = (
            getattr(pool, f"{letter}_proj") for letter in "qkvc"
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D]."""
        n, c = x.shape[:2]
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(dim=0, keepdim=True), x]) + self.positional_embedding[:, None].to(x.dtype)
        places = x.reshape(-1, c)  # 2-D: a view of three axes would be multiplied as a batch
        query = self.q_proj(x[0]).reshape(1, n, self.num_heads, -1)
        key, value = (
            layer(places).reshape(-1, n, self.num_heads, c // self.num_heads)
            for layer in (self.k_proj, self.v_proj)
        )
        wide = torch.promote_types(x.dtype, torch.float32)
        # In float32: rounded to bfloat16, logits of hundreds would be off by one.
        logits = (query.to(wide) * key.to(wide)).sum(dim=3) / math.sqrt(key.shape[3])  # [HW + 1, N, heads]
        logits = torch.maximum(logits, logits.detach().amax(dim=0, keepdim=True) - self.FLOOR)
        weights = torch.softmax(logits, dim=0).unsqueeze(3).to(value.dtype)
        pooled: Tensor = self.c_proj((weights * value).sum(dim=0).reshape(n, c))
        return pooled


def layout_of(tower: Any) -> torch.memory_format:
    """The memory format for pictures and weights: a ResNet's pooling is several times faster channels last.

    A vision transformer's one convolution, which makes patches, does not matter.
    """
    convolutions = sum(isinstance(part, nn.Conv2d) for part in tower.modules())
    return torch.channels_last if convolutions > 1 else torch.contiguous_format
