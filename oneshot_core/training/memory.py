"""How much memory a run will take, known from shapes alone, before any of it is taken.

The forward passes of a step run on torch's meta device, whose tensors have shapes and no values, while the
bytes that autograd keeps for the backward pass are counted. Peaks measured on a CPU (float32, batch 2), with
the estimate in brackets: the demo's 128 px 365 MB (351), 256 px with ViT-B/32 and AlexNet 5.1 GB (5.4). 1024
px was only estimated: 10.3 GB. Passes in bfloat16 keep less; for them the estimate is an upper bound.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import GeneratorBundle
from ..features import ClipEncoder, Encoders
from ..latents import Latents
from ..networks import Generator, PatchHeads
from ..objective import Preset, StepContext, Target
from ..objective.adversarial import r1_penalty
from ..objective.terms import PatchConsistency
from ..tensors import gradients

META = torch.device("meta")
WORKING_SHARE = 1.15  # what is kept for backward, and what passes beside it: gradients of activations, copies
OVERHEAD_BYTES = 100_000_000  # scratch space of convolution libraries, code loaded at the first step


def training_bytes(bundle: GeneratorBundle, encoders: Encoders, preset: Preset) -> int:
    """Estimate the peak memory of an adaptation: networks, optimisers, encoders, and its largest step.

    Args:
        bundle: the source with its discriminator.
        encoders: CLIP and perceptual net; loaded for it when they are not yet.
        preset: the method.

    Returns:
        Bytes, within 25 % of the peak measured on a CPU in float32 (tests/core/test_training_memory.py).
    """
    generator, judge = _on_meta(bundle.generator), _on_meta(bundle.discriminator)
    clip, perceptual = _on_meta(encoders.clip), _on_meta(encoders.perceptual)
    heads = None if judge is None or bundle.size < 64 else _made_on_meta(lambda: PatchHeads(judge.config))
    trained = [p for name, p in generator.named_parameters() if not name.startswith(preset.frozen)]
    kept = 3 * _bytes(generator) + 3 * sum(
        map(_tensor_bytes, trained)
    )  # source, adapted, average; gradient, Adam
    kept += sum(4 * _bytes(module) for module in (judge, heads) if module is not None)
    kept += _bytes(clip) + _bytes(perceptual)
    with gradients():
        steps = _Steps(generator, judge, heads, Encoders(clip, perceptual), preset)
        largest = max(_saved(work) for work in (steps.random, steps.reference, steps.discriminator, steps.r1))
    return int(OVERHEAD_BYTES + kept + WORKING_SHARE * largest)


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
        image = _drawn(generator, 1)
        seen = clip.encode_images(image.expand(views, -1, -1, -1))
        return seen, perceptual.features(image)

    with gradients():
        saved = _saved(step)
    weights = _bytes(generator) + _bytes(clip) + _bytes(perceptual)
    return int(OVERHEAD_BYTES + weights + WORKING_SHARE * saved)


def editing_bytes(bundle: GeneratorBundle, clip: ClipEncoder, codes: int = 2) -> int:
    """Estimate the peak memory of a text edit, which sees pictures with CLIP alone.

    Args:
        bundle: who draws.
        clip: the encoder.
        codes: latents that are edited at once.
    """
    generator, judge = _on_meta(bundle.generator), _on_meta(clip)
    with gradients():
        saved = _saved(lambda: judge.encode_images(_drawn(generator, codes)))
    return int(OVERHEAD_BYTES + _bytes(generator) + _bytes(judge) + WORKING_SHARE * saved)


class _Steps:
    """The forward passes of a training step on the meta device."""

    def __init__(
        self, generator: Generator, judge: Any, heads: PatchHeads | None, encoders: Encoders, preset: Preset
    ) -> None:
        for name, parameter in generator.named_parameters():
            parameter.requires_grad_(not name.startswith(preset.frozen))
        self.generator, self.judge, self.heads = generator, judge, heads
        self.encoders, self.preset, self.size = encoders, preset, generator.config.size

    def _picture(self, count: int, gradient: bool = False) -> Tensor:
        return torch.empty(count, 3, self.size, self.size, device=META, requires_grad=gradient)

    def _judged(self, images: Tensor, whole: bool) -> Any:
        if self.judge is None:
            return None
        self.judge.requires_grad_(True)
        if whole or self.heads is None:
            return self.judge.score(images)
        return self.heads(self.judge.patch_features(images, 0), 0)

    def random(self) -> Any:
        """Adversarial, semantic and patch terms of a random batch."""
        images = _drawn(self.generator, self.preset.batch)
        side = next(
            (t.side(self.size) for t in self.preset.on_random.active if isinstance(t, PatchConsistency)), 0
        )
        crops = sum(t.crops for t in self.preset.on_random.active if isinstance(t, PatchConsistency))
        context = StepContext(Target(self._picture(1), self.encoders), images, crop_px=side)
        context.crops_xy = torch.zeros(crops, 2, dtype=torch.int64) if crops else None
        context.render_source = lambda: self._picture(self.preset.batch)
        values = [self._judged(images, False), context.adapted_clip]
        return [*values, context.adapted_crop_clip, context.source_crop_clip] if crops else values

    def reference(self) -> Any:
        """Terms of the reference picture."""
        images = _drawn(self.generator, 1)
        return self._judged(images, True), self.encoders.perceptual.features(images)

    def discriminator(self) -> Any:
        """Real and fake batch."""
        count = self.preset.batch
        return self._judged(self._picture(count), False), self._judged(self._picture(count), False)

    def r1(self) -> Any:
        """The penalty's two passes."""
        if self.judge is None or self.preset.discriminator is None or not self.preset.discriminator.r1_gamma:
            return None
        picture = self._picture(1, gradient=True)
        return r1_penalty(self._judged(picture, True), picture)


def _drawn(generator: Generator, count: int) -> Tensor:
    """Pictures of a batch, with gradient."""
    config = generator.config
    codes: Latents = torch.empty(count, config.num_layers, config.w_dim, device=META, requires_grad=True)
    noise = [torch.empty(count, 1, *shape, device=META) for shape in generator.noise_shapes()]
    return generator.synthesize(codes, noise)


def _saved(work: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for the backward pass of some work; weights are not counted."""
    storages: dict[int, torch.UntypedStorage] = {}  # held: one that is freed gives its address to the next

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage
        return tensor.detach()  # the tensor itself knows its graph, which would hold it: a cycle for ever

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = work()
    del result
    return sum(storage.nbytes() for storage in storages.values())


def _on_meta(module: Any) -> Any:
    """Copy the shapes of a network."""
    if module is None or not isinstance(module, nn.Module):
        return module
    memo: dict[int, Any] = {}
    with torch.inference_mode(False):
        for tensor in (*module.parameters(), *module.buffers()):
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=META)
            memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
        return copy.deepcopy(module, memo)


def _made_on_meta(make: Callable[[], Any]) -> Any:
    with torch.inference_mode(False), META:
        return make()


def _tensor_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _bytes(module: Any) -> int:
    return sum(map(_tensor_bytes, module.parameters())) if isinstance(module, nn.Module) else 0
