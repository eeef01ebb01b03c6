"""Other packs take ids of ours: log line and toast, whichever pack loads last."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfy_server import Server
from page import opened_page

OTHER = """
class Other:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"stylegan_file": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("STYLEGAN",), "run", "other"

    def run(self, stylegan_file):
        return (stylegan_file,)


NODE_CLASS_MAPPINGS = {"TAKEN_ID": Other}
"""
# ComfyUI loads packs in the order of os.listdir; this sorts it, so that the folder's name decides.
SORTED = """
import os
listdir = os.listdir
os.listdir = lambda *words: sorted(listdir(*words))
"""


TAKEN = {"aaa-other-pack": "LoadStyleGAN", "zzz-other-pack": "OneShotAdapt"}  # loaded before ours, and after


def test_both_packs_are_named(comfy: Path | None, tmp_path: Path) -> None:
    if comfy is None:
        pytest.skip("no ComfyUI found; set COMFYUI_PATH")
    packs = {name: tmp_path / "packs" / name for name in TAKEN}
    for name, folder in packs.items():
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(OTHER.replace("TAKEN_ID", TAKEN[name]))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SORTED)
    server = Server(comfy, tmp_path / "base", packs, site=tmp_path / "site").start()
    try:
        log, answer = server.log_text(), server.get("/oneshot/conflicts")
        with opened_page(server) as page:
            page.wait_for_function(
                "count => document.querySelectorAll('.p-toast-message').length >= count",
                arg=len(packs),
                timeout=20_000,
            )
            texts = page.eval_on_selector_all(".p-toast-message", "all => all.map(one => one.innerText)")
    finally:
        server.stop()
    for name, wanted, kind in (
        ("aaa-other-pack", "replaces one of the same id from", "replaced"),
        ("zzz-other-pack", "was overridden by", "overridden"),
    ):
        (line,) = [line for line in log.splitlines() if TAKEN[name] in line and wanted in line]
        assert name in line and "Disable one of the two packs" in line
        assert name in answer[kind][TAKEN[name]]
        assert any("One-Shot StyleGAN" in text and name in text for text in texts), texts
