"""The options of the verb invert."""

from __future__ import annotations

import argparse

from ..choices import PERCEPTUAL_NETS
from .method_options import option
from .option_values import RATE, filled, number, positive

# How the command line calls the methods of `inversion.METHODS`, and the encoder alone.
METHODS = {"ii2s": "ii2s", "nvidia": "projector (nvidia)", "rosinality": "projector (rosinality)"}
E4E = "e4e"


def add_invert(parser: argparse.ArgumentParser) -> None:
    """Add what the verb invert asks for, but for how it runs."""
    parser.add_argument(
        "pictures", type=filled, nargs="+", metavar="PICTURE", help="aligned pictures, such as align writes"
    )
    option(parser, "--generator", "checkpoint, or demo", metavar="FILE|demo", required=True)
    option(
        parser,
        "--out",
        "folder for latents.safetensors and pictures; a stopped inversion goes on there",
        metavar="DIR",
        required=True,
    )
    option(
        parser,
        "--method",
        "ii2s (default): by pixels and LPIPS, held among likely codes, so that edits work; nvidia, "
        "rosinality: the projectors of their programs; e4e: by an encoder (default with --e4e)",
        choices=(*METHODS, E4E),
    )
    option(
        parser,
        "--space",
        "of the projectors: one code for all slots (w), or one for each",
        choices=("w", "w+"),
    )
    option(
        parser,
        "--steps",
        "optimiser rounds per picture (1000; of e4e 0: its code as it is, 100 to 300 for more likeness)",
        type=_rounds,
        metavar="N",
    )
    option(parser, "--learning-rate", "of Adam (ii2s 0.01, projectors 0.1)", type=RATE, metavar="X")
    prior = "how strongly codes are held among likely ones (0.001; projectors 0)"
    option(parser, "--prior", prior, type=number(low=0), metavar="X")
    option(parser, "--e4e", "encoder to start from: e4e_ffhq_encode.pt, or one from convert", metavar="FILE")
    option(
        parser,
        "--quad",
        "cut the one photo by this file of align; else the quad beside a picture (NAME.json) is kept",
        metavar="FILE",
    )
    option(parser, "--seed", "of everything random (0)", type=int, default=0, metavar="N")
    option(parser, "--batch", "pictures at a time (1)", type=positive, default=1, metavar="N")
    group = parser.add_argument_group("perceptual net")
    option(group, "--lpips", "demo for the demo generator, else vgg as published", choices=PERCEPTUAL_NETS)
    option(group, "--offline", "never download weights", action="store_true")


def _rounds(text: str) -> int:
    return 0 if text.strip() == "0" else positive(text)
