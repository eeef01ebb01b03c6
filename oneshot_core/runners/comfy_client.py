"""A client of ComfyUI's HTTP interface: queue, history, upload, download; what it answers is checked."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from . import answers, downloads
from .answers import Choice, Outcome, SavedFile
from .events import EventStream
from .transfer import ComfyError, Refusal, Transfer
from .workflow import Workflow

JSON = "application/json"


class PromptRefused(ComfyError):
    """The server refused a workflow; the message names node, input and reason."""


class ComfyClient:
    """Talks to one ComfyUI server, which need not be one and is not trusted.

    Args:
        server: such as http://127.0.0.1:8188; a path in front of the routes is kept.
        client_id: names this client's events; None: a new one.
        timeout_seconds: for one answer, and for each part of a file.

    Raises:
        ValueError: `server` is not such an address.
    """

    def __init__(self, server: str, client_id: str | None = None, timeout_seconds: float = 60.0) -> None:
        self._transfer = Transfer(server, timeout_seconds)
        self.server = self._transfer.server
        self.client_id = client_id or str(uuid.uuid4())

    def versions(self) -> dict[str, str]:
        """Ask for the versions of ComfyUI ("unknown" where it does not say), torch and Python.

        It is the quickest way to see whether the server answers.
        """
        return answers.versions(self._send("/system_stats"))

    def choices(self, class_type: str) -> dict[str, Choice] | None:
        """Ask what the inputs of a node type may be; None where the server has no such type."""
        return answers.choices(self._send(f"/object_info/{quote(class_type, safe='')}"), class_type)

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
        return answers.objections(self._send("/prompt", _json(body)))

    def queued(self) -> dict[str, bool]:
        """Ids of the prompts that wait (False) or run (True)."""
        return answers.queued(self._send("/queue"))

    def history(self, prompt_id: str) -> Outcome | None:
        """Return how a prompt ended; None when it runs, waits or is not known."""
        return answers.outcome(self._send(f"/history/{quote(prompt_id, safe='')}"), prompt_id)

    def cancel(self, prompt_ids: Sequence[str]) -> None:
        """Take prompts out of the queue and interrupt the one that runs."""
        self._send("/queue", _json({"delete": list(prompt_ids)}))
        for prompt_id, running in self.queued().items():
            if running and prompt_id in prompt_ids:
                self._send("/interrupt", _json({"prompt_id": prompt_id}))

    def upload_image(self, path: Path, subfolder: str = "oneshot") -> str:
        """Put a picture into the server's input folder, named by its content.

        Returns:
            What `LoadImage` takes as `image`.
        """
        content = path.read_bytes()
        name = f"{_word(path.stem)[:60]}-{hashlib.sha256(content).hexdigest()[:12]}"
        if path.suffix:
            name += f".{_word(path.suffix[1:]).lower()[:20]}"
        body, content_type = _multipart({"subfolder": subfolder, "type": "input"}, name, content)
        return answers.uploaded(self._send("/upload/image", body, content_type))

    def download(self, file: SavedFile, path: Path) -> dict[str, Any]:
        """Fetch a saved file; see `downloads.keep`.

        Args:
            file: on the server.
            path: final name here.

        Returns:
            `bytes` and `sha256` of it.

        Raises:
            ComfyError: the server does not have it any more, or it is not what it should be.
            ServerUnreachable: the connection broke.
        """
        values = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        try:
            blocks = self._transfer.blocks(f"/view?{urlencode(values)}", downloads.MAX_BYTES)
            return downloads.keep(blocks, path, file.kind)
        except Refusal as refusal:
            raise self._said(refusal) from refusal

    def events(self) -> EventStream:
        """Listen to this client's events; a context manager."""
        parts = urlsplit(self.server)
        scheme = "wss" if parts.scheme == "https" else "ws"
        return EventStream(f"{scheme}://{parts.netloc}{parts.path}/ws?clientId={quote(self.client_id)}")

    def _send(self, route: str, body: bytes | None = None, content_type: str = JSON) -> bytes:
        try:
            return self._transfer.send(route, body, content_type)
        except Refusal as refusal:
            raise self._said(refusal) from refusal

    def _said(self, refusal: Refusal) -> ComfyError:
        kind = PromptRefused if refusal.code == 400 else ComfyError
        return kind(f"{self.server} answered: {answers.refusal(refusal.body) or refusal}")


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False).encode()


def _word(text: str) -> str:
    """Letters, digits, - and _ of plain ASCII, for a header."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in text)


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
