"""JSON from outside: within bounds, typed, one kind of error."""

from __future__ import annotations

import json

import pytest
from fuzzing import damaged, mutated_json

from oneshot_core.json_values import MAX_DEPTH, Fields, JsonError, parse, read


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nul",
        "NaN",
        "[Infinity]",
        "1e999",
        '"\\ud800"',
        b"\xff\xfe",
        "1" * 5000,
        nested(MAX_DEPTH + 1),
    ],
)
def test_what_is_no_plain_json_is_refused_by_name(text):
    with pytest.raises(JsonError, match="^the header"):
        parse(text, "the header")


def test_depth_is_bounded_without_recursion():
    assert parse(nested(MAX_DEPTH), "x") is not None
    with pytest.raises(JsonError, match="deep"):
        parse(nested(100_000), "x")


def test_a_byte_order_mark_is_no_damage(tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "ü"}).encode())
    assert read(path) == {"a": "ü"}


def test_members_are_typed():
    fields = Fields({"t": "x", "n": 3, "f": 0.5, "b": True, "l": ["a"], "o": {"p": 1}}, "settings")
    assert (fields.text("t"), fields.whole("n"), fields.number("n"), fields.number("f")) == ("x", 3, 3, 0.5)
    assert (fields.flag("b"), fields.texts("l", 1), fields.object("o").whole("p")) == (True, ["a"], 1)
    assert fields.whole("absent", default=7) == 7
    fields.close()


@pytest.mark.parametrize(
    ("take", "message"),
    [
        (lambda f: f.whole("b"), "settings: b must be a whole number, found true"),
        (lambda f: f.whole("f"), "found 0.5"),
        (lambda f: f.whole("n", 4, 9), "a whole number from 4 to 9, found 3"),
        (lambda f: f.number("n", high=2), "of at most 2, found 3"),
        (lambda f: f.number("n", low=4), "of at least 4, found 3"),
        (lambda f: f.text("n"), "a text, found 3"),
        (lambda f: f.text("t", choices=("y", "z")), "one of y, z, found 'x'"),
        (lambda f: f.flag("n"), "true or false"),
        (lambda f: f.texts("l", 0), "at most 0"),
        (lambda f: f.numbers("l", 5), "a list of numbers, found 'a'"),
        (lambda f: f.object("l"), "settings: l must be an object"),
        (lambda f: f.object("o").text("p"), "settings: o: p must be a text"),
        (lambda f: f.text("absent"), "settings lacks 'absent'"),
        (lambda f: f.close(), "unknown entry 'b'"),
        (lambda f: Fields([1], "plan"), "plan must be an object, found a list with 1 entries"),
    ],
)
def test_what_does_not_fit_is_refused_by_place(take, message):
    fields = Fields({"t": "x", "n": 3, "f": 0.5, "b": True, "l": ["a"], "o": {"p": 1}}, "settings")
    with pytest.raises(JsonError, match=message):
        take(fields)


def test_messages_quote_no_control_characters():
    with pytest.raises(JsonError) as caught:
        Fields({"a": "\x1b[31mred"}, "x").whole("a")
    assert "\x1b" not in str(caught.value)


def test_blind_damage_ends_in_json_errors():
    sound = json.dumps({"a": [1, 2.5, {"b": "ü", "c": None}], "d": {"e": True, "f": -1e30}}).encode()
    refused = 0
    for seed in range(2000):
        try:
            parse(damaged(sound, seed), "x")
        except JsonError:
            refused += 1
    assert refused > 1000


def test_the_fuzzer_reaches_every_member():
    values = {"a": [1, {"b": 2}], "c": "x"}
    assert len({json.dumps(mutated_json(values, seed)) for seed in range(400)}) > 60
