"""The pack on a real ComfyUI server, driven by HTTP."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_server import TINY, PromptRefused, Server, equal, failure, kept_runs, saved_weights
from conftest import DEMO, RUNS_LIMIT_GB

Workflow = Callable[..., dict[str, Any]]


def test_the_pack_loads_and_registers_all_nodes(server: Server) -> None:
    nodes = server.get("/object_info")
    own = {name for name, node in nodes.items() if "oneshot" in node["python_module"]}
    assert len(own) == 32
    assert "IMPORT FAILED" not in server.log_text()


def test_quick_start_runs_saves_and_the_file_loads_again(
    server: Server, workflow: Workflow, base: Path
) -> None:
    outputs = server.run(workflow(LoadStyleGAN=DEMO))
    (saved,) = outputs["9"]["generators"]
    path = base / "output" / saved["subfolder"] / saved["filename"]
    assert path.is_file() and saved["type"] == "output"
    view = f"/view?filename={saved['filename']}&subfolder={saved['subfolder']}&type=output"
    assert server.get_bytes(view) == path.read_bytes()
    name = f"{saved['subfolder']}/{saved['filename']}".removeprefix("oneshot_stylegan/")
    assert name in server.get("/object_info/LoadStyleGAN")["LoadStyleGAN"]["input"]["required"][
        "generator_name"
    ][0] or (name in str(server.get("/object_info/LoadStyleGAN")))
    again = {
        "1": {"class_type": "LoadStyleGAN", "inputs": {"generator_name": name}},
        "2": workflow()["6"]
        | {"inputs": workflow()["6"]["inputs"] | {"adapted": ["1", 0], "source": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    assert len(server.run(again)["3"]["images"]) == 8


def test_ui_is_plain_json_with_the_points_of_the_curves(server: Server, workflow: Workflow) -> None:
    outputs = server.run(workflow(OneShotAdapt={"seed": 5}))
    (curves,) = outputs["5"]["losses"]
    assert [step for step, _ in curves["generator"]] == [1, 2, 3, 4]
    assert all(isinstance(value, float) for curve in curves.values() for _, value in curve)
    assert json.loads(json.dumps(outputs, allow_nan=False)) == outputs


def test_second_run_loads_and_a_snapshot_does_not_train(
    server: Server, workflow: Workflow, base: Path
) -> None:
    def run(**settings: Any) -> None:
        server.run(workflow(OneShotAdapt=settings, drop=("6", "8", "9")))

    run(steps=6, seed=1)
    run(steps=2, seed=2)  # pushes it out of the cache
    trained = kept_runs(base)
    run(steps=6, seed=1)
    run(steps=6, seed=1, snapshot_step=2)
    assert trained and kept_runs(base) == trained
    run(steps=6, seed=1, kept_run="train again")
    assert kept_runs(base) != trained


def test_sampling_before_or_after_does_not_change_training(
    server: Server, workflow: Workflow, base: Path
) -> None:
    """Inference mode: weights that another node moved or drew with are still trainable, bit for bit.

    Two files of the same bytes are two generators in the server's memory.
    """
    folder = base / "models" / "oneshot_stylegan"

    def graphs(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        shutil.copy(folder / TINY, folder / name)
        graph = workflow(
            LoadStyleGAN={"generator_name": name}, OneShotAdapt={"seed": 41, "kept_run": "train again"}
        )
        train, sample = ({key: dict(graph[key]) for key in keys} for keys in ("123459", "168"))
        sample["6"]["inputs"] = graph["6"]["inputs"] | {"adapted": ["1", 0], "source": ["1", 0]}
        sample["8"]["inputs"] = graph["8"]["inputs"] | {"images": ["6", 0]}
        return train, sample

    def trained(graph: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
        return saved_weights(base, server.run(graph)), kept_runs(base)

    (train_first, sample_first), (train_second, sample_second) = (
        graphs("one.safetensors"),
        graphs("two.safetensors"),
    )
    server.run(sample_first)
    sampled_first, kept = trained(train_first)
    trained_first, kept_then = trained(train_second)
    server.run(sample_second)
    trained_again, kept_last = trained(train_second)
    assert equal(sampled_first, trained_first) and equal(trained_again, trained_first)
    assert kept != kept_then != kept_last  # each was a training


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"[" * 100_000, {}, 400),
        (b" " * 3_000_000, {}, 400),
        (b"\xff\xfe\x00", {"Content-Type": "application/json; charset=nonsense"}, 400),
        (b'{"node": "1"}', {"Content-Encoding": "gzip"}, 400),
        (b'{"node": "1"}', {"Origin": "null"}, 403),
        (b'{"node": "1"}', {"Origin": "http://evil.example"}, 403),
        (b'{"node": "1"}', {}, 404),
    ],
)
def test_odd_requests_to_stop_and_keep_are_refused(
    server: Server, body: bytes, headers: dict[str, str], status: int
) -> None:
    asked = urllib.request.Request(f"{server.url}/oneshot/stop_and_keep", body, headers)
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(asked, timeout=20)
    assert refusal.value.code == status


def test_previews_and_losses_arrive_while_it_trains(server: Server, workflow: Workflow) -> None:
    prompt = server.queue(workflow(OneShotAdapt={"steps": 30, "seed": 51}, drop=("6", "8", "9")))
    events = server.watch(lambda event: event["type"] == "executed" and event["data"]["node"] == "5", 120)
    assert failure(server.wait(prompt)) == ""
    pictures = [event for event in events if event["type"] == "binary" and event["kind"] in (1, 4)]
    assert pictures and all(event["bytes"] > 500 for event in pictures)
    sent = [event["data"] for event in events if event["type"] == "oneshot.loss"]
    losses = [data["points"] for data in sent if data["node"] == "5"]
    seen = [step for points in losses for step, _ in points.get("generator", [])]
    assert seen == list(range(1, 31))


def test_runs_beyond_the_size_limit_are_removed(restricted: Server, workflow: Workflow) -> None:
    runs = restricted.base / "output" / "oneshot_runs"
    for seed in range(4):
        restricted.run(workflow(OneShotAdapt={"seed": seed}, drop=("6", "8", "9")))
    size = sum(path.stat().st_size for path in runs.rglob("*.safetensors"))
    assert 0 < size < RUNS_LIMIT_GB * 1e9 and "removed the kept run" in restricted.log_text()


WRONG: dict[str, dict[str, dict[str, Any]]] = {
    "steps too small": {"OneShotAdapt": {"steps": 0}},
    "steps too large": {"OneShotAdapt": {"steps": 10**9}},
    "steps no number": {"OneShotAdapt": {"steps": "many"}},
    "unknown profile": {"OneShotAdapt": {"profile": "mine"}},
    "unknown precision": {"OneShotAdapt": {"precision": "int4"}},
    "negative seed": {"OneShotAdapt": {"seed": -1}},
    "negative weight": {"OneShotAdapt": {"semantic_weight": -1.0}},
    "wrong wire": {"OneShotAdapt": {"reference": ["1", 0]}},
    "image as generator": {"CLIPLatentSearch": {"generator": ["3", 0]}},
    "parent folder": {"LoadStyleGAN": {"generator_name": "../secret.safetensors"}},
    "absolute path": {"LoadStyleGAN": {"generator_name": "/etc/passwd"}},
    "no such file": {"LoadStyleGAN": {"generator_name": "nothing.pt"}},
    "unknown clip": {"OneShotLoadEncoders": {"clip": "ViT-Z"}},
    "unknown noise": {"SampleAdapted": {"noise": "pink"}},
    "unknown look": {"OneShotDemoTarget": {"look": "cubism"}},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_refused_before_anything_runs(server: Server, workflow: Workflow, case: str) -> None:
    graph = workflow(**WRONG[case])
    try:
        answer = server.post("/prompt", {"prompt": graph, "client_id": server.client_id})
    except PromptRefused as refusal:
        errors = refusal.body["node_errors"]
    else:
        errors = answer["node_errors"]
        server.post("/interrupt", {})
    wanted = next(iter(WRONG[case]))
    assert wanted in {error["class_type"] for error in errors.values()}


FAILING: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "slot out of range": ({"SampleAdapted": {"mix_seeds": "1", "mix_from": 17}}, "must be at most"),
    "crops too large": ({"OneShotAdapt": {"crop_px": 1000}}, "do not fit"),
}


@pytest.mark.parametrize("case", FAILING)
def test_what_only_the_node_can_see_is_explained(server: Server, workflow: Workflow, case: str) -> None:
    changes, text = FAILING[case]
    entry = server.wait(server.queue(workflow(**changes)))
    assert text in failure(entry)
    assert server.run(workflow())  # the next prompt works


def test_hostile_files_are_refused(server: Server, workflow: Workflow, base: Path) -> None:
    folder = base / "models" / "oneshot_stylegan"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.safetensors").write_text("not a network")
    (folder / "outside.pt").symlink_to("/etc/passwd")
    marker = base / "marker"
    command = f"cposix\nsystem\n(S'touch {marker}'\ntR."
    (folder / "evil.pkl").write_bytes(command.encode())
    for name in ("text.safetensors", "outside.pt", "evil.pkl"):
        entry = server.wait(server.queue(workflow(LoadStyleGAN={"generator_name": name})))
        assert failure(entry), name
    assert not marker.exists()


def test_twenty_prompts_at_once(server: Server, workflow: Workflow) -> None:
    drop = ("7", "8", "9")
    graphs = [workflow(SampleAdapted={"seeds": str(seed)}, drop=drop) for seed in range(20)]
    for graph in graphs:
        graph["7"] = {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}}
    entries = [server.wait(prompt) for prompt in [server.queue(graph) for graph in graphs]]
    assert [failure(entry) for entry in entries] == [""] * 20
