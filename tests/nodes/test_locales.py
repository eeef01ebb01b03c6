"""The texts in locales/: English is what the schemas say, Chinese is complete and keeps every fact."""

from __future__ import annotations

import re

import pytest
from comfy_pack import needs_comfy
from make_locales import LOCALES, english, flat, read

LANGUAGES = sorted(path.name for path in LOCALES.iterdir())
NUMBER = re.compile(r"\d+(?:\.\d+)?")
NAME = re.compile(r"%\w+%|\w+/\w+|\.(?:safetensors|pt|pkl)\b|`[^`]+`|\bw\+|\b[a-z]+16\b|\b[a-z]+32\b")
HALF_WIDTH = re.compile(r"[\u4e00-\u9fff][,;:!?]|[,;:!?][\u4e00-\u9fff]")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def test_languages_are_those_that_are_tested() -> None:
    assert LANGUAGES == ["en", "zh"]


@needs_comfy()
def test_english_is_what_the_schemas_say() -> None:
    """After a change: PYTHONPATH=tests/live python tests/nodes/make_locales.py, then translate it."""
    assert read("en") == english()


def test_chinese_has_the_same_keys_in_the_same_order() -> None:
    assert list(flat(read("zh"))) == list(flat(read("en")))


def test_chinese_texts_are_translations() -> None:
    told = flat(read("en"))
    found = {key: faults(key, told[key], text) for key, text in flat(read("zh")).items()}
    assert {key: list_ for key, list_ in found.items() if list_} == {}


def faults(key: str, told: str, text: str) -> list[str]:
    """What is wrong with a Chinese text; names of inputs may leave out what their tooltip says."""
    found = []
    if not CHINESE.search(text) or text == told:
        found.append("not translated")
    if HALF_WIDTH.search(text):
        found.append("half-width punctuation")
    for kind in () if key.endswith(".name") else (NUMBER, NAME):
        found += [f"{fact} is missing" for fact in kind.findall(told) if fact not in kind.findall(text)]
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_plain_for_the_page(language: str) -> None:
    """The page compiles texts as messages, in which these marks have a meaning; texts are one line."""
    for key, text in flat(read(language)).items():
        assert text.strip() and not set(text) & set("{}@|<>\n"), key


def test_one_name_has_one_translation() -> None:
    """Inputs and outputs of one English name are called the same in every node."""
    english_names, chinese = flat(read("en")), flat(read("zh"))
    found: dict[str, set[str]] = {}
    for key, name in english_names.items():
        if key.endswith(".name"):
            found.setdefault(f"{key.split('.')[1]} {name}", set()).add(chinese[key])
    assert {name: texts for name, texts in found.items() if len(texts) > 1} == {
        "outputs adapted": {"适配生成器", "适配图像"}
    }
