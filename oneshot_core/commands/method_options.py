"""Options of the command line that several verbs share: of the method, of texts and further pictures."""

from __future__ import annotations

import argparse
from typing import Any

from ..choices import METHOD_STEPS, PRECISIONS, PRESETS
from .option_values import RATE, filled, number, positive, schedule, shares, weight

NAMES = ("FILE", "DIR", "PICTURE", "URL", "FILE|demo", "NAME|FILE", "NAME|PICTURE")  # never empty


def option(parser: Any, name: str, help_text: str, **more: Any) -> None:
    """Add an option; a name of a file, folder or address may not be empty."""
    if more.get("metavar") in NAMES:
        more.setdefault("type", filled)
    parser.add_argument(name, help=help_text, **more)


def precision(parser: Any) -> None:
    """Add the number format of forward passes."""
    option(
        parser,
        "--precision",
        "of the networks' forward passes (auto: bfloat16 where the device has units for it, which needs less "
        "memory and is faster; else float32)",
        choices=PRECISIONS,
    )


def aims(parser: argparse.ArgumentParser) -> None:
    """Add texts and further pictures."""
    group = parser.add_argument_group("texts and further pictures")
    option(group, "--source-text", "what the generator draws, such as photo", metavar="TEXT")
    option(group, "--target-text", "what it is to draw, such as sketch", metavar="TEXT")
    option(group, "--more-texts", "further target texts", nargs="+", metavar="TEXT")
    option(group, "--text-weights", "share of each target text (all the same)", type=shares, metavar="W,W")
    option(group, "--more-targets", "further pictures", nargs="+", metavar="PICTURE")
    option(group, "--target-weights", "share of each picture (all the same)", type=shares, metavar="W,W")


def method(parser: argparse.ArgumentParser) -> None:
    """Add the method and what can be changed of it."""
    group = parser.add_argument_group("method")
    option(group, "--preset", f"the method ({PRESETS[0]})", choices=PRESETS)
    told = ", ".join(f"{name} {steps}" for name, steps in METHOD_STEPS.items())
    option(group, "--steps", f"optimiser rounds ({told})", type=positive, metavar="N")
    option(group, "--batch", "images per random step", type=positive, metavar="N")
    option(
        group,
        "--weight",
        "weight of a term, such as semantic, patch, adversarial, lpips, pixel; 0 leaves it out; repeatable",
        type=weight,
        action="append",
        metavar="NAME=V",
    )
    option(
        group,
        "--schedule",
        "reference steps to random steps: 1:3 as the published code (default), 3:1 as the paper's text",
        type=schedule,
        metavar="R:N",
    )
    option(group, "--mixing", "probability of style mixing", type=number(0, 1), metavar="P")
    option(
        group,
        "--crop-px",
        "side of the compared crops (an eighth of the picture; official: 128)",
        type=positive,
        metavar="N",
    )
    option(group, "--learning-rate", "Adam's base rate (0.002)", type=RATE, metavar="R")
    option(group, "--discriminator-rate", "of the discriminator's Adam (the same)", type=RATE, metavar="R")
    option(
        group,
        "--trained-parts",
        "parts of the generator, with commas, among mapping, constant, affine, convolution, noise, rgb, "
        "style offsets (constant,affine,convolution,noise); style offsets alone can be kept as a look",
        metavar="PARTS",
    )
    option(
        group,
        "--layers",
        "of the texts of stylegan_nada: layers that are trained in each step (two thirds); 0: all",
        type=int,
        metavar="N",
    )
    option(
        group,
        "--ema-half-life",
        "half-life of the weights' average in steps (312.5, at most an eighth of the steps done)",
        type=number(above=0),
        metavar="STEPS",
    )
    precision(group)
