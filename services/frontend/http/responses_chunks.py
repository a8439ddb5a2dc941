"""The JSON of the Responses API: whole, and as its typed server-sent events."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from quire.engine.api.completion import Completion, FinishReason, Usage
from quire.engine.chat.chat_prompt import ChatPrompt
from quire.engine.open_request import OpenRequest
from quire.engine.text.tokenizer import Tokenizer
from quire.services.frontend.http.chunks import to_json
from quire.services.frontend.http.errors import Refusal
from quire.services.frontend.http.responses_items import Event
from quire.services.frontend.http.responses_output import ResponsesOutput, Token
from quire.services.frontend.http.responses_tokens import TokenTexts, count_reasoning

_ERROR_CODES: Final = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


class ResponsesChunks:
    """Renders the answer to one request.

    Args:
        request: as opened; log-probabilities are given if it has them.
        model: as served.
        prompt: says how to read the answer.
        echo: further fields of the response, which say what was asked for; JSON.
        tokenizer: the model's.
    """

    def __init__(
        self, request: OpenRequest, model: str, prompt: ChatPrompt, echo: Mapping[str, Any], tokenizer: Tokenizer
    ) -> None:
        self._reader = prompt.reader()
        self._output = ResponsesOutput(request.request_id)
        self._tokenizer = tokenizer
        params = request.params
        self._texts = TokenTexts(tokenizer, params.skip_special_tokens) if params.logprobs is not None else None
        self._generated = request.generated
        self._num_sent = 0
        self._usage: Usage | None = None
        self._reason: FinishReason | None = None
        self._frame = {
            "id": f"resp_{request.request_id}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            **echo,
        }

    def event(self, index: int, piece: Completion) -> bytes:
        """Events for a piece of the answer; empty while its text is held back."""
        events = self._encoded(self._begin() if self._num_sent == 0 else ())
        return events + self._encoded(self._read(piece))

    def end(self) -> bytes:
        """The event with the whole response."""
        status = self._status()
        return self._encoded([{"type": f"response.{status}", "response": self._response(status)}])

    def failure(self, error: Refusal) -> bytes:
        """The event for an error after the answer has begun, with what has come of it."""
        code = _ERROR_CODES.get(error.status, "server_error")
        response = {**self._response("failed"), "error": {"code": code, "message": error.message}}
        return self._encoded([{"type": "response.failed", "response": response}])

    def whole(self, answers: Sequence[Completion]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        (answer,) = answers
        for _ in self._read(answer):
            pass
        return self._response(self._status())

    def _begin(self) -> Iterator[Event]:
        for status in ("created", "in_progress"):
            yield {"type": f"response.{status}", "response": self._response("in_progress")}

    def _read(self, piece: Completion) -> Iterator[Event]:
        """Events of what a piece adds to the output."""
        rest = piece.text
        if self._texts is not None:
            for text, logprob in self._texts.push(piece):
                yield from self._output.push(self._reader.push(text), Token(len(text), logprob))
            rest = self._texts.rest() if piece.finish_reason else ""
        yield from self._output.push(self._reader.finish(rest) if piece.finish_reason else self._reader.push(rest))
        if piece.finish_reason is not None:
            self._usage, self._reason = piece.usage, piece.finish_reason
            yield from self._output.end(self._status())

    def _status(self) -> Any:
        return "completed" if self._reason is FinishReason.STOP else "incomplete"

    def _response(self, status: str) -> dict[str, Any]:
        is_cut = self._reason is FinishReason.LENGTH
        return {
            **self._frame,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": self._output.as_json(),
            "usage": self._usage and self._usage_json(self._usage),
        }

    def _usage_json(self, usage: Usage) -> dict[str, Any]:
        has_reasoning = self._output.has_reasoning
        num_reasoning = count_reasoning(self._generated, self._tokenizer) if has_reasoning else 0
        return {
            "input_tokens": usage.prompt_tokens,
            # Of writes that are paid for there are none.
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.generated_tokens,
            "output_tokens_details": {"reasoning_tokens": num_reasoning},
            "total_tokens": usage.prompt_tokens + usage.generated_tokens,
        }

    def _encoded(self, events: Iterable[Event]) -> bytes:
        parts = []
        for event in events:
            numbered = {**event, "sequence_number": self._num_sent}
            parts.append(f"event: {event['type']}\ndata: {to_json(numbered)}\n\n")
            self._num_sent += 1
        return "".join(parts).encode()
