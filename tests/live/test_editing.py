"""Editing on a real server: directions, walks, mappers, photos there and back; cancel, refusals, files."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfy_server import PACK, PromptRefused, Server, failure
from PIL import Image

Graph = dict[str, Any]
POINTS = {"method.left_eye": "300, 228", "method.right_eye": "361, 233", "method.mouth": "326, 284"}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": {name.replace("__", "."): value for name, value in inputs.items()}}


def start() -> Graph:
    """The demo's generator and encoders, and three people."""
    demo = {"clip": "demo", "perceptual": "demo", "download": False, "clip_file": "automatic"}
    return {
        "1": node("LoadStyleGAN", generator_name="demo"),
        "2": node("OneShotLoadEncoders", **demo, perceptual_file="automatic", more_clips=""),
        "6": node("OneShotRandomLatents", generator=["1", 0], seeds="2,9", seed_draw="own", classes=""),
    }


def direction(**changes: Any) -> dict[str, Any]:
    inputs = {
        "generator": ["1", 0], "encoders": ["2", 0], "text": "a person with long hair",
        "neutral_text": "a person with short hair", "method": "gradient", "method.channels": 20,
        "method.samples": 8, "method.seed": 0, "threshold": 0.0, "layers": "",
    }  # fmt: skip
    return {"class_type": "OneShotTextDirection", "inputs": {**inputs, **changes}}


def shown(graph: Graph, *link: Any) -> Graph:
    return {**graph, "99": node("PreviewImage", images=list(link))}


def pictures(server: Server, base: Path, graph: Graph, *link: Any) -> list[np.ndarray]:
    found = server.run(shown(graph, *link))["99"]["images"]
    return [np.asarray(Image.open(base / "temp" / one["filename"])).astype(int) for one in found]


def samples(latent: list[Any], **more: Any) -> dict[str, Any]:
    rest = {
        "seeds": "0", "psi": 0.7, "cutoff": -1, "seed_draw": "own", "noise": "const", "noise_seed": 0,
        "mix_seeds": "", "mix_from": 0, "mix_to": -1, "replace_from": -1, "classes": "", "batch_size": 8,
    }  # fmt: skip
    return node("SampleAdapted", adapted=["1", 0], latent=latent, **{**rest, **more})


def test_a_direction_is_found_applied_saved_loaded_and_shown(server: Server, base: Path) -> None:
    graph = start() | {"7": direction()}
    graph["8"] = node("OneShotSaveDirection", direction=["7", 0], filename_prefix="oneshot_directions/hair")
    graph["10"] = node("OneShotApplyDirection", latent=["6", 0], direction=["7", 0], strength=8.0, layers="")
    graph["11"] = samples(["10", 0])
    outputs = server.run(shown(graph, "11", 0))
    (info,) = outputs["7"]["text"]
    assert "20 channels" in info
    (saved,) = outputs["8"]["directions"]
    edited = [np.asarray(Image.open(base / "temp" / one["filename"])) for one in outputs["99"]["images"]]
    plain = pictures(server, base, start() | {"11": samples(["6", 0])}, "11", 0)
    assert max(int(abs(a - b).max()) for a, b in zip(edited, plain, strict=True)) > 8
    graph = start() | {"7": node("OneShotLoadDirection", direction_name=saved["filename"])}
    graph["10"] = node("OneShotApplyDirection", latent=["6", 0], direction=["7", 0], strength=8.0, layers="")
    again = pictures(server, base, graph | {"11": samples(["10", 0])}, "11", 0)
    assert all((a == b).all() for a, b in zip(edited, again, strict=True))
    graph["12"] = node(
        "OneShotEditGrid", adapted=["1", 0], latent=["6", 0], direction=["7", 0], strengths="0, 8", psi=0.7
    )
    grid = server.run(graph)["12"]["images"]
    assert len(grid) == 1
    columns = pictures(server, base, graph, "12", 1)
    assert [(a == b).all() for a, b in zip(columns, plain + edited, strict=True)] == [True] * 4


def _values(events: list[dict[str, Any]]) -> list[float]:
    """Progress of the node "7" in events."""
    told = [event["data"]["nodes"].get("7", {}) for event in events if event["type"] == "progress_state"]
    return [float(node["value"]) for node in told if node.get("max") == 1000 and node["value"]]


def test_a_cancelled_direction_goes_on_where_it_was(server: Server) -> None:
    graph = start() | {"7": direction(text="a person wearing a red shirt", **{"method.samples": 4096})}
    graph = shown(graph | {"10": samples(["6", 0])}, "10", 0)
    graph["8"] = node("OneShotSaveDirection", direction=["7", 0], filename_prefix="oneshot_directions/red")
    prompt = server.queue(graph)
    before = _values(server.watch(lambda event: max(_values([event]), default=0) >= 500, 60))
    server.post("/interrupt", {})
    assert failure(server.wait(prompt, 30)) == "interrupted"
    prompt = server.queue(graph)
    (first, *_) = _values(server.watch(lambda event: bool(_values([event])), 60))
    assert first > before[-1] >= 500 > before[0]
    server.wait(prompt, 60)


def test_components_and_differences_need_no_text(server: Server, base: Path) -> None:
    graph = start()
    plain = pictures(server, base, graph | {"11": samples(["6", 0])}, "11", 0)
    sefa = {"method": "sefa"}
    ganspace = {"method": "ganspace", "method.codes": 1000, "method.seed": 0}
    for method in (sefa, ganspace):
        graph["7"] = node(
            "OneShotComponentDirection", generator=["1", 0], component=1, layers="0-5", **method
        )
        graph["10"] = node(
            "OneShotApplyDirection", latent=["6", 0], direction=["7", 0], strength=3.0, layers=""
        )
        moved = pictures(server, base, graph | {"11": samples(["10", 0])}, "11", 0)
        assert max(int(abs(a - b).max()) for a, b in zip(moved, plain, strict=True)) > 8
    graph["8"] = node(
        "OneShotLatentDirection", generator=["1", 0], latent_with=["10", 0], latent_without=["6", 0], name="x"
    )
    graph["9"] = node("OneShotApplyDirection", latent=["6", 0], direction=["8", 0], strength=1.0, layers="")
    # The difference of the means is the one vector that was added.
    again = pictures(server, base, graph | {"11": samples(["9", 0])}, "11", 0)
    assert max(int(abs(a - b).max()) for a, b in zip(moved, again, strict=True)) <= 1


def test_walks_and_mixtures(server: Server, base: Path) -> None:
    graph = start() | {"7": direction()}
    graph["10"] = node("OneShotApplyDirection", latent=["6", 0], direction=["7", 0], strength=8.0, layers="")
    walk = {"generator": ["1", 0], "latent": ["6", 0], "latent_2": ["10", 0], "frames": 3, "loop": True}
    graph["12"] = node("OneShotInterpolateLatents", **walk, psi=0.7, space="w")
    frames = pictures(server, base, graph | {"11": samples(["12", 0], psi=1.0)}, "11", 0)
    ends = pictures(server, base, graph | {"11": samples(["10", 0])}, "11", 0)
    assert len(frames) == 12
    assert [int(abs(frames[place] - end).max()) <= 1 for place, end in zip((6, 9), ends, strict=True)]
    graph["13"] = node(
        "OneShotStyleMix",
        generator=["1", 0],
        rows=["6", 0],
        columns=["10", 0],
        mix_from=4,
        mix_to=-1,
        psi=0.7,
    )
    assert len(pictures(server, base, graph, "13", 1)) == 4


def test_nvidia_seeds_are_other_people(server: Server, base: Path) -> None:
    graph = start()
    graph["6"]["inputs"]["seed_draw"] = "nvidia"
    first = pictures(server, base, graph | {"11": samples(["6", 0])}, "11", 0)
    graph["11"] = samples(["6", 0], seeds="2,9", seed_draw="nvidia")
    graph["11"]["inputs"].pop("latent")
    assert all((a == b).all() for a, b in zip(first, pictures(server, base, graph, "11", 0), strict=True))
    graph["11"]["inputs"]["seed_draw"] = "own"
    assert int(abs(first[0] - pictures(server, base, graph, "11", 0)[0]).max()) > 8


def photo(**method: Any) -> Graph:
    """The demo's photo, its middle face, inverted in a few steps."""
    graph = start() | {"5": node("OneShotDemoTarget", look="photo of three people")}
    align = {"method": "three points", **POINTS}
    graph["7"] = node("OneShotAlignFace", image=["5", 0], margin=1.4, size=128, **align)
    given = {"method": "ii2s", "method.steps": 5, "method.prior": 0.001, "method.seed": 0} | method
    graph["8"] = node(
        "OneShotInvertImage",
        generator=["1", 0],
        encoders=["2", 0],
        image=["7", 0],
        alignment=["7", 1],
        **given,
    )
    return graph


def test_a_photo_goes_there_and_back(server: Server, base: Path) -> None:
    graph = photo()
    graph["9"] = node("OneShotPasteBack", photo=["5", 0], image=["8", 1], alignment=["7", 1], feather=0.1)
    outputs = server.run(shown(graph, "9", 0))
    (losses,) = outputs["8"]["losses"]
    assert {"perceptual", "prior"} <= set(losses)
    (whole,) = (
        np.asarray(Image.open(base / "temp" / one["filename"])).astype(int) for one in outputs["99"]["images"]
    )
    (before,) = pictures(server, base, graph, "5", 0)
    changed = abs(whole - before).max(axis=2) > 1
    assert changed[230, 330] and not changed[:, :120].any() and not changed[:, 600:].any()
    graph["9"]["inputs"]["image"] = ["7", 0]  # what was cut out, unchanged
    (back,) = pictures(server, base, graph, "9", 0)
    assert abs(back - before).mean() < 2
    frames = graph | {"20": node("ImageBatch", image1=["5", 0], image2=["5", 0])}
    frames["7"]["inputs"]["image"] = ["20", 0]
    frames["9"]["inputs"]["photo"] = ["20", 0]
    assert len(pictures(server, base, frames, "9", 0)) == 2


@pytest.mark.parametrize("method", ["projector (nvidia)", "projector (rosinality)"])
def test_projectors_invert(server: Server, base: Path, method: str) -> None:
    inner = {"method.space": "w+", "method.learning_rate": 0.1, "method.steps": 3}
    graph = photo(method=method, **inner)
    graph["8"]["inputs"].pop("method.prior")
    assert len(pictures(server, base, graph, "8", 1)) == 1


def _is_beyond(step: int, event: dict[str, Any]) -> bool:
    return event["type"] == "oneshot.loss" and event["data"]["step"] > step


def test_a_cancelled_inversion_goes_on_where_it_was(server: Server) -> None:
    graph, reached = shown(photo(**{"method.steps": 5000}), "8", 1), 0
    for _ in range(2):
        prompt = server.queue(graph)
        events = server.watch(partial(_is_beyond, reached + 3), 60)
        steps = [event["data"]["step"] for event in events if event["type"] == "oneshot.loss"]
        assert steps and min(steps) > reached
        asked = time.monotonic()
        server.post("/interrupt", {})
        assert failure(server.wait(prompt, 30)) == "interrupted" and time.monotonic() - asked < 10
        reached = max(steps)


def test_a_mapper_is_trained_kept_and_used(server: Server, base: Path) -> None:
    texts = {"text": "a person with long hair", "neutral_text": "a person"}
    graph = start()
    graph["7"] = node(
        "OneShotTrainMapper", generator=["1", 0], encoders=["2", 0], **texts, steps=3, groups="all", seed=0,
        filename_prefix="oneshot_mappers/hair", learning_rate=0.5, l2_weight=0.8,
    )  # fmt: skip
    edit = {"method": "latent mapper", "method.mapper_name": "none", "method.mapper_strength": 20.0}
    graph["8"] = node(
        "StyleCLIPEdit",
        generator=["1", 0],
        encoders=["2", 0],
        latent=["6", 0],
        mapper=["7", 0],
        **texts,
        **edit,
    )
    first = pictures(server, base, graph, "8", 1)
    outputs = server.run(graph | {"10": node("PreviewImage", images=["8", 2])})
    name = outputs["7"]["mappers"][0]["filename"]
    before = pictures(server, base, graph, "8", 2)
    assert max(int(abs(a - b).max()) for a, b in zip(first, before, strict=True)) > 8
    del graph["7"], graph["8"]["inputs"]["mapper"]
    graph["8"]["inputs"]["method.mapper_name"] = name
    assert all((a == b).all() for a, b in zip(first, pictures(server, base, graph, "8", 1), strict=True))


def test_text_edit_by_direction_and_in_style_space(server: Server, base: Path) -> None:
    texts = {"text": "a person with long hair", "neutral_text": "a person with short hair"}
    edit = {"generator": ["1", 0], "encoders": ["2", 0], "latent": ["6", 0], **texts}
    direct = {"method": "text direction", "method.strength": 8.0, "method.channels": 20, "method.seed": 0}
    rest = {
        "method.views": 0,
        "method.seed": 0,
        "method.identity_weight": 0.0,
        "method.identity_file": "none",
    }
    styles = {
        "method": "latent optimisation", "method.steps": 4, "method.learning_rate": 0.3,
        "method.l2_weight": 0.001, "method.space": "style", **rest,
    }  # fmt: skip
    for method in (direct, styles):
        graph = start() | {"8": node("StyleCLIPEdit", **edit, **method)}
        drawn = pictures(server, base, graph | {"11": samples(["8", 0])}, "11", 0)
        edited, before = (pictures(server, base, graph, "8", place) for place in (1, 2))
        assert max(int(abs(a - b).max()) for a, b in zip(edited, before, strict=True)) > 8
        if method is styles:  # the codes are w+ then, so that psi does not touch them
            assert all(int(abs(a - b).max()) <= 1 for a, b in zip(drawn, edited, strict=True))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no neutral text": (direction(neutral_text=" "), "neutral_text is empty"),
    "an unknown word": (direction(text="a person with a spaceship"), "does not know 'spaceship'"),
    "odd layers": (direction(layers="a-b"), "cannot read"),
    "odd points": (
        node("OneShotAlignFace", image=["5", 0], margin=1.0, size=128, **{"method": "three points", **POINTS,
             "method.mouth": "here"}), "a point is two numbers",
    ),
    "a place elsewhere": (
        node("OneShotSaveDirection", direction=["7", 0], filename_prefix="../x"), "leads out of the output",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_when_it_is_queued(server: Server, case: str) -> None:
    wrong, told = REFUSED[case]
    graph = start() | {"5": node("OneShotDemoTarget", look="photo of three people"), "7": direction()}
    graph["50"] = wrong
    if wrong["class_type"] == "OneShotTextDirection":
        graph["51"] = node(
            "OneShotSaveDirection", direction=["50", 0], filename_prefix="oneshot_directions/x"
        )
    elif wrong["class_type"] == "OneShotAlignFace":
        graph = shown(graph, "50", 0)
    with pytest.raises(PromptRefused, match=told):
        server.queue(graph)


def test_one_mistake_at_run_time_is_told(server: Server) -> None:
    graph = photo()
    graph["7"]["inputs"] |= {"method": "landmarks", "method.face": 0, "method.smooth": 2.0}
    for name in POINTS:
        del graph["7"]["inputs"][name]
    assert "landmarks is not connected" in failure(server.wait(server.queue(shown(graph, "7", 0))))


def test_the_templates_run_small(server: Server, base: Path) -> None:
    for name, changes in {
        "text_directions": {"7": {"method.samples": 8}, "11": {"frames": 2}},
        "photo_round_trip": {"8": {"method.steps": 5}, "9": {"method.samples": 8}},
    }.items():
        graph = json.loads((PACK / "tests" / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
        graph["4"]["inputs"]["steps"], graph["5"]["inputs"]["steps"] = 2, 2
        for key, values in changes.items():
            graph[key]["inputs"] |= values
        outputs = server.run(graph)
        assert all(
            outputs[key]["images"] for key, one in graph.items() if one["class_type"] == "PreviewImage"
        )
