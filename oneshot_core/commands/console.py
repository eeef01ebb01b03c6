"""What the command line writes: a progress line, results as text or JSON, and errors of one line."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

from ..texts import printable

BAR_WIDTH = 24
SHORTEST_BAR = 8
REDRAW_SECONDS = 0.1
PLAIN_SECONDS = 60.0

# verb: what to do when memory was not enough, and what is kept
OUT_OF_MEMORY = {
    "demo": "use --precision bfloat16 or another --device; the same command goes on from the last saved step",
    "search": "use a smaller generator, a smaller --clip or another --device; nothing was kept",
    "adapt": "lower --batch, use --precision bfloat16, a smaller generator or another --device; the same "
    "command goes on from the last saved step",
    "sample": "lower --batch, or use a smaller generator or another --device; the pictures so far are kept",
    "batch": "lower the jobs' batch, or use a smaller generator or another --device; what is done is kept",
}


class BadInput(ValueError):
    """The user asked for something that cannot be done; the message says what to change."""


class Failed(Exception):
    """The run failed for a reason that is no error in this program; the message says it all."""


class Interrupted(Exception):
    """The user stopped the program; the message says what was kept and how to go on.

    Args:
        message: the text.
        number: of the signal that did it.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class ProgressBar:
    """One line that shows how far a job is, redrawn in place on a terminal, else a plain line now and then.

    Args:
        label: what is done.
        total: steps in all.
        stream: where to write; default stderr.
        quiet: write nothing.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        label: str,
        total: int,
        stream: TextIO | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.quiet = printable(label), max(1, total), quiet
        self._stream, self._clock = stream or sys.stderr, clock
        self._live = self._stream.isatty()
        self._began = self._drawn = clock()
        self._first: int | None = None
        self._tenth = -1
        self._line = ""
        self._unfinished = False

    def update(self, done: int, losses: Mapping[str, float] | None = None, eta: float | None = None) -> None:
        """Show progress.

        Args:
            done: steps done.
            losses: shown by name.
            eta: seconds left; None: estimated from the pace so far.
        """
        if self._first is None:
            self._first = done - 1
        if self.quiet:
            return
        now = self._clock()
        if eta is None:
            eta = (now - self._began) / max(1, done - self._first) * (self.total - done)
        self._line = self._text(done, eta, losses or {})
        if self._live:
            if now - self._drawn >= REDRAW_SECONDS or done >= self.total:
                self._redraw(now)
        elif 10 * done // self.total > self._tenth or now - self._drawn >= PLAIN_SECONDS:
            self._tenth, self._drawn = 10 * done // self.total, now
            self._write(self._line + "\n")

    def _redraw(self, now: float) -> None:
        self._drawn, self._unfinished = now, True
        self._write(f"\r\x1b[K{self._line}")

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a closed terminal must not end what runs
            self._stream.write(text)
            self._stream.flush()

    def _text(self, done: int, eta: float, losses: Mapping[str, float]) -> str:
        left = f"{duration(eta)} left" if done < self.total else f"{duration(self._clock() - self._began)}"
        numbers = "  ".join(f"{name} {value:.3g}" for name, value in losses.items())
        count = f"{done}/{self.total}  {left}"
        if not self._live:
            return f"{self.label}: {count}  {numbers}".rstrip()
        columns = shutil.get_terminal_size().columns - 1
        room = columns - len(self.label) - len(count) - 4
        width = min(BAR_WIDTH, room)
        bar = ""
        if width >= SHORTEST_BAR:
            filled = round(width * min(1.0, done / self.total))
            bar = f" {'━' * filled}{'╌' * (width - filled)}"
            if not _can_write(self._stream, bar):
                bar = f" [{'#' * filled}{'.' * (width - filled)}]"
        line = f"{self.label}{bar} {count}"
        return f"{line}  {numbers}"[:columns].rstrip()

    def close(self) -> None:
        """End the line."""
        if self._line and self._live:
            self._redraw(self._clock())
        if self._unfinished:
            self._write("\n")
        self._unfinished = False

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def duration(seconds: float) -> str:
    """Write seconds as 0:07, 12:34 or 1:02:03."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, last = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{last:02}" if hours else f"{minutes}:{last:02}"


def say(text: str, stream: TextIO | None = None) -> None:
    """Write lines for the user.

    Characters that the terminal lacks are replaced; control characters, as a file or a path may hold them to
    steer the terminal, are written out.
    """
    out = stream or sys.stdout
    encoding = out.encoding or "utf-8"
    out.write(printable(text, "\n\t").encode(encoding, "replace").decode(encoding) + "\n")
    out.flush()


def say_json(values: Any) -> None:
    """Write JSON values to stdout."""
    text = json.dumps(values, indent=2, ensure_ascii=True, allow_nan=False)
    say(text.replace("\x7f", "\\u007f"))  # the one control character that JSON need not escape


def note(text: str) -> None:
    """Write one line to stderr, where it does not mix with results; nothing where the terminal is closed."""
    with suppress(OSError):
        say(text, sys.stderr)


class LogLines(logging.Formatter):
    """Formats messages of the log without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of one message."""
        return printable(super().format(record), "\n\t")
