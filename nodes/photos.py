"""Nodes of photos: the square of a face out of a photo, and an edited one back into it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import oneshot_core as core
from ..oneshot_core.choices import ALIGNED_PX, FEATHER, LARGEST, SMOOTH_FRAMES
from . import bridge
from .api import io
from .pictures import to_core
from .queue_checks import problem
from .sockets import Alignment, schema
from .values import checked

FIND, GIVEN, POINTS, WHOLE = "find a face", "landmarks", "three points", "middle square"
MOST_FACES = 100
EXAMPLES = {"left_eye": "210, 180", "right_eye": "290, 178", "mouth": "250, 270"}
_CORNERS = tuple(EXAMPLES)


class OneShotAlignFace(io.ComfyNode):
    """The square of a face, as FFHQ's pictures show it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The method brings its own inputs; landmarks of ComfyUI's own detector are a socket."""
        return schema(
            node_id="OneShotAlignFace",
            aliases=("ffhq", "crop face", "align", "landmarks", "dlib", "mediapipe"),
            display_name="Align Face",
            description="Cuts the square of a face out of a photo, turned and sized as the generator knows "
            "faces. Batches are frames of a video: the face is followed.",
            inputs=[
                io.Image.Input("image", tooltip="The photo, or the frames of a video."),
                io.DynamicCombo.Input(
                    "method",
                    options=[
                        io.DynamicCombo.Option(FIND, [_face(), _smooth()]),
                        io.DynamicCombo.Option(GIVEN, [_face(), _smooth()]),
                        io.DynamicCombo.Option(POINTS, [_point(name) for name in _CORNERS]),
                        io.DynamicCombo.Option(WHOLE, []),
                    ],
                    tooltip="find a face: with dlib (pip install oneshot-stylegan[faces]). landmarks: of "
                    "ComfyUI's Detect Face Landmarks, connected to landmarks. three points: eyes and mouth "
                    "by hand. middle square: what is aligned already, cars, churches.",
                ),
                io.Float.Input(
                    "margin",
                    default=1.0,
                    min=0.5,
                    max=4.0,
                    step=0.01,
                    tooltip="How much is seen around the face: 1 as FFHQ's pictures, for generators of "
                    "faces; the demo's portraits have 1.4.",
                ),
                io.Int.Input(
                    "size",
                    default=ALIGNED_PX,
                    min=16,
                    max=4096,
                    tooltip="Side of the result in pixels: the generator's, or larger.",
                ),
                io.Custom("FACE_LANDMARKS").Input(
                    "landmarks",
                    optional=True,
                    tooltip="Of ComfyUI's Detect Face Landmarks (from 0.33 on), for the method landmarks.",
                ),
            ],
            outputs=[
                io.Image.Output("aligned", display_name="aligned", tooltip="The aligned pictures."),
                Alignment.Output(
                    "alignment",
                    display_name="alignment",
                    tooltip="Where they lie in the photo, for Paste Back and Invert Image.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool | str:
        """Refuse points that cannot be read; what belongs to an option comes only to who takes all."""
        return problem(cls, {"method": values.get("method")}, (("method",), _read_points))

    @classmethod
    @checked
    def execute(
        cls, image: Tensor, method: dict[str, Any], margin: float, size: int, landmarks: Any = None
    ) -> io.NodeOutput:
        """Find the face and cut it out."""
        photos = to_core(image)
        run = bridge.NodeProgress(2 * len(photos))
        alignment = _alignment(photos, method, landmarks, run).scaled(margin)
        cut = core.align_batch(photos, alignment, size, lambda done, _: run.step(len(photos) + done))
        notes = bridge.said(alignment.notes)
        aligned = bridge.to_comfy(cut)
        return io.NodeOutput(aligned, alignment, ui={"text": notes, "notes": notes})


def _alignment(photos: Tensor, method: dict[str, Any], landmarks: Any, run: Any) -> Any:
    """Where the face is in every photo."""
    kind, (height, width) = method["method"], photos.shape[-2:]
    if kind == WHOLE:
        return core.Alignment((core.full_frame(width, height),))
    if kind == POINTS:
        left, right, mouth = (core.parse_point(method[name]) for name in _CORNERS)
        return core.Alignment((core.three_point_quad(left, right, mouth, width, height),))
    which: int | str = method["face"] or LARGEST
    if kind == FIND:
        return core.detect_alignment(photos, which, method["smooth"], lambda done, _: run.step(done))
    if landmarks is None:
        raise ValueError(
            "landmarks is not connected; connect ComfyUI's Detect Face Landmarks, or choose another method"
        )
    frames = core.faces_of_comfyui(landmarks)
    return core.alignment_of_faces(frames, which, method["smooth"])


def _face() -> io.Input:
    return io.Int.Input(
        "face",
        default=0,
        min=0,
        max=MOST_FACES,
        tooltip="Which face, where there are several: 0 the largest, 1 the leftmost, 2 the next.",
    )


def _smooth() -> io.Input:
    return io.Float.Input(
        "smooth",
        default=SMOOTH_FRAMES,
        min=0.0,
        max=100.0,
        step=0.5,
        tooltip="Of videos: how steady the place of the face is kept, in frames; larger is steadier, smaller "
        "follows quick moves, 0: off.",
    )


def _point(name: str) -> io.Input:
    whose = {
        "left_eye": "The eye on the picture's left",
        "right_eye": "The eye on the picture's right",
        "mouth": "The middle of the mouth",
    }
    return io.String.Input(
        name,
        default="",
        placeholder=EXAMPLES[name],
        tooltip=f"{whose[name]}: pixels from the left and from the top of the photo.",
    )


def _read_points(method: dict[str, Any]) -> None:
    if method["method"] == POINTS:
        for name in _CORNERS:
            core.parse_point(method[name])


class OneShotPasteBack(io.ComfyNode):
    """An edited face back in its photo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One photo takes any number of pictures; frames of a video take one each."""
        return schema(
            node_id="OneShotPasteBack",
            aliases=("uncrop", "inverse warp", "composite face", "inpaint crop"),
            display_name="Paste Back",
            description="Puts aligned pictures, edited since, back to where Align Face cut them out, with "
            "soft edges. Pixels outside stay exactly as they were (at 8 bits).",
            inputs=[
                io.Image.Input("photo", tooltip="The photo, or the frames, that Align Face was given."),
                io.Image.Input("image", tooltip="What is put back: square pictures of any size."),
                Alignment.Input("alignment", tooltip="Where to, from Align Face."),
                io.Float.Input(
                    "feather",
                    default=FEATHER,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="How far the picture fades in from its edges, as a share of its side.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White: put back. In the square of the picture, of any size; such as the face "
                    "without its background.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The photos with the pictures.")],
        )

    @classmethod
    @checked
    def execute(
        cls, photo: Tensor, image: Tensor, alignment: Any, feather: float, mask: Tensor | None = None
    ) -> io.NodeOutput:
        """Put them back."""
        photos, pictures = to_core(photo), to_core(image)
        run = bridge.NodeProgress(len(pictures))
        area = None if mask is None else core.square_masks(mask)
        pasted = core.paste_batch(photos, pictures, alignment, feather, area, lambda done, _: run.step(done))
        return io.NodeOutput(bridge.to_comfy(pasted))
