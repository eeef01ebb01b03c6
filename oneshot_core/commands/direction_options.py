"""The options of the verb directions, which has actions of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .method_options import option
from .option_values import factor, filled, layers, number, positive, slots

ACTIONS = {
    "text": "find the direction from one text to another",
    "sefa": "find the directions that change the styles of some layers most; needs no text",
    "ganspace": "find the principal components of w; needs no text",
    "difference": "make the direction from some latents to others",
    "combine": "add directions up, each times a factor; a negative one turns it round",
    "dictionary": "measure for every channel how it moves pictures in CLIP's space; then texts cost nothing",
    "convert": "rewrite another program's directions, or StyleCLIP's fs3.npy, as files of this one",
    "show": "say what a file holds, or how far an adapted generator's style space has moved",
}
BY, TEXT_WAYS = ("differences", "gradients"), ("gradient", "hybrid")
Adder = Callable[[argparse.ArgumentParser], None]


def add_directions(parser: argparse.ArgumentParser, common: Callable[..., None]) -> None:
    """Add the actions.

    Args:
        parser: of the verb.
        common: adds what every verb has; takes `device`.
    """
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in ACTIONS.items():
        text = f"{summary[0].upper()}{summary[1:]}."
        sub = actions.add_parser(name, help=summary, description=text, allow_abbrev=False)
        _ADDERS[name](sub)
        common(sub, device=name in ("text", "dictionary", "ganspace", "difference"))


def _generator(parser: Any, required: bool = True, text: str = "whose directions they are") -> None:
    option(parser, "--generator", f"checkpoint, or demo: {text}", metavar="FILE|demo", required=required)


def _out(parser: Any, what: str) -> None:
    option(parser, "--out", f"new file for {what}, ending in .safetensors", metavar="FILE", required=True)
    option(parser, "--force", "replace it when it exists", action="store_true")


def _folder(parser: Any) -> None:
    option(parser, "--out", "folder for one file per direction", metavar="DIR", required=True)


def _clip(parser: Any) -> None:
    group = parser.add_argument_group("CLIP (default: the demo's for the demo generator, else OpenAI's)")
    option(
        group, "--clip", "open_clip model (ViT-B-32-quickgelu), a weights file for it, MODEL=FILE, or demo",
        metavar="NAME|FILE",
    )  # fmt: skip
    option(group, "--offline", "never download weights", action="store_true")


def _statistics(parser: Any) -> None:
    group = parser.add_argument_group("statistics of style space, whose sigma is the unit")
    option(group, "--samples", "codes that they are measured from (100000)", type=positive, metavar="N")
    option(group, "--psi", "truncation of codes (0.7)", type=number(0.01, 10), default=0.7, metavar="X")
    option(group, "--cutoff", "truncate only the first K slots", type=int, metavar="K")


def _text(parser: argparse.ArgumentParser) -> None:
    _generator(parser)
    option(parser, "--to", "what pictures are to show, such as a smiling face", metavar="TEXT", required=True)
    option(
        parser,
        "--from",
        "what they show now, in the same words but for the one thing",
        metavar="TEXT",
        required=True,
        dest="neutral",
    )
    _out(parser, "the direction")
    option(parser, "--name", "what it is called (the text)", default="", metavar="NAME")
    how = parser.add_mutually_exclusive_group()
    option(how, "--dictionary", "read it from this file, at once", metavar="FILE")
    option(
        how,
        "--by",
        "without a dictionary: gradient, or hybrid, which then looks at the first channels in pictures "
        f"({TEXT_WAYS[0]})",
        choices=TEXT_WAYS,
        default=TEXT_WAYS[0],
    )
    which = parser.add_argument_group("which channels change (50)")
    one = which.add_mutually_exclusive_group()
    option(
        one, "--channels", "so many: 10 to 20 for colours, 100 to 200 for shapes", type=positive, metavar="N"
    )
    option(
        one,
        "--beta",
        "those of at least this score: with a dictionary 0.08 to 0.3; of gradients the result names one",
        type=number(0),
        metavar="X",
    )
    option(
        one,
        "--auto-beta",
        "with a dictionary, StyleCLIP's threshold that leaves more than N: 20 for faces, 100 for all else",
        type=positive,
        metavar="N",
    )
    option(which, "--layers", "only of these styles, such as 0-8,11", type=layers, metavar="LIST")
    option(which, "--per-layer", "at most so many of each style", type=positive, metavar="N")
    option(parser, "--seed", "of the samples of gradients (0)", type=int, default=0, metavar="N")
    _statistics(parser)
    _clip(parser)


def _sefa(parser: argparse.ArgumentParser) -> None:
    _generator(parser)
    _folder(parser)
    option(parser, "--layers", "convolutions, such as 0-1,4 (all)", type=layers, metavar="LIST")
    option(parser, "--count", "directions (5)", type=positive, default=5, metavar="N")


def _ganspace(parser: argparse.ArgumentParser) -> None:
    _generator(parser)
    _folder(parser)
    option(parser, "--count", "components (5)", type=positive, default=5, metavar="N")
    option(
        parser, "--samples", "codes that they are measured from (100000)", type=positive, default=100_000,
        metavar="N",
    )  # fmt: skip
    option(parser, "--seed", "of the codes (0)", type=int, default=0, metavar="N")


def _difference(parser: argparse.ArgumentParser) -> None:
    _generator(parser)
    option(parser, "--with", "latents whose pictures have it", metavar="FILE", required=True, dest="with_it")
    option(parser, "--without", "latents whose pictures do not", metavar="FILE", required=True)
    _out(parser, "the direction")
    option(parser, "--name", "what it is called", default="", metavar="NAME")


def _combine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "parts",
        help="directions, each with a factor (1), such as smile.safetensors:-0.5",
        nargs="+",
        type=factor,
        metavar="FILE[:X]",
    )
    _out(parser, "the sum")
    option(parser, "--name", "what it is called", default="", metavar="NAME")
    option(parser, "--slots", "keep only these slots or styles, such as 4-7", type=slots, metavar="A-B")


def _dictionary(parser: argparse.ArgumentParser) -> None:
    _generator(parser, text="whose channels are measured")
    _out(parser, "the dictionary; stopped, the same command goes on")
    option(
        parser,
        "--by",
        "differences: pictures with each channel moved to both sides, as StyleCLIP; gradients: without a "
        "picture per channel, faster by far",
        choices=BY,
        default=BY[0],
    )
    option(
        parser, "--images", "samples that channels are moved in (16)", type=positive, default=16, metavar="N"
    )
    option(
        parser, "--sigmas", "of differences: how far (5)", type=number(0.01, 100), default=5.0, metavar="X"
    )
    option(parser, "--layers", "styles, such as 0-8,11 (all of convolutions)", type=layers, metavar="LIST")
    option(parser, "--max-px", "of differences: draw up to this side only", type=positive, metavar="PX")
    option(
        parser,
        "--eight-bit",
        "of differences: show CLIP 8-bit pictures, as StyleCLIP does",
        action="store_true",
    )
    option(parser, "--batch", "pictures at a time (16)", type=positive, default=16, metavar="N")
    option(parser, "--half", "write rows in 16 bits", action="store_true")
    option(parser, "--seed", "of samples and statistics (0)", type=int, default=0, metavar="N")
    option(parser, "--fresh", "throw away what was measured before it was stopped", action="store_true")
    _statistics(parser)
    _clip(parser)


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        help="a boundary (.npy, .pt), components (ffhq_pca.pt, .npz), or StyleCLIP's fs3.npy",
        type=filled,
        metavar="IN",
    )
    option(
        parser,
        "--out",
        "new file ending in .safetensors; for components a folder",
        metavar="FILE|DIR",
        type=filled,
        required=True,
    )
    option(parser, "--force", "replace it when it exists", action="store_true")
    _generator(parser, text="that it was found on")
    option(parser, "--statistics", "of fs3.npy: its S_mean_std", metavar="FILE")
    option(parser, "--count", "of components: how many (all)", type=positive, metavar="N")
    option(parser, "--name", "what a boundary is called (the file's name)", default="", metavar="NAME")


def _show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a direction or a dictionary", nargs="?", type=filled, metavar="FILE")
    _generator(parser, required=False, text="the source of --adapted")
    option(parser, "--adapted", "say how far this generator's style space has moved", metavar="FILE")


_ADDERS: dict[str, Adder] = {
    "text": _text, "sefa": _sefa, "ganspace": _ganspace, "difference": _difference, "combine": _combine,
    "dictionary": _dictionary, "convert": _convert, "show": _show,
}  # fmt: skip
