"""The other methods on a real server: each trains, is cancelled and goes on, and is refused what it lacks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from comfy_server import PromptRefused, Server, equal, failure, kept_runs, saved_weights
from test_interruptions import wait_for_step

Workflow = Callable[..., dict[str, Any]]
DROP = ("6", "7", "8")
TEXTS = {"source_text": "a portrait", "target_text": "a pencil sketch", "text_weights": "", "layers": -1}
NADA = {**TEXTS, **{f"{name}_weight": 0.0 for name in ("global", "manifold", "part", "texture")}}
INNER: dict[str, dict[str, Any]] = {
    "stylegan_nada": {**NADA, "direction_weight": 1.0, "mixing": -1.0},
    "mind_the_gap": {
        "across_weight": 1.0, "within_weight": 0.5, "reference_clip_weight": 30.0,
        "reference_pixel_weight": 10.0, "reference_lpips_weight": 10.0,
    },
    "few_shot": {
        "adversarial_weight": 1.0, "distance_weight": 1000.0, "mixing": -1.0, "discriminator_rate": 0.0,
    },
}  # fmt: skip


def by_method(
    graph: dict[str, Any], name: str, without: tuple[str, ...] = (), **inner: Any
) -> dict[str, Any]:
    """The workflow with a method, without some links of its adaptation."""
    values = {f"preset.{key}": value for key, value in {**INNER[name], "batch": 0, **inner}.items()}
    more = {"profile": "default", "learning_rate": 0.002, "trained_parts": "", "target_weights": ""}
    graph["30"] = {"class_type": "OneShotMethod", "inputs": {"preset": name, **values, **more}}
    graph["5"]["inputs"]["method"] = ["30", 0]
    for link in without:
        graph["5"]["inputs"].pop(link)
    if "reference" in without:
        graph.pop("4", None)
    return graph


WITHOUT = {"stylegan_nada": ("target", "reference"), "mind_the_gap": (), "few_shot": ("reference",)}


@pytest.mark.parametrize("name", INNER)
def test_a_method_trains_is_cancelled_and_goes_on(server: Server, workflow: Workflow, name: str) -> None:
    def graph(steps: int) -> dict[str, Any]:
        plain = workflow(OneShotAdapt={"steps": steps, "snapshot_every": 2, "seed": 91}, drop=DROP)
        return by_method(plain, name, WITHOUT[name])

    whole = saved_weights(server.base, server.run(graph(6)))
    again = server.run(graph(6))
    assert equal(whole, saved_weights(server.base, again))
    known = kept_runs(server.base)
    prompt = server.queue(graph(400))
    wait_for_step(server, prompt, known)
    cancelled = time.monotonic()
    server.post("/interrupt", {})
    assert failure(server.wait(prompt, 30)) == "interrupted" and time.monotonic() - cancelled < 10
    assert kept_runs(server.base).keys() - known  # what was done is kept


def test_a_text_needs_no_picture_and_the_node_says_what_it_does(server: Server, workflow: Workflow) -> None:
    graph = by_method(
        workflow(OneShotAdapt={"seed": 92}, drop=("8",)), "stylegan_nada", WITHOUT["stylegan_nada"]
    )
    outputs = server.run(graph)
    assert "a pencil sketch" in " ".join(outputs["30"]["text"]) and outputs["5"]["images"]
    assert "direction" in outputs["5"]["losses"][0]


REFUSED: dict[str, tuple[str, tuple[str, ...], dict[str, Any], str]] = {
    "no target": ("few_shot", ("target", "reference"), {}, "few_shot needs a target picture"),
    "no counterpart": ("mind_the_gap", ("reference",), {}, "mind_the_gap needs the target's counterpart"),
    "neither text nor picture": (
        "stylegan_nada", ("target", "reference"), {"target_text": ""}, "give One-Shot Method a source",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_method_lacks_is_said_when_it_is_queued(server: Server, workflow: Workflow, case: str) -> None:
    name, without, inner, told = REFUSED[case]
    with pytest.raises(PromptRefused) as refused:
        server.queue(by_method(workflow(drop=DROP), name, without, **inner))
    assert told in str(refused.value)


def test_without_a_method_target_and_counterpart_are_asked_for(server: Server, workflow: Workflow) -> None:
    graph = workflow(drop=DROP)
    graph["5"]["inputs"].pop("target")
    with pytest.raises(PromptRefused) as refused:
        server.queue(graph)
    assert "oneshot_clip needs a target picture" in str(refused.value)


def test_a_word_that_clip_does_not_know_ends_the_run_before_any_step(
    server: Server, workflow: Workflow
) -> None:
    graph = by_method(
        workflow(OneShotAdapt={"seed": 93}, drop=DROP),
        "stylegan_nada",
        WITHOUT["stylegan_nada"],
        target_text="a cubist",
    )
    entry = server.wait(server.queue(graph), 60)
    assert "does not know 'cubist'" in failure(entry)
