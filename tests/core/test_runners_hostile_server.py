"""A server that answers anything at all: the job it is about fails with one line, the others go on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_comfy import FakeComfy, _Handler, generator_file, png_file
from fuzzing import damaged, mutated_json
from manifests import manifest_of

from oneshot_core.runners import comfy as comfy_runner
from oneshot_core.runners import transfer
from oneshot_core.runners.answers import (
    AnswerError,
    event,
    objections,
    outcome,
    queued,
    refusal,
    uploaded,
    versions,
)
from oneshot_core.runners.comfy import ServerRun
from oneshot_core.runners.comfy_client import ComfyClient
from oneshot_core.runners.downloads import DownloadError, keep
from oneshot_core.runners.manifest import Manifest
from oneshot_core.runners.plan import plan_from_values
from oneshot_core.runners.sharing import BatchWatcher
from oneshot_core.runners.transfer import ComfyError, ServerUnreachable, Transfer

WORKFLOW = {
    "1": {"class_type": "LoadStyleGAN", "inputs": {"generator_name": "demo"}},
    "5": {"class_type": "OneShotSaveGenerator", "inputs": {"filename_prefix": "x"}},
}
Answer = Callable[[Any], None]  # what a handler does with a request


class Hostile(FakeComfy):
    """Answers what concerns the job "bad" by `wicked` where the route is the one that is attacked."""

    def __init__(self) -> None:
        self.wicked: dict[str, Answer] = {}
        super().__init__()

    def start(self) -> None:
        super().start()
        self.http.RequestHandlerClass = type("Handler", (_HostileHandler,), {"comfy": self})

    def is_bad(self, prompt_id: str) -> bool:
        prompts = [body for body in self.submitted if body["prompt_id"] == prompt_id]
        return any(body["prompt"]["5"]["inputs"]["filename_prefix"] == "bad" for body in prompts)


class _HostileHandler(_Handler):
    def do_GET(self) -> None:  # noqa: N802 - the name that the library calls
        route = self.path.split("?")[0].split("/")[1]
        about = self.path.split("/")[-1]
        bad = "bad_00001_" in self.path if route == "view" else self.comfy.is_bad(about)
        if route in self.comfy.wicked and (bad or route in ("queue", "ws", "system_stats")):
            self.close_connection = True
            self.comfy.wicked[route](self)
        else:
            super().do_GET()


@pytest.fixture
def comfy():
    server = Hostile()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(comfy_runner, "RETRY_SECONDS", 0.01)


def run(comfy: Hostile, folder: Path, seconds: float = 5.0) -> tuple[dict[str, str], dict[str, Any]]:
    """A plan of three jobs, of which the second is the bad one; statuses, and its part of the manifest."""
    folder.mkdir(exist_ok=True)
    (folder / "w.json").write_text(json.dumps(WORKFLOW))
    jobs = [{"name": name} for name in ("first", "bad", "last")]
    values = {"format": "oneshot-batch", "format_version": 1, "workflow": "w.json", "jobs": jobs}
    plan = plan_from_values(values, folder)
    client = ComfyClient(comfy.url, timeout_seconds=seconds)
    manifest = Manifest(folder / "out", plan.name)
    statuses = ServerRun(plan, client, manifest, BatchWatcher(), 3.0, poll_seconds=0.02).run()
    return statuses, manifest_of(folder / "out")["bad"]


def sends(body: bytes, code: int = 200, **headers: str) -> Answer:
    def answer(handler: Any) -> None:
        handler.send_response(code)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drips(handler: Any) -> None:
    """A byte now and then, each long before a socket's time is over."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.05)
    except OSError:
        return


def drips_its_head(handler: Any) -> None:
    try:
        for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        return


def never_ends(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 65536)
    except OSError:
        return


def chunks_of_nonsense(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n")


HISTORIES: dict[str, Any] = {
    "a list": [],
    "a number": 3,
    "text": "x",
    "null": None,
    "a record that is a list": {"ID": []},
    "a status that is a text": {"ID": {"status": "success"}},
    "messages that are a number": {"ID": {"status": {"status_str": "error", "messages": 3}}},
    "outputs that are a list": {"ID": {"status": {"status_str": "success"}, "outputs": [1]}},
    "an output that is a text": {"ID": {"status": {"status_str": "success"}, "outputs": {"9": "x"}}},
}


def a_file(**changes: Any) -> dict[str, Any]:
    item = {"filename": "x.png", "subfolder": "", "type": "output", **changes}
    return {"ID": {"status": {"status_str": "success"}, "outputs": {"9": {"images": [item]}}}}


FILES: dict[str, Any] = {
    "a name that leads out": a_file(filename="../../evil.png"),
    "a name with backslashes": a_file(filename="..\\evil.png"),
    "an absolute name": a_file(filename="/tmp/evil.png"),
    "dots": a_file(filename=".."),
    "no name": a_file(filename=""),
    "a number as name": a_file(filename=3),
    "null as name": a_file(filename=None),
    "a name without end": a_file(filename="x" * 5000 + ".png"),
    "a zero byte": a_file(filename="a\0.png"),
    "a subfolder that leads out": a_file(subfolder="../../etc"),
    "an absolute subfolder": a_file(subfolder="/etc"),
    "a drive": a_file(subfolder="C:\\x"),
    "a number as subfolder": a_file(subfolder=1),
    "a generator that is something else": {
        "ID": {"status": {"status_str": "success"}, "outputs": {
            "../../../x": {"generators": [{"filename": "a.desktop", "subfolder": "", "type": "output"}]}}}
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", [*HISTORIES, *FILES])
def test_a_history_of_another_form_ends_its_job_alone(comfy, tmp_path, case):
    def answer(handler: Any) -> None:
        prompt_id = handler.path.split("/")[-1]
        text = json.dumps({**HISTORIES, **FILES}[case]).replace('"ID"', json.dumps(prompt_id))
        sends(text.encode())(handler)

    comfy.wicked["history"] = answer
    statuses, entry = run(comfy, tmp_path / "work")
    assert statuses == {"first": "done", "bad": "failed", "last": "done"}
    assert "\n" not in entry["error"] and 10 < len(entry["error"]) < 500
    assert {path.name for path in tmp_path.iterdir()} == {"work"}
    assert {path.name for path in (tmp_path / "work" / "out").iterdir()} == {
        "first",
        "last",
        "manifest.jsonl",
    }


ANSWERS: dict[str, Answer] = {
    "no JSON": sends(b"<html>"),
    "nothing": sends(b""),
    "no text": sends(b"\xff\xfe\x00"),
    "nested": sends(b"[" * 100_000),
    "a huge number": sends(b"1" * 100_000),
    "NaN": sends(b"NaN"),
    "half of it": sends(b"{", Content_Length="1000"),
    "a length that is none": sends(b"{}", Content_Length="many"),
    "a redirect to another host": sends(b"", 302, Location="http://127.0.0.1:1/x"),
    "a redirect to a file": sends(b"", 301, Location="file:///etc/passwd"),
    "a redirect to itself": sends(b"", 307, Location="/history/x"),
    "an error": sends(b"[" * 10_000, 500),
    "an error of its own": sends(json.dumps({"error": {"message": "\x1b[31m" + "x" * 9999}}).encode(), 400),
    "chunks of nonsense": chunks_of_nonsense,
    "nothing at all": lambda handler: None,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("route", ["history", "view"])
def test_an_answer_of_any_kind_ends_its_job_alone(comfy, tmp_path, route, case):
    comfy.wicked[route] = ANSWERS[case]
    statuses, entry = run(comfy, tmp_path)
    assert statuses == {"first": "done", "bad": "failed", "last": "done"}
    assert entry["error"].isprintable() and 10 < len(entry["error"]) < 500
    assert not (tmp_path / "out" / "bad").exists() or not list((tmp_path / "out" / "bad").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("case", [drips, drips_its_head, never_ends])
@pytest.mark.parametrize("route", ["history", "view"])
def test_what_never_ends_ends_its_job(comfy, tmp_path, monkeypatch, route, case):
    """A byte now and then, or bytes without end: both are bounded, in time and in size."""
    monkeypatch.setattr(comfy_runner, "MAX_BREAKS", 2)
    monkeypatch.setattr(transfer, "MAX_ANSWER_BYTES", 1 << 20)
    comfy.wicked[route] = case
    began = time.monotonic()
    statuses, _ = run(comfy, tmp_path, seconds=0.6)
    assert statuses == {"first": "done", "bad": "failed", "last": "done"}
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("content", [b"", b"<html>login</html>", png_file()[:-20], b"\x89PNG\r\n\x1a\n" * 9])
def test_a_picture_that_is_none_is_not_kept(tmp_path, content):
    with pytest.raises(DownloadError, match="x.png"):
        keep([content[:7], content[7:]], tmp_path / "x.png", "images")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"[Desktop Entry]", b"\0" * 100, b"\xff" * 100, None])
def test_a_generator_that_is_none_is_not_kept(tmp_path, content):
    data = generator_file({})[:-1000] if content is None else content
    (tmp_path / "x.safetensors").write_bytes(b"earlier")
    with pytest.raises(DownloadError, match="x.safetensors"):
        keep([data], tmp_path / "x.safetensors", "generators")
    assert (tmp_path / "x.safetensors").read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_more_bytes_than_wanted_are_not_fetched(comfy, tmp_path):
    comfy.files["output", "", "bad_00001_.png"] = png_file() * 1000
    with pytest.raises(ComfyError, match="at most 100"):
        list(Transfer(comfy.url, 5.0).blocks("/view?filename=bad_00001_.png&type=output", 100))
    comfy.wicked["view"] = never_ends
    with pytest.raises(ComfyError, match="more than the 1000000 bytes"):
        list(Transfer(comfy.url, 5.0).blocks("/view?filename=bad_00001_.png&type=output", 1_000_000))


def test_no_redirect_reaches_another_server(comfy, tmp_path):
    """Neither a download nor the events: the other server never sees a request."""
    other, seen = Hostile(), []
    other.wicked = {"history": lambda handler: seen.append(handler.path), "ws": lambda h: seen.append(h.path)}
    other.wicked["queue"] = other.wicked["ws"]
    try:
        for code in (301, 302, 303, 307, 308):
            for route in ("history", "ws"):
                comfy.wicked[route] = sends(b"", code, Location=f"{other.url}/queue")
            statuses, entry = run(comfy, tmp_path / str(code))
            assert statuses["bad"] == "failed" and "redirects to" in entry["error"]
    finally:
        other.stop()
    assert seen == []


@pytest.mark.parametrize("case", ["no JSON", "nested", "nothing at all", "an error", "a redirect to a file"])
def test_a_queue_that_cannot_be_read_ends_the_run_and_keeps_the_jobs(comfy, tmp_path, case):
    comfy.wicked["queue"] = ANSWERS[case]
    with pytest.raises(ComfyError, match="the queue of"):
        run(comfy, tmp_path)
    jobs = manifest_of(tmp_path / "out")
    assert {entry["status"] for entry in jobs.values()} == {"open"}


def test_a_program_that_is_no_comfyui_is_named_at_the_start(comfy, tmp_path):
    for case in ("no JSON", "nothing", "nested"):
        comfy.wicked["system_stats"] = ANSWERS[case]
        with pytest.raises(AnswerError, match="not ComfyUI's"):
            run(comfy, tmp_path)


def test_events_of_any_form_are_left_out(comfy, tmp_path):
    pytest.importorskip("aiohttp")
    told = comfy.tell

    def telling(kind: str, **data: Any) -> None:
        for values in ({}, {"type": kind}, {"type": kind, "data": []}, {"type": [], "data": data}):
            send_text(comfy, json.dumps(values))
        for text in ("", "{", "[" * 100_000, "NaN", '{"type": "progress", "data": {"prompt_id": "ID"}}'):
            send_text(comfy, text.replace("ID", data.get("prompt_id") or ""))
        odd = [
            {"value": float("nan")},
            {"value": -1},
            {"max": 1e300},
            {"node": []},
            {"nodes": 3},
            {"points": [3]},
        ]
        for values in odd:
            for other in ("progress", "execution_cached", "oneshot.loss", "executing", "execution_start"):
                send_text(comfy, json.dumps({"type": other, "data": {**data, **values}}))
        told(kind, **data)

    comfy.tell = telling
    statuses, _ = run(comfy, tmp_path)
    assert set(statuses.values()) == {"done"}


def send_text(comfy: FakeComfy, text: str) -> None:
    data = text.encode()
    long = len(data) > 65_535
    size = (b"\x7f" if long else b"\x7e") + len(data).to_bytes(8 if long else 2, "big")
    for socket in list(comfy.sockets):
        try:
            socket.sendall(b"\x81" + size + data)
        except OSError:
            continue


RECORD = {
    "outputs": {
        "5": {
            "generators": [{"filename": "x.pt", "subfolder": "a", "type": "output"}],
            "losses": [{"lpips": [[1, 0.5]]}],
            "notes": ["n"],
            "versions": [{"torch": "2"}],
        }
    },
    "status": {
        "status_str": "error",
        "completed": True,
        "messages": [
            ["execution_start", {"timestamp": 9}],
            ["execution_error", {"node_id": "5", "timestamp": 19}],
        ],
    },
}
SOUND: dict[Callable[[Any], Any], Any] = {
    versions: {"system": {"comfyui_version": "0.33.0", "pytorch_version": "2", "python_version": "3"}},
    queued: {"queue_running": [[0, "a", {}, {}, []]], "queue_pending": [[1, "b", {}, {}, []]]},
    lambda text: outcome(text, "a"): {"a": RECORD},
    lambda text: outcome(text, "b"): {"b": {**RECORD, "status": {"status_str": "success"}}},
    objections: {"node_errors": {"1": {"class_type": "X", "errors": [{"message": "m", "details": "d"}]}}},
    uploaded: {"name": "a.png", "subfolder": "b", "type": "input"},
}


@pytest.mark.parametrize("read", SOUND)
def test_damaged_answers_end_in_an_answer_error(read):
    sound = json.dumps(SOUND[read]).encode()
    texts = [damaged(sound, seed) for seed in range(400)]
    texts += [json.dumps(mutated_json(SOUND[read], seed)).encode() for seed in range(400)]
    refused = 0
    for text in texts:
        try:
            read(text)
        except AnswerError:
            refused += 1
    assert refused > len(texts) / 10
    read(sound)


def test_damaged_errors_and_events_say_nothing():
    error = {"error": {"message": "m", "details": "d"}, "node_errors": {"1": {"errors": [{"message": "x"}]}}}
    happened = {"type": "oneshot.loss", "data": {"prompt_id": "p", "points": {"lpips": [[1, 0.5]]}}}
    assert refusal(json.dumps(error).encode()) == "node 1 (?): x: "
    for seed in range(400):
        assert isinstance(refusal(damaged(json.dumps(error).encode(), seed)), str)
        event(json.dumps(mutated_json(happened, seed)))
        event(damaged(json.dumps(happened).encode(), seed).decode("latin-1"))


def test_a_slow_server_is_waited_for_as_long_as_it_sends(comfy):
    """The time is for each part of a file, not for all of it."""
    content = b"x" * (3 * transfer.BLOCK_BYTES)

    def slowly(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        for start in range(0, len(content), transfer.BLOCK_BYTES):
            time.sleep(0.3)
            handler.wfile.write(content[start : start + transfer.BLOCK_BYTES])

    comfy.wicked["view"] = slowly
    assert b"".join(Transfer(comfy.url, 0.6).blocks("/view?bad_00001_", 1 << 30)) == content


def test_no_thread_stays_behind(comfy):
    before = threading.active_count()
    client = ComfyClient(comfy.url, timeout_seconds=30)
    for _ in range(5):
        client.versions()
    comfy.wicked["system_stats"] = ANSWERS["nothing at all"]
    with pytest.raises(ServerUnreachable):
        client.versions()
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.02)
    assert threading.active_count() <= before
