"""A real Chromium, as people have it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

from mainstay.testing.plugin import leave_out
from tests.waiting import PATIENCE_SECONDS

__all__ = ["Visitor", "chromium"]

expect.set_options(timeout=1000 * PATIENCE_SECONDS)

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What the browser says of an answer of 400 or more; the page says it to people.
_REFUSAL = "Failed to load resource: the server responded with a status of"


@contextmanager
def chromium() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        leave_out("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_OPTIONS)
        yield browser
        browser.close()


class Visitor:
    """Somebody who looks at the pages, and what goes wrong meanwhile.

    Args:
        url: Where the service is.
        language: Of the browser.
        width: Of the window.
    """

    def __init__(
        self, browser: Browser, url: str, *, language: str = "en-US", width: int = 1200
    ) -> None:
        self.url = url
        self.refusals: list[int] = []
        self.faults: list[str] = []
        self.dialogs: list[str] = []
        self._context = browser.new_context(
            locale=language, viewport={"width": width, "height": 800}
        )
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE_SECONDS)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._on_request)
        self.page.on("response", self._on_response)
        self.page.on("dialog", self._on_dialog)

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        if self.page.locator("#table").count():
            self.loaded()
        return self.page

    def loaded(self) -> None:
        """Wait until the table is there."""
        self.page.locator('#table[aria-busy="false"]').wait_for(state="attached")

    def leave(self) -> None:
        self._context.close()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(_REFUSAL):
            self.faults.append(message.text)

    def _on_dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _on_request(self, request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.faults.append(f"asked {request.url}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.refusals.append(response.status)
