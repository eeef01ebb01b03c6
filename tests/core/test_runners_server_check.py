"""What a server is asked before a batch: each problem is one line, and nothing is uploaded or queued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_comfy import FakeComfy
from fuzzing import damaged, mutated_json

from oneshot_core import cli
from oneshot_core.runners.answers import AnswerError, Choice, choices
from oneshot_core.runners.comfy_client import ComfyClient
from oneshot_core.runners.plan import Plan, plan_from_values
from oneshot_core.runners.server_check import OLDEST, ServerCheck, check_server

ROOT = Path(__file__).parents[2]
HEAD = {"format": "oneshot-batch", "format_version": 1, "workflow": "w.json"}
WORKFLOW = {
    "1": {"class_type": "LoadStyleGAN", "inputs": {"generator_name": "demo"}},
    "2": {"class_type": "OneShotLoadEncoders", "inputs": {"clip": "demo"}},
    "3": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "4": {"class_type": "OneShotAdapt", "inputs": {"steps": 300, "seed": 9, "target": ["3", 0]}},
    "5": {"class_type": "OneShotSaveGenerator", "inputs": {"generator": ["4", 0], "filename_prefix": "x"}},
}


@pytest.fixture
def comfy():
    server = FakeComfy()
    yield server
    server.stop()


def make_plan(folder: Path, *jobs: dict[str, Any], **nodes: dict) -> Plan:
    (folder / "w.json").write_text(json.dumps({**WORKFLOW, **nodes}))
    (folder / "a.png").write_bytes(b"a")
    return plan_from_values({**HEAD, "jobs": list(jobs) or [{}]}, folder)


def check(comfy: FakeComfy, plan: Plan) -> ServerCheck:
    """Check, and insist on nothing but questions."""
    plan.check(on_server=True)
    found = check_server(plan, ComfyClient(comfy.url, timeout_seconds=5))
    assert (comfy.uploads, comfy.submitted) == ([], [])
    assert all(asked.startswith("GET ") for asked in comfy.asked)
    assert all(problem.isprintable() and 20 < len(problem) < 1000 for problem in found.problems)
    return found


def test_a_server_that_has_all_has_no_problem(comfy, tmp_path):
    found = check(comfy, make_plan(tmp_path, {"target": "a.png", "generator": "ffhq.pt"}, {"name": "own"}))
    assert found.problems == () and found.versions["comfyui"] == "0.33.0-fake" and found.waiting == 0
    assert set(found.node_types) == {node["class_type"] for node in WORKFLOW.values()}
    assert comfy.asked == [
        "GET /system_stats",
        *(f"GET /object_info/{name}" for name in found.node_types),
        "GET /queue",
    ]


def test_the_shipped_workflow_is_checked_as_it_would_be_sent(comfy, tmp_path):
    """A job with a picture needs LoadImage in place of the demo's, one without does not."""
    values = {**HEAD, "workflow": "demo", "jobs": [{"target": "demo:oil painting"}]}
    comfy.node_types["OneShotDemoTarget"] = {"input": {"required": {"look": [["none"], {}]}}}
    found = check(comfy, plan_from_values(values, tmp_path))
    assert found.problems == () and "OneShotDemoTarget" not in found.node_types
    (problem,) = check(comfy, plan_from_values({**values, "jobs": [{}]}, tmp_path)).problems
    assert "node 3 (OneShotDemoTarget): the server does not offer 'comic' as look, it offers none" in problem


def test_values_that_the_server_does_not_offer(comfy, tmp_path):
    jobs = [{"name": f"j{number}", "generator": "ffhq2.pt"} for number in range(7)]
    more = {"name": "last", "set": {"2.clip": "ViT-B-32", "3.image": "no.png", "6.method": "magic"}}
    edit = {"class_type": "StyleCLIPEdit", "inputs": {"method": "direction", "method.steps": 3}}
    found = check(comfy, make_plan(tmp_path, *jobs, more, **{"6": edit}))
    assert list(found.problems) == [
        "node 1 (LoadStyleGAN): the server does not offer 'ffhq2.pt' as generator_name, it offers ffhq.pt, "
        "church.pt, demo; used by j0, j1, j2, j3, j4 and 2 more",
        "node 2 (OneShotLoadEncoders): the server does not offer 'ViT-B-32' as clip, it offers "
        "ViT-B-32:openai, demo; used by last",
        "node 3 (LoadImage): the server does not offer 'no.png' as image, it offers example.png; "
        "used by last",
        "node 6 (StyleCLIPEdit): the server does not offer 'magic' as method, it offers direction; "
        "used by last",
    ]


def test_pictures_that_a_list_does_not_show(comfy, tmp_path):
    """Those in subfolders, those of other folders, and the one that would be uploaded."""
    for job in (
        {"set": {"3.image": "sub/a.png"}},
        {"set": {"3.image": "a.png [output]"}},
        {"target": "a.png"},
    ):
        assert check(comfy, make_plan(tmp_path, job)).problems == ()


def test_node_types_that_are_missing_are_one_line(comfy, tmp_path):
    for name in ("LoadStyleGAN", "OneShotAdapt"):
        del comfy.node_types[name]
    (problem,) = check(comfy, make_plan(tmp_path)).problems
    assert problem.startswith("it has no node type LoadStyleGAN, OneShotAdapt; install the pack")


def test_a_version_that_is_too_old(comfy, tmp_path):
    for version, count in (("0.3.64", 1), ("v0.7.9", 1), ("0.8.0", 0), ("1.0", 0), ("unknown", 0)):
        comfy.stats["system"]["comfyui_version"] = version
        problems = check(comfy, make_plan(tmp_path)).problems
        assert len(problems) == count and all(
            f"it is ComfyUI {version}; the nodes need 0.8" in p for p in problems
        )
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'requires-comfyui = ">={OLDEST[0]}.{OLDEST[1]}.' in project


def test_a_server_that_is_not_there_or_something_else(comfy, tmp_path):
    plan = make_plan(tmp_path)
    comfy.stats = {"hello": 1}
    (problem,) = check(comfy, plan).problems
    assert problem.startswith(f"{comfy.url} is no ComfyUI: the server's answer about itself is not ComfyUI's")
    other = check_server(plan, ComfyClient(f"{comfy.url}/elsewhere"))
    assert "is no ComfyUI: " in other.problems[0] and "404" in other.problems[0]
    comfy.stop()
    (problem,) = check(comfy, plan).problems
    assert problem.startswith(f"{comfy.url} does not answer: ")
    comfy.start()


def test_answers_that_are_none_are_a_line_each(comfy, tmp_path, monkeypatch):
    plan = make_plan(tmp_path)
    comfy.node_types["LoadStyleGAN"] = {"input": []}
    comfy.node_types["OneShotAdapt"] = {"input": {"required": 3}}
    client = ComfyClient(comfy.url)
    monkeypatch.setattr(client, "queued", lambda: (_ for _ in ()).throw(AnswerError("its queue is a list")))
    found = check_server(plan, client)
    assert found.waiting is None and [problem.partition(": ")[0] for problem in found.problems] == [
        "it gives no proper answer about the node type LoadStyleGAN",
        "it gives no proper answer about the node type OneShotAdapt",
        "it gives no proper answer about its queue",
    ]


SPECS = {
    "X": {
        "input": {
            "required": {
                "a": [["p", "q"], {}],
                "b": ["COMBO", {"options": [1, 2]}],
                "n": ["INT", {"min": 0}],
            },
            "optional": {"c": ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "k"}]}], "r": ["COMBO", {}]},
        }
    }
}


def test_lists_are_read_in_every_form():
    found = choices(json.dumps(SPECS).encode(), "X")
    assert found == {"a": Choice(("p", "q")), "b": Choice((1, 2)), "c": Choice(("k",))}
    assert choices(b"{}", "X") is None


def test_damaged_node_types_end_in_an_answer_error():
    sound = json.dumps(SPECS).encode()
    texts = [damaged(sound, seed) for seed in range(300)]
    texts += [json.dumps(mutated_json(SPECS, seed)).encode() for seed in range(300)]
    refused = 0
    for text in texts:
        try:
            for choice in (choices(text, "X") or {}).values():
                choice.allows("p")
        except AnswerError:
            refused += 1
    assert refused > len(texts) / 10


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in ("batch", *words)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_command_says_a_line_per_problem(capsys, comfy, tmp_path):
    make_plan(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({**HEAD, "jobs": [{"target": "a.png"}]}))
    words = (tmp_path / "plan.json", "--server", comfy.url, "--check", "--out", tmp_path / "out")
    code, told, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert (
        f"{comfy.url} is ComfyUI 0.33.0-fake and has all 5 node types and the chosen values; 0 prompts"
        in told
    )
    del comfy.node_types["OneShotAdapt"]
    comfy.node_types["LoadStyleGAN"] = {"input": {"required": {"generator_name": [[], {}]}}}
    code, _, err = run(capsys, *words)
    assert code == 1 and err.splitlines() == [
        "problem: it has no node type OneShotAdapt; install the pack that brings it on the server, or see in "
        "the server's log why that did not load",
        "problem: node 1 (LoadStyleGAN): the server does not offer 'demo' as generator_name, it offers "
        "nothing; used by a",
        f"failed: 2 problems with {comfy.url}; nothing was sent to it",
    ]
    code, told, _ = run(capsys, *words, "--json")
    assert code == 1 and len(json.loads(told)["server"]["problems"]) == 2
    comfy.stop()
    code, _, err = run(capsys, *words)
    assert code == 1 and "does not answer" in err and len(err.splitlines()) == 2
    comfy.start()
    assert not (tmp_path / "out").exists() and (comfy.uploads, comfy.submitted) == ([], [])
