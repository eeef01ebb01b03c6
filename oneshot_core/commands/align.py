"""The verbs align and paste: the square of a face out of a photo, and an edited one back into it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..alignment import (
    LANDMARKS_LICENCE,
    Face,
    NoFaceError,
    align,
    choose_face,
    find_faces,
    followed_face,
    full_frame,
    paste_back,
    smoothed,
    three_point_quad,
)
from ..alignment.crops import MOST_OUT_PX
from ..pictures import Picture, save_png, to_tensor
from ..pictures.files import open_picture, pictures_in
from ..quad_files import load_quad, save_quad
from ..quads import Quad
from .console import BadInput, ProgressBar, note
from .resources import out_folder, out_path, report

DLIB, POINTS, SQUARE = "dlib, 68 landmarks", "three points", "the middle square"
MOST_NAMED = 4  # frames without a face, in a note


def align_command(options: Namespace) -> None:
    """`align PHOTO... --out DIR`: cut faces' squares out, each as NAME.png with its quad in NAME.json."""
    photos = _pictures(options.photos)
    _check_names(photos, out_path(options.out))
    if options.size > MOST_OUT_PX:
        raise BadInput(f"--size must be from 1 to {MOST_OUT_PX} px, got {options.size}")
    if options.points and len(photos) > 1:
        raise BadInput(f"--points belong to one photo, got {len(photos)}")
    if options.smooth is not None and (options.points or options.square):
        raise BadInput("--smooth follows a face that is found in each frame: leave out --points and --square")
    quads = _followed(photos, options) if options.smooth is not None else _each(photos, options)
    if not any(quads):
        raise NoFaceError(photos[0].name if len(photos) == 1 else f"any of the {len(photos)} photos")
    folder, how = out_folder(options.out), POINTS if options.points else SQUARE if options.square else DLIB
    aligned, without = [], []
    with ProgressBar("align", len(photos), quiet=options.quiet) as bar:
        for done, (photo, quad) in enumerate(zip(photos, quads, strict=True), 1):
            if quad is None:
                note(f"{photo.name}: no face was found, it is left out")
                without.append(str(photo))
            else:
                file = save_png(align(open_picture(photo), quad, options.size), folder / f"{photo.stem}.png")
                place = save_quad(quad, folder / f"{photo.stem}.json", photo=photo.name, found_by=how)
                aligned.append({"photo": str(photo), "picture": str(file), "quad": str(place)})
            bar.update(done)
    if how == DLIB:
        note(LANDMARKS_LICENCE)
    one = {name: aligned[0][name] for name in ("picture", "quad")}
    files = one if len(aligned) == 1 else {"folder": str(folder)}
    report(options, {"files": files, "aligned": aligned, "without_face": without, "found_by": how})


def _each(photos: Sequence[Path], options: Namespace) -> list[Quad | None]:
    """The quad of each photo by itself; None where no face was found."""
    found = []
    with ProgressBar("find faces", len(photos), quiet=options.quiet) as bar:
        for path in photos:
            found.append(_quad(open_picture(path), path.name, options))
            bar.update(len(found))
    return found


def _quad(photo: Picture, name: str, options: Namespace) -> Quad | None:
    if options.square:
        return full_frame(*photo.size)
    if options.points:
        left, right, mouth = options.points
        return three_point_quad(left, right, mouth, *photo.size)
    faces = find_faces(photo)
    if len(faces) > 1:
        chosen = "the largest" if isinstance(options.face, str) else f"number {options.face} from the left"
        note(f"{name}: {len(faces)} faces were found, {chosen} is taken (--face)")
    return choose_face(faces, options.face, name).quad() if faces else None


def _followed(photos: Sequence[Path], options: Namespace) -> list[Quad]:
    """The quads of one face through the frames of a video."""
    frames: list[list[Face]] = []
    with ProgressBar("find faces", len(photos), quiet=options.quiet) as bar:
        for path in photos:
            frames.append(find_faces(open_picture(path)))
            bar.update(len(frames))
    faces = followed_face(frames, options.face)
    gaps = [path.name for path, face in zip(photos, faces, strict=True) if face is None]
    if gaps:
        shown = ", ".join(gaps[:MOST_NAMED]) + (", ..." if gaps[MOST_NAMED:] else "")
        note(f"no face was found in {len(gaps)} of {len(photos)} frames ({shown}); it is interpolated there")
    return smoothed([None if face is None else face.quad() for face in faces], options.smooth)


def _pictures(names: Sequence[str]) -> list[Path]:
    """Photos that are named, and those of folders by name."""
    found: list[Path] = []
    for path in map(Path, names):
        inner = pictures_in(path)
        if path.is_dir() and not inner:
            raise BadInput(f"the folder {path} holds no picture files")
        found += inner or [path]
    return found


def _check_names(photos: Sequence[Path], folder: Path) -> None:
    """Refuse names that would meet, and results over a photo."""
    names = [photo.stem for photo in photos]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"several photos are called {twice}, and so would be their results; align them apart")
    over = next((one for one in photos if (folder / f"{one.stem}.png").resolve() == one.resolve()), None)
    if over is not None:
        raise BadInput(f"{over} lies where its result would be written; choose another --out")


def paste_command(options: Namespace) -> None:
    """`paste PICTURE --photo PHOTO --quad JSON --out PNG`: put an edited picture back, or a folder."""
    jobs = _jobs(options)
    mask = None if options.mask is None else _mask(options.mask)
    with ProgressBar("paste", len(jobs), quiet=options.quiet) as bar:
        for done, (picture, photo, quad, out) in enumerate(jobs, 1):
            whole, edited = (to_tensor(open_picture(path)) for path in (photo, picture))
            save_png(paste_back(whole, edited, load_quad(quad), options.feather, mask), out)
            bar.update(done)
    kind = "picture" if len(jobs) == 1 else "pictures"
    report(options, {"files": {kind: str(options.out)}, "count": len(jobs)})


def _jobs(options: Namespace) -> list[tuple[Path, Path, Path, Path]]:
    """Picture, photo, quad and result of each; nothing is written over what it is made from."""
    picture, photo, quad, out = map(Path, (options.picture, options.photo, options.quad, options.out))
    if picture.is_dir():
        jobs = _frames(picture, photo, quad, out_folder(options.out))
    elif out.suffix.lower() == ".png":
        jobs = [(picture, photo, quad, out)]
    else:
        raise BadInput(f"--out must end in .png, got {out.name!r}")
    for *given, result in jobs:
        if result.resolve() in [one.resolve() for one in given]:
            raise BadInput(f"{result} is what the result is made from; choose another --out")
    return jobs


def _frames(picture: Path, photo: Path, quad: Path, out: Path) -> list[tuple[Path, Path, Path, Path]]:
    """What belongs together in folders, by name."""
    if not (photo.is_dir() and quad.is_dir()):
        raise BadInput(f"{picture} is a folder, so --photo and --quad must be folders too")
    photos, jobs = {one.stem: one for one in _pictures([str(photo)])}, []
    for one in _pictures([str(picture)]):
        place = quad / f"{one.stem}.json"
        if one.stem not in photos or not place.is_file():
            raise BadInput(f"{one.name} has no photo in {photo} or no quad in {quad} of its name")
        jobs.append((one, photos[one.stem], place, out / f"{one.stem}.png"))
    return jobs


def _mask(name: str) -> Tensor:
    levels = np.array(open_picture(name).convert("L"), dtype=np.uint8)
    height, width = levels.shape
    if height != width:
        raise BadInput(f"--mask must be square, as aligned pictures are; {name} has {width} x {height} px")
    return torch.from_numpy(levels).float() / 255
