"""Inversion: the codes whose pictures are given pictures, by optimisation or by an encoder."""

from .config import METHODS, REFINEMENT, InversionConfig, inversion_config
from .e4e import E4eEncoder, encode_pictures, load_e4e, save_e4e
from .projection import Given, InversionResult, check_inversion, invert_pictures

__all__ = [
    "METHODS",
    "REFINEMENT",
    "E4eEncoder",
    "Given",
    "InversionConfig",
    "InversionResult",
    "check_inversion",
    "encode_pictures",
    "inversion_config",
    "invert_pictures",
    "load_e4e",
    "save_e4e",
]
