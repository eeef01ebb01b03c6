"""How much memory a run will take, known from shapes alone, before any of it is taken.

The forward passes of a step run on torch's meta device, whose tensors have shapes and no values, while the
bytes that autograd keeps for the backward pass are counted. Peaks measured on a CPU (float32, batch 2), with
the estimate in brackets: the demo's 128 px 365 MB (351), 256 px with ViT-B/32 and AlexNet 5.1 GB (5.4); on an
H100 at 1024 px 8.4 GB (9.1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..checkpoints import GeneratorBundle
from ..digests import digest
from ..features import ClipEncoder, Encoders, EncodersOnDemand, Perceptual
from ..features.identity import IdentityNet
from ..latents import Latents
from ..networks import Generator
from ..objective import Aim, Preset
from ..precision import PRECISIONS
from ..stages import Context, kept
from ..tensors import gradients
from .checks import check_run
from .phases import Round, phase_update, phases_due, selection_loss
from .state import TrainState

_Storages: TypeAlias = dict[int, torch.UntypedStorage]  # held: a freed one gives its address to the next
META = torch.device("meta")
WORKING_SHARE = 1.15  # what is kept for backward, and what passes beside it: gradients of activations, copies
OVERHEAD_BYTES = 100_000_000  # scratch space of convolution libraries, code loaded at the first step
MOST_KNOWN = 256
_KNOWN: dict[str, int] = {}  # estimates of this process: each takes a second or two, whatever the size


def training_bytes(
    bundle: GeneratorBundle,
    encoders: Encoders | EncodersOnDemand,
    aim: Aim,
    preset: Preset,
    precision: str = "float32",
    recompute: bool = False,
) -> int:
    """Estimate the peak memory of an adaptation: networks, optimisers, encoders, and its largest phase.

    The phases are those that training runs, computed on shapes.

    Args:
        bundle: the source with its discriminator.
        encoders: CLIP models and perceptual net; loaded for it when they are not yet.
        aim: what is adapted to.
        preset: the method.
        precision: of forward passes; each kept value takes two bytes in bfloat16.
        recompute: see `adapt`.

    Returns:
        Bytes on the device of the training, within 25 % of the peak measured on a CPU in float32
        (tests/core/test_training_memory.py). Where the source generator is on that device already, it is
        counted all the same.

    Raises:
        ValueError: aim or discriminator do not fit the preset or the generator.
    """
    check_run(bundle, aim, preset)
    key = _shapes_key(bundle, encoders, aim, preset, [precision, recompute])
    if key is None:
        return _estimated(bundle, encoders, aim, preset, precision, recompute)
    if key not in _KNOWN:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = _estimated(bundle, encoders, aim, preset, precision, recompute)
    return _KNOWN[key]


def _shapes_key(
    bundle: GeneratorBundle, encoders: Encoders | EncodersOnDemand, aim: Aim, preset: Preset, rest: list[Any]
) -> str | None:
    """Everything that an estimate depends on: shapes and settings; None where an encoder is no network."""
    used: list[Any] = [bundle.generator, bundle.discriminator, bundle.raw_generator]
    used += [clip for clip, _ in encoders.clips]
    used += [encoders.perceptual if preset.needs.perceptual else None]
    told: list[Any] = [preset.describe(), aim.texts(), *rest]
    told += [[name, list(value.shape)] for name, value in aim.tensors().items()]
    for network in used:
        if network is not None and not isinstance(network, nn.Module):
            return None
        told.append(None if network is None else _told_of(network))
    return digest(told)


def _told_of(network: nn.Module) -> list[Any]:
    """What kind of network it is, and its shapes."""
    shapes = [[name, list(value.shape)] for name, value in network.state_dict().items()]
    return [shapes, repr(network), *(repr(getattr(network, name, "")) for name in ("config", "preprocess"))]


def _estimated(
    bundle: GeneratorBundle,
    encoders: Encoders | EncodersOnDemand,
    aim: Aim,
    preset: Preset,
    precision: str,
    recompute: bool,
) -> int:
    # The meta device knows no autocast; networks of that type stand for it.
    dtype = PRECISIONS[precision] or torch.float32
    shapes = replace(
        bundle,
        generator=_on_meta(bundle.generator, dtype),
        discriminator=_on_meta(bundle.discriminator, dtype),
        raw_generator=_on_meta(bundle.raw_generator, dtype),
    )
    seen = Encoders(
        tuple((_on_meta(clip, dtype), weight) for clip, weight in encoders.clips),
        _on_meta(encoders.perceptual if preset.needs.perceptual else None, dtype),
    )
    regions = _Regions()
    # Checked above, with values: a fingerprint of the family cannot be taken of shapes.
    plain = replace(aim, reference=aim.codes)
    with gradients():
        state = TrainState.create(shapes, seen, plain, preset, _LargestDraws())
        state.stage = regions if recompute else kept
        networks = {id(network): network for network in (state.source, *state.networks())}
        weights = sum(map(_bytes, networks.values()))
        for optimiser in state.optimisers.values():
            trained = [p for group in optimiser.param_groups for p in group["params"] if p.requires_grad]
            # A gradient and two moments, and where they are cast for the passes a cast copy.
            weights += (3 if dtype == torch.float32 else 4) * 4 * sum(p.numel() for p in trained)
        weights += sum(_bytes(clip) for clip, _ in seen.clips) + _bytes(seen.perceptual)
        largest = max(_peak(name, work, regions, dtype) for name, work in _phases(state))
    return int(OVERHEAD_BYTES + weights + WORKING_SHARE * largest)


def _peak(name: str, work: Callable[[], Any], regions: _Regions, dtype: torch.dtype) -> int:
    """Bytes that a phase keeps at most; penalties are computed in float32 whatever the precision."""
    regions.largest = 0
    wider = torch.float32.itemsize // dtype.itemsize if name in ("r1", "path") else 1
    return wider * (_saved(work) + regions.largest)


class _Regions:
    """A stage that counts what its largest part keeps while it is computed again; else only inputs stay."""

    def __init__(self) -> None:
        self.largest = 0

    def __call__(self, part: Callable[..., Any], *inputs: Any, context: Context = nullcontext) -> Any:
        """See `stages.recomputed`."""
        storages: _Storages = {}
        with _saving(storages):
            result = part(*inputs)
        self.largest = max(self.largest, _size(storages))
        if torch.is_grad_enabled():
            # One operation with a derivative, whose input the hooks of the whole phase see.
            for tensor in (
                one for one in tree_leaves(inputs) if isinstance(one, Tensor) and one.requires_grad
            ):
                tensor.square()
        return result


def _phases(state: TrainState) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The phases that train, of a step of each kind, by name."""
    starts = {state.preset.kind(step).name: step for step in reversed(range(state.preset.cycle))}
    for step in starts.values():
        current = Round(state, step, state.preset.kind(step))
        for name in phases_due(current):
            if name == "select":
                yield name, partial(selection_loss, current)
            elif name != "average":
                yield name, partial(_loss, name, current)


def _loss(name: str, current: Round) -> Tensor:
    return phase_update(name, current).loss


class _LargestDraws:
    """Draws without values, of which each decides for what needs more memory."""

    def normal(self, step: int, purpose: str, shape: Sequence[int]) -> Tensor:
        """See `Draws.normal`."""
        return torch.zeros(1).expand(tuple(shape))

    def uniform(self, step: int, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """See `Draws.uniform`; 0, so that what has a probability happens."""
        return torch.zeros(tuple(shape))

    def integers(self, step: int, purpose: str, high: int, shape: Sequence[int] = ()) -> Tensor:
        """See `Draws.integers`."""
        return torch.zeros(tuple(shape), dtype=torch.int64)


def search_bytes(bundle: GeneratorBundle, encoders: Encoders, views: int = 8) -> int:
    """Estimate the peak memory of a latent search.

    Args:
        bundle: the source.
        encoders: CLIP and perceptual net.
        views: augmented views that CLIP sees per step.
    """
    generator, clip = _on_meta(bundle.generator), _on_meta(encoders.clip)
    perceptual = _on_meta(encoders.perceptual)

    def step() -> Any:
        image = _rendered(generator, 1)
        seen = clip.encode_images(image.expand(views, -1, -1, -1))
        return seen, perceptual.features(image)

    with gradients():
        saved = _saved(step)
    weights = _bytes(generator) + _bytes(clip) + _bytes(perceptual)
    return int(OVERHEAD_BYTES + weights + WORKING_SHARE * saved)


def editing_bytes(
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    codes: int = 2,
    views: int = 0,
    identity: IdentityNet | None = None,
) -> int:
    """Estimate the peak memory of a text edit, which sees pictures with CLIP, and with a face recogniser.

    Args:
        bundle: who draws.
        clip: the encoder.
        codes: latents that are edited at once.
        views: crops of each picture that CLIP sees; 0: the picture itself.
        identity: the face recogniser; None where no term asks it.
    """
    weights = _bytes(bundle.generator) + _bytes(clip) + _bytes(identity)
    return OVERHEAD_BYTES + weights + editing_step_bytes(bundle, clip, codes, views, identity=identity)


def editing_step_bytes(
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    codes: int = 2,
    views: int = 0,
    max_px: int | None = None,
    identity: IdentityNet | None = None,
) -> int:
    """The part of `editing_bytes` that comes on top of the networks, with every step.

    Args:
        bundle: who draws.
        clip: the encoder.
        codes: latents that are drawn at once.
        views: crops of each picture that CLIP sees; 0: the picture itself.
        max_px: side up to which pictures are drawn; None: their own.
        identity: the face recogniser; None where no term asks it.
    """
    generator, seeing, knowing = _on_meta(bundle.generator), _on_meta(clip), _on_meta(identity)

    def saved(seen: int) -> int:
        def step() -> Any:
            images = _rendered(generator, codes, max_px)
            return [seeing.encode_images(images) for _ in range(seen)], _seen_by(knowing, images)

        return _saved(step)

    with gradients():
        whole = saved(1)
        if views > 1:  # each further one keeps the same
            whole += (views - 1) * (saved(2) - whole)
    return int(WORKING_SHARE * whole)


def inversion_step_bytes(
    bundle: GeneratorBundle, perceptual: Perceptual | None, pictures: int = 1, optimised: bool = True
) -> int:
    """Estimate what a step of an inversion takes besides the networks.

    Args:
        bundle: who draws.
        perceptual: compares pictures; None: nobody does.
        pictures: that are inverted at once.
        optimised: whether noise maps are optimised too.
    """
    generator = _on_meta(bundle.generator)
    seeing: Perceptual | None = _on_meta(perceptual) if isinstance(perceptual, nn.Module) else None

    def step() -> Any:
        images = _rendered(generator, pictures, optimised=optimised)
        return images if seeing is None else seeing.features(images)

    with gradients():
        return int(WORKING_SHARE * _saved(step))


def _seen_by(network: Any, images: Tensor) -> Any:
    return network(images) if isinstance(network, nn.Module) else None


def _rendered(generator: Generator, count: int, max_px: int | None = None, optimised: bool = False) -> Tensor:
    """Pictures of a batch, drawn up to a side, with gradient of the codes, and of optimised noise maps."""
    config = generator.config

    def stage(part: Callable[..., Any], x: Tensor, image: Tensor, *rest: Any, **_: Any) -> Any:
        drawn = max_px is None or 2 * image.shape[-1] <= max_px
        return part(x, image, *rest) if drawn else (x, image)

    codes: Latents = torch.empty(count, config.num_layers, config.w_dim, device=META, requires_grad=True)
    noise = [
        torch.empty(count, 1, *shape, device=META, requires_grad=optimised)
        for shape in generator.noise_shapes()
    ]
    return generator.render(generator.affine(codes), noise, stage)


def _saved(work: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for the backward pass of some work; weights are not counted."""
    storages: _Storages = {}
    with _saving(storages):
        result = work()
    del result
    return _size(storages)


def _saving(storages: _Storages) -> AbstractContextManager[Any]:
    """Collect what autograd keeps."""

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage
        return tensor.detach()  # the tensor itself knows its graph, which would hold it: a cycle for ever

    return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)


def _size(storages: _Storages) -> int:
    return sum(storage.nbytes() for storage in storages.values())


def _on_meta(module: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Copy the shapes of a network, its floats in a type."""
    if module is None or not isinstance(module, nn.Module):
        return module
    memo: dict[int, Any] = {}
    with torch.inference_mode(False):
        for tensor in (*module.parameters(), *module.buffers()):
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            empty = torch.empty(tensor.shape, dtype=kind, device=META)
            memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
        return copy.deepcopy(module, memo)


def _bytes(module: Any) -> int:
    """Of the weights, which are float32 in every precision."""
    return 4 * sum(p.numel() for p in module.parameters()) if isinstance(module, nn.Module) else 0
