"""The command line: one command, one verb per task; only parsing, so that --help imports nothing heavy.

Exit codes: 0 done, 1 the run failed, 2 bad input; 130 ended by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from .choices import (
    DEVICES,
    FITS,
    NOISE_MODES,
    OWN_DRAW,
    PERCEPTUAL_NETS,
    PROFILES,
    SEARCH_METHODS,
    SEED_DRAWS,
)
from .commands import alignment_options, edit_options, evaluation_options, inversion_options
from .commands.console import OUT_OF_MEMORY, BadInput, Failed, Interrupted, LogLines, note
from .commands.direction_options import add_directions
from .commands.examples import EXAMPLES
from .commands.interrupts import exit_code, raised_signals
from .commands.method_options import aims, method, option, precision
from .commands.option_values import (
    RATE,
    ZOOM,
    look,
    number,
    numbers,
    positive,
    slots,
    weight,
)
from .memory import is_out_of_memory, one_line
from .writing import WriteError, in_words

EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT = 0, 1, 2
_OPTIONS = {  # settings whose option has another name
    "mix_from": "the start of --mix-slots",
    "mix_to": "the end of --mix-slots",
    "batch_size": "--batch",
}

# verb: module in commands/ and function
VERBS = {
    "demo": "demo:demo",
    "info": "files:info",
    "convert": "files:convert",
    "look": "looks:look_command",
    "search": "search:search_command",
    "adapt": "adapt:adapt_command",
    "sample": "sample:sample",
    "edit": "edit:edit_command",
    "evaluate": "evaluate:evaluate_command",
    "batch": "batch:batch",
    "recipe": "recipes:recipe_command",
    "directions": "directions:directions_command",
    "align": "align:align_command",
    "paste": "align:paste_command",
    "invert": "invert:invert_command",
}

DESCRIPTION = """\
One picture in, a whole generator out: adapt a StyleGAN2 to the look of ONE picture.

Start with  oneshot demo : it needs no download and takes a few minutes on a CPU."""


def _common(parser: argparse.ArgumentParser, device: bool = True) -> None:
    group = parser.add_argument_group("running")
    if device:
        option(
            group,
            "--device",
            "where to compute; auto: cuda, else mps, else cpu",
            choices=DEVICES,
            default="auto",
        )
        option(group, "--threads", "CPU threads; default: the usable cores", type=positive, metavar="N")
    option(group, "--json", "print the result as JSON", action="store_true")
    option(group, "--quiet", "show no progress", action="store_true")
    option(group, "--debug", "show the traceback of an error and the log", action="store_true")


def _encoders(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("encoders (default: the demo's for the demo generator, else as below)")
    option(
        group,
        "--clip",
        "open_clip model (ViT-B-32-quickgelu, OpenAI's weights), a weights file for it, MODEL=FILE, or demo; "
        "several as A+B*0.5",
        metavar="NAME|FILE",
    )
    option(
        group,
        "--lpips",
        "perceptual net: alex, vgg, squeeze or demo (alex)",
        choices=PERCEPTUAL_NETS,
        default=None,
    )
    option(group, "--offline", "never download weights", action="store_true")


def _target(parser: argparse.ArgumentParser) -> None:
    option(parser, "--generator", "checkpoint of the source generator, or demo", metavar="FILE|demo")
    option(parser, "--target", "the one picture, or demo:LOOK for a shipped one", metavar="PICTURE")
    option(parser, "--out", "folder for the results", metavar="DIR", required=True)
    option(
        parser,
        "--recipe",
        "start from the recipe in a JSON file, a run's folder or an adapted generator; options change it",
        metavar="FILE",
    )
    option(
        parser,
        "--fit",
        f"how the picture becomes square ({FITS[0]}); stretch is the published code's; of letterbox the bars "
        "do not count",
        choices=FITS,
    )
    option(parser, "--zoom", "of crop: how much smaller the square is (1)", type=ZOOM, metavar="X")
    for axis, ends in (("x", "left (-1) to right (1)"), ("y", "top (-1) to bottom (1)")):
        where = f"of crop: where the square lies, {ends} (0, the middle)"
        option(parser, f"--offset-{axis}", where, type=number(-1, 1), metavar="X")
    where = "of a photo: the face's square, in the file that align wrote; instead of the above"
    option(parser, "--quad", where, type=alignment_options.quad, metavar="JSON")
    option(
        parser,
        "--mask",
        "picture of the target's size, white where the target counts, black where nothing is learnt from it",
        metavar="PICTURE",
    )
    _seed_and_profile(parser)


def _seed_and_profile(parser: argparse.ArgumentParser) -> None:
    option(parser, "--seed", "of everything random (0)", type=int, metavar="N")
    option(parser, "--profile", "repaired (default) or as published (official)", choices=PROFILES)


def _results(parser: argparse.ArgumentParser) -> None:
    keep = parser.add_argument_group("results")
    option(keep, "--seeds", "samples in the grid (0-7)", default="0-7", metavar="LIST")
    option(keep, "--without-discriminator", "leave it out of adapted.safetensors", action="store_true")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    option(parser, "--out", "folder for the results (out/demo)", metavar="DIR", default="out/demo")
    option(parser, "--target", "a shipped target, see --list; or any picture file", metavar="NAME|PICTURE")
    option(parser, "--list", "name the shipped targets and stop", action="store_true")
    option(parser, "--steps", "steps of the adaptation", type=positive, metavar="N")
    option(parser, "--search-steps", "steps of the latent search", type=positive, metavar="N")
    _seed_and_profile(parser)
    precision(parser)
    option(parser, "--fresh", "throw away what an earlier demo left in the folder", action="store_true")
    _common(parser)
    parser.set_defaults(offline=True, recipe=None)


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a checkpoint, or any other file; or demo", metavar="FILE")
    _common(parser, device=False)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", help="checkpoint of any known format, or demo", metavar="IN")
    parser.add_argument(
        "output", help="new file: .safetensors, or .pt for rosinality's format", metavar="OUT"
    )
    option(parser, "--dtype", "of the weights", choices=("float32", "float16"), default="float32")
    option(parser, "--without-discriminator", "leave the discriminator out", action="store_true")
    encoder = "IN's encoder instead of its generator: of an e4e file, or of ArcFace's model_ir_se50.pth"
    option(parser, "--encoder", encoder, action="store_true")
    _looks(parser)
    option(parser, "--force", "replace OUT when it exists", action="store_true")
    _common(parser, device=False)


def _looks(parser: argparse.ArgumentParser) -> None:
    option(
        parser,
        "--look",
        "add a look of the verb look, at a strength from -1 to 2 (1); several add up; repeatable",
        type=look,
        action="append",
        default=[],
        dest="looks",
        metavar="FILE[:X]",
    )


def _add_look(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="the generator that was adapted, or demo", metavar="SOURCE")
    parser.add_argument(
        "adapted", help='the result of `adapt` with --trained-parts "style offsets"', metavar="ADAPTED"
    )
    parser.add_argument("output", help="new file, .safetensors", metavar="OUT")
    option(
        parser, "--name", "what the look is called (the target picture's name)", default="", metavar="NAME"
    )
    option(parser, "--force", "replace OUT when it exists", action="store_true")
    _common(parser, device=False)


def _add_search(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    of_search: dict[str, Any] = {"metavar": "N", "type": positive, "dest": "search_steps"}
    option(parser, "--steps", "optimiser rounds (1000)", **of_search)
    _search_method(parser, "--method")
    option(parser, "--learning-rate", "of Adam (0.01)", type=RATE, metavar="X", dest="search_learning_rate")
    option(
        parser,
        "--weight",
        "weight of a term: clip, deviation, lpips or pixel, of ii2s prior; 0 leaves it out; repeatable",
        type=weight,
        action="append",
        metavar="NAME=V",
        dest="search_weight",
    )
    views: dict[str, Any] = {"action": "store_const", "const": False, "dest": "views"}
    option(parser, "--no-views", "compare the picture itself instead of random views", **views)
    option(parser, "--fresh", "throw away an earlier search in the folder", action="store_true")
    _encoders(parser)
    _common(parser)


def _search_method(parser: Any, name: str) -> None:
    told = "how it is searched: by clip, as published (default); by ii2s, Mind the Gap's inversion"
    option(parser, name, told, choices=SEARCH_METHODS, dest="search_method")


def _add_adapt(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    aims(parser)
    method(parser)
    reference = parser.add_argument_group("reference latent")
    option(reference, "--search-steps", "rounds of the search (1000)", type=positive, metavar="N")
    _search_method(reference, "--search-method")
    option(
        reference,
        "--search-weight",
        "weight of a term of the search; clip=0 gives the pixel-only search; repeatable",
        type=weight,
        action="append",
        metavar="NAME=V",
    )
    option(
        reference,
        "--latent",
        "a latent from `search` or another program (.npz, .npy, .pt); nothing is searched then",
        metavar="FILE",
    )
    every: dict[str, Any] = {"type": positive, "metavar": "N"}
    option(reference, "--snapshot-every", "steps between kept generators (100)", **every)
    _results(parser)
    option(parser, "--fresh", "throw away an earlier run in the folder", action="store_true")
    _encoders(parser)
    _common(parser)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    option(parser, "--generator", "checkpoint, or demo", metavar="FILE|demo", required=True)
    option(parser, "--out", "folder for the pictures", metavar="DIR", required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    option(what, "--seeds", "numbers and ranges, such as 0-15,42", metavar="LIST")
    option(
        what,
        "--latent",
        "codes from a file instead of seeds: of `search`, or another program's .npz, .npy or .pt",
        metavar="FILE",
    )
    _looks(parser)
    option(parser, "--source", "draw the same latents by this generator too", metavar="FILE|demo")
    look = parser.add_argument_group("look")
    option(
        look, "--psi", "truncation: 1 none, 0 the mean (1)", type=number(-10, 10), default=1.0, metavar="X"
    )
    option(
        look,
        "--seed-draw",
        "how a seed becomes a latent: nvidia shows the pictures of its programs' seeds (own)",
        choices=SEED_DRAWS,
        default=OWN_DRAW,
    )
    option(look, "--cutoff", "truncate only the first K slots", type=int, metavar="K")
    option(look, "--noise", "stored maps, none, or random per sample", choices=NOISE_MODES, default="const")
    option(look, "--noise-seed", "of --noise random (0)", type=int, default=0, metavar="N")
    option(look, "--mix-seeds", "style mixing: one seed, or one per sample", metavar="LIST")
    option(look, "--mix-slots", "slots that come from --mix-seeds, such as 4-7", type=slots, metavar="A-B")
    option(
        look,
        "--replace-from",
        "slots from K on come from the mean (the method's test-time trick: 11 with --psi 0.7)",
        type=int,
        metavar="K",
    )
    option(look, "--replace-with", "take them from this latent instead of the mean", metavar="FILE")
    option(look, "--class", "of a conditional generator", type=int, dest="class_index", metavar="N")
    more = parser.add_argument_group("more than single pictures")
    option(more, "--interpolate", "frames from each sample to the next", type=positive, metavar="FRAMES")
    option(more, "--loop", "with --interpolate: end where it began", action="store_true")
    option(more, "--sweep", "one grid row per truncation, such as 0,0.5,1", type=numbers, metavar="LIST")
    option(more, "--save-latent", "also keep the samples' latents in this file", metavar="FILE")
    option(more, "--batch", "pictures at a time (8)", type=positive, default=8, metavar="N")
    _common(parser)


def _add_edit(parser: argparse.ArgumentParser) -> None:
    edit_options.add_edit(parser)
    _common(parser)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    evaluation_options.add_evaluation(parser)
    _common(parser)


def _add_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", help="the jobs, as JSON or JSON lines", metavar="PLAN.json")
    option(parser, "--out", "folder for the results and manifest.jsonl (out/PLAN)", metavar="DIR")
    option(parser, "--check", "read everything, list the jobs, ask the server, and stop", action="store_true")
    option(parser, "--fresh", "forget what an earlier batch left in the folder", action="store_true")
    group = parser.add_argument_group("on ComfyUI servers")
    option(
        group,
        "--server",
        "its address; repeatable: work goes to the one that is idle; default: run the jobs in this process",
        action="append",
        default=[],
        dest="servers",
        metavar="URL",
    )
    option(
        group,
        "--patience",
        "how long to wait for a server that stopped answering, or a lost cluster, in seconds (600)",
        type=positive,
        default=600,
        metavar="N",
    )
    option(group, "--cancel", "take the plan's jobs out of the server's queue and stop", action="store_true")
    cluster = parser.add_argument_group("on a Ray cluster (extra ray; --threads: CPU cores of each job, 1)")
    option(
        cluster,
        "--ray",
        "HOST:PORT or ray://HOST:PORT; none: the one that this machine belongs to; local: of this machine, "
        "for this run",
        nargs="?",
        const="auto",
        metavar="ADDRESS|local",
    )
    option(
        cluster,
        "--gpus",
        "GPUs of each job, such as 1 or 0.25; 0: CPUs (1 where the cluster has any)",
        type=number(0, 64),
        metavar="X",
    )
    _results(parser)
    option(parser, "--offline", "never download weights", action="store_true")
    _common(parser)


def _add_align(parser: argparse.ArgumentParser) -> None:
    alignment_options.add_align(parser)
    _common(parser, device=False)


def _add_paste(parser: argparse.ArgumentParser) -> None:
    alignment_options.add_paste(parser)
    _common(parser, device=False)


def _add_invert(parser: argparse.ArgumentParser) -> None:
    inversion_options.add_invert(parser)
    _common(parser)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    more: dict[str, Any] = {"nargs": argparse.REMAINDER, "metavar": "WHAT"}
    parser.add_argument(
        "of", help="a run's folder, an adapted generator, or a command and its options", **more
    )
    parser.set_defaults(parse=lambda words: build_parser().parse_args(words), debug=False)


_SUMMARIES: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "demo": ("adapt the shipped generator to a shipped picture; needs no download", _add_demo),
    "info": ("say what a file is and holds, and what was left out; nothing in it is run", _add_info),
    "convert": ("rewrite a checkpoint in another format", _add_convert),
    "look": ("keep what an adaptation of style offsets learnt as a file of 40 KB", _add_look),
    "search": ("find the latent whose picture is the target's counterpart", _add_search),
    "adapt": ("make a generator that draws in the look of one picture", _add_adapt),
    "sample": ("draw pictures", _add_sample),
    "edit": ("change latents by a text or by directions, with pictures before and after", _add_edit),
    "evaluate": ("say how good an adapted generator is, or compare several", _add_evaluate),
    "batch": ("run many adaptations from a plan, here, on ComfyUI servers or on a Ray cluster", _add_batch),
    "recipe": ("print the recipe from which a result can be made again", _add_recipe),
    "directions": ("find what to add to latents to change pictures", partial(add_directions, common=_common)),
    "align": ("cut the square of a face out of a photo, as FFHQ's pictures are", _add_align),
    "paste": ("put an aligned picture that was edited back into its photo", _add_paste),
    "invert": ("find the latents whose pictures are given pictures", _add_invert),
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="oneshot", description=DESCRIPTION, formatter_class=raw)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (summary, add_options) in _SUMMARIES.items():
        sub = verbs.add_parser(
            verb,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"examples:\n{EXAMPLES[verb]}",
            formatter_class=raw,
            allow_abbrev=False,
        )
        add_options(sub)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: without the program's name; default: those of the process.

    Returns:
        The exit code.
    """
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    level = logging.DEBUG if options.debug else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLines("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    try:
        module, function = VERBS[options.verb].split(":")
        with raised_signals():
            getattr(import_module(f".commands.{module}", __package__), function)(options)
    except (KeyboardInterrupt, Interrupted) as stop:
        note(f"interrupted: {one_line(stop)}" if isinstance(stop, Interrupted) else "interrupted")
        if getattr(options, "fresh", False):
            note("leave out --fresh to go on: with it, everything is thrown away again")
        return exit_code(stop)
    except Exception as error:  # noqa: BLE001 - the outermost place: every error becomes one line
        return _report(error, options)
    return EXIT_OK


def _in_options(text: str, options: argparse.Namespace) -> str:
    """Say a setting that an error begins with by the option that users gave it with."""
    first = re.match(r"[a-z]+(?:_[a-z]+)*(?= (?:must|is|needs|takes)\b)", text)
    known = (
        [name.removeprefix("search_") for name in vars(options)]
        if options.verb == "search"
        else vars(options)
    )
    if first is None or not (first[0] in _OPTIONS or first[0] in known):
        return text
    for name, typed in {first[0]: f"--{first[0].replace('_', '-')}", **_OPTIONS}.items():
        text = re.sub(rf"\b{name}\b(?! *=)", typed, text) if "_" in name or name == first[0] else text
    return text


def _report(error: Exception, options: argparse.Namespace) -> int:
    """Say an error in one line and choose the exit code."""
    debug = options.debug
    if debug:
        note(traceback.format_exc())
    text = one_line(error)
    if is_out_of_memory(error):
        note(f"failed: {text}; {OUT_OF_MEMORY.get(options.verb, 'close other programs')}")
        return EXIT_FAILED
    if isinstance(error, (BadInput, ValueError, FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        note(f"error: {_in_options(text, options)}")
        return EXIT_BAD_INPUT
    if isinstance(error, OSError) and not isinstance(error, WriteError) and in_words(error):
        text = f"{error.filename or 'a file'}: {in_words(error)}"
    elif not isinstance(error, (Failed, OSError, ArithmeticError)):
        text = f"{type(error).__name__}: {text}" + ("" if debug else " (--debug shows where)")
    note(f"failed: {text}")
    return EXIT_FAILED
