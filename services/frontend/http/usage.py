"""What a request took, as OpenAI's API says it: in the body of an answer, and in a stream's chunks."""

import json
from collections.abc import Sequence
from enum import Enum
from typing import Any

from quire.engine.api.completion import Completion, Usage
from quire.services.frontend.http.answered import Answered

_to_json = json.JSONEncoder(separators=(",", ":")).encode


class StreamUsage(Enum):
    """Where a stream says what it took."""

    NOWHERE = "nowhere"
    LAST_CHUNK = "last_chunk"
    """In a chunk without choices behind all others."""
    EVERY_CHUNK = "every_chunk"
    """Also in each chunk, of its choice so far."""


class ChunkUsage:
    """Ends a stream's chunks with what they say of usage.

    Args:
        requests: one for each choice.
        wanted: where usage is said.
    """

    def __init__(self, requests: Sequence[Answered], wanted: StreamUsage) -> None:
        self._requests = requests
        self._is_continuous = wanted is StreamUsage.EVERY_CHUNK
        self._generated = [0] * len(requests)
        self._tail = "}\n\n" if wanted is StreamUsage.NOWHERE else ',"usage":null}\n\n'

    def tail(self, index: int, piece: Completion) -> str:
        """What closes the chunk of a piece of answer `index`, and its event."""
        if not self._is_continuous:
            return self._tail
        request = self._requests[index]
        self._generated[index] += len(piece.token_ids)
        usage = Usage(len(request.prompt), request.cached_tokens or 0, self._generated[index])
        return f',"usage":{_to_json(usage_body([usage], usage.generated_tokens))}}}\n\n'


def usage_body(prompts: Sequence[Usage], num_generated: int) -> dict[str, Any]:
    """OpenAI's usage: of one answer to each prompt, and the tokens of all answers."""
    num_prompt = sum(usage.prompt_tokens for usage in prompts)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_generated,
        "total_tokens": num_prompt + num_generated,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in prompts)},
    }
