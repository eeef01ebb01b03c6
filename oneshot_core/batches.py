"""Many pictures in one tensor: refused before any is drawn where memory is short, else filled in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .checkpoints import GeneratorBundle
from .memory import check_memory
from .tensors import Images, is_finite

CHUNK_MAPS = 3  # feature maps of the largest size that are alive at once while a chunk is drawn
FEWER = "give fewer seeds or latents at a time; `oneshot sample` writes any number of them as files"


def sampling_bytes(bundle: GeneratorBundle, batch: int) -> int:
    """Estimate what drawing a chunk needs besides the weights: three of the largest feature maps.

    Args:
        bundle: who draws.
        batch: pictures per chunk.
    """
    config = bundle.generator.config
    pixels = [(4 << level) ** 2 * width for level, width in enumerate(config.channels)]
    return int(4 * batch * CHUNK_MAPS * max(pixels))


def picture_bytes(size_px: int, count: int) -> int:
    """Bytes of [count, 3, S, S] in float32."""
    return 4 * 3 * size_px**2 * count


def check_chunk(bundle: GeneratorBundle, batch: int) -> None:
    """Refuse a chunk that cannot be drawn in main memory, before it is; raises ValueError.

    On another device than the CPU nothing is refused: how much is free there changes from call to call.
    """
    if bundle.generator.const.device.type == "cpu":
        what = f"{batch} pictures of {bundle.size} px drawn at once"
        check_memory(sampling_bytes(bundle, batch), what, "lower the batch size")


def check_batch(
    bundle: GeneratorBundle, count: int, batch: int, *, copies: int = 1, advice: str = FEWER
) -> None:
    """Refuse pictures that main memory cannot hold as one tensor, before any is drawn.

    Args:
        bundle: who draws.
        count: pictures.
        batch: of them per chunk.
        copies: how often each is held, such as 2 for pairs of two generators.
        advice: what to change.

    Raises:
        ValueError: with what they need, what is free, and the advice; or see `check_chunk`.
    """
    check_chunk(bundle, min(batch, count))
    codes = 4 * count * bundle.num_layers * bundle.generator.config.w_dim
    pairs = "" if copies == 1 else f" {copies} times"
    what = f"{count} pictures of {bundle.size} px held{pairs} in one batch"
    check_memory(copies * picture_bytes(bundle.size, count) + codes, what, advice)


def check_count(count: int, size_px: int, copies: int = 1) -> None:
    """Refuse pictures that memory cannot hold as one batch, from their side alone; raises ValueError.

    Args:
        count: pictures.
        size_px: side of the smallest that are meant.
        copies: how often each is held.
    """
    times = "" if copies == 1 else f" {copies} times"
    what = f"{count} pictures held{times} in one batch, of {size_px} px already,"
    check_memory(copies * picture_bytes(size_px, count), what, FEWER)


def check_drawn(images: Images, keys: Sequence[int]) -> Images:
    """Return pictures that were drawn [n, 3, S, S]; refuse NaN and infinity in them.

    Raises:
        FloatingPointError: naming the keys of such pictures, usually their seeds.
    """
    if is_finite(images):
        return images
    spoilt = [key for key, image in zip(keys, images, strict=True) if not is_finite(image)]
    raise FloatingPointError(
        f"the pictures of {', '.join(map(str, spoilt[:8]))} are not made of finite numbers: the generator or "
        "the latent is far from what was trained; lower psi, or the strength of the blend or edit"
    )


class Filled:
    """A tensor for all pictures, made when the first chunk comes and filled chunk by chunk, without a copy.

    Args:
        count: pictures in all.
        convert: applied to each chunk [n, 3, S, S]; what it returns is kept. None: the pictures as drawn.
    """

    def __init__(self, count: int, convert: Callable[[Images], Tensor] | None = None) -> None:
        self.count, self.convert = count, convert
        self._parts: list[Tensor] = []  # the one tensor, once it is there
        self._done = 0

    def add(self, images: Images) -> None:
        """Put the next chunk in."""
        values = images if self.convert is None else self.convert(images)
        if not self._parts:
            self._parts.append(values.new_empty(self.count, *values.shape[1:]))
        self._parts[0][self._done : self._done + len(values)] = values
        self._done += len(values)

    def whole(self) -> Tensor:
        """Return the tensor; all chunks must have come."""
        assert self._done == self.count, f"{self._done} of {self.count} pictures came"
        return self._parts[0]
