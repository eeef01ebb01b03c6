"""Inversions that are kept by everything that determines them: a stopped one goes on, a done one is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..checkpoints import GeneratorBundle
from ..features import Perceptual
from ..kept_folders import KeptFolders, settings_key
from ..latent_optimiser import StepProgress
from ..latents import Latent
from ..quads import Quad
from ..tensors import Images
from .config import InversionConfig
from .encoded import inverted
from .projection import InversionResult, check_inversion, inversion_settings


def cached_inversion(  # noqa: PLR0913 - where, what to invert how, and how to follow it
    kept: KeptFolders,
    bundle: GeneratorBundle,
    pictures: Images,
    perceptual: Perceptual | None,
    config: InversionConfig,
    start: Latent | None = None,
    *,
    quads: Sequence[Quad | None] | None = None,
    callbacks: Sequence[Callable[[StepProgress], None]] = (),
    poll: Callable[[], None] | None = None,
) -> InversionResult:
    """Invert pictures, or go on with what is kept of the same inversion; pictures are drawn anew.

    Args:
        kept: where; one whose codes are all there takes no step.
        bundle: see `invert_pictures`, as for all but the last.
        pictures: [N, 3, S, S] in [-1, 1].
        perceptual: compares pictures.
        config: settings.
        start: codes to start from.
        quads: where each picture was cut from its photo; they may differ from those of before.
        callbacks: of the steps that are left.
        poll: called while another process is at it; it may raise to give up.

    Raises:
        WriteError: the folder cannot be written; see also `invert_pictures`.
    """
    check_inversion(bundle, pictures, perceptual, config, start)
    key = settings_key(inversion_settings(bundle, pictures, perceptual, config, start))
    with kept.claim(key, poll) as folder:
        found = inverted(bundle, pictures, perceptual, config, start, quads, callbacks, folder)
    kept.trim()
    return found
