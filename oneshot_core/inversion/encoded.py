"""Inversion from an encoder's code on, or by the encoder alone, with one kind of result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..checkpoints import GeneratorBundle
from ..features import Perceptual
from ..kept_folders import KeptFolders
from ..latent_optimiser import StepProgress
from ..latents import Latent
from ..quads import Quad
from ..sampling import SampleConfig, sample
from ..tensors import Images
from ..whitening import whitening_of
from .config import InversionConfig
from .projection import InversionResult, invert_pictures, quad_values


def inverted(  # noqa: PLR0913 - what to invert how, and how to follow it
    bundle: GeneratorBundle,
    pictures: Images,
    perceptual: Perceptual | None,
    config: InversionConfig | None,
    start: Latent | None = None,
    quads: Sequence[Quad | None] | None = None,
    *,
    callbacks: Sequence[Callable[[StepProgress], None]] = (),
    kept: KeptFolders | None = None,
    poll: Callable[[], None] | None = None,
) -> InversionResult:
    """Optimise codes, from an encoder's on where these are given, or take the encoder's as they are.

    Args:
        bundle: who draws.
        pictures: [N, 3, S, S] in [-1, 1].
        perceptual: compares pictures; None where nothing is optimised.
        config: of the optimisation; None: `start` is the result.
        start: an encoder's codes, see `encode_pictures`.
        quads: where each picture was cut from its photo, kept in the latent's origin.
        callbacks: of the optimisation.
        kept: where the optimisation is kept, see `invert_pictures`.
        poll: called while another process is at the same one.

    Raises:
        ValueError: neither settings nor codes, or see `invert_pictures`.
    """
    if config is not None:
        return invert_pictures(
            bundle, pictures, perceptual, config, start=start, quads=quads, callbacks=callbacks, kept=kept,
            poll=poll,
        )  # fmt: skip
    if start is None:
        raise ValueError("there is nothing to invert with; give settings, or the codes of an encoder")
    corners = quad_values(quads, len(pictures))
    told = {} if corners is None else {"quads": corners}
    latent = replace(start, origin={**start.origin, **told})
    return InversionResult(latent, sample(bundle, latent, SampleConfig(keep_codes=True)), {})


def likelihood_notes(bundle: GeneratorBundle, latent: Latent) -> list[str]:
    """Say where codes lie outside of what random codes of a generator are, see `Whitening.notes`."""
    return whitening_of(bundle).notes(latent, bundle.generator)
