#!/usr/bin/env python3
"""Takes the pictures of the live page for the documents, of real services under load.

python tools/page_pictures.py FOLDER
"""

import asyncio
import random
import re
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, expect

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack
from support.browser import browser, new_page

PORTS = {"frontend_port": 0, "http_port": 0, "scheduler_port": 0, "executor_port": 0}
EXECUTOR = ExecutorConfig(num_blocks=320)
SETTINGS = UpSettings.model_validate({**PORTS, "num_executors": 2, "executor": EXECUTOR, "log_level": "warning"})
HELPER = (
    "def sum_{n}(values):\n    total = {n}\n    for value in values:\n        total += value\n    return total\n\n\n"
)
PROMPT = HELPER.format(n=0) + "def average(values):\n"
# Requests a second.
RATE = 6.0
LOAD_SECONDS = 30.0
MANY = r"^(1[2-9]|[2-9]\d) running"
WIDTH, HEIGHT = 1280, 1180


async def main(folder: Path) -> None:
    """Writes live_page_light.png and live_page_dark.png."""
    folder.mkdir(parents=True, exist_ok=True)
    stack = Stack(SETTINGS)
    try:
        await stack.start()
        supervising = asyncio.create_task(stack.supervise())
        loading = asyncio.create_task(load(stack.frontend))
        async with browser() as running:
            await asyncio.gather(*(take(running, stack, folder, is_dark) for is_dark in (False, True)))
        for task in (loading, supervising):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    finally:
        await stack.stop()


async def take(running: Browser, stack: Stack, folder: Path, is_dark: bool) -> None:
    """One picture, behind the death and the return of an executor."""
    async with new_page(running, is_dark, WIDTH, HEIGHT) as watched:
        page = watched.page
        await page.goto(f"http://{stack.http}/ui/")
        await expect(page.locator("#status")).to_have_text("serving")
        await asyncio.sleep(LOAD_SECONDS / 2)
        if not is_dark:
            next(child for child in stack.children if child.name == "executor1").kill()
        await expect(page.locator("#events")).to_contain_text("is back after", timeout=60_000)
        await asyncio.sleep(LOAD_SECONDS / 2)
        await page.fill("#prompt", PROMPT)
        await page.fill("#temperature", "0.3")
        await page.fill("#seed", "7")
        await page.check("#ignore-eos")
        await expect(page.locator("#requests-note")).to_have_text(re.compile(MANY), timeout=60_000)
        await page.click("#generate")
        await expect(page.locator("#answer > span").nth(40)).to_be_attached(timeout=60_000)
        picture = Image.open(BytesIO(await page.screenshot())).convert("RGB")
        name = f"live_page_{'dark' if is_dark else 'light'}.png"
        with_palette(picture).save(folder / name, optimize=True)


def with_palette(picture: Image.Image) -> Image.Image:
    """The RGB picture in its 256 most frequent colours, which is a third of the size."""
    colours = sorted(picture.getcolors(1 << 24) or [], reverse=True)[:256]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, colour in colours for part in colour])
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


async def load(frontend: str) -> None:
    """Requests with beginnings in common, at random times."""
    chance = random.Random(7)
    async with AsyncClient(frontend, timeout=120) as client, asyncio.TaskGroup() as tasks:
        while True:
            prompt = "".join(HELPER.format(n=n) for n in range(chance.choice((0, 1, 2, 4)))) + "def task(n):\n"
            params = SamplingParams(temperature=0.8, seed=7, max_tokens=chance.randrange(60, 400), ignore_eos=True)
            tasks.create_task(client.generate(prompt, params))
            await asyncio.sleep(chance.expovariate(RATE))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
