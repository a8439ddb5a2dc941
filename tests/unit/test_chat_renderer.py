"""`ChatRenderer`: which template is used, and that templates of requests are bounded in time and memory."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quire.engine.api.errors import InvalidRequest, Overloaded
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.folder_templates import FolderTemplates
from quire.engine.chat.render_process import MAX_PENDING
from quire.engine.chat.renderer import ChatRenderer
from quire.engine.chat.template import MAX_SOURCE_CHARS, ChatTemplate
from support.chats import SPECIAL_TOKENS, TEMPLATES, WEATHER, Reference, chat

TALK = Conversation.read([{"role": "user", "content": "a"}])
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
async def renderer() -> AsyncIterator[ChatRenderer]:
    sources = {"default": "{{ bos_token }}{{ messages | length }}", "tool_use": "tools", "named": "by name"}
    templates = {name: ChatTemplate(source, SPECIAL_TOKENS) for name, source in sources.items()}
    renderer = ChatRenderer(FolderTemplates(templates, SPECIAL_TOKENS))
    yield renderer
    await renderer.close()


async def test_the_models_templates(renderer: ChatRenderer) -> None:
    assert await renderer.render(TALK) == "<s>1"
    assert await renderer.render(TALK, "named") == "by name"
    assert await renderer.render(Conversation.read(TALK.messages, tools=[WEATHER])) == "tools"
    assert await renderer.render(Conversation.read(TALK.messages * 500)) == "<s>500"


async def test_a_template_of_the_request(renderer: ChatRenderer) -> None:
    source = (TEMPLATES / "hermes.jinja").read_text()
    given = chat("answered")
    talk = Conversation.read(given["messages"], tools=given["tools"], template_kwargs={"enable_thinking": True})
    assert await renderer.render(talk, source) == Reference().render(source, given)
    long = await renderer.render(TALK, "{{ bos_token }}😀\n{{ messages[0].content * 100000 }}")
    assert long == "<s>😀\n" + "a" * 100000


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ENDLESS, r"chat_template: must render within 2\.0 seconds and 536870912 bytes, got 'more seconds'"),
        ("{{ 7 ** 99999999 }}", "chat_template: must render within .* got 'more seconds'"),
        ("{{ 'a' * 9999999999 }}", "chat_template: must take at most 536870912 bytes"),
        ("{{ 'a' * 9999999 }}", "chat_template: must make a text of at most 8388608 characters, got 9999999"),
        ("{{ raise_exception('no') }}", "messages: the chat template refuses them: no"),
        ("{% if %}", "chat_template: must be a Jinja template"),
        ("a" * (MAX_SOURCE_CHARS + 1), "chat_template: must be at most 65536 characters, got 65537"),
    ],
)
async def test_what_a_template_of_a_request_must_not_do(renderer: ChatRenderer, source: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await renderer.render(TALK, source)
    assert await renderer.render(TALK, "still {{ 1 + 1 }}") == "still 2"


async def test_one_that_takes_long_holds_up_only_those_of_other_requests(renderer: ChatRenderer) -> None:
    slow = asyncio.create_task(renderer.render(TALK, ENDLESS))
    waiting = [asyncio.create_task(renderer.render(TALK, "{{ 3 }}")) for _ in range(MAX_PENDING - 1)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="32 conversations wait"):
        await renderer.render(TALK, "one more")
    assert await renderer.render(TALK) == "<s>1"
    assert not slow.done()
    assert await asyncio.gather(*waiting) == ["3"] * len(waiting)
    with pytest.raises(InvalidRequest):
        await slow


async def test_a_client_that_leaves_takes_its_template_with_it(renderer: ChatRenderer) -> None:
    assert await renderer.render(TALK, "{{ 3 }}") == "3"
    leaving = asyncio.create_task(renderer.render(TALK, ENDLESS))
    await asyncio.sleep(0.05)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert leaving.cancelled()
    assert await renderer.render(TALK, "{{ 4 }}") == "4"


async def test_a_model_without_a_template(tmp_path: Path) -> None:
    renderer = ChatRenderer(FolderTemplates.load(tmp_path))
    with pytest.raises(InvalidRequest, match="the model has no chat template; set --chat-template, or give"):
        await renderer.render(TALK)
    assert await renderer.render(TALK, "{{ messages[0].content }}") == "a"
    await renderer.close()
