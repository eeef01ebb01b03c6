"""The verb invert: the latents whose pictures are given pictures."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import GeneratorBundle
from ..encoder_choice import EncoderChoice
from ..features import Perceptual
from ..frames import Frame
from ..inversion import (
    REFINEMENT,
    InversionConfig,
    InversionResult,
    encode_pictures,
    inversion_config,
    inverted,
    likelihood_notes,
    load_e4e,
)
from ..latent_files import save_latent
from ..latents import Latent
from ..pictures import labelled_grid, load_target, save_png
from ..pictures.plots import loss_plot
from ..quad_files import load_quad
from ..quads import Quad
from ..tensors import Images
from .console import BadInput, note
from .following import UNFINISHED, followed_steps, gone_on_with
from .inversion_options import E4E, METHODS
from .resources import open_generator, out_folder, out_path, prepare, report, shown_download

PUBLISHED_NET = "vgg"
SHOWN = 8  # pictures of the comparison


def invert_command(options: Namespace) -> None:
    """`invert PICTURE... --generator G --out DIR`: write the latents, their pictures and the losses."""
    config = _config(options)
    photos = [Path(name) for name in options.pictures]
    _check_names(photos, options)
    device = prepare(options)
    bundle = open_generator(options.generator, device)
    pictures, quads = _pictures(photos, bundle.size, options.quad)
    start = None if options.e4e is None else _encoded(options.e4e, bundle, pictures, device)
    net = None if config is None else _perceptual(bundle, options).to(device)
    folder = out_folder(options.out)
    with gone_on_with(folder / UNFINISHED, "inversion") as kept:
        if config is None:  # nothing has steps, between which a signal could end it
            found = inverted(bundle, pictures, net, None, start, quads)
        else:
            with followed_steps("invert", config.steps * len(pictures), options.quiet) as follow:
                found = inverted(bundle, pictures, net, config, start, quads, callbacks=[follow], kept=kept)
        for line in likelihood_notes(bundle, found.latent):
            note(line)
        written = _written(found, pictures, photos, folder, config)
    report(options, written)


def _config(options: Namespace) -> InversionConfig | None:
    """Settings of the optimisation; None: the encoder's codes are taken as they are."""
    method = options.method or (E4E if options.e4e else "ii2s")
    if method == E4E and options.e4e is None:
        raise BadInput("--method e4e needs the encoder's file (--e4e)")
    given = {
        "space": options.space, "steps": options.steps, "learning_rate": options.learning_rate,
        "prior": options.prior,
    }  # fmt: skip
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if method == E4E and not options.steps:
        if len(changes) > (options.steps is not None):
            raise BadInput("--space, --learning-rate and --prior are for an optimisation; give --steps too")
        return None
    name = REFINEMENT if method == E4E else METHODS[method]
    if options.e4e and changes.setdefault("space", "w+") == "w":
        raise BadInput("an encoder gives one code per slot, which --space w cannot start from; leave it out")
    return inversion_config(name, seed=options.seed, batch_size=options.batch, **changes)


def _check_names(photos: Sequence[Path], options: Namespace) -> None:
    """Refuse names that would meet, and results over a picture."""
    folder, names = out_path(options.out), [photo.stem for photo in photos]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(
            f"several pictures are called {twice}, and so would be their results; invert them apart"
        )
    over = next((one for one in photos if (folder / f"{one.stem}.png").resolve() == one.resolve()), None)
    if over is not None:
        raise BadInput(f"{over} lies where its result would be written; choose another --out")
    if options.quad and len(photos) > 1:
        raise BadInput(f"--quad belongs to one photo, got {len(photos)}")


def _pictures(
    photos: Sequence[Path], size_px: int, quad_file: str | None
) -> tuple[Images, list[Quad | None] | None]:
    """The pictures at the generator's size, and where they were cut from their photos, as far as is known."""
    pictures, quads = list[Images](), list[Quad | None]()
    for photo in photos:
        beside = photo.with_suffix(".json")
        quad = load_quad(quad_file) if quad_file else load_quad(beside) if beside.is_file() else None
        # A file beside it tells of a picture that is cut out already.
        target = load_target(photo, size_px, Frame(quad=quad) if quad_file else Frame())
        for line in target.notes:
            note(f"{photo.name}: {line}")
        pictures.append(target.image)
        quads.append(quad)
    return torch.cat(pictures), quads if any(quads) else None


def _encoded(name: str, bundle: GeneratorBundle, pictures: Images, device: torch.device) -> Latent:
    mean = bundle.mean_latent
    return encode_pictures(bundle, load_e4e(name, mean).to(device), pictures)


def _perceptual(bundle: GeneratorBundle, options: Namespace) -> Perceptual:
    """The net that is named, else the demo's for its generators, or the published one."""
    suited = EncoderChoice.suited_to(bundle)
    default = suited.perceptual if suited == EncoderChoice() else PUBLISHED_NET
    with shown_download(options.quiet) as progress:
        choice = suited.named(perceptual=options.lpips or default)
        return choice.open(allow_download=not options.offline, progress=progress).perceptual


def _written(
    found: InversionResult,
    pictures: Images,
    photos: Sequence[Path],
    folder: Path,
    config: InversionConfig | None,
) -> dict[str, Any]:
    """Write all files; return what is reported."""
    for photo, image in zip(photos, found.images.split(1), strict=True):
        save_png(image, folder / f"{photo.stem}.png")
    grid = labelled_grid([("given", pictures[:SHOWN]), ("inverted", found.images[:SHOWN])])
    files = {
        "latents": save_latent(found.latent, folder / "latents.safetensors"),
        "pictures": folder,
        "comparison": save_png(grid, folder / "comparison.png"),
    }
    if found.losses:
        files["losses"] = loss_plot(found.losses, folder / "losses.png", title="Inversion")
    squared = (found.images.clamp(-1, 1) - pictures.cpu()).square().mean(dim=(1, 2, 3))
    return {
        "files": {kind: str(path) for kind, path in files.items()},
        "losses": {term: values[-1] for term, values in found.losses.items()},
        "mean_square_error": {photo.name: float(one) for photo, one in zip(photos, squared, strict=True)},
        "space": found.latent.space,
        "settings": None if config is None else config.describe(),
    }
