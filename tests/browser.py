"""A headless Chromium for tests of pages; tests skip where there is none."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Watched:
    """An open page, and everything that it asked for or complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def shown(self, selector: str) -> list[str]:
        """Texts of the visible elements."""
        found = self.page.query_selector_all(selector)
        return [one.inner_text().strip() for one in found if one.is_visible()]

    def value(self, script: str) -> Any:
        """What a script gives."""
        return self.page.evaluate(script)

    def wait(self, script: str, seconds: float = 10.0) -> None:
        """Until a script gives something true. (`wait_for_function` needs `eval`, which a page's policy forbids.)"""
        end = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.01)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser: the system's, that of NBENCH_CHROMIUM, or playwright's own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = os.environ.get("NBENCH_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with sync_api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip("there is no Chromium: install one, or set NBENCH_CHROMIUM")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, **options: Any) -> Iterator[Watched]:
    """A page from the file system; fails afterwards where it asked the network for anything or complained."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    watched = Watched(context.new_page())
    watched.page.on("request", lambda request: watched.requests.append(request.url))
    watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
    watched.page.on("requestfailed", lambda request: watched.errors.append(f"failed: {request.url[:120]}"))
    watched.page.on(
        "console",
        lambda message: watched.errors.append(message.text) if message.type in ("error", "warning") else None,
    )
    watched.page.goto(path.as_uri())
    yield watched
    outside = [url for url in watched.requests if not url.startswith((path.parent.as_uri(), "data:"))]
    context.close()
    assert not outside, outside
    assert not watched.errors, watched.errors
