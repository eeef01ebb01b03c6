"""A small HTTP server of this machine with the faults that downloads must survive."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served and how badly; tests change it while it runs."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # by path, "/a.bin"
    headers: dict[str, dict[str, str]] = field(default_factory=dict)  # more of them, by path
    redirects: dict[str, str] = field(default_factory=dict)  # path to address
    status: dict[str, int] = field(default_factory=dict)  # error to answer, by path
    ranges: bool = True  # whether parts are served
    cuts: list[int] = field(default_factory=list)  # bytes after which the next bodies end
    stalls: list[float] = field(default_factory=list)  # seconds that the next bodies wait in their middle
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range of every request


class _Handler(BaseHTTPRequestHandler):
    state: FileServer

    def log_message(self, *args: object) -> None:
        """Write nothing."""

    def do_GET(self) -> None:
        state = self.state
        wanted = self.headers.get("Range")
        state.asked.append((self.path, wanted))
        if self.path in state.redirects:
            self._answer(302, {"Location": state.redirects[self.path], "Content-Length": "0"})
        elif self.path in state.status or self.path not in state.files:
            self._answer(state.status.get(self.path, 404), {"Content-Length": "0"})
        else:
            self._send(state.files[self.path], wanted if state.ranges else None)

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, **self.state.headers.get(self.path, {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, data: bytes, wanted: str | None) -> None:
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        start = int(found[1]) if found else 0
        if found and start >= len(data):
            self._answer(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
            return
        headers = {"Content-Length": str(len(data) - start)}
        if found:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._answer(206 if found else 200, headers)
        body = data[start:]
        if self.state.cuts:
            body = body[: self.state.cuts.pop(0)]
        half = len(body) // 2
        try:
            self.wfile.write(body[:half])
            if self.state.stalls:
                time.sleep(self.state.stalls.pop(0))
            self.wfile.write(body[half:])
        except OSError:
            pass  # the client has gone


@contextmanager
def serving() -> Iterator[FileServer]:
    """Run a server for the length of the block."""
    state = FileServer()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
