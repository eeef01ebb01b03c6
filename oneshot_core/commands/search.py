"""The verb search: the latent whose picture is the target's counterpart."""

from __future__ import annotations

from argparse import Namespace

from ..inputs import prepared
from ..pictures import Picture, labelled_grid, save_png
from ..pictures.plots import loss_plot
from ..pipeline import search_recipe
from ..run_folder import REFERENCE
from ..store import FolderStore
from ..tensors import Images
from .console import note
from .following import followed
from .recipes import recipe_of
from .resources import open_all, out_folder, out_path, prepare, report


def search_command(options: Namespace) -> None:
    """`search`: search, and write the latent, its picture, a comparison and the losses."""
    recipe = recipe_of(options)
    device = prepare(options)
    out_path(options.out)
    recipe, inputs = prepared(recipe, open_all(recipe, device, options, "search"), "search")
    for text in inputs.notes:
        note(text)
    out = out_folder(options.out)
    with followed(recipe, out, options.quiet) as callbacks:
        follow = {"callbacks": callbacks["search_callbacks"], "poll": callbacks["poll"]}
        found = search_recipe(recipe, inputs, FolderStore(out, options.fresh), **follow)
    for text in found.notes:
        note(text)
    assert inputs.target is not None  # `prepared` refuses a search without one
    files = {
        "latent": out / REFERENCE,
        "picture": save_png(found.reconstruction, out / "reference.png"),
        "comparison": save_png(_comparison(inputs.target, found.reconstruction), out / "comparison.png"),
        "losses": loss_plot(found.losses, out / "losses.png", title=f"Search for {recipe.target_name}"),
    }
    report(
        options,
        {
            "files": {kind: str(path) for kind, path in files.items()},
            "losses": {term: values[-1] for term, values in found.losses.items()},
            "counterpart": None if found.counterpart is None else found.counterpart.values(),
            "recipe": recipe.values(),
        },
    )


def _comparison(target: Images, reconstruction: Images) -> Picture:
    return labelled_grid([("reference", reconstruction)], lead=("target", target), picture_px=256)
