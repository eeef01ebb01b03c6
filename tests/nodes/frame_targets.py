"""Frame pictures with the pack's node in ComfyUI's loader, and print as JSON what came of it.

Run by ComfyUI's interpreter in its folder:

python frame_targets.py PACK
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from dump_schemas import PACK, base, folder_paths, nodes

import torch  # isort: skip - ComfyUI's environment, set up by dump_schemas
from comfy_extras.nodes_mask import InvertMask  # isort: skip
from PIL import Image  # isort: skip

pack = sys.modules[nodes.NODE_CLASS_MAPPINGS["LoadStyleGAN"].__module__.rpartition(".nodes")[0]]
core, pictures = sys.modules[f"{pack.__name__}.oneshot_core"], sys.modules[f"{pack.__name__}.nodes.pictures"]
FRAME = nodes.NODE_CLASS_MAPPINGS["OneShotFrameTarget"]
GENERATOR = core.demo_generator()
SIZE = GENERATOR.size
sys.path.insert(0, str(Path(PACK) / "tests"))


def loaded(name: str, picture: Image.Image, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture and the mask of it, as ComfyUI's own node loads them from a file."""
    picture.save(base / "input" / name, **settings)
    image, mask = nodes.LoadImage().load_image(name)
    return image, mask


def inverted(mask: torch.Tensor) -> torch.Tensor:
    """What Invert Mask makes of a mask; a method of an older node, a class method of a newer one."""
    made = InvertMask.execute(mask) if hasattr(InvertMask, "execute") else InvertMask().invert(mask)
    return getattr(made, "result", made)[0]


def framed(image: torch.Tensor, mask: torch.Tensor | None = None, **frame: Any) -> Any:
    """What the node gives."""
    values = {"fit": "crop", "zoom": 1.0, "offset_x": 0.0, "offset_y": 0.0, **frame}
    return FRAME.execute(generator=GENERATOR, image=image, mask=mask, **values)


def portrait() -> Image.Image:
    """300 x 200 px, colours that differ everywhere."""
    ramp = Image.linear_gradient("L")
    bands = (ramp, ramp.rotate(90), ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    return Image.merge("RGB", bands).resize((300, 200))


def transparent() -> dict[str, Any]:
    """The recipe for a picture with transparency: its mask through Invert Mask."""
    picture = portrait().convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 300, 100))
    image, mask = loaded("clear.png", picture)
    _, area, _ = pictures.framed(image, inverted(mask), SIZE, core.Frame("stretch"))
    _, wrong, _ = pictures.framed(image, mask, SIZE, core.Frame("stretch"))
    half = SIZE // 2
    return {
        "counts": [float(area[..., : half - 2, :].max()), float(area[..., half + 2 :, :].min())],
        "not inverted": [float(wrong[..., : half - 2, :].min()), float(wrong[..., half + 2 :, :].max())],
    }


def opaque() -> dict[str, str]:
    """The same for a picture without transparency, of which Load Image gives a mask of 64 x 64."""
    image, mask = loaded("opaque.png", portrait())
    said = {}
    for name, given in {"inverted": inverted(mask), "as it is": mask}.items():
        try:
            pictures.framed(image, given, SIZE, core.Frame())
            said[name] = "accepted"
        except ValueError as error:
            said[name] = str(error)
    return said


def passes_on() -> list[bool]:
    """Whether search and adaptation get exactly what was framed, and what the command line would make."""
    path = base / "input" / "portrait.png"
    image, _ = loaded("portrait.png", portrait())
    mask = Image.radial_gradient("L").resize((300, 200))
    mask.save(base / "mask.png")
    levels = torch.frombuffer(bytearray(mask.tobytes()), dtype=torch.uint8).reshape(1, 200, 300) / 255
    same = []
    for frame in ({"zoom": 2.3, "offset_x": 0.4, "offset_y": -1.0}, {"fit": "letterbox"}, {}):
        for given, file in ((levels, base / "mask.png"), (None, None)):
            square, area = framed(image, given, **frame).result
            picture, counts, notes = pictures.framed(square, area, SIZE, core.Frame())
            wanted = core.load_target(path, SIZE, core.Frame(**frame), file)
            same.append(torch.equal(picture, wanted.image) and not notes)
            same.append(counts is wanted.mask is None or torch.equal(counts, wanted.mask))
    return same


def shown() -> dict[str, Any]:
    """What the page is told, and the notes of a tiny picture."""
    image, _ = loaded("portrait.png", portrait())
    found = framed(image, zoom=16.0, offset_x=1.0)
    (square, area), told = found.result, found.ui
    shapes = [list(square.shape), list(area.shape), bool((area == 1).all())]
    return {"ui": {name: told[name] for name in ("frame", "text")}, "images": len(told["given"]),
            "shapes": shapes}  # fmt: skip


def cut_off() -> list[str]:
    """What is said of a JPEG whose second half is missing, which Load Image lets pass."""
    path = base / "input" / "cut.jpg"
    portrait().save(path, quality=95)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    image, _ = nodes.LoadImage().load_image(path.name)
    notes: list[str] = pictures.framed(image, None, SIZE, core.Frame())[2]
    return notes


def at_queue_time() -> list[Any]:
    """What is refused before anything runs."""
    asked: list[dict[str, Any]] = [
        {"fit": "crop", "zoom": 2.0, "offset_x": 0.0, "offset_y": 0.0},
        {"fit": "letterbox", "zoom": 2.0, "offset_x": 0.0, "offset_y": 0.0},
        {"fit": "stretch", "zoom": None, "offset_x": 0.5, "offset_y": 0.0},
        {"fit": "crop", "zoom": 0.5, "offset_x": 0.0, "offset_y": 0.0},
    ]
    return [answer if answer is True else str(answer) for answer in map(_validated, asked)]


def _validated(values: dict[str, Any]) -> Any:
    return FRAME.validate_inputs(**values)


if __name__ == "__main__":
    (base / "input").mkdir(exist_ok=True)
    folder_paths.set_input_directory(str(base / "input"))
    folder_paths.set_temp_directory(str(base / "temp"))
    answer = {
        "transparent": transparent(), "opaque": opaque(), "passes_on": passes_on(), "shown": shown(),
        "cut_off": cut_off(), "refused": at_queue_time(),
    }  # fmt: skip
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
