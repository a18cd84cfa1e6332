"""A headless Chromium for tests marked `browser`: the system's, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# No sandbox: containers have none; nothing is asked of anybody but the page.
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start it; skip the test where it or Playwright is missing."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium here (looked for {', '.join(_NAMES)}): apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="pip install 'finetune[dev]'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield browser
        browser.close()
