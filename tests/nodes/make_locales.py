"""Write the English texts of the nodes, as the schemas say them, to locales/en/nodeDefs.json.

Run after texts of nodes changed, then bring locales/zh up to date by hand:

PYTHONPATH=tests/live python tests/nodes/make_locales.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comfy_pack import PACK, loaded

LOCALES = PACK / "locales"


def place(language: str) -> Path:
    """File of a language's node texts."""
    return LOCALES / language / "nodeDefs.json"


def read(language: str) -> dict[str, Any]:
    """Node texts of a language."""
    return json.loads(place(language).read_text(encoding="utf-8"))


def flat(texts: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Every text by its path of keys, such as `OneShotAdapt.inputs.steps.tooltip`."""
    found: dict[str, str] = {}
    for key, value in texts.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def english() -> dict[str, Any]:
    """The texts of the schemas, keyed as the page looks them up; it never looks up choices of a combo."""
    return {name: _node(node) for name, node in loaded()[0]["nodes"].items()}


def _node(node: dict[str, Any]) -> dict[str, Any]:
    inputs: dict[str, dict[str, str]] = {}
    for key, texts in _inputs(node["inputs"]):
        if inputs.setdefault(key, texts) != texts:
            raise ValueError(f"{key}: the page has one text per input, so options must agree on it")
    outputs = {
        str(place): {"name": output["name"], "tooltip": output["tooltip"]}
        for place, output in enumerate(node["outputs"])
    }
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": inputs,
        "outputs": outputs,
    }


def _inputs(groups: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Key and texts of every input; `method.text`, of an option of `method`, has the key `method_text`."""
    for group in ("required", "optional"):
        for name, (kind, *rest) in groups.get(group, {}).items():
            settings = rest[0] if rest else {}
            key = (prefix + name).replace(".", "_")
            yield key, {"name": settings.get("display_name") or name, "tooltip": settings["tooltip"]}
            for option in settings["options"] if kind == "COMFY_DYNAMICCOMBO_V3" else []:
                yield from _inputs(option["inputs"], f"{key}_")


def main() -> None:
    """Write English; say what Chinese lacks, has too much, and what to look at again."""
    before = flat(read("en")) if place("en").is_file() else {}
    texts = english()
    place("en").parent.mkdir(parents=True, exist_ok=True)
    place("en").write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    now, chinese = flat(texts), flat(read("zh")) if place("zh").is_file() else {}
    for key in dict.fromkeys([*now, *chinese]):
        if key not in chinese or key not in now:
            sys.stdout.write(f"{'missing in' if key in now else 'too much in'} zh: {key}\n")
        elif before.get(key, now[key]) != now[key]:
            sys.stdout.write(f"changed, translate again: {key}: {now[key]}\n")


if __name__ == "__main__":
    main()
