"""Mappers kept in a folder by everything that determines them: trained once, gone on with, loaded after."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoints import CheckpointError, GeneratorBundle
from ..features import ClipEncoder
from ..features.identity import IdentityNet
from ..fingerprints import encoder_fingerprint, fingerprint, network_fingerprint
from ..latent_optimiser import StepProgress
from ..latents import Latent
from ..writing import claim
from .dictionary import settings_key
from .mapper import LatentMapper
from .mapper_config import MapperConfig
from .mapper_files import load_mapper, save_mapper
from .mapper_training import check_mapper_training, train_mapper, training_states

POLL_SECONDS = 0.2


def cached_mapper(  # noqa: PLR0913 - where, what to train for on what, and how to follow it
    folder: Path | str,
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
    """Load a mapper from a folder, or train it there; a stopped training goes on.

    Args:
        folder: made when it is missing; several processes may share it.
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
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    key = settings_key(_determining(bundle, clip, identity, latents, [text, neutral_text, config.describe()]))
    path, state = place / f"{key}.safetensors", place / f"{key}.state.safetensors"
    while (held := claim(place / f"{key}.lock")) is None:
        time.sleep(POLL_SECONDS)
        if poll is not None:
            poll()
    try:
        with suppress(CheckpointError):  # a damaged one is trained again
            if path.is_file():
                return load_mapper(path), {}
        result = train_mapper(
            bundle, clip, text, config, latents=latents, neutral_text=neutral_text, identity=identity,
            callbacks=callbacks, state_file=state,
        )  # fmt: skip
        save_mapper(result.mapper, path)
        training_states(state).remove()
        return result.mapper, result.losses
    finally:
        held.release()


def _determining(
    bundle: GeneratorBundle, clip: ClipEncoder, identity: Any, latents: Latent | None, told: list[Any]
) -> dict[str, Any]:
    codes = {} if latents is None else {"values": latents.values}
    for number, edit in enumerate(() if latents is None else latents.edits):
        codes |= {f"{number}.{key}": edit.strength * value for key, value in edit.vectors.items()}
    return {
        "generator": network_fingerprint(bundle.generator),
        "mean": fingerprint({"mean": bundle.mean_latent}),
        "clip": encoder_fingerprint(clip),
        "identity": "" if identity is None else encoder_fingerprint(identity),
        "latents": fingerprint(codes),
        "told": told,
    }
