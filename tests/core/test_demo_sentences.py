"""Sentences are true, have the words of the list, and name only what a look shows."""

from __future__ import annotations

import random
import re

import pytest
import torch

from oneshot_core.demo.making.faces import FACTORS, HELD_OUT_LOOKS, TRAINING_LOOKS
from oneshot_core.demo.making.readings import reading_targets
from oneshot_core.demo.making.sentences import (
    HELD_OUT_TEMPLATE,
    LOOK_WORDS,
    MAX_WORDS,
    READINGS,
    TEMPLATES,
    Shown,
    full_sentence,
    sentence,
    vocabulary,
)

EVERYTHING = Shown(colour=True, background=True)


def factors(**values: float) -> list[float]:
    return [values.get(factor.name, 0.5) for factor in FACTORS]


def said(keep: float = 1.0, shown: Shown = EVERYTHING, seed: int = 0, **values: float) -> str:
    return sentence(factors(**values), shown, random.Random(seed), keep)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"smile": 0.95}, "smiling happy cheerful laughing"),
        ({"smile": 0.05}, "frowning sad unhappy grim"),
        ({"glasses": 0.9}, "glasses spectacles eyeglasses"),
        ({"hat": 0.95}, "hat cap headwear"),
        ({"beard": 0.95}, "beard facial"),
        ({"skin": 0.02}, "fair light pale"),
        ({"hair_length": 0.9, "beard": 0.2}, "long"),
        ({"background": 226 / 360 / 0.9}, "blue turquoise purple"),
    ],
)
def test_what_is_there_is_said(values: dict[str, float], words: str) -> None:
    for seed in range(20):
        assert set(words.split()) & set(re.findall(r"\w+", said(seed=seed, **values))), values


def test_what_is_not_there_is_not_said() -> None:
    for seed in range(50):
        words = said(seed=seed, glasses=0.3, beard=0.3, hat=0.3, smile=0.5)
        assert not re.search(r"glasses|spectacles|beard|facial|hat|cap\b|headwear|smiling|sad|man\b", words)


def test_a_look_without_colour_names_none() -> None:
    colours = r"red|orange|yellow|golden|green|turquoise|teal|cyan|blue|purple|violet|pink|skin|blond|grey"
    dice = random.Random(0)
    for _ in range(200):
        row = [dice.random() for _ in FACTORS]
        assert not re.search(colours, sentence(row, Shown(False, False), dice, 1.0))


def test_all_words_are_in_the_list_and_sentences_fit() -> None:
    words, dice, longest = set(vocabulary()), random.Random(1), 0
    for _ in range(400):
        look = dice.choice(list(LOOK_WORDS))
        text = full_sentence(sentence([dice.random() for _ in FACTORS], Shown.by(look), dice), look, dice)
        used = re.findall(r"\w+", text)
        assert set(used) <= words, set(used) - words
        longest = max(longest, len(used))
    assert 15 < longest <= MAX_WORDS
    texts = [
        template.format(text)
        for template in (*TEMPLATES, HELD_OUT_TEMPLATE)
        for p in READINGS.values()
        for text in p
    ]
    assert {word for text in texts for word in re.findall(r"\w+", text)} <= words


def test_words_for_looks_are_of_those_in_training() -> None:
    assert set(LOOK_WORDS) == {"plain", *TRAINING_LOOKS}
    assert not set(HELD_OUT_LOOKS) & {
        text.removeprefix("a ").removeprefix("an ") for row in LOOK_WORDS.values() for text in row
    }
    assert HELD_OUT_TEMPLATE not in TEMPLATES


def test_few_facts_are_named_when_few_are_kept() -> None:
    row = {"smile": 0.95, "glasses": 0.9, "skin": 0.05, "hair_length": 0.9}
    assert len(said(0.0, **row).split()) < 4 < len(said(1.0, **row).split())


def test_readings_rise_with_what_their_texts_say() -> None:
    low, high = (torch.tensor([factors(**dict.fromkeys(READINGS, value))]) for value in (0.1, 0.9))
    rise = (reading_targets(high) - reading_targets(low))[0]
    for name, value in zip(READINGS, rise.tolist(), strict=True):
        assert name in ("background", "clothes") or value >= 0.79, name
    hues = torch.tensor([factors(background=degrees / 360 / 0.9) for degrees in (31, 226)])
    found = reading_targets(hues)[:, list(READINGS).index("background")]
    assert found[1] > 1 > -1 > found[0]
