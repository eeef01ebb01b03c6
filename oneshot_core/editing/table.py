"""Tables of edits: the same latents at several strengths of one direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL.Image import Image as Picture

from ..batches import check_batch
from ..checkpoints import GeneratorBundle
from ..edits import MOST_STRENGTH
from ..latents import Latent
from ..pictures import labelled_grid
from ..sampling import SampleConfig, count_of, keys_of, sample
from ..tensors import Images
from .direction import Direction, apply_direction, check_direction

MOST_COLUMNS = 25


def parse_edit_strengths(text: str) -> tuple[float, ...]:
    """Read strengths such as "-3, 0, 3".

    Raises:
        ValueError: none, more than 25, not numbers, or beyond -1000 to 1000.
    """
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"strengths are numbers such as -3, 0, 3; cannot read {text!r}") from None
    if not 1 <= len(found) <= MOST_COLUMNS:
        raise ValueError(f"give 1 to {MOST_COLUMNS} strengths, such as -3, 0, 3; got {len(found)}")
    if not all(abs(strength) <= MOST_STRENGTH for strength in found):
        raise ValueError(f"strengths must lie within -{MOST_STRENGTH:g} and {MOST_STRENGTH:g}, got {text!r}")
    return found


def edit_table(
    bundle: GeneratorBundle,
    latent: Latent,
    direction: Direction,
    strengths: Sequence[float],
    config: SampleConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Images]:
    """Draw latents at several strengths of a direction.

    Args:
        bundle: who draws, the source or an adapted generator.
        latent: N codes, with the edits they carry.
        direction: that fits the generator.
        strengths: K of them; 0 shows the latents as they are.
        config: of the sampling.
        progress: told after each chunk how many of all N * K pictures are drawn; one that raises stops.

    Returns:
        K tensors [N, 3, S, S].

    Raises:
        ValueError: the direction does not fit the generator, or memory cannot hold the pictures.
    """
    config = config or SampleConfig(keep_codes=True)
    check_direction(direction, bundle)
    total = count_of(latent) * len(strengths)
    check_batch(bundle, total, config.batch_size)
    columns = list[Images]()
    for index, strength in enumerate(strengths):
        done = index * count_of(latent)

        def tell(now: int, _: int, done: int = done) -> None:
            if progress is not None:
                progress(done + now, total)

        edited = latent if strength == 0 else apply_direction(latent, direction, strength)
        columns.append(sample(bundle, edited, config, progress=tell))
    return columns


def edit_sheet(
    tables: Sequence[Sequence[Images]], latent: Latent, strengths: Sequence[float], direction: Direction
) -> Picture:
    """Lay tables of the same edits out: a row per latent, or a row of each generator.

    Args:
        tables: of one generator, or of a source and an adapted one, see `edit_table`.
        latent: that was edited; its seeds name the rows.
        strengths: of the columns.
        direction: named above.

    Returns:
        An RGB Pillow image.
    """
    rows = list[tuple[str, Images | None]]()
    names = ("",) if len(tables) == 1 else (" · source", " · adapted")
    for place, key in enumerate(keys_of(latent)):
        for name, columns in zip(names, tables, strict=True):
            rows.append((f"{key}{name}", torch.stack([images[place] for images in columns])))
    return labelled_grid(rows, columns=[f"{strength:g}" for strength in strengths], title=direction.name)


def joined_pictures(columns: Sequence[Images]) -> Images:
    """The pictures of a table, column by column: K tensors [N, 3, S, S] -> [K * N, 3, S, S]."""
    return torch.cat(list(columns))
