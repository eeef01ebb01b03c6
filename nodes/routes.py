"""The pack's routes, handed to ComfyUI's server by the bridge: who may ask, what for, and the answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .board import Board, Stops

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 10_000
MAX_ID = 200
ASKED = 'send {"node": "<id of the running node>"} as JSON'
FOREIGN = (
    "this comes from another page than the server's own; behind a proxy let it pass on the Host header, or "
    "X-Forwarded-Host"
)
_PORTS = {"http": 80, "https": 443}


def is_foreign(headers: Mapping[str, str], allowed: str | None) -> bool:
    """Tell whether a browser sends a request for another page than the server's own.

    ComfyUI itself compares origin and host for loopback addresses only, and lets the origin "null" of
    sandboxed pages and local files pass. Programs other than browsers send neither header and are let in.

    Args:
        headers: of the request; names in any case.
        allowed: origin that ComfyUI's --enable-cors-header allows, "*" for all; None: none.
    """
    found = {name.lower(): value.strip() for name, value in headers.items()}
    origin, site = found.get("origin"), found.get("sec-fetch-site", "").lower()
    if origin is None:
        return site in ("cross-site", "same-site")
    if origin.lower() == "null":
        return True
    if allowed and (allowed == "*" or origin.lower() == allowed.lower().rstrip("/")):
        return False
    if site:  # the browser itself compared, also behind a proxy that changes the host
        return site != "same-origin"
    hosts = (found.get("host"), found.get("x-forwarded-host", "").split(",")[0].strip())
    own = _place(origin)
    return own is None or not any(_place(f"{origin.split(':')[0]}://{host}") == own for host in hosts if host)


def _place(address: str) -> tuple[str, int | None] | None:
    """Host and port of an address, the usual port where it names none; None where it has no host."""
    try:
        parts = urlsplit(address)
        return None if not parts.hostname else (parts.hostname, parts.port or _PORTS.get(parts.scheme))
    except ValueError:
        return None


def node_of(body: bytes) -> tuple[str, str] | None:
    """Read the node that a request's body names, and its workflow, which may be left out.

    Returns:
        Id of the node, id of the workflow or an empty text; None where no node is named, whatever it is.
    """
    try:
        values = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not _is_id(values.get("node")):
        return None
    workflow = values.get("workflow", "")
    return values["node"], workflow if _is_id(workflow) else ""


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and value.isprintable()


class Routes:
    """Handlers of the pack's routes.

    Args:
        web: the module aiohttp.web.
        allowed: origin that may ask besides the server's own page; None: none.
        own: class by given node id.
        registered: classes of all packs by node id, as they are now.
        stops: what ends the run of a node early.
        board: what the nodes did last.
        targets: files of the demo's target pictures by look.
    """

    def __init__(
        self,
        web: Any,
        allowed: str | None,
        own: Mapping[str, type],
        registered: Mapping[str, type],
        stops: Stops,
        board: Board,
        targets: Mapping[str, Path],
    ) -> None:
        self._web, self._allowed = web, allowed
        self._own, self._registered, self._stops, self._board = own, registered, stops, board
        self._targets = targets
        self._replaced = self._foreign()
        for name, pack in self._replaced.items():
            log.warning(_CONFLICT_BEFORE, name, pack, pack)

    def add_to(self, server: Any) -> None:
        """Add the routes to ComfyUI's server, and a look at the ids once all packs are loaded."""
        server.routes.post("/oneshot/stop_and_keep")(self.stop_and_keep)
        server.routes.get("/oneshot/status")(self.status)
        server.routes.get("/oneshot/demo_target")(self.demo_target)
        server.routes.get("/oneshot/conflicts")(self.conflicts)
        server.app.on_startup.append(self._after_start)

    async def stop_and_keep(self, request: Any) -> Any:
        """End a node's run early with what it has."""
        if is_foreign(request.headers, self._allowed):
            return self._error(FOREIGN, 403)
        asked = node_of(await _short_body(request))
        if asked is None:
            return self._error(ASKED, 400)
        signal = self._stops.find(*asked)
        if signal is None:
            return self._error(f"node {asked[0]} is not training now", 404)
        signal.stop_and_keep()
        return self._web.json_response({"node": asked[0], "stopping": True})

    async def status(self, request: Any) -> Any:
        """Tell what the nodes of a workflow did last, for a page that was opened or loaded again."""
        if is_foreign(request.headers, self._allowed):
            return self._error(FOREIGN, 403)
        workflow = request.query.get("workflow", "")
        if not _is_id(workflow):
            return self._error("name the workflow's id: /oneshot/status?workflow=<id>", 400)
        return self._web.json_response({"nodes": self._board.of_workflow(workflow)})

    async def demo_target(self, request: Any) -> Any:
        """Give a target picture of the demo, so that its node shows it before it runs."""
        if is_foreign(request.headers, self._allowed):
            return self._error(FOREIGN, 403)
        path = self._targets.get(request.query.get("look", ""))
        if path is None:
            return self._error(f"give one of the looks {', '.join(self._targets)}", 404)
        return self._web.FileResponse(path)

    async def conflicts(self, request: Any) -> Any:
        """Tell which given ids another pack has, too."""
        if is_foreign(request.headers, self._allowed):
            return self._error(FOREIGN, 403)
        return self._web.json_response({"overridden": self._foreign(), "replaced": self._replaced})

    async def _after_start(self, _: Any) -> None:
        for name, pack in self._foreign().items():
            log.warning(_CONFLICT_AFTER, name, pack, pack)

    def _error(self, text: str, status: int) -> Any:
        return self._web.json_response({"error": text}, status=status)

    def _foreign(self) -> dict[str, str]:
        """Ids under which another class than ours is registered, with the pack it comes from."""
        found = {name: self._registered.get(name) for name in self._own}
        return {
            name: _pack_of(other)
            for name, other in found.items()
            if other is not None and other is not self._own[name]
        }


def _pack_of(node: type) -> str:
    """Folder of the pack that a node class comes from."""
    return str(getattr(node, "RELATIVE_PYTHON_MODULE", None) or node.__module__)


async def _short_body(request: Any) -> bytes:
    """Body of a request that asks for little; nothing where it is longer, or damaged on its way."""
    body = b""
    try:
        async for block in request.content.iter_chunked(MAX_BODY_BYTES):
            body += block
            if len(body) > MAX_BODY_BYTES:
                return b""
    except Exception as error:  # noqa: BLE001 - a wrong encoding has its own errors in every version of aiohttp
        log.debug("the body of a request cannot be read: %s", error)
        return b""
    return body


_CONFLICT_BEFORE = (
    "One-Shot StyleGAN: its node %s replaces one of the same id from %s; workflows made for that pack will "
    "not find theirs. Disable one of the two packs (%s)"
)
_CONFLICT_AFTER = (
    "One-Shot StyleGAN: its node %s was overridden by %s, which loaded later; workflows of this pack will "
    "not work. Disable one of the two packs (%s)"
)
