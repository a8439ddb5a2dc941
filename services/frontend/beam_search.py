"""Beam search on the frontend: one request that is open for its client, and those of its steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from quire.engine.api.beam_search import BeamSearchParams
from quire.engine.api.completion import Completion, FinishReason
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.open_request import Finish, OpenRequest
from quire.engine.text.beam_answers import beam_answers
from quire.engine.text.pieces import Pieces
from quire.services.frontend.call import current_call
from quire.services.frontend.inference import Inference, PreparedRequest


async def run_search(
    inference: Inference, request: PreparedRequest, params: BeamSearchParams, request_id: str = ""
) -> list[Completion]:
    """The answers, the best first. Cancelled, it computes nothing more; aborted, it gives what it has.

    Args:
        request: with `params.sampling`.
        params: validated.
        request_id: the client's name for it; "": one is made.

    Raises:
        RequestError: it is refused or fails.
    """
    # Its deadline ends it, and so its steps, which are too many for its trace.
    options = replace(request.options, deadline_ms=None, trace=None)
    held = inference.hold(request, request_id)
    try:
        steps = _Steps(inference, held)
        held.notify(steps.end)
        max_tokens, eos_token_ids = held.params.max_tokens, inference.state.eos_token_ids
        assert max_tokens is not None
        answers = await beam_answers(
            held.prompt, params, max_tokens, options, eos_token_ids, inference.tokenizer, steps.ask
        )
        held.take()
        answers = [replace(answer, request_id=held.request_id) for answer in answers]
        if (span := current_call().span) is not None:
            for answer in answers:
                span.take(answer)
        return answers
    finally:
        inference.close(held)


@dataclass(slots=True)
class _Steps:
    """Asks what a search wants to know, until the request that is held for it is over."""

    inference: Inference
    held: OpenRequest
    opened: list[OpenRequest] = field(default_factory=list)

    async def ask(
        self, prompts: Sequence[Int32Array], params: SamplingParams, options: RequestOptions
    ) -> list[Completion]:
        """The end of each request; raises what one of them, or that which is held, has failed with."""
        self.held.take()
        self.opened = [self.inference.open_step(self.held, prompt, params, options) for prompt in prompts]
        try:
            if self.held.is_over:
                self.end()
            found = []
            for step in self.opened:
                await step.wait()
                found.append(Pieces(step, self.inference.tokenizer).take())
            return found
        finally:
            for step in self.opened:
                self.inference.withdraw(step)

    def end(self) -> None:
        """That which is held was aborted, or failed."""
        for step in self.opened:
            step.end(Finish(FinishReason.ABORTED))
