"""The verb search: the latent whose picture is the target's counterpart."""

from __future__ import annotations

import signal
from argparse import Namespace
from pathlib import Path

from torch import Tensor

from ..checkpoints import GeneratorBundle
from ..features import Encoders
from ..latent_files import save_latent
from ..objective import PROFILES
from ..pictures import Picture, labelled_grid, load_target, save_png
from ..pictures.plots import loss_plot
from ..search import SearchConfig, SearchProgress, SearchResult, search_latent
from ..tensors import Images
from .console import Interrupted, ProgressBar
from .interrupts import Signalled, stop_requests
from .resources import open_encoders, open_generator, out_folder, prepare, report


def search(options: Namespace) -> None:
    """`search`: search, and write the latent, its picture, a comparison and the losses."""
    config = SearchConfig(
        steps=options.steps,
        learning_rate=options.learning_rate,
        seed=options.seed,
        weights=dict(options.weight),
        augment=not options.no_views,
        profile=PROFILES[options.profile],
    )
    device = prepare(options)
    bundle = open_generator(options.generator, device)
    target, mask = load_target(options.target, bundle.size, options.fit, options.mask)
    encoders = open_encoders(options, bundle, device)
    out = out_folder(options.out)
    found = run_search(bundle, encoders, target, config, options.quiet, mask=mask)
    name = Path(options.target).name
    files = {
        "latent": save_latent(found.latent, out / "latent.safetensors"),
        "picture": save_png(found.reconstruction, out / "reconstruction.png"),
        "comparison": save_png(_comparison(target, found.reconstruction), out / "comparison.png"),
        "losses": loss_plot(found.losses, out / "search_losses.png", title=f"Search for {name}"),
    }
    report(
        options,
        {
            "files": {kind: str(path) for kind, path in files.items()},
            "losses": {term: values[-1] for term, values in found.losses.items()},
            "settings": config.describe(),
        },
    )


def run_search(
    bundle: GeneratorBundle,
    encoders: Encoders,
    target: Images,
    config: SearchConfig,
    quiet: bool,
    state_file: Path | None = None,
    mask: Tensor | None = None,
) -> SearchResult:
    """Search with a progress line, going on from `state_file` where there is one.

    Raises:
        Interrupted: the user stopped it; the state file keeps what is done.
    """
    with ProgressBar("search", config.steps, quiet=quiet) as bar, stop_requests() as received:

        def show(now: SearchProgress) -> None:
            bar.update(now.step, now.losses, now.eta_seconds)
            if received and (now.step < config.steps or state_file is not None):
                raise Signalled(received[0])

        try:
            return search_latent(
                bundle, encoders, target, config, mask=mask, callbacks=[show], state_file=state_file
            )
        except KeyboardInterrupt as stop:
            kept = "starts it again" if state_file is None else "goes on from there"
            number = getattr(stop, "number", signal.SIGINT)
            raise Interrupted(f"the search was stopped; the same command {kept}", number) from None


def _comparison(target: Images, reconstruction: Images) -> Picture:
    return labelled_grid([("reference", reconstruction)], lead=("target", target), picture_px=256)
