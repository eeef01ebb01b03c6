"""Files that a workflow leaves name neither the user nor a folder of the machine: they can be shared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_server import Server
from PIL import Image
from safetensors import safe_open
from template_nodes import TITLES, template_file

Workflow = Callable[..., dict[str, Any]]
USER = "ann-lee-the-user"
TEMPLATES = sorted(TITLES)
DEMO_ENCODERS = {"clip": "demo", "perceptual": "demo", "download": False}


@pytest.fixture(scope="module")
def private(comfy: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose base directory lies in the user's folder, both with a name that nothing else has."""
    if comfy is None:
        pytest.skip("no ComfyUI found; set COMFYUI_PATH")
    home = tmp_path_factory.mktemp("home") / USER
    (home / "base").mkdir(parents=True)
    server = Server(comfy, home / "base", environment={"HOME": str(home), "USER": USER, "LOGNAME": USER})
    yield server.start()
    server.stop()


def traces(folder: Path) -> Iterator[str]:
    """Files that hold the user's name as it is, as JSON or PNG texts write it, or in a text chunk."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        texts = [path.read_bytes().decode("latin-1")]
        if path.suffix == ".png":
            with Image.open(path) as picture:  # text chunks may be compressed
                texts += map(str, getattr(picture, "text", {}).values())
        if path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                texts += (file.metadata() or {}).values()
        if any(USER in text for text in texts):
            yield path.relative_to(folder).as_posix()


def queue_as_the_page_does(server: Server, graph: dict[str, Any], template: str) -> dict[str, Any]:
    """Run a workflow with the canvas's own form of it, which ComfyUI writes into pictures, too."""
    canvas = json.loads(template_file(template).read_text(encoding="utf-8"))
    body = {
        "prompt": graph,
        "client_id": server.client_id,
        "extra_data": {"extra_pnginfo": {"workflow": canvas}},
    }
    entry = server.wait(str(server.post("/prompt", body)["prompt_id"]))
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    return dict(entry["outputs"])


def left(server: Server) -> list[str]:
    """Everything with the user's name below the output and the temporary folder, and how much there is."""
    found = [f"{name}/{path}" for name in ("output", "temp") for path in traces(server.base / name)]
    count = sum(path.is_file() for name in ("output", "temp") for path in (server.base / name).rglob("*"))
    print(f"{len(found)} of {count} files name the user")  # noqa: T201 - the figure is reported
    return found


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_leave_no_trace_of_the_user(private: Server, workflow: Workflow, name: str) -> None:
    edit = {"method.steps": 2} if name == "text_edit" else {}
    graph = workflow(name, OneShotLoadEncoders=DEMO_ENCODERS, StyleCLIPEdit=edit)
    queue_as_the_page_does(private, graph, name)
    assert left(private) == []


def test_files_that_are_loaded_leave_no_trace_of_the_user(private: Server, workflow: Workflow) -> None:
    """Generator, latent and encoder files all have fingerprints, which ComfyUI writes into what is saved."""
    graph = workflow("quick_start")
    graph["20"] = {
        "class_type": "OneShotSaveLatent",
        "inputs": {"latent": ["4", 0], "filename_prefix": "oneshot_latents/found"},
    }
    made = queue_as_the_page_does(private, graph, "quick_start")
    generator, latent = made["9"]["generators"][0], made["20"]["latents"][0]
    graph["1"]["inputs"]["generator_name"] = f"{generator['subfolder']}/{generator['filename']}".removeprefix(
        "oneshot_stylegan/"
    )
    graph["4"] = {
        "class_type": "OneShotLoadLatent",
        "inputs": {
            "latent_name": f"{latent['subfolder']}/{latent['filename']}".removeprefix("oneshot_latents/")
        },
    }
    for node, prefix in (("9", "elsewhere/loaded"), ("20", "elsewhere/latent")):
        graph[node]["inputs"]["filename_prefix"] = prefix
    for node in [key for key in graph if ["4", 1] in graph[key]["inputs"].values()]:
        del graph[node]
    outputs = queue_as_the_page_does(private, graph, "quick_start")
    assert left(private) == []
    assert USER not in json.dumps(outputs)


def test_a_file_that_changed_runs_again_and_an_equal_one_does_not(
    private: Server, workflow: Workflow
) -> None:
    latents = private.base / "models" / "oneshot_latents"
    latents.mkdir(parents=True, exist_ok=True)
    graph: dict[str, Any] = {
        "1": workflow()["1"],
        "2": {
            "class_type": "OneShotRandomLatents",
            "inputs": {"generator": ["1", 0], "seeds": "0", "classes": ""},
        },
        "3": {
            "class_type": "OneShotSaveLatent",
            "inputs": {"latent": ["2", 0], "filename_prefix": "oneshot_latents/made"},
        },
    }
    contents = []
    for seeds in ("0", "1"):
        graph["2"]["inputs"]["seeds"] = seeds
        saved = private.run(graph)["3"]["latents"][0]
        contents.append((private.base / "output" / saved["subfolder"] / saved["filename"]).read_bytes())
    again = {
        "1": graph["1"],
        "2": {"class_type": "OneShotLoadLatent", "inputs": {"latent_name": "mine.safetensors"}},
        "3": {
            "class_type": "SampleAdapted",
            "inputs": workflow()["6"]["inputs"] | {"adapted": ["1", 0], "latent": ["2", 0], "seeds": "0"},
        },
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    again["3"]["inputs"].pop("source", None)
    ran = []
    for content in (contents[0], contents[0], contents[1]):
        (latents / "mine.safetensors").write_bytes(content)  # a new time of change each time
        entry = private.wait(private.queue(again))
        (cached,) = [
            data["nodes"] for kind, data in entry["status"]["messages"] if kind == "execution_cached"
        ]
        ran.append("2" not in cached)
    assert ran == [True, False, True]
