"""The pack's routes on a server of aiohttp: bodies of any kind, origins; fingerprints of files."""

from __future__ import annotations

import asyncio
import http.client
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

web = pytest.importorskip("aiohttp.web")
NODES = Path(__file__).resolve().parents[2] / "nodes"


def loaded(name: str) -> Any:
    """A file of the nodes that needs no ComfyUI."""
    package = sys.modules.setdefault("pack", ModuleType("pack"))
    package.__path__ = [str(NODES)]
    return importlib.import_module(f"pack.{name}")


routes, stamps, board = loaded("routes"), loaded("stamps"), loaded("board")
PLACE = board.Place("graph", "5", "prompt")
HOST = {"Host": "127.0.0.1:8188"}


class Signal:
    stopped = False

    def stop_and_keep(self) -> None:
        self.stopped = True


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """A server with the routes; `signal` belongs to the node 5 of the workflow `graph`."""
    signal, table, app = Signal(), web.RouteTableDef(), web.Application()
    stops, wall = board.Stops(), board.Board()
    ended = stops.open(PLACE, signal)
    ended.__enter__()
    made = routes.Routes(
        web, None, {"LoadStyleGAN": Signal}, {"LoadStyleGAN": int}, stops, wall, {"comic": Path(__file__)}
    )
    made.add_to(SimpleNamespace(routes=table, app=app))
    app.add_routes(table)
    loop = asyncio.new_event_loop()

    async def start() -> Any:
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield SimpleNamespace(port=runner.addresses[0][1], signal=signal, board=wall, stops=stops)
    ended.__exit__(None, None, None)
    assert stops.find("5") is None
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


def post(server: SimpleNamespace, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    given = {"Content-Type": "application/json"} | {name.replace("_", "-"): v for name, v in headers.items()}
    connection.request("POST", "/oneshot/stop_and_keep", body, given)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_a_running_node_is_stopped(server):
    assert post(server, b'{"node": "5"}') == (200, {"node": "5", "stopping": True})
    assert server.signal.stopped
    assert post(server, b'{"node": "6"}')[0] == 404


def test_a_node_of_another_workflow_with_the_same_id_is_not_stopped(server):
    assert post(server, b'{"node": "5", "workflow": "other"}')[0] == 404 and not server.signal.stopped
    assert post(server, b'{"node": "5", "workflow": "graph"}')[0] == 200 and server.signal.stopped


def test_a_page_does_not_stop_the_run_of_a_program(server):
    signal = Signal()
    with server.stops.open(board.Place("", "7", "prompt"), signal):
        assert post(server, b'{"node": "7", "workflow": "graph"}')[0] == 404 and not signal.stopped
        assert post(server, b'{"node": "7"}')[0] == 200 and signal.stopped


def get(server: SimpleNamespace, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_a_page_that_is_loaded_again_learns_what_its_nodes_did(server):
    server.board.begin(PLACE, "OneShotAdapt")
    server.board.progress(PLACE, {"step": 2, "steps": 9, "eta": 7.5}, {"lpips": [[1, 0.5], [2, 0.4]]})
    server.board.begin(board.Place("other", "5", "prompt"), "OneShotAdapt")
    status, answer = get(server, "/oneshot/status?workflow=graph")
    assert status == 200 and answer["nodes"] == [
        {
            "workflow": "graph", "node": "5", "prompt_id": "prompt", "node_type": "OneShotAdapt",
            "state": "running", "step": 2, "steps": 9, "eta": 7.5,
            "points": {"lpips": [[1, 0.5], [2, 0.4]]},
        }
    ]  # fmt: skip
    assert get(server, "/oneshot/status?workflow=none")[1] == {"nodes": []}
    for path in ("/oneshot/status", "/oneshot/status?workflow=", f"/oneshot/status?workflow={'x' * 300}"):
        assert get(server, path)[0] == 400
    assert get(server, "/oneshot/status?workflow=graph", Origin="http://evil.example")[0] == 403


def test_a_demo_target_is_given_by_its_look(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/oneshot/demo_target?look=comic")
    assert connection.getresponse().read() == Path(__file__).read_bytes()
    for look in ("", "other", "../../etc/passwd", "comic%00"):
        status, answer = get(server, f"/oneshot/demo_target?look={look}")
        assert status == 404 and "comic" in answer["error"]
    assert get(server, "/oneshot/demo_target?look=comic", Origin="http://evil.example")[0] == 403


BODIES = {
    "nothing": b"", "text": b"node", "a list": b"[]", "a number": b"5", "NaN": b"NaN", "null": b"null",
    "a node that is a number": b'{"node": 5}', "a node that is a list": b'{"node": ["5"]}',
    "a node without end": b'{"node": "' + b"5" * 500 + b'"}', "half a character": b'{"node": "\\ud800"}',
    "control characters": b'{"node": "\\u001b[31m"}', "bytes": b"\xff\xfe\x00",
    "UTF-16": '{"node": "5"}'.encode("utf-16"),
    "nested": b'{"node": ' + b"[" * 4000 + b"]" * 4000 + b"}", "more nested": b"[" * 100_000,
    "huge": b" " * 300_000 + b'{"node": "5"}', "a huge number": b'{"node": ' + b"1" * 9000 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_a_body_of_any_kind_is_answered_with_400(server, case):
    status, answer = post(server, BODIES[case])
    assert status == 400 and "send" in answer["error"] and not server.signal.stopped


@pytest.mark.parametrize("headers", [
    {"Content_Type": "application/json; charset=nonsense"}, {"Content_Encoding": "gzip"},
    {"Content_Encoding": "deflate"}, {"Content_Type": "multipart/form-data"}, {"Content_Type": ""},
])  # fmt: skip
def test_odd_encodings_are_no_errors_of_the_server(server, headers):
    status, _ = post(server, b'{"node": "5"}', **headers)
    assert status in ((400,) if "Content_Encoding" in headers else (200,))


@pytest.mark.parametrize(
    "origin",
    ["null", "NULL", "http://evil.example", "http://127.0.0.1.evil.example", "file://", "x", "http://["],
)
def test_other_pages_are_refused(server, origin):
    status, answer = post(server, b'{"node": "5"}', Origin=origin)
    assert status == 403 and "another page" in answer["error"] and not server.signal.stopped


def test_the_page_itself_is_let_in(server):
    for headers in ({"Origin": f"http://127.0.0.1:{server.port}"}, {"Sec_Fetch_Site": "same-origin"}, {}):
        server.signal.stopped = False
        assert post(server, b'{"node": "5"}', **headers)[0] == 200 and server.signal.stopped


@pytest.mark.parametrize(
    ("headers", "allowed", "foreign"),
    [
        ({}, None, False),
        ({**HOST, "Origin": "http://127.0.0.1:8188"}, None, False),
        ({**HOST, "Origin": "http://localhost:8188"}, None, True),
        ({**HOST, "Origin": "http://127.0.0.1:9000"}, None, True),
        ({"Host": "192.168.1.5:8188", "Origin": "http://192.168.1.5:8188"}, None, False),
        ({"Host": "studio.lan", "Origin": "http://studio.lan"}, None, False),
        ({"Host": "studio.lan", "Origin": "https://studio.lan"}, None, False),
        ({"Host": "studio.lan:443", "Origin": "https://Studio.lan"}, None, False),
        ({"Host": "[::1]:8188", "Origin": "http://[::1]:8188"}, None, False),
        ({**HOST, "Origin": "https://art.example", "Sec-Fetch-Site": "same-origin"}, None, False),
        ({**HOST, "Origin": "https://art.example", "X-Forwarded-Host": "art.example, inner"}, None, False),
        ({**HOST, "Origin": "https://art.example"}, None, True),
        ({**HOST, "Origin": "https://art.example"}, "https://art.example", False),
        ({**HOST, "Origin": "https://art.example"}, "*", False),
        ({**HOST, "Origin": "null"}, "*", True),
        ({**HOST, "Origin": "null", "Sec-Fetch-Site": "same-origin"}, None, True),
        ({**HOST, "Sec-Fetch-Site": "cross-site"}, None, True),
        ({**HOST, "Sec-Fetch-Site": "none"}, None, False),
        ({**HOST, "Origin": "http://127.0.0.1:8188", "Sec-Fetch-Site": "cross-site"}, None, True),
    ],
)
def test_who_is_foreign(headers, allowed, foreign):
    assert routes.is_foreign(headers, allowed) is foreign


def test_conflicts_are_told(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/oneshot/conflicts")
    assert json.loads(connection.getresponse().read())["overridden"] == {"LoadStyleGAN": "builtins"}


def test_a_stamp_is_of_the_content_and_read_once(tmp_path, monkeypatch):
    path, twin = tmp_path / "a.pt", tmp_path / "b.pt"
    path.write_bytes(b"x" * 100)
    twin.write_bytes(b"x" * 100)
    first = stamps.stamp(path)
    assert len(first) == 32 and first == stamps.stamp(twin)
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", lambda *_: pytest.fail("read again"))
        assert stamps.stamp(path) == first
    path.touch()
    assert stamps.stamp(path) == first
    before = path.stat()
    path.write_bytes(b"y" * 100)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size, the same time
    assert stamps.stamp(path) != first


@pytest.mark.slow
def test_a_stamp_of_a_large_file_takes_seconds_at_most_and_nothing_the_second_time(tmp_path):
    path = tmp_path / "a.pt"
    with open(path, "wb") as file:
        file.truncate(380_000_000)
    began = time.monotonic()
    stamps.stamp(path)
    assert time.monotonic() - began < 10
    began = time.monotonic()
    stamps.stamp(path)
    assert time.monotonic() - began < 0.05
