"""ComfyUI's real page in a headless browser of the system."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from comfy_server import Server

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
