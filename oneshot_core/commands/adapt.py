"""The verb adapt: one picture in, a generator out, in a folder that can be resumed."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from ..runners.results import Results, make
from ..sampling import parse_seeds
from ..store import FolderStore
from .console import BadInput, note
from .following import followed
from .recipes import recipe_of
from .resources import open_all, out_folder, out_path, prepare, report

MAX_GRID_SEEDS = 64


def adapt_command(options: Namespace) -> None:
    """`adapt`: search, adapt, and write the generator, pictures, losses and the recipe."""
    recipe = recipe_of(options)
    seeds = parse_seeds(options.seeds)
    if len(seeds) > MAX_GRID_SEEDS:
        raise BadInput(
            f"--seeds of the grid are at most {MAX_GRID_SEEDS}, got {len(seeds)}; `sample` draws more"
        )
    device, folder = prepare(options), out_path(options.out)
    inputs = open_all(recipe, device, options)
    results = Results(seeds, with_discriminator=not options.without_discriminator)
    store = FolderStore(out_folder(str(folder)), options.fresh)
    report(options, make(recipe, inputs, store, results, partial(followed, quiet=options.quiet), note))
