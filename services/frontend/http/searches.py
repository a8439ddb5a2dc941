"""The beam searches that one HTTP request asks for: one for each of its prompts."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from quire.engine.api.beam_search import BeamSearchParams
from quire.engine.api.completion import Completion
from quire.engine.api.errors import InvalidRequest
from quire.engine.arrays import Int32Array
from quire.services.frontend.beam_search import run_search
from quire.services.frontend.http.disconnect import while_connected
from quire.services.frontend.http.request_ids import open_id
from quire.services.frontend.inference import MAX_CHOICES, Inference, PreparedRequest


@dataclass(frozen=True, slots=True, eq=False)
class SearchAnswer:
    """One answer of a search, and what it answers.

    Attributes:
        request_id: of the search.
        prompt: token ids, int32, shape (num_prompt,).
        completion: the answer.
    """

    request_id: str
    prompt: Int32Array
    completion: Completion

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt found in the cache at the first step."""
        return self.completion.usage.cached_tokens if self.completion.usage else None


async def search_all(
    inference: Inference, request: Request, prepared: Sequence[PreparedRequest], params: BeamSearchParams, n: int
) -> list[list[SearchAnswer]]:
    """To each prompt the best `n` answers, the best first; fewer if nothing else is likely.

    Args:
        request: if its client goes, nothing more is computed.

    Raises:
        RequestError: one search is refused or fails.
        ClientDisconnect: the client has left.
    """
    if len(prepared) * params.beam_width > MAX_CHOICES:
        limit = f"must be at most {MAX_CHOICES // params.beam_width} with {params.beam_width} beams of each"
        raise InvalidRequest("prompt", len(prepared), limit)
    async with while_connected(request):
        searches = [asyncio.create_task(run_search(inference, each, params, open_id(request))) for each in prepared]
        try:
            found = await asyncio.gather(*searches)
        finally:
            for search in searches:
                search.cancel()
            await asyncio.gather(*searches, return_exceptions=True)
    return [
        [SearchAnswer(answer.request_id, each.prompt, answer) for answer in answers[:n]]
        for each, answers in zip(prepared, found, strict=True)
    ]
