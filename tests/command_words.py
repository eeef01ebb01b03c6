"""Commands of the tests of the command line."""

from __future__ import annotations

from pathlib import Path

from oneshot_core import cli


def run(capsys, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = cli.main([str(word) for word in words])
    told = capsys.readouterr()
    return code, told.out, told.err


def adapt_words(files, out: Path, *more: object) -> list[object]:
    words = ["adapt", "--generator", files["generator"], "--target", files["target"], "--out", out]
    return [*words, "--steps", 4, "--search-steps", 3, "--seeds", "0-1", "--device", "cpu", *more]
