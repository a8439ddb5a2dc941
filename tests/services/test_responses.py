"""The Responses API as the `openai` package asks for it, unmodified, of models that say what they are told to."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import aiohttp
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from support.chat_scripts import ANSWER, CALLED, PLAIN, write_chat_model
from support.chats import TIME, WEATHER
from support.json_mutation import mutated_json
from support.stacks import RunningStack, launch

QUESTION = "How warm is it in Füßen?"
TOOLS: list[Any] = [{"type": "function", "strict": False, **tool["function"]} for tool in (WEATHER, TIME)]
LOGPROBS: list[Any] = ["message.output_text.logprobs"]
SPOKEN = "I look it up. 😀"
THOUGHT = "Füßen is a town."
NO_SCHEMA = {"format": {"type": "json_schema", "schema": {"type": "nothing"}}}
NO_TOOL = {"type": "function", "name": "a", "parameters": {"type": "nothing"}}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Place(BaseModel):
    town: Literal["Füßen", "Bern"]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = write_chat_model(tmp_path_factory.mktemp("models") / "scripted")
    with launch(folder, executor={"num_blocks": 256}) as stack:
        yield stack
        asyncio.run(stack.assert_settled())


@pytest.fixture
def client(scripted: RunningStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{scripted.http}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
async def http(scripted: RunningStack) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{scripted.http}", timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def post(http: aiohttp.ClientSession, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with http.post("/v1/responses", data=data) as response:
        return response.status, await response.json()


async def answered(http: aiohttp.ClientSession, **body: Any) -> Any:
    status, found = await post(http, {"input": QUESTION, **body})
    assert status == 200, found
    return found


async def events(http: aiohttp.ClientSession, **body: Any) -> list[dict[str, Any]]:
    """Of a stream, as they stand there; each is what the package expects, and numbered."""
    async with http.post("/v1/responses", json={"input": QUESTION, "stream": True, **body}) as response:
        assert response.status == 200
        blocks = (await response.text()).removesuffix("\n\n").split("\n\n")
    found = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        EVENT.validate_python(event)
        assert (f"event: {event['type']}", event["sequence_number"]) == (name, number)
        found.append(event)
    return found


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_ids(each) for key, each in value.items() if key not in ("id", "call_id", "item_id")}
    return [without_ids(each) for each in value] if isinstance(value, list) else value


def test_a_plain_answer(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="scripted", input=QUESTION)
    assert (answer.output_text, answer.status, answer.error, answer.incomplete_details) == (
        PLAIN, "completed", None, None,
    )  # fmt: skip
    assert (answer.object, answer.model, answer.truncation, answer.tools) == ("response", "scripted", "disabled", [])
    assert [item.type for item in answer.output] == ["message"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.output_tokens_details.reasoning_tokens == 0
    Response.model_validate(answer.to_dict())


def test_what_was_asked_for_is_told(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="scripted", input=[{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        instructions="Be brief.", temperature=0.5, top_p=0.9, max_output_tokens=50, metadata={"a": "b"}, user="me",
        reasoning={"effort": "low", "summary": "auto"}, text={"format": {"type": "text"}, "verbosity": "low"},
        truncation="disabled", store=True, background=False, parallel_tool_calls=False, tool_choice="auto",
        include=["reasoning.encrypted_content"], service_tier="auto", extra_body={"seed": 3, "stop": ["ending"]},
    )  # fmt: skip
    assert answer.output_text == "A plain answer, "
    assert (answer.instructions, answer.temperature, answer.top_p) == ("Be brief.", 0.5, 0.9)
    assert (answer.max_output_tokens, answer.metadata, answer.user) == (50, {"a": "b"}, "me")
    assert answer.reasoning is not None
    assert (answer.reasoning.effort, answer.reasoning.summary) == ("low", "auto")
    assert answer.text is not None
    assert (answer.text.verbosity, answer.parallel_tool_calls) == ("low", False)
    # Nothing is.
    assert answer.to_dict()["store"] is False


async def test_variables_of_the_template(http: aiohttp.ClientSession) -> None:
    async def text(**body: Any) -> Any:
        return (await answered(http, **body))["output"][-1]["content"][0]["text"]

    assert await text(chat_template="{{ reasoning_effort }}", reasoning={"effort": "P"}) == PLAIN
    assert await text(chat_template="{{ 'R' if verbosity == 'low' }}", text={"verbosity": "low"}) == ANSWER
    assert await text(chat_template="{{ messages[0].content }}", instructions="R") == ANSWER
    assert await text(chat_template_kwargs={"enable_thinking": True}) == "Two."


def test_an_answer_that_is_cut_is_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="scripted", input=QUESTION, max_output_tokens=2)
    assert answer.incomplete_details is not None
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    (item,) = answer.output
    assert item.type == "message"
    assert (item.status, len(answer.output_text)) == ("incomplete", 5)
    last = list(client.responses.create(model="scripted", input=QUESTION, max_output_tokens=2, stream=True))[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == answer.output_text


def test_tools_are_called_and_their_results_answered(client: openai.OpenAI) -> None:
    history: list[Any] = [{"role": "user", "content": QUESTION}]
    asked = client.responses.create(model="scripted", input=history, tools=TOOLS)
    assert [item.type for item in asked.output] == ["reasoning", "message", "function_call", "function_call"]
    assert asked.output_text == SPOKEN
    calls = [item for item in asked.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == CALLED
    assert asked.output[0].type == "reasoning"
    assert [part.text for part in asked.output[0].content or []] == [THOUGHT]
    assert asked.usage is not None
    assert 0 < asked.usage.output_tokens_details.reasoning_tokens < asked.usage.output_tokens
    # Items go back as the package has them, with all of their fields.
    history += asked.output
    history += [{"type": "function_call_output", "call_id": call.call_id, "output": "21.5"} for call in calls]
    answered = client.responses.create(model="scripted", input=history, tools=TOOLS)
    assert (answered.output_text, answered.status) == (ANSWER, "completed")
    chat = client.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": QUESTION}],
        tools=[{"type": "function", "function": tool["function"]} for tool in (WEATHER, TIME)],
    )
    assert chat.usage is not None
    assert asked.usage.input_tokens == chat.usage.prompt_tokens


def test_the_choice_of_tools(client: openai.OpenAI) -> None:
    one = client.responses.create(model="scripted", input=QUESTION, tools=TOOLS, parallel_tool_calls=False)
    assert [item.type for item in one.output] == ["reasoning", "message", "function_call"]
    none = client.responses.create(model="scripted", input=QUESTION, tools=TOOLS, tool_choice="none")
    assert none.output_text == PLAIN
    named = client.responses.create(
        model="scripted", input=QUESTION, tools=TOOLS, tool_choice={"type": "function", "name": "now"}
    )
    calls = [item for item in named.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("now", {})]
    allowed: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]}
    some = client.responses.create(model="scripted", input=QUESTION, tools=TOOLS, tool_choice=allowed)
    assert {item.name for item in some.output if item.type == "function_call"} == {"now"}


async def test_events_of_a_stream(http: aiohttp.ClientSession) -> None:
    found = await events(http, tools=TOOLS, include=LOGPROBS, top_logprobs=2)
    names = [event["type"].removeprefix("response.") for event in found]
    shown = [name for name, before in zip(names, ["", *names], strict=False) if name != before]
    text = ["output_item.added", "content_part.added", "{0}.delta", "{0}.done", "content_part.done", "output_item.done"]
    call = ["output_item.added", "{0}.delta", "{0}.done", "output_item.done"]
    assert shown == [
        "created",
        "in_progress",
        *(name.format("reasoning_text") for name in text),
        *(name.format("output_text") for name in text),
        *(name.format("function_call_arguments") for name in call * 2),
        "completed",
    ]
    assert len({event["response"]["id"] for event in found if "response" in event}) == 1
    assert found[0]["response"]["output"] == []
    output = found[-1]["response"]["output"]
    for index, item in enumerate(output):
        parts = [event["delta"] for event in found if "delta" in event and event["output_index"] == index]
        assert "".join(parts) == (item["arguments"] if "arguments" in item else item["content"][0]["text"])
    assert [event["item"] for event in found if event["type"] == "response.output_item.done"] == output
    deltas = [event for event in found if event["type"] == "response.output_text.delta"]
    assert [each for event in deltas for each in event["logprobs"]] == output[1]["content"][0]["logprobs"]
    whole = await answered(http, tools=TOOLS, include=LOGPROBS, top_logprobs=2)
    assert without_ids(whole["output"]) == without_ids(output)
    last = found[-1]["response"]
    differing = {name for name in whole if whole[name] != last[name]}
    assert differing <= {"id", "created_at", "output", "usage"}
    assert whole["usage"]["output_tokens_details"] == last["usage"]["output_tokens_details"]


async def test_logprobs_are_those_of_the_message(http: aiohttp.ClientSession) -> None:
    found = await answered(http, tools=TOOLS, include=LOGPROBS, top_logprobs=2)
    logprobs = found["output"][1]["content"][0]["logprobs"]
    # The scripted tokens at its borders have white space.
    assert bytes(byte for token in logprobs for byte in token["bytes"]).decode().strip() == SPOKEN
    assert {len(token["top_logprobs"]) for token in logprobs} == {2}
    found = await answered(http, include=LOGPROBS)
    logprobs = found["output"][0]["content"][0]["logprobs"]
    assert "".join(token["token"] for token in logprobs) == PLAIN
    assert {len(token["top_logprobs"]) for token in logprobs} == {0}


def test_the_packages_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model="scripted", input=QUESTION, tools=TOOLS) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == SPOKEN
    calls = [item for item in final.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == CALLED


def test_an_answer_by_a_schema(client: openai.OpenAI) -> None:
    # With a template that knows no reasoning: what a model would think there, if it did, is chance.
    extra = {"chat_template": "P"}
    parsed = client.responses.parse(model="scripted", input=QUESTION, text_format=Place, extra_body=extra)
    assert parsed.output_parsed is not None
    with client.responses.stream(model="scripted", input=QUESTION, text_format=Place, extra_body=extra) as stream:
        done = [event for event in stream if event.type == "response.output_text.done"]
    assert isinstance(done[0].parsed, Place)
    form: Any = {"format": {"type": "json_object"}}
    # Without a limit, a model that has nothing to say there may never close it.
    found = client.responses.create(model="scripted", input=QUESTION, text=form, max_output_tokens=8, extra_body=extra)
    assert found.output_text.lstrip().startswith("{")


async def test_the_asynchronous_client(scripted: RunningStack) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://{scripted.http}/v1", api_key="any", max_retries=0) as client:
        whole = await client.responses.create(model="scripted", input=QUESTION)
        stream = await client.responses.create(model="scripted", input=QUESTION, stream=True)
        parts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert "".join(parts) == whole.output_text == PLAIN


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": "a", "tools": [{"type": "function", "name": "a", "parameters": {"a": float("nan")}}]}, "tools"),
        ({"input": "a", "tool_choice": "required"}, "tool_choice"),
        ({"input": "a", "tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"input": "a", "tools": TOOLS, "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "a", "conversation": "conv_1"}, "conversation"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "truncation": "auto"}, "truncation"),
        ({"input": "a", "include": ["file_search_call.results"]}, "include"),
        ({"input": "a", "top_logprobs": 2}, "top_logprobs"),
        ({"input": "a", "include": LOGPROBS, "top_logprobs": 21}, "top_logprobs"),
        ({"input": "a", "thinking_token_budget": -1}, "thinking_token_budget"),
        ({"input": "a", "max_output_tokens": -1}, "max_output_tokens"),
        ({"input": "a", "max_output_tokens": 5000}, "max_output_tokens"),
        ({"input": "a", "text": {"format": {}}}, "text.format.type"),
        ({"input": "a", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"input": "a", "text": {"format": {"type": "text"}, "size": 1}}, "text.size"),
        ({"input": "a", "text": NO_SCHEMA}, "text.format"),
        ({"input": "a", "text": NO_SCHEMA, "chat_template": "P"}, "text.format.schema"),
        ({"input": "a", "tools": [NO_TOOL], "tool_choice": "required"}, "tools"),
        ({"input": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"input": "a", "reasoning": {"summary": "detailed"}}, "reasoning"),
        ({"input": "a", "n": 2}, "n"),
        ({"input": "a", "max_tokens": 2}, "max_tokens"),
        ({"input": "a", "stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"input": "a" * 5000}, "input"),
        ({"input": "a", "chat_template": "{{ raise_exception('no') }}"}, "input"),
        ({"input": "a", "temperature": -1}, "temperature"),
    ],
)
async def test_refusals_name_the_field(http: aiohttp.ClientSession, body: dict[str, Any], param: str) -> None:
    status, found = await post(http, body)
    assert status == 400
    assert found["error"]["param"] == param
    assert found["error"]["message"].startswith(f"{param}: ")


async def test_a_model_that_is_not_there(http: aiohttp.ClientSession) -> None:
    assert (await post(http, {"input": "a", "model": "other"}))[0] == 404


async def test_a_long_input_is_read_beside_the_event_loop(http: aiohttp.ClientSession) -> None:
    items: list[Any] = [{"role": "user", "content": str(index)} for index in range(500)]
    body = {"input": items, "chat_template": "{{ messages | length }}{{ messages[-1].content }}P"}
    assert (await answered(http, **body))["usage"]["input_tokens"] == len("500499P")
    items[300] = {"type": "item_reference"}
    assert (await post(http, body))[1]["error"]["param"] == "input[300].type"


async def test_malformed_bodies_are_refused(http: aiohttp.ClientSession) -> None:
    """600 bodies with something wrong in them: each is answered, or refused by its field, and none is our fault."""
    history = [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}, {"type": "reasoning", "summary": []}]
    called = {"type": "function_call", "call_id": "c", "name": "now", "arguments": "{}"}
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}}
    body: dict[str, Any] = {
        "input": [*history, called, {"type": "function_call_output", "call_id": "c", "output": "1"}],
        "tools": TOOLS, "tool_choice": {"type": "function", "name": "now"}, "parallel_tool_calls": False,
        "text": {"format": {"type": "json_schema", "name": "a", "schema": schema}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"}, "include": LOGPROBS, "top_logprobs": 1,
        "metadata": {"a": "b"}, "max_output_tokens": 4, "temperature": 0.5, "stream": False, "instructions": "a",
        "truncation": "disabled",
    }  # fmt: skip
    dice = random.Random(0)
    statuses: dict[int, int] = {}
    for number in range(600):
        # One of the two holds the answer.
        left_out = ("text", "tool_choice")[number % 2]
        changed = mutated_json({key: value for key, value in body.items() if key != left_out}, dice)
        data = json.dumps(changed).encode()
        if number % 20 == 0:
            data = data[: dice.randrange(len(data))]
        async with http.post("/v1/responses", data=data) as response:
            content = await response.text()
        statuses[response.status] = statuses.get(response.status, 0) + 1
        assert response.status in (200, 400, 404), (response.status, data, content)
        if response.status == 400:
            assert json.loads(content)["error"]["param"], (data, content)
    assert min(statuses[200], statuses[400]) > 60


async def test_a_model_without_a_template(stack: RunningStack) -> None:
    async with aiohttp.ClientSession(f"http://{stack.http}") as http:
        status, found = await post(http, {"input": QUESTION})
        assert status == 400
        assert "set --chat-template" in found["error"]["message"]
        template = "{{ messages[0].content }}"
        body = {"input": "def f", "chat_template": template, "max_output_tokens": 3, "include": LOGPROBS}
        status, found = await post(http, body)
        (part,) = found["output"][0]["content"]
        assert bytes(byte for token in part["logprobs"] for byte in token["bytes"]).decode() == part["text"]
        assert (status, found["usage"]["output_tokens"], len(part["logprobs"])) == (200, 3, 3)
