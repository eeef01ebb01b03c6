"""Download one file into a folder: resumed, checked, atomic, and stopped by its progress callback.

The bytes collect in `<name>.part` beside the final name; a killed process leaves it there for the next call.
A partial file is continued only where the file's hash is known (from the caller, or from the hub's answer),
because nothing else could tell that both halves belong to one file. Proxies and certificates are those of
Python's standard library.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ..writing import claim, in_words

log = logging.getLogger(__name__)

BytesProgress = Callable[[int, "int | None"], None]  # bytes that are there, bytes in all or None if unknown

HUB = "https://huggingface.co"
CHUNK_BYTES = 1 << 20
TRIES = 5  # connections per call; a cut one is continued
PAUSE_SECONDS = 1.0  # between them
TIMEOUT_SECONDS = 20.0  # without a byte
REPORT_SECONDS = 0.1  # between two calls of the progress callback
HEADERS = {"User-Agent": "oneshot-stylegan", "Accept-Encoding": "identity"}


class DownloadError(OSError):
    """A file could not be downloaded; the text says why.

    Attributes:
        absent: the server answered that it has no such file (status 404).
    """

    def __init__(self, reason: str, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent


class _Cut(Exception):
    """A connection ended early; another one may go on from there."""


def hub_url(repository: str, name: str) -> str:
    """Return the address of a file of a Hugging Face repository, at HF_ENDPOINT where that is set."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    return f"{endpoint}/{repository}/resolve/main/{quote(name)}"


def download(
    url: str, target: Path | str, *, sha256: str = "", progress: BytesProgress | None = None
) -> Path:
    """Download a file, unless it is there already.

    Args:
        url: http or https.
        target: final name; its folder is made. It never holds half a file.
        sha256: the file's hash in hex, or the first digits of it; "" takes the hash that the hub sends, and
            where there is none only the length is checked.
        progress: called with (bytes there, bytes in all or None) at the start, at the end and about ten
            times a second. What it raises stops the download and passes through; the next call goes on
            from the same byte. While another process downloads the file it is called, too.

    Returns:
        `target`.

    Raises:
        DownloadError: no connection, no such file, wrong hash (the bytes are thrown away), full disk. A
            connection that is cut is tried again; what came stays for the next call.
    """
    target = Path(target)
    report = _Report(progress)
    part = target.with_name(f"{target.name}.part")
    with _sole_writer(part, report):
        if not target.is_file():
            log.info("downloading %s to %s", url, target)
            _fill(url, part, sha256.lower(), report)
            with _disk_errors(part):
                with open(part, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(part, target)
    return target


class _Report:
    """Calls the progress callback, but not for every packet."""

    def __init__(self, progress: BytesProgress | None) -> None:
        self.progress = progress
        self.last = float("-inf")

    def __call__(self, done: int, total: int | None, now: bool = False) -> None:
        moment = time.monotonic()
        if self.progress is not None and (now or moment - self.last >= REPORT_SECONDS):
            self.last = moment
            self.progress(done, total)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the disk into one that names the place."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written: {in_words(error) or error.strerror or error}"
        ) from error


@contextmanager
def _sole_writer(part: Path, report: _Report) -> Iterator[None]:
    """Wait until no other process or thread writes the same partial file."""
    place = part.with_name(f".{part.name}.lock")
    held = None
    while held is None:
        with _disk_errors(place):
            part.parent.mkdir(parents=True, exist_ok=True)
            held = claim(place)
        if held is None:
            report(0, None, now=True)
            time.sleep(REPORT_SECONDS)
    try:
        yield
    finally:
        held.release()


def _fill(url: str, part: Path, sha256: str, report: _Report) -> None:
    """Bring the partial file to its full length and check it."""
    continued = _size(part) > 0
    wanted = _fetch(url, part, sha256, report)
    found = _sha256(part, report)
    if not found.startswith(wanted) and continued:
        log.warning("%s did not belong to %s; it is downloaded anew", part, url)
        _remove(part)
        wanted = _fetch(url, part, sha256, report)
        found = _sha256(part, report)
    if not found.startswith(wanted):
        _remove(part)
        raise DownloadError(f"{url} gave a file with SHA-256 {found}, wanted {wanted}; it was thrown away")


def _fetch(url: str, part: Path, sha256: str, report: _Report) -> str:
    """Receive what is missing, by several connections where they are cut; return the hash to expect."""
    before = _size(part)
    for left in reversed(range(TRIES)):
        try:
            return _beside(lambda relay: _receive(url, part, sha256, relay), report)
        except _Cut as error:
            there = _size(part)
            if not left or there == before:  # a connection that never gave a byte is not tried again
                kept = f"; {there} bytes are kept in {part}" if there else ""
                raise DownloadError(f"{url}: {error}{kept}") from error
            log.info("%s: %s; going on at byte %d", url, error, there)
        report(there, None)
        time.sleep(PAUSE_SECONDS)
    raise AssertionError("the last try returns or raises")


class _Abandoned(BaseException):
    """Ends the thread of a download that nobody waits for any more."""


class _Relay:
    """Hands the reports of a download's thread to the thread that waits for it."""

    def __init__(self) -> None:
        self.sent: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.heard: queue.Queue[bool] = queue.Queue()

    def __call__(self, done: int, total: int | None, now: bool = False) -> None:
        self.sent.put(("report", (done, total, now)))
        if not self.heard.get():
            raise _Abandoned


def _beside(work: Callable[[_Relay], str], report: _Report) -> str:
    """Do some work in a thread of its own, so that a server that says nothing cannot delay a cancel.

    The callback is called in this thread, also while nothing arrives; when it raises, the work ends at its
    next report and writes nothing more.
    """
    relay = _Relay()

    def run() -> None:
        try:
            relay.sent.put(("result", work(relay)))
        except _Abandoned:
            return
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            relay.sent.put(("error", error))

    threading.Thread(target=run, name="oneshot-download", daemon=True).start()
    last: tuple[int, int | None] = (0, None)
    while True:
        try:
            kind, value = relay.sent.get(timeout=REPORT_SECONDS)
        except queue.Empty:
            kind, value = "idle", (*last, True)
        if kind == "result":
            return str(value)
        if kind == "error":
            raise value
        try:
            report(*value)
        except BaseException:
            relay.heard.put(False)
            raise
        if kind == "report":
            last = value[:2]
            relay.heard.put(True)


@dataclass(frozen=True)
class _Answer:
    """What a server says about a file before its bytes."""

    body: Any  # an open response; None where the partial file has its full length already
    start: int  # byte of the file with which the body begins
    total: int | None  # length of the file
    sha256: str  # to expect, "" when unknown


def _receive(url: str, part: Path, sha256: str, report: _Relay) -> str:
    """Write one connection's bytes to the partial file and return the hash to expect."""
    answer = _ask(url, part, sha256)
    if answer.body is None:
        return answer.sha256
    with answer.body:
        done, total = answer.start, answer.total
        _check_room(part, done, total)
        report(done, total, now=True)
        with _disk_errors(part):
            file = open(part, "ab" if done else "wb")  # closed by the next line
        with file:
            while block := _block(answer.body):
                report(done, total)  # before the write: an abandoned thread must not write any more
                _write(file, block, part)
                done += len(block)
    if total is not None and done != total:
        raise _Cut(f"the connection ended after {done} of {total} bytes")
    report(done, total, now=True)
    return answer.sha256


def _write(file: IO[bytes], block: bytes, part: Path) -> None:
    with _disk_errors(part):
        file.write(block)


def _block(body: Any) -> bytes:
    """Return the next bytes as soon as there are some, b"" at the end."""
    try:
        return body.read1(CHUNK_BYTES)
    except (OSError, HTTPException) as error:
        raise _Cut(_reason(error)) from error


def _ask(url: str, part: Path, sha256: str) -> _Answer:
    """Request the bytes that are missing; where they cannot be joined to the others, all of them."""
    start = _size(part)
    redirects = _Redirects()
    body = _open(url, start, redirects)
    redirects.note(body.headers)
    wanted = sha256 or redirects.sha256
    total = _length(url, body, redirects)
    if body.status == 200:
        return _Answer(body, 0, total, wanted)
    if wanted and body.status == 206 and _range_start(body.headers) == start:
        return _Answer(body, start, total, wanted)
    body.close()
    if wanted and body.status == 416 and total == start:
        return _Answer(None, start, total, wanted)
    if not start:
        raise DownloadError(f"{url} answered {body.status} to a request for the whole file")
    _remove(part)
    return _ask(url, part, sha256)


def _open(url: str, start: int, redirects: _Redirects) -> Any:
    """Connect, asking for the bytes from `start`; return a response of status 200, 206 or 416."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"only http and https addresses are downloaded from, got {url!r}")
    headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
    try:
        body = build_opener(redirects).open(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        body = error
    except DownloadError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise _Cut(_reason(error)) from error
    if body.status not in (200, 206, 416):
        body.close()
        raise DownloadError(f"{url} answered {body.status} {body.reason}", absent=body.status == 404)
    return body


class _Redirects(HTTPRedirectHandler):
    """Follows redirects and keeps what the hub says of a file before it sends the client to its storage."""

    http_error_308 = HTTPRedirectHandler.http_error_302  # Python 3.10 has none

    def __init__(self) -> None:
        self.sha256 = ""
        self.size: int | None = None

    def note(self, headers: HTTPMessage) -> None:
        """Keep the hash and the size that the hub sends with files in its large-file storage."""
        digest = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"').lower()
        if not self.sha256 and re.fullmatch("[0-9a-f]{64}", digest):
            self.sha256 = digest
            self.size = _number(headers.get("X-Linked-Size"))

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """Keep the headers of the redirect and follow it, but never from https to something else."""
        self.note(headers)
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new != "https" and new != old:
            raise DownloadError(f"{req.full_url} sends on to {newurl}, which is refused: not {old}")
        return super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)


def _length(url: str, body: Any, redirects: _Redirects) -> int | None:
    """Return the whole file's length, and refuse answers that contradict themselves."""
    whole = body.status == 200
    total = _number(body.headers.get("Content-Length")) if whole else _range_total(body.headers)
    encoding = body.headers.get("Content-Encoding", "identity")
    problem = ""
    if encoding != "identity":
        problem = f"sends the file in the encoding {encoding!r}, which was not asked for"
    elif None not in (total, redirects.size) and total != redirects.size:
        problem = f"offers {total} bytes for a file of {redirects.size} bytes"
    if problem:
        body.close()
        raise DownloadError(f"{url} {problem}")
    return redirects.size if total is None else total


def _check_room(part: Path, done: int, total: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - done > free:
        raise DownloadError(
            f"the file needs {total - done:,} more bytes in {part.parent}, where {free:,} are free"
        )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _range_start(headers: HTTPMessage) -> int:
    """Return the first byte that a partial answer brings, -1 when it does not say."""
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _range_total(headers: HTTPMessage) -> int | None:
    return _number(headers.get("Content-Range", "").rpartition("/")[2])


def _sha256(part: Path, report: _Report) -> str:
    """Hash a file; the callback can stop that, too."""
    digest, size = hashlib.sha256(), _size(part)
    with _disk_errors(part):
        file = open(part, "rb")  # closed by the next line
    with file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
            report(size, size)
    return digest.hexdigest()


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _remove(part: Path) -> None:
    with _disk_errors(part):
        part.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    """Say the first line of an error, of a wrapped one where urllib wraps it."""
    cause = getattr(error, "reason", None)
    text = str(cause or error).strip() or type(error).__name__
    return text.splitlines()[0]
