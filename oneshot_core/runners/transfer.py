"""HTTP to one server that is not trusted: no redirects, nothing endless, nothing that trickles for ever."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
AWAY = (502, 503, 504)  # what a proxy answers while the server behind it restarts
MAX_ANSWER_BYTES = 64 * 1024**2  # a queue of hundreds of prompts has some megabytes
MAX_ERROR_BYTES = 1024**2
BLOCK_BYTES = 1 << 18  # each must arrive within the time for an answer
MAX_TEXT = 400


class ComfyError(OSError):
    """The server answered, and the answer is an error (as in urllib, a kind of OSError)."""


class ServerUnreachable(ComfyError):
    """The server did not answer, or not to the end; it may be starting, or the address is wrong."""


class Refusal(ComfyError):
    """The server answered with an error status.

    Attributes:
        code: the status.
        body: the answer's first bytes.
    """

    def __init__(self, text: str, code: int, body: bytes) -> None:
        super().__init__(text)
        self.code, self.body = code, body


def plain(text: object, most: int = MAX_TEXT) -> str:
    """Make one printable line of a text that a server sent; at most so many characters of it."""
    cut = str(text)[: 2 * most]
    line = " ".join("".join(c if c.isprintable() else " " for c in cut).split())
    return line if len(line) <= most else f"{line[:most]}…"


class _Deadline:
    """Cuts connections when a time is over; a socket's own timeout ends only a wait without any byte."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._sockets = seconds, list[socket.socket]()
        self._timer: threading.Timer | None = None
        self.passed = False

    def watch(self, connected: socket.socket) -> None:
        """Cut this one, too."""
        self._sockets.append(connected)

    def restart(self) -> None:
        """Count from now."""
        self._stop()
        self._timer = threading.Timer(self._seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _cut(self) -> None:
        self.passed = True
        for connected in self._sockets:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> _Deadline:
        self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()


class _Http(HTTPHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                deadline.watch(self.sock)

        self._connection = Connection

    def http_open(self, req: Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _Https(HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                deadline.watch(self.sock)

        self._connection = Connection

    def https_open(self, req: Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class Transfer:
    """Requests to one server.

    Args:
        server: such as http://127.0.0.1:8188; a path in front of the routes is kept.
        seconds: for the head of an answer, for a whole answer of `send`, and for each block of `blocks`.

    Raises:
        ValueError: `server` is not such an address.
    """

    def __init__(self, server: str, seconds: float) -> None:
        parts = _split(server)
        self.server = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        self._direct = parts.hostname in LOOPBACK
        self._seconds = seconds

    def send(self, route: str, data: bytes | None = None, content_type: str = "") -> bytes:
        """GET, or POST of data; return the whole answer.

        Raises:
            Refusal: an error status.
            ComfyError: a redirect, or more than 64 MiB.
            ServerUnreachable: no answer, or none in time.
        """
        with self._opened(route, data, content_type) as (answer, deadline):
            text = self._read(answer, deadline, MAX_ANSWER_BYTES + 1)
            if len(text) > MAX_ANSWER_BYTES:
                raise ComfyError(
                    f"{self.server}{route} answered more than {MAX_ANSWER_BYTES >> 20} MiB; is it ComfyUI?"
                )
            return self._whole(text, answer, route)

    def blocks(self, route: str, most: int) -> Iterator[bytes]:
        """Yield the answer to a GET in blocks.

        Args:
            route: with its query.
            most: bytes in all.

        Raises:
            Refusal, ComfyError, ServerUnreachable: as `send`; the answer is longer than `most`, or shorter or
                longer than it said.
        """
        count = 0
        with self._opened(route) as (answer, deadline):
            said = _length(answer)
            if said is not None and said > most:
                raise ComfyError(f"{self.server} sends {said} bytes; at most {most} are fetched")
            while block := self._read(answer, deadline, BLOCK_BYTES):
                count += len(block)
                if count > most:
                    raise ComfyError(f"{self.server} sends more than the {most} bytes that are fetched")
                yield block
                deadline.restart()
        if said is not None and count != said:
            raise ServerUnreachable(f"{self.server} ended an answer after {count} of {said} bytes")

    def _whole(self, text: bytes, answer: http.client.HTTPResponse, route: str) -> bytes:
        said = _length(answer)
        if said is not None and len(text) != said:
            raise ServerUnreachable(
                f"{self.server}{route} ended its answer after {len(text)} of {said} bytes"
            )
        return text

    @contextmanager
    def _opened(
        self, route: str, data: bytes | None = None, content_type: str = ""
    ) -> Iterator[tuple[http.client.HTTPResponse, _Deadline]]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "oneshot-stylegan"}
        if data is not None:
            headers["Content-Type"] = content_type
        request = Request(f"{self.server}{route}", data, headers)  # http or https, see _split
        with _Deadline(self._seconds) as deadline:
            with self._answer(request, deadline) as answer:
                yield answer, deadline

    def _answer(self, request: Request, deadline: _Deadline) -> http.client.HTTPResponse:
        try:
            answer: http.client.HTTPResponse = self._opener(deadline).open(request, timeout=self._seconds)
        except HTTPError as error:
            with error:
                raise self._refused(error, deadline) from None
        except (URLError, OSError, http.client.HTTPException, ValueError) as error:
            raise ServerUnreachable(
                f"{self.server} does not answer: {self._reason(error, deadline)}"
            ) from None
        return answer

    def _opener(self, deadline: _Deadline) -> OpenerDirector:
        """Handlers for http and https alone; none that follows a redirect or opens a local file."""
        opener = OpenerDirector()
        proxies = ProxyHandler({}) if self._direct else ProxyHandler()
        for handler in (
            proxies, _Http(deadline), _Https(deadline), HTTPDefaultErrorHandler(), HTTPErrorProcessor()
        ):  # fmt: skip
            opener.add_handler(handler)
        return opener

    def _refused(self, error: HTTPError, deadline: _Deadline) -> ComfyError:
        if error.code in AWAY:
            return ServerUnreachable(f"{self.server} does not answer (HTTP {error.code})")
        if 300 <= error.code < 400:
            place = plain(error.headers.get("Location", "nowhere"), 100)
            return ComfyError(
                f"{self.server} redirects to {place}, which is not followed; name the final address, if it "
                "is yours"
            )
        try:
            body = self._read(error, deadline, MAX_ERROR_BYTES)
        except ServerUnreachable:
            body = b""
        return Refusal(plain(f"HTTP {error.code} {error.reason}", 100), error.code, body)

    def _read(self, answer: Any, deadline: _Deadline, most: int) -> bytes:
        try:
            block = bytes(answer.read(most))
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a wrong chunk length
            reason = self._reason(error, deadline)
            raise ServerUnreachable(f"the connection to {self.server} broke: {reason}") from None
        if deadline.passed:
            raise ServerUnreachable(f"{self.server} took longer than {self._seconds:g} seconds to answer")
        return block

    def _reason(self, error: BaseException, deadline: _Deadline) -> str:
        if deadline.passed:
            return f"it took longer than {self._seconds:g} seconds"
        return plain(getattr(error, "reason", None) or error or type(error).__name__)


def _split(server: str) -> Any:
    """Take an address apart.

    Raises:
        ValueError: not http://HOST:PORT or https://HOST:PORT.
    """
    try:
        parts = urlsplit(server if "//" in server else f"http://{server}")
        wrong = parts.port is not None and not 0 < parts.port < 2**16
    except ValueError:  # such as a port that is no number
        parts, wrong = urlsplit(""), True
    if wrong or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(
            f"write the server as http://HOST:PORT, such as http://127.0.0.1:8188; got {plain(server, 100)!r}"
        )
    if parts.username is not None:
        raise ValueError("a server's address cannot hold a user's name or password here; leave them out")
    return parts


def _length(answer: http.client.HTTPResponse) -> int | None:
    """Length that the answer's head says; None where it says none, or it comes in chunks."""
    text = answer.headers.get("Content-Length")
    if text is None or answer.headers.get("Transfer-Encoding"):
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ComfyError(f"the server says that its answer has {plain(text, 40)!r} bytes")
    return int(text)
