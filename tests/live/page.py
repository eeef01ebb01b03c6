"""ComfyUI's real page in a headless browser of the system."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from comfy_server import Server
from template_nodes import template_file

SCREENSHOTS = os.environ.get("ONESHOT_SCREENSHOTS", "")
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False, "Comfy.Locale": "en"}


def browser_path() -> str | None:
    """A Chromium of the system."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def opened_page(server: Server, vue: bool = False, language: str = "en") -> Iterator[Any]:
    """Open a server's page, ready for workflows; skips the test where there is no browser."""
    engine = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if browser_path() is None:
        pytest.skip("NO CHROMIUM FOUND: the page was not tested")
    for key, value in {**SETTINGS, "Comfy.VueNodes.Enabled": vue, "Comfy.Locale": language}.items():
        body, header = json.dumps(value).encode(), {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/settings/{key}", body, header))
    with engine.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 2000, "height": 1150})
        page.goto(server.url)
        page.wait_for_function("window.app?.graph && window.app.extensionManager", timeout=120_000)
        page.wait_for_timeout(1500)
        yield page
        browser.close()


SET = """values => { for (const node of app.graph.nodes) for (const w of node.widgets ?? [])
    if (values[node.type] && w.name in values[node.type]) w.value = values[node.type][w.name] }"""


def load(page: Any, name: str) -> None:
    """Put a template on the canvas, by the name of its API form."""
    graph = json.loads(template_file(name).read_text(encoding="utf-8"))
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    page.wait_for_timeout(1500)


def screenshot(page: Any, name: str) -> None:
    """Keep a picture of the page where somebody asked for it."""
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.evaluate("() => app.canvas.ds && app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        page.wait_for_timeout(2500)
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png")


def wait(wanted: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """Ask again and again until there is something."""
    deadline = time.monotonic() + seconds
    while not (found := wanted()):
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
    return found
