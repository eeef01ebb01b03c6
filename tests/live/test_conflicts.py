"""Another pack takes one of the five given ids: log line and toast, whichever pack loads last."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfy_server import Server
from page import opened_page

OTHER = """
class LoadStyleGAN:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"stylegan_file": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("STYLEGAN",), "run", "other"

    def run(self, stylegan_file):
        return (stylegan_file,)


NODE_CLASS_MAPPINGS = {"LoadStyleGAN": LoadStyleGAN}
"""
# ComfyUI loads packs in the order of os.listdir; this sorts it, so that the folder's name decides.
SORTED = """
import os
listdir = os.listdir
os.listdir = lambda *words: sorted(listdir(*words))
"""


@pytest.mark.parametrize("last", ["ours", "theirs"])
def test_both_packs_are_named(comfy: Path | None, tmp_path: Path, last: str) -> None:
    if comfy is None:
        pytest.skip("no ComfyUI found; set COMFYUI_PATH")
    name = "aaa-other-pack" if last == "ours" else "zzz-other-pack"
    pack = tmp_path / "packs" / name
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(OTHER)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SORTED)
    server = Server(comfy, tmp_path / "base", {name: pack}, site=tmp_path / "site").start()
    try:
        log, answer = server.log_text(), server.get("/oneshot/conflicts")
        wanted = "replaces one of the same id from" if last == "ours" else "was overridden by"
        (line,) = [line for line in log.splitlines() if "LoadStyleGAN" in line and wanted in line]
        assert name in line and "Disable one of the two packs" in line
        assert name in answer["replaced" if last == "ours" else "overridden"]["LoadStyleGAN"]
        with opened_page(server) as page:
            page.wait_for_selector(".p-toast-message", timeout=20_000)
            texts = page.eval_on_selector_all(".p-toast-message", "all => all.map(one => one.innerText)")
        assert any("One-Shot StyleGAN" in text and name in text for text in texts), texts
    finally:
        server.stop()
