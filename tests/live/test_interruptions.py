"""Cancel, stop and keep, kill, restart and two servers: nothing that was trained is lost or spoilt."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PromptRefused, Server, equal, failure, kept_runs, saved_weights
from conftest import DEMO

Workflow = Callable[..., dict[str, Any]]
DROP = ("6", "7", "8")


def wait_for_step(server: Server, prompt: str, known: Container[str] = (), seconds: float = 120) -> None:
    """Wait until a run has a snapshot that is none of the known files."""
    deadline = time.monotonic() + seconds
    while not any("step_" in name for name in kept_runs(server.base) if name not in known):
        assert time.monotonic() < deadline, server.log_text()[-2000:]
        assert server.history(prompt) is None, failure(server.history(prompt) or {})
        time.sleep(0.05)


@pytest.mark.parametrize("node", ["CLIPLatentSearch", "OneShotAdapt", "SampleAdapted", "StyleCLIPEdit"])
def test_cancel_is_obeyed_within_a_second_and_the_next_prompt_works(
    server: Server, workflow: Workflow, node: str
) -> None:
    graph = workflow(
        LoadStyleGAN=DEMO,
        CLIPLatentSearch={"steps": 4000 if node == "CLIPLatentSearch" else 3, "seed": 77},
        OneShotAdapt={"steps": 4000 if node == "OneShotAdapt" else 4, "snapshot_every": 4000, "seed": 77},
        SampleAdapted={"seeds": "0-5000" if node == "SampleAdapted" else "0-1"},
        drop=("9",),
    )
    if node == "StyleCLIPEdit":
        graph["10"] = {
            "class_type": "OneShotRandomLatents",
            "inputs": {"generator": ["1", 0], "seeds": "0-3", "classes": ""},
        }
        graph["11"] = {
            "class_type": "StyleCLIPEdit",
            "inputs": {
                "generator": ["1", 0],
                "encoders": ["2", 0],
                "latent": ["10", 0],
                "method": "latent optimisation",
                "text": "a portrait of a person with a beard",
                "neutral_text": "",
                "method.steps": 4000,
                "method.learning_rate": 0.1,
                "method.l2_weight": 0.008,
                "method.views": 0,
                "method.seed": 0,
                "method.space": "w+",
                "method.identity_file": "none",
                "method.identity_weight": 0.0,
            },
        }
        graph = {key: graph[key] for key in ("1", "2", "10", "11")}
        graph["12"] = {"class_type": "PreviewImage", "inputs": {"images": ["11", 1]}}
    prompt = server.queue(graph)
    events = server.watch(
        lambda event: event["type"] == "progress_state" and _running(event, graph, node), 120
    )
    assert events, server.log_text()[-2000:]
    computed = server.cpu_seconds()
    server.post("/interrupt", {})
    entry = server.wait(prompt, 10)
    assert server.cpu_seconds() - computed < 1.2  # what it did in this time, whatever else the machine does
    assert failure(entry) == "interrupted"
    server.run(workflow(drop=("9",)))


def test_memory_is_back_after_a_cancel(server: Server, workflow: Workflow) -> None:
    """Resident memory after cancelled trainings stays where one finished training left it."""
    server.run(workflow(LoadStyleGAN=DEMO, OneShotAdapt={"steps": 3}, drop=DROP))
    before = server.resident_bytes()
    for seed in range(4):
        training = {"steps": 4000, "snapshot_every": 4000, "seed": seed + 1}
        prompt = server.queue(workflow(LoadStyleGAN=DEMO, OneShotAdapt=training, drop=DROP))
        assert server.watch(lambda event: event["type"] == "oneshot.loss" and event["data"]["step"] > 1, 60)
        server.post("/interrupt", {})
        assert failure(server.wait(prompt)) == "interrupted"
    assert server.resident_bytes() < before + 150e6


def _running(event: dict[str, Any], graph: dict[str, Any], node: str) -> bool:
    """Whether a node of a class has begun and told its progress."""
    states = event["data"]["nodes"]
    return any(
        graph[key]["class_type"] == node and state["state"] == "running" and state["value"] > 0
        for key, state in states.items()
        if key in graph
    )


def test_a_cancelled_run_goes_on_and_equals_an_uninterrupted_one(server: Server, workflow: Workflow) -> None:
    training = {"steps": 40, "snapshot_every": 4, "seed": 11}
    graph, known = workflow(OneShotAdapt=training, drop=DROP), kept_runs(server.base)
    prompt = server.queue(graph)
    wait_for_step(server, prompt, known)
    server.post("/interrupt", {})
    assert failure(server.wait(prompt)) == "interrupted"
    resumed, kept = saved_weights(server.base, server.run(graph)), kept_runs(server.base)
    anew = workflow(OneShotAdapt={**training, "kept_run": "train again"}, drop=DROP)
    whole = saved_weights(server.base, server.run(anew))
    assert kept_runs(server.base) != kept  # it did train again
    assert equal(resumed, whole)


def test_a_killed_server_resumes_a_restarted_one_loads_and_two_share_a_folder(
    fresh: Any, workflow: Workflow, tmp_path: Path
) -> None:
    graph = workflow(OneShotAdapt={"steps": 40, "snapshot_every": 2, "seed": 3}, drop=DROP)
    first = fresh(tmp_path)
    prompt = first.queue(graph)
    wait_for_step(first, prompt)
    first.stop(kill=True)
    second = fresh(tmp_path)
    weights, trained = saved_weights(tmp_path, second.run(graph)), kept_runs(tmp_path)
    third = fresh(tmp_path)
    again = saved_weights(tmp_path, third.run(graph))
    assert kept_runs(tmp_path) == trained  # nothing was trained again
    assert equal(weights, again)
    share_a_folder([second, third], workflow(OneShotAdapt={"steps": 30, "seed": 8}, drop=DROP))


def share_a_folder(servers: list[Server], graph: dict[str, Any]) -> None:
    """Run a workflow on servers of one folder at the same time: all get the same generator."""
    results: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda one=one: results.append(one.wait(one.queue(graph)))) for one in servers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [failure(entry) for entry in results] == [""] * len(servers)
    first, *others = (saved_weights(servers[0].base, entry["outputs"]) for entry in results)
    assert others and all(equal(first, other) for other in others)


def test_stop_and_keep_is_final_until_it_is_to_go_on(server: Server, workflow: Workflow) -> None:
    graph = workflow(OneShotAdapt={"steps": 2000, "snapshot_every": 2, "seed": 4}, drop=DROP)
    known = kept_runs(server.base)
    prompt = server.queue(graph)
    wait_for_step(server, prompt, known)
    assert server.post("/oneshot/stop_and_keep", {"node": "5"})["stopping"]
    entry = server.wait(prompt, 30)
    assert failure(entry) == "" and entry["outputs"]["9"]["generators"]
    assert "of 2000" in entry["outputs"]["5"]["text"][0]
    found = re.match(r"(kept at )?step (\d+) of 2000", entry["outputs"]["5"]["text"][0])
    kept = int(found[2])
    # Whatever else changes: here what is drawn of it.
    stopped = {"steps": 2000, "snapshot_every": 2, "seed": 4}
    other = workflow(OneShotAdapt=stopped, OneShotSaveGenerator={"filename_prefix": "other"}, drop=DROP)
    assert server.run(other)["9"]["generators"]
    server.run(workflow(OneShotAdapt={"seed": 5}, drop=DROP))  # pushes it out of the cache
    assert f"step {kept} of 2000" in server.run(graph)["5"]["text"][0]
    going_on = {"steps": 2000, "snapshot_every": 2, "seed": 4, "kept_run": "go on"}
    again = server.queue(workflow(OneShotAdapt=going_on, drop=DROP))
    assert server.watch(lambda event: event["type"] == "oneshot.loss" and event["data"]["step"] > kept, 60)
    server.post("/interrupt", {})
    assert failure(server.wait(again)) == "interrupted"
    with pytest.raises(PromptRefused):
        server.post("/oneshot/stop_and_keep", {"node": "5"})
    with pytest.raises(PromptRefused):
        server.post("/oneshot/stop_and_keep", {"node": 5})


def test_a_damaged_run_is_set_aside(server: Server, workflow: Workflow) -> None:
    graph, known = workflow(OneShotAdapt={"seed": 6}, drop=DROP), kept_runs(server.base)
    weights = saved_weights(server.base, server.run(graph))
    damaged = [
        server.base / "output" / "oneshot_runs" / name for name in kept_runs(server.base).keys() - known
    ]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:1000])
    server.run(workflow(OneShotAdapt={"seed": 7}, drop=DROP))  # pushes it out of the cache
    told = len(server.log_text())
    assert equal(weights, saved_weights(server.base, server.run(graph)))
    assert damaged and "damaged" in server.log_text()[told:]
