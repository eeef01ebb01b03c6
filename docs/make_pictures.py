"""Draw the pictures of the help pages and the templates' thumbnails, from the shipped demo on a CPU.

    python docs/make_pictures.py --work out/pictures

Writes `web/docs/images/<NodeId>.jpg` and `example_workflows/<name>.jpg`, each below 60 kB, and the README's
`docs/demo_grid.png`. Adaptations take a few minutes each; they and the edit are kept in the work folder, so
that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from editing_pictures import editing_pictures, editing_thumbnails, edits_picture
from PIL import Image

import oneshot_core as core

ROOT = Path(__file__).parent.parent
IMAGES, TEMPLATES = ROOT / "web" / "docs" / "images", ROOT / "example_workflows"
SEARCH_STEPS = core.demo_recipe().search.steps
LOOKS = ("comic", "line art", "oil painting")
OFFSETS = {"trained_parts": "style offsets", "learning_rate": 0.05}
OFFSETS_STEPS = 120
_RGB = "constant, affine, convolution, noise, rgb"
TEXT = "stylegan_nada, a pencil sketch"
RIVALS: dict[str, tuple[dict[str, Any], int]] = {  # changes of a recipe, and steps
    "stylegan_nada": ({"method": {"preset": "stylegan_nada", "learning_rate": 0.004}}, 200),
    "mind_the_gap": (
        {"method": {"preset": "mind_the_gap", "learning_rate": 0.004, "trained_parts": _RGB}},
        120,
    ),
    "few_shot": ({"method": {"preset": "few_shot", "learning_rate": 0.004, "discriminator_rate": 0.01}}, 80),
    TEXT: (
        {
            "method": {"preset": "stylegan_nada", "learning_rate": 0.004},
            "aim": {"source_text": "a portrait", "target_text": "a pencil sketch"},
        },
        120,
    ),
}
README_LOOKS = {"comic": range(8), "line art": range(8, 16)}
SEEDS = tuple(range(6))
EDIT = ("a person with white hair", "a person", (7, 9, 15, 16))
WIDEST_PX, MAX_BYTES = 640, 60_000


def keep(picture: Image.Image, path: Path) -> None:
    """Save as JPEG, as good as fits."""
    if picture.width > WIDEST_PX:
        height = round(picture.height * WIDEST_PX / picture.width)
        picture = picture.resize((WIDEST_PX, height), Image.Resampling.LANCZOS)
    for quality in (92, 88, 84, 78, 70, 60):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            return
    raise SystemExit(f"{path} has more than {MAX_BYTES} bytes")


def searched(work: Path, look: str, steps: int = SEARCH_STEPS) -> core.Latent:
    """The target's counterpart after so many steps."""
    path = work / f"reference-{look}-{steps}.safetensors"
    if not path.is_file():
        recipe = core.demo_recipe().precised(torch.device("cpu"))
        config = replace(recipe.search_config(), steps=steps)
        source, encoders = core.demo_generator(), core.demo_encoders()
        core.save_latent(core.search_latent(source, encoders, core.demo_target(look), config).latent, path)
    return core.load_latent(path)


def adapted(work: Path, look: str) -> core.GeneratorBundle:
    """The demo's generator in a look, with the settings of the verb demo."""
    path = work / f"{look}.safetensors"
    if not path.is_file():
        recipe = core.demo_recipe(look)
        recipe, inputs = core.prepared(recipe, core.open_inputs(recipe))
        result = core.run_recipe(recipe, inputs, core.FolderStore(work / f"run-{look}")).adapted
        core.save(result.bundle, path)
    return core.load(path)


def learnt(work: Path, look: str) -> tuple[core.GeneratorBundle, core.Look]:
    """The demo's generator adapted to a look by its style offsets, and that look from its file."""
    path = work / f"{look}-offsets.safetensors"
    if not path.is_file():
        changes = {"method": OFFSETS, "training": {"steps": OFFSETS_STEPS}}
        recipe = core.Recipe.of(changes, core.demo_recipe(look))
        recipe, inputs = core.prepared(recipe, core.open_inputs(recipe))
        result = core.run_recipe(recipe, inputs, core.FolderStore(work / f"run-{look}-offsets")).adapted
        core.save(result.bundle, path)
    bundle = core.load(path)
    file = core.save_look(core.look_between(core.demo_generator(), bundle), work / f"{look}-look.safetensors")
    return bundle, core.load_look(file)


def edited(work: Path) -> tuple[core.Latent, core.Latent]:
    """Latents before and after a text edit."""
    text, neutral, seeds = EDIT
    before = core.random_latents(core.demo_generator(), seeds, ())
    path = work / "edited.safetensors"
    if not path.is_file():
        config = core.EditConfig(steps=60, learning_rate=0.05, l2_weight=0.03, views=4)
        clip = core.demo_encoders().clip
        result = core.edit_latents(core.demo_generator(), clip, before, text, config, neutral_text=neutral)
        core.save_latent(result.latent, path)
    return before, core.load_latent(path)


def encoder_picture() -> Image.Image:
    """How the demo's encoders judge some portraits against a target."""
    encoders, target = core.demo_encoders(), core.demo_target()
    others = torch.cat([core.sample(core.demo_generator(), SEEDS[:3]), core.demo_target("line art")])
    with torch.no_grad():
        likeness = encoders.clip.encode_images(others) @ encoders.clip.encode_images(target).T
        distance = encoders.perceptual(others, target.expand_as(others))
    labels = [
        f"CLIP {a:.2f}, LPIPS {b:.2f}"
        for a, b in zip(likeness.flatten().tolist(), distance.flatten().tolist(), strict=True)
    ]
    return core.labelled_grid(
        [("compared with it", others)], columns=labels, lead=("target", target), picture_px=224
    )


def frame_picture() -> Image.Image:
    """One wide picture, and some frames of it."""
    wide = tiles([torch.cat([core.demo_target(look) for look in LOOKS])])
    frames = {
        "the largest square": core.Frame(),
        "offset_x 1": core.Frame(offset_x=1),
        "zoom 1.6, moved": core.Frame(zoom=1.6, offset_x=-0.79, offset_y=-0.3),
        "letterbox": core.Frame("letterbox"),
        "stretch": core.Frame("stretch"),
    }
    framed = torch.cat([core.frame(wide, 128, how) for how in frames.values()])
    sheet = core.labelled_grid([("fitted", framed)], columns=tuple(frames))
    above = wide.resize((sheet.width * 3 // 5, sheet.width // 5), Image.Resampling.LANCZOS)
    whole = Image.new("RGB", (sheet.width, sheet.height + above.height + 8), "white")
    whole.paste(above, ((sheet.width - above.width) // 2, 8))
    whole.paste(sheet, (0, above.height + 8))
    return whole


def node_pictures(work: Path) -> dict[str, Image.Image]:
    """One picture per node."""
    source = core.demo_generator()
    comic, lines, oil = (adapted(work, look) for look in LOOKS)
    target, reference = core.demo_target(), searched(work, "comic")
    plain = core.sample(source, SEEDS)
    latents = core.random_latents(source, SEEDS, ())
    before, after = edited(work)
    names = [f"seed {seed}" for seed in SEEDS]
    whole = core.SampleConfig(psi=1.0)

    def rows(*named: tuple[str, core.GeneratorBundle], of: Any = SEEDS) -> list[tuple[str, torch.Tensor]]:
        return [(label, core.sample(bundle, of, whole)) for label, bundle in named]

    steps = (10, 30, SEARCH_STEPS)
    found = torch.cat([core.sample(source, searched(work, "comic", count)) for count in steps])
    fades = (0.0, 0.25, 0.5, 0.75, 1.0)
    blends = [core.blend_generators(source, comic, fade) for fade in fades]
    half = core.load(_half(work, comic))
    shared = rows(("source", source), ("comic", comic), ("line art", lines), of=latents)
    return {
        "LoadStyleGAN": core.labelled_grid([("the demo's generator", plain)], columns=names),
        "OneShotLoadEncoders": encoder_picture(),
        "OneShotDemoTarget": core.labelled_grid(
            [("the targets", torch.cat([core.demo_target(look) for look in core.TARGET_LOOKS]))],
            columns=core.TARGET_LOOKS,
        ),
        "OneShotFrameTarget": frame_picture(),
        "CLIPLatentSearch": core.labelled_grid(
            [("reconstruction after", found)],
            columns=[f"{count} steps" for count in steps],
            lead=("target", target),
        ),
        "OneShotAdapt": core.adaptation_sheet(source, comic, target, reference, SEEDS[:5]),
        "SampleAdapted": core.labelled_grid(rows(("source", source), ("adapted", oil)), columns=names),
        "StyleCLIPEdit": core.labelled_grid(
            [*rows(("before", source), of=before), *rows((EDIT[0], source), ("and adapted", comic), of=after)]
        ),
        "OneShotRandomLatents": core.labelled_grid(
            rows(("psi 1", source)) + [("psi 0.5", core.sample(source, SEEDS, core.SampleConfig(psi=0.5)))],
            columns=names,
        ),
        "OneShotBlendGenerators": core.labelled_grid(
            [(f"seed {n}", torch.cat([core.sample(one, (n,), whole) for one in blends])) for n in (1, 7)],
            columns=[f"strength {fade:g}" for fade in fades],
        ),
        "OneShotSaveGenerator": core.labelled_grid(
            rows(("before", comic), ("read from a float16 file", half)), columns=names
        ),
        "OneShotSaveLatent": core.labelled_grid(shared[:2], columns=names),
        "OneShotLoadLatent": core.labelled_grid(shared, columns=names),
        **judged_pictures(work / "run-comic"),
    }  # fmt: skip


def judged_pictures(run: Path) -> dict[str, Image.Image]:
    """The sheets of the nodes that judge, of a run of the comic."""
    source, target = core.demo_generator(), core.demo_target()
    judges, config = core.Judges(core.demo_encoders()), core.EvaluationConfig(range(32), shown=6)
    files = {int(path.stem[5:]): path for path in (run / "run" / "snapshots").glob("step_*.safetensors")}
    referee = core.Referee(source, [target], judges, config, rows=len(files))
    found = core.compare(referee, core.snapshot_rows(files))
    return {"OneShotEvaluate": found.rows[-1][1].sheet(), "OneShotCompare": found.sheet()}


def look_pictures(work: Path) -> dict[str, Image.Image]:
    """One picture per node of looks."""
    source, whole, names = core.demo_generator(), core.SampleConfig(psi=1.0), [f"seed {n}" for n in SEEDS]
    (by_lines, lines), (_, paint) = (learnt(work, look) for look in LOOKS[1:])

    def row(label: str, bundle: core.GeneratorBundle) -> tuple[str, torch.Tensor]:
        return label, core.sample(bundle, SEEDS, whole)

    def looked(bundle: core.GeneratorBundle, *looks: tuple[core.Look, float]) -> core.GeneratorBundle:
        return core.apply_looks(bundle, looks)

    strengths = (-1.0, 0.0, 0.5, 1.0, 1.5)
    faded = [looked(source, (paint, strength)) for strength in strengths]
    faded.append(looked(source, (paint, 0.6), (lines, 0.6)))
    columns = [*(f"strength {strength:g}" for strength in strengths), "0.6 and line art 0.6"]
    return {
        "OneShotApplyLook": core.labelled_grid(
            [(f"seed {n}", torch.cat([core.sample(one, (n,), whole) for one in faded])) for n in (1, 7)],
            columns=columns,
        ),
        "OneShotSaveLook": core.labelled_grid(
            [
                row("source", source),
                row("adapted", by_lines),
                row("source + look", looked(source, (lines, 1.0))),
            ],
            columns=names,
        ),
        "OneShotLoadLook": core.labelled_grid(
            [
                row("source + look", looked(source, (paint, 1.0))),
                row("line art", by_lines),
                row("line art + look", looked(by_lines, (paint, 0.7))),
            ],
            columns=names,
        ),
    }


def _half(work: Path, bundle: core.GeneratorBundle) -> Path:
    path = work / "half.safetensors"
    core.save(bundle, path, dtype="float16")
    return path


def readme_picture(work: Path) -> Image.Image:
    """Two targets, below each other: what the source draws and what each adapted generator makes of it."""
    source, whole = core.demo_generator(), core.SampleConfig(psi=1.0)
    parts = []
    for look, seeds in README_LOOKS.items():
        generators = (("source generator", source), ("adapted generator, same latents", adapted(work, look)))
        rows = [(label, core.sample(bundle, tuple(seeds), whole)) for label, bundle in generators]
        parts.append(core.labelled_grid(rows, lead=(f"one picture: {look}", core.demo_target(look))))
    sheet = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def tiles(rows: list[torch.Tensor], side: int = 128) -> Image.Image:
    """Pictures edge to edge, for a thumbnail."""
    sheet = torch.cat([torch.cat(list(row.clamp(-1, 1)), dim=2) for row in rows], dim=1)
    values = sheet.add(1).mul(127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(values.numpy())


def mixed_looks(work: Path, seeds: tuple[int, ...]) -> Image.Image:
    """People in one look, in another, and in both."""
    source, whole = core.demo_generator(), core.SampleConfig(psi=1.0)
    (_, lines), (_, paint) = (learnt(work, look) for look in LOOKS[1:])
    mixes = ([], [(lines, 1.0)], [(paint, 1.0)], [(lines, 0.6), (paint, 0.6)])
    return tiles(
        [core.sample(core.apply_looks(source, mix) if mix else source, seeds, whole) for mix in mixes]
    )


def by_method(work: Path, name: str) -> core.GeneratorBundle:
    """The demo's generator adapted by a rival of the method, as the template that compares them does."""
    path = work / f"by-{name.replace(' ', '-')}.safetensors"
    if not path.is_file():
        changes, steps = RIVALS[name]
        base = core.demo_recipe("comic")
        base = replace(base, method=core.Recipe().method)
        if "aim" in changes:  # texts alone
            base = replace(base, aim=core.Recipe().aim)
        recipe = core.Recipe.of({**changes, "training": {"steps": steps}}, base)
        recipe, inputs = core.prepared(recipe, core.open_inputs(recipe))
        result = core.run_recipe(recipe, inputs, core.FolderStore(work / f"run-{path.stem}")).adapted
        core.save(result.bundle, path)
    return core.load(path)


def method_picture(work: Path) -> Image.Image:
    """The same people by every method."""
    whole = core.SampleConfig(psi=1.0)
    made = {"source": core.demo_generator(), "oneshot_clip": adapted(work, "comic")}
    made |= {name: by_method(work, name) for name in RIVALS}
    rows = [(name, core.sample(bundle, SEEDS, whole)) for name, bundle in made.items()]
    return core.labelled_grid(rows, lead=("target", core.demo_target()))


def thumbnails(work: Path) -> dict[str, Image.Image]:
    """One square picture per template."""
    source, comic = core.demo_generator(), adapted(work, "comic")
    before, after = edited(work)
    some, others, whole = (1, 2, 4, 7), (8, 9, 12, 16), core.SampleConfig(psi=1.0)
    ours, theirs = (core.sample(one, some, whole) for one in (source, comic))
    looks = [
        torch.cat([core.demo_target(look), core.sample(adapted(work, look), some[1:], whole)])
        for look in LOOKS
    ]
    large = torch.nn.functional.interpolate(core.demo_target(), scale_factor=2, mode="bicubic")
    start = tiles([ours, theirs, theirs.flip(0), ours.flip(0)])
    start.paste(tiles([large]), (128, 128))
    own = [core.sample(one, others, whole) for one in (source, comic)]
    texts = [core.sample(one, codes) for one in (source, comic) for codes in (before, after)]
    return {
        "1 Quick start": start,
        "2 Your own picture and checkpoint": tiles([ours, theirs, *own]),
        "3 Text edit": tiles(texts),
        "4 Many looks": tiles([ours, *looks]),  # below the source: a target, then its generator
        "5 Text to style": tiles([ours, core.sample(by_method(work, TEXT), some, whole), own[0],
                                  core.sample(by_method(work, TEXT), others, whole)]),
        "6 Compare methods": tiles([theirs, *(core.sample(by_method(work, name), some, whole)
                                              for name in RIVALS if name != TEXT)]),
        "7 Mix looks": mixed_looks(work, some),
    }  # fmt: skip


def main() -> None:
    """Draw what is missing, then write everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for adaptations, kept between runs")
    parser.add_argument("--editing", action="store_true", help="those of the nodes that edit only")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    IMAGES.mkdir(parents=True, exist_ok=True)
    edits = editing_pictures(work, adapted(work, "comic"))
    if not parser.parse_args().editing:
        methods = {"OneShotMethod": method_picture(work)}
        edits |= {**node_pictures(work), **look_pictures(work), **methods}
    for name, picture in edits.items():
        keep(picture, IMAGES / f"{name}.jpg")
    edits_picture(adapted(work, "comic")).save(ROOT / "docs" / "edits.png", optimize=True)
    for name, picture in editing_thumbnails(edits).items():
        keep(picture, TEMPLATES / f"{name}.jpg")
    if parser.parse_args().editing:
        return
    for name, picture in thumbnails(work).items():
        keep(picture, TEMPLATES / f"{name}.jpg")
    readme_picture(work).save(ROOT / "docs" / "demo_grid.png", optimize=True)


if __name__ == "__main__":
    main()
