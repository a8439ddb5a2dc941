"""One request as its client sees it: tokens from the scheduler made into pieces of a completion."""

from collections.abc import AsyncGenerator

from quire.engine.api.completion import Completion, FinishReason, Usage
from quire.engine.open_request import Finish, OpenRequest
from quire.engine.text.output import OutputText
from quire.engine.text.tokenizer import Tokenizer


class Pieces:
    """Pieces until the request ends, by itself or by a stop string. The caller closes the request.

    Attributes:
        is_over: the last piece has been taken.
    """

    def __init__(self, request: OpenRequest, tokenizer: Tokenizer) -> None:
        self._request = request
        self._text = OutputText(tokenizer, request.params)
        self._cumulative_logprob = 0.0 if request.params.logprobs is not None else None
        self.is_over = False

    def take(self) -> Completion:
        """What has come since the last call.

        Raises:
            RequestError: it failed.
        """
        request, text = self._request, self._text
        token_ids = request.take()
        num_before, finish = text.num_tokens, request.finish
        if finish is None:
            piece = text.push(token_ids)
        else:
            piece = text.finish(token_ids, by_stop_token=finish.stop_token_id is not None)
        if text.matched is not None:
            finish = Finish(FinishReason.STOP)
            request.end(finish)
        self.is_over = finish is not None
        num_new = text.num_tokens - num_before
        logprobs = request.take_logprobs(num_new)
        if self._cumulative_logprob is not None:
            self._cumulative_logprob += sum(each.logprob for each in logprobs)
        return Completion(
            text=piece,
            token_ids=tuple(token_ids[:num_new]),
            finish_reason=finish.reason if finish else None,
            matched_stop=text.matched if text.matched is not None else finish.stop_token_id if finish else None,
            usage=_usage(request, text.num_tokens) if finish else None,
            request_id=request.request_id,
            logprobs=logprobs,
            prompt_logprobs=request.take_prompt_logprobs(),
            embedding=request.embedding if finish else (),
            cumulative_logprob=self._cumulative_logprob if finish else None,
        )

    async def follow(self) -> AsyncGenerator[Completion, None]:
        """Each piece as it comes; raises as `take` does."""
        while not self.is_over:
            await self._request.wait()
            yield self.take()


def _usage(request: OpenRequest, num_tokens: int) -> Usage:
    return Usage(len(request.prompt), request.cached_tokens or 0, num_tokens)
