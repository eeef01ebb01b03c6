"""Load the pack with ComfyUI's real loader and print what it registered, as JSON.

Run by ComfyUI's interpreter in its folder:

python dump_schemas.py PACK
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))
sys.argv, PACK = sys.argv[:1], sys.argv[1]

from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.base_directory = tempfile.mkdtemp()
args.disable_api_nodes = True

import folder_paths  # noqa: E402

base = Path(args.base_directory)
folder_paths.base_path = str(base)
folder_paths.models_dir = str(base / "models")
folder_paths.set_output_directory(str(base / "output"))

import nodes  # noqa: E402


def described(node: type) -> dict[str, object]:
    """What a saved workflow depends on, and the texts."""
    schema = node.define_schema()
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "category": schema.category,
        "output_node": schema.is_output_node,
        "inputs": node.INPUT_TYPES(),
        "outputs": [
            {"id": output.id, "type": output.io_type, "name": output.display_name, "tooltip": output.tooltip}
            for output in schema.outputs
        ],
    }


before = set(nodes.NODE_CLASS_MAPPINGS)
loaded = asyncio.run(nodes.load_custom_node(PACK))
own = [name for name in nodes.NODE_CLASS_MAPPINGS if name not in before]


def answer() -> dict[str, object]:
    """What is printed."""
    found = {name: described(nodes.NODE_CLASS_MAPPINGS[name]) for name in own}
    return {"loaded": loaded, "nodes": found}


if __name__ == "__main__":
    print(json.dumps(answer(), default=str))
