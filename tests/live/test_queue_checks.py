"""What is known to be wrong is refused when it is queued, on its node, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from comfy_server import PromptRefused, Server

Workflow = Callable[..., dict[str, Any]]
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
    graph = workflow(**{node: inputs})
    with pytest.raises(PromptRefused) as refusal:
        server.queue(graph)
    (found,) = refusal.value.body["node_errors"].values()
    assert found["class_type"] == node
    details = [error["details"] for error in found["errors"]]
    assert sum(said in one for one in details) == 1 and all("see above" in one for one in details[1:])
