"""Texts of files cannot steer a terminal."""

from __future__ import annotations

import io
import json
import logging

import pytest

from oneshot_core.commands import console
from oneshot_core.commands.console import LogLines, ProgressBar
from oneshot_core.memory import one_line
from oneshot_core.texts import printable

HOSTILE = "\x1b]0;title\x07\x1b[2J\rgone\x9b31m\x7f\u202eback\u2028line"


@pytest.mark.parametrize("text", ["plain", "", "Ä 漢字 🙂", "tab stays out", "é\u0301"])
def test_ordinary_texts_stay(text: str) -> None:
    assert printable(text) == text


def test_control_characters_are_written_out() -> None:
    shown = printable(HOSTILE)
    assert shown.isprintable()
    assert shown == r"\x1b]0;title\x07\x1b[2J\rgone\x9b31m\x7f\u202eback\u2028line"
    assert printable("\ud800") == r"\ud800"


def test_kept_characters() -> None:
    assert printable("a\nb\tc\r", "\n\t") == "a\nb\tc\\r"


def test_nothing_of_it_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.say(HOSTILE)
    console.note(HOSTILE)
    console.note(f"error: {one_line(ValueError(HOSTILE))}")
    for text in capsys.readouterr():
        assert text.replace("\n", "").isprintable() and "title" in text
    bar = io.StringIO()
    with ProgressBar(HOSTILE, 2, stream=bar) as progress:
        progress.update(2)
    assert bar.getvalue().replace("\n", "").isprintable()


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.say_json({"text": HOSTILE})
    out = capsys.readouterr().out
    assert json.loads(out) == {"text": HOSTILE} and out.replace("\n", "").isprintable()


def test_the_log() -> None:
    record = logging.LogRecord("a", logging.WARNING, "", 0, "%s", (HOSTILE,), None)
    assert LogLines("%(levelname)s: %(message)s").format(record).isprintable()
