"""The referee on a real server: figures, flags, sheets, the snapshots of a kept run, cancelling."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from comfy_server import PromptRefused, Server, failure, kept_runs
from conftest import DEMO

Workflow = Callable[..., dict[str, Any]]
DROP = ("6", "8", "9")
JUDGED = {
    "source": ["1", 0], "encoders": ["2", 0], "target": ["3", 0], "seeds": "0-5", "psi": 1.0, "fit": "crop",
    "classes": "", "batch_size": 4,
}  # fmt: skip


def evaluating(graph: dict[str, Any], **changes: Any) -> dict[str, Any]:
    values = {**JUDGED, "adapted": ["5", 0], "download": False, **changes}
    return {**graph, "20": {"class_type": "OneShotEvaluate", "inputs": values}}


def comparing(graph: dict[str, Any], **changes: Any) -> dict[str, Any]:
    values = {**JUDGED, "generator_1": ["5", 0], "snapshots": False, **changes}
    sample = {
        "adapted": ["21", 3], "seeds": "0", "psi": 1.0, "cutoff": -1, "noise": "const", "noise_seed": 0,
        "mix_seeds": "", "mix_from": 0, "mix_to": -1, "replace_from": -1, "classes": "", "batch_size": 1,
    }  # fmt: skip
    return {
        **graph,
        "21": {"class_type": "OneShotCompare", "inputs": values},
        "22": {"class_type": "SampleAdapted", "inputs": sample},
        "23": {"class_type": "PreviewImage", "inputs": {"images": ["22", 0]}},
    }


def test_a_generator_is_judged_and_a_clip_that_took_part_is_flagged(
    server: Server, workflow: Workflow
) -> None:
    outputs = server.run(evaluating(workflow(drop=DROP, OneShotAdapt={"seed": 61})))
    (text,) = outputs["20"]["text"]
    assert "6 latents: seeds 0-5, psi 1; 1 target" in text
    assert "CLIP demo (took part in the adaptation)" in text and "judge with another CLIP model" in text
    assert any("took part" in note for note in outputs["20"]["notes"]) and outputs["20"]["images"]


def test_references_without_the_package_say_what_to_install(server: Server, workflow: Workflow) -> None:
    """ComfyUI's environment has no torch-fidelity."""
    graph = evaluating(workflow(drop=DROP, OneShotAdapt={"seed": 61}), references=["3", 0])
    entry = server.wait(server.queue(graph))
    assert "pip install torch-fidelity" in failure(entry)


def test_the_snapshots_of_a_kept_run_are_rows_and_the_best_comes_out(
    server: Server, workflow: Workflow
) -> None:
    graph = workflow(drop=DROP, OneShotAdapt={"seed": 62, "steps": 6, "snapshot_every": 2})
    outputs = server.run(comparing(graph, snapshots=True))
    (text,) = outputs["21"]["text"]
    rows = [line.partition(":")[0] for line in text.splitlines() if line.startswith("step ")]
    assert rows == ["step 2", "step 4", "step 6"] and "highest score: step " in text
    assert outputs["23"]["images"]


def test_the_best_snapshot_is_given_without_training_again(server: Server, workflow: Workflow) -> None:
    settings = {"seed": 64, "steps": 6, "snapshot_every": 2, "snapshot_step": -1}
    outputs = server.run(workflow(drop=DROP, OneShotAdapt=settings))
    (note,) = [note for note in outputs["5"]["notes"] if "highest score of 3 snapshots" in note]
    step = note.split()[1]
    far, *_ = outputs["5"]["status"]
    assert far.startswith(f"step {step} of 6")
    trained = kept_runs(server.base)
    again = server.run(workflow(drop=DROP, OneShotAdapt={**settings, "snapshot_step": int(step)}))
    assert again["5"]["status"][0] == far and kept_runs(server.base) == trained


def test_several_generators_are_rows(server: Server, workflow: Workflow) -> None:
    graph = workflow(drop=DROP, OneShotAdapt={"seed": 62, "steps": 6, "snapshot_every": 2})
    outputs = server.run(comparing(graph, generator_3=["1", 0]))
    (text,) = outputs["21"]["text"]
    first, second = (line for line in text.splitlines() if line[:2] in ("1:", "3:"))
    # One that was trained now has no file yet, one that is kept has.
    assert "adapted from tiny.safetensors" in first and second.startswith("3: tiny.safetensors: CLIP-I")


def test_a_generator_without_a_run_says_so(server: Server, workflow: Workflow) -> None:
    graph = comparing(workflow(drop=DROP), generator_1=["1", 0], snapshots=True)
    entry = server.wait(server.queue(graph))
    assert "does not say how it was adapted" in failure(entry)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": "3"}, "seeds must be 2 to"),
        ({"seeds": "3,3"}, "must all differ"),
        ({"psi": 0.0}, "psi must not be 0"),
        ({"snapshots": True, "generator_2": ["1", 0]}, "unlink generator_2"),
    ],
)
def test_what_cannot_be_judged_is_refused_when_it_is_queued(
    server: Server, workflow: Workflow, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(PromptRefused) as refused:
        server.queue(comparing(workflow(drop=(*DROP, "7")), **changes))
    assert said in json.dumps(refused.value.body)


def test_cancel_is_obeyed_within_a_second(server: Server, workflow: Workflow) -> None:
    graph = evaluating(workflow(drop=DROP, LoadStyleGAN=DEMO, OneShotAdapt={"seed": 63}), seeds="0-4000")
    server.run(evaluating(workflow(drop=DROP, LoadStyleGAN=DEMO, OneShotAdapt={"seed": 63})))
    prompt = server.queue(graph)
    found = server.watch(
        lambda event: event["type"] == "progress" and event["data"].get("node") == "20", seconds=120
    )
    assert found, server.log_text()[-2000:]
    server.post("/interrupt", {})
    began = time.monotonic()
    entry = server.wait(prompt)
    assert failure(entry) == "interrupted"
    assert time.monotonic() - began < 1.5
