"""The cover picture and the facts that model browsers show of a generator file."""

from __future__ import annotations

import base64
import getpass
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops
from safetensors import safe_open
from tiny_networks import tiny_bundle

from oneshot_core import load, save
from oneshot_core.blending import blend_generators
from oneshot_core.checkpoints import GeneratorBundle
from oneshot_core.pictures import to_pillow
from oneshot_core.pictures.covers import COVER_PX, COVER_SEEDS, MAX_COVER_BYTES, draw_cover, model_card
from oneshot_core.sampling import SampleConfig, sample

COMFYUI_READS_BYTES = 1024 * 1024  # of a header, in /view_metadata


def embedded(texts: dict[str, str]) -> bytes:
    """The picture that both keys hold."""
    (text,) = json.loads(texts["ssmd_cover_images"])
    assert texts["modelspec.thumbnail"] == f"data:image/jpeg;base64,{text}"
    return base64.b64decode(text, validate=True)


def adapted(bundle: GeneratorBundle, **history: Any) -> GeneratorBundle:
    """The bundle as if an adaptation had written it."""
    told = {"parent": {"file_name": "secret name.pt", "sha256": None}, **history}
    return replace(bundle, provenance=replace(bundle.provenance, file_name="secret name.pt", history=told))


def test_the_cover_is_four_samples_in_reading_order() -> None:
    bundle = tiny_bundle()
    cover = draw_cover(bundle)
    assert cover.size == (COVER_PX, COVER_PX) and len(COVER_SEEDS) == 4
    drawn = to_pillow(sample(bundle, COVER_SEEDS, SampleConfig(psi=0.7)))
    half = COVER_PX // 2
    for index, picture in enumerate(drawn):
        left, top = index % 2 * half, index // 2 * half
        cell = cover.crop((left, top, left + half, top + half))
        wanted = picture.resize((half, half), Image.Resampling.LANCZOS)
        apart = ImageChops.difference(cell, wanted).getextrema()
        assert max(high for _, high in apart) <= 2  # other chunks, other last bits, then rounded twice


def test_the_card_describes_the_generator_and_holds_the_cover() -> None:
    bundle = adapted(tiny_bundle(), step=300)
    texts = model_card(bundle, draw_cover(bundle), "demo_00001")
    assert texts["modelspec.title"] == "demo_00001" and texts["modelspec.architecture"] == "stylegan2"
    assert texts["modelspec.resolution"] == f"{bundle.size}x{bundle.size}"
    assert "look of one picture" in texts["modelspec.description"]
    assert "300 steps" in texts["modelspec.description"]
    with Image.open(io.BytesIO(embedded(texts))) as picture:
        assert picture.format == "JPEG" and picture.size == (COVER_PX, COVER_PX)
        assert not picture.getexif() and "comment" not in picture.info
    assert all(isinstance(value, str) and value for value in texts.values())


def test_without_a_picture_and_without_a_title() -> None:
    texts = model_card(tiny_bundle())
    assert "StyleGAN2 generator" in texts["modelspec.title"]
    assert not {"modelspec.thumbnail", "ssmd_cover_images"} & set(texts)


def test_what_is_said_of_blends_and_of_strange_records() -> None:
    bundle = tiny_bundle()
    assert "mixed" in model_card(blend_generators(bundle, bundle, 0.5))["modelspec.description"]
    for step in (None, "300", True, -1, 1.5, [3]):
        assert "Adapted" not in model_card(adapted(bundle, step=step))["modelspec.title"]


def test_nothing_names_a_file_a_folder_or_a_person(tmp_path: Path) -> None:
    save(adapted(tiny_bundle(), step=3), tmp_path / "anna.safetensors")
    bundle = load(tmp_path / "anna.safetensors")
    told = " ".join(model_card(bundle).values())
    for private in ("secret name", "anna", str(tmp_path), f"{getpass.getuser()}/"):
        assert private not in told
    cover = embedded(model_card(bundle, draw_cover(bundle)))
    assert b"secret" not in cover and b"Exif" not in cover


def test_equal_generators_give_equal_texts() -> None:
    texts = [model_card(bundle, draw_cover(bundle)) for bundle in (tiny_bundle(), tiny_bundle())]
    assert texts[0] == texts[1] and list(texts[0]) == list(texts[1])
    other = tiny_bundle()
    with torch.no_grad():
        other.generator.const.add_(0.5)
    assert model_card(other, draw_cover(other)) != texts[0]


def test_the_worst_picture_stays_small() -> None:
    values = torch.randint(0, 256, (COVER_PX, COVER_PX, 3), generator=torch.Generator().manual_seed(0))
    noise = Image.fromarray(values.to(torch.uint8).numpy())
    texts = model_card(tiny_bundle(), noise)
    assert len(embedded(texts)) <= MAX_COVER_BYTES
    assert sum(map(len, texts.values())) < COMFYUI_READS_BYTES / 4


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_file_carries_the_card_and_loads_as_before(tmp_path: Path, dtype: Any) -> None:
    bundle = tiny_bundle()
    texts = model_card(bundle, draw_cover(bundle))
    path = save(bundle, tmp_path / "a.safetensors", dtype=dtype, metadata=texts)
    with safe_open(path, "pt") as file:
        assert texts.items() <= file.metadata().items()
    assert load(path).family == bundle.family
