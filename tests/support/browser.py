"""A headless Chromium, where one is installed; `make test` installs Debian's."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# Far more than it takes: a busy machine must not fail a test.
TIMEOUT_MS = 90_000


def chromium() -> str | None:
    """Path of the machine's Chromium."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Skips the test where there is none."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium is installed: apt-get install chromium-headless-shell")
    async with async_playwright() as playwright:
        # Its sandbox needs rights that root in a container lacks; it visits no page but ours.
        running = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        await running.close()


class WatchedPage:
    """A page, and what goes wrong in it.

    Attributes:
        page: to be driven.
        complaints: the console's warnings and errors, which include requests that failed, and exceptions.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@asynccontextmanager
async def new_page(
    browser: Browser, is_dark: bool = False, width: int = 1280, height: int = 900
) -> AsyncIterator[WatchedPage]:
    """A page with nothing in it yet, in a window of this size."""
    context = await browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if is_dark else "light"
    )
    context.set_default_timeout(TIMEOUT_MS)
    yield WatchedPage(await context.new_page())
    await context.close()
