"""Perceptual distance (LPIPS) on AlexNet, VGG16, SqueezeNet as in the lpips package, or the demo's net."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.native import write_tensors
from ..json_values import Fields, JsonError, parse, told
from ..tensors import Images, check_shape, check_weights, gradients
from . import telling
from .download import BytesProgress
from .weights import EncoderError, load_strict, read_weights, read_with_texts, torchvision_source

FORMAT, FORMAT_VERSION = "oneshot-perceptual", 1
MAX_STAGES, MAX_WIDTH = 12, 4096  # of the demo's net; it has 5 stages of up to 128
DEMO_FILE = Path(__file__).parent.parent / "demo" / "assets" / "perceptual.safetensors"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS v0.1, of pictures in [-1, 1]
EPSILON = 1e-10  # the lpips package's, added to the length of a feature vector
TINY = 1e-30  # below it a squared length counts as zero: keeps the root's gradient finite


@dataclass(frozen=True)
class _Published:
    """One backbone of the lpips package."""

    architecture: str  # in torchvision
    channels: tuple[int, ...]  # per compared layer
    minimum_px: int  # smallest side that leaves every layer a value


PUBLISHED = {
    "alex": _Published("alexnet", (64, 192, 384, 256, 256), 31),
    "vgg": _Published("vgg16", (64, 128, 256, 512, 512), 16),
    "squeeze": _Published("squeezenet1_1", (64, 128, 256, 384, 384, 512, 512), 17),
}


@dataclass(frozen=True)
class SmallConfig:
    """Layout of the small perceptual backbone: one 3x3 convolution per stage, side halved between stages."""

    widths: tuple[int, ...] = (24, 48, 96, 128, 128)  # channels per stage, finest first

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must be one positive number of channels per stage, got {self.widths}")


class SmallPerceptual(nn.Module):
    """A small VGG-like network: per stage 3x3 convolution and ReLU, 2x2 max pooling between stages.

    State-dict names: `convs.{i}.weight` [O, I, 3, 3], `convs.{i}.bias` [O]. 0.31 M parameters by default.
    """

    def __init__(self, config: SmallConfig | None = None) -> None:
        super().__init__()
        self.config = config or SmallConfig()
        widths = (3, *self.config.widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in zip(widths, widths[1:], strict=False)
        )

    def forward(self, images: Images) -> list[Tensor]:
        """Return the map of every stage, [N, C_i, H / 2^i, W / 2^i], after ReLU; input is already scaled."""
        maps: list[Tensor] = []
        x = images
        for stage, conv in enumerate(self.convs):
            x = torch.relu(conv(nn.functional.max_pool2d(x, 2) if stage else x))
            maps.append(x)
        return maps


class Perceptual(nn.Module):
    """LPIPS with an interchangeable backbone, cut in two so that a target's features can be kept.

    Per layer: feature vectors of unit length, squared difference, weighted sum over channels (the head), mean
    over positions; the distance is the sum over layers. There is no training mode: dropout happens only where
    a generator for its masks is passed in. State-dict names: `backbone.*`, `heads.{i}` [C_i].

    Source: Zhang et al., arXiv 1801.03924; the lpips package 0.1.4 (v0.1). One deviation: where all features
    of a position are zero the gradient is zero, not NaN.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: nn.Module, channels: Sequence[int], name: str, minimum_px: int) -> None:
        """Put heads of weight 1 on a backbone; weights come by `load_state_dict` or training.

        Args:
            backbone: scaled pictures [N, 3, H, W] -> a sequence of maps [N, C_i, h, w].
            channels: C_i of every map.
            name: for messages and records.
            minimum_px: smallest allowed side of a picture.
        """
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ParameterList(torch.ones(count) for count in channels)
        self.name = name
        self.minimum_px = minimum_px
        # Buffers of float32, as in the package: in float64 they keep that rounding (5e-10 in the distance).
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Images) -> list[Tensor]:
        """Return what is compared: per layer a map of unit vectors.

        Args:
            images: [N, 3, H, W] in [-1, 1] (not clamped), sides of at least `minimum_px`, full resolution.

        Returns:
            Maps [N, C_i, h_i, w_i], float32 (float64 if the weights are), differentiable.
        """
        check_shape(images, "images", (None, 3, None, None))
        if min(images.shape[-2:]) < self.minimum_px:
            raise ValueError(
                f"the perceptual net {self.name} needs sides of at least {self.minimum_px} px, "
                f"got {images.shape[-2]} x {images.shape[-1]}; enlarge the pictures first"
            )
        scaled = (images.to(self.heads[0].dtype) - self.shift) / self.scale
        return [_unit(layer) for layer in self.backbone(scaled)]

    def distance(
        self,
        features_a: Sequence[Tensor],
        features_b: Sequence[Tensor],
        dropout: torch.Generator | None = None,
    ) -> Tensor:
        """Compare two lists of features.

        Args:
            features_a: from `features`, N pictures.
            features_b: from `features`, N pictures or one that all are compared with.
            dropout: None, or a generator that draws masks: every squared difference is zeroed with
                probability 0.5 and doubled otherwise, layer by layer (what an LPIPS left in training mode
                does; methods.md Q13).

        Returns:
            [N], not negative, 0 for equal pictures; float32 (float64 if the features are).

        Raises:
            ValueError: the lists do not belong together.
        """
        if not len(features_a) == len(features_b) == len(self.heads):
            raise ValueError(
                f"the perceptual net {self.name} compares {len(self.heads)} maps, got {len(features_a)} and "
                f"{len(features_b)}; both must come from its features()"
            )
        total: Tensor | None = None
        for a, b, head in zip(features_a, features_b, self.heads, strict=True):
            if a.shape[1:] != b.shape[1:]:
                raise ValueError(f"pictures of unequal size: maps of {list(a.shape)} and {list(b.shape)}")
            squared = (a - b).square()
            if dropout is not None:
                squared = squared * _mask(squared, dropout)
            layer = (squared.mean(dim=(2, 3)) * head).sum(dim=1)  # [N, C, h, w] -> [N]
            total = layer if total is None else total + layer
        assert total is not None
        return total

    def forward(self, x: Images, y: Images) -> Tensor:
        """Return the distance of every pair of pictures, [N]."""
        return self.distance(self.features(x), self.features(y))

    @torch.no_grad()
    def clamp_heads(self) -> None:
        """Set negative head weights to zero; a trainer calls it after every step, as LPIPS does."""
        for head in self.heads:
            head.clamp_(min=0)


def _unit(layer: Tensor) -> Tensor:
    """Scale feature vectors to length 1, in float32 or better: x / (sqrt(sum x^2) + eps)."""
    wide = layer if layer.dtype == torch.float64 else layer.float()
    length = wide.square().sum(dim=1, keepdim=True).clamp_min(TINY).sqrt()
    return wide / (length + EPSILON)


def _mask(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a dropout mask of 0 and 2 on the generator's device."""
    draws = torch.rand(like.shape, generator=generator, device=generator.device)
    return (draws < 0.5).to(device=like.device, dtype=like.dtype) * 2


def package_net(net: str) -> Perceptual:
    """Build one of the lpips package's networks with the package's heads v0.1, the backbone without weights.

    Args:
        net: "alex", "vgg" or "squeeze".

    Returns:
        A `Perceptual` whose backbone is on the meta device, named as torchvision's layers with a slice in
        front (`slice2.3.weight`); give it weights with `load_strict` or `load_state_dict(..., assign=True)`.
    """
    import lpips

    class Package(lpips.LPIPS):
        """Takes the package's file of heads over into a network that has no memory yet."""

        def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = True) -> Any:
            return super().load_state_dict(state, strict=strict, assign=assign)

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision and torch by outdated arguments
        original = Package(net=net, pnet_rand=True, verbose=False)
    published = PUBLISHED[net]
    perceptual = Perceptual(original.net, published.channels, net, published.minimum_px)
    heads = {str(i): head.model[-1].weight.flatten() for i, head in enumerate(original.lins)}
    load_strict(perceptual.heads, heads, f"the lpips package's heads for {net}")
    return perceptual


def small_net(config: SmallConfig | None = None) -> Perceptual:
    """Build the demo's network, untrained (weights from torch's global random state)."""
    backbone = SmallPerceptual(config)
    widths = backbone.config.widths
    return Perceptual(backbone, widths, "demo", minimum_px=2 ** (len(widths) - 1))


def load_perceptual(
    net: str = "alex",
    backbone: Path | str | None = None,
    folder: Path | str | None = None,
    allow_download: bool = True,
    progress: BytesProgress | None = None,
) -> Perceptual:
    """Load a perceptual net with frozen weights.

    Args:
        net: "alex", "vgg", "squeeze" (heads v0.1 from the lpips package, backbone from torchvision's ImageNet
            weights) or "demo" (this project's own small net, shipped with it).
        backbone: a local file: torchvision's state dict or only its `features` part, or the state of a whole
            LPIPS module, whose heads and scaling then count; for "demo" a file of `save_perceptual`. None: a
            search in the folders, or the shipped file.
        folder: searched before torch's cache folder, and where a download goes; None: torch's cache folder.
        allow_download: False never touches the network.
        progress: called during a download with (bytes there, bytes in all or None); raising stops it, and
            the next call goes on from there.

    Returns:
        Frozen, float32, on the CPU.

    Raises:
        EncoderError: unknown net, missing weights (with file, places and origin), a file that does not fit.
    """
    path = Path(backbone).expanduser() if backbone else None
    with gradients():
        if net == "demo":
            return _frozen(read_perceptual(path or DEMO_FILE))
        if net not in PUBLISHED:
            raise EncoderError(f"net must be {', '.join(PUBLISHED)} or demo, got {net!r}")
        if path is None:
            place = Path(folder).expanduser() if folder else None
            path = torchvision_source(PUBLISHED[net].architecture).locate(place, allow_download, progress)
        perceptual = package_net(net)
        tensors = read_weights(path)
        if any(key.startswith(("scaling_layer.", "net.slice")) for key in tensors):
            tensors = _whole_lpips(perceptual, tensors, path)
        load_strict(perceptual.backbone, _sliced(perceptual.backbone, tensors), path)
        return _frozen(perceptual)


def _frozen(perceptual: Perceptual) -> Perceptual:
    return perceptual.requires_grad_(False).eval()


def _whole_lpips(perceptual: Perceptual, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Give a net the heads and the scaling of a whole LPIPS module's state; returns the backbone's part.

    Raises:
        EncoderError: heads of another net, negative ones, or a scaling that cannot be applied.
    """
    heads, backbone, scaling = {}, {}, {}
    for key, value in tensors.items():
        head = re.fullmatch(r"lins?\.?(\d)\.model\.\d\.weight", key)
        if head:
            heads[head[1]] = value.flatten()  # [1, C, 1, 1] -> [C]; the package lists them twice
        elif key.startswith("scaling_layer."):
            scaling[key.removeprefix("scaling_layer.")] = value
        else:
            backbone[key.removeprefix("net.")] = value
    what = f"{path}, the state of a whole LPIPS module,"
    if heads:
        load_strict(perceptual.heads, heads, f"{what} in its heads")
        if any(bool((head < 0).any()) for head in perceptual.heads):
            raise EncoderError(
                f"{what} has negative heads (linear layers); use the package's with a backbone"
            )
    for key in ("shift", "scale"):
        if key in scaling:
            value = scaling[key].float().reshape(-1)
            sound = value.numel() == 3 and bool(value.isfinite().all())
            if not sound or (key == "scale" and bool((value == 0).any())):
                raise EncoderError(f"{what} has a scaling layer that is not three finite numbers per part")
            setattr(perceptual, key, value.reshape(1, 3, 1, 1).clone())
    return backbone


def _sliced(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map torchvision's names onto the package's: `features.N.x` or `N.x` -> `sliceK.N.x`.

    Classifier weights are left out; a features entry without a place keeps its name and is refused later.
    """
    places = {key.partition(".")[2]: key for key in backbone.state_dict()}
    bare = {
        key.removeprefix("features."): value
        for key, value in tensors.items()
        if key.startswith("features.") or not key.startswith("classifier.")
    }
    return {places.get(key, key): value for key, value in bare.items()}


def save_perceptual(perceptual: Perceptual, path: Path | str) -> Path:
    """Write the demo's network as one safetensors file with its layout in the header; atomic.

    Raises:
        ValueError: another backbone, weights that are not finite, or negative head weights (call
            `clamp_heads` while training).
    """
    if not isinstance(perceptual.backbone, SmallPerceptual):
        raise ValueError(f"only the small net is saved here, got {type(perceptual.backbone).__name__}")
    check_weights(perceptual, "the perceptual net", "lower the learning rate of its training")
    if any(bool((head < 0).any()) for head in perceptual.heads):
        raise ValueError("head weights must not be negative; call clamp_heads() after each training step")
    config = asdict(perceptual.backbone.config)
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": config}
    return write_tensors(path, perceptual.state_dict(), header)


def read_perceptual(path: Path | str) -> Perceptual:
    """Read a file of `save_perceptual`; the weights stay trainable.

    Raises:
        EncoderError: missing file, another format, or keys that do not fit the layout in the header.
    """
    path = Path(path)
    if path == DEMO_FILE and not path.is_file():
        raise EncoderError(
            f"the demo's perceptual net {path} is missing; it belongs to this project: install it again, or "
            f"run its making script (oneshot_core.demo.making.build)"
        )
    tensors, texts = read_with_texts(path)
    config = _layout(texts.get("oneshot"), tensors, path)
    with torch.random.fork_rng(devices=[]):
        perceptual = small_net(config)
    load_strict(perceptual, tensors, path)
    return perceptual


def _layout(text: str | None, tensors: Mapping[str, Tensor], path: Path) -> SmallConfig:
    """Read the layout in the header of a file, before anything of its size is made.

    Raises:
        EncoderError: no header of this format, or a layout that is not the tensors'.
    """
    if text is None:
        raise EncoderError(
            f"{path} is no perceptual net of this project: it has no header 'oneshot'."
            f"{telling.told(tensors)} Give the file that belongs to this program, or name another net"
        )
    try:
        header = Fields(parse(text, "its header"), "its header")
        kind, version = header.text("format"), header.value("format_version")
        if (kind, version) != (FORMAT, FORMAT_VERSION):
            raise EncoderError(
                f"{path} is no perceptual net of this project: format {told(kind)} version {told(version)}, "
                f"wanted {FORMAT!r} version {FORMAT_VERSION}"
            )
        widths = header.object("config").items("widths", MAX_STAGES)
        if not widths or any(type(width) is not int or not 1 <= width <= MAX_WIDTH for width in widths):
            raise JsonError(f"widths must be whole numbers from 1 to {MAX_WIDTH}")
    except JsonError as error:
        raise EncoderError(f"{path} has no usable layout in its header: {error}; fetch it again") from error
    needed = sum(9 * before * after for before, after in zip((3, *widths), widths, strict=False))
    held = sum(value.numel() for value in tensors.values())
    if needed > held:
        raise EncoderError(
            f"{path} has a layout of {needed} weights in its header and holds {held}; it is damaged: fetch "
            "it again"
        )
    return SmallConfig(widths=tuple(widths))
