"""The JSON of completions: whole, and as server-sent events. One event per piece, and little work for each."""

import json
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from quire.engine.api.completion import Completion, FinishReason, Usage
from quire.services.frontend.http.answered import Answered
from quire.services.frontend.http.completion_body import CompletionWishes
from quire.services.frontend.http.errors import Refusal
from quire.services.frontend.http.logprobs import ChoiceLogprobs, prompt_logprobs_json
from quire.services.frontend.http.usage import ChunkUsage, StreamUsage, usage_body
from quire.services.frontend.inference import Inference

DONE = b"data: [DONE]\n\n"
FINISH_REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.ABORTED: "abort"}
to_json = json.JSONEncoder(separators=(",", ":")).encode


class CompletionChunks:
    """Renders the answers to one request of the completions API.

    Args:
        inference: names model and tokens.
        requests: one for each answer to the first prompt, then to the second, and so on.
        wishes: what the answer is to have.
        echoes: the text of each prompt, where it is to be echoed.
        num_answers: to each prompt; None: `wishes.best_of` to each.
        adapter: that answers; "": the model alone.
    """

    def __init__(
        self,
        inference: Inference,
        requests: Sequence[Answered],
        wishes: CompletionWishes,
        echoes: Sequence[str] = (),
        num_answers: Sequence[int] | None = None,
        adapter: str = "",
    ) -> None:
        self._requests = requests
        self._wishes = wishes
        counts = num_answers or [wishes.best_of] * (len(requests) // wishes.best_of)
        self._firsts = {0, *accumulate(counts)}
        self._echoes = [echo for echo, count in zip(echoes, counts, strict=bool(echoes)) for _ in range(count)]
        self._tokenizer = inference.tokenizer
        before = self._echoes or [""] * len(requests)
        self._logprobs = [ChoiceLogprobs(self._tokenizer, each) for each in before] if wishes.has_logprobs else []
        # Answers whose first event has been written.
        self._begun: set[int] = set()
        self._usages: dict[int, Usage] = {}
        self._frame = {
            "id": f"cmpl-{requests[0].request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": adapter or inference.model,
        }
        # What is the same in every event is encoded once.
        self._head = f"data: {to_json(self._frame)[:-1]},"
        self._chunk_usage = ChunkUsage(requests, wishes.stream_usage)

    def event(self, index: int, piece: Completion) -> bytes:
        """The event for a piece of answer `index`."""
        if piece.finish_reason is None:
            end = 'null,"stop_reason":null'
        else:
            end = f'"{FINISH_REASONS[piece.finish_reason]}","stop_reason":{to_json(piece.matched_stop)}'
        if piece.usage is not None:
            self._usages[index] = piece.usage
        is_first = index not in self._begun
        self._begun.add(index)
        logprobs = to_json(self._logprobs_of(index, piece, is_first))
        text = self._echo(index) + piece.text if is_first else piece.text
        extras = self._extras(index, piece, is_first)
        more = f",{to_json(extras)[1:-1]}" if extras else ""
        return (
            f'{self._head}"choices":[{{"index":{index},"text":{to_json(text)},"logprobs":{logprobs},'
            f'"finish_reason":{end}{more}}}]{self._chunk_usage.tail(index, piece)}'
        ).encode()

    def end(self) -> bytes:
        """The event that only says what the request took, if it is wanted, and the end."""
        if self._wishes.stream_usage is StreamUsage.NOWHERE:
            return DONE
        return f'{self._head}"choices":[],"usage":{to_json(self._usage(self._usages))}}}\n\n'.encode() + DONE

    def failure(self, error: Refusal) -> bytes:
        """The event for an error after the answer has begun, and the end."""
        return error_event(error) + DONE

    def whole(self, answers: Sequence[Completion]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = [self._choice(index, answers[index]) for index in self._chosen(answers)]
        usages = {index: answer.usage for index, answer in enumerate(answers) if answer.usage is not None}
        numbered = [{"index": index, **choice} for index, choice in enumerate(choices)]
        return {**self._frame, "choices": numbered, "usage": self._usage(usages)}

    def _choice(self, index: int, answer: Completion) -> dict[str, Any]:
        return {
            "text": self._echo(index) + answer.text,
            "logprobs": self._logprobs_of(index, answer, True),
            "finish_reason": FINISH_REASONS[answer.finish_reason] if answer.finish_reason else None,
            "stop_reason": answer.matched_stop,
            **self._extras(index, answer, True),
        }

    def _chosen(self, answers: Sequence[Completion]) -> list[int]:
        """Of each prompt's answers the best, by the mean log-probability of their tokens; the earlier of equal ones."""
        n, best_of = self._wishes.n, self._wishes.best_of
        if not self._wishes.is_choosing:
            return list(range(len(answers)))
        chosen: list[int] = []
        for first in range(0, len(answers), best_of):
            ranked = sorted(range(first, first + best_of), key=lambda index: -_mean_logprob(answers[index]))
            chosen += ranked[:n]
        return chosen

    def _echo(self, index: int) -> str:
        return self._echoes[index] if self._echoes else ""

    def _logprobs_of(self, index: int, piece: Completion, is_first: bool) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        echoed = self._requests[index].prompt.tolist() if is_first and self._echoes else ()
        return self._logprobs[index].of(piece, echoed)

    def _extras(self, index: int, piece: Completion, is_first: bool) -> dict[str, Any]:
        """Fields that OpenAI's API has not; those of the prompt come with the first piece."""
        extras: dict[str, Any] = {}
        if not (self._wishes.has_token_ids or self._wishes.has_prompt_logprobs):
            return extras
        prompt = self._requests[index].prompt.tolist() if is_first else []
        if self._wishes.has_token_ids:
            extras = {"prompt_token_ids": prompt} if is_first else {}
            extras["token_ids"] = piece.token_ids
        if self._wishes.has_prompt_logprobs and is_first:
            extras["prompt_logprobs"] = prompt_logprobs_json(prompt, piece.prompt_logprobs, self._tokenizer)
        return extras

    def _usage(self, usages: Mapping[int, Usage]) -> dict[str, Any]:
        """Tokens of a prompt count once, however many answers it has."""
        firsts = [usage for index, usage in usages.items() if index in self._firsts]
        return usage_body(firsts, sum(usage.generated_tokens for usage in usages.values()))


def error_event(error: Refusal) -> bytes:
    """The event for an error after the answer has begun."""
    return f"data: {to_json(error.body)}\n\n".encode()


def _mean_logprob(answer: Completion) -> float:
    return sum(each.logprob for each in answer.logprobs) / max(1, len(answer.logprobs))
