"""Dictionaries on disk, named by the hash of everything that determines them: none is measured twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..checkpoints import CheckpointError, GeneratorBundle
from ..digests import settings_key
from ..features import ClipEncoder
from ..kept_folders import KeptFolders
from ..latents import Latent
from ..writing import remove_stale_temporaries, set_aside
from .dictionary import Dictionary
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

FILE, STATE = "dictionary.safetensors", "state.safetensors"


def cached_dictionary(
    kept: KeptFolders,
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    config: DictionaryConfig | None = None,
    statistics: StyleStatistics | None = None,
    *,
    latent: Latent | None = None,
    progress: Progress | None = None,
    poll: Callable[[], None] | None = None,
) -> Dictionary:
    """Load a dictionary that is kept, or measure it; a stopped measurement goes on.

    Args:
        kept: where.
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
    config = config or DictionaryConfig()
    statistics = statistics or style_statistics(bundle)
    statistics.check_fits(bundle)
    codes = sample_codes(bundle, config, statistics, latent)
    key = settings_key(dictionary_settings(bundle, clip, config, statistics, codes))
    with kept.claim(key, poll) as folder:
        remove_stale_temporaries(folder)
        path, state = folder / FILE, folder / STATE
        found = _kept(path)
        if found is None:
            found = measure_dictionary(
                bundle, clip, config, statistics, latent=latent, state=state, progress=progress
            )
            save_dictionary(found, path)
            state_file(state).remove()
    kept.trim()
    return found


def _kept(path: Path) -> Dictionary | None:
    if not path.is_file():
        return None
    try:
        return load_dictionary(path)
    except CheckpointError as error:
        set_aside(path, error)
        return None
