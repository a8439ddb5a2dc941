"""The JSON of chat completions: whole, and as server-sent events."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from quire.engine.api.completion import Completion, FinishReason, Usage
from quire.engine.api.version import __version__
from quire.engine.chat.answer import AnswerReader, join_deltas
from quire.engine.chat.chat_prompt import ChatPrompt
from quire.engine.chat.delta import CallDelta, ContentDelta, Delta, ReasoningDelta
from quire.engine.chat.message import Message
from quire.services.frontend.http.answered import Answered
from quire.services.frontend.http.chat_logprobs import ChatLogprobs
from quire.services.frontend.http.chunks import DONE, FINISH_REASONS, error_event, to_json
from quire.services.frontend.http.errors import Refusal
from quire.services.frontend.http.usage import ChunkUsage, StreamUsage, usage_body


class ChatChunks:
    """Renders the answers to one request of the chat API.

    Args:
        requests: all to the one prompt.
        model: as served.
        prompt: says how to read the answers.
        stream_usage: where a stream says what it took.
        logprobs: writes them; None if none were asked for.
    """

    def __init__(
        self,
        requests: Sequence[Answered],
        model: str,
        prompt: ChatPrompt,
        stream_usage: StreamUsage,
        logprobs: ChatLogprobs | None = None,
    ) -> None:
        self._readers = [prompt.reader() for _ in requests]
        self._is_first = [True] * len(requests)
        self._logprobs = logprobs
        self._stream_usage = stream_usage
        self._chunk_usage = ChunkUsage(requests, stream_usage)
        self._usages: list[Usage] = []
        self._frame = {
            "id": f"chatcmpl-{requests[0].request_id}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"quire-{__version__}",
        }
        # What is the same in every event is encoded once.
        chunk = {**self._frame, "object": "chat.completion.chunk"}
        self._head = f"data: {to_json(chunk)[:-1]},"

    def event(self, index: int, piece: Completion) -> bytes:
        """The event for a piece of answer `index`; empty while its text is held back."""
        if piece.usage is not None:
            self._usages.append(piece.usage)
        tail = self._chunk_usage.tail(index, piece)
        reader = self._readers[index]
        is_last = piece.finish_reason is not None
        delta = _delta_json(reader.finish(piece.text) if is_last else reader.push(piece.text))
        logprobs = self._logprobs.of(piece) if self._logprobs else None
        if self._is_first[index]:
            self._is_first[index] = False
            delta = {"role": "assistant", "content": "", **delta}
        elif not (delta or is_last or logprobs):
            return b""
        end = f'"{_reason(piece, reader)}","stop_reason":{to_json(piece.matched_stop)}' if is_last else "null"
        return (
            f'{self._head}"choices":[{{"index":{index},"delta":{to_json(delta)},"logprobs":{to_json(logprobs)},'
            f'"finish_reason":{end}}}]{tail}'
        ).encode()

    def end(self) -> bytes:
        """The event that only says what the request took, if it is wanted, and the end."""
        if self._stream_usage is StreamUsage.NOWHERE:
            return DONE
        return f'{self._head}"choices":[],"usage":{to_json(_usage_json(self._usages))}}}\n\n'.encode() + DONE

    def failure(self, error: Refusal) -> bytes:
        """The event for an error after the answer has begun, and the end."""
        return error_event(error) + DONE

    def whole(self, answers: Sequence[Completion]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = []
        for index, (answer, reader) in enumerate(zip(answers, self._readers, strict=True)):
            message = join_deltas(reader.finish(answer.text))
            choices.append(
                {
                    "index": index,
                    "message": _message_json(message),
                    "logprobs": self._logprobs.of(answer) if self._logprobs else None,
                    "finish_reason": _reason(answer, reader),
                    "stop_reason": answer.matched_stop,
                }
            )
        usages = [answer.usage for answer in answers if answer.usage is not None]
        return {**self._frame, "object": "chat.completion", "choices": choices, "usage": _usage_json(usages)}


def _usage_json(usages: Sequence[Usage]) -> dict[str, Any]:
    return usage_body(usages[:1], sum(usage.generated_tokens for usage in usages))


def _reason(answer: Completion, reader: AnswerReader) -> str | None:
    if answer.finish_reason is FinishReason.STOP and reader.has_calls:
        return "tool_calls"
    return FINISH_REASONS[answer.finish_reason] if answer.finish_reason else None


def _message_json(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "assistant", "content": message.content, "refusal": None}
    if message.reasoning is not None:
        found["reasoning_content"] = message.reasoning
    if message.tool_calls:
        found["tool_calls"] = message.as_json()["tool_calls"]
    return found


def _delta_json(deltas: Iterable[Delta]) -> dict[str, Any]:
    """All deltas of a piece as one."""
    found: dict[str, Any] = {}
    for delta in deltas:
        match delta:
            case ContentDelta(text):
                found["content"] = found.get("content", "") + text
            case ReasoningDelta(text):
                found["reasoning_content"] = found.get("reasoning_content", "") + text
            case CallDelta(index, call_id, name, arguments) if name:
                function = {"name": name, "arguments": arguments}
                call = {"index": index, "id": call_id, "type": "function", "function": function}
                found.setdefault("tool_calls", []).append(call)
            case CallDelta(index, _, _, arguments):
                call = {"index": index, "function": {"arguments": arguments}}
                found.setdefault("tool_calls", []).append(call)
    return found
