"""The client of ComfyUI's interface, against a stand-in server: routes, errors, events, the plain example."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from fake_comfy import FakeComfy, prompt_of

from oneshot_core.runners.answers import Event, Outcome, SavedFile, outcome
from oneshot_core.runners.comfy_client import ComfyClient, PromptRefused
from oneshot_core.runners.transfer import ComfyError, ServerUnreachable

PLAIN_CLIENT = Path(__file__).parent.parent / "workflows" / "plain_client.py"
SAVING = {"5": {"class_type": "OneShotSaveGenerator", "inputs": {"filename_prefix": "sub/x"}}}


@pytest.fixture
def comfy():
    server = FakeComfy()
    yield server
    server.stop()


@pytest.fixture
def client(comfy) -> ComfyClient:
    return ComfyClient(comfy.url, timeout_seconds=5)


def finished(client: ComfyClient, prompt_id: str) -> Outcome:
    for _ in range(500):
        if (record := client.history(prompt_id)) is not None:
            return record
        time.sleep(0.01)
    raise AssertionError("the prompt did not end")


def test_queue_history_and_download(comfy, client, tmp_path):
    prompt_id = str(uuid.uuid4())
    assert client.versions() == {"comfyui": "0.33.0-fake", "torch": "2.9.0+cpu", "python": "3.12.3"}
    assert client.history(prompt_id) is None
    assert client.submit(SAVING, prompt_id) == []
    assert comfy.submitted[0]["client_id"] == client.client_id
    assert str(uuid.UUID(client.client_id)) == client.client_id
    record = finished(client, prompt_id)
    files = record.files
    assert files == (SavedFile("5", "generators", "x_00001_.safetensors", "sub"),)
    assert record.error is None
    facts = client.download(files[0], tmp_path / "new" / "x.safetensors")
    content = (tmp_path / "new" / "x.safetensors").read_bytes()
    assert prompt_of(tmp_path / "new" / "x.safetensors") == SAVING
    assert facts["bytes"] == len(content)
    with pytest.raises(ComfyError, match="HTTP 404"):
        client.download(SavedFile("5", "images", "gone.png"), tmp_path / "gone.png")
    comfy.cut_downloads = 1
    with pytest.raises(ServerUnreachable, match="5 of|broke"):
        client.download(files[0], tmp_path / "cut.safetensors")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["x.safetensors"]


def test_the_queue_and_cancelling(comfy, client):
    comfy.automatic = False
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for prompt_id in ids:
        client.submit(SAVING, prompt_id)
    comfy.begin_next()
    assert client.queued() == {ids[0]: True, ids[1]: False, ids[2]: False}
    client.cancel(ids[:2])
    assert client.queued() == {ids[2]: False}


def test_upload_names_a_picture_by_its_content(comfy, client, tmp_path):
    path = tmp_path / 'käse "1".PNG'
    path.write_bytes(b"\r\n--picture\r\n")
    name = client.upload_image(path)
    assert comfy.uploads == [(name, b"\r\n--picture\r\n")]
    assert name.startswith("oneshot/k_se__1_-") and name.endswith(".png")
    assert client.upload_image(path) == name


def test_a_refused_prompt_names_node_input_and_reason(client):
    prompt = {"1": {"class_type": "LoadStyleGAN", "inputs": {"generator_name": "missing.pt"}}}
    with pytest.raises(PromptRefused, match=r"node 1 \(LoadStyleGAN\): Value not in list: generator_name"):
        client.submit(prompt, str(uuid.uuid4()))


def test_a_server_that_is_not_there_or_is_something_else(comfy, client):
    with pytest.raises(ComfyError, match="HTTP 404"):
        ComfyClient(f"{comfy.url}/proxy/").versions()
    comfy.stop()
    with pytest.raises(ServerUnreachable, match="does not answer"):
        client.versions()
    comfy.start()


@pytest.mark.parametrize("server", ["ftp://x", "http://", "http://x?y=1", ""])
def test_addresses_that_are_none(server):
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        ComfyClient(server)


def test_addresses_are_completed():
    assert ComfyClient("host:8188").server == "http://host:8188"
    assert ComfyClient("https://host/comfy/").server == "https://host/comfy"


def test_reasons_of_a_failure():
    def record(name: str) -> dict:
        values = {"node_id": "4", "node_type": "X", "exception_type": "E", "exception_message": "m\n"}
        return {"status": {"status_str": "error", "messages": [["execution_start", {}], [name, values]]}}

    def told(values: dict) -> Outcome:
        found = outcome(json.dumps({"id": values}).encode(), "id")
        assert found is not None
        return found

    assert told(record("execution_error")) == Outcome((), "node 4 (X): E: m")
    assert told(record("execution_interrupted")) == Outcome((), "interrupted in node 4 (X)", True)
    assert "does not say" in (told({}).error or "")


def test_events_arrive_and_a_cut_is_noticed(comfy, client):
    pytest.importorskip("aiohttp")
    with client.events() as events:
        assert events.live and not events.was_cut()
        comfy.tell("progress", prompt_id="p", node="4", value=1, max=2)
        assert events.next(2.0) == Event("progress", "p", ("4",), 1, 2)
        assert events.next(0.0) is None
        comfy.stop()
        assert wait_for(lambda: not events.live)
        assert events.was_cut() and not events.was_cut()
        comfy.start()
        assert wait_for(lambda: events.live)
    assert wait_for(lambda: not events.live)


def wait_for(condition, seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def test_without_aiohttp_there_are_no_events_and_one_line_says_so(client, monkeypatch, caplog):
    real = builtins.__import__

    def importing(name: str, *more: object):
        if name == "aiohttp":
            raise ImportError
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", importing)
    with client.events() as events:
        assert not events.live
        assert events.next(0.01) is None
    assert caplog.text.count("aiohttp is missing") == 1


@pytest.mark.slow
def test_the_plain_client_fetches_what_was_saved(comfy, tmp_path):
    def run(workflow: dict) -> subprocess.CompletedProcess:
        (tmp_path / "w.json").write_text(json.dumps(workflow))
        words = [sys.executable, PLAIN_CLIENT, f"{comfy.url}/", tmp_path / "w.json", tmp_path / "out"]
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)

    comfy.automatic = True
    told = run(SAVING)
    assert (told.returncode, told.stderr) == (0, "")
    assert prompt_of(tmp_path / "out" / "x_00001_.safetensors") == SAVING
    told = run({"1": {"class_type": "Fail", "inputs": {}}})
    assert told.returncode == 1 and "too bad" in told.stderr
    told = run({"1": {"class_type": "LoadStyleGAN", "inputs": {"generator_name": "missing.pt"}}})
    assert told.returncode == 1 and "Value not in list" in told.stderr
    assert len(PLAIN_CLIENT.read_text().splitlines()) <= 40  # as the README says


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "write: plain_client.py http://127.0.0.1:8188 WORKFLOW.json FOLDER"),
        (["http://127.0.0.1:1"], "write: plain_client.py"),
        (["http://127.0.0.1:1", "w.json", "out"], "cannot run w.json on http://127.0.0.1:1: "),
        (["http://127.0.0.1:1", "no.json", "out"], "No such file"),
        (["http://127.0.0.1:1", "text.json", "out"], "Expecting value"),
        (["nonsense", "w.json", "out"], "unknown url type"),
    ],
)
def test_the_plain_client_says_in_one_line_what_it_lacks(tmp_path, words, message):
    (tmp_path / "w.json").write_text(json.dumps(SAVING))
    (tmp_path / "text.json").write_text("text")
    told = subprocess.run(
        [sys.executable, PLAIN_CLIENT, *words],
        capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1)
    assert message in told.stderr and not (tmp_path / "out").exists()
