"""Input of the Responses API: which messages its items are, and that each refusal names its part."""

import json
import random
from contextlib import suppress
from typing import Any

import pytest

from quire.engine.api.errors import InvalidRequest
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.message import Message, ToolCall
from quire.engine.chat.tool_choice import ToolChoice
from quire.services.frontend.http.responses_input import read_input, read_tool_choice, read_tools
from support.json_mutation import mutated_json

ASKED = {"role": "user", "content": "How warm?"}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look.", "logprobs": []}]}
CALLED = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "now", "arguments": "{}", "status": None}
CALLED_TOO = {**CALLED, "call_id": "c2"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "21"}
RESULT_TOO = {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "22"}]}
ITEMS: list[Any] = [ASKED, THOUGHT, SAID, CALLED, CALLED_TOO, RESULT, RESULT_TOO]
TOOL = {"type": "function", "name": "now", "description": "The time", "parameters": {"type": "object"}, "strict": True}


def test_a_text_behind_instructions() -> None:
    assert read_input("Hello", "Be brief.") == (Message("system", "Be brief."), Message("user", "Hello"))


def test_what_the_assistant_did_is_one_message() -> None:
    calls = (ToolCall("now", "{}", "c1"), ToolCall("now", "{}", "c2"))
    assert read_input(ITEMS) == (
        Message("user", "How warm?"),
        Message("assistant", ("I look.",), reasoning="Hm.", tool_calls=calls),
        Message("tool", "21", tool_call_id="c1"),
        Message("tool", ("22",), tool_call_id="c2"),
    )


def test_what_comes_behind_speech_or_calls_is_another_message() -> None:
    found = read_input([SAID, SAID, CALLED, SAID, THOUGHT, THOUGHT])
    assert [(message.text, len(message.tool_calls), message.reasoning) for message in found] == [
        ("I look.", 0, None),
        ("I look.", 1, None),
        ("I look.", 0, None),
        ("", 0, "Hm.Hm."),
    ]


def test_a_summary_stands_for_reasoning_that_is_not_there() -> None:
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Short."}], "encrypted_content": "x"}
    assert read_input([item, {"type": "reasoning", "summary": []}]) == (Message("assistant", reasoning="Short."),)


def test_tools_are_those_of_chats() -> None:
    function = {"name": "now", "description": "The time", "parameters": {"type": "object"}}
    assert read_tools([TOOL]) == [{"type": "function", "function": function}]
    named = {"type": "function", "function": {"name": "now"}}
    assert read_tool_choice({"type": "function", "name": "now"}, True) == named
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]}
    choice = ToolChoice.read(read_tool_choice(allowed, True), frozenset({"now", "later"}))
    assert choice == ToolChoice("required", allowed=frozenset({"now"}))
    assert [read_tool_choice("auto", has_tools) for has_tools in (True, False)] == ["auto", None]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (3, "input[0]"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "tool", "content": "a"}, "input[0].role"),
        ({"role": "user", "content": ["a"]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[0].content[0].type"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text"),
        ({"type": "item_reference", "id": "msg_1"}, "input[0].type"),
        ({"type": "function_call", "name": "a", "arguments": "{}"}, "input[0].call_id"),
        ({"type": "function_call", "call_id": "c", "arguments": "{}"}, "input[0].name"),
        ({"type": "function_call", "call_id": "c", "name": "a", "arguments": {}}, "input[0].arguments"),
        ({"type": "function_call_output", "call_id": "c"}, "input[0].output"),
        ({"type": "function_call_output", "output": "a"}, "input[0].call_id"),
        ({"type": "reasoning", "content": [{"type": "reasoning_text"}]}, "input[0].content[0].text"),
        ({"type": "reasoning", "summary": [], "encrypted_content": "x"}, "input[0].encrypted_content"),
    ],
)
def test_refusals_name_the_part(item: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_input([item])
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("tool", "field"),
    [
        (None, "tools[0]"),
        ({"type": "web_search"}, "tools[0].type"),
        ({"type": "function"}, "tools[0].name"),
        ({"type": "function", "name": "a", "parameters": []}, "tools[0].parameters"),
        ({**TOOL, "defer_loading": True}, "tools[0].defer_loading"),
        ({"type": "function", "function": {"name": "a"}}, "tools[0].function"),
    ],
)
def test_refusals_name_the_tool(tool: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_tools([tool])
    assert refused.value.field == field


def test_whatever_is_given_is_read_or_refused() -> None:
    """5,000 inputs with something wrong in them; what is read is a conversation."""
    dice = random.Random(0)
    num_read = 0
    for _ in range(5_000):
        with suppress(InvalidRequest):
            items, tools = mutated_json(ITEMS, dice), mutated_json([TOOL], dice)
            read = Conversation.read(read_input(items), tools=read_tools(tools))
            num_read += 1
            assert Conversation.read(**read.as_json()).messages == read.messages
            json.dumps(read.as_json())
            read_tool_choice(mutated_json({"type": "function", "name": "now"}, dice), True)
    assert num_read > 500
