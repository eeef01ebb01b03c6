"""The verb demo: the whole method on the shipped assets, on a CPU in a few minutes."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..choices import DEMO_TARGET, TARGET_LOOKS
from ..demo.world import demo_recipe
from .adapt import Results, make
from .console import BadInput, note, say
from .recipes import recipe_of
from .resources import open_all, out_folder, prepare, report


def demo(options: Namespace) -> None:
    """`demo`: adapt the demo's generator to a shipped target picture, by the recipe of the assets."""
    if options.list:
        for look in TARGET_LOOKS:
            say(look)
        return
    name = options.target or TARGET_LOOKS[0]
    options.target = f"{DEMO_TARGET}{name}" if name in TARGET_LOOKS else name
    if name not in TARGET_LOOKS and not Path(name).is_file():
        raise BadInput(f"--target must be one of {', '.join(TARGET_LOOKS)}, or a picture file; got {name!r}")
    recipe = recipe_of(options, demo_recipe())
    device = prepare(options)
    inputs = open_all(recipe, device, options)
    if not options.quiet:
        note(f"demo: portraits of {inputs.source.size} px, adapted to the look {name!r}, on {device}")
    results = Results(psi=1.0, quiet=options.quiet, fresh=options.fresh)
    report(options, make(recipe, inputs, out_folder(options.out), results))
