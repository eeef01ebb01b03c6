"""Dictionaries on disk, named by the hash of everything that determines them: none is measured twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ..checkpoints import CheckpointError, GeneratorBundle
from ..features import ClipEncoder
from ..latents import Latent
from ..writing import claim, remove_stale_temporaries, set_aside
from .dictionary import Dictionary, settings_key
from .dictionary_files import load_dictionary, save_dictionary
from .finite_differences import (
    DictionaryConfig,
    Progress,
    dictionary_settings,
    measure_dictionary,
    sample_codes,
    state_file,
)
from .statistics import StyleStatistics, style_statistics

POLL_SECONDS = 0.2


def cached_dictionary(
    folder: Path | str,
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    config: DictionaryConfig | None = None,
    statistics: StyleStatistics | None = None,
    *,
    latent: Latent | None = None,
    progress: Progress | None = None,
    poll: Callable[[], None] | None = None,
) -> Dictionary:
    """Load a dictionary from a folder, or measure it there; a stopped measurement goes on.

    Args:
        folder: made when it is missing; several processes may share it.
        bundle: see `measure_dictionary`, as for what follows.
        clip: the CLIP model.
        config: settings.
        statistics: of the styles.
        latent: samples.
        progress: of the measurement; not called where the dictionary is there.
        poll: called while another process measures it; it may raise to give up.

    Returns:
        The same for the same arguments, whoever measured it; a damaged file is set aside and made again.

    Raises:
        WriteError: the folder cannot be written; see also `measure_dictionary`.
    """
    place, config = Path(folder), config or DictionaryConfig()
    statistics = statistics or style_statistics(bundle)
    statistics.check_fits(bundle)
    codes = sample_codes(bundle, config, statistics, latent)
    key = settings_key(dictionary_settings(bundle, clip, config, statistics, codes))
    path, state = place / f"{key}.safetensors", place / f"{key}.state.safetensors"
    place.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(place)
    while (held := claim(place / f"{key}.lock")) is None:
        time.sleep(POLL_SECONDS)
        if poll is not None:
            poll()
    try:
        found = _kept(path)
        if found is None:
            found = measure_dictionary(
                bundle, clip, config, statistics, latent=latent, state=state, progress=progress
            )
            save_dictionary(found, path)
            state_file(state).remove()
        return found
    finally:
        held.release()


def _kept(path: Path) -> Dictionary | None:
    if not path.is_file():
        return None
    try:
        return load_dictionary(path)
    except CheckpointError as error:
        set_aside(path, error)
        return None
