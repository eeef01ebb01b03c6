"""Signals: all that end a program are alike; the first asks, the second insists; ignored ones stay so."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from oneshot_core.commands.interrupts import Signalled, exit_code, raised_signals, stop_requests

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if os.name == "posix" else []


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert before == [signal.getsignal(number) for number in NUMBERS]


@pytest.mark.parametrize("number", NUMBERS)
def test_each_raises_and_has_its_exit_code(number):
    with pytest.raises(KeyboardInterrupt) as caught, raised_signals():
        os.kill(os.getpid(), number)
    assert exit_code(caught.value) == 128 + number


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_asks_and_the_second_raises(number, capsys):
    asked = []
    with pytest.raises(Signalled), raised_signals(), stop_requests(lambda: asked.append(1)) as received:
        os.kill(os.getpid(), number)
        assert received == [number] and asked == [1]
        os.kill(os.getpid(), signal.SIGTERM)
    assert "stopping after this step" in capsys.readouterr().err


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raised_signals(), stop_requests() as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_are_left_alone():
    seen = []

    def work():
        with raised_signals(), stop_requests() as received:
            seen.append(received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]


def test_a_closed_terminal_does_not_end_the_run(monkeypatch):
    class Closed:
        encoding = "utf-8"

        def write(self, text):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("sys.stderr", Closed())
    with stop_requests() as received:
        os.kill(os.getpid(), signal.SIGHUP)
    assert received == [signal.SIGHUP]
