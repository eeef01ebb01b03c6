"""ComfyUI's node API at the version the nodes are written for; every node file takes it from here."""

from __future__ import annotations

import logging

try:
    from comfy_api.v0_0_2 import ComfyExtension, io, ui
except ImportError:  # a later ComfyUI that has dropped this version
    logging.getLogger(__name__).warning(
        "One-Shot StyleGAN: this ComfyUI has no comfy_api.v0_0_2; its latest node API is used instead"
    )
    from comfy_api.latest import ComfyExtension, io, ui

__all__ = ["ComfyExtension", "io", "ui"]
