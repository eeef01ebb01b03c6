"""Signals that end the command line: Ctrl-C, SIGTERM (kill, shutdown) and SIGHUP (a closed terminal) alike.

The exit code is 128 and the signal's number, as shells have it: 130, 143 and 129. A signal that the parent
process had ignored, as nohup does with SIGHUP, stays ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from .console import note

EXIT_SIGNAL = 128
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last exists on Windows only, SIGHUP elsewhere
_ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_OTHERS = tuple(number for number in _ENDING if number != signal.SIGINT)  # Python itself raises for SIGINT


class Signalled(KeyboardInterrupt):
    """A signal that ends the program as Ctrl-C does.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code(stop: BaseException) -> int:
    """Exit code for what ended the program: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return EXIT_SIGNAL + int(getattr(stop, "number", signal.SIGINT))


@contextmanager
def raised_signals() -> Iterator[None]:
    """Raise `Signalled` within the block for all ending signals but SIGINT, which Python itself raises."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Signalled(number)

    with _handled(_OTHERS, handle):
        yield


@contextmanager
def stop_requests(on_first: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Turn the first ending signal within the block into a request, and raise `Signalled` for the second.

    Args:
        on_first: called for the first.

    Yields:
        A list that holds the signals received.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            raise Signalled(number)
        received.append(number)
        on_first()
        note("\nstopping after this step; Ctrl-C again stops at once")

    with _handled(_ENDING, handle):
        yield received


@contextmanager
def _handled(numbers: Sequence[int], handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only there Python can handle signals
        yield
        return
    wanted = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
