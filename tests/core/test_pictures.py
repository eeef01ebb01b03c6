"""Picture files: every mode and rotation, sizes, damage; PNG files and labelled grids."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import tiny_bundle

from oneshot_core.alignment import align, three_point_quad
from oneshot_core.frames import Frame
from oneshot_core.pictures import (
    check_mask,
    frame,
    frame_mask,
    labelled_grid,
    load_picture,
    load_target,
    masked_target,
    save_png,
    sheets,
    shortened,
    thumbnails,
    to_pillow,
    to_uint8,
)
from oneshot_core.pictures.files import MAX_PIXELS, PictureError
from oneshot_core.pictures.sheets import LiveSheet
from oneshot_core.sampling import SampleConfig, sample

RED, BLUE = (200, 30, 40), (20, 40, 210)


def two_colours(width: int = 40, height: int = 20) -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (width // 2, 0, width, height))
    return picture


def signed(colour: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(colour).float() / 127.5 - 1


def close(have: torch.Tensor, colour: tuple[int, ...], atol: float = 0.02) -> None:
    torch.testing.assert_close(have, signed(colour), atol=atol, rtol=0)


def test_a_picture_is_stretched_to_the_square_as_the_method_does(tmp_path):
    path = tmp_path / "Target.PNG"
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (30, 50, 3), dtype=np.uint8))
    picture.save(path)
    images = load_picture(path, 16, Frame("stretch"))
    assert images.shape == (1, 3, 16, 16)
    assert images.dtype == torch.float32
    wanted = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR), dtype=np.float32)
    torch.testing.assert_close(images[0], torch.from_numpy((wanted / 255 - 0.5) / 0.5).permute(2, 0, 1))


def test_fits(tmp_path):
    path = tmp_path / "wide.png"
    two_colours(60, 20).save(path)
    crop = load_picture(path, 20)[0]
    close(crop[:, 10, 2], RED)
    close(crop[:, 10, 17], BLUE)
    boxed = load_picture(path, 30, Frame("letterbox"))[0]
    assert (boxed[:, :10] == -1).all()
    assert (boxed[:, 20:] == -1).all()
    close(boxed[:, 15, 5], RED)


@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
def test_a_mask_is_fitted_like_its_picture(fit):
    levels = (torch.rand(30, 50) * 255).byte()
    picture = Image.fromarray(levels.numpy()).convert("RGB")
    fitted = frame_mask(levels[None, None].float() / 255, picture, 16, Frame(fit))
    torch.testing.assert_close(fitted, (frame(picture, 16, Frame(fit))[:, :1] + 1) / 2, atol=0.005, rtol=0)


def test_the_bars_of_a_letterbox_do_not_count(tmp_path):
    path = tmp_path / "car.png"
    two_colours(60, 45).save(path)  # 4:3, as the published cars
    target = load_target(path, 64, Frame("letterbox"))
    image, mask = target.image, target.mask
    assert torch.equal(image, load_picture(path, 64, Frame("letterbox")))
    assert mask.shape == (1, 1, 64, 64)
    assert (mask[:, :, 8:56] > 0.999).all() and not mask[:, :, :8].any() and not mask[:, :, 56:].any()
    for fit in ("stretch", "crop"):
        assert load_target(path, 64, Frame(fit)).mask is None
    two_colours(40, 40).save(path)
    assert load_target(path, 64, Frame("letterbox")).mask is None


def test_a_mask_file_counts_where_it_is_white(tmp_path):
    target, mask = tmp_path / "target.png", tmp_path / "mask.png"
    two_colours(40, 20).save(target)
    Image.new("L", (40, 20), 255).save(mask)
    assert load_target(target, 16, Frame("stretch"), mask).mask is None
    half = Image.new("RGB", (40, 20), (255, 255, 255))
    half.paste((0, 0, 0), (20, 0, 40, 20))
    half.save(mask)
    counts = load_target(target, 16, Frame("stretch"), mask).mask
    assert (counts[..., :7] > 0.999).all() and not counts[..., 9:].any()
    both = load_target(target, 16, Frame("letterbox"), mask).mask
    assert float(both[0, 0, 8, 3]) > 0.999 and not both[:, :, :4].any() and not both[..., 9:].any()
    Image.new("L", (20, 20), 255).save(mask)
    with pytest.raises(ValueError, match="the mask has 20 x 20 px, the target 40 x 20"):
        load_target(target, 16, Frame("stretch"), mask)
    Image.new("L", (40, 20), 0).save(mask)
    with pytest.raises(ValueError, match="0 everywhere, so nothing of the target counts"):
        load_target(target, 16, Frame("stretch"), mask)


def test_a_quad_frames_a_target_and_its_mask(tmp_path):
    """Both are cut out alike: where the mask was white, the target is red."""
    photo = two_colours(120, 90)
    photo.save(tmp_path / "photo.png")
    mask = Image.new("L", (120, 90))
    mask.paste(255, (0, 0, 60, 90))
    mask.save(tmp_path / "mask.png")
    for eyes in (((48, 40), (66, 30)), ((20, 30), (60, 20))):  # the second square leaves the photo
        how = Frame(quad=three_point_quad(*eyes, (63, 55), 120, 90))
        target = load_target(tmp_path / "photo.png", 48, how, tmp_path / "mask.png")
        counts = target.mask[0, 0]
        assert target.image.shape == (1, 3, 48, 48) and 0.2 < float(counts.mean()) < 0.9
        if how.quad.bounds[1] > 12:
            close(target.image[0, :, counts > 0.99].mean(dim=1), RED)
            close(target.image[0, :, counts < 0.01].mean(dim=1), BLUE)
        assert torch.equal(target.image, load_target(tmp_path / "photo.png", 48, how).image)
        assert load_target(tmp_path / "photo.png", 48, how).mask is None  # all of it counts
        (aligned,) = to_pillow(target.image)
        assert np.array_equal(np.asarray(align(photo, how.quad, 48)), np.asarray(aligned))
    with pytest.raises(ValueError, match="found in a photo of 120 x 90 px, this one has 90 x 120"):
        frame(photo.transpose(Image.Transpose.ROTATE_90), 48, how)


def test_what_does_not_count_of_a_target_becomes_the_sources_picture():
    target, reconstruction = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), -0.5)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2], mask[..., 2] = 1.0, 0.5
    filled = masked_target(target, reconstruction, mask)
    assert (filled[..., :2] == 0.5).all() and (filled[..., 2] == 0).all() and (filled[..., 3] == -0.5).all()
    assert torch.equal(masked_target(target, reconstruction, torch.ones(1, 1, 4, 4)), target)
    with pytest.raises(ValueError, match="reconstruction must have shape"):
        masked_target(target, reconstruction[..., :2], mask)


def test_masks_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"mask must have shape \[1, 1, 8, 8\], got \[1, 3, 8, 8\]"):
        check_mask(torch.ones(1, 3, 8, 8), 8)
    for value in (-0.1, 255.0, float("nan")):
        with pytest.raises(
            ValueError, match="from 0 .ignored. to 1 .counts.|the mask is not made of finite numbers"
        ):
            check_mask(torch.full((1, 1, 8, 8), value))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_the_cameras_rotation_is_applied(tmp_path, orientation):
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    two_colours(40, 40).save(path, exif=exif, quality=95)
    image = load_picture(path, 16)[0]
    row, column = {3: (8, 13), 6: (2, 8), 8: (13, 8)}[orientation]  # where the red half is now
    close(image[:, row, column], RED, atol=0.1)


@pytest.mark.parametrize(
    ("mode", "grey"),
    [
        ("L", 100),
        ("1", 255),
        ("P", 100),
        ("LA", 100),
        ("RGBA", 100),
        ("CMYK", 100),
        ("I;16", 100),
        ("I", 100),
    ],
)
def test_modes_become_rgb(tmp_path, mode, grey):
    path = tmp_path / ("picture.tif" if mode in ("CMYK", "I", "I;16") else "picture.png")
    if mode in ("I;16", "I"):
        values = np.full((8, 8), grey * 257, dtype=np.uint16 if mode == "I;16" else np.int32)
        picture = Image.fromarray(values)
    else:
        picture = Image.new("RGB", (8, 8), (grey,) * 3).convert(mode)
    picture.save(path)
    close(load_picture(path, 4)[0, :, 1, 1], (grey,) * 3)


def test_sixteen_bit_png_keeps_its_brightness(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 51400, dtype=np.uint16)).save(path)
    close(load_picture(path, 8)[0, :, 0, 0], (200, 200, 200))


def test_transparency_becomes_white(tmp_path):
    path = tmp_path / "glass.png"
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(path)
    close(load_picture(path, 8)[0, :, 4, 4], (255, 255, 255))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30] * 256)
    palette.save(path, transparency=0)
    close(load_picture(path, 8)[0, :, 4, 4], (255, 255, 255))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (60_000, 60_000), (100_000, 10)])
def test_bombs_are_refused(tmp_path, width, height):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(width, height))
    with pytest.raises(PictureError, match=r"megapixels|too large"):
        load_picture(path, 16)
    assert width * height > MAX_PIXELS or width > 32_768


def test_damaged_files_give_one_clear_error(tmp_path):
    path = tmp_path / "cut.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(PictureError, match=r"cut\.png is damaged"):
        load_picture(path, 16)
    path.write_bytes(bomb(8, 8))
    with pytest.raises(PictureError):
        load_picture(path, 16)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # never given to another program
    with pytest.raises(PictureError, match=r"PostScript.*not a picture"):
        load_picture(path, 16)
    with pytest.raises(PictureError, match="is not a file"):
        load_picture(tmp_path, 16)


def test_floating_point_pictures_are_refused(tmp_path):
    path = tmp_path / "float.tif"
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(path)
    with pytest.raises(PictureError, match="floating-point"):
        load_picture(path, 16)


def test_bytes_are_clamped_and_rounded():
    values = torch.tensor([-3.0, -1.0, 0.0, 0.999, 1.0, 3.0, float("nan"), 0.004])
    images = values.expand(1, 3, 1, 8)
    assert to_uint8(images)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 255, 0, 128]


def test_png_files_hold_their_pixels_and_texts(tmp_path):
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    path = save_png(images, tmp_path / "new" / "three.png", text={"seeds": "0-2", "größe": "ümlaut 漢"})
    with Image.open(path) as picture:
        assert picture.size == (16, 16)
        assert picture.text == {"seeds": "0-2", "größe": "ümlaut 漢"}
        first = np.asarray(picture)[:8, :8]
    assert (first == to_uint8(images)[0].numpy()).all()
    assert [file.name for file in path.parent.iterdir()] == ["three.png"]
    assert Image.open(save_png(images, tmp_path / "row.png", columns=3)).size == (24, 8)
    with pytest.raises(ValueError, match="no picture"):
        save_png(images[:0], path)


def test_grids_hold_every_picture_where_it_belongs():
    source = signed(RED)[None, :, None, None].expand(3, 3, 128, 128)
    adapted = signed(BLUE)[None, :, None, None].expand(3, 3, 128, 128)
    rows = [("source", source), ("adapted", adapted)]
    grid = labelled_grid(rows, columns=["0", "1", "2"], lead=("target", adapted[:1]), title="Title")
    colours = dict((colour, count) for count, colour in grid.getcolors(100_000))
    assert colours[RED] == 3 * 128 * 128
    assert colours[BLUE] > 4 * 128 * 128  # the lead picture is drawn larger
    assert (32, 33, 36) in colours  # the labels' ink
    assert labelled_grid([("only a heading", None), ("pictures", source)], picture_px=64).width < 300
    with pytest.raises(ValueError, match="at least one row"):
        labelled_grid([("nothing", None)])


def test_labels_are_cut_to_their_width():
    assert shortened("seed 1", 100, 14) == "seed 1"
    cut = shortened("a label that is much too long", 100, 14)
    assert cut.endswith("...")
    assert cut.startswith("a label")
    assert shortened("seed", 1, 14) == ""


def test_pillow_images_have_the_values():
    images = signed(RED)[None, :, None, None].expand(1, 3, 4, 4)
    assert to_pillow(images)[0].getpixel((1, 1)) == RED


def test_thumbnails_give_the_same_grid_to_the_bit():
    large = torch.rand(3, 3, 300, 300, generator=torch.Generator().manual_seed(0)) * 2 - 1
    small = thumbnails(large)
    assert small.shape == (3, 3, 256, 256)
    assert np.array_equal(*(np.asarray(labelled_grid([("row", images)])) for images in (large, small)))
    assert thumbnails(large[..., :200, :200]).shape[-1] == 200


def test_a_live_sheet_draws_the_source_once(monkeypatch) -> None:
    bundle = tiny_bundle(64)
    drawn: list[int] = []
    monkeypatch.setattr(sheets, "sample", lambda *given, **more: drawn.append(1) or sample(*given, **more))
    live = LiveSheet(bundle, torch.zeros(1, 3, 64, 64), (0, 1, 2))
    plain = sample(bundle, (0, 1, 2), SampleConfig(psi=1.0))
    first, second = live(plain), live(-plain)
    assert len(drawn) == 1 and first.size == second.size
    rows = [np.asarray(one, dtype=np.int16) for one in (first, second)]
    changed = np.argwhere(np.abs(rows[0] - rows[1]).max(axis=2) > 8)
    assert changed[:, 0].min() > first.height // 2 and changed[:, 1].min() > first.width // 4  # its own row
