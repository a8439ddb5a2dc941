"""Beam search over ordinary requests: each step asks for one token behind every live beam.

The prefix cache makes that cheap: what a beam has in full blocks is never computed again.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from quire.engine.api.beam_search import BeamSearchParams
from quire.engine.api.completion import Completion, FinishReason, Usage
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.options import PromptParams, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.beam_search import Beam, BeamSearch
from quire.engine.text.output import OutputText
from quire.engine.text.tokenizer import Tokenizer

# Prompts, how to sample behind each, and the options of all; the answers come in the same order.
Ask = Callable[[Sequence[Int32Array], SamplingParams, RequestOptions], Awaitable[Sequence[Completion]]]


async def beam_answers(
    prompt: Int32Array,
    params: BeamSearchParams,
    max_tokens: int,
    options: RequestOptions,
    eos_token_ids: Iterable[int],
    tokenizer: Tokenizer,
    ask: Ask,
) -> list[Completion]:
    """The answers of beam search, the best first.

    Args:
        prompt: token ids, int32, shape (num_prompt,).
        params: validated.
        max_tokens: of an answer.
        options: of the search; its deadline is that of all steps together.
        eos_token_ids: the model's own end tokens.
        ask: answers a step's requests. An aborted one ends the search with what there is.

    Raises:
        RequestError: a request of a step failed.
    """
    search = BeamSearch(params, max_tokens, eos_token_ids)
    num_top = max(search.num_candidates, params.logprobs or 0)
    # The token that comes is looked up among the most likely ones.
    step = SamplingParams(temperature=0.0, max_tokens=1, seed=0, ignore_eos=True, logprobs=num_top)
    usage: Usage | None = None
    begun = time.monotonic()
    while not search.is_over:
        beams = [np.array(beam.token_ids, np.int32) for beam in search.live]
        found = await ask([np.concatenate((prompt, beam)) for beam in beams], step, _left(options, begun))
        usage = usage or found[0].usage
        if any(each.finish_reason is FinishReason.ABORTED for each in found):
            search.abort()
        else:
            search.advance([each.logprobs[0] for each in found])
    assert usage is not None
    answers = [_completion(beam, params, usage, tokenizer) for beam in search.answers]
    return [replace(answer, index=index) for index, answer in enumerate(answers)]


def _left(options: RequestOptions, begun: float) -> RequestOptions:
    """Options of a step. Nothing is cut from a beam, whatever was cut from the prompt."""
    deadline_ms = options.deadline_ms
    if deadline_ms is not None:
        deadline_ms = max(1, deadline_ms - int((time.monotonic() - begun) * 1000))
    return replace(options, prompt=PromptParams(), deadline_ms=deadline_ms)


def _completion(beam: Beam, params: BeamSearchParams, first: Usage, tokenizer: Tokenizer) -> Completion:
    """An answer; `first` is what the first step took, whose prompt is that of the search."""
    is_stopped = beam.finish_reason is FinishReason.STOP
    return Completion(
        text=OutputText(tokenizer, params.sampling).finish(beam.token_ids, by_stop_token=is_stopped),
        token_ids=beam.token_ids,
        finish_reason=beam.finish_reason,
        matched_stop=beam.token_ids[-1] if is_stopped else None,
        usage=Usage(first.prompt_tokens, first.cached_tokens, len(beam.token_ids)),
        request_id="",
        logprobs=() if params.logprobs is None else tuple(_cut(each, params.logprobs) for each in beam.logprobs),
        cumulative_logprob=beam.cumulative_logprob,
    )


def _cut(logprobs: TokenLogprobs, num_top: int) -> TokenLogprobs:
    return TokenLogprobs(logprobs.logprob, logprobs.top_token_ids[:num_top], logprobs.top_logprobs[:num_top])
