"""Take the README's pictures of the canvas: the quick start as it opens, and after its run with its defaults.

    PYTHONPATH=tests:tests/live python docs/make_screenshots.py

Needs ComfyUI (COMFYUI_PATH, or where comfy-cli puts it) and a Chromium; takes a few minutes. Also prints how
long the run took.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from comfy_server import PACK, Server, comfy_folders
from page import load, opened_page, wait

SIZE = {"width": 1600, "height": 1000}


def main() -> None:
    """Write `docs/quick_start_first.png` and `docs/quick_start.png`."""
    server = Server(
        comfy_folders()[0], Path(tempfile.mkdtemp()), environment={"OMP_NUM_THREADS": "2"}
    ).start()
    try:
        with opened_page(server) as page:
            page.set_viewport_size(SIZE)
            load(page, "quick_start")
            page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.ToggleMinimap')")
            fit = "() => app.extensionManager.command.execute('Comfy.Canvas.FitView')"
            page.evaluate(fit)
            page.wait_for_timeout(2000)
            page.screenshot(path=PACK / "docs" / "quick_start_first.png")
            began = time.monotonic()
            page.get_by_test_id("queue-button").first.click()
            wait(lambda: server.get("/history"), "the quick start did not end", 600)
            sys.stdout.write(f"from Run to the finished pictures: {time.monotonic() - began:.0f} s\n")
            page.evaluate(fit)
            page.wait_for_timeout(3500)
            page.screenshot(path=PACK / "docs" / "quick_start.png")
    finally:
        server.stop()


if __name__ == "__main__":
    main()
