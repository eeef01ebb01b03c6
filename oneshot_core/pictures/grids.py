"""Pictures out: tensors to Pillow images and back, PNG files, labelled grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from ..tensors import Images, check_shape
from ..writing import atomic_path

LARGEST_CELL_PX = 256  # of a picture in a grid, unless the caller says otherwise
PAPER, INK, FAINT = (255, 255, 255), (32, 33, 36), (120, 124, 130)

Picture: TypeAlias = Image.Image
Row: TypeAlias = tuple[str, "Images | None"]  # label and pictures; None: a heading without pictures


def to_uint8(images: Images) -> Tensor:
    """Turn [N, 3, H, W] in [-1, 1] into bytes [N, H, W, 3] on the CPU; clamped, rounded, NaN gives 0."""
    check_shape(images, "images", (None, 3, None, None))
    values = images.detach().float().nan_to_num(nan=-1.0).clamp(-1, 1)
    return values.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous()


def to_tensor(picture: Picture) -> Images:
    """Turn a Pillow image into [1, 3, H, W] in [-1, 1], float32."""
    values = torch.from_numpy(np.array(picture.convert("RGB")))
    return values.permute(2, 0, 1)[None].float().div(127.5).sub(1)


def to_pillow(images: Images) -> list[Picture]:
    """Turn [N, 3, H, W] in [-1, 1] into N Pillow images."""
    return [Image.fromarray(values) for values in to_uint8(images).numpy()]


def save_png(
    images: Images | Picture, path: Path | str, *, text: Mapping[str, str] | None = None, columns: int = 0
) -> Path:
    """Write a PNG file; atomic.

    Args:
        images: a Pillow image, or [N, 3, H, W] in [-1, 1]; more than one are put side by side.
        path: final name.
        text: metadata stored with the picture, by keyword.
        columns: pictures per line; 0: a nearly square arrangement.

    Returns:
        The path.

    Raises:
        ValueError: no pictures.
    """
    picture = images if isinstance(images, Image.Image) else _tiled(to_pillow(images), columns)
    notes = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        notes.add_text(key, value)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=notes, compress_level=6)
    return Path(path)


def _tiled(pictures: Sequence[Picture], columns: int) -> Picture:
    """Put pictures of one size side by side without gaps."""
    if not pictures:
        raise ValueError("there is no picture to save; give at least one")
    columns = min(len(pictures), columns or round(len(pictures) ** 0.5 + 0.499))
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), PAPER)
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet


def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that Pillow brings, at a height in pixels."""
    return ImageFont.load_default(size=size_px)


def labelled_grid(
    rows: Sequence[Row],
    *,
    columns: Sequence[str] = (),
    lead: tuple[str, Images] | None = None,
    title: str = "",
    picture_px: int = 0,
) -> Picture:
    """Lay out rows of pictures, each under its label.

    Args:
        rows: (label, [N, 3, H, W]) per row; (label, None) is a heading.
        columns: captions below the last row, one per column, such as seeds.
        lead: (label, [1, 3, H, W]), drawn large to the left of all rows, such as the target.
        title: above everything.
        picture_px: side of a picture; 0: its own height, within 96 and 256.

    Returns:
        An RGB Pillow image; give it to `save_png`.

    Raises:
        ValueError: no row has a picture.
    """
    first = next((images for _, images in rows if images is not None and len(images)), None)
    if first is None:
        raise ValueError("a grid needs at least one row with pictures")
    side = picture_px or min(LARGEST_CELL_PX, max(96, first.shape[2]))
    return _Sheet(rows, columns, lead, title, side).drawn()


def thumbnails(images: Images) -> Images:
    """Reduce pictures to the size that `labelled_grid` draws them in, so that many can be kept for one.

    Args:
        images: [N, 3, H, W] in [-1, 1], square.

    Returns:
        [N, 3, 256, 256], with which the grid is the same to the bit; the input itself where it is not larger.
    """
    if not len(images) or images.shape[-1] <= LARGEST_CELL_PX:
        return images
    return torch.cat([to_tensor(_scaled(picture, LARGEST_CELL_PX)) for picture in to_pillow(images)])


class _Sheet:
    """Measures and draws a labelled grid."""

    def __init__(
        self,
        rows: Sequence[Row],
        columns: Sequence[str],
        lead: tuple[str, Images] | None,
        title: str,
        side: int,
    ) -> None:
        self.rows, self.columns, self.lead, self.title, self.side = rows, columns, lead, title, side
        self.text_px = min(22, max(13, side // 8))
        self.gap, self.margin = max(3, side // 32), max(12, side // 8)
        self.line = round(self.text_px * 1.7)  # height of a line of text with its air
        across = max(0 if images is None else len(images) for _, images in rows)
        heights = [self.line + (0 if images is None else side + self.gap * 2) for _, images in rows]
        self.inner_height = sum(heights)
        self.lead_px = (
            0 if lead is None else min(self.inner_height - self.line - self.gap * 2, round(2.5 * side))
        )
        self.left = self.margin + (self.lead_px + self.margin if lead else 0)
        self.top = self.margin + (round(self.line * 1.4) if title else 0)
        labels = max(round(font(self.text_px).getlength(label)) for label, _ in rows)
        self.across_px = max(across * (side + self.gap) - self.gap, min(labels, 4 * side))

    def drawn(self) -> Picture:
        """Draw it all."""
        height = self.top + self.inner_height + (self.line if self.columns else 0) + self.margin
        self.sheet = Image.new("RGB", (self.left + self.across_px + self.margin, height), PAPER)
        self.pen = ImageDraw.Draw(self.sheet)
        if self.title:
            place = (self.margin, self.margin)
            self._write(self.title, place, self.sheet.width - 2 * self.margin, round(self.text_px * 1.25))
        if self.lead is not None:
            self._picture_with_label(self.lead[0], self.lead[1][:1], (self.margin, self.top), self.lead_px)
        y = self.top
        for label, images in self.rows:
            self._picture_with_label(label, images, (self.left, y), self.side)
            y += self.line + (0 if images is None else self.side + self.gap * 2)
        for index, caption in enumerate(self.columns):
            middle = self.left + index * (self.side + self.gap) + self.side // 2
            self._caption(caption, middle, y)
        return self.sheet

    def _picture_with_label(
        self, label: str, images: Images | None, place: tuple[int, int], side: int
    ) -> None:
        x, y = place
        self._write(label, place, self.lead_px if x < self.left else self.across_px, self.text_px)
        for index, picture in enumerate([] if images is None else to_pillow(images)):
            self.sheet.paste(_scaled(picture, side), (x + index * (side + self.gap), y + self.line))

    def _write(self, label: str, place: tuple[int, int], width: int, size_px: int) -> None:
        self.pen.text(place, shortened(label, width, size_px), fill=INK, font=font(size_px))

    def _caption(self, label: str, middle: int, y: int) -> None:
        size_px = max(12, self.text_px - 3)
        words = shortened(label, self.side, size_px)
        self.pen.text((middle, y), words, fill=FAINT, font=font(size_px), anchor="ma")


def shortened(label: str, width_px: int, size_px: int) -> str:
    """Cut a label so that it fits a width at a font size, ending in three dots when it was cut."""
    style = font(size_px)
    if style.getlength(label) <= width_px:
        return label
    kept = label
    while kept and style.getlength(f"{kept}...") > width_px:
        kept = kept[:-1]
    return f"{kept.rstrip()}..." if kept else ""


def _scaled(picture: Picture, side: int) -> Picture:
    """Fit a picture into a square cell, sharp when it grows and antialiased when it shrinks."""
    scale = side / max(picture.size)
    if scale == 1:
        return picture
    how = Image.Resampling.NEAREST if scale.is_integer() else Image.Resampling.LANCZOS
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), how)
