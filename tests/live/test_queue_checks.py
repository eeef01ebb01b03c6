"""What is known to be wrong is refused when it is queued, on its node, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PromptRefused, Server

Workflow = Callable[..., dict[str, Any]]
WORKFLOWS = Path(__file__).parents[1] / "workflows"
WRONG = {
    "snapshot": (
        "OneShotAdapt",
        {"steps": 400, "snapshot_every": 100, "snapshot_step": 150},
        "there will be no snapshot of step 150: a run of 400 steps keeps 100, 200, 300, 400",
    ),
    "schedule": (
        "OneShotAdapt",
        {"reference_steps": 0, "random_steps": 0},
        "every kind of step comes 0 times",
    ),
    "batch": ("OneShotAdapt", {"batch": 1}, "at least 2"),
    "parts": ("OneShotAdapt", {"trained_parts": "noise, colours"}, "got 'colours'"),
    "range": ("OneShotAdapt", {"steps": 0}, "steps must be"),
    "weights": (
        "CLIPLatentSearch",
        {"clip_weight": 0, "lpips_weight": 0, "pixel_weight": 0, "deviation_weight": 0},
        "every term of the search has weight 0",
    ),
    "seeds": ("SampleAdapted", {"seeds": "0-x"}, "cannot read '0-x'"),
    "no seeds": ("SampleAdapted", {"seeds": " "}, "no seeds given"),
    "many seeds": ("SampleAdapted", {"seeds": "0-999999"}, "GB are free"),
    "mixing": ("SampleAdapted", {"mix_seeds": "9-1"}, "runs backwards"),
    "outside": ("OneShotSaveGenerator", {"filename_prefix": "../x"}, "leads out of the output folder"),
    "no name": ("OneShotSaveGenerator", {"filename_prefix": ""}, "filename_prefix is empty"),
    "half": (
        "OneShotSaveGenerator",
        {"format": "rosinality", "dtype": "float16"},
        "rosinality files are float32",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_said_when_they_are_queued(server: Server, workflow: Workflow, case: str) -> None:
    node, inputs, said = WRONG[case]
    # ComfyUI runs outputs that the mistake does not reach; without them all is refused.
    others = {"SampleAdapted": ("7", "9"), "OneShotSaveGenerator": ("6", "7", "8")}.get(node, ())
    graph = workflow(**{node: inputs}, drop=others)
    with pytest.raises(PromptRefused) as refusal:
        server.queue(graph)
    (found,) = refusal.value.body["node_errors"].values()
    assert found["class_type"] == node
    details = [error["details"] for error in found["errors"]]
    assert sum(said in one for one in details) == 1 and all("see above" in one for one in details[1:])


def test_an_empty_text_is_said_when_it_is_queued(server: Server) -> None:
    graph = json.loads((WORKFLOWS / "text_edit.json").read_text(encoding="utf-8"))
    graph["7"]["inputs"]["text"] = " "
    kept = {name: one for name, one in graph.items() if one["class_type"] != "PreviewImage" or name == "13"}
    with pytest.raises(PromptRefused) as refusal:
        server.queue(kept)
    assert "text is empty" in json.dumps(refusal.value.body["node_errors"]["7"])
