"""The scheduler of one executor: schedule a step, and update everything with its result."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from quire.engine.config import SchedulerConfig
from quire.engine.request import FinishReason, Int32Array, Request
from quire.engine.resources.base import ResourceManager
from quire.engine.resources.block_pool import BlockPool
from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.resources.prefix import chain_root
from quire.engine.resources.slots import SlotManager
from quire.engine.scheduling.capacity import GuaranteedNoEvict
from quire.engine.scheduling.generation import GenerationBatch
from quire.engine.scheduling.micro_batch import MicroBatchScheduler
from quire.engine.scheduling.queue import WaitingQueue
from quire.engine.scheduling.scheduled_step import ContextChunk, ScheduledStep
from quire.engine.scheduling.sequence import Sequence, SequenceState
from quire.engine.step import ExecutorInfo, SequenceStart, StepPlan, StepResult


@dataclass(slots=True)
class StepOutput:
    """What one result brought.

    Attributes:
        started: sequences whose context is complete, which is when `num_cached` is known.
        sequences, token_ids: of equal length, one new token each.
        finished: sequences that ended with this step, after their token above.
    """

    started: list[Sequence] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finished: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Plans steps for one executor, up to as many ahead of the results as its caller keeps in flight.

    Waiting → (capacity: may it hold blocks?) → context, in chunks → generation → finished; then it holds what
    it held until the steps in flight at that moment are over.

    Args:
        config: budgets and policy.
        info: the executor's.
        state: its pool as the ledger has it, with nothing held.
    """

    def __init__(self, config: SchedulerConfig, info: ExecutorInfo, state: PoolState) -> None:
        self._info = info
        self._waiting = WaitingQueue(config.max_waiting_requests)
        self._kv = KVCacheManager(BlockPool(state), info.block_size, chain_root(info.fingerprint))
        self._slots = SlotManager(min(info.num_slots, config.max_batch_size, config.max_num_tokens))
        self._resources: tuple[ResourceManager, ...] = (self._slots, self._kv)
        self._capacity = GuaranteedNoEvict(self._kv)
        self._micro_batch = MicroBatchScheduler(config.max_num_tokens, info.block_size)
        self._context: list[Sequence] = []
        self._generation = GenerationBatch(info.num_slots, info.block_size)
        self._in_flight: deque[ScheduledStep] = deque()
        self._retiring: deque[tuple[int, Sequence]] = deque()
        self._num_steps = 0
        self._num_sequences = 0

    @property
    def pool(self) -> BlockPool:
        return self._kv.pool

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences with a slot, those about to be freed included."""
        return self._slots.num_used

    @property
    def running(self) -> list[Sequence]:
        """Sequences with a slot, those about to be freed included."""
        return [sequence for sequence in self._slots.by_slot if sequence is not None]

    @property
    def num_in_flight(self) -> int:
        """Steps planned whose result has not come."""
        return len(self._in_flight)

    def add(self, request: Request) -> Sequence:
        """Queues a request that was validated against this executor's limits.

        One that comes with all its tokens generated is finished at once and never runs.

        Raises:
            Overloaded: too many wait.
        """
        stops = frozenset(request.params.stop_token_ids)
        if not request.params.ignore_eos:
            stops |= frozenset(self._info.eos_token_ids)
        self._num_sequences += 1
        sequence = Sequence(request, str(self._num_sequences), stops)
        if len(request.generated) and sequence.tokens[-1] in stops:
            sequence.finish(FinishReason.STOP, sequence.tokens[-1])
        elif len(sequence.tokens) >= sequence.max_len:
            sequence.finish(FinishReason.LENGTH)
        else:
            self._waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Ends a sequence without output; harmless if it has ended."""
        if sequence.state is SequenceState.WAITING:
            self._waiting.remove(sequence)
            sequence.finish(FinishReason.ABORTED)
        elif sequence.state is not SequenceState.FINISHED:
            self._finish(sequence, FinishReason.ABORTED)
            self._free_retired()

    def schedule(self) -> StepPlan | None:
        """Plans the next step; None if there is nothing to compute."""
        budget = self._micro_batch.budget(len(self._generation))
        starts = self._admit(budget - sum(sequence.num_context_left for sequence in self._context))
        chunks = self._micro_batch.chunks(budget, self._context + starts)
        if not chunks and not len(self._generation):
            return None
        growing = self._sequences_of(self._generation.growing())
        self._num_steps += 1
        step = ScheduledStep(self._num_steps, starts, chunks, self._generation.advance(), growing)
        for manager in self._resources:
            manager.prepare_resources(step)
        self._in_flight.append(step)
        plan = self._plan(step)
        self._progress(step)
        return plan

    def update(self, result: StepResult) -> StepOutput:
        """Takes in the result of the oldest step in flight: tokens, ends, full blocks, what can be freed."""
        step = self._in_flight.popleft()
        if result.step != step.number:
            raise ValueError(f"result of step {result.step} where that of step {step.number} is due")
        step.filled = self._filled(step)
        for manager in self._resources:
            manager.update_resources(step)
        output = StepOutput(started=_complete(step.chunks))
        by_slot = self._slots.by_slot
        for slot, token in zip(result.slots.tolist(), result.token_ids.tolist(), strict=True):
            sequence = by_slot[slot]
            # A row planned before its sequence's end was known is dropped.
            if sequence is None or sequence.state is SequenceState.FINISHED:
                continue
            sequence.tokens.append(token)
            output.sequences.append(sequence)
            output.token_ids.append(token)
            if token in sequence.stop_ids:
                self._finish(sequence, FinishReason.STOP, token)
                output.finished.append(sequence)
            elif len(sequence.tokens) >= sequence.max_len:
                self._finish(sequence, FinishReason.LENGTH)
                output.finished.append(sequence)
        self._free_retired()
        return output

    def take_transaction(self) -> LedgerTransaction:
        """What the ledger must have before the plan just made may leave."""
        return self._kv.pool.take_transaction()

    def evacuate(self) -> list[Sequence]:
        """Everything unfinished, oldest first, as it must start again elsewhere.

        Everything held is freed, whatever is in flight: the executor must be gone or reset before its blocks
        are given out again. This scheduler is void then.
        """
        held = self.running
        for sequence in held:
            for manager in self._resources:
                manager.free_resources(sequence)
        running = [sequence for sequence in held if sequence.state is not SequenceState.FINISHED]
        running.sort(key=lambda sequence: int(sequence.holder))
        sequences = [*running, *self._waiting]
        for sequence in sequences:
            sequence.restart()
        return sequences

    def restore(self, sequences: Iterable[Sequence]) -> None:
        """Queues sequences evacuated from another scheduler, before all that wait here."""
        restored = list(sequences)
        for sequence in restored:
            self._num_sequences += 1
            sequence.holder = str(self._num_sequences)
        self._waiting.restore(restored)

    def _admit(self, room: int) -> list[Sequence]:
        """Starts waiting sequences, in order, until one does not fit or the step has no room for its context."""
        starts: list[Sequence] = []
        for sequence in self._waiting:
            if room <= 0 or len(starts) >= self._slots.num_free or not self._capacity.fits(sequence):
                break
            self._kv.start(sequence)
            sequence.state = SequenceState.CONTEXT
            starts.append(sequence)
            room -= sequence.num_context_left
        for sequence in starts:
            self._waiting.remove(sequence)
        return starts

    def _progress(self, step: ScheduledStep) -> None:
        """Moves on the sequences whose context has been planned."""
        self._context.extend(step.starts)
        for chunk in step.chunks:
            chunk.sequence.num_scheduled = chunk.end
            if chunk.sequence.num_context_left == 0:
                chunk.sequence.state = SequenceState.GENERATION
                self._context.remove(chunk.sequence)
                self._generation.enter(chunk.sequence)

    def _filled(self, step: ScheduledStep) -> list[tuple[Sequence, int]]:
        # A sequence that ended before this result has not been given the tokens that fill its blocks.
        filled = [(chunk.sequence, chunk.end) for chunk in step.chunks]
        for slot, num_computed in self._generation.complete(step.generation):
            sequence = self._slots.by_slot[slot]
            if sequence is not None:
                filled.append((sequence, num_computed))
        return [item for item in filled if item[0].state is not SequenceState.FINISHED]

    def _finish(self, sequence: Sequence, reason: FinishReason, stop_token_id: int | None = None) -> None:
        if sequence.state is SequenceState.CONTEXT:
            self._context.remove(sequence)
        self._generation.leave(sequence.slot)
        sequence.finish(reason, stop_token_id)
        self._retiring.append((self._num_steps, sequence))

    def _free_retired(self) -> None:
        """Frees what sequences held that ended before the oldest step in flight was planned."""
        oldest = self._in_flight[0].number if self._in_flight else self._num_steps + 1
        while self._retiring and self._retiring[0][0] < oldest:
            _, sequence = self._retiring.popleft()
            for manager in self._resources:
                manager.free_resources(sequence)

    def _sequences_of(self, slots: list[int]) -> list[Sequence]:
        return [sequence for slot in slots if (sequence := self._slots.by_slot[slot]) is not None]

    def _plan(self, step: ScheduledStep) -> StepPlan:
        first_chunk = {id(chunk.sequence): chunk for chunk in step.chunks}
        appended = np.array(step.appended, np.int32).reshape(-1, 2)
        return StepPlan(
            step=step.number,
            copies=np.empty((0, 2), np.int32),
            starts=tuple(_start(sequence, first_chunk[id(sequence)].start) for sequence in step.starts),
            append_slots=appended[:, 0],
            append_blocks=appended[:, 1],
            context_slots=_int32(chunk.sequence.slot for chunk in step.chunks),
            context_tokens=_int32(chunk.end - chunk.start for chunk in step.chunks),
            generation_slots=step.generation,
        )


def _complete(chunks: list[ContextChunk]) -> list[Sequence]:
    """Sequences whose last chunk this is, unless they have ended."""
    sequences = (chunk.sequence for chunk in chunks if chunk.end == chunk.sequence.num_context)
    return [sequence for sequence in sequences if sequence.state is not SequenceState.FINISHED]


def _start(sequence: Sequence, num_computed: int) -> SequenceStart:
    params = sequence.request.params
    return SequenceStart(
        slot=sequence.slot,
        token_ids=np.array(sequence.tokens, np.int32),
        num_computed=num_computed,
        block_table=np.array(sequence.blocks, np.int32),
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        seed=params.seed or 0,
    )


def _int32(values: Iterable[int]) -> Int32Array:
    return np.fromiter(values, np.int32)
