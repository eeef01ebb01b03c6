"""One recipe, three ways: a real graph, the command line and a batch plan make one generator, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_server import PACK, Server, comfy_python, equal, saved_weights
from conftest import DEMO
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

Workflow = Callable[..., dict[str, Any]]
SETTINGS = {  # as the nodes below have them
    "search": {"steps": 3, "learning_rate": 0.05, "seed": 5, "weights": {"deviation": 3.0}},
    "method": {
        "learning_rate": 0.008,
        "schedule": {"reference": 1, "random": 1},
        "weights": {"patch": 0.5, "adversarial": 4.0},
        "discriminator_rate": 0.01,
        "mixing": 0.5,
        "trained_parts": "constant,affine,convolution,rgb",
    },
    "training": {"steps": 4, "seed": 7, "snapshot_every": 2},
}


def command(comfy: Path, *words: object) -> None:
    """Run the command line with ComfyUI's own Python, whose torch the server computes with."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    run = [comfy_python(comfy), "-m", "oneshot_core", *map(str, words), "--device", "cpu", "--quiet"]
    subprocess.run(run, cwd=PACK, env=environment, check=True, timeout=600)


MOVED = {"fit": "crop", "zoom": 1.7, "offset_x": -0.4, "offset_y": 1.0}


@pytest.mark.parametrize("frame", [{"fit": "crop"}, {"fit": "letterbox"}, MOVED], ids=str)
def test_graph_command_and_plan_give_one_generator(
    server: Server, comfy: Path, base: Path, workflow: Workflow, tmp_path: Path, frame: dict[str, Any]
) -> None:
    """Target and mask are files of odd sizes, framed by each of the three."""
    fit = frame["fit"]
    target, mask = base / "input" / "recipe_target.png", base / "input" / "recipe_mask.png"
    Image.effect_mandelbrot((150, 110), (-2, -1.2, 1, 1.2), 90).convert("RGB").save(target)
    # In colour: ComfyUI 0.33 reads greyscale files through video code, up to one level of 255 too dark.
    Image.linear_gradient("L").resize((150, 110)).convert("RGB").save(mask)
    graph = workflow(
        drop=("6", "7", "8"),
        LoadStyleGAN=DEMO,
        CLIPLatentSearch={"seed": 5, "fit": fit},
        OneShotAdapt={
            "seed": 7, "fit": fit, "patch_weight": 0.5, "mixing": 0.5,
            "trained_parts": "constant,affine,convolution,rgb",
        },
    )  # fmt: skip
    graph["3"] = {"class_type": "LoadImage", "inputs": {"image": target.name}}
    graph["31"] = {"class_type": "LoadImageMask", "inputs": {"image": mask.name, "channel": "red"}}
    for key in ("4", "5"):
        graph[key]["inputs"]["mask"] = ["31", 0]
    if "zoom" in frame:  # by a node before both, which then get what is square already
        inputs = {"generator": ["1", 0], "image": ["3", 0], "mask": ["31", 0], **frame}
        graph["32"] = {"class_type": "OneShotFrameTarget", "inputs": inputs}
        for key in ("4", "5"):
            graph[key]["inputs"] |= {"target": ["32", 0], "mask": ["32", 1]}
    outputs = server.run(graph)
    assert [line.split(":")[0] for line in outputs["4"]["text"] if line.startswith("counter")] == [
        "counterpart"
    ]
    if "zoom" in frame:
        (told,) = outputs["32"]["frame"]
        assert (told["width"], told["height"], told["left"], told["top"], told["side"]) == (
            150,
            110,
            25,
            45,
            65,
        )
        assert len(outputs["32"]["given"]) == 1
    canvas = saved_weights(base, outputs)

    recipe = {"generator": "demo", "aim": {"target": str(target), "mask": str(mask), **frame}, **SETTINGS}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    command(comfy, "adapt", "--recipe", tmp_path / "recipe.json", "--out", tmp_path / "command")
    job = {"name": "x", "target": str(target), "generator": "demo"}
    job |= {"recipe": {"aim": {"mask": str(mask), **frame}, **SETTINGS}}
    (tmp_path / "plan.json").write_text(
        json.dumps({"format": "oneshot-batch", "format_version": 1, "jobs": [job]})
    )
    command(comfy, "batch", tmp_path / "plan.json", "--out", tmp_path / "batch")
    for made in (tmp_path / "command", tmp_path / "batch" / "x"):
        assert equal(load_file(made / "adapted.safetensors"), canvas)
    if frame == {"fit": "crop"}:
        again_from_its_header(comfy, base, outputs, [target, mask], tmp_path / "again")


def again_from_its_header(
    comfy: Path, base: Path, outputs: dict[str, Any], pictures: list[Path], out: Path
) -> None:
    """The canvas's file tells how to make it again; the pictures came over wires and are given."""
    (saved,) = outputs["9"]["generators"]
    path = base / "output" / saved["subfolder"] / saved["filename"]
    with safe_open(path, framework="pt") as file:
        assert str(base) not in json.dumps(file.metadata())
    target, mask = pictures
    words = ["adapt", "--recipe", path, "--generator", "demo", "--target", target, "--mask", mask]
    command(comfy, *words, "--out", out)
    assert equal(load_file(out / "adapted.safetensors"), load_file(path))
