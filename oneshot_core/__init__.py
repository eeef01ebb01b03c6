"""One-Shot StyleGAN: adapt a StyleGAN2 to the look of one picture. These are the public names.

Each is imported from its module on first use, so that `import oneshot_core` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .aligned_batches import (
        Alignment,
        align_batch,
        alignment_of_faces,
        detect_alignment,
        parse_point,
        paste_batch,
        square_masks,
    )
    from .alignment import (
        LANDMARKS_LICENCE,
        DetectorError,
        Face,
        NoFaceError,
        align,
        choose_face,
        faces_of_comfyui,
        ffhq_quad,
        find_faces,
        followed_face,
        full_frame,
        paste_back,
        smoothed,
        three_point_quad,
    )
    from .batches import check_count, sampling_bytes
    from .blending import blend_generators, parse_strengths, swap_from
    from .checkpoints import (
        CheckpointError,
        GeneratorBundle,
        Provenance,
        UnsafePickleError,
        check_family,
        check_format,
        check_pair,
        detect,
        inspect,
        load,
        related,
        save,
        with_fresh_discriminator,
    )
    from .demo.world import (
        TARGET_LOOKS,
        check_demo_text,
        demo_encoders,
        demo_generator,
        demo_photo,
        demo_recipe,
        demo_target,
        picture_path,
        target_path,
    )
    from .editing import (
        EDIT_COPIES,
        Direction,
        EditConfig,
        EditResult,
        apply_direction,
        check_direction,
        check_edit,
        check_texts,
        combine,
        edit_latents,
        edit_sheet,
        edit_table,
        joined_pictures,
        load_direction,
        parse_edit_strengths,
        save_direction,
    )
    from .editing.components import ganspace_directions, reference_direction, sefa_directions, set_coordinate
    from .editing.dictionary import Dictionary
    from .editing.dictionary_cache import cached_dictionary
    from .editing.dictionary_files import (
        load_dictionary,
        load_statistics,
        load_styleclip_dictionary,
        load_styleclip_statistics,
        save_dictionary,
        save_statistics,
    )
    from .editing.finite_differences import DictionaryConfig, measure_dictionary
    from .editing.foreign_directions import load_boundary, load_components
    from .editing.global_directions import (
        GlobalDirection,
        Selection,
        find_direction,
        global_direction,
        text_change,
    )
    from .editing.gradient_directions import GradientConfig, TextDirection
    from .editing.mapper import LatentMapper, apply_mapper
    from .editing.mapper_cache import cached_mapper
    from .editing.mapper_config import MapperConfig
    from .editing.mapper_files import load_mapper, save_mapper
    from .editing.mapper_training import MapperResult, train_mapper
    from .editing.optimisation import direction_of_edit
    from .editing.statistics import (
        DriftReport,
        LatentMoments,
        StyleStatistics,
        drift_report,
        latent_moments,
        style_statistics,
    )
    from .editing.style_layout import style_title
    from .editing.text_methods import TextRequest, find_text_direction
    from .encoder_choice import EncoderChoice, encoder_notes, further_clips
    from .evaluation import (
        Comparison,
        Evaluation,
        EvaluationConfig,
        Judges,
        Referee,
        best_step,
        compare,
        evaluate,
        evaluation_bytes,
        kept_snapshots,
        load_faces,
        load_inception,
        snapshot_rows,
        snapshot_scores,
    )
    from .features import EncoderError, Encoders, EncodersOnDemand, load_clip, load_perceptual
    from .features.identity import load_arcface
    from .frames import Frame
    from .inputs import Inputs, open_inputs, prepared
    from .interpolation import interpolate, join_latents
    from .inversion import (
        InversionConfig,
        InversionResult,
        encode_pictures,
        inversion_config,
        invert_pictures,
        inverted,
        likelihood_notes,
        load_e4e,
        save_e4e,
    )
    from .kept_folders import KeptFolders
    from .latent_files import latent_notes, load_latent, save_latent
    from .latent_optimiser import StepProgress
    from .latents import Latent
    from .look_files import load_look, save_look
    from .looks import Look, apply_looks, look_between, look_notes
    from .memory import is_out_of_memory
    from .objective import DEFAULT, OFFICIAL, PROFILES, Aim, Preset, Profile
    from .objective.presets import PRESETS, oneshot_clip
    from .pairs import SamplePairs, sample_pairs
    from .pictures import (
        frame,
        frame_mask,
        framed_target,
        labelled_grid,
        load_picture,
        load_target,
        masked_target,
        save_png,
        to_pillow,
        to_tensor,
    )
    from .pictures.covers import cover_of, draw_cover, jpeg_file, model_card
    from .pictures.files import PictureError
    from .pictures.plots import loss_plot, plot_points
    from .pictures.sheets import LiveSheet, adaptation_sheet
    from .pipeline import adapt_recipe, run_recipe, search_recipe
    from .quad_files import load_quad, save_quad
    from .quads import Quad
    from .recipe import Recipe, RecipeError
    from .run_folder import RunError, StoredResult, versions
    from .sampling import (
        SampleConfig,
        count_of,
        iter_samples,
        mix_table,
        mixed_latents,
        parse_classes,
        parse_seeds,
        random_latents,
        sample,
        sample_with_codes,
        truncation_sweep,
    )
    from .search import SearchConfig, SearchResult, search_latent
    from .store import FolderStore, RunStore
    from .tensors import gradients, owned
    from .training import (
        PRECISIONS,
        AdaptResult,
        Poll,
        Progress,
        RunCancelled,
        StopSignal,
        TrainConfig,
        adapt,
    )
    from .training.checks import check_adaptable, check_run
    from .training.execution import Execution
    from .training.memory import editing_bytes, search_bytes, training_bytes
    from .writing import first_free

_MODULES = {
    "alignment": (
        "LANDMARKS_LICENCE DetectorError Face NoFaceError align choose_face faces_of_comfyui ffhq_quad "
        "find_faces followed_face full_frame paste_back smoothed three_point_quad"
    ),
    "quads": "Quad",
    "quad_files": "load_quad save_quad",
    "aligned_batches": (
        "Alignment align_batch alignment_of_faces detect_alignment parse_point paste_batch square_masks"
    ),
    "batches": "check_count sampling_bytes",
    "blending": "blend_generators parse_strengths swap_from",
    "checkpoints": (
        "CheckpointError GeneratorBundle Provenance UnsafePickleError check_family check_format "
        "check_pair detect inspect load related save with_fresh_discriminator"
    ),
    "pictures.covers": "cover_of draw_cover jpeg_file model_card",
    "demo.world": (
        "TARGET_LOOKS check_demo_text demo_encoders demo_generator demo_photo demo_recipe demo_target "
        "picture_path target_path"
    ),
    "editing": (
        "EDIT_COPIES Direction EditConfig EditResult apply_direction check_direction check_edit check_texts "
        "combine edit_latents edit_sheet edit_table joined_pictures load_direction parse_edit_strengths "
        "save_direction"
    ),
    "editing.components": "ganspace_directions reference_direction sefa_directions set_coordinate",
    "editing.dictionary": "Dictionary",
    "editing.dictionary_cache": "cached_dictionary",
    "editing.dictionary_files": (
        "load_dictionary load_statistics load_styleclip_dictionary "
        "load_styleclip_statistics save_dictionary save_statistics"
    ),
    "editing.finite_differences": "DictionaryConfig measure_dictionary",
    "editing.foreign_directions": "load_boundary load_components",
    "editing.global_directions": "GlobalDirection Selection find_direction global_direction text_change",
    "editing.gradient_directions": "GradientConfig TextDirection",
    "editing.text_methods": "TextRequest find_text_direction",
    "editing.statistics": (
        "DriftReport LatentMoments StyleStatistics drift_report latent_moments style_statistics"
    ),
    "editing.style_layout": "style_title",
    "editing.mapper_cache": "cached_mapper",
    "editing.mapper": "LatentMapper apply_mapper",
    "editing.mapper_config": "MapperConfig",
    "editing.mapper_files": "load_mapper save_mapper",
    "editing.mapper_training": "MapperResult train_mapper",
    "editing.optimisation": "direction_of_edit",
    "encoder_choice": "EncoderChoice encoder_notes further_clips",
    "evaluation": (
        "Comparison Evaluation EvaluationConfig Judges Referee best_step compare evaluate evaluation_bytes "
        "kept_snapshots load_faces load_inception snapshot_rows snapshot_scores"
    ),
    "frames": "Frame",
    "features.identity": "load_arcface",
    "features": "EncoderError Encoders EncodersOnDemand load_clip load_perceptual",
    "interpolation": "interpolate join_latents",
    "inversion": (
        "InversionConfig InversionResult encode_pictures inversion_config invert_pictures inverted "
        "likelihood_notes load_e4e save_e4e"
    ),
    "kept_folders": "KeptFolders",
    "latent_files": "latent_notes load_latent save_latent",
    "latent_optimiser": "StepProgress",
    "latents": "Latent",
    "look_files": "load_look save_look",
    "looks": "Look apply_looks look_between look_notes",
    "memory": "is_out_of_memory",
    "objective": "DEFAULT OFFICIAL PROFILES Aim Preset Profile",
    "objective.presets": "PRESETS oneshot_clip",
    "pictures.files": "PictureError",
    "pictures": (
        "frame frame_mask framed_target labelled_grid load_picture load_target masked_target save_png "
        "to_pillow to_tensor"
    ),
    "pictures.plots": "loss_plot plot_points",
    "inputs": "Inputs open_inputs prepared",
    "pipeline": "adapt_recipe run_recipe search_recipe",
    "recipe": "Recipe RecipeError",
    "run_folder": "RunError StoredResult versions",
    "store": "FolderStore RunStore",
    "sampling": (
        "SampleConfig count_of iter_samples mix_table mixed_latents parse_classes parse_seeds random_latents "
        "sample sample_with_codes truncation_sweep"
    ),
    "pairs": "SamplePairs sample_pairs",
    "search": "SearchConfig SearchResult search_latent",
    "pictures.sheets": "LiveSheet adaptation_sheet",
    "tensors": "gradients owned",
    "training": ("PRECISIONS AdaptResult Poll Progress RunCancelled StopSignal TrainConfig adapt"),
    "training.execution": "Execution",
    "training.memory": "editing_bytes search_bytes training_bytes",
    "training.checks": "check_adaptable check_run",
    "writing": "first_free",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
