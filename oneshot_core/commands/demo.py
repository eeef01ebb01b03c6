"""The verb demo: the whole method on the shipped assets, on a CPU in a few minutes."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from ..choices import TARGET_LOOKS
from ..runners.results import Results, make
from ..store import FolderStore
from .console import note, say
from .following import followed
from .recipes import demo_recipe_of
from .resources import open_all, out_folder, out_path, prepare, report


def demo(options: Namespace) -> None:
    """`demo`: adapt the demo's generator to a shipped target picture, by the recipe of the assets."""
    if options.list:
        for look in TARGET_LOOKS:
            say(look)
        return
    recipe, folder = demo_recipe_of(options), out_path(options.out)
    device = prepare(options)
    inputs = open_all(recipe, device, options)
    if not options.quiet:
        note(f"demo: portraits of {inputs.source.size} px, adapted to {options.target!r}, on {device}")
    store = FolderStore(out_folder(str(folder)), options.fresh)
    follow = partial(followed, quiet=options.quiet)
    report(options, make(recipe, inputs, store, Results(psi=1.0), follow, note))
