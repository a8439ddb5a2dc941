"""The live page in a browser: it shows what goes on, and goes on itself when services die."""

import asyncio
import json
import re
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Locator, Page, expect

from quire.clients.client import Client
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.services.common.address import is_loopback
from quire.services.frontend.ui.live_feed import MAX_BROWSERS
from quire.services.up.ports import LOOPBACK, free_port
from support.browser import TIMEOUT_MS, WatchedPage, browser, new_page
from support.stacks import RunningStack, another_frontend, launch

NUM_BLOCKS = 96
# Three whole blocks and a bit.
PROMPT = "def add(first, second):\n    return first + second\n\n\n" * 4
LONG = 1200

# A browser belongs to an event loop.
on_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", autouse=True)
def _patient() -> None:
    expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningStack]:
    with launch(DEMO_MODEL, executor={"num_blocks": NUM_BLOCKS}) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def watched(chromium: Browser, running: RunningStack) -> AsyncIterator[WatchedPage]:
    """The page, of which nothing may complain."""
    async with new_page(chromium) as watched:
        await watched.page.goto(f"http://{running.http}/ui")
        await expect(watched.page.locator("#status")).to_have_text("serving")
        yield watched
        assert watched.complaints == []


def block_map(page: Page) -> Locator:
    return page.locator("canvas")


async def generate(page: Page, prompt: str, max_tokens: int) -> None:
    """Sends a prompt from the playground, greedily."""
    await page.fill("#prompt", prompt)
    await page.fill("#max-tokens", str(max_tokens))
    await page.fill("#temperature", "0")
    await page.click("#generate")


async def answer(page: Page) -> str:
    return "".join(await page.locator("#answer > span").all_text_contents())


def events(page: Page) -> Locator:
    return page.locator("#events")


@on_one_loop
async def test_a_prompt_is_answered_and_its_blocks_appear_and_go(watched: WatchedPage, running: RunningStack) -> None:
    page = watched.page
    await expect(block_map(page)).to_have_attribute("aria-label", re.compile(r"0 held, \d+ cached, \d+ free"))
    await page.check("#ignore-eos")
    await generate(page, PROMPT, LONG)
    await expect(block_map(page)).to_have_attribute("aria-label", re.compile("[1-9][0-9]* held"))
    await expect(page.locator("#requests .name")).to_contain_text("playground-")
    await page.click("#stop")
    await expect(page.locator("#answer-note")).to_contain_text("ended by stopped")
    await expect(block_map(page)).to_have_attribute("aria-label", re.compile("0 held, [1-9][0-9]* cached"))
    await expect(page.locator("#requests")).to_have_text("No request is open.")

    await page.uncheck("#ignore-eos")
    await generate(page, PROMPT, 24)
    await expect(page.locator("#answer-note")).to_contain_text("24 tokens")
    await expect(page.locator("#answer-note")).to_contain_text("ended by length")
    with Client(running.frontend) as client:
        text = client.generate(PROMPT, SamplingParams(temperature=0, max_tokens=24)).text
    assert await answer(page) == text
    await expect(page.locator("#first-token")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    note = await page.locator("#strip-note").inner_text()
    cached, prompt = map(int, re.findall(r"\d+", note)[:2])
    assert prompt - 16 <= cached < prompt
    assert await page.locator("#strip > i").count() == -(-(prompt + 24) // 16)
    # The picture knows whose they were.
    assert await page.locator("#strip b.found").count() == -(-cached // 16)


@on_one_loop
async def test_keys_choose_a_block_and_a_line_says_whose_it_is(watched: WatchedPage) -> None:
    page = watched.page
    await generate(page, PROMPT, 24)
    await expect(page.locator("#answer-note")).to_contain_text("ended by")
    await block_map(page).focus()
    await page.keyboard.press("Home")
    await expect(page.locator(".readout")).to_have_text(re.compile("^Block 0: cached"))
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator(".readout")).to_have_text(re.compile("^Block 2: "))
    await page.keyboard.press("End")
    await expect(page.locator(".readout")).to_have_text(re.compile(f"^Block {NUM_BLOCKS - 1}: "))
    await page.locator("summary").click()
    await expect(page.locator("details tbody")).to_have_text("No block is held.")


@on_one_loop
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_use_it(scheme: str, chromium: Browser, running: RunningStack) -> None:
    async with new_page(chromium, scheme == "dark", width=390, height=844) as watched:
        page = watched.page
        await page.goto(f"http://{running.http}/ui/")
        await expect(page.locator("#status")).to_have_text("serving")
        await generate(page, PROMPT, 24)
        await expect(page.locator("#answer-note")).to_contain_text("ended by")
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        results = await Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}})
        assert results.violations_count == 0, results.generate_report()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert watched.complaints == []


@on_one_loop
async def test_it_goes_on_when_services_die(watched: WatchedPage, running: RunningStack) -> None:
    page = watched.page
    with Client(running.frontend) as client:
        text = client.generate(PROMPT, SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)).text
    executor = re.escape(running.stack.executors[0])
    await page.check("#ignore-eos")
    await generate(page, PROMPT, 400)
    await expect(page.locator("#answer > span").first).to_be_attached()
    running.signal("executor", signal.SIGKILL)
    await expect(events(page)).to_contain_text(re.compile(f"executor {executor} is lost"))
    await expect(page.locator("#status")).to_have_text("no executor is attached")
    running.start("executor")
    await expect(events(page)).to_contain_text(re.compile(rf"executor {executor} is back after \d+\.\d\d s"))
    await expect(page.locator("#answer-note")).to_contain_text("ended by length")
    assert await answer(page) == text

    running.signal("scheduler", signal.SIGKILL)
    await expect(page.locator("#status")).to_have_text("the scheduler is gone")
    running.start("scheduler")
    scheduler = re.escape(running.stack.schedulers[0])
    await expect(events(page)).to_contain_text(re.compile(rf"scheduler {scheduler} is back after \d+\.\d\d s"))
    await expect(page.locator("#status")).to_have_text("serving")
    await expect(page.locator("#epoch")).to_have_text("2")
    await generate(page, PROMPT, 24)
    await expect(page.locator("#answer-note")).to_contain_text("ended by length")
    assert "fault" in await page.locator("#events li", has_text="is lost").first.inner_text()


def test_prompts_and_answers_do_not_leave_with_the_events(running: RunningStack) -> None:
    url, name = f"http://{running.http}/ui/events", "named-by-its-client"
    with urllib.request.urlopen(url, timeout=60) as stream, Client(running.frontend) as client:
        output = client.generate(PROMPT, SamplingParams(temperature=0, max_tokens=24), request_id=name)
        seen: list[str] = []
        rows: list[dict[str, Any]] = []
        while not rows or rows[-1]["state"] != "ended":
            seen.append(stream.readline().decode())
            if seen[-1].startswith("data: "):
                requests = json.loads(seen[-1].removeprefix("data: "))["requests"]
                rows += [row for row in requests if row["request_id"] == name]
    assert rows[-1]["num_generated"] == len(output.token_ids) == 24
    assert not [line for line in seen if "second" in line or output.text.strip() in line]


def test_more_browsers_than_may_follow_are_refused(running: RunningStack) -> None:
    url = f"http://{running.http}/ui/events"
    streams = [urllib.request.urlopen(url, timeout=60) for _ in range(MAX_BROWSERS)]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=60)
    assert refused.value.code == 429
    for stream in streams:
        stream.close()
    refused.value.close()


@on_one_loop
async def test_it_can_be_left_out(running: RunningStack) -> None:
    place = f"{LOOPBACK}:{free_port()}"
    async with another_frontend(running, http_listen=place, ui=False):
        for path in ("/ui", "/ui/", "/ui/app.js", "/ui/events"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                await asyncio.to_thread(urllib.request.urlopen, f"http://{place}{path}", timeout=60)
            assert refused.value.code == 404
            refused.value.close()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:8000", True),
        ("127.1.2.3:0", True),
        ("[::1]:8000", True),
        ("localhost:8000", True),
        ("0.0.0.0:8000", False),
        ("[::]:8000", False),
        ("10.0.0.7:8000", False),
        ("example.org:8000", False),
        ("", False),
    ],
)
def test_it_is_there_by_default_on_loopback_alone(address: str, expected: bool) -> None:
    assert is_loopback(address) == expected
