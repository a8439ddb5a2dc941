"""Structured output through every API and beside other parameters; what is refused, and whom that concerns."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import jsonschema
import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import Completion, FinishReason
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.grammar.store import GrammarStore
from support.grammars import EOS, demo_vocabulary, start
from support.schemas import schemas
from support.stacks import RunningStack

PROMPT = "def mean(values):\n"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"enum": [1, 2, 3]}},
    "required": ["name", "size"],
}
TAG = {
    "type": "structural_tag",
    "format": {"type": "tag", "begin": "<n>", "content": {"type": "regex", "pattern": "[0-9]{2}"}, "end": "</n>"},
}
STRUCTURES = {
    "json_schema": StructuredOutput(json_schema=json.dumps(SCHEMA)),
    "json_object": StructuredOutput(json_object=True),
    "regex": StructuredOutput(regex=r"[a-z]{3,6}=\d{1,3}"),
    "grammar": StructuredOutput(grammar='root ::= "sum(" [a-z] ("+" [a-z]){1,3} ")"'),
    "choice": StructuredOutput(choice=("mean", "median", "mode")),
    "structural_tag": StructuredOutput(structural_tag=json.dumps(TAG)),
}
DRAWN = SamplingParams(temperature=1.0, seed=3, max_tokens=100)


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stack.frontend, timeout=120) as connected:
        yield connected


@pytest.fixture
async def http(stack: RunningStack) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{stack.http}", timeout=aiohttp.ClientTimeout(120)) as session:
        yield session


async def post(http: aiohttp.ClientSession, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = {"prompt": PROMPT, "temperature": 1.0, "seed": 3, "max_tokens": 100}
    async with http.post("/v1/completions", json=body | fields) as response:
        return response.status, await response.json()


def check(name: str, text: str) -> None:
    match name:
        case "json_schema":
            jsonschema.validate(json.loads(text), SCHEMA)
        case "json_object":
            assert isinstance(json.loads(text), dict)
        case "regex":
            assert re.fullmatch(r"[a-z]{3,6}=\d{1,3}", text)
        case "grammar":
            assert re.fullmatch(r"sum\([a-z](\+[a-z]){1,3}\)", text)
        case "choice":
            assert text in ("mean", "median", "mode")
        case "structural_tag":
            assert re.fullmatch("<n>[0-9]{2}</n>", text)


@pytest.mark.parametrize("name", STRUCTURES)
async def test_every_kind_over_grpc_and_http(client: AsyncClient, http: aiohttp.ClientSession, name: str) -> None:
    structure = STRUCTURES[name]
    params = replace(DRAWN, structured_output=structure)
    answer = await client.generate(PROMPT, params)
    check(name, answer.text)
    assert answer.finish_reason is FinishReason.STOP
    assert answer.token_ids[-1] == EOS
    streamed = [piece async for piece in client.generate_stream(PROMPT, params)]
    assert "".join(piece.text for piece in streamed) == answer.text
    given = getattr(structure, name)
    fields = [{"structured_outputs": {"json" if name == "json_schema" else name: given}}]
    match name:
        case "json_schema":
            fields.append({"guided_json": SCHEMA})
            fields.append({"guided_json": given})
            fields.append({"response_format": {"type": name, "json_schema": {"name": "thing", "schema": SCHEMA}}})
        case "json_object":
            fields.append({"response_format": {"type": name}})
        case "structural_tag":
            fields.append({"response_format": TAG})
        case _:
            fields.append({f"guided_{name}": given})
    for each in fields:
        status, body = await post(http, **each)
        assert status == 200, body
        assert body["choices"][0]["text"] == answer.text, each


@pytest.mark.long
async def test_three_hundred_schemas_hold_every_answer(client: AsyncClient) -> None:
    corpus, at_once = schemas(300), asyncio.Semaphore(24)

    async def answer(index: int) -> Completion:
        structure = StructuredOutput(json_schema=json.dumps(corpus[index]))
        params = SamplingParams(temperature=1.0, seed=index, max_tokens=150, structured_output=structure)
        async with at_once:
            return await client.generate(PROMPT, params)

    answers = await asyncio.gather(*map(answer, range(len(corpus))))
    store = GrammarStore(demo_vocabulary)
    for schema, answered in zip(corpus, answers, strict=True):
        if answered.finish_reason is FinishReason.STOP:
            jsonschema.Draft202012Validator(schema).validate(json.loads(answered.text))
        else:
            matcher = start(store, StructuredOutput(json_schema=json.dumps(schema)))
            matcher.accept(answered.token_ids)
            assert matcher.failure is None
    assert sum(each.finish_reason is FinishReason.STOP for each in answers) > 250


async def test_a_stop_ends_an_answer_before_its_structure_does(client: AsyncClient) -> None:
    structure = StructuredOutput(choice=("one two three",))
    answer = await client.generate(PROMPT, replace(DRAWN, structured_output=structure, stop=("two",)))
    assert answer.text == "one "
    assert answer.matched_stop == "two"


async def test_a_complete_answer_ends_whatever_forbids_it(client: AsyncClient) -> None:
    params = replace(DRAWN, structured_output=STRUCTURES["choice"], min_tokens=50)
    assert (await client.generate(PROMPT, params)).text in STRUCTURES["choice"].choice
    penalized = replace(params, presence_penalty=2.0, logit_bias={EOS: -100}, bad_words_ids=((EOS,),))
    assert (await client.generate(PROMPT, penalized)).text in STRUCTURES["choice"].choice


async def test_beyond_the_end_tokens_are_end_tokens(client: AsyncClient) -> None:
    params = replace(DRAWN, structured_output=StructuredOutput(choice=("mean",)), ignore_eos=True, max_tokens=20)
    answer = await client.generate(PROMPT, params)
    assert answer.text == "mean"
    assert answer.finish_reason is FinishReason.LENGTH
    assert answer.token_ids[-5:] == (EOS,) * 5


async def test_log_probabilities_are_the_models_own(client: AsyncClient) -> None:
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=5)
    free = await client.generate(PROMPT, params)
    held = await client.generate(PROMPT, replace(params, structured_output=StructuredOutput(regex="[0-9]+")))
    assert held.logprobs[0].top_token_ids == free.logprobs[0].top_token_ids
    assert held.token_ids != free.token_ids
    assert held.logprobs[0].logprob < free.logprobs[0].logprob


async def test_what_other_parameters_leave_nothing_of_ends_with_a_reason(client: AsyncClient) -> None:
    params = replace(DRAWN, structured_output=StructuredOutput(regex="[0-9]+"), allowed_token_ids=(70, 71, EOS))
    with pytest.raises(InvalidRequest, match="must allow a token that the other parameters allow too"):
        await client.generate(PROMPT, params)


async def test_several_answers_hold_each(http: aiohttp.ClientSession) -> None:
    status, body = await post(http, guided_regex="[a-z]{4,8}", n=3)
    assert status == 200, body
    texts = [choice["text"] for choice in body["choices"]]
    assert all(re.fullmatch("[a-z]{4,8}", text) for text in texts)
    assert len(set(texts)) == 3


async def test_a_schema_that_takes_too_long_holds_up_nobody_else(client: AsyncClient) -> None:
    deep = '{"type": "array", "items": ' * 600 + "{}" + "}" * 600
    costly = replace(DRAWN, structured_output=StructuredOutput(json_schema=deep))
    refused = asyncio.create_task(client.generate(PROMPT, costly))
    await asyncio.sleep(0)
    for _ in range(3):
        await client.generate(PROMPT, replace(DRAWN, max_tokens=20))
    # Others have their whole answers before its five seconds of computing are over.
    assert not refused.done()
    with pytest.raises(InvalidRequest, match=r"json_schema: must compile: it takes more than 5 s to compile"):
        await refused
    assert (await client.generate(PROMPT, replace(DRAWN, structured_output=STRUCTURES["choice"]))).text


@pytest.mark.parametrize("flag", ["--regex=[0-9]{3}", "--choice=123,456", '--json-schema={"enum": [123, 456]}'])
async def test_on_the_command_line(stack: RunningStack, flag: str) -> None:
    command = (sys.executable, "-m", "quire.services.cli", "generate", PROMPT, f"--address={stack.frontend}", flag)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert re.fullmatch(r"[0-9]{3}\n", output.decode())


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"guided_regex": "(a"}, "guided_regex", "must compile: Regex parsing error at position 3"),
        ({"guided_json": {"not": {}}}, "guided_json", "the schema: not is not supported"),
        ({"guided_json": "{"}, "guided_json", "must compile: Expecting property name"),
        ({"guided_grammar": "root ::= a"}, "guided_grammar", "must compile: EBNF parser error"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
            "response_format",
            "the schema: not is not supported",
        ),
        ({"guided_grammar": "x" * 300_000}, "structured_output", "must be at most 262144 bytes of UTF-8, got 300000"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex, guided_choice", "must be at most one of them"),
        ({"structured_outputs": {}}, "structured_output", "must have exactly one of"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "must be given with this type"),
        ({"response_format": {"type": "yaml"}}, "response_format", "should be 'text', 'json_object'"),
    ],
)  # fmt: skip
async def test_what_is_refused_says_why_and_ends_nothing_else(
    client: AsyncClient, http: aiohttp.ClientSession, fields: dict[str, Any], param: str, message: str
) -> None:
    other = asyncio.create_task(client.generate(PROMPT, SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)))
    status, body = await post(http, **fields)
    assert (status, body["error"]["param"]) == (400, param), body
    assert message in body["error"]["message"]
    assert len((await other).token_ids) == 60


async def test_text_as_response_format_asks_for_nothing(http: aiohttp.ClientSession) -> None:
    _, free = await post(http)
    status, body = await post(http, response_format={"type": "text"}, guided_json=None)
    assert status == 200
    assert body["choices"][0]["text"] == free["choices"][0]["text"]


async def test_the_first_form_of_structural_tags(http: aiohttp.ClientSession) -> None:
    tag = {"begin": "<call>", "schema": SCHEMA, "end": "</call>"}
    response_format = {"type": "structural_tag", "structures": [tag], "triggers": ["<call>"]}
    status, body = await post(http, response_format=response_format)
    assert status == 200, body
