"""The same latents drawn by one generator after another, as the judges see the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches import sampling_bytes
from ..checkpoints import GeneratorBundle
from ..pictures import thumbnails
from ..sampling import iter_codes, render_codes
from ..tensors import Images, Latents, owned
from .config import EvaluationConfig, Judges, Poll

MEMBERS = 50  # of a cluster whose mutual distances count, as in CDC's script
COMPARED_PX = 256  # larger pictures are reduced before the perceptual net sees them, as in CDC's script
MAP_VALUES = 8 << 20  # of a picture of COMPARED_PX in the largest perceptual net, VGG, in all its maps
CELLS = 4  # a map of the perceptual net is reduced to at most so many cells a side for finding people again


@dataclass(frozen=True)
class Seen:
    """Pictures as the judges see them, all on the CPU.

    Attributes:
        clips: per CLIP model [N, D], of length 1.
        content: [N, D], the perceptual net's maps, reduced to a few cells a side.
        nearest: [N], number of the target that is nearest in the perceptual net's eyes.
        members: per target the first pictures that are nearest to it, [at most MEMBERS, 3, s, s].
        inception: [N, D]; without columns where no such network was given.
        faces: [N, D], likewise.
        shown: [n, 3, s, s], the first pictures for the sheet.
    """

    clips: tuple[Tensor, ...]
    content: Tensor
    nearest: Tensor
    members: tuple[Images, ...]
    inception: Tensor
    faces: Tensor
    shown: Images


class Sitting:
    """The latents, the targets and the judges of an evaluation.

    Args:
        source: its mapping network and mean make the codes; all rows draw these.
        targets: each [1, 3, S, S] in [-1, 1].
        judges: who sees.
        config: seeds and truncation.
        poll: called before every chunk; it may raise.
    """

    def __init__(
        self,
        source: GeneratorBundle,
        targets: Sequence[Images],
        judges: Judges,
        config: EvaluationConfig,
        poll: Poll,
    ) -> None:
        self.source, self.judges, self.config, self.poll = source, judges, config, poll
        self.targets = torch.cat([owned(one).cpu().float() for one in targets])
        self.device = source.generator.const.device

    @cached_property
    def codes(self) -> list[tuple[Latents, list[int]]]:
        """Codes and keys of every chunk."""
        found = iter_codes(
            self.source, self.config.seeds, self.config.sampling(), classes=self.config.classes
        )
        return [(owned(codes).cpu(), keys) for codes, keys, _ in found]

    def drawn(self, bundle: GeneratorBundle) -> Iterator[Images]:
        """Draw all latents by a generator, chunk by chunk: [n, 3, S, S] on the CPU, cut to [-1, 1]."""
        for codes, keys in self.codes:
            self.poll()
            like = bundle.generator.const
            yield render_codes(bundle.generator, codes.to(like), keys, self.config.sampling()).clamp(-1, 1)

    @torch.no_grad()
    def clip(self, images: Images) -> list[Tensor]:
        """Unit features [n, D] per CLIP model."""
        placed = images.to(self.device)
        return [clip.encode_images(placed).float().cpu() for clip, _ in self.judges.encoders.clips]

    @torch.no_grad()
    def maps(self, images: Images) -> list[Tensor]:
        """The perceptual net's maps of pictures, on the device."""
        return self.judges.encoders.perceptual.features(compared(images).to(self.device))

    @cached_property
    def target_clips(self) -> list[Tensor]:
        """Unit features [K, D] of the targets per CLIP model."""
        return self.clip(self.targets)

    @cached_property
    def _target_maps(self) -> list[list[Tensor]]:
        return [self.maps(target[None]) for target in self.targets]

    def nearest(self, maps: list[Tensor]) -> Tensor:
        """Number of the nearest target of every picture, [n], by its maps."""
        if len(self.targets) == 1:
            return torch.zeros(len(maps[0]), dtype=torch.long)
        distance = self.judges.encoders.perceptual.distance
        return torch.stack([distance(maps, one).cpu() for one in self._target_maps]).argmin(0)

    @torch.no_grad()
    def see(self, bundle: GeneratorBundle, told: Callable[[int], None]) -> Seen:
        """Draw a generator's pictures and look at them; `told` hears after every chunk how many."""
        clips: list[list[Tensor]] = [[] for _ in self.judges.encoders.clips]
        members: list[list[Images]] = [[] for _ in self.targets]
        content, near, inception, faces = (list[Tensor]() for _ in range(4))
        shown: list[Images] = []
        for images in self.drawn(bundle):
            for found, features in zip(clips, self.clip(images), strict=True):
                found.append(features)
            maps = self.maps(images)
            content.append(_cells(maps))
            near.append(self.nearest(maps))
            for image, cluster in zip(compared(images).split(1), near[-1].tolist(), strict=True):
                if len(members[cluster]) < MEMBERS:
                    members[cluster].append(image)
            inception.append(features_of(self.judges.inception, images, self.device))
            faces.append(features_of(self.judges.faces, images, self.device))
            if sum(len(part) for part in shown) < self.config.shown:
                shown.append(thumbnails(images))
            told(len(images))
        return Seen(
            tuple(map(torch.cat, clips)),
            torch.cat(content),
            torch.cat(near),
            tuple(torch.cat(part) if part else images[:0] for part in members),
            torch.cat(inception),
            torch.cat(faces),
            torch.cat(shown)[: self.config.shown],
        )

    def spread(self, images: Images) -> float:
        """Mean perceptual distance over all pairs of pictures [n, 3, s, s], n at least 2; see `compared`."""
        distance, total, count = self.judges.encoders.perceptual.distance, 0.0, len(images)
        size = self.config.batch_size
        with torch.no_grad():
            for start in range(0, count, size):
                self.poll()
                first = self.maps(images[start : start + size])
                for other in range(start, count, size):
                    self.poll()
                    second = first if other == start else self.maps(images[other : other + size])
                    for index in range(len(first[0])):
                        one = [level[index : index + 1] for level in first]
                        found = distance(second, one)
                        total += float((found[index + 1 :] if other == start else found).sum())
        return total / (count * (count - 1) / 2)


def evaluation_bytes(bundle: GeneratorBundle, judges: Judges, batch: int) -> int:
    """Estimate what judging a generator needs besides its weights: encoders, a chunk of pictures and maps.

    Args:
        bundle: who draws.
        judges: who sees.
        batch: pictures at a time.
    """
    encoders = judges.encoders
    networks = [*(clip for clip, _ in encoders.clips), encoders.perceptual]
    weights = sum(one.numel() for network in networks for one in network.parameters())
    maps = MAP_VALUES * (min(bundle.size, COMPARED_PX) / COMPARED_PX) ** 2
    return sampling_bytes(bundle, batch) + int(4 * (weights + 4 * maps * batch))


def compared(images: Images) -> Images:
    """Reduce pictures to what the perceptual net compares."""
    if images.shape[-1] <= COMPARED_PX:
        return images
    return F.interpolate(images, size=(COMPARED_PX, COMPARED_PX), mode="area")


def features_of(network: object, images: Images, device: torch.device) -> Tensor:
    """Features [n, D] of a network that may be missing; then [n, 0]."""
    if network is None:
        return torch.empty(len(images), 0)
    assert callable(network)
    return torch.as_tensor(network(images.to(device))).float().cpu()


def _cells(maps: list[Tensor]) -> Tensor:
    """Maps [n, C, h, w] as one row per picture, each reduced to at most `CELLS` cells a side."""
    small = [F.adaptive_avg_pool2d(one, min(CELLS, one.shape[-1])).flatten(1) for one in maps]
    return torch.cat(small, dim=1).float().cpu()
