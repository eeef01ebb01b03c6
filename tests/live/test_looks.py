"""Looks on a real server: learnt, saved, loaded, added to their source and to others, added up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfy_server import PromptRefused, Server, failure
from PIL import Image
from safetensors.numpy import load_file

Workflow = Callable[..., dict[str, Any]]
PARTS = {"trained_parts": "style offsets", "learning_rate": 0.1, "seed": 77}


def pictures(server: Server, base: Path, generator: list[Any], graph: dict[str, Any]) -> list[np.ndarray]:
    """What a generator of a graph draws for two seeds."""
    graph = {
        **graph,
        "50": {
            "class_type": "SampleAdapted",
            "inputs": {**graph["6"]["inputs"], "adapted": generator, "seeds": "0,1"},
        },
        "51": {"class_type": "PreviewImage", "inputs": {"images": ["50", 0]}},
    }
    del graph["50"]["inputs"]["source"]
    shown = server.run({key: node for key, node in graph.items() if key not in ("6", "8", "9")})["51"][
        "images"
    ]
    return [np.asarray(Image.open(base / "temp" / one["filename"])).astype(int) for one in shown]


def saving(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph with the look of its adaptation saved by node 20."""
    inputs = {"source": ["1", 0], "adapted": ["5", 0], "filename_prefix": "oneshot_looks/pencil"}
    return {**graph, "20": {"class_type": "OneShotSaveLook", "inputs": inputs}}


def apply(generator: list[Any], **more: Any) -> dict[str, Any]:
    return {"class_type": "OneShotApplyLook", "inputs": {"generator": generator, "strength": 1.0, **more}}


def farthest(first: list[np.ndarray], second: list[np.ndarray]) -> int:
    return max(int(abs(one - other).max()) for one, other in zip(first, second, strict=True))


@pytest.fixture
def saved(server: Server, workflow: Workflow, base: Path) -> tuple[dict[str, Any], str, Path]:
    """The graph of an adaptation of style offsets, the listed name of its look, and the file."""
    graph = workflow(OneShotAdapt=PARTS, drop=("8", "9"))
    outputs = server.run(saving(graph))
    (one,) = outputs["20"]["looks"]
    path = base / "output" / one["subfolder"] / one["filename"]
    text = outputs["20"]["text"][0].splitlines()
    assert text[0] == f"saved as {one['filename']}" and ", learnt in 4 steps with tiny.safetensors" in text[1]
    return graph, one["filename"], path


def test_a_look_is_saved_loaded_and_makes_its_source_the_adapted_generator(
    server: Server, base: Path, saved: tuple[dict[str, Any], str, Path]
) -> None:
    graph, name, path = saved
    assert path.stat().st_size < 40_000 and set(load_file(path)) == {"offsets"}
    listed = server.get("/object_info/OneShotLoadLook")["OneShotLoadLook"]["input"]["required"]["look_name"]
    assert name in str(listed)
    graph["30"] = {"class_type": "OneShotLoadLook", "inputs": {"look_name": name}}
    graph["31"] = apply(["1", 0], look=["30", 0])
    adapted, source = (pictures(server, base, [node, 0], graph) for node in ("5", "1"))
    assert farthest(adapted, source) > 8
    assert farthest(pictures(server, base, ["31", 0], graph), adapted) <= 1
    # 1 and -1 of the same look are nothing; 0.5 twice is the whole.
    graph["32"] = apply(["1", 0], look=["30", 0], look_2=["30", 0], strength_2=-1.0)
    assert farthest(pictures(server, base, ["32", 0], graph), source) <= 1
    graph["33"] = apply(["1", 0], look=["30", 0], look_3=["30", 0], strength=0.5, strength_3=0.5)
    assert farthest(pictures(server, base, ["33", 0], graph), adapted) <= 1


def test_a_sibling_takes_it_and_the_result_is_adapted_further(
    server: Server, workflow: Workflow, base: Path, saved: tuple[dict[str, Any], str, Path]
) -> None:
    graph, name, _ = saved
    graph["30"] = {"class_type": "OneShotLoadLook", "inputs": {"look_name": name}}
    graph["40"] = workflow(OneShotAdapt={"seed": 78})["5"]  # all parts
    graph["41"] = apply(["40", 0], look=["30", 0], strength=2.0)
    sibling, both = (pictures(server, base, [node, 0], graph) for node in ("40", "41"))
    assert farthest(sibling, both) > 8
    graph["42"] = {**graph["40"], "inputs": {**graph["40"]["inputs"], "generator": ["41", 0]}}
    assert len(pictures(server, base, ["42", 0], graph)) == 2


def test_what_is_no_look_is_refused(
    server: Server, workflow: Workflow, saved: tuple[dict[str, Any], str, Path]
) -> None:
    whole = server.wait(server.queue(saving(workflow(OneShotAdapt={"seed": 79}, drop=("8", "9")))))
    assert "in more than its style offsets" in failure(whole)
    graph, name, _ = saved
    del graph["7"]  # ComfyUI runs a graph as long as one of its outputs is sound
    graph["30"] = {"class_type": "OneShotLoadLook", "inputs": {"look_name": name}}
    graph["31"] = apply(["1", 0], look=["30", 0], strength=2.5)
    graph["51"] = {
        "class_type": "OneShotSaveGenerator",
        "inputs": {**workflow()["9"]["inputs"], "generator": ["31", 0]},
    }
    with pytest.raises(PromptRefused, match="strength"):
        server.queue(graph)
    graph["31"] = apply(["1", 0], look=["30", 0])
    graph["30"]["inputs"]["look_name"] = "../" + name
    with pytest.raises(PromptRefused, match="look_name"):
        server.queue(graph)
    elsewhere = saving(workflow(OneShotAdapt=PARTS, drop=("7", "8", "9")))
    elsewhere["20"]["inputs"]["filename_prefix"] = "../x"
    with pytest.raises(PromptRefused, match="leads out of the output folder"):
        server.queue(elsewhere)
