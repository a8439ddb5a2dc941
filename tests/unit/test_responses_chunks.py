"""What the Responses API renders of an answer, however the answer is cut into pieces, and of one that fails."""

import json
import random
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from quire.engine.api.completion import Completion, FinishReason, Usage
from quire.engine.api.errors import InvalidRequest, Overloaded, RequestError, Unavailable
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.sampling import SamplingParams
from quire.engine.chat.chat_prompt import ChatPrompt
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.tool_choice import ToolChoice
from quire.engine.chat.tools.formats import TOOL_FORMATS
from quire.engine.open_request import OpenRequest
from quire.services.frontend.http.errors import refusal
from quire.services.frontend.http.responses_body import ResponsesBody
from quire.services.frontend.http.responses_chunks import ResponsesChunks
from support.chat_scripts import CALLS
from support.tokenizers import byte_tokenizer

BODY = ResponsesBody(input="How?", tools=[{"type": "function", "name": name} for name in ("get_weather", "now")])
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOKENIZER = byte_tokenizer()


def token_ids(text: str) -> list[int]:
    return list(TOKENIZER.backend.encode(text).ids)


async def chunks(text: str, has_logprobs: bool = True) -> ResponsesChunks:
    """To render this text, a token a byte, as an answer with reasoning and calls."""
    params = SamplingParams(logprobs=0 if has_logprobs else None)
    conversation: Conversation = await BODY.read()
    prompt = ChatPrompt(
        text="P", conversation=conversation, calls=TOOL_FORMATS["hermes"], tool_choice=ToolChoice(),
        only_first_call=False, keeps_special_tokens=False, has_reasoning=True, is_reasoning_open=False,
    )  # fmt: skip
    request = OpenRequest(1, "r", np.zeros(1, np.int32), params)
    request.generated = array("i", token_ids(text))
    return ResponsesChunks(request, "m", prompt, BODY.echo(params), TOKENIZER)


def pieces(text: str, dice: random.Random | None = None, reason: FinishReason = FinishReason.STOP) -> list[Completion]:
    """The text cut somewhere, or in one, whose tokens run ahead of it; and </s>, which has none."""
    ids = [*token_ids(text), TOKENIZER.backend.token_to_id("</s>")]
    at = told = 0
    found: list[Completion] = []
    while told < len(text) or at < len(ids):
        told = min(len(text), told + dice.randrange(8)) if dice else len(text)
        ahead = len(token_ids(text[:told])) + (dice.randrange(4) if dice else 1)
        ahead = max(at, min(len(ids), ahead))
        is_last = told == len(text) and ahead == len(ids)
        begun = sum(len(piece.text) for piece in found)
        logprobs = tuple(TokenLogprobs(-float(index), (), ()) for index in range(at, ahead))
        usage = Usage(1, 0, len(ids)) if is_last else None
        ended = reason if is_last else None
        found.append(Completion(text[begun:told], tuple(ids[at:ahead]), ended, None, usage, "r", logprobs))
        at = ahead
    return found


def told(data: bytes) -> list[dict[str, Any]]:
    """Events, checked against the package's types."""
    found = [json.loads(block.split("\ndata: ")[1]) for block in data.decode().removesuffix("\n\n").split("\n\n")]
    for event in found:
        EVENT.validate_python(event)
    return found


def without_call_ids(output: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in item.items() if key != "call_id"} for item in output]


@pytest.mark.parametrize("text", [CALLS, "é<😀 ending", "<think>a</think>é", " <think>é", ""])
async def test_the_output_is_the_same_however_the_answer_is_cut(text: str) -> None:
    (whole,) = pieces(text)
    expected = (await chunks(text)).whole([whole])
    dice = random.Random(0)
    for _ in range(20):
        rendered = await chunks(text)
        data = b"".join(rendered.event(0, piece) for piece in pieces(text, dice)) + rendered.end()
        *events, last = told(data)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert last["type"] == "response.completed"
        assert without_call_ids(last["response"]["output"]) == without_call_ids(expected["output"])
        assert last["response"]["usage"] == expected["usage"]


async def test_logprobs_and_tokens_of_reasoning() -> None:
    (piece,) = pieces(CALLS)
    response = (await chunks(CALLS)).whole([piece])
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == len(
        token_ids(CALLS[: CALLS.index("</think>") + len("</think>")])
    )
    _, message, *_ = response["output"]
    begin = len(token_ids(CALLS[: CALLS.index("I look")]))
    places = range(begin, begin + len(token_ids("I look it up. 😀")))
    assert [token["logprob"] for token in message["content"][0]["logprobs"]] == [-float(place) for place in places]


async def test_an_answer_that_ends_early_is_incomplete() -> None:
    for reason, details in ((FinishReason.LENGTH, {"reason": "max_output_tokens"}), (FinishReason.ABORTED, None)):
        (piece,) = pieces("<think>Hm", reason=reason)
        response = (await chunks("<think>Hm", has_logprobs=False)).whole([piece])
        assert (response["status"], response["incomplete_details"]) == ("incomplete", details)
        assert [item["status"] for item in response["output"]] == ["incomplete"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("no executor"), "server_error"),
        (Overloaded("full", 1.0), "rate_limit_exceeded"),
        (InvalidRequest("text", "a", "must compile"), "invalid_prompt"),
    ],
)
async def test_an_answer_that_fails(error: RequestError, code: str) -> None:
    rendered = await chunks("Good day", has_logprobs=False)
    begun = rendered.event(0, Completion("Good", (1,), None, None, None, "r"))
    *_, failed = told(begun + rendered.failure(refusal(error)))
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["code"] == code
    assert failed["response"]["output"][0]["content"][0]["text"] == "Good"
