"""Cancel, stop and keep, kill, restart and two servers: nothing that was trained is lost or spoilt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PromptRefused, Server, equal, failure, saved_weights

Workflow = Callable[..., dict[str, Any]]
DROP = ("6", "7", "8")


def wait_for_step(server: Server, prompt: str, folder: Path, seconds: float = 120) -> None:
    """Wait until a run has a snapshot."""
    deadline = time.monotonic() + seconds
    while not list(folder.rglob("step_*.safetensors")):
        assert time.monotonic() < deadline, server.log_text()[-2000:]
        assert server.history(prompt) is None, failure(server.history(prompt) or {})
        time.sleep(0.05)


@pytest.mark.parametrize("node", ["CLIPLatentSearch", "OneShotAdapt", "SampleAdapted", "StyleCLIPEdit"])
def test_cancel_is_obeyed_within_a_second_and_the_next_prompt_works(
    server: Server, workflow: Workflow, node: str
) -> None:
    graph = workflow(
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
            },
        }
        graph = {key: graph[key] for key in ("1", "2", "10", "11")}
        graph["12"] = {"class_type": "PreviewImage", "inputs": {"images": ["11", 1]}}
    prompt = server.queue(graph)
    events = server.watch(
        lambda event: event["type"] == "progress_state" and _running(event, graph, node), 120
    )
    assert events, server.log_text()[-2000:]
    began = time.monotonic()
    server.post("/interrupt", {})
    entry = server.wait(prompt, 30)
    assert time.monotonic() - began < 1.5  # a second, and the polling
    assert failure(entry) == "interrupted"
    server.run(workflow(drop=("9",)))


def test_memory_is_back_after_a_cancel(fresh: Any, workflow: Workflow) -> None:
    """Resident memory after cancelled trainings stays where one finished training left it."""
    server = fresh()
    server.run(workflow(OneShotAdapt={"steps": 8}, drop=DROP))
    before = server.resident_bytes()
    for seed in range(4):
        graph = workflow(OneShotAdapt={"steps": 4000, "snapshot_every": 4000, "seed": seed + 1}, drop=DROP)
        prompt = server.queue(graph)
        assert server.watch(lambda event: event["type"] == "oneshot.loss" and event["data"]["step"] > 4, 60)
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


def test_a_cancelled_run_goes_on_and_equals_an_uninterrupted_one(
    fresh: Any, workflow: Workflow, tmp_path: Path
) -> None:
    graph = workflow(OneShotAdapt={"steps": 40, "snapshot_every": 4}, drop=DROP)
    first = fresh(tmp_path / "a")
    prompt = first.queue(graph)
    wait_for_step(first, prompt, tmp_path / "a" / "output" / "oneshot_runs")
    first.post("/interrupt", {})
    assert failure(first.wait(prompt)) == "interrupted"
    resumed = saved_weights(tmp_path / "a", first.run(graph))
    first.stop()
    whole = saved_weights(tmp_path / "b", fresh(tmp_path / "b").run(graph))
    assert equal(resumed, whole)


def test_a_killed_server_resumes_and_a_restarted_one_loads(
    fresh: Any, workflow: Workflow, tmp_path: Path
) -> None:
    graph = workflow(OneShotAdapt={"steps": 12, "snapshot_every": 2, "seed": 3}, drop=DROP)
    first = fresh(tmp_path)
    prompt = first.queue(graph)
    wait_for_step(first, prompt, tmp_path / "output" / "oneshot_runs")
    first.stop(kill=True)
    second = fresh(tmp_path)
    weights = saved_weights(tmp_path, second.run(graph))
    second.stop()
    third = fresh(tmp_path)
    began = time.monotonic()
    again = saved_weights(tmp_path, third.run(graph))
    assert time.monotonic() - began < 10  # a cold server imports torch's parts and open_clip first
    assert equal(weights, again)


def test_stop_and_keep_gives_what_is_there_and_the_next_time_goes_on(
    fresh: Any, workflow: Workflow, tmp_path: Path
) -> None:
    graph = workflow(OneShotAdapt={"steps": 2000, "snapshot_every": 2, "seed": 4}, drop=DROP)
    server = fresh(tmp_path)
    prompt = server.queue(graph)
    wait_for_step(server, prompt, tmp_path / "output" / "oneshot_runs")
    assert server.post("/oneshot/stop_and_keep", {"node": "5"})["stopping"]
    entry = server.wait(prompt, 30)
    assert failure(entry) == "" and entry["outputs"]["9"]["generators"]
    assert "of 2000" in entry["outputs"]["5"]["text"][0]
    kept = int(entry["outputs"]["5"]["text"][0].split()[1])
    again = server.queue(graph)  # the same prompt does not come from the cache: it goes on
    assert server.watch(lambda event: event["type"] == "oneshot.loss" and event["data"]["step"] > kept, 60)
    server.post("/interrupt", {})
    assert failure(server.wait(again)) == "interrupted"
    with pytest.raises(PromptRefused):
        server.post("/oneshot/stop_and_keep", {"node": "5"})
    with pytest.raises(PromptRefused):
        server.post("/oneshot/stop_and_keep", {"node": 5})


def test_a_damaged_run_is_set_aside(fresh: Any, workflow: Workflow, tmp_path: Path) -> None:
    graph = workflow(OneShotAdapt={"seed": 6}, drop=DROP)
    server = fresh(tmp_path)
    weights = saved_weights(tmp_path, server.run(graph))
    server.stop()
    for path in (tmp_path / "output" / "oneshot_runs").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    again = fresh(tmp_path)
    assert equal(weights, saved_weights(tmp_path, again.run(graph)))
    assert "damaged" in again.log_text()


def test_two_servers_share_an_output_folder(fresh: Any, workflow: Workflow, tmp_path: Path) -> None:
    graph = workflow(OneShotAdapt={"steps": 8, "seed": 8}, drop=DROP)
    servers = [fresh(tmp_path), fresh(tmp_path)]
    results: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda one=one: results.append(one.wait(one.queue(graph)))) for one in servers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [failure(entry) for entry in results] == ["", ""]
    first, second = (saved_weights(tmp_path, entry["outputs"]) for entry in results)
    assert equal(first, second)
