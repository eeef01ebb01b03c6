"""Entrance tests of the demo's CLIP: does it keep people apart that it is meant to keep?

    python -m oneshot_core.demo.making.entrance --report [--clip NAME=FILE ...] [--out FILE]

prints a table for the shipped CLIP and for every other that is named, over the looks that took part in
training and those held out. The people, the places of the windows and the sentences are drawn for this test
alone.

- consistency: semantic consistency L_con of the truth (the same people in the look, against plain), relative
  to that of total collapse, where every picture is the same: 0 is best, 1 is as bad as collapse;
- own person: how often the nearest of 48 plain people, both less their means, is the own one;
- right crop: how often a window of an eighth of the side is nearest to the same window of the plain picture
  among 16 of that picture;
- own sentence: how often the nearest of 24 full sentences, all of one look, is the own one. Their words are
  those of `sentences`, of which the first shipped CLIP was taught only some;
- reading: correlation, over 256 plain people, of picture times text direction with the factor.
"""

from __future__ import annotations

import argparse
import copy
import json
import random as python_random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checkpoints.native import read_tensors
from ...features import ClipEncoder, load_clip
from ...tensors import Images, seeded
from ..world import demo_encoders
from .faces import HELD_OUT_LOOKS, TRAINING_LOOKS, draw_looks, factors_from_latents
from .pool import Z_DIM
from .pretrain_clip import correlations
from .pretrain_encoders import windows
from .readings import reading_targets
from .sentences import HELD_OUT_TEMPLATE, LOOK_WORDS, READINGS, Shown, full_sentence, sentence

PEOPLE, SENTENCE_PEOPLE, READING_PEOPLE, CROPS = 48, 24, 256, 16
_SEED = 77_001  # of everything here; no training uses it
_TIE = 1e-4  # windows whose similarities are nearer than this count as the same


@dataclass(frozen=True)
class Aims:
    """What an encoder must reach to be let in; first over training looks, then over held-out ones."""

    consistency: tuple[float, float] = (0.15, 0.2)  # at most
    person: tuple[float, float] = (0.8, 0.5)
    crop: tuple[float, float] = (0.4, 0.3)
    sentence: float = 0.7
    reading: float = 0.5
    readings: int = 8  # factors that must be read that well


@dataclass(frozen=True)
class LookResult:
    """How well people are kept in one look."""

    consistency: float
    person: float
    crop: float
    sentence: float | None = None  # of looks that sentences have words for


@dataclass(frozen=True)
class Entrance:
    """The results of one encoder."""

    looks: Mapping[str, LookResult]
    readings: Mapping[str, float]
    crop_ceiling: float  # the same measure, plain against plain: windows of mere background look alike
    extras: Mapping[str, Any] = field(default_factory=dict)

    def passes(self, look: str, aims: Aims | None = None) -> bool:
        """Tell whether a look reaches consistency, own person and right crop."""
        aims, found = aims or Aims(), self.looks[look]
        held_out = look in HELD_OUT_LOOKS
        return (
            found.consistency <= aims.consistency[held_out]
            and found.person >= aims.person[held_out]
            and found.crop >= aims.crop[held_out]
        )

    def mean(self, looks: Sequence[str]) -> LookResult:
        """Average over looks."""
        rows = [self.looks[look] for look in looks]
        said = [row.sentence for row in rows if row.sentence is not None]
        return LookResult(
            sum(row.consistency for row in rows) / len(rows),
            sum(row.person for row in rows) / len(rows),
            sum(row.crop for row in rows) / len(rows),
            sum(said) / len(said) if said else None,
        )

    def read_well(self, aims: Aims | None = None) -> int:
        """Count the factors that are read well enough."""
        aims = aims or Aims()
        return sum(value >= aims.reading for value in self.readings.values())


class EntranceTest:
    """The pictures and sentences of the test, drawn once for several encoders."""

    def __init__(
        self,
        looks: Sequence[str] = (*TRAINING_LOOKS, *HELD_OUT_LOOKS),
        device: torch.device | str = "cpu",
        people: int = PEOPLE,
        readers: int = READING_PEOPLE,
    ) -> None:
        """Draw.

        Args:
            looks: to test, without the plain one.
            device: where pictures and encoders are.
            people: seen in every look; 48 in the aims.
            readers: plain faces that factors are read off.
        """
        z = torch.randn(max(people, readers), Z_DIM, generator=seeded(_SEED, 0, "demo.entrance"))
        self.factors = factors_from_latents(z).to(device)
        self.names, self.people, self.readers = tuple(looks), people, readers
        drawn, _ = draw_looks(self.factors[:people], ("plain", *looks), _SEED)
        self.plain, self.pictures = drawn[:, 0], dict(zip(looks, drawn[:, 1:].unbind(1), strict=True))
        rest = self.factors[people:readers]
        others = [draw_looks(part, ("plain",), _SEED)[0][:, 0] for part in rest.split(64) if len(part)]
        self.faces = torch.cat([self.plain, *others])[:readers]
        places = 2 * torch.rand(people * CROPS, 2, generator=seeded(_SEED, 0, "demo.entrance.crops")) - 1
        self.places = places.to(device) * (1 - 0.125)
        self.sentences = {look: self._sentences(look) for look in looks if look in LOOK_WORDS}

    def _sentences(self, look: str) -> list[str]:
        dice = python_random.Random(f"{_SEED}/{look}")
        rows = self.factors[:SENTENCE_PEOPLE].tolist()
        return [full_sentence(sentence(row, Shown.by(look), dice, 1.0), look, dice) for row in rows]

    @torch.no_grad()
    def run(self, clip: ClipEncoder) -> Entrance:
        """Examine an encoder, on the test's device."""
        plain, crops = _encoded(clip, self.plain), self._crops(clip, self.plain)
        looks = {}
        for look, pictures in self.pictures.items():
            found = _encoded(clip, pictures)
            said = self.sentences.get(look) if clip.tokenizer is not None else None
            looks[look] = LookResult(
                consistency(plain, found),
                own_share(_centred(found), _centred(plain)),
                crop_share(self._crops(clip, pictures), crops),
                None if said is None else own_share(found[: len(said)], clip.encode_text(said)),
            )
        readings = {} if clip.tokenizer is None else self._readings(clip)
        return Entrance(looks, readings, crop_share(crops, crops))

    def _crops(self, clip: ClipEncoder, pictures: Images) -> Tensor:
        """Features of the windows, [people, CROPS, D]; 16 px of 128, as the patch loss cuts them."""
        count = len(self.places)
        scales = torch.full((count,), 0.125, device=pictures.device)
        cut = windows(pictures.repeat_interleave(CROPS, 0), self.places, scales, torch.zeros_like(scales), 16)
        return _encoded(clip, cut).unflatten(0, (-1, CROPS))

    def _readings(self, clip: ClipEncoder) -> dict[str, float]:
        texts = [HELD_OUT_TEMPLATE.format(text) for pair in READINGS.values() for text in pair]
        pairs = clip.encode_text(texts).unflatten(0, (-1, 2))
        said = _encoded(clip, self.faces) @ F.normalize(pairs[:, 1] - pairs[:, 0], dim=-1).t()
        found = correlations(said, reading_targets(self.factors[: self.readers]))
        return dict(zip(READINGS, found.tolist(), strict=True))


def _encoded(clip: ClipEncoder, pictures: Images) -> Tensor:
    return torch.cat([clip.encode_images(part) for part in pictures.split(128)])


def _centred(features: Tensor) -> Tensor:
    return F.normalize(features - features.mean(0), dim=-1)


def consistency(source: Tensor, adapted: Tensor) -> float:
    """L_con of pictures against their source, relative to total collapse; [N, D] unit features."""
    before, after = source @ source.t(), adapted @ adapted.t()
    apart = 1 - torch.eye(len(source), device=source.device)
    return float(((after - before).square() * apart).sum() / ((1 - before).square() * apart).sum())


def own_share(features: Tensor, others: Tensor) -> float:
    """How often the nearest row of `others` is the own one, [N, D] unit features each."""
    nearest = (features @ others.t()).argmax(1)
    return float((nearest == torch.arange(len(nearest), device=nearest.device)).float().mean())


def crop_share(crops: Tensor, plain: Tensor) -> float:
    """How often a window is nearest to its own among those of the plain picture, ties counting as wrong.

    Args:
        crops: [N, K, D] unit features.
        plain: the same windows of the plain pictures.
    """
    similar = crops @ plain.transpose(1, 2)
    own = similar.diagonal(dim1=1, dim2=2)
    mask = torch.eye(similar.shape[-1], dtype=torch.bool, device=similar.device)
    best_other = similar.masked_fill(mask, -torch.inf).amax(2)
    return float((own > best_other + _TIE).float().mean())


def open_encoder(path: Path) -> ClipEncoder:
    """Load an encoder whose configuration is in its header (`train_encoders`) or in a .json beside it."""
    config = read_tensors(path)[1].get("config")
    return load_clip(path.stem, path, config or path.with_suffix(".json"), allow_download=False)


def table(results: Mapping[str, Entrance], aims: Aims | None = None) -> str:
    """Lay results out as Markdown, one table per encoder."""
    aims = aims or Aims()
    lines = [
        "Aims, training looks / held-out looks: consistency at most {} / {}, own person at least {} / {}, "
        "right crop at least {} / {}; own sentence at least {}; at least {} factors read with {}.".format(
            *aims.consistency, *aims.person, *aims.crop, aims.sentence, aims.readings, aims.reading
        )
    ]
    for name, result in results.items():
        lines += [
            "",
            f"### {name}",
            "",
            "| look | consistency | own person | right crop | own sentence | passes |",
        ]
        lines.append("|---" * 6 + "|")
        for look, found in result.looks.items():
            marked = f"{look} (held out)" if look in HELD_OUT_LOOKS else look
            lines.append(_row(marked, found, "yes" if result.passes(look, aims) else "no"))
        for title, group in (("training", TRAINING_LOOKS), ("held out", HELD_OUT_LOOKS)):
            tested = [look for look in group if look in result.looks]
            if tested:
                passed = sum(result.passes(look, aims) for look in tested)
                lines.append(_row(f"mean, {title}", result.mean(tested), f"{passed} of {len(tested)}"))
        read = ", ".join(f"{factor} {value:.2f}" for factor, value in result.readings.items())
        lines += ["", f"Readings, {result.read_well(aims)} of {len(result.readings)} well enough: {read}."]
        lines.append(f"Right crop, plain against plain: {result.crop_ceiling:.2f}.")
    return "\n".join(lines) + "\n"


def _row(name: str, found: LookResult, verdict: str) -> str:
    said = "–" if found.sentence is None else f"{found.sentence:.2f}"
    return (
        f"| {name} | {found.consistency:.2f} | {found.person:.2f} | {found.crop:.2f} | {said} | {verdict} |"
    )


def main(arguments: list[str] | None = None) -> None:
    """Examine encoders and print the table."""
    parser = argparse.ArgumentParser(prog="python -m oneshot_core.demo.making.entrance", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--report", action="store_true", help="print the table (this is all there is)")
    parser.add_argument("--clip", action="append", default=[], metavar="NAME=FILE", help="a further encoder")
    parser.add_argument("--no-shipped", action="store_true", help="leave the shipped encoder out")
    parser.add_argument(
        "--out", type=Path, help="write the table there too, and the numbers as .json beside it"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    encoders = {} if options.no_shipped else {"shipped": demo_encoders().clip}
    for item in options.clip:
        name, _, file = item.partition("=")
        encoders[name] = open_encoder(Path(file))
    test = EntranceTest(device=options.device)
    results = {name: test.run(copy.deepcopy(clip).to(options.device)) for name, clip in encoders.items()}
    text = table(results)
    sys.stdout.write(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
        numbers = {name: asdict(result) for name, result in results.items()}
        options.out.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
