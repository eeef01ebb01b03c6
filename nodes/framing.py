"""The node that frames a target: which square of it is used."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import oneshot_core as core
from ..oneshot_core.choices import FITS
from ..oneshot_core.frames import MOST_ZOOM
from . import bridge
from .api import io
from .pictures import framed
from .queue_checks import problem
from .sockets import DEFAULTS, generator_input, mask_input, schema
from .values import checked

FRAME = ("fit", "zoom", "offset_x", "offset_y")


class OneShotFrameTarget(io.ComfyNode):
    """A target as a generator sees it: square, of its size, the part that matters."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Goes before search and adaptation, which then both get the same square."""
        return schema(
            node_id="OneShotFrameTarget",
            aliases=("crop", "square", "fit", "zoom", "letterbox"),
            shows=True,
            display_name="Frame Target Picture",
            description="Chooses the square of a picture that is the target, and fits it to the generator. "
            "Connect its outputs to both CLIP Latent Search and One-Shot Adapt.",
            inputs=[
                generator_input("The source generator, whose size the picture gets."),
                io.Image.Input(
                    "image",
                    tooltip="The one picture whose look is wanted; of a batch the first is used.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=DEFAULTS.aim.fit,
                    tooltip="How the picture becomes square: crop takes a square of it, stretch squeezes it, "
                    "letterbox puts it whole between black bars, which then do not count.",
                ),
                io.Float.Input(
                    "zoom",
                    default=DEFAULTS.aim.zoom,
                    min=1.0,
                    max=MOST_ZOOM,
                    step=0.01,
                    tooltip="How much smaller than the largest square the one that is used is. For fit crop; "
                    "otherwise leave it at 1.",
                ),
                _offset("offset_x", "left (-1) and right (1)"),
                _offset("offset_y", "top (-1) and bottom (1)"),
                mask_input(),
            ],
            outputs=[
                io.Image.Output(
                    "image", display_name="image", tooltip="The square, of the generator's size."
                ),
                io.Mask.Output(
                    "mask",
                    display_name="mask",
                    tooltip="What of it counts (white): all, or what the mask says; the bars of a letterbox "
                    "never count.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        fit: str | None = None,
        zoom: float | None = None,
        offset_x: float | None = None,
        offset_y: float | None = None,
    ) -> bool | str:
        """Refuse zoom and offsets where the whole picture is used."""
        given = dict(locals())
        return problem(cls, {name: given[name] for name in FRAME}, (FRAME, core.Frame))

    @classmethod
    @checked
    def execute(
        cls, generator: Any, image: Tensor, mask: Tensor | None = None, **frame: Any
    ) -> io.NodeOutput:
        """Frame the picture and what of it counts."""
        how = core.Frame(**frame)
        picture, area, notes = framed(image, mask, generator.size, how)
        square, counts = bridge.to_comfy(picture), bridge.mask_to_comfy(area, generator.size)
        height, width = image.shape[1:3]
        text = bridge.said(notes)
        # The page draws the square on the whole picture, which it may not know before.
        shown = {"frame": [how.describe(width, height)], "given": bridge.thumbnails(image[:1])}
        return io.NodeOutput(square, counts, ui={**shown, "text": text, "notes": text})


def _offset(name: str, ends: str) -> io.Input:
    return io.Float.Input(
        name,
        default=0.0,
        min=-1.0,
        max=1.0,
        step=0.01,
        tooltip=f"Where the square lies between {ends}; 0 is the middle. For fit crop.",
    )
