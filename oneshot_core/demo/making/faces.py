"""Drawn faces: the factors, how a latent gives them, the picture in any look, and captions that are true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...tensors import Images, Latents, check_shape, seeded
from .layers import ease
from .looks import HELD_OUT_LOOKS, LOOKS, LOOKS_IN_COLOUR, LOOKS_WITH_BACKGROUND, TRAINING_LOOKS, Paper
from .portrait import HUE_SPAN, paint

__all__ = [
    "FACTORS",
    "HELD_OUT_LOOKS",
    "NUM_FACTORS",
    "TRAINING_LOOKS",
    "Factor",
    "caption",
    "draw",
    "draw_looks",
    "factors_from_latents",
]

_SWITCH_WIDTH = 0.06  # a switch-like factor goes from absent to present within this much of its range
_MIN_SIZE_PX = 16


@dataclass(frozen=True)
class Factor:
    """One thing that differs between faces.

    Attributes:
        name: unique identifier.
        description: what 0 and 1 mean.
        low, high: words for captions, empty where the factor is not worth a word.
        onset: for switch-like factors, below it the thing is absent and 0.06 above it fully there; the rest
            of the range changes its kind. None for continuous factors.
    """

    name: str
    description: str
    low: str = ""
    high: str = ""
    onset: float | None = None


# fmt: off
FACTORS: tuple[Factor, ...] = (
    Factor("skin", "skin from fair to dark", "fair skin", "dark skin"),
    Factor("hair_tone", "hair from black to light"),
    Factor("hair_warmth", "hair from ash to red"),
    Factor("hair_length", "hair from bald to below the shoulders", "short", "long"),
    Factor("hair_volume", "hair from flat to big"),
    Factor("hair_curl", "hair from straight to curly", "straight", "curly"),
    Factor("fringe", "from a bare forehead to a full fringe"),
    Factor("face_width", "face from narrow to wide"),
    Factor("jaw", "jaw from pointed and slight to square and strong"),
    Factor("eye_size", "eyes from small to big", "small eyes", "big eyes"),
    Factor("eye_colour", "eyes from brown over green to blue", "brown eyes", "blue eyes"),
    Factor("eye_spacing", "eyes from close to wide apart"),
    Factor("brow_thickness", "eyebrows from thin to thick", "thin eyebrows", "thick eyebrows"),
    Factor("brow_tilt", "eyebrows from worried to stern"),
    Factor("nose_length", "nose from short to long"),
    Factor("mouth_width", "mouth from small to wide"),
    Factor("smile", "from frowning over neutral to smiling with teeth", "frowning", "smiling"),
    Factor("yaw", "head turned left or right in the picture", "looking to the left", "looking to the right"),
    Factor("tilt", "head leaning left or right in the picture"),
    Factor("light", "light from the left or right", "lit from the left", "lit from the right"),
    Factor("background", "hue of the background, most of the way round from red to red"),
    Factor("clothes", "hue of the clothes, most of the way round from red to red"),
    Factor("glasses", "glasses, from round to square", "", "glasses", onset=0.66),
    Factor("beard", "beard, from short to full", "", "a beard", onset=0.74),
    Factor("hat", "hat, from a cap to one with a wide brim", "", "a hat", onset=0.80),
)
# fmt: on
NUM_FACTORS = len(FACTORS)
_FACTOR = {factor.name: factor for factor in FACTORS}
_MAX_WORDS = 25
_LOOK_PHRASES = {
    "plain": ("a portrait", "a picture", "an illustration"),
    "pencil sketch": ("a pencil sketch", "a pencil drawing", "a graphite sketch"),
    "watercolour": ("a watercolour", "a watercolour painting", "a watercolor painting"),
    "stained glass": ("a stained glass window", "stained glass art", "a stained glass portrait"),
    "neon": ("a neon sign", "a glowing neon portrait", "neon light art"),
    "halftone": ("a halftone print", "a halftone dot print", "a two-colour halftone picture"),
    "ink": ("an ink drawing", "a brush and ink drawing", "an ink wash painting"),
    "pastel": ("a pastel drawing", "a chalk pastel", "a soft pastel portrait"),
    "mosaic": ("a mosaic", "a tile mosaic", "a small-tile mosaic"),
    "comic": ("a comic book drawing", "a comic panel", "a bold comic book cartoon"),
    "oil painting": ("an oil painting", "a painting in oil", "an impasto painting"),
    "blueprint": ("a blueprint", "a blueprint drawing", "a technical drawing on blue paper"),
    "woodcut": ("a woodcut", "a woodcut print", "a linocut print"),
    "pop art": ("a pop art print", "a pop art poster", "a screen print"),
    "sepia photograph": ("a sepia photograph", "an old photograph", "a vintage sepia photo"),
    "cel shading": ("a cel shaded drawing", "an animation still", "an anime drawing"),
    "line art": ("a line drawing", "line art", "a pen drawing"),
}
# Words for parts of a hue circle, in degrees; what lies between two words gets none.
_HUES = (
    (0, 12, "red"), (24, 38, "orange"), (52, 64, "yellow"), (85, 145, "green"), (172, 192, "turquoise"),
    (210, 242, "blue"), (262, 284, "purple"), (298, 324, "pink"),
)  # fmt: skip
# Hair colours: tone from and to, warmth from and to, word.
_HAIR_COLOURS = (
    (0.0, 0.28, 0.0, 0.35, "black"), (0.0, 0.3, 0.45, 0.62, "dark brown"), (0.0, 0.3, 0.8, 1.0, "auburn"),
    (0.4, 0.62, 0.0, 0.2, "grey"), (0.42, 0.6, 0.4, 0.6, "brown"), (0.4, 0.6, 0.8, 1.0, "red"),
    (0.82, 1.0, 0.0, 0.22, "white"), (0.82, 1.0, 0.4, 0.62, "blond"), (0.82, 1.0, 0.82, 1.0, "ginger"),
)  # fmt: skip


def factors_from_latents(z: Latents) -> Tensor:
    """Read a face's factors off its latent, by a fixed function.

    Each latent is divided by its root mean square first, as the mapping network of StyleGAN2 does, so its
    scale does not matter; factor i is then the standard normal distribution function of coordinate i, hence
    uniform on [0, 1] for normally distributed latents.

    Args:
        z: [N, Z], Z at least `NUM_FACTORS`.

    Returns:
        [N, NUM_FACTORS] in [0, 1], with the dtype of z.

    Raises:
        ValueError: for another shape or too few coordinates.
    """
    check_shape(z, "z", (None, None))
    if z.shape[1] < NUM_FACTORS:
        raise ValueError(
            f"z has {z.shape[1]} coordinates, the faces need at least {NUM_FACTORS}; use a wider z"
        )
    normal = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
    return 0.5 * (1 + torch.erf(normal[:, :NUM_FACTORS] / math.sqrt(2)))


def draw(factors: Tensor, look: str = "plain", seed: int = 0, size_px: int = 128) -> Images:
    """Draw faces.

    Args:
        factors: [N, NUM_FACTORS] in [0, 1].
        look: "plain", or one of `TRAINING_LOOKS` or `HELD_OUT_LOOKS`.
        seed: of the paper's grain, tiles and the like, which all pictures of a look share; the plain look
            has none.
        size_px: width and height in pixels, at least 16; made for 64 to 256.

    Returns:
        [N, 3, size_px, size_px], float32 in [-1, 1], on the device of `factors`.

    Raises:
        ValueError: for an unknown look, a wrong shape, or factors outside [0, 1].
    """
    if look not in LOOKS:
        raise ValueError(f"look {look!r} is not known; choose one of {', '.join(LOOKS)}")
    if size_px < _MIN_SIZE_PX:
        raise ValueError(f"size_px must be at least {_MIN_SIZE_PX}, got {size_px}; 128 is usual")
    portrait = paint(_values(factors), size_px)
    paper = Paper(portrait, seeded(seed, 0, f"demo.{look}"))
    return LOOKS[look](portrait, paper).clamp(0.0, 1.0) * 2 - 1


def draw_looks(
    factors: Tensor, looks: Sequence[str], seed: int = 0, size_px: int = 128
) -> tuple[Tensor, Tensor]:
    """Draw the same faces in several looks at once, and two layers that pictures can be made from.

    Args:
        factors: [N, NUM_FACTORS] in [0, 1].
        looks: names as for `draw`.
        seed: of the looks' papers.
        size_px: width and height in pixels.

    Returns:
        Pictures [N, looks, 3, size_px, size_px] in [-1, 1], each as `draw` gives it, and layers
        [N, 2, size_px, size_px] in [0, 1]: how much of a pixel is background, and how much is outline.

    Raises:
        ValueError: see `draw`.
    """
    if unknown := [look for look in looks if look not in LOOKS]:
        raise ValueError(f"look {unknown[0]!r} is not known; choose among {', '.join(LOOKS)}")
    portrait = paint(_values(factors), size_px)
    pictures = [
        LOOKS[look](portrait, Paper(portrait, seeded(seed, 0, f"demo.{look}"))).clamp(0.0, 1.0) * 2 - 1
        for look in looks
    ]
    layers = torch.cat([portrait.region("background"), portrait.lines(1.6)], dim=1)
    return torch.stack(pictures, dim=1), layers


def _values(factors: Tensor) -> dict[str, Tensor]:
    """Name the factors, each [N, 1, 1, 1], and split switches into how much is shown and of what kind."""
    check_shape(factors, "factors", (None, NUM_FACTORS))
    if factors.numel() and not bool(((factors >= 0) & (factors <= 1)).all()):
        low, high = factors.min().item(), factors.max().item()
        raise ValueError(f"factors must lie in [0, 1], got {low:.3g} to {high:.3g}; clamp them")
    values: dict[str, Tensor] = {}
    for factor, column in zip(FACTORS, factors.float().unbind(1), strict=True):
        value = column.view(-1, 1, 1, 1)
        values[factor.name] = value
        if factor.onset is not None:
            values[f"{factor.name}_shown"] = ease(value, factor.onset, factor.onset + _SWITCH_WIDTH)
            values[f"{factor.name}_kind"] = ((value - factor.onset) / (1 - factor.onset)).clamp_min(0.0)
    return values


def caption(factors: Tensor, look: str, seed: int) -> str:
    """Describe one face in one look, in words that are true of the picture.

    Which facts are named and how is drawn from the seed. Colours are named only for looks that show them.

    Args:
        factors: [NUM_FACTORS] in [0, 1].
        look: "plain", or one of `TRAINING_LOOKS` or `HELD_OUT_LOOKS`.
        seed: of the choice of facts and words.

    Returns:
        Lower-case English of at most 25 words, such as "a pencil sketch of a smiling woman with long hair".

    Raises:
        ValueError: for an unknown look or a wrong shape.
    """
    check_shape(factors, "factors", (NUM_FACTORS,))
    if look not in LOOKS:
        raise ValueError(f"look {look!r} is not known; choose one of {', '.join(LOOKS)}")
    values = dict(zip(_FACTOR, factors.tolist(), strict=True))
    chances = iter(torch.rand(64, generator=seeded(seed, 0, "demo.caption")).tolist())
    phrases = _LOOK_PHRASES[look]
    phrase = phrases[int(next(chances) * len(phrases))]
    comes_first = next(chances) < 0.8
    keep = 0.35 + 0.5 * next(chances)
    facts = [fact for fact in _facts(values, look) if next(chances) < keep]
    while True:
        subject = _subject(values, facts)
        words = f"{phrase} of {subject}" if comes_first else f"{subject}, {phrase}"
        if len(words.split()) <= _MAX_WORDS:
            return words
        facts.pop(int(next(chances) * len(facts)))


def _facts(values: dict[str, float], look: str) -> list[tuple[str, str]]:
    """List what is true and to be seen: (place in the sentence, words)."""
    in_colour = look in LOOKS_IN_COLOUR
    facts = [("is", _extreme(values, "smile", 0.12, 0.65)), ("pose", _extreme(values, "yaw", 0.18, 0.82))]
    facts += [("with", words) for words in _hair(values, in_colour)]
    facts += [("with", _extreme(values, name, 0.12, 0.88)) for name in ("brow_thickness", "eye_size")]
    facts += [(place, _shown(values, name)) for name, place in (("beard", "with"), ("glasses", "with"))]
    facts.append(("wearing", _shown(values, "hat")))
    if in_colour:
        facts += [("with", _extreme(values, name, 0.12, 0.9)) for name in ("skin", "eye_colour")]
        facts.append(("wearing", _hue(values["clothes"], "{} shirt")))
    if look in LOOKS_WITH_BACKGROUND:
        facts.append(("pose", _hue(values["background"], "on {} background")))
        facts.append(("pose", _extreme(values, "light", 0.15, 0.85)))
    return [(place, words) for place, words in facts if words]


def _extreme(values: dict[str, float], name: str, low: float, high: float) -> str:
    """Return the factor's word when its value is near an end, else nothing."""
    factor, value = _FACTOR[name], values[name]
    return factor.low if value < low else factor.high if value > high else ""


def _is_shown(values: dict[str, float], name: str) -> bool:
    """Tell whether a switch-like factor is fully there."""
    onset = _FACTOR[name].onset
    assert onset is not None
    return values[name] >= onset + _SWITCH_WIDTH


def _shown(values: dict[str, float], name: str) -> str:
    """Return a switch-like factor's word when it is fully there, else nothing."""
    return _FACTOR[name].high if _is_shown(values, name) else ""


def _hue(value: float, template: str) -> str:
    """Return the template with the name of a hue, or nothing for hues between names."""
    degrees = value * HUE_SPAN * 360
    word = next((word for low, high, word in _HUES if low <= degrees <= high), "")
    return template.format(("an " if word[0] in "aeiou" else "a ") + word) if word else ""


def _hair(values: dict[str, float], in_colour: bool) -> list[str]:
    """Describe the hair in at most one phrase."""
    length, hat = values["hair_length"], values["hat"] > (_FACTOR["hat"].onset or 0)
    if length < 0.05:
        return [] if hat else ["a bald head"]
    if length < 0.15 or (hat and length < 0.5):
        return []
    words = [_extreme(values, "hair_length", 0.38, 0.68), _extreme(values, "hair_curl", 0.25, 0.75)]
    tone, warmth = values["hair_tone"], values["hair_warmth"]
    if in_colour:
        words += [row[4] for row in _HAIR_COLOURS if row[0] <= tone <= row[1] and row[2] <= warmth <= row[3]]
    words = [word for word in words if word]
    return [" ".join([*words, "hair"])] if words else []


def _subject(values: dict[str, float], facts: list[tuple[str, str]]) -> str:
    """Put facts together to "a smiling woman with long hair and glasses wearing a hat, looking to the left".

    In this world who has a beard is a man, who has long hair and no beard a woman; others are a person.
    """
    beard = _is_shown(values, "beard")
    absent = values["beard"] <= (_FACTOR["beard"].onset or 0)
    noun = "man" if beard else "woman" if absent and values["hair_length"] > 0.6 else "person"
    place = {
        name: [words for where, words in facts if where == name] for name in ("is", "with", "wearing", "pose")
    }
    sentence = " ".join(["a", *place["is"], noun])
    for link, parts in ((" with ", place["with"]), (" wearing ", place["wearing"])):
        if parts:
            sentence += link + _listed(parts)
    return ", ".join([sentence, *place["pose"]]) if place["pose"] else sentence


def _listed(parts: list[str]) -> str:
    """Join parts with commas and "and"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
