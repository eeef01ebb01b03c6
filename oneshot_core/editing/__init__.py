"""Edits of latents: by optimisation, and by directions that are values of their own."""

from .direction import Direction, apply_direction, check_direction, combine
from .direction_files import load_direction, save_direction
from .mapper import LatentMapper, apply_mapper
from .mapper_config import MapperConfig
from .mapper_files import load_mapper, save_mapper
from .mapper_training import MapperResult, train_mapper
from .optimisation import (
    EDIT_COPIES,
    EditConfig,
    EditResult,
    check_edit,
    check_texts,
    direction_of_edit,
    edit_latents,
    learning_rate_at,
)
from .table import edit_sheet, edit_table, joined_pictures, parse_edit_strengths

__all__ = [
    "EDIT_COPIES",
    "Direction",
    "EditConfig",
    "EditResult",
    "LatentMapper",
    "MapperConfig",
    "MapperResult",
    "apply_direction",
    "apply_mapper",
    "check_direction",
    "check_edit",
    "check_texts",
    "combine",
    "direction_of_edit",
    "edit_latents",
    "edit_sheet",
    "edit_table",
    "joined_pictures",
    "learning_rate_at",
    "load_direction",
    "load_mapper",
    "parse_edit_strengths",
    "save_direction",
    "save_mapper",
    "train_mapper",
]
