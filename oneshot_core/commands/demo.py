"""The verb demo: the whole method on the shipped assets, on a CPU in a few minutes."""

from __future__ import annotations

from argparse import Namespace

from ..choices import TARGET_LOOKS
from .adapt import Results, make
from .console import note, say
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
    results = Results(psi=1.0, quiet=options.quiet, fresh=options.fresh)
    report(options, make(recipe, inputs, out_folder(str(folder)), results))
