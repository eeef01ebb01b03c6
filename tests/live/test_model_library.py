"""A saved generator in ComfyUI's model library: its card and cover, by the routes, the page, the scanner."""

from __future__ import annotations

import getpass
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_server import Server, comfy_python
from conftest import DEMO
from page import opened_page
from PIL import Image

from oneshot_core.pictures.covers import COVER_PX

Workflow = Callable[..., dict[str, Any]]
FOLDER = "oneshot_stylegan"
LIBRARY = "() => app.extensionManager.command.execute('Workspace.ToggleSidebarTab.model-library')"
SHOWN = "() => [...document.querySelectorAll('img')].map(i => [i.src.slice(0, 22), i.naturalWidth])"


@pytest.fixture
def saved(server: Server, workflow: Workflow) -> str:
    """Name of a generator that was saved, in the library's folder."""
    (file,) = server.run(workflow(LoadStyleGAN=DEMO, drop=("6", "7", "8")))["9"]["generators"]
    assert file["subfolder"] == FOLDER
    return str(file["filename"])


def test_the_card_is_served_and_private(server: Server, base: Path, saved: str) -> None:
    card = server.get(f"/view_metadata/{FOLDER}?filename={saved}")
    assert card["modelspec.title"] == Path(saved).stem.rstrip("_")
    assert card["modelspec.architecture"] == "stylegan2" and "prompt" in card
    told = " ".join(value for key, value in card.items() if key.startswith("modelspec."))
    for private in (str(base), base.name, f"/{getpass.getuser()}/"):
        assert private not in told


def test_the_preview_route_finds_the_cover(server: Server, saved: str) -> None:
    (place,) = [one for one in server.get(f"/experiment/models/{FOLDER}") if one["name"] == saved]
    name = saved.replace(".safetensors", ".webp")
    content = server.get_bytes(f"/experiment/models/preview/{FOLDER}/{place['pathIndex']}/{name}")
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "WEBP" and picture.size == (COVER_PX, COVER_PX)


def test_the_asset_scanner_reads_it(comfy: Path, base: Path, saved: str) -> None:
    if not (comfy / "app" / "assets" / "services" / "metadata_extract.py").is_file():
        pytest.skip(f"{comfy.name} has no asset scanner")
    code = (
        "import json, sys; from app.assets.services.metadata_extract import extract_file_metadata as read; "
        "print(json.dumps(read(sys.argv[1]).to_user_metadata()))"
    )
    words = [comfy_python(comfy), "-c", code, str(base / "output" / FOLDER / saved)]
    answer = subprocess.run(words, cwd=comfy, capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found["has_preview_images"] is True and found["base_model"] == "StyleGAN2 128 px"


def test_the_page_shows_the_cover(server: Server, saved: str) -> None:
    with opened_page(server) as page:
        page.evaluate(LIBRARY)
        page.get_by_text(FOLDER, exact=True).first.click(timeout=60_000)
        entry = page.get_by_text(Path(saved).stem.rstrip("_"), exact=True).first
        entry.hover(timeout=60_000)
        page.wait_for_timeout(2500)
        assert ["data:image/jpeg;base64", COVER_PX] in page.evaluate(SHOWN)
        assert page.get_by_text("It draws in the look of one picture").count() >= 1


def test_without_metadata_the_cover_stays_and_the_workflow_goes(
    restricted: Server, workflow: Workflow
) -> None:
    (file,) = restricted.run(workflow(drop=("6", "7", "8")))["9"]["generators"]
    card = restricted.get(f"/view_metadata/{FOLDER}?filename={file['filename']}")
    assert "modelspec.thumbnail" in card and not {"prompt", "workflow"} & set(card)
