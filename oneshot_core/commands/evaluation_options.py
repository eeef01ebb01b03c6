"""The options of the verb evaluate."""

from __future__ import annotations

import argparse
from typing import Any

from ..choices import FITS, PERCEPTUAL_NETS
from .alignment_options import quad
from .option_values import ZOOM, filled, number, positive

_FRAMING = (
    ("--zoom", "how much smaller the square of the target is (1)", ZOOM),
    ("--offset-x", "where the square lies, left (-1) to right (1) (0)", number(-1, 1)),
    ("--offset-y", "where the square lies, top (-1) to bottom (1) (0)", number(-1, 1)),
)


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Add what the verb asks for, but for how it runs."""

    def name(option: str, metavar: str, text: str, **more: Any) -> None:
        parser.add_argument(option, type=filled, metavar=metavar, help=text, **more)

    name("adapted", "ADAPTED", "adapted generator or a run's folder; several are compared", nargs="+")
    name("--generator", "FILE|demo", "the source, who was adapted", required=True)
    name(
        "--target",
        "PICTURE",
        "what it was adapted to, or demo:LOOK; repeatable",
        required=True,
        action="append",
    )
    name("--out", "DIR", "folder for report, figures and sheet", required=True)
    add = parser.add_argument
    add("--snapshots", action="store_true", help="compare the snapshots in the run's folder, a row each")
    add("--seeds", default="0-63", metavar="LIST", help="the latents that are judged (0-63)")
    add("--psi", type=number(-10, 10), default=1.0, metavar="X", help="truncation: 1 none (1)")
    add("--class", type=int, dest="class_index", metavar="N", help="of a conditional generator")
    add("--batch", type=positive, default=8, metavar="N", help="pictures at a time (8)")
    fit = f"as for adapt: how the target becomes square ({FITS[0]})"
    add("--fit", choices=FITS, default=FITS[0], help=fit)
    for option, text, reader in _FRAMING:
        add(option, type=reader, metavar="X", help=f"as for adapt: {text}")
    add("--quad", type=quad, metavar="JSON", help="as for adapt: where a face lies in the target")
    _add_judges(parser)


def _add_judges(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who judges")

    def name(option: str, metavar: str, text: str, **more: Any) -> None:
        group.add_argument(option, type=filled, metavar=metavar, help=text, **more)

    name(
        "--clip",
        "NAME|FILE",
        "open_clip model, a weights file, MODEL=FILE, or demo; one that took no part in the adaptation "
        "(ViT-B-16-quickgelu; for the demo the demo's); repeatable",
        action="append",
    )
    strict = "refuse a CLIP that took part in the adaptation, or may have"
    group.add_argument("--strict", action="store_true", help=strict)
    nets = "perceptual net: alex, vgg, squeeze or demo (alex)"
    group.add_argument("--lpips", choices=PERCEPTUAL_NETS, help=nets)
    name(
        "--reference",
        "PICTURE|DIR",
        "pictures of the target's domain, for KID and FID: hundreds rather than few; repeatable; needs the "
        "package torch-fidelity",
        action="append",
        default=[],
    )
    name(
        "--inception",
        "FILE",
        "weights of FID's Inception; default: looked for in torch's cache, else downloaded (91 MB)",
    )
    name(
        "--faces",
        "FILE",
        "weights of facenet-pytorch's InceptionResnetV1, for identity; needs that package",
    )
    group.add_argument("--offline", action="store_true", help="never download weights")
