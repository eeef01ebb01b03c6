"""Edits that are kept by everything that determines them: a stopped one goes on, a done one is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..checkpoints import GeneratorBundle
from ..features import ClipEncoder
from ..features.identity import IdentityNet
from ..kept_folders import KeptFolders, settings_key
from ..latent_optimiser import StepProgress
from ..latents import Latent
from .optimisation import EditConfig, EditResult, check_edit, edit_latents, edit_settings


def cached_edit(  # noqa: PLR0913 - where, what to edit how, and how to follow it
    kept: KeptFolders,
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    latent: Latent | None,
    text: str,
    config: EditConfig,
    *,
    neutral_text: str = "",
    identity: IdentityNet | None = None,
    callbacks: Sequence[Callable[[StepProgress], None]] = (),
    poll: Callable[[], None] | None = None,
) -> EditResult:
    """Edit latents, or go on with what is kept of the same edit; pictures are drawn anew.

    Args:
        kept: where; one whose codes are all there takes no step.
        bundle: see `edit_latents`, as for all but the last.
        clip: the CLIP model.
        latent: codes.
        text: what pictures are to show.
        config: settings.
        neutral_text: what they show now.
        identity: recognises faces.
        callbacks: of the steps that are left.
        poll: called while another process is at it; it may raise to give up.

    Raises:
        WriteError: the folder cannot be written; see also `edit_latents`.
    """
    check_edit(bundle, latent, text, config, identity)
    key = settings_key(edit_settings(bundle, clip, latent, text, config, neutral_text, identity))
    with kept.claim(key, poll) as folder:
        found = edit_latents(
            bundle, clip, latent, text, config, neutral_text=neutral_text, identity=identity,
            callbacks=callbacks, folder=folder,
        )  # fmt: skip
    kept.trim()
    return found
