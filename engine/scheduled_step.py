"""One step as the scheduler made it, before it becomes a plan and after its result came."""

from dataclasses import dataclass, field

import numpy as np

from quire.engine.api.errors import InvalidRequest
from quire.engine.arrays import Int32Array
from quire.engine.sequence import Sequence
from quire.engine.step import StepResult


@dataclass(frozen=True, slots=True)
class ContextChunk:
    """Context tokens [start, end) of a sequence, to be computed in one step."""

    sequence: Sequence
    start: int
    end: int


@dataclass(slots=True)
class ScheduledStep:
    """Who runs in a step, and what resource managers did for it.

    Attributes:
        number: consecutive on its executor.
        starts: sequences that take a slot in this step; each has a chunk below.
        chunks: context, in the plan's order.
        generation: slots that generate, int32, in the plan's order.
        growing: of these, the sequences whose token begins a new block.
        copies: (source, destination) blocks; the KV cache manager's.
        appended: [slot, block, …] that a running sequence got, one block for each cache group; the KV cache manager's.
        filled: (sequence, tokens with complete KV) where blocks became full; set when the result is in.
    """

    number: int
    starts: list[Sequence]
    chunks: list[ContextChunk]
    generation: Int32Array
    growing: list[Sequence]
    copies: list[tuple[int, int]] = field(default_factory=list)
    appended: list[list[int]] = field(default_factory=list)
    filled: list[tuple[Sequence, int]] = field(default_factory=list)

    def check(self, result: StepResult) -> None:
        """Raises `InvalidRequest` unless it is this step's result: one row for every slot that samples, in order."""
        if result.step != self.number:
            raise InvalidRequest("result.step", result.step, f"must be {self.number}, the oldest in flight")
        sampling = [each.sequence.slot for each in self.chunks if each.end == each.sequence.num_context]
        expected = np.concatenate((np.array(sampling, np.int32), self.generation)) if sampling else self.generation
        if not np.array_equal(result.slots, expected):
            raise InvalidRequest("result.slots", result.slots.tolist(), f"must be {expected.tolist()}")
        if result.prompt_logprobs is not None:
            self._check_owners("prompt_logprobs.entries.owners", result.prompt_logprobs.entries.owners)
        if result.embeddings is not None:
            self._check_owners("embeddings.owners", result.embeddings.owners)

    def _check_owners(self, field: str, owners: Int32Array) -> None:
        if strangers := set(owners.tolist()) - {chunk.sequence.slot for chunk in self.chunks}:
            limit = "must be slots that compute context in this step"
            raise InvalidRequest(f"result.{field}", sorted(strangers), limit)

    @property
    def num_context_tokens(self) -> int:
        return sum(chunk.end - chunk.start for chunk in self.chunks)
