"""Texts of files and paths made fit to be shown: what would steer a terminal is written out instead."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, halves of surrogate pairs, separators of lines
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, keep: str = "") -> str:
    """Write control characters as escapes, such as \\x1b, so that a text only shows what it says.

    Args:
        text: any text.
        keep: control characters that stay, such as "\\n" where the text may have several lines.

    Returns:
        The text without control characters but for those; characters that turn the direction of writing are
        written out, too.
    """
    if text.isprintable() and not _DIRECTIONS.intersection(text):
        return text
    return "".join(_shown(one) if one not in keep else one for one in text)


def _shown(one: str) -> str:
    if one in _DIRECTIONS or unicodedata.category(one) in _HIDDEN:
        return one.encode("unicode_escape").decode("ascii")
    return one
