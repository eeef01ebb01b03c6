"""Edits of latents: by optimisation, and by directions that are values of their own."""

from .direction import Direction, apply_direction, check_direction, combine
from .direction_files import load_direction, save_direction
from .optimisation import (
    EDIT_COPIES,
    EditConfig,
    EditResult,
    check_edit,
    check_texts,
    direction_of,
    edit_latents,
    learning_rate_at,
)
from .table import edit_sheet, edit_table, joined_pictures, parse_edit_strengths

__all__ = [
    "EDIT_COPIES",
    "Direction",
    "EditConfig",
    "EditResult",
    "apply_direction",
    "check_direction",
    "check_edit",
    "check_texts",
    "combine",
    "direction_of",
    "edit_latents",
    "edit_sheet",
    "edit_table",
    "joined_pictures",
    "learning_rate_at",
    "load_direction",
    "parse_edit_strengths",
    "save_direction",
]
