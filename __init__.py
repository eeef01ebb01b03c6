"""One-Shot StyleGAN for ComfyUI: adapt a StyleGAN2 to the look of one picture.

ComfyUI imports this file when it starts; everything else is imported when the entry point runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import OneshotExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> OneshotExtension:
    """Give ComfyUI the pack's nodes (V3)."""
    from .nodes import OneshotExtension

    return OneshotExtension()
