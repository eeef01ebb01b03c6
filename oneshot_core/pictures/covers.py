"""What model browsers show of a generator file: a cover picture and a few facts, as texts for its header.

The keys are those of the ModelSpec standard (`modelspec.*`) and of kohya's trainers (`ssmd_cover_images`);
ComfyUI's model library, its preview route and its asset scanner read both kinds. Nothing in them names a
file, a folder or a person but the title that the caller gives, and nothing depends on the time: equal
generators give equal texts.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

from PIL import Image

from ..checkpoints import GeneratorBundle
from ..checkpoints.native import opened_tensors
from ..sampling import SampleConfig, sample
from . import Picture, to_pillow

COVER_SEEDS = (0, 1, 2, 3)
COVER_PSI = 0.7
COVER_PX = 384  # side of the cover, two pictures across
MAX_COVER_BYTES = 40_000  # ComfyUI reads headers up to 1 MiB; the picture stands in it twice, as base64
QUALITIES = (90, 84, 76, 66, 54, 40, 25, 10)
ARCHITECTURE = "stylegan2"


def draw_cover(bundle: GeneratorBundle) -> Picture:
    """Draw four seeds of a generator as one square picture, one after the other to need little memory.

    Args:
        bundle: any device; of a conditional generator class 0 is drawn.

    Returns:
        A Pillow image of COVER_PX x COVER_PX px.
    """
    pictures = to_pillow(sample(bundle, COVER_SEEDS, SampleConfig(psi=COVER_PSI, batch_size=1)))
    cover, side = Image.new("RGB", (COVER_PX, COVER_PX)), COVER_PX // 2
    for index, picture in enumerate(pictures):
        cell = picture.resize((side, side), Image.Resampling.LANCZOS)
        cover.paste(cell, (index % 2 * side, index // 2 * side))
    return cover


def model_card(bundle: GeneratorBundle, cover: Picture | None = None, title: str = "") -> dict[str, str]:
    """Describe a generator for model browsers.

    Args:
        bundle: the generator.
        cover: see `draw_cover`; None: without a picture.
        title: what browsers list; empty: what the generator is.

    Returns:
        Texts for `save(..., metadata=...)`.

    Source: ModelSpec 1.0.1 (Stability-AI/ModelSpec); the keys ComfyUI reads in app/model_manager.py,
    app/assets/services/metadata_extract.py and the page's model store.
    """
    texts = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": ARCHITECTURE,
        "modelspec.implementation": "oneshot-stylegan",
        "modelspec.title": title or _what(bundle),
        "modelspec.description": f"{_what(bundle)}. {_origin(bundle)}",
        "modelspec.resolution": f"{bundle.size}x{bundle.size}",
        "modelspec.base_model": f"StyleGAN2 {bundle.size} px",
        "modelspec.tags": ", ".join(["stylegan2", *(["one-shot"] if _steps(bundle) else [])]),
        "modelspec.usage_hint": "Load StyleGAN2, of the node pack One-Shot StyleGAN",
    }
    if cover is not None:
        picture = base64.b64encode(_jpeg(cover)).decode("ascii")
        texts["modelspec.thumbnail"] = f"data:image/jpeg;base64,{picture}"
        texts["ssmd_cover_images"] = json.dumps([picture])
    return texts


def jpeg_file(picture: Picture, largest_px: int) -> bytes:
    """Encode a Pillow picture as a JPEG file of at most so many pixels a side, for looking at."""
    shown = picture.convert("RGB")
    shown.thumbnail((largest_px, largest_px), Image.Resampling.LANCZOS)
    return _encoded(shown, QUALITIES[0])


def cover_of(path: Path) -> bytes | None:
    """Read the cover picture out of a generator file's header.

    Returns:
        A JPEG file; None where the header has none.

    Raises:
        CheckpointError: missing, damaged, or no safetensors file.
    """
    with opened_tensors(path) as (_, texts):
        kind, _, picture = texts.get("modelspec.thumbnail", "").partition(",")
    if kind != "data:image/jpeg;base64":
        return None
    try:
        return base64.b64decode(picture, validate=True)
    except ValueError:
        return None


def _what(bundle: GeneratorBundle) -> str:
    kind = "Blended" if "blend" in bundle.provenance.history else "Adapted" if _steps(bundle) else ""
    return f"{kind} StyleGAN2 generator, {bundle.size} px".lstrip()


def _origin(bundle: GeneratorBundle) -> str:
    if "looks" in bundle.provenance.history:
        return "Looks of single pictures are added to the styles of a generator."
    if "blend" in bundle.provenance.history:
        return "The weights of two related generators, mixed."
    if steps := _steps(bundle):
        return f"It draws in the look of one picture, learnt in {steps} steps."
    return "It maps latents to pictures."


def _steps(bundle: GeneratorBundle) -> int:
    """How long it was adapted; 0: not at all. The record comes from a file, which may hold anything."""
    steps = bundle.provenance.history.get("step")
    return steps if isinstance(steps, int) and not isinstance(steps, bool) and steps > 0 else 0


def _jpeg(picture: Picture) -> bytes:
    """Encode as good as MAX_COVER_BYTES allow; the last quality is taken whatever its size."""
    content, shown = b"", picture.convert("RGB")
    for quality in QUALITIES:
        content = _encoded(shown, quality)
        if len(content) <= MAX_COVER_BYTES:
            break
    return content


def _encoded(picture: Picture, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=quality, optimize=True)
    return stream.getvalue()
