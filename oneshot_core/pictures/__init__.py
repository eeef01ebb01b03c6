"""Pictures in and out: reading files safely, fitting them to a generator, PNG files, grids, plots, covers."""

from .framing import (
    FITS,
    Picture,
    check_mask,
    fit_images,
    fit_mask,
    load_picture,
    load_target,
    masked_target,
)
from .grids import (
    FAINT,
    INK,
    PAPER,
    Row,
    font,
    labelled_grid,
    save_png,
    shortened,
    thumbnails,
    to_pillow,
    to_tensor,
    to_uint8,
)

__all__ = [
    "FAINT",
    "FITS",
    "INK",
    "PAPER",
    "Picture",
    "Row",
    "check_mask",
    "fit_images",
    "fit_mask",
    "font",
    "labelled_grid",
    "load_picture",
    "load_target",
    "masked_target",
    "save_png",
    "shortened",
    "thumbnails",
    "to_pillow",
    "to_tensor",
    "to_uint8",
]
