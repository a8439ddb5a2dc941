"""Gives the rows of a result to the sequences that they belong to."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.completion import FinishReason
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.embeddings import PackedEmbeddings
from quire.engine.logprobs import PackedLogprobs, PackedPromptLogprobs
from quire.engine.scheduled_step import ScheduledStep
from quire.engine.scheduling.step_output import StepOutput
from quire.engine.sequence import Sequence, SequenceState
from quire.engine.step import SlotFailure, StepResult


class ResultReader:
    """Reads results of steps. It knows slots and sequences, neither blocks nor steps to come.

    Args:
        by_slot: the sequence of each slot, or None; changed by its owner.
        retire: takes a sequence out of the steps to come. It is called while the sequence's state is still the old one.
    """

    def __init__(self, by_slot: list[Sequence | None], retire: Callable[[Sequence], None]) -> None:
        self._by_slot = by_slot
        self._retire = retire

    def read(self, step: ScheduledStep, result: StepResult) -> StepOutput:
        """Appends the tokens to their sequences, and ends those that are complete or failed."""
        output = StepOutput(started=_complete(step))
        if result.prompt_logprobs is not None:
            output.prompt_logprobs = self._of_prompts(result.prompt_logprobs)
        for failure in result.failures:
            self._fail(failure, output)
        if result.embeddings is not None:
            output.embeddings = self._embedded(result.embeddings)
        self._take_tokens(result, output)
        if result.logprobs is not None:
            output.logprobs = self._owned(result.logprobs, output.sequences)
        return output

    def _take_tokens(self, result: StepResult, output: StepOutput) -> None:
        """Gives every row's token to its sequence. This loop runs once per token served: no calls in it."""
        by_slot, finished = self._by_slot, SequenceState.FINISHED
        sequences, token_ids = output.sequences, output.token_ids
        for slot, token in zip(result.slots.tolist(), result.token_ids.tolist(), strict=True):
            sequence = by_slot[slot]
            # A row planned before its sequence's end was known is dropped.
            if sequence is None or sequence.state is finished:
                continue
            tokens = sequence.tokens
            tokens.append(token)
            sequences.append(sequence)
            token_ids.append(token)
            if token in sequence.stop_ids or len(tokens) >= sequence.max_len:
                self._retire(sequence)
                sequence.finish_if_complete()
                output.finished.append(sequence)

    def _fail(self, failure: SlotFailure, output: StepOutput) -> None:
        """Ends a sequence that the executor cannot go on with, unless it has ended."""
        sequence = self._by_slot[failure.slot]
        if sequence is not None and not sequence.is_finished:
            self._retire(sequence)
            sequence.finish(FinishReason.ABORTED)
            output.refused.append((sequence, failure.error))

    def _owned(self, logprobs: PackedLogprobs, sequences: list[Sequence]) -> list[tuple[Sequence, TokenLogprobs]]:
        """Log-probabilities of the sequences that were given their token."""
        by_slot, given = self._by_slot, set(sequences)
        found = ((by_slot[slot], each) for slot, each in logprobs.unpack())
        return [(sequence, each) for sequence, each in found if sequence in given]

    def _of_prompts(self, logprobs: PackedPromptLogprobs) -> list[tuple[Sequence, int, TokenLogprobs]]:
        found = ((self._by_slot[slot], position, each) for slot, position, each in logprobs.unpack())
        return [(owner, position, each) for owner, position, each in found if owner and not owner.is_finished]

    def _embedded(self, embeddings: PackedEmbeddings) -> list[tuple[Sequence, NDArray[np.float32]]]:
        found = ((self._by_slot[slot], embedding) for slot, embedding in embeddings.unpack())
        return [(owner, embedding) for owner, embedding in found if owner and not owner.is_finished]


def _complete(step: ScheduledStep) -> list[Sequence]:
    """Sequences whose last chunk of context this was, unless they have ended."""
    sequences = (chunk.sequence for chunk in step.chunks if chunk.end == chunk.sequence.num_context)
    return [sequence for sequence in sequences if not sequence.is_finished]
