"""A client of ComfyUI's HTTP and websocket interface: queue, follow, upload, download."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import logging
import queue
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit, urlunsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from ..tensors import atomic_path
from .workflow import Workflow

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COPY_BYTES = 1 << 20
HEARTBEAT_SECONDS = 60.0
RECONNECT_SECONDS = 1.0
CONNECT_SECONDS = 5.0
AWAY = (502, 503, 504)  # what a proxy answers while the server behind it restarts


class ComfyError(OSError):
    """The server answered, and the answer is an error (as in urllib, a kind of OSError)."""


class ServerUnreachable(ComfyError):
    """The server did not answer; it may be starting, or the address is wrong."""


class PromptRefused(ComfyError):
    """The server refused a workflow; the message names node, input and reason."""


@dataclass(frozen=True)
class SavedFile:
    """A file that a prompt saved.

    Args:
        node: id of the node.
        kind: name under which the node reports it, such as "generators" or "images".
        filename: without a folder.
        subfolder: below the server's folder of that type.
        type: "output"; the server's other folders are "temp" and "input".
    """

    node: str
    kind: str
    filename: str
    subfolder: str = ""
    type: str = "output"


class ComfyClient:
    """Talks to one ComfyUI server.

    Args:
        server: such as http://127.0.0.1:8188; a path in front of the routes is kept.
        client_id: names this client's events; None: a new one.
        timeout_seconds: for one answer.

    Raises:
        ValueError: `server` is not such an address.
    """

    def __init__(self, server: str, client_id: str | None = None, timeout_seconds: float = 60.0) -> None:
        parts = urlsplit(server if "//" in server else f"http://{server}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(
                f"write the server as http://HOST:PORT, such as http://127.0.0.1:8188; got {server!r}"
            )
        self.server = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        self.client_id = client_id or str(uuid.uuid4())
        self._timeout = timeout_seconds
        direct = [ProxyHandler({})] if parts.hostname in LOOPBACK else []
        self._opener: OpenerDirector = build_opener(*direct)

    def version(self) -> str:
        """Ask for ComfyUI's version; the quickest way to see whether the server answers."""
        return str(self._json("/system_stats")["system"].get("comfyui_version", "unknown"))

    def submit(self, workflow: Workflow, prompt_id: str) -> list[str]:
        """Put a workflow in the queue.

        Args:
            workflow: API form.
            prompt_id: a UUID in its usual writing.

        Returns:
            What the server objects to although it runs the rest: one line per input. Usually empty.

        Raises:
            PromptRefused: nothing was queued.
        """
        body = {"prompt": workflow, "prompt_id": prompt_id, "client_id": self.client_id}
        try:
            answer = self._json("/prompt", body)
        except ComfyError as error:
            if isinstance(error.__cause__, HTTPError) and error.__cause__.code == 400:
                raise PromptRefused(str(error)) from None
            raise
        return _node_errors(answer.get("node_errors") or {})

    def queued(self) -> dict[str, bool]:
        """Ids of the prompts that wait (False) or run (True)."""
        answer = self._json("/queue")
        running = {item[1]: True for item in answer["queue_running"]}
        return {item[1]: False for item in answer["queue_pending"]} | running

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return a finished prompt's record; None when it runs, waits or is not known."""
        return self._json(f"/history/{quote(prompt_id)}").get(prompt_id)

    def cancel(self, prompt_ids: Sequence[str]) -> None:
        """Take prompts out of the queue and interrupt the one that runs."""
        self._send("/queue", {"delete": list(prompt_ids)})
        for prompt_id, running in self.queued().items():
            if running and prompt_id in prompt_ids:
                self._send("/interrupt", {"prompt_id": prompt_id})

    def upload_image(self, path: Path, subfolder: str = "oneshot") -> str:
        """Put a picture into the server's input folder, named by its content.

        Returns:
            What `LoadImage` takes as `image`.
        """
        content = path.read_bytes()
        stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in path.stem)[:60]
        name = f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}{path.suffix.lower()}"
        body, content_type = _multipart({"subfolder": subfolder, "type": "input"}, name, content)
        answer = self._json("/upload/image", body, content_type)
        return f"{answer['subfolder']}/{answer['name']}" if answer.get("subfolder") else str(answer["name"])

    def download(self, file: SavedFile, path: Path) -> dict[str, Any]:
        """Fetch a saved file; atomic.

        Returns:
            `bytes` and `sha256` of it.

        Raises:
            ComfyError: the server does not have it any more.
            ServerUnreachable: the connection broke.
        """
        values = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        digest, count = hashlib.sha256(), 0
        with atomic_path(path) as temporary, open(temporary, "wb") as out:
            with self._open(f"/view?{urlencode(values)}") as answer:
                expected = answer.headers.get("Content-Length")
                while block := self._read(answer):
                    digest.update(block)
                    count += out.write(block)
            if expected is not None and count != int(expected):
                raise ServerUnreachable(
                    f"{self.server} ended {file.filename} after {count} of {expected} bytes"
                )
        return {"bytes": count, "sha256": digest.hexdigest()}

    def events(self) -> EventStream:
        """Listen to this client's events; a context manager."""
        parts = urlsplit(self.server)
        scheme = "wss" if parts.scheme == "https" else "ws"
        return EventStream(f"{scheme}://{parts.netloc}{parts.path}/ws?clientId={quote(self.client_id)}")

    def _json(self, route: str, body: Any = None, content_type: str = "application/json") -> Any:
        text = self._send(route, body, content_type)
        try:
            return json.loads(text)
        except ValueError:
            raise ComfyError(
                f"{self.server}{route} answered something else than JSON; is it ComfyUI?"
            ) from None

    def _send(self, route: str, body: Any = None, content_type: str = "application/json") -> bytes:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body, allow_nan=False).encode()
        with self._open(route, data, content_type) as answer:
            return self._read(answer, everything=True)

    def _open(self, route: str, data: bytes | None = None, content_type: str = "") -> Any:
        headers = {"Content-Type": content_type} if data is not None else {}
        request = Request(f"{self.server}{route}", data, headers)  # http or https, see __init__
        try:
            return self._opener.open(request, timeout=self._timeout)
        except HTTPError as error:
            if error.code in AWAY:
                raise ServerUnreachable(f"{self.server} does not answer (HTTP {error.code})") from error
            raise ComfyError(f"{self.server} answered: {_answer(error)}") from error
        except (URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ServerUnreachable(f"{self.server} does not answer: {reason}") from error

    def _read(self, answer: Any, everything: bool = False) -> bytes:
        try:
            return bytes(answer.read() if everything else answer.read(COPY_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise ServerUnreachable(f"the connection to {self.server} broke: {error}") from error


def _multipart(fields: Mapping[str, str], name: str, content: bytes) -> tuple[bytes, str]:
    """Body and type of a form with a file named `image`; all names are plain ASCII."""
    boundary = uuid.uuid4().hex
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    )
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def _answer(error: HTTPError) -> str:
    """Say what an error answer means: ComfyUI's JSON, or the status line."""
    try:
        values = json.loads(error.read())
        top = values["error"]
        lines = _node_errors(values.get("node_errors") or {})
        return "; ".join(lines) or f"{top['message']} {top.get('details', '')}".strip()
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return f"HTTP {error.code} {error.reason}"


def _node_errors(errors: Mapping[str, Any]) -> list[str]:
    return [
        f"node {node} ({values.get('class_type', '?')}): {one.get('message', '')}: {one.get('details', '')}"
        for node, values in errors.items()
        for one in values.get("errors", [])
    ]


def saved_files(record: Mapping[str, Any]) -> list[SavedFile]:
    """List what a finished prompt saved for good: files of type "output", such as generators and images."""
    return [
        SavedFile(node, kind, item["filename"], item.get("subfolder", ""))
        for node, output in record.get("outputs", {}).items()
        for kind, items in output.items()
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict) and item.get("type") == "output" and isinstance(item.get("filename"), str)
    ]


def failure(record: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Tell why a finished prompt failed.

    Returns:
        None when it succeeded, else the reason and whether a user interrupted it.
    """
    status = record.get("status") or {}
    if status.get("status_str") == "success":
        return None
    for name, values in reversed(status.get("messages") or []):
        if name == "execution_interrupted":
            return f"interrupted in node {values.get('node_id')} ({values.get('node_type')})", True
        if name == "execution_error":
            where = f"node {values.get('node_id')} ({values.get('node_type')})"
            message = str(values.get("exception_message", "")).strip()
            return f"{where}: {values.get('exception_type')}: {message}", False
    return "it did not finish and the server does not say why", False


class EventStream:
    """Events of one client over the websocket, read by a thread that connects again whenever it is cut.

    Without the package aiohttp there are no events, which one log line says.

    Args:
        url: with the client's id.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._cut, self._connected, self._tried = threading.Event(), threading.Event(), threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="comfy-events", daemon=True)

    @property
    def live(self) -> bool:
        """Whether events arrive now."""
        return self._connected.is_set()

    def next(self, seconds: float) -> dict[str, Any] | None:
        """Wait for an event: {"type": ..., "data": {...}}; None after so many seconds without one."""
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            return None

    def was_cut(self) -> bool:
        """Tell whether a connection broke since the last call of this."""
        cut = self._cut.is_set()
        self._cut.clear()
        return cut

    def __enter__(self) -> EventStream:
        try:
            import aiohttp
        except ImportError:
            logger.warning(
                'no live progress: the package aiohttp is missing; install it, or the extra "batch"'
            )
            return self
        self._task = asyncio.new_event_loop().create_task(self._listen(aiohttp))
        self._thread.start()
        self._tried.wait(CONNECT_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        loop = self._task.get_loop()
        loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(CONNECT_SECONDS)
        if not self._thread.is_alive():
            loop.close()

    def _run(self) -> None:
        assert self._task is not None
        try:
            self._task.get_loop().run_until_complete(self._task)
        except asyncio.CancelledError:
            logger.debug("stopped listening to %s", self._url)
        finally:
            self._connected.clear()

    async def _listen(self, aiohttp: Any) -> None:
        proxies = urlsplit(self._url).hostname not in LOOPBACK
        async with aiohttp.ClientSession(trust_env=proxies) as session:
            while True:
                try:
                    await self._receive(aiohttp, session)
                except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                    logger.debug("%s: %s", self._url, error)
                if self._connected.is_set():
                    self._connected.clear()
                    self._cut.set()
                self._tried.set()
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _receive(self, aiohttp: Any, session: Any) -> None:
        async with session.ws_connect(self._url, max_msg_size=0, heartbeat=HEARTBEAT_SECONDS) as socket:
            self._connected.set()
            self._tried.set()
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    self._take(message.data)

    def _take(self, text: str) -> None:
        try:
            event = json.loads(text)
        except ValueError:
            logger.debug("not JSON: %.100s", text)
            return
        if isinstance(event, dict) and isinstance(event.get("data"), dict):
            self._events.put(event)
