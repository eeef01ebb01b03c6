"""The e4e encoder: a picture's W+ code in one pass; and the reader of its published files.

The file holds encoder, decoder (a generator) and the mean latent; only what the encoder needs is read.

Source: Tov et al., Designing an Encoder for StyleGAN Image Manipulation, arXiv 2102.02766; layout and order
of omertov/encoder4editing models/encoders/psp_encoders.py Encoder4Editing (editing.md 4.3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import CheckpointError, GeneratorBundle, write_tensors
from ..checkpoints.named import NamedTensors, gather, of_sources
from ..checkpoints.native import HEADER_KEY, opened_file, opened_tensors
from ..checkpoints.rebuild import Record
from ..checkpoints.restricted import container, read_contents
from ..checkpoints.stored import Source, naming, opened
from ..features import EncoderError
from ..features.irse import BLOCKS, WIDTHS, IrSe50
from ..features.weights import load_strict, stored_weights
from ..latents import Latent
from ..tensors import Images, Latents, check_finite, check_shape, gradients, owned

FORMAT, FORMAT_VERSION = "oneshot-e4e", 1
INPUT_PX = 256
MOST_WIDTH = 1024  # of a stage; published files have at most 512
TAPS = (6, 20, 23)  # blocks after which the maps of 64, 32 and 16 px are taken
COARSE, MIDDLE = 3, 7  # rows below are read from the map of 16 px, then from that of 32 px, the rest of 64 px
SLOPE = 0.01  # of the heads' leaky ReLU
_SIGN = "styles.0.convs.0.weight"
_KIND = "Encoder4Editing"  # opts.encoder_type of e4e's files; pSp's have the same names and other codes


class _Linear(nn.Module):
    """Fully connected layer with equalised learning rate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / math.sqrt(x.shape[1]), self.bias)


class _Head(nn.Module):
    """One row of the code: strided convolutions down to one position, then a linear layer."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        layers = list[nn.Module]()
        for _ in range(side.bit_length() - 1):
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        self.convs = nn.Sequential(*layers)
        self.linear = _Linear(width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, W, side, side] -> [N, W]."""
        row: Tensor = self.linear(self.convs(x).flatten(1))
        return row


class E4eEncoder(IrSe50):
    """Encoder for editing: W+ codes [N, L, W] of aligned pictures; W is 512 in the published files.

    Row 0 is a code by itself; every other row is row 0 plus what its own head says, which keeps the rows near
    one another, where edits work. State-dict names are those of the published files behind `encoder.`.
    """

    mean_latent: Tensor

    def __init__(self, rows: int, widths: Sequence[int] = WIDTHS) -> None:
        """Build it with random weights.

        Args:
            rows: number L of slots of the generator that it belongs to.
            widths: channels of the backbone's stages; the last is the width W of the codes.
        """
        super().__init__(widths)
        width = widths[-1]
        sides = [16 if row < COARSE else 32 if row < MIDDLE else 64 for row in range(rows)]
        self.styles = nn.ModuleList(_Head(width, side) for side in sides)
        self.latlayer1 = nn.Conv2d(widths[2], width, 1)
        self.latlayer2 = nn.Conv2d(widths[1], width, 1)
        self.register_buffer("mean_latent", torch.zeros(rows, width), persistent=False)

    @property
    def rows(self) -> int:
        """Number L of slots of its codes."""
        return len(self.styles)

    def forward(self, images: Images) -> Latents:
        """Codes [N, L, W] of pictures [N, 3, S, S] in [-1, 1]; others than 256 px are resized."""
        check_shape(images, "images", (None, 3, None, None))
        x = images.to(self.latlayer1.weight.dtype)
        if x.shape[-2:] != (INPUT_PX, INPUT_PX):
            # Antialiased, as the Pillow resize of the published script is.
            x = F.interpolate(x, (INPUT_PX, INPUT_PX), mode="bilinear", antialias=True)
        return self.offsets(x) + self.mean_latent

    def offsets(self, images: Images) -> Latents:
        """What is added to the mean latent, [N, L, W]; pictures of 256 px."""
        fine, middle, coarse = self.maps(images, TAPS)
        second = _enlarged(coarse, middle) + self.latlayer1(middle)
        first = _enlarged(second, fine) + self.latlayer2(fine)
        seen = [coarse if row < COARSE else second if row < MIDDLE else first for row in range(self.rows)]
        rows = [head(x) for head, x in zip(self.styles, seen, strict=True)]
        return torch.stack([rows[0], *(rows[0] + row for row in rows[1:])], dim=1)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)


def encode_pictures(bundle: GeneratorBundle, encoder: E4eEncoder, pictures: Images) -> Latent:
    """Invert pictures by the encoder alone.

    Args:
        bundle: the generator that the encoder belongs to.
        encoder: on any device.
        pictures: [N, 3, S, S] in [-1, 1], framed as those that the encoder was trained on (FFHQ's alignment).

    Returns:
        Space "w+", on the CPU.

    Raises:
        ValueError: codes of another shape than the generator's, or pictures that are not finite.
    """
    check_encoder(bundle, encoder)
    check_finite(pictures, "the pictures", "give other pictures")
    with gradients(), torch.no_grad():
        seen = owned(pictures).to(encoder.mean_latent)
        codes = torch.cat([encoder(one) for one in seen.split(1)])  # one by one: memory, not speed
    origin = {"method": "e4e", "generator": bundle.title}
    return Latent("w+", owned(codes).float().cpu(), bundle.family, origin)


def check_encoder(bundle: GeneratorBundle, encoder: E4eEncoder) -> None:
    """Refuse an encoder of another generator, as far as shapes tell; raises ValueError."""
    wanted, made = (bundle.num_layers, bundle.generator.config.w_dim), tuple(encoder.mean_latent.shape)
    if made != wanted:
        raise ValueError(
            f"this e4e encoder makes codes of {made[0]} slots of width {made[1]}, {bundle.title} "
            f"({bundle.size} px) has {wanted[0]} of width {wanted[1]}; give the encoder that was trained for "
            "this generator"
        )


def load_e4e(path: Path | str, mean_latent: Tensor | None = None) -> E4eEncoder:
    """Read an encoder: a published e4e file, the same as safetensors, or a file of `save_e4e`.

    Args:
        path: the file; told by content. Nothing in it is run; its decoder is not read.
        mean_latent: [W] or [L, W], for files that do not hold it; None: such a file is refused.

    Returns:
        Frozen, float32, on the CPU.

    Raises:
        EncoderError: missing, damaged, of another encoder, or without the mean latent.
    """
    path = Path(path).expanduser()
    try:
        with gradients(), naming(path), _opened(path) as (named, kind):
            return _read(named, kind, mean_latent, path)
    except EncoderError:
        raise
    except CheckpointError as error:
        raise EncoderError(
            f"{error}; give e4e's file (e4e_ffhq_encode.pt), or one converted from it"
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[NamedTensors, str]]:
    """The tensors of a file, unread, and the kind of encoder that it says it holds, "" where it does not."""
    with opened(path) as data:
        if container(data) != "safetensors":
            root = read_contents(data).root
            if not isinstance(root, dict):
                raise CheckpointError("holds no tensors by name")
            yield gather(root), _kind_of(root.get("opts"))
            return
    with opened_tensors(path) as (sources, texts):
        if HEADER_KEY in texts:
            with opened_file(path) as (_, header):
                if (header["format"], header["format_version"]) != (FORMAT, FORMAT_VERSION):
                    raise CheckpointError(
                        f"is a file of this project, but no e4e encoder ({header['format']!r})"
                    )
        yield of_sources(sources), ""


def _kind_of(options: Any) -> str:
    """The settings' `encoder_type`; they are a dict in newer files, and an object in older ones."""
    values = options.state if isinstance(options, Record) else options
    kind = values.get("encoder_type", "") if isinstance(values, dict) else ""
    return kind if isinstance(kind, str) else ""


def _read(named: NamedTensors, kind: str, given: Tensor | None, path: Path) -> E4eEncoder:
    if kind not in ("", _KIND):
        raise CheckpointError(f"holds an encoder of the kind {kind[:60]!r}, whose codes mean something else")
    prefixes = named.prefixes((_SIGN,))
    if not prefixes:
        raise CheckpointError(f"holds no e4e encoder: none of its {len(named.tensors)} tensors is a {_SIGN}")
    sources = {name: one for name, one in named.below(prefixes[0]).items() if not name.endswith("latent_avg")}
    rows = len({match[1] for name in sources if (match := re.match(r"styles\.(\d+)\.", name))})
    with torch.device("meta"):
        encoder = E4eEncoder(rows, _widths(sources))
    _check_shapes(encoder, sources)
    load_strict(encoder, {name: one.read() for name, one in sources.items()}, path)
    mean = named.mean_of(prefixes[0])
    shape = rows, encoder.widths[-1]
    encoder.mean_latent = _mean(given if mean is None else mean.read(), shape, named=mean is not None)
    return encoder.eval().requires_grad_(False)


def _widths(sources: Mapping[str, Source]) -> list[int]:
    """Channels of the backbone's stages, from the first block of each."""
    firsts = [sum(BLOCKS[:stage]) for stage in range(len(BLOCKS))]
    found = [sources.get(f"body.{place}.res_layer.1.weight") for place in firsts]
    widths = [one.shape[0] for one in found if one is not None and one.shape]
    if len(widths) < len(BLOCKS) or not all(1 <= width <= MOST_WIDTH for width in widths):
        raise CheckpointError("holds another encoder than e4e's: its backbone is no IR-SE50")
    return widths


def _check_shapes(encoder: E4eEncoder, sources: Mapping[str, Source]) -> None:
    """Refuse tensors of other shapes before they are read: a small file could declare endless ones."""
    for name, wanted in encoder.state_dict().items():
        if name in sources and sources[name].shape != tuple(wanted.shape):
            found = f"{name} has shape {list(sources[name].shape)} instead of {list(wanted.shape)}"
            more = "; six input channels are those of ReStyle" if name == "input_layer.0.weight" else ""
            raise CheckpointError(f"holds another encoder than e4e's: {found}{more}")


def _mean(mean: Tensor | None, shape: tuple[int, int], named: bool) -> Tensor:
    rows, width = shape
    if mean is None:
        raise CheckpointError(
            "holds no latent_avg, which the codes are relative to; give the mean latent of the generator too"
        )
    flat = mean.float().reshape(-1, mean.shape[-1]) if mean.ndim else mean
    if flat.ndim != 2 or flat.shape[1] != width or len(flat) not in (1, rows) or mean.ndim > 3:
        whose = "its latent_avg" if named else "the given mean latent"
        raise CheckpointError(
            f"{whose} has shape {list(mean.shape)}; it must be [{width}], [1, {width}] or [{rows}, {width}]"
        )
    check_finite(flat, "the mean latent", "use another file")
    return owned(flat.expand(rows, -1)).contiguous()


def save_e4e(encoder: E4eEncoder, path: Path | str, dtype: str = "float16") -> Path:
    """Write an encoder and its mean latent as one safetensors file; atomic.

    Args:
        encoder: what to write.
        path: final name, by custom ending in .safetensors.
        dtype: "float16" (0.54 GB for 1024 px) or "float32"; the mean latent stays float32.

    Raises:
        ValueError: another dtype, or a weight beyond its range.
    """
    tensors = {f"encoder.{name}": value for name, value in stored_weights(encoder, dtype).items()}
    tensors["latent_avg"] = encoder.mean_latent
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "dtype": dtype, "rows": encoder.rows}
    return write_tensors(path, tensors, header)
