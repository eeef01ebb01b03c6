"""The options of the verb edit, and which of them each method takes."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import Any

from ..ranges import check_number
from .console import BadInput
from .method_options import option
from .option_values import RATE, filled, number, positive

OPTIMISATION, MAPPER, GRADIENT, DIRECTION = METHODS = ("optimisation", "mapper", "gradient", "direction")
STARTS, SPACES, PREPROCESSINGS = ("given", "mean", "random"), ("w+", "style"), ("default", "legacy")
LEVELS = ("coarse", "medium", "fine")
MOST_STRENGTH = 1000.0
_TRAINED = {"steps", "learning_rate", "l2_weight", "space", "views", "seed", "preprocessing"}
_IDENTITY = {"identity", "identity_weight"}
TAKEN = {  # by each method, beside texts and what all take
    OPTIMISATION: _TRAINED | _IDENTITY | {"start"},
    MAPPER: _TRAINED | _IDENTITY
    | {"mapper", "strength", "optimiser", "single", "without", "train_on", "validate_every"},
    GRADIENT: {"strength", "samples", "seed"},
    DIRECTION: {"direction", "strength"},
}  # fmt: skip


def add_edit(parser: argparse.ArgumentParser) -> None:
    """Add what the verb edit asks for, but for how it runs."""
    option(parser, "--generator", "checkpoint, or demo", metavar="FILE|demo", required=True)
    option(
        parser, "--out", "folder for the results; a stopped edit goes on there", metavar="DIR", required=True
    )
    option(
        parser,
        "--method",
        "optimisation: a search per latent, for any text; mapper: a network that is trained once per text; "
        "gradient: the direction of style space from one text to another; direction: files of directions "
        "(optimisation)",
        choices=METHODS,
        default=OPTIMISATION,
    )
    what = parser.add_argument_group("what is edited")
    which = what.add_mutually_exclusive_group(required=True)
    option(which, "--seeds", "numbers and ranges, such as 0-3,42", metavar="LIST")
    option(which, "--latent", "codes from a file: of `search`, `edit` or another program", metavar="FILE")
    option(
        which, "--start", "of optimisation: the mean (free generation), or a random code of --seed at --psi",
        choices=STARTS[1:],
    )  # fmt: skip
    option(
        what, "--psi", "truncation of seeds: 1 none, 0 the mean (1; of --start random 0.7)",
        type=number(-10, 10), metavar="X",
    )  # fmt: skip
    option(what, "--class", "of seeds of a conditional generator", type=int, dest="class_index", metavar="N")
    option(what, "--adapted", "draw the edited latents by this generator too", metavar="FILE")
    texts = parser.add_argument_group("texts")
    option(texts, "--text", 'what the pictures are to show, such as "a person with a hat"', metavar="TEXT")
    option(
        texts, "--neutral-text", 'what they show now in the same words, such as "a person"', metavar="TEXT"
    )
    option(
        texts, "--clip", "open_clip model that reads them, a weights file, MODEL=FILE, or demo",
        metavar="NAME|FILE",
    )  # fmt: skip
    option(texts, "--offline", "never download weights", action="store_true")
    _search(parser)
    _mapper(parser)
    added = parser.add_argument_group("directions")
    option(
        added, "--direction", "a file of a direction, at a strength (1); repeatable", type=strengthened,
        action="append", metavar="FILE[:X]",
    )  # fmt: skip
    option(
        added, "--strength", "of the mapper or the directions, by which all are multiplied (1; gradient: 4)",
        type=number(-MOST_STRENGTH, MOST_STRENGTH), metavar="X",
    )  # fmt: skip
    option(
        added, "--samples", "most faces that the gradient is measured on (256)", type=positive, metavar="N"
    )


def _search(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimisation, and training of a mapper")
    option(group, "--space", "what moves: the code, or styles of convolutions (w+)", choices=SPACES)
    option(group, "--steps", "optimiser rounds (100; of a mapper 2000)", type=positive, metavar="N")
    option(group, "--learning-rate", "(0.1; of a mapper 0.5)", type=RATE, metavar="X")
    option(
        group, "--l2-weight",
        "how strongly codes are held: lower edits more (0.008; styles 0.0002; of a mapper 0.8)",
        type=number(low=0), metavar="X",
    )  # fmt: skip
    option(group, "--views", "random crops that CLIP sees instead of the picture (0)", type=int, metavar="N")
    option(group, "--seed", "of everything random (0)", type=int, metavar="N")
    option(
        group,
        "--preprocessing",
        "of pictures for CLIP; legacy: as the published code",
        choices=PREPROCESSINGS,
    )
    option(group, "--identity", "model_ir_se50.pth: the face is to stay the same person's", metavar="FILE")
    option(
        group,
        "--identity-weight",
        "of the face (0.1 where --identity is given)",
        type=number(low=0),
        metavar="X",
    )
    option(group, "--batch", "codes at once (2)", type=positive, default=2, metavar="N")


def _mapper(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("mapper")
    option(
        group, "--mapper", "a trained one, or a checkpoint of StyleCLIP's; else it is trained for --text",
        metavar="FILE",
    )  # fmt: skip
    option(group, "--optimiser", "(ranger)", choices=("ranger", "adam"))
    option(
        group, "--single", "one network for all slots instead of coarse, medium and fine",
        action="store_const", const=True,
    )  # fmt: skip
    option(
        group, "--without", "slots that stay: coarse (4, 8 px), medium (16, 32 px) or fine; repeatable",
        choices=LEVELS, action="append",
    )  # fmt: skip
    option(group, "--train-on", "latents to train on; default: drawn", metavar="FILE")
    option(group, "--validate-every", "steps (200)", type=positive, metavar="N")
    option(group, "--fresh", "throw away an earlier training in the folder", action="store_true")


def strengthened(text: str) -> tuple[str, float]:
    """Read FILE or FILE:X; a colon before anything but a number belongs to the file's name."""
    file, colon, last = text.rpartition(":")
    try:
        strength = float(last) if colon else None
    except ValueError:
        strength = None
    if strength is None:
        return filled(text), 1.0
    try:
        return filled(file), check_number(strength, "it", -MOST_STRENGTH, MOST_STRENGTH)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"write FILE or FILE:X, X a number from -{MOST_STRENGTH:g} to {MOST_STRENGTH:g}; got {text!r}"
        ) from None


def given(options: Namespace, *names: str) -> dict[str, Any]:
    """The options of these names that the user gave."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def check_options(options: Namespace) -> None:
    """Refuse options that the method does not take, and texts that are missing; raises BadInput."""
    method = options.method
    every = set().union(*TAKEN.values())
    for name in sorted(every - TAKEN[method]):
        if getattr(options, name) is not None:
            owners = " or ".join(one for one in METHODS if name in TAKEN[one])
            raise BadInput(f"--{name.replace('_', '-')} belongs to --method {owners}; leave it out")
    if options.mapper is not None:
        kept = {"strength"}
        for name in sorted(TAKEN[MAPPER] - {"mapper"} - kept):
            if getattr(options, name) is not None:
                told = name.replace("_", "-")
                raise BadInput(f"--{told} is for training, and --mapper gives a trained one; leave one out")
    wanted = method in (OPTIMISATION, GRADIENT) or (method == MAPPER and options.mapper is None)
    if wanted and not (options.text or "").strip():
        raise BadInput('--text is missing; say what the pictures are to show, such as "a smiling face"')
    if not wanted and (options.text or options.neutral_text):
        raise BadInput(f"--text has no use with a trained {method}; leave it out")
    if method == GRADIENT and not (options.neutral_text or "").strip():
        raise BadInput(
            '--neutral-text is missing; say what they show now in the same words, such as "a face"'
        )
    if method == DIRECTION and not options.direction:
        raise BadInput("--direction is missing; give a file of a direction")
