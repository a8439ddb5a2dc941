"""Chat completions as the `openai` package asks for them, unmodified, of models that say what they are told to."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from support.chat_scripts import ANSWER, CALLED, PLAIN, TEMPLATE, write_chat_model
from support.chats import TIME, WEATHER
from support.scripted_model import write_scripted_model
from support.stacks import RunningStack, launch

TOWNS = {"pick": ["Rome", "Oslo"], "pick_other": ["Bern"]}
PICKS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"town": {"enum": towns}}, "required": ["town"]},
        },
    }
    for name, towns in TOWNS.items()
]
QUESTION: list[Any] = [{"role": "user", "content": "How warm is it in Füßen?"}]
TOOLS: list[Any] = [WEATHER, TIME]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with launch(
        write_chat_model(tmp_path_factory.mktemp("models") / "scripted"), executor={"num_blocks": 256}
    ) as stack:
        yield stack


@pytest.fixture
def client(scripted: RunningStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{scripted.http}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
async def http(scripted: RunningStack) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{scripted.http}", timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


def test_a_plain_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="scripted", messages=QUESTION)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.message.tool_calls) == ("assistant", PLAIN, None)
    assert (choice.finish_reason, choice.logprobs, answer.object) == ("stop", None, "chat.completion")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.system_fingerprint


def test_a_stream_says_the_usage_so_far(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = client.chat.completions.create(
        model="scripted", messages=QUESTION, stream=True, stream_options=options
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
    assert len(counts) == len(chunks) > 1
    assert counts == sorted(counts)
    assert last.usage is not None
    assert chunks[-1].usage == last.usage
    assert (counts[0] > 0, counts[-1]) == (True, last.usage.completion_tokens)


def test_parts_and_sampling_fields(client: openai.OpenAI) -> None:
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    answer = client.chat.completions.create(
        model="scripted", messages=parts, stop="ending", temperature=0.5, top_p=0.9, seed=3, max_completion_tokens=50,
        presence_penalty=0.1, user="me", n=1, response_format={"type": "text"}, store=False,
    )  # fmt: skip
    assert answer.choices[0].message.content == "A plain answer, "
    short = client.chat.completions.create(model="scripted", messages=QUESTION, max_tokens=2)
    assert (short.choices[0].finish_reason, short.usage and short.usage.completion_tokens) == ("length", 2)


def test_an_answer_by_a_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"town": {"enum": ["Füßen"]}}, "required": ["town"]}
    answer = client.chat.completions.create(
        model="scripted",
        messages=QUESTION,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}},
    )
    assert json.loads(answer.choices[0].message.content or "") == {"town": "Füßen"}
    assert answer.choices[0].finish_reason == "stop"


def test_a_stream(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    *chunks, last = client.chat.completions.create(
        model="scripted", messages=QUESTION, stream=True, stream_options=options
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == PLAIN
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant"] + [None] * (len(chunks) - 1)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {chunk.id for chunk in chunks} == {last.id}
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 5


def test_tools_are_called_and_their_results_answered(client: openai.OpenAI) -> None:
    asked = client.chat.completions.create(model="scripted", messages=QUESTION, tools=TOOLS, tool_choice="auto")
    (choice,) = asked.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look it up. 😀"
    assert choice.message.model_extra == {"reasoning_content": "Füßen is a town."}
    calls = choice.message.tool_calls or []
    found = [(call.function.name, json.loads(call.function.arguments)) for call in calls if call.type == "function"]
    assert found == CALLED
    results = [{"role": "tool", "tool_call_id": call.id, "content": "21.5"} for call in calls]
    # The message goes back as the package has it, with all of its fields.
    history = [*QUESTION, choice.message, *results]
    answered = client.chat.completions.create(model="scripted", messages=history, tools=TOOLS)
    assert answered.choices[0].message.content == ANSWER
    assert answered.choices[0].finish_reason == "stop"


def test_calls_in_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="scripted", messages=QUESTION, tools=TOOLS) as stream:
        chunks: list[ChatCompletionChunk] = [event.chunk for event in stream if event.type == "chunk"]
        message = stream.get_final_completion().choices[0].message
    calls = message.tool_calls or []
    assert [call.function.name for call in calls] == ["get_weather", "now"]
    assert json.loads(calls[0].function.arguments) == {"town": "Füßen", "days": 2}
    assert message.content == "I look it up. 😀"
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    parts = [part for delta in deltas for part in delta.tool_calls or []]
    assert [part.index for part in parts if part.id] == [0, 1]
    # How many messages they come in depends on how fast they are read.
    assert [part for part in parts if part.index == 0]
    reasoning = "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas)
    assert reasoning == "Füßen is a town."
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_budget_of_thinking_is_taken_and_checked(client: openai.OpenAI) -> None:
    def ask(budget: int) -> str | None:
        extra = {"thinking_token_budget": budget}
        answer = client.chat.completions.create(model="scripted", messages=QUESTION, extra_body=extra)
        return answer.choices[0].message.content

    assert ask(1000) == PLAIN
    with pytest.raises(openai.BadRequestError, match="thinking_token_budget: must be 0 to 2147483647, got -1"):
        ask(-1)


def test_several_answers(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="scripted", messages=QUESTION, n=3)
    assert [(choice.index, choice.message.content) for choice in whole.choices] == [
        (index, PLAIN) for index in range(3)
    ]
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(model="scripted", messages=QUESTION, n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [PLAIN] * 3
    alone = client.chat.completions.create(model="scripted", messages=QUESTION)
    assert whole.usage
    assert alone.usage
    assert whole.usage.prompt_tokens == alone.usage.prompt_tokens


def test_only_one_call_and_none(client: openai.OpenAI) -> None:
    one = client.chat.completions.create(model="scripted", messages=QUESTION, tools=TOOLS, parallel_tool_calls=False)
    assert len(one.choices[0].message.tool_calls or []) == 1
    none = client.chat.completions.create(model="scripted", messages=QUESTION, tools=TOOLS, tool_choice="none")
    assert none.choices[0].message.content == PLAIN


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="scripted", messages=QUESTION, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    tokens = logprobs.content or []
    # The end token is one of them.
    assert "".join(bytes(token.bytes or []).decode() for token in tokens) == PLAIN + "</s>"
    assert {len(token.top_logprobs) for token in tokens} == {2}
    assert all(token.top_logprobs[0].logprob == token.logprob == pytest.approx(0) for token in tokens)
    events = client.chat.completions.create(model="scripted", messages=QUESTION, logprobs=True, stream=True)
    streamed = [token for event in events if (found := event.choices[0].logprobs) for token in found.content or []]
    assert [token.token for token in streamed] == [token.token for token in tokens]
    assert {len(token.top_logprobs) for token in streamed} == {0}


def test_several_choices(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="scripted", messages=QUESTION, tools=TOOLS, n=3)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert {choice.message.content for choice in whole.choices} == {"I look it up. 😀"}
    assert len({call.id for choice in whole.choices for call in choice.message.tool_calls or []}) == 6
    texts = ["", ""]
    for event in client.chat.completions.create(model="scripted", messages=QUESTION, n=2, stream=True):
        texts[event.choices[0].index] += event.choices[0].delta.content or ""
    assert texts == [PLAIN, PLAIN]


def test_markers_of_calls_may_be_special_tokens(tmp_path: Path) -> None:
    template = "{% if tools %}[TOOL_CALLS]{% endif %}{{ messages[-1].content }}"
    scripts = {"C": 'So. [TOOL_CALLS]now[ARGS]{"a": 1}'}
    folder = write_scripted_model(tmp_path / "scripted", scripts, template, ["[TOOL_CALLS]", "[ARGS]"])
    with (
        launch(folder, executor={"num_blocks": 64}) as stack,
        openai.OpenAI(base_url=f"http://{stack.http}/v1", api_key="any", max_retries=0) as client,
    ):
        asked: list[Any] = [{"role": "user", "content": "C"}]
        message = client.chat.completions.create(model="scripted", messages=asked, tools=[TIME]).choices[0].message
        plain = client.chat.completions.create(model="scripted", messages=asked).choices[0].message
    (call,) = message.tool_calls or []
    assert call.type == "function"
    assert (message.content, call.function.name, call.function.arguments) == ("So.", "now", '{"a": 1}')
    assert plain.content == 'So. now{"a": 1}'


def test_calls_may_be_required(client: openai.OpenAI) -> None:
    for seed in range(4):
        answer = client.chat.completions.create(
            model="scripted", messages=QUESTION, tools=PICKS, tool_choice="required", seed=seed
        )
        (choice,) = answer.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        # What it thinks is free, and what follows is not.
        assert choice.message.model_extra == {"reasoning_content": "Füßen is a town."}
        assert choice.message.tool_calls
        for call in choice.message.tool_calls:
            assert call.type == "function"
            assert json.loads(call.function.arguments)["town"] in TOWNS[call.function.name]


def test_one_tool_may_be_required_by_its_name(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "pick_other"}}
    events = client.chat.completions.create(
        model="scripted", messages=QUESTION, tools=PICKS, tool_choice=named, stream=True, seed=1
    )
    parts = [part for event in events for part in event.choices[0].delta.tool_calls or []]
    assert [part.function and part.function.name for part in parts if part.id] == ["pick_other"]
    arguments = "".join(part.function.arguments or "" for part in parts if part.function)
    assert json.loads(arguments)["town"] in TOWNS["pick_other"]


def test_some_of_the_tools_may_be_allowed(client: openai.OpenAI) -> None:
    other: Any = {"type": "function", "function": {"name": "pick_other"}}
    allowed: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [other]}}
    answer = client.chat.completions.create(
        model="scripted", messages=QUESTION, tools=PICKS, tool_choice=allowed, seed=1
    )
    calls = answer.choices[0].message.tool_calls or []
    assert {call.function.name for call in calls if call.type == "function"} == {"pick_other"}


def test_json_behind_reasoning(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    for extra, reasoning in ((thinking, "Let me see: 1 + 1."), ({}, None)):
        answer = client.chat.completions.create(
            model="scripted", messages=QUESTION, response_format=form, extra_body=extra, seed=2
        )
        message = answer.choices[0].message
        assert json.loads(message.content or "")["n"] in (1, 2)
        assert reasoning is None or message.model_extra == {"reasoning_content": reasoning}


async def test_the_asynchronous_client(scripted: RunningStack) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://{scripted.http}/v1", api_key="any", max_retries=0) as client:
        whole = await client.chat.completions.create(model="scripted", messages=QUESTION, tools=TOOLS)
        assert len(whole.choices[0].message.tool_calls or []) == 2
        stream = await client.chat.completions.create(model="scripted", messages=QUESTION, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == PLAIN


async def post(http: aiohttp.ClientSession, path: str = "/v1/chat/completions", **body: Any) -> tuple[int, Any]:
    async with http.post(path, json=body) as response:
        return response.status, await response.json()


async def test_templates_of_requests_and_their_variables(http: aiohttp.ClientSession) -> None:
    async def content(**body: Any) -> Any:
        status, found = await post(http, messages=QUESTION, **body)
        assert status == 200, found
        return found["choices"][0]["message"]["content"]

    assert await content(chat_template_kwargs={"enable_thinking": True}) == "Two."
    assert await content(chat_template="any R") == ANSWER
    template = "{{ messages[0].content }}{{ more }}"
    assert await content(chat_template=template, chat_template_kwargs={"more": "R"}) == ANSWER
    assert await content(chat_template="{{ reasoning_effort }}", reasoning_effort="P") == PLAIN
    last = {"role": "assistant", "content": "so: P"}
    going_on = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    status, found = await post(
        http, messages=[*QUESTION, last], chat_template=going_on, continue_final_message=True, max_tokens=50
    )
    assert (status, found["choices"][0]["message"]["content"]) == (200, PLAIN)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": QUESTION, "tools": [{}]}, "tools[0]"),
        ({"messages": QUESTION, "tool_choice": "required"}, "tool_choice"),
        ({"messages": QUESTION, "tools": TOOLS, "tool_choice": {"type": "function", "function": []}}, "tool_choice"),
        ({"messages": QUESTION, "tools": PICKS, "tool_choice": "required", "guided_choice": ["a"]}, "tool_choice"),
        (
            {
                "messages": QUESTION,
                "tools": TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "other"}},
            },
            "tool_choice",
        ),
        ({"messages": QUESTION, "tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"messages": QUESTION, "tool_choice": "auto"}, "tool_choice"),
        (
            {
                "messages": QUESTION,
                "tools": PICKS,
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER]}},
            },
            "tool_choice",
        ),
        ({"messages": QUESTION, "response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"messages": QUESTION, "top_logprobs": 2}, "top_logprobs"),
        ({"messages": QUESTION, "logprobs": True, "top_logprobs": 21}, "logprobs"),
        ({"messages": QUESTION, "max_tokens": 2, "max_completion_tokens": 3}, "max_tokens"),
        ({"messages": QUESTION, "max_tokens": -1}, "max_tokens"),
        ({"messages": QUESTION, "max_tokens": 5000}, "max_tokens"),
        ({"messages": QUESTION, "chat_template": "{% if %}"}, "chat_template"),
        ({"messages": QUESTION, "chat_template": "{{ raise_exception('no') }}"}, "messages"),
        ({"messages": QUESTION, "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
        ({"messages": QUESTION, "functions": []}, "functions"),
        ({"messages": QUESTION, "store": True}, "store"),
        ({"messages": QUESTION, "n": 0}, "n"),
        (
            {"messages": QUESTION, "add_generation_prompt": True, "continue_final_message": True},
            "add_generation_prompt",
        ),
        ({"messages": [{"role": "user", "content": "a" * 5000}]}, "messages"),
    ],
)
async def test_refusals_name_the_field(http: aiohttp.ClientSession, body: dict[str, Any], param: str) -> None:
    status, found = await post(http, **body)
    assert status == 400
    assert found["error"]["param"] == param
    assert found["error"]["message"].startswith(f"{param}: ")


async def test_a_long_conversation(http: aiohttp.ClientSession) -> None:
    """It has more fields than other bodies may have, and so many messages that a thread renders them."""
    messages = [{"role": "user", "content": "", "tag": "x" * 10} for _ in range(1000)]
    status, found = await post(http, messages=messages, chat_template_kwargs={}, max_tokens=4)
    assert (status, found["error"]["param"]) == (400, "messages")
    status, found = await post(http, messages=messages, chat_template="{{ messages | length }}P")
    assert found["usage"]["prompt_tokens"] == len("1000P")


async def test_a_model_without_a_template(stack: RunningStack) -> None:
    async with aiohttp.ClientSession(f"http://{stack.http}") as http:
        status, found = await post(http, messages=QUESTION)
        assert status == 400
        assert "set --chat-template" in found["error"]["message"]
        status, found = await post(http, messages=QUESTION, chat_template="{{ messages[0].content }}", max_tokens=3)
        assert status == 200
        assert found["usage"]["completion_tokens"] == 3


def test_a_template_by_setting(tmp_path: Path, scripted: RunningStack) -> None:
    folder = Path(str(scripted.stack.settings.executor.model))
    path = tmp_path / "mine.jinja"
    path.write_text("{% if tools %}C{% else %}R{% endif %}")
    with (
        launch(folder, executor={"num_blocks": 64}, chat_template=path, tool_call_format="hermes") as stack,
        openai.OpenAI(base_url=f"http://{stack.http}/v1", api_key="any", max_retries=0) as client,
    ):
        answer = client.chat.completions.create(model="scripted", messages=QUESTION)
        assert answer.choices[0].message.content == ANSWER
        called = client.chat.completions.create(model="scripted", messages=QUESTION, tools=TOOLS)
        assert len(called.choices[0].message.tool_calls or []) == 2
        # Without a template that knows it, what it thinks is content.
        assert (called.choices[0].message.content or "").startswith("<think>")


async def test_messages_are_tokenized_as_for_a_chat(http: aiohttp.ClientSession) -> None:
    status, found = await post(http, "/tokenize", messages=QUESTION, return_token_strs=True)
    assert status == 200
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    text = "[user] How warm is it in Füßen?P"
    assert (await post(http, "/detokenize", tokens=found["tokens"]))[1]["prompt"] == text
    assert (found["token_strs"][-1], found["max_model_len"]) == ("P", 4096)
    chat = (await post(http, messages=QUESTION))[1]
    assert chat["usage"]["prompt_tokens"] == found["count"]
    asked = {"messages": QUESTION, "tools": TOOLS, "chat_template": "<tool_call>{{ tools | length }}"}
    status, found = await post(http, "/tokenize", **asked)
    assert (status, found["count"], found["token_strs"]) == (200, 12, None)
    for body in ({}, {"prompt": "a", "messages": QUESTION}):
        status, found = await post(http, "/tokenize", **body)
        assert (status, found["error"]["param"]) == (400, "prompt")


async def test_the_tokenizers_configuration(http: aiohttp.ClientSession) -> None:
    async with http.get("/tokenizer_info") as response:
        found = await response.json()
    assert (found["eos_token"], found["chat_template"]) == ("</s>", TEMPLATE)
    assert found["tokenizer_class"]
