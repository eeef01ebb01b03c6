"""Run all scripts that need ComfyUI's loader in one process, which takes seconds to import it.

Run by ComfyUI's interpreter in its folder; prints a JSON object of what each script prints, by its name, and
under "errors" what went to standard error while the pack was loaded:

python run_scripts.py PACK SCRIPT...
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

scripts, sys.argv = sys.argv[2:], sys.argv[:2]

import dump_schemas  # noqa: E402 - loads the pack; the scripts import what it sets up

LOADED = "-- the pack is loaded --"  # what went to standard error before it belongs to loading


def answered(script: str) -> object:
    """What a script prints last, as JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as told:
        runpy.run_path(script, run_name="__main__")
    return json.loads(told.getvalue().splitlines()[-1])


if __name__ == "__main__":
    sys.stderr.write(f"\n{LOADED}\n")
    found = {Path(script).stem: answered(script) for script in scripts}
    found[dump_schemas.__name__] = dump_schemas.answer()
    sys.stdout.write("\n" + json.dumps(found, default=str) + "\n")
