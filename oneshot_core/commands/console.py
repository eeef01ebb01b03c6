"""What the command line writes: a progress line, results as text or JSON, and errors of one line."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from ..texts import printable

BAR = "{desc} {bar:24} {n_fmt}/{total_fmt}  {remaining} left{postfix}"
REDRAW_SECONDS = 0.1
PLAIN_SECONDS = 60.0

# verb: what to do when memory was not enough, and what is kept
OUT_OF_MEMORY = {
    "demo": "use --precision bfloat16 or another --device; the same command goes on from the last saved step",
    "search": "use a smaller generator, a smaller --clip or another --device; nothing was kept",
    "adapt": "lower --batch, use --precision bfloat16, a smaller generator or another --device; the same "
    "command goes on from the last saved step",
    "sample": "lower --batch, or use a smaller generator or another --device; the pictures so far are kept",
    "edit": "lower --batch or --views, or use a smaller generator, a smaller --clip or another --device; a "
    "mapper's training goes on from the last saved step",
    "evaluate": "lower --batch, use a smaller --clip or another --device; nothing was kept",
    "invert": "lower --batch, or use a smaller generator, a smaller --lpips or another --device; nothing was "
    "kept",
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
    """How far a job is: a bar on a terminal, drawn by tqdm, else a plain line now and then.

    Args:
        label: what is done.
        total: steps in all.
        stream: where to write; default stderr.
        quiet: write nothing.
    """

    def __init__(self, label: str, total: int, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.label, self.total, self.quiet = printable(label), max(1, total), quiet
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._bar: Any = None
        self._began = self._told = time.monotonic()
        self._first = -1
        self._tenth = -1

    def update(self, done: int, losses: Mapping[str, float] | None = None, eta: float | None = None) -> None:
        """Show progress.

        Args:
            done: steps done.
            losses: shown by name.
            eta: seconds left, for plain lines; None: estimated from the pace so far.
        """
        if self.quiet:
            return
        if self._first < 0:
            self._first = done - 1
        numbers = "  ".join(f"{name} {value:.3g}" for name, value in (losses or {}).items())
        with suppress(OSError):  # a closed terminal must not end what runs
            if self._live:
                self._draw(done, numbers)
            else:
                self._tell(done, numbers, eta)

    def _draw(self, done: int, numbers: str) -> None:
        if self._bar is None:
            tqdm.monitor_interval = 0  # no thread that redraws while nothing happens
            self._bar = tqdm(
                total=self.total,
                initial=done - 1,
                desc=self.label,
                file=self._stream,
                dynamic_ncols=True,
                mininterval=REDRAW_SECONDS,
                bar_format=BAR,
            )
        self._bar.total = self.total
        self._bar.set_postfix_str(numbers, refresh=False)
        self._bar.update(done - self._bar.n)

    def _tell(self, done: int, numbers: str, eta: float | None) -> None:
        now = time.monotonic()
        if 10 * done // self.total <= self._tenth and now - self._told < PLAIN_SECONDS:
            return
        self._tenth, self._told = 10 * done // self.total, now
        spent = now - self._began
        left = spent / max(1, done - self._first) * (self.total - done) if eta is None else eta
        when = duration(spent) if done >= self.total else f"{duration(left)} left"
        line = f"{self.label}: {done}/{self.total}  {when}  {numbers}".rstrip()
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """End the line."""
        with suppress(OSError):
            if self._bar is not None:
                self._bar.bar_format = self._bar.bar_format.replace("{remaining} left", "{elapsed}")
                self._bar.refresh()
                self._bar.close()
        self._bar = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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
