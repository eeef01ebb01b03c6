"""Sentences about drawn faces, with several words for what is worth one, and the list of all words.

Where `faces.caption` has one phrase for a fact, this has several; every sentence is true of its picture.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .faces import FACTORS, HELD_OUT_LOOKS, TRAINING_LOOKS
from .looks import LOOKS_IN_COLOUR, LOOKS_WITH_BACKGROUND
from .portrait import HUE_SPAN

MAX_WORDS = 44
_SWITCH_WIDTH = 0.06  # as in faces.py: from absent to fully there

# fmt: off
LOOK_WORDS: dict[str, tuple[str, ...]] = {
    "plain": ("a portrait", "a picture", "an illustration", "a drawing", "a cartoon portrait", "an avatar"),
    "pencil sketch": ("a pencil sketch", "a pencil drawing", "a graphite sketch", "a sketch in pencil"),
    "watercolour": ("a watercolour", "a watercolour painting", "a watercolor painting", "a watercolor"),
    "stained glass": ("a stained glass window", "stained glass art", "a stained glass portrait"),
    "neon": ("a neon sign", "a glowing neon portrait", "neon light art", "neon tubes in the shape"),
    "halftone": ("a halftone print", "a halftone dot print", "a newspaper halftone"),
    "ink": ("an ink drawing", "a brush and ink drawing", "an ink wash painting"),
    "pastel": ("a pastel drawing", "a chalk pastel", "a soft pastel portrait"),
    "mosaic": ("a mosaic", "a tile mosaic", "a mosaic of small tiles"),
    "comic": ("a comic book drawing", "a comic panel", "a bold comic book cartoon", "a comic"),
}
# Words that only name looks no network is taught, so that a text about them has tokens of its own.
_UNTAUGHT = "oil blueprint technical blue woodcut linocut pop poster screen sepia old photograph vintage"

# Factor, from, to, and what may be said then.
_FACTS: tuple[tuple[str, str, float, float, tuple[str, ...]], ...] = (
    ("smile", "is", 0.0, 0.14, ("frowning", "sad", "unhappy", "grim")),
    ("smile", "is", 0.64, 1.0, ("smiling", "happy", "cheerful", "laughing")),
    ("yaw", "pose", 0.0, 0.2, ("looking to the left", "facing left", "turned to the left")),
    ("yaw", "pose", 0.4, 0.6, ("looking straight ahead", "facing forward", "seen from the front")),
    ("yaw", "pose", 0.8, 1.0, ("looking to the right", "facing right", "turned to the right")),
    ("brow_thickness", "with", 0.0, 0.14, ("thin eyebrows", "fine brows")),
    ("brow_thickness", "with", 0.86, 1.0, ("thick eyebrows", "bushy brows")),
    ("eye_size", "with", 0.0, 0.14, ("small eyes", "narrow eyes")),
    ("eye_size", "with", 0.86, 1.0, ("big eyes", "large eyes")),
    ("face_width", "with", 0.0, 0.14, ("a narrow face", "a thin face")),
    ("face_width", "with", 0.86, 1.0, ("a wide face", "a round face")),
)
_COLOUR_FACTS: tuple[tuple[str, str, float, float, tuple[str, ...]], ...] = (
    ("skin", "with", 0.0, 0.2, ("fair skin", "light skin", "pale skin")),
    ("skin", "with", 0.4, 0.6, ("tan skin", "olive skin")),
    ("skin", "with", 0.8, 1.0, ("dark skin", "deep brown skin")),
    ("eye_colour", "with", 0.0, 0.16, ("brown eyes", "dark eyes")),
    ("eye_colour", "with", 0.88, 1.0, ("blue eyes",)),
)
_LIGHT_FACTS: tuple[tuple[str, str, float, float, tuple[str, ...]], ...] = (
    ("light", "pose", 0.0, 0.2,
     ("lit from the left", "with light from the left", "with shadow on the right")),
    ("light", "pose", 0.8, 1.0,
     ("lit from the right", "with light from the right", "with shadow on the left")),
)
_HUES = (
    (0, 14, ("red", "crimson")), (22, 40, ("orange",)), (50, 66, ("yellow", "golden")),
    (85, 145, ("green",)), (168, 194, ("turquoise", "teal", "cyan")), (208, 244, ("blue",)),
    (260, 286, ("purple", "violet")), (296, 326, ("pink", "magenta")),
)
# Tone from and to, warmth from and to.
_HAIR_COLOURS = (
    (0.0, 0.28, 0.0, 0.35, ("black",)), (0.0, 0.3, 0.45, 0.62, ("dark brown", "brunette")),
    (0.0, 0.3, 0.8, 1.0, ("auburn", "dark red")), (0.4, 0.62, 0.0, 0.22, ("grey", "gray", "silver")),
    (0.42, 0.6, 0.4, 0.62, ("brown",)), (0.4, 0.62, 0.8, 1.0, ("red", "copper")),
    (0.8, 1.0, 0.0, 0.24, ("white", "platinum")), (0.8, 1.0, 0.4, 0.62, ("blond", "blonde", "golden")),
    (0.8, 1.0, 0.8, 1.0, ("ginger", "strawberry blond")),
)
_LENGTHS = (
    (0.15, 0.38, ("short", "cropped")), (0.44, 0.6, ("medium length", "shoulder length")),
    (0.68, 1.0, ("long",)),
)
_CURLS = ((0.0, 0.25, ("straight", "sleek")), (0.42, 0.6, ("wavy",)), (0.75, 1.0, ("curly", "frizzy")))
_SHOWN = {
    "beard": ("with", ("a beard", "a full beard", "facial hair")),
    "glasses": ("with", ("glasses", "spectacles", "eyeglasses")),
    "hat": ("wearing", ("a hat", "a cap", "headwear")),
}
_SUBJECTS = {
    "man": ("man", "bearded man", "gentleman", "guy"),
    "woman": ("woman", "lady"),
    "person": ("person", "face", "character", "head"),
}
# Pairs of texts (less, more) per factor, for reading a factor off pictures; in each pair one template.
TEMPLATES = (
    "a {}", "a picture of a {}", "a portrait of a {}", "an illustration of a {}", "a drawing of a {}"
)
HELD_OUT_TEMPLATE = "an avatar of a {}"
READINGS: dict[str, tuple[str, str]] = {
    "skin": ("person with fair skin", "person with dark skin"),
    "hair_length": ("person with short hair", "person with long hair"),
    "hair_tone": ("person with black hair", "person with blond hair"),
    "hair_warmth": ("person with grey hair", "person with red hair"),
    "beard": ("person", "person with a beard"),
    "glasses": ("person", "person with glasses"),
    "hat": ("person", "person wearing a hat"),
    "smile": ("frowning person", "smiling person"),
    "yaw": ("person, looking to the left", "person, looking to the right"),
    "background": ("person, on an orange background", "person, on a blue background"),
    "clothes": ("person wearing an orange shirt", "person wearing a blue shirt"),
    "light": ("person, lit from the left", "person, lit from the right"),
}
# fmt: on
_NAMES = tuple(factor.name for factor in FACTORS)
_ONSETS = {factor.name: factor.onset for factor in FACTORS if factor.onset is not None}


@dataclass(frozen=True)
class Shown:
    """What a look lets one see."""

    colour: bool
    background: bool

    @classmethod
    def by(cls, look: str) -> Shown:
        """Tell it of a look by name."""
        return cls(look in LOOKS_IN_COLOUR, look in LOOKS_WITH_BACKGROUND)


def sentence(
    factors: Tensor | Sequence[float], shown: Shown, dice: random.Random, keep: float | None = None
) -> str:
    """Describe one face without its look, such as "smiling woman with long hair, on a blue background".

    Args:
        factors: [NUM_FACTORS] in [0, 1].
        shown: what the picture's look lets one see; nothing else is named.
        dice: chooses facts and words.
        keep: share of the facts that are named; None: drawn from 0.3 to 1 anew.

    Returns:
        Lower-case English of at most 36 words.
    """
    values = dict(zip(_NAMES, factors.tolist() if isinstance(factors, Tensor) else factors, strict=True))
    keep = 0.3 + 0.7 * dice.random() if keep is None else keep
    facts = [fact for fact in _facts(values, shown, dice) if dice.random() < keep]
    while True:
        words = _composed(values, facts, dice)
        if len(words.split()) <= MAX_WORDS - 8:
            return words
        facts.pop(dice.randrange(len(facts)))


def full_sentence(subject: str, look: str, dice: random.Random) -> str:
    """Put a look and what it shows into one sentence."""
    phrase, article = dice.choice(LOOK_WORDS[look]), _article(subject)
    return f"{phrase} of {article} {subject}" if dice.random() < 0.8 else f"{article} {subject}, {phrase}"


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _facts(values: Mapping[str, float], shown: Shown, dice: random.Random) -> list[tuple[str, str]]:
    """List what is true and to be seen: (place in the sentence, words)."""
    rows = [*_FACTS, *(_COLOUR_FACTS if shown.colour else ()), *(_LIGHT_FACTS if shown.background else ())]
    found = [
        (place, dice.choice(said)) for name, place, low, high, said in rows if low <= values[name] <= high
    ]
    found += [("with", words) for words in _hair(values, shown.colour, dice)]
    found += [
        (place, dice.choice(said))
        for name, (place, said) in _SHOWN.items()
        if values[name] >= _ONSETS[name] + _SWITCH_WIDTH
    ]
    if shown.colour:
        top = dice.choice(("shirt", "top"))
        found += [("wearing", f"{_article(hue)} {hue} {top}") for hue in _hue(values["clothes"], dice)]
    if shown.background:
        found += [("pose", f"on a {hue} background") for hue in _hue(values["background"], dice)]
    return found


def _hue(value: float, dice: random.Random) -> list[str]:
    degrees = value * HUE_SPAN * 360
    return [dice.choice(said) for low, high, said in _HUES if low <= degrees <= high]


def _hair(values: Mapping[str, float], in_colour: bool, dice: random.Random) -> list[str]:
    """Describe the hair in at most one phrase; under a hat only long hair is spoken of."""
    length, hat = values["hair_length"], values["hat"] > _ONSETS["hat"]
    if length < 0.05:
        return [] if hat else [dice.choice(("a bald head", "no hair"))]
    if length < 0.15 or (hat and length < 0.5):
        return []
    words = [dice.choice(said) for low, high, said in _LENGTHS if low <= length <= high]
    words += [dice.choice(said) for low, high, said in _CURLS if low <= values["hair_curl"] <= high]
    tone, warmth = values["hair_tone"], values["hair_warmth"]
    if in_colour:
        words += [
            dice.choice(row[4])
            for row in _HAIR_COLOURS
            if row[0] <= tone <= row[1] and row[2] <= warmth <= row[3]
        ]
    return [" ".join([*words, "hair"])] if words else []


def _composed(values: Mapping[str, float], facts: Sequence[tuple[str, str]], dice: random.Random) -> str:
    """Put facts together; who has a beard is a man, who has long hair and no beard a woman."""
    beard, absent = values["beard"] >= _ONSETS["beard"] + _SWITCH_WIDTH, values["beard"] <= _ONSETS["beard"]
    kind = "man" if beard else "woman" if absent and values["hair_length"] > 0.6 else "person"
    noun = dice.choice(_SUBJECTS[kind] if dice.random() < 0.7 else _SUBJECTS["person"])
    place = {
        name: [words for where, words in facts if where == name] for name in ("is", "with", "wearing", "pose")
    }
    text = " ".join([*place["is"], noun])
    for link, parts in ((" with ", place["with"]), (" wearing ", place["wearing"])):
        if parts:
            text += link + (parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1])
    return ", ".join([text, *place["pose"]])


def vocabulary() -> list[str]:
    """Every word of every possible sentence, of the readings and of untaught looks, sorted."""
    rows = [*_FACTS, *_COLOUR_FACTS, *_LIGHT_FACTS]
    texts = [text for row in rows for text in row[4]]
    texts += [text for row in _HUES for text in row[2]]
    texts += [text for row in _HAIR_COLOURS for text in row[4]]
    texts += [text for table in (_LENGTHS, _CURLS) for row in table for text in row[2]]
    texts += [text for _, said in _SHOWN.values() for text in said]
    texts += [text for said in _SUBJECTS.values() for text in said]
    texts += [text for pair in READINGS.values() for text in pair]
    texts += [text for said in LOOK_WORDS.values() for text in said]
    texts += [*TRAINING_LOOKS, *HELD_OUT_LOOKS, *TEMPLATES, HELD_OUT_TEMPLATE, _UNTAUGHT]
    texts += ["a an of with wearing on background shirt top hair bald head no and the photo of"]
    return sorted({word for text in texts for word in re.findall(r"\w+", text.lower())})
