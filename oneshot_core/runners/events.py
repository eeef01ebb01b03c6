"""Events of one client over ComfyUI's websocket, read by a thread that connects again whenever it is cut."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from . import answers
from .transfer import LOOPBACK

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 60.0
RECONNECT_SECONDS = 1.0
CONNECT_SECONDS = 5.0
MAX_MESSAGE_BYTES = 64 * 1024**2  # previews are messages, too
MAX_WAITING = 10_000  # events; a server that sends faster than they are taken loses the later ones


class EventStream:
    """Events of one client.

    Without the package aiohttp there are no events, which one log line says. What is no event is left out.

    Args:
        url: with the client's id.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._events: queue.Queue[answers.Event] = queue.Queue(MAX_WAITING)
        self._cut, self._connected, self._tried = threading.Event(), threading.Event(), threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="comfy-events", daemon=True)

    @property
    def live(self) -> bool:
        """Whether events arrive now."""
        return self._connected.is_set()

    def next(self, seconds: float) -> answers.Event | None:
        """Wait for an event; None after so many seconds without one."""
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
        stay = aiohttp.TraceConfig()
        stay.on_request_redirect.append(_refuse_redirect)
        async with aiohttp.ClientSession(trust_env=proxies, trace_configs=[stay]) as session:
            while True:
                try:
                    await self._receive(aiohttp, session)
                except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
                    logger.debug("%s: %s", self._url, error)
                if self._connected.is_set():
                    self._connected.clear()
                    self._cut.set()
                self._tried.set()
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _receive(self, aiohttp: Any, session: Any) -> None:
        settings = {"max_msg_size": MAX_MESSAGE_BYTES, "heartbeat": HEARTBEAT_SECONDS}
        async with session.ws_connect(self._url, **settings) as socket:
            self._connected.set()
            self._tried.set()
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    self._take(message.data)

    def _take(self, text: str) -> None:
        event = answers.event(text)
        try:
            if event is not None:
                self._events.put_nowait(event)
        except queue.Full:
            logger.debug("%s: an event was left out", self._url)


async def _refuse_redirect(*_: Any) -> None:
    raise OSError("the server redirects its events, which is not followed")
