"""Draw the pack's icon and banner for ComfyUI's registry, from the shipped demo on a CPU.

    python docs/make_icon.py --work out/pictures

Writes `docs/icon.png` (320 x 320 px: one person, plain and in stained glass) and `docs/banner.jpg` (21:9: the
source generator's pictures, one target, and the same latents drawn by the generator that was adapted to it).
The adaptation takes some minutes; it is kept in the work folder and shared with `make_pictures.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from make_pictures import adapted
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import oneshot_core as core
from oneshot_core.demo.making.faces import draw
from oneshot_core.demo.making.truth import target_factors
from oneshot_core.pictures import to_pillow

DOCS = Path(__file__).parent
ICON_PX, ICON_LOOK = 320, "stained glass"
BANNER_PX = (1260, 540)  # 21:9
LOOK, SEEDS = "watercolour", (6, 4, 7, 2, 3, 9, 1, 0, 12, 16, 14, 8)
TILE_PX, COLUMNS = 150, 3  # on each side of the panel in the middle
FRAMED_PX, FRAME_PX = 260, 10
WHITE, LILAC, SHADE = (255, 255, 255), (198, 190, 232), (30, 25, 48)
TITLE, SUBTITLE = ("One-Shot", "StyleGAN"), "one picture in, a whole generator out"


def icon() -> Image.Image:
    """One person, plain on the left of a slanted line and in the other look on its right."""
    factors, side = target_factors(ICON_LOOK), ICON_PX * 2  # drawn larger, then scaled: smooth edges
    plain, styled = (
        to_pillow(draw(factors, look, size_px=256))[0].resize((side, side), Image.Resampling.LANCZOS)
        for look in ("plain", ICON_LOOK)
    )
    upper, lower = side * 0.58, side * 0.42
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).polygon([(upper, 0), (side, 0), (side, side), (lower, side)], fill=255)
    plain.paste(styled, (0, 0), mask)
    ImageDraw.Draw(plain).line([(upper, -9), (lower, side + 9)], fill=WHITE, width=side // 50)
    return plain.resize((ICON_PX, ICON_PX), Image.Resampling.LANCZOS)


def banner(work: Path) -> Image.Image:
    """Source pictures, the target over the title, the same latents adapted."""
    sheet = Image.new("RGB", BANNER_PX, SHADE)
    top = (sheet.height - len(SEEDS) // COLUMNS * TILE_PX) // 2  # above the edge: cut alike above and below
    right = sheet.width - COLUMNS * TILE_PX
    for left, generator in ((0, core.demo_generator()), (right, adapted(work, LOOK))):
        pictures = to_pillow(core.sample(generator, SEEDS, core.SampleConfig(psi=1.0)))
        for index, picture in enumerate(pictures):
            place = (left + index % COLUMNS * TILE_PX, top + index // COLUMNS * TILE_PX)
            sheet.paste(picture.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS), place)
    framed(sheet)
    pen, middle = ImageDraw.Draw(sheet), sheet.width // 2
    for line, y in zip(TITLE, (373, 434), strict=True):
        pen.text((middle, y), line, fill=WHITE, font=ImageFont.load_default(size=62), anchor="mm")
    pen.text((middle, 496), SUBTITLE, fill=LILAC, font=ImageFont.load_default(size=18), anchor="mm")
    return sheet


def framed(sheet: Image.Image) -> None:
    """Lay the target in a white frame, with a soft shadow, over the middle."""
    target = to_pillow(core.demo_target(LOOK, FRAMED_PX))[0]
    outer = FRAMED_PX + 2 * FRAME_PX
    left, top = (sheet.width - outer) // 2, 38
    shadow = Image.new("L", sheet.size, 0)
    ImageDraw.Draw(shadow).rectangle([left, top + 6, left + outer, top + outer + 10], fill=200)
    sheet.paste((8, 6, 16), (0, 0), shadow.filter(ImageFilter.GaussianBlur(12)))
    sheet.paste(WHITE, (left, top, left + outer, top + outer))
    sheet.paste(target, (left + FRAME_PX, top + FRAME_PX))


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the adaptation")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    icon().save(DOCS / "icon.png", optimize=True)
    banner(work).save(DOCS / "banner.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
