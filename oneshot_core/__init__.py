"""One-Shot StyleGAN: adapt a StyleGAN2 to the look of one picture. These are the public names.

Each is imported from its module on first use, so that `import oneshot_core` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .blending import blend_generators, swap_from
    from .checkpoints import (
        CheckpointError,
        GeneratorBundle,
        Provenance,
        UnsafePickleError,
        detect,
        inspect,
        load,
        save,
        with_fresh_discriminator,
    )
    from .demo.world import TARGET_LOOKS, demo_encoders, demo_generator, demo_target
    from .editing import EditConfig, EditProgress, EditResult, edit_latents
    from .features import EncoderError, Encoders, load_clip, load_perceptual
    from .interpolation import interpolate
    from .latent_files import load_latent, save_latent
    from .latents import Latent
    from .objective import DEFAULT, OFFICIAL, PROFILES, Preset, Profile, Schedule
    from .objective.presets import PRESETS, oneshot_clip
    from .pictures import (
        PictureError,
        fit_images,
        fit_mask,
        labelled_grid,
        load_picture,
        load_target,
        masked_target,
        save_png,
    )
    from .plots import loss_plot
    from .sampling import (
        SampleConfig,
        SamplePairs,
        iter_samples,
        mix_table,
        parse_seeds,
        random_latents,
        sample,
        sample_pairs,
        truncation_sweep,
    )
    from .search import SearchConfig, SearchProgress, SearchResult, search_latent
    from .training import (
        AdaptResult,
        Progress,
        RunCancelled,
        StopSignal,
        TrainConfig,
        TrainProgress,
        adapt,
    )

_MODULES = {
    "blending": "blend_generators swap_from",
    "checkpoints": (
        "CheckpointError GeneratorBundle Provenance UnsafePickleError detect inspect load save "
        "with_fresh_discriminator"
    ),
    "demo.world": "TARGET_LOOKS demo_encoders demo_generator demo_target",
    "editing": "EditConfig EditProgress EditResult edit_latents",
    "features": "EncoderError Encoders load_clip load_perceptual",
    "interpolation": "interpolate",
    "latent_files": "load_latent save_latent",
    "latents": "Latent",
    "objective": "DEFAULT OFFICIAL PROFILES Preset Profile Schedule",
    "objective.presets": "PRESETS oneshot_clip",
    "pictures": (
        "PictureError fit_images fit_mask labelled_grid load_picture load_target masked_target save_png"
    ),
    "plots": "loss_plot",
    "sampling": (
        "SampleConfig SamplePairs iter_samples mix_table parse_seeds random_latents sample sample_pairs "
        "truncation_sweep"
    ),
    "search": "SearchConfig SearchProgress SearchResult search_latent",
    "training": "AdaptResult Progress RunCancelled StopSignal TrainConfig TrainProgress adapt",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "DEFAULT",
    "OFFICIAL",
    "PRESETS",
    "PROFILES",
    "TARGET_LOOKS",
    "AdaptResult",
    "CheckpointError",
    "EditConfig",
    "EditProgress",
    "EditResult",
    "EncoderError",
    "Encoders",
    "GeneratorBundle",
    "Latent",
    "PictureError",
    "Preset",
    "Profile",
    "Progress",
    "Provenance",
    "RunCancelled",
    "SampleConfig",
    "SamplePairs",
    "Schedule",
    "SearchConfig",
    "SearchProgress",
    "SearchResult",
    "StopSignal",
    "TrainConfig",
    "TrainProgress",
    "UnsafePickleError",
    "adapt",
    "blend_generators",
    "demo_encoders",
    "demo_generator",
    "demo_target",
    "detect",
    "edit_latents",
    "fit_images",
    "fit_mask",
    "inspect",
    "interpolate",
    "iter_samples",
    "labelled_grid",
    "load",
    "load_clip",
    "load_latent",
    "load_perceptual",
    "load_picture",
    "load_target",
    "loss_plot",
    "masked_target",
    "mix_table",
    "oneshot_clip",
    "parse_seeds",
    "random_latents",
    "sample",
    "sample_pairs",
    "save",
    "save_latent",
    "save_png",
    "search_latent",
    "swap_from",
    "truncation_sweep",
    "with_fresh_discriminator",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
