"""The verb look: what an adaptation of style offsets learnt, as a small file."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch

from ..look_files import save_look
from ..looks import look_between
from .console import BadInput, say, say_json
from .resources import open_generator


def look_command(options: Namespace) -> None:
    """`look SOURCE ADAPTED OUT`: write the difference of their style offsets."""
    out = Path(options.output)
    if out.suffix.lower() != ".safetensors":
        raise BadInput(f"OUT must end in .safetensors, got {out.name!r}")
    if out.exists() and not options.force:
        raise BadInput(f"{out} exists; choose another name, or add --force to replace it")
    cpu = torch.device("cpu")
    source, adapted = (open_generator(name, cpu) for name in (options.source, options.adapted))
    look = look_between(source, adapted, options.name)
    save_look(look, out)
    size = out.stat().st_size
    if options.json:
        say_json({"file": str(out), "bytes": size, "name": look.name, "widths": list(look.widths)})
        return
    say(f"{out}: {look.summary()}; {size / 1e3:,.1f} kB")
