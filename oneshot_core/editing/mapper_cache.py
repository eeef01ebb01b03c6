"""Mappers kept in a folder by everything that determines them: trained once, gone on with, loaded after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints import CheckpointError, GeneratorBundle
from ..digests import settings_key
from ..features import ClipEncoder
from ..features.identity import IdentityNet
from ..fingerprints import encoder_fingerprint, fingerprint, latent_fingerprint, network_fingerprint
from ..kept_folders import KeptFolders
from ..latent_optimiser import StepProgress
from ..latents import Latent
from ..writing import set_aside
from .mapper import LatentMapper
from .mapper_config import MapperConfig
from .mapper_files import load_mapper, save_mapper
from .mapper_training import check_mapper_training, train_mapper, training_states

FILE, STATE = "mapper.safetensors", "state.safetensors"


def cached_mapper(  # noqa: PLR0913 - where, what to train for on what, and how to follow it
    kept: KeptFolders,
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    text: str,
    config: MapperConfig,
    *,
    latents: Latent | None = None,
    neutral_text: str = "",
    identity: IdentityNet | None = None,
    callbacks: Sequence[Callable[[StepProgress], None]] = (),
    poll: Callable[[], None] | None = None,
) -> tuple[LatentMapper, dict[str, list[float]]]:
    """Load a mapper that is kept, or train it; a stopped training goes on.

    Args:
        kept: where.
        bundle: see `train_mapper`, as for all but the last.
        clip: the CLIP model.
        text: what pictures are to show.
        config: settings.
        latents: codes to train on.
        neutral_text: what they show now.
        identity: recognises faces.
        callbacks: of the training; not called where the mapper is there.
        poll: called while another process trains it; it may raise to give up.

    Returns:
        The mapper, and the losses of its training, none where it was there.

    Raises:
        WriteError: the folder cannot be written; see also `train_mapper`.
    """
    check_mapper_training(bundle, clip, text, neutral_text, config, latents, identity)
    key = settings_key(_determining(bundle, clip, identity, latents, [text, neutral_text, config.describe()]))
    with kept.claim(key, poll) as folder:
        path, state, losses = folder / FILE, folder / STATE, dict[str, list[float]]()
        mapper = _kept(path)
        if mapper is None:
            result = train_mapper(
                bundle, clip, text, config, latents=latents, neutral_text=neutral_text, identity=identity,
                callbacks=callbacks, state_file=state,
            )  # fmt: skip
            mapper, losses = result.mapper, result.losses
            save_mapper(mapper, path)
            training_states(state).remove()
    kept.trim()
    return mapper, losses


def _kept(path: Path) -> LatentMapper | None:
    if not path.is_file():
        return None
    try:
        return load_mapper(path)
    except CheckpointError as error:
        set_aside(path, error)
        return None


def _determining(
    bundle: GeneratorBundle, clip: ClipEncoder, identity: Any, latents: Latent | None, told: list[Any]
) -> dict[str, Any]:
    return {
        "generator": network_fingerprint(bundle.generator),
        "mean": fingerprint({"mean": bundle.mean_latent}),
        "clip": encoder_fingerprint(clip),
        "identity": "" if identity is None else encoder_fingerprint(identity),
        "latents": "" if latents is None else latent_fingerprint(latents),
        "told": told,
    }
