"""Draw the help pages' pictures of the nodes that edit, mix and invert; see `make_pictures`."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

import oneshot_core as core
from oneshot_core.demo.making.photo import PEOPLE, points_of

LONG, SHORT = "a person with long hair", "a person with short hair"
PEOPLE_SEEDS = (2, 9, 15)
EDITED = 6
EDITS = (
    ("long hair", "person with long hair", "person with short hair", 4.0),
    ("a beard", "person with a beard", "person", 5.0),
    ("glasses", "person with glasses", "person", 5.0),
    ("red hair", "person with red hair", "person with grey hair", 5.0),
    ("looking right", "person, looking to the right", "person, looking to the left", 5.0),
)
MARGIN, FACE_PX = 1.4, 128
MAPPER = ("a person with a hat", "a person")
MAPPER_STEPS, INVERSION_STEPS = 400, 200
KEPT = core.SampleConfig(psi=0.7, keep_codes=True)


def text_direction(text: str = LONG, neutral: str = SHORT) -> core.Direction:
    """A direction of the demo's generator."""
    clip = core.demo_encoders().clip
    request = core.TextRequest(text, neutral, core.GradientConfig(selection=core.Selection(channels=50)))
    return core.find_text_direction("gradient", core.demo_generator(), clip, request).direction


def aligned() -> tuple[core.Alignment, torch.Tensor]:
    """Where the faces of the demo's photo are, and the faces [3, 3, 128, 128]."""
    photo = core.demo_photo()
    height, width = photo.shape[-2:]
    quads = [core.three_point_quad(*points_of(person), width, height) for person in PEOPLE]
    alignment = core.Alignment(tuple(quads)).scaled(MARGIN)
    cut = [core.align_batch(photo, core.Alignment((quad,)), FACE_PX) for quad in alignment.quads]
    return alignment, torch.cat(cut)


def inverted(work: Path, method: str) -> core.Latent:
    """The faces of the photo as latents."""
    path = work / f"inverted-{method.split()[-1].strip('()')}.safetensors"
    if not path.is_file():
        rate = {"learning_rate": 0.03} if method == "ii2s" else {}
        config = core.inversion_config(method, steps=INVERSION_STEPS, **rate)
        net = core.demo_encoders().perceptual
        core.save_latent(core.inverted(core.demo_generator(), aligned()[1], net, config).latent, path)
    return core.load_latent(path)


def mapper(work: Path) -> core.LatentMapper:
    """A mapper of the demo's generator."""
    path = work / "mapper.safetensors"
    if not path.is_file():
        config = core.MapperConfig(steps=MAPPER_STEPS)
        clip = core.demo_encoders().clip
        made = core.train_mapper(
            core.demo_generator(), clip, MAPPER[0], config, neutral_text=MAPPER[1],
            state_file=work / "mapper.state.safetensors",
        )  # fmt: skip
        core.save_mapper(made.mapper, path)
    return core.load_mapper(path)


def below(top: Image.Image, bottom: Image.Image) -> Image.Image:
    """One picture below another, as wide as it."""
    height = round(top.height * bottom.width / top.width)
    whole = Image.new("RGB", (bottom.width, height + bottom.height), "white")
    whole.paste(top.resize((bottom.width, height), Image.Resampling.LANCZOS), (0, 0))
    whole.paste(bottom, (0, height))
    return whole


def direction_pictures(adapted: core.GeneratorBundle) -> dict[str, Image.Image]:
    """Of the nodes that find, keep and show directions."""
    source, found = core.demo_generator(), text_direction()
    people = core.random_latents(source, PEOPLE_SEEDS)
    strengths, one = (-4.0, -2.0, 0.0, 2.0, 4.0), people.part(slice(1))

    def table(latent: core.Latent, direction: core.Direction, *bundles: core.GeneratorBundle) -> Image.Image:
        drawn = [core.edit_table(bundle, latent, direction, strengths, KEPT) for bundle in bundles]
        return core.edit_sheet(drawn, latent, strengths, direction)

    def row(label: str, bundle: core.GeneratorBundle, latent: core.Latent) -> tuple[str, torch.Tensor]:
        return label, core.sample(bundle, latent, KEPT)

    longer, shorter = (core.apply_direction(people, found, value) for value in (4.0, -4.0))
    rows = [row("before", source, people), row(LONG, source, longer), row(SHORT, source, shorter)]
    components = core.sefa_directions(source, None, 4)
    several = [
        (each.name, torch.cat(core.edit_table(source, one, each, (-3.0, -1.5, 0.0, 1.5, 3.0), KEPT)))
        for each in components
    ]
    others = core.random_latents(source, (4, 7, 16))
    difference = core.reference_direction(
        source, people.part(slice(1)), people.part(slice(1, 2)), "difference"
    )
    moved = core.apply_direction(others, difference, 0.7)
    return {
        "OneShotTextDirection": core.labelled_grid([*rows, row("adapted: " + LONG, adapted, longer)]),
        "OneShotApplyDirection": table(one, found, source, adapted),
        "OneShotEditGrid": table(people.part(slice(2)), found, source, adapted),
        "OneShotSaveDirection": core.labelled_grid([row("others", source, others),
            row(LONG, source, core.apply_direction(others, found, 4.0))]),
        "OneShotLoadDirection": table(others.part(slice(2)), found, source),
        "OneShotComponentDirection": core.labelled_grid(several, columns=("-3", "-1.5", "0", "1.5", "3")),
        "OneShotLatentDirection": core.labelled_grid(
            [row("with, without", source, people.part(slice(2))), row("others", source, others),
             row("with the direction", source, moved)]
        ),
    }  # fmt: skip


def edits_picture(adapted: core.GeneratorBundle) -> Image.Image:
    """One person before and after five text edits, by the source and by the adapted generator."""
    source = core.demo_generator()
    person = core.random_latents(source, (EDITED,))
    latents = [person, *(core.apply_direction(person, text_direction(text, neutral), strength)
                         for _, text, neutral, strength in EDITS)]  # fmt: skip
    rows = [
        (label, torch.cat([core.sample(bundle, latent, KEPT) for latent in latents]))
        for label, bundle in (("source", source), ("adapted", adapted))
    ]
    return core.labelled_grid(rows, columns=["before", *(name for name, *_ in EDITS)])


def latent_pictures() -> dict[str, Image.Image]:
    """Of the nodes that walk and mix."""
    source, found = core.demo_generator(), text_direction()
    people = core.random_latents(source, PEOPLE_SEEDS)
    edited = core.apply_direction(people, found, 4.0)
    first, walks = people.part(slice(1)), []
    between = core.interpolate(source, people.part(slice(2)), 7, psi=0.7)
    slowly = core.interpolate(source, core.join_latents(source, [first, edited.part(slice(1))], 0.7), 7)
    for label, walk in (("from person to person", between), ("to the same person, edited", slowly)):
        walks.append((label, core.sample(source, walk, KEPT)))
    others = core.random_latents(source, (4, 7, 16))
    table = core.mix_table(source, people, others, core.SampleConfig(psi=0.7, mix_from=4))
    heads = core.sample(source, others, KEPT)
    own = core.sample(source, people, KEPT)
    mixed = [("columns", torch.cat([torch.ones_like(heads[:1]), heads]))]
    mixed += [("", torch.cat([own[index : index + 1], row])) for index, row in enumerate(table)]
    return {
        "OneShotInterpolateLatents": core.labelled_grid(walks),
        "OneShotStyleMix": core.labelled_grid(mixed),
    }


def photo_pictures(work: Path, adapted: core.GeneratorBundle) -> dict[str, Image.Image]:
    """Of the nodes that bring photos in and back."""
    source, photo = core.demo_generator(), core.demo_photo()
    alignment, faces = aligned()
    latents = {method: inverted(work, method) for method in ("ii2s", "projector (nvidia)")}
    rows = [("aligned", faces)]
    rows += [(method, core.sample(source, latent, KEPT)) for method, latent in latents.items()]
    (whole,) = core.to_pillow(photo)
    pasted = photo
    for index, quad in enumerate(alignment.quads):
        drawn = core.sample(adapted, latents["ii2s"].part(slice(index, index + 1)), KEPT)
        pasted = core.paste_batch(pasted, drawn, core.Alignment((quad,)), 0.12)
    (back,) = core.to_pillow(pasted)
    return {
        "OneShotAlignFace": below(whole, core.labelled_grid([("aligned", faces)])),
        "OneShotInvertImage": core.labelled_grid(rows),
        "OneShotPasteBack": below(whole, back),
    }


def mapper_pictures(work: Path) -> dict[str, Image.Image]:
    """Of the node that trains mappers."""
    source, made = core.demo_generator(), mapper(work)
    people = core.random_latents(source, (2, 4, 7, 9, 15, 16))
    rows = [("before", core.sample(source, people, KEPT))]
    for strength in (1.0, 1.5):
        edited = core.apply_mapper(source, made, people, strength)
        rows.append((f"{MAPPER[0]}, {strength:g}", core.sample(source, edited, KEPT)))
    return {"OneShotTrainMapper": core.labelled_grid(rows)}


def editing_pictures(work: Path, adapted: core.GeneratorBundle) -> dict[str, Image.Image]:
    """One picture per node of editing."""
    return {
        **direction_pictures(adapted),
        **latent_pictures(),
        **photo_pictures(work, adapted),
        **mapper_pictures(work),
    }


def editing_thumbnails(pictures: dict[str, Image.Image]) -> dict[str, Image.Image]:
    """One square picture per template of editing."""
    cut = {}
    for name, node in (
        ("8 Text directions", "OneShotTextDirection"),
        ("9 Photo in a new look", "OneShotPasteBack"),
    ):
        picture = pictures[node]
        side = min(picture.size)
        left, top = (picture.width - side) // 2, picture.height - side
        square = picture.crop((left, top, left + side, top + side))
        cut[name] = square.resize((512, 512), Image.Resampling.LANCZOS)
    return cut
