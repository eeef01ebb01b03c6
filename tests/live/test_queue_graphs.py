"""What follows from the graph alone is refused when it is queued, and nothing that would run is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_server import TINY, PromptRefused, Server, failure

Graph = dict[str, dict[str, Any]]
WORKFLOWS = Path(__file__).parents[1] / "workflows"
SEEDS, MANY = "0,1", "0-999999"
SAMPLE = {
    "psi": 1.0, "cutoff": -1, "noise": "const", "noise_seed": 0, "mix_seeds": "", "mix_from": 0, "mix_to": -1,
    "replace_from": -1, "classes": "", "batch_size": 2, "adapted": ["1", 0], "seeds": SEEDS,
}  # fmt: skip


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def sampling(**changes: Any) -> Graph:
    """A generator, its latents, samples of it, and both kinds of pictures shown."""
    return {
        "1": node("LoadStyleGAN", generator_name=TINY),
        "2": node(
            "OneShotRandomLatents", generator=["1", 0], seeds=changes.pop("latents", SEEDS), classes=""
        ),
        "3": node("SampleAdapted", **{**SAMPLE, **changes}),
        "4": node("PreviewImage", images=["3", 0]),
    }


def with_source(graph: Graph) -> Graph:
    return {**graph, "5": node("PreviewImage", images=["3", 1])}


def editing(**changes: Any) -> Graph:
    """The workflow of text editing as far as its edit, and the edited pictures."""
    graph = json.loads((WORKFLOWS / "text_edit.json").read_text(encoding="utf-8"))
    for one in graph.values():
        one["inputs"] |= changes.get(one["class_type"], {})
    return {
        **{name: graph[name] for name in ("1", "2", "6", "7")},
        "8": node("PreviewImage", images=["7", 1]),
    }


def adapting(reference: list[Any], **more: dict[str, Any]) -> Graph:
    graph = json.loads((WORKFLOWS / "quick_start.json").read_text(encoding="utf-8"))
    graph["5"]["inputs"]["reference"] = reference
    sheet = node("PreviewImage", images=["5", 1])
    return {**{name: graph[name] for name in ("1", "2", "3", "4", "5")}, "7": sheet, **more}


RANDOM = node("OneShotRandomLatents", generator=["1", 0], seeds="0", classes="")
SEVERAL = node("SampleAdapted", **SAMPLE)
WRONG: dict[str, tuple[Callable[[], Graph], str, str]] = {
    "a source that is not there": (
        lambda: with_source(sampling()),
        "3",
        "something is wired to the output source, but no generator to the input source; connect the "
        "generator that was adapted, or unlink that output",
    ),
    "random latents as the reference": (
        lambda: adapting(["10", 0], **{"10": RANDOM}),
        "5",
        "random latents cannot be the reference, which is the target's counterpart: use CLIP Latent Search",
    ),
    "several codes as the reference": (
        lambda: adapting(["10", 2], **{"10": SEVERAL}),
        "5",
        "the reference must be one code, but 2 are linked",
    ),
    "several codes to replace slots with": (
        lambda: sampling(reference=["2", 0]),
        "3",
        "the reference must be one code, but 2 are linked",
    ),
    "too many latents": (
        lambda: sampling(latent=["2", 0], latents=MANY),
        "3",
        "1000000 pictures held in one",
    ),
    "too many latents to edit": (
        lambda: editing(OneShotRandomLatents={"seeds": MANY}),
        "7",
        "1000000 pictures held 4 times in one batch, of 64 px already, need 196.6 GB, but",
    ),
    "a list that does not fit": (
        lambda: sampling(mix_seeds="1-3"),
        "3",
        "mix_seeds must be one number or 2, as many as there are seeds; got 3",
    ),
    "words that the demo does not know": (
        lambda: editing(StyleCLIPEdit={"text": "a person with a smile and a crown"}),
        "7",
        "the CLIP model demo does not know 'smile', 'crown'; say it in its words, or use another CLIP model. "
        "It knows: a, ahead, an, and, art,",
    ),
    "words in the neutral text": (
        lambda: editing(StyleCLIPEdit={"neutral_text": "a queen"}),
        "7",
        "the CLIP model demo does not know 'queen'",
    ),
    "a file for the demo's CLIP": (
        lambda: editing(OneShotLoadEncoders={"clip_file": "x.safetensors"}),
        "2",
        "the demo's CLIP has weights of its own, but the file x.safetensors was given",
    ),
    "a file that is not there": (
        lambda: editing(OneShotLoadEncoders={"clip": "ViT-B-32:openai", "clip_file": "x.safetensors"}),
        "2",
        "clip_file: there is no file 'x.safetensors'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_of_the_wiring_are_said_when_they_are_queued(server: Server, case: str) -> None:
    graph, name, said = WRONG[case]
    with pytest.raises(PromptRefused) as refusal:
        server.queue(graph())
    (found,) = refusal.value.body["node_errors"].items()
    assert found[0] == name
    details = [error["details"] for error in found[1]["errors"]]
    assert sum(said in one for one in details) == 1 and all("see above" in one for one in details[1:])


def test_the_source_is_asked_for_only_where_its_pictures_are_used(server: Server) -> None:
    loose = {"6": node("ImageInvert", image=["3", 1])}  # leads to nothing that runs
    server.run({**sampling(), **loose})
    server.run(with_source(sampling(source=["1", 0])))
    body = {"prompt": with_source(sampling()), "client_id": server.client_id}
    answer = server.post("/prompt", {**body, "partial_execution_targets": ["4"]})
    assert server.wait(answer["prompt_id"])["status"]["status_str"] == "success"
    with pytest.raises(PromptRefused):
        server.post("/prompt", {**body, "partial_execution_targets": ["5"]})


def test_an_input_that_may_stay_unasked_needs_no_source(server: Server) -> None:
    if "ComfySwitchNode" not in server.get("/object_info"):
        pytest.skip("this ComfyUI has no switch")
    switch = node("ComfySwitchNode", switch=False, on_false=["3", 0], on_true=["3", 1])
    graph = {**sampling(), "6": switch, "7": node("PreviewImage", images=["6", 0])}
    assert failure(server.wait(server.queue(graph))) == ""


def test_seeds_do_not_count_where_latents_are_linked(server: Server) -> None:
    outputs = server.run(sampling(latent=["2", 0], seeds="none", mix_seeds="7", latents="3"))
    assert len(outputs["4"]["images"]) == 1


def test_a_text_that_comes_by_a_link_is_refused_before_any_work(server: Server) -> None:
    graph = editing(StyleCLIPEdit={"text": ["9", 0]})
    graph["9"] = node("PrimitiveString", value="a person with a crown")
    entry = server.wait(server.queue(graph))
    assert failure(entry).startswith("the CLIP model demo does not know 'crown'; say it in its words")


def test_a_graph_with_a_loop_is_answered(server: Server) -> None:
    graph = sampling(latent=["3", 2], reference=["3", 2])
    with pytest.raises(PromptRefused):
        server.queue(graph)
