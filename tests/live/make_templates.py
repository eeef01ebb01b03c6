"""Make `example_workflows/` agree with `tests/workflows/`, by the real page.

    PYTHONPATH=tests:tests/live python tests/live/make_templates.py

`tests/workflows/NAME.json` (API form) says what a template does; layout, titles and notes stay those of the
template that is there. The page loads it, takes the values over and serialises the graph; each node is marked
with the pack it comes from. Run it after a change of a workflow, of a node's inputs or of the pack's version,
then look at the page.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from comfy_server import PACK, Server, comfy_folders
from page import opened_page
from template_nodes import TITLES, template_file, with_origins

TAKE_OVER = """
([template, workflow]) => {
  const set = (node, name, value) => {
    const widget = node.widgets?.find((one) => one.name === name);
    if (!widget) return;
    widget.value = value;
    widget.callback?.(value, app.canvas, node);
  };
  const dynamic = (name, inputs) => Object.keys(inputs).some((other) => other.startsWith(name + "."));
  for (const node of app.graph.nodes) {
    const inputs = workflow[node.id]?.inputs;
    if (!inputs) continue;
    const names = Object.keys(inputs).filter((name) => !Array.isArray(inputs[name]));
    for (const name of names.filter((one) => dynamic(one, inputs))) set(node, name, inputs[name]);
    for (const name of names) if (!dynamic(name, inputs)) set(node, name, inputs[name]);
  }
  return JSON.stringify(app.graph.serialize());
}
"""


def without_nothing(value: Any) -> Any:
    """Drop entries that hold nothing, which older pages refuse."""
    if isinstance(value, dict):
        return {key: without_nothing(one) for key, one in value.items() if one is not None or key == "link"}
    return [without_nothing(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    """Rewrite every template."""
    server = Server(comfy_folders()[0], Path(tempfile.mkdtemp())).start()
    try:
        with opened_page(server) as page:
            for name in TITLES:
                path = template_file(name)
                template = without_nothing(json.loads(path.read_text(encoding="utf-8")))
                form = PACK / "tests" / "workflows" / f"{name}.json"
                workflow = json.loads(form.read_text(encoding="utf-8"))
                page.evaluate("graph => app.loadGraphData(graph)", template)
                page.wait_for_timeout(1500)
                made = without_nothing(json.loads(page.evaluate(TAKE_OVER, [template, workflow])))
                made = with_origins(made)
                made.pop("id", None)  # without one every tab that opens the template gets its own
                path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                sys.stdout.write(f"{path.name}: {len(made['nodes'])} nodes\n")
    finally:
        server.stop()


if __name__ == "__main__":
    main()
