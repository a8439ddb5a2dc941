"""`LLM.chat`: conversations in, messages out."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import InvalidRequest, StartupError
from quire.engine.chat.chat_answer import join_chat
from quire.engine.chat.message import ToolCall
from quire.engine.config import ChatConfig
from support.chats import TIME
from support.scripted_model import write_scripted_model

TEMPLATE = (
    "{% for message in messages %}{{ message.content }}{% endfor %}{% if tools %}C{% endif %}"
    "{% if false %}<tool_call></think>{% endif %}"
)
SCRIPTS = {
    "A": "A plain answer.",
    "C": '<think>Hm.</think>Now: <tool_call>{"name": "now", "arguments": {"a": 1}}</tool_call>',
    "R": "An answer of some length, " * 20 + "at last.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scripted_model(tmp_path_factory.mktemp("models") / "scripted", SCRIPTS, TEMPLATE)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(str(folder), num_blocks=128, device="cpu") as made:
        yield made


def user(content: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def test_one_conversation_and_several(llm: LLM) -> None:
    (answer,) = llm.chat(user("A"))
    assert (answer.message.role, answer.message.content, answer.completion.text) == ("assistant", *[SCRIPTS["A"]] * 2)
    answers = llm.chat([user("A"), user("R"), user("A")])
    assert [each.message.content for each in answers] == [SCRIPTS["A"], SCRIPTS["R"], SCRIPTS["A"]]
    # Longer than the 128 tokens of a completion.
    assert len(answers[1].completion.token_ids) > 128


async def test_streams_add_up_to_the_answer(llm: LLM) -> None:
    for messages, tools in ((user("A"), [TIME]), (user("R"), None)):
        (whole,) = await asyncio.to_thread(llm.chat, messages, tools=tools)
        pieces = [piece async for piece in llm.chat_stream_async(messages, tools=tools)]
        found = await asyncio.to_thread(list, llm.chat_stream(messages, tools=tools))
        for streamed in (pieces, found):
            answer = join_chat(streamed)
            assert [(call.name, call.arguments) for call in answer.message.tool_calls] == [
                (call.name, call.arguments) for call in whole.message.tool_calls
            ]
            assert replace(answer.message, tool_calls=()) == replace(whole.message, tool_calls=())
            assert answer.completion.token_ids == whole.completion.token_ids
            assert "".join(piece.content for piece in streamed) == whole.message.content
            assert [piece.completion.finish_reason for piece in streamed[:-1]] == [None] * (len(streamed) - 1)


def test_a_stream_that_is_closed_ends_its_request(llm: LLM) -> None:
    with closing(llm.chat_stream(user("R"), SamplingParams(ignore_eos=True))) as stream:
        next(stream)
    while llm.statistics().num_running:
        time.sleep(0.01)


def test_streams_refuse_what_chats_refuse(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="messages: must be one conversation in a stream, got 2"):
        llm.chat_stream([user("A"), user("A")])  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match="messages: must be at most 4095 tokens"):
        list(llm.chat_stream(user("a" * 5000)))
    for call in (llm.chat, llm.chat_stream):
        with pytest.raises(TypeError, match="unexpected keyword argument 'tool'; chats have tools, tool_choice"):
            call(user("A"), tool=[TIME])


def test_an_answer_goes_back_into_the_conversation(llm: LLM) -> None:
    (answer,) = llm.chat(user("A"), tools=[TIME])
    assert (answer.message.content, answer.message.reasoning) == ("Now:", "Hm.")
    assert [(call.name, call.arguments) for call in answer.message.tool_calls] == [("now", '{"a": 1}')]
    assert isinstance(answer.message.tool_calls[0], ToolCall)
    (then,) = llm.chat([*user("A"), answer.message, *user("A")])
    assert then.message.content == SCRIPTS["A"]


def test_calls_may_be_required_or_left_out(llm: LLM) -> None:
    (none,) = llm.chat(user("A"), tools=[TIME], tool_choice="none")
    assert (none.message.content, none.message.tool_calls) == (SCRIPTS["A"], ())
    named = {"type": "function", "function": {"name": "now"}}
    for choice in ("required", named):
        (answer,) = llm.chat(user("A"), SamplingParams(seed=1), tools=[TIME], tool_choice=choice)
        assert {call.name for call in answer.message.tool_calls} == {"now"}
        assert {"".join(call.arguments.split()) for call in answer.message.tool_calls} == {"{}"}
        assert answer.message.content is None
    with pytest.raises(InvalidRequest, match="tool_choice: must be left out without tools"):
        llm.chat(user("A"), tool_choice="required")


def test_the_model_is_told_of_allowed_tools_alone(llm: LLM) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("R", "A")]
    template = "{# <tool_call> #}{% for tool in tools %}{{ tool.function.name }}{% endfor %}"
    for names, script in ((["R"], "R"), (["A"], "A"), (["R", "A"], "A")):
        allowed = [tool for tool in tools if tool["function"]["name"] in names]  # type: ignore[index]
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": allowed}}
        (answer,) = llm.chat(user("C"), tools=tools, tool_choice=choice, chat_template=template)
        assert answer.message.content == SCRIPTS[script]
    for wrong in ({"mode": "none", "tools": tools}, {"mode": "auto", "tools": []}, {"mode": "auto", "tools": [TIME]}):
        with pytest.raises(InvalidRequest, match="tool_choice: must be"):
            llm.chat(user("C"), tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": wrong})


def test_parameters_and_templates(llm: LLM) -> None:
    (short,) = llm.chat(user("A"), SamplingParams(max_tokens=2))
    assert short.completion.finish_reason is FinishReason.LENGTH
    (other,) = llm.chat(user("A"), chat_template="{{ more }}", chat_template_kwargs={"more": "R"})
    assert other.message.content == SCRIPTS["R"]
    last = {"role": "assistant", "content": "so: A"}
    (more,) = llm.chat([*user("R"), last], continue_final_message=True)
    assert more.message.content == SCRIPTS["A"]


def test_refusals_name_the_field(llm: LLM) -> None:
    for messages, field in (([], "messages"), ([[]], "messages"), ([{"role": 3}], "messages[0].role")):
        with pytest.raises(InvalidRequest) as refused:
            llm.chat(messages)
        assert refused.value.field == field
    with pytest.raises(InvalidRequest, match="messages: must be at most 4095 tokens"):
        llm.chat(user("a" * 5000))


def test_how_a_model_chats_may_be_set(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("C")
    config = ChatConfig(chat_template=path, tool_call_format="hermes", reasoning_format="think")
    with LLM(str(folder), num_blocks=16, device="cpu", chat=config) as llm:
        (answer,) = llm.chat(user("A"), tools=[TIME])
    assert (answer.message.reasoning, len(answer.message.tool_calls)) == ("Hm.", 1)
    path.write_text("{% if %}")
    with pytest.raises(StartupError, match=r"mine\.jinja: must be a Jinja template"):
        LLM(str(folder), chat=config)
