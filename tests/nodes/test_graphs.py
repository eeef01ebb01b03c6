"""A graph that is being queued: who feeds a node, which outputs are used, and graphs that are none."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PATH = Path(__file__).parents[2] / "nodes" / "graphs.py"
spec = spec_from_file_location("pack_graphs", PATH)
assert spec is not None and spec.loader is not None
graphs = sys.modules["pack_graphs"] = module_from_spec(spec)  # where a dataclass looks for its types
spec.loader.exec_module(graphs)


def kind(output: bool = False, **inputs: dict[str, Any]) -> Any:
    described = {name: ("IMAGE", more) for name, more in inputs.items()}
    return SimpleNamespace(OUTPUT_NODE=output, INPUT_TYPES=lambda: {"required": described})


CLASSES = {"Give": kind(), "Switch": kind(one={"lazy": True}, other={}), "Show": kind(output=True, image={})}


def found(prompt: Any, node: str = "1", kind: str = "Give", targets: Any = None) -> Any:
    body = {"prompt": prompt, "partial_execution_targets": targets}
    assert graphs.remember(body) is body
    return graphs.queued(node, kind, CLASSES)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def test_outputs_are_used_by_what_leads_to_a_node_that_shows() -> None:
    prompt = {
        "1": node("Give"),
        "2": node("Switch", one=["1", 0], other=["1", 1]),
        "3": node("Show", image=["2", 0]),
        "4": node("Give", loose=["1", 2]),
        "5": node("Show", image=["1", 3]),
    }
    assert [found(prompt).is_used(output) for output in range(4)] == [False, True, False, True]
    assert [found(prompt, targets=["3"]).is_used(output) for output in range(4)] == [
        False,
        True,
        False,
        False,
    ]


def test_a_giver_is_found_and_constants_are_read() -> None:
    here = found({"1": node("Give", number=3, image=["2", 0]), "2": node("Show")})
    assert (here.kind, here.value("number"), here.value("image"), here.value("none")) == (
        "Give",
        3,
        None,
        None,
    )
    assert here.giver("image").kind == "Show"
    assert here.giver("number") is None and here.giver("none") is None


def test_loops_end() -> None:
    here = found({"1": node("Give", a=["2", 0]), "2": node("Show", a=["1", 0], b=["2", 0])})
    assert here.is_used(0) and not here.is_used(1)


def test_what_is_no_graph_is_no_reason_to_refuse() -> None:
    for prompt in (None, [], "text", {}, {"1": None}, {"1": {"inputs": {}}}, {"1": node("Show")}):
        assert found(prompt) is None
    odd = {"1": {"class_type": "Give", "inputs": {"a": ["9", 0], "b": ["1"], "c": [1, 2], "d": ["1", "x"]}}}
    here = found({**odd, "2": {"class_type": "Show"}})
    assert all(here.giver(name) is None for name in "abcd") and not here.is_used(0)
