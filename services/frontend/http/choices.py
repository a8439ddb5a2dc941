"""The requests that one HTTP request asks for: so many answers to each of its prompts."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext

from starlette.requests import Request

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.open_request import OpenRequest
from quire.engine.text.tokenizer import LONG_TEXT
from quire.services.frontend.http.disconnect import while_connected
from quire.services.frontend.http.request_ids import open_id
from quire.services.frontend.inference import MAX_CHOICES, Inference, PreparedRequest


async def prepare_all(
    inference: Inference,
    request: Request,
    prompts: Sequence[tuple[str, str | list[int]]],
    params: SamplingParams,
    options: RequestOptions,
    *,
    fills_context: bool = False,
) -> list[PreparedRequest]:
    """Tokenizes and checks every prompt.

    Args:
        prompts: each with its name for refusals.
        fills_context: without `max_tokens` an answer may be as long as context and pool allow.

    Raises:
        RequestError: one is refused.
        ClientDisconnect: the client has left.
    """
    prepared = []
    for field, prompt in prompts:
        takes_long = isinstance(prompt, str) and len(prompt) >= LONG_TEXT
        async with while_connected(request) if takes_long else nullcontext():
            prepared.append(
                await inference.prepare(prompt, params, field=field, options=options, fills_context=fills_context)
            )
        # Many short prompts take as long as a long one.
        await asyncio.sleep(0)
    return prepared


def open_choices(
    inference: Inference,
    request: Request,
    prepared: Sequence[PreparedRequest],
    num_choices: int = 1,
    *,
    whole: bool = False,
) -> list[OpenRequest]:
    """Opens all, or none; the choices of one prompt follow one another, each with the seed behind the one before.

    A prompt is computed once: the scheduler starts the others when its blocks are there to share.

    Args:
        request: whose id is theirs.
        num_choices: of every prompt.
        whole: the answers will be given in one piece.

    Raises:
        RequestError: one is refused.
    """
    if len(prepared) * num_choices > MAX_CHOICES:
        limit = f"must be at most {MAX_CHOICES // len(prepared)} with {len(prepared)} prompts"
        raise InvalidRequest("n", num_choices, limit)
    return inference.open_choices([(each, open_id(request)) for each in prepared], num_choices, whole=whole)
