"""Pools of drawn faces that the demo's networks are trained on, drawn once and kept in a work folder."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...checkpoints.native import read_tensors, write_tensors
from ...tensors import Images, Latents, seeded
from .faces import NUM_FACTORS, draw, factors_from_latents

FORMAT = "oneshot-demo-faces"
Z_DIM = 128  # coordinates of the demo generator's latents
CHUNK_FACES = 256  # faces per file
_DRAW_BATCH = 32


@dataclass(frozen=True)
class Pool:
    """Drawn faces of one look or several.

    Attributes:
        latents: [N, Z_DIM], each row scaled to a root mean square of 1.
        images: [N, 3, H, W] uint8.
        looks: [N] index of each picture's look in the list the pool was drawn for.
    """

    latents: Tensor
    images: Tensor
    looks: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def pictures(self, index: Tensor) -> Images:
        """Return some pictures, [M] indices -> [M, 3, H, W] float32 in [-1, 1]."""
        return self.images[index].float() / 127.5 - 1

    def factors(self, index: Tensor) -> Tensor:
        """Return the factors of some faces, [M] indices -> [M, NUM_FACTORS]."""
        return factors_from_latents(self.latents[index])

    def reduced(self, size_px: int) -> Pool:
        """Return the pool with its pictures averaged down to a smaller side."""
        small = [
            to_bytes(reduce_images(part.float() / 127.5 - 1, size_px)) for part in self.images.split(256)
        ]
        return Pool(self.latents, torch.cat(small), self.looks)


def to_bytes(images: Images) -> Tensor:
    """Round pictures in [-1, 1] to uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def reduce_images(images: Images, size_px: int) -> Images:
    """Average pictures down to `size_px`, which must divide their side."""
    factor = images.shape[-1] // size_px
    return images if factor == 1 else torch.nn.functional.avg_pool2d(images, factor)


def respun_latents(latents: Latents, random: torch.Generator) -> Latents:
    """Draw the coordinates anew that no factor reads, so that a network learns to ignore them.

    Latents count up to scale, so a face fixes the first `NUM_FACTORS` coordinates on the sphere and leaves
    the others uniform on a smaller sphere: the result has the law of normal latents given the factors.

    Args:
        latents: [N, Z] of root mean square 1.
        random: where the draws come from.

    Returns:
        [N, Z] with the same factors.
    """
    fixed, size = latents[:, :NUM_FACTORS], latents.shape[1]
    rest = torch.randn(len(latents), size - NUM_FACTORS, generator=random)
    radius = (size - fixed.square().sum(1, keepdim=True)).clamp_min(0.0).sqrt()
    return torch.cat([fixed, rest * (radius / rest.norm(dim=1, keepdim=True))], dim=1)


def draw_pool(
    folder: Path, looks: Sequence[str], faces: int, seed: int, jobs: int = 1, size_px: int = 128
) -> None:
    """Draw the missing chunks of a pool; a pool that is complete costs nothing.

    Args:
        folder: where the chunks lie.
        looks: names of looks.
        faces: pictures per look, rounded up to whole chunks; every look shows other people.
        seed: of the faces and of the looks' papers.
        jobs: processes that draw side by side.
        size_px: side of the pictures.
    """
    chunks = range(math.ceil(faces / CHUNK_FACES))
    todo = [(folder, look, chunk, seed, size_px) for chunk in chunks for look in looks]
    todo = [job for job in todo if not chunk_path(folder, job[1], job[2]).exists()]
    if jobs == 1 or len(todo) < 2:
        for job in todo:
            _draw_chunk(job)
        return
    with multiprocessing.get_context("spawn").Pool(
        jobs, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for _ in pool.imap(_draw_chunk, todo):
            pass


def chunk_path(folder: Path, look: str, chunk: int) -> Path:
    """Name the file of one chunk."""
    return folder / f"{look}-{chunk:04d}.safetensors"


def _draw_chunk(job: tuple[Path, str, int, int, int]) -> None:
    folder, look, chunk, seed, size_px = job
    latents = torch.randn(CHUNK_FACES, Z_DIM, generator=seeded(seed, chunk, f"demo.pool.{look}"))
    latents = latents * latents.square().mean(1, keepdim=True).rsqrt()
    parts = []
    for batch, part in enumerate(latents.split(_DRAW_BATCH)):
        paper_seed = chunk * CHUNK_FACES + batch
        parts.append(to_bytes(draw(factors_from_latents(part), look, paper_seed, size_px)))
    tensors = {"latents": latents, "images": torch.cat(parts)}
    write_tensors(chunk_path(folder, look, chunk), tensors, {"format": FORMAT, "format_version": 1})


def load_pool(folder: Path, looks: Sequence[str], faces: int) -> Pool:
    """Read a drawn pool.

    Args:
        folder: as given to `draw_pool`.
        looks: names of looks; their order gives the look indices.
        faces: pictures per look.

    Raises:
        CheckpointError: it was not drawn, or not far enough, or a chunk is damaged.
    """
    names: Iterable[tuple[int, Path]] = [
        (index, chunk_path(folder, look, chunk))
        for index, look in enumerate(looks)
        for chunk in range(math.ceil(faces / CHUNK_FACES))
    ]
    parts = [(index, read_tensors(path)[0]) for index, path in names]
    return Pool(
        torch.cat([part["latents"] for _, part in parts]),
        torch.cat([part["images"] for _, part in parts]),
        torch.cat([torch.full((len(part["latents"]),), index) for index, part in parts]),
    )
