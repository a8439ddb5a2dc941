"""The JSON of completions: whole, and as server-sent events. One event per piece, and little work for each."""

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from quire.engine.api.completion import Completion, FinishReason, Usage
from quire.services.frontend.http.errors import Refusal
from quire.services.frontend.http.logprobs import ChoiceLogprobs

DONE = b"data: [DONE]\n\n"
REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.ABORTED: "abort"}
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class Chunks(Protocol):
    """Writes the answer to one HTTP request in the form of one API."""

    def event(self, index: int, piece: Completion) -> bytes:
        """The event for a piece of answer `index`; empty if it says nothing yet."""
        ...

    def usage_event(self, usages: Iterable[Usage]) -> bytes:
        """The event that only says what the request took."""
        ...

    def whole(self, answers: Sequence[Completion]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        ...


class CompletionChunks:
    """Writes the answer to one HTTP request.

    Args:
        request_id: without the API's prefix.
        model: as served.
        includes_usage: a stream ends with the usage; every other chunk then says that it has none.
        logprobs: of each prompt's answer; empty if none were asked for.
    """

    def __init__(
        self, request_id: str, model: str, includes_usage: bool, logprobs: Sequence[ChoiceLogprobs] = ()
    ) -> None:
        self._logprobs = logprobs
        self._frame = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        # What is the same in every event is encoded once.
        self._head = f"data: {_to_json(self._frame)[:-1]},"
        self._tail = ',"usage":null}\n\n' if includes_usage else "}\n\n"

    def event(self, index: int, piece: Completion) -> bytes:
        """The event for a piece of the answer to prompt `index`."""
        if piece.finish_reason is None:
            end = 'null,"stop_reason":null'
        else:
            end = f'"{REASONS[piece.finish_reason]}","stop_reason":{_to_json(piece.matched_stop)}'
        logprobs = _to_json(self._logprobs[index].of(piece)) if self._logprobs else "null"
        return (
            f'{self._head}"choices":[{{"index":{index},"text":{_to_json(piece.text)},"logprobs":{logprobs},'
            f'"finish_reason":{end}}}]{self._tail}'
        ).encode()

    def usage_event(self, usages: Iterable[Usage]) -> bytes:
        """The event that only says what the request took."""
        return f'{self._head}"choices":[],"usage":{_to_json(usage_json(usages))}}}\n\n'.encode()

    def whole(self, answers: Sequence[Completion]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = [
            {
                "index": index,
                "text": answer.text,
                "logprobs": self._logprobs[index].of(answer) if self._logprobs else None,
                "finish_reason": REASONS[answer.finish_reason] if answer.finish_reason else None,
                "stop_reason": answer.matched_stop,
            }
            for index, answer in enumerate(answers)
        ]
        usages = [answer.usage for answer in answers if answer.usage is not None]
        return {**self._frame, "choices": choices, "usage": usage_json(usages)}


def error_event(error: Refusal) -> bytes:
    """The event for an error after the answer has begun."""
    return f"data: {_to_json(error.body)}\n\n".encode()


def usage_json(usages: Iterable[Usage]) -> dict[str, Any]:
    """What all answers together took."""
    prompt = cached = generated = 0
    for usage in usages:
        prompt += usage.prompt_tokens
        cached += usage.cached_tokens
        generated += usage.generated_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
