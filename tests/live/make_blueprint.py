"""Make `subgraphs/One-shot style in one node.json` out of the quick start, by the real page.

    PYTHONPATH=tests:tests/live python tests/live/make_blueprint.py

The page packs the quick start's nodes into a subgraph (picture in, pictures and generator out), gives it the
inputs that people change, and serialises it. ComfyUI lists the file among its blueprints. Run it after
`make_templates.py`, then look at the page.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from comfy_server import PACK, Server, comfy_folders
from make_templates import without_nothing
from page import opened_page
from template_nodes import template_file, with_origins

NAME = "One-shot style in one node"
ABOUT = "Gives a StyleGAN2 generator the look of one picture: picture in, adapted pictures and generator out."
INSIDE = ["Source generator", "Encoders", "Search", "Adapt", "Samples"]  # titles in the quick start
GIVEN = [  # input of the subgraph, title of the node inside, its input
    ("generator_name", "Source generator", "generator_name"),
    ("clip", "Encoders", "clip"),
    ("perceptual", "Encoders", "perceptual"),
    ("search_steps", "Search", "steps"),
    ("steps", "Adapt", "steps"),
    ("seed", "Adapt", "seed"),
    ("seeds", "Samples", "seeds"),
    ("psi", "Samples", "psi"),
]
OUTPUTS = {"adapted_1": "pictures", "adapted": "generator"}
PACKED = """
async ([name, about, inside, given, outputs]) => {
  const named = Object.fromEntries(app.graph.nodes.map((node) => [node.title, node]));
  const ids = inside.map((title) => named[title].id);
  const { subgraph, node } = app.graph.convertToSubgraph(new Set(inside.map((title) => named[title])));
  const inner = Object.fromEntries(inside.map((title, at) => [title, subgraph.getNodeById(ids[at])]));
  for (const input of [...subgraph.inputs]) if (input.type !== "IMAGE") subgraph.removeInput(input);
  for (const [label, title, wanted] of given) {
    const socket = inner[title].inputs.find((one) => one.widget?.name === wanted || one.name === wanted);
    const input = subgraph.addInput(label, String(socket.type));
    input.connect(socket, inner[title]);
  }
  for (const output of subgraph.outputs) {
    if (outputs[output.name]) subgraph.renameOutput(output, outputs[output.name]);
  }
  const sheet = inner.Adapt.outputs.find((one) => one.name === "preview");
  subgraph.addOutput("sheet", "IMAGE").connect(sheet, inner.Adapt);
  subgraph.name = node.title = name;
  for (const other of [...app.graph.nodes]) if (other !== node) app.graph.remove(other);
  node.pos = [0, 0];
  const made = app.graph.serialize();
  Object.assign(made.definitions.subgraphs[0], { category: "One-Shot StyleGAN", description: about });
  return JSON.stringify(made);
}
"""


def with_inner_origins(made: dict[str, Any]) -> dict[str, Any]:
    """The blueprint with the origin of every node inside, and without what only this page knows."""
    return {key: value for key, value in with_origins(made).items() if key != "id"}


def main() -> None:
    """Write the blueprint."""
    server = Server(comfy_folders()[0], Path(tempfile.mkdtemp())).start()
    try:
        with opened_page(server) as page:
            quick = json.loads(template_file("quick_start").read_text(encoding="utf-8"))
            page.evaluate("graph => app.loadGraphData(graph)", quick)
            page.wait_for_timeout(1500)
            text = page.evaluate(PACKED, [NAME, ABOUT, INSIDE, GIVEN, OUTPUTS])
            made = with_inner_origins(without_nothing(json.loads(text)))
            path = PACK / "subgraphs" / f"{NAME}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            sys.stdout.write(
                f"{path.name}: {len(made['definitions']['subgraphs'][0]['nodes'])} nodes inside\n"
            )
    finally:
        server.stop()


if __name__ == "__main__":
    main()
