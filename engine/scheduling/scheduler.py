"""The scheduler of one executor: schedule a step, and update everything with its result."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from math import inf

from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import PluginError, RequestError
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.config import SchedulerConfig
from quire.engine.preparation import AdapterPreparation, Preparation, StructurePreparation
from quire.engine.resources.adapters import AdapterManager
from quire.engine.resources.block_pool import BlockPool
from quire.engine.resources.container import ResourceContainer
from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.resources.slots import SlotManager
from quire.engine.resources.structures import StructureManager
from quire.engine.scheduled_step import ContextChunk, ScheduledStep
from quire.engine.scheduling.admission import Admission
from quire.engine.scheduling.chunk_budget import ChunkBudget
from quire.engine.scheduling.generation import GenerationBatch
from quire.engine.scheduling.invariants import (
    PluginGuard,
    check_chunks,
    check_prefix,
    check_start,
    check_tables,
    check_victims,
)
from quire.engine.scheduling.plan import make_plan
from quire.engine.scheduling.plugins import NO_PLUGINS, Plugins, components
from quire.engine.scheduling.queue import WaitingQueue
from quire.engine.scheduling.result_reader import ResultReader
from quire.engine.scheduling.statistics import SchedulerStatistics
from quire.engine.scheduling.step_defaults import STEP_DEFAULTS
from quire.engine.scheduling.step_output import StepOutput
from quire.engine.sequence import Sequence, SequenceState
from quire.engine.step import ExecutorInfo, StepPlan, StepResult

# Steps whose shortest is the least that the next one takes.
_RECENT_STEPS = 16


class Scheduler:
    """Plans steps for one executor, up to as many ahead of the results as its caller keeps in flight.

    Args:
        config: budgets and policies.
        info: the executor's.
        state: its pool as the ledger has it, with nothing held.
        clock: seconds, monotonic.
        plugins: what schedules, where it is not what the configuration names.

    Raises:
        StartupError: the configuration names a plug-in that does not exist.
        PluginError: from every method, if a plug-in raised or broke an invariant; nothing more can be scheduled.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        info: ExecutorInfo,
        state: PoolState,
        clock: Callable[[], float] = time.monotonic,
        plugins: Plugins = NO_PLUGINS,
    ) -> None:
        parts = components(config, plugins)
        self._num_steps = state.step
        self._num_starts = 0
        self._num_pauses = 0
        self._fault: PluginError | None = None
        self._clock = clock
        # The last step whose plan changed blocks.
        self._committed = state.step
        self._in_flight: deque[ScheduledStep] = deque()
        self._retiring: deque[tuple[int, Sequence]] = deque()
        self._context: list[Sequence] = []
        # It runs alone.
        self._suspect: Sequence | None = None
        self._generation = GenerationBatch(info.max_batch_size, info.block_size)
        pool = BlockPool(state, order=parts.kv_cache_manager.eviction_order)
        self._kv = parts.kv_cache_manager(pool, info.block_size, info.fingerprint, info.cache_groups)
        self._max_model_len = info.max_model_len
        self._max_num_tokens = max_num_tokens = config.max_num_tokens or STEP_DEFAULTS[info.device].max_num_tokens
        self._slots = SlotManager(min(info.max_batch_size, max_num_tokens))
        self._results = ResultReader(self._slots.by_slot, self._retire)
        self._structures = StructureManager()
        self._adapters = AdapterManager(info.num_adapters)
        further = tuple(make(config, info) for make in parts.resource_managers)
        self._resources = ResourceContainer((self._slots, self._kv, self._structures, self._adapters, *further))
        self._capacity = parts.capacity_scheduler(self._kv, self._generation)
        self._micro_batch = parts.micro_batch_scheduler(
            max_num_tokens, info.block_size, ChunkBudget.configured(config, info, max_num_tokens)
        )
        self._tenants = parts.tenant_policy()
        self._waiting = WaitingQueue(
            config.max_waiting_requests, config.max_waiting_tokens, config.priority_ageing_s, clock, self._tenants
        )
        self._admission = Admission(self._waiting, self._kv, self._capacity, self._resources, config.max_passes)
        self._guard = PluginGuard((self._kv, pool.order, self._capacity, self._micro_batch, self._tenants, *further))
        self._recent_us: deque[int] = deque(maxlen=_RECENT_STEPS)
        self._late: list[Sequence] = []

    @property
    def pool(self) -> BlockPool:
        return self._kv.pool

    @property
    def statistics(self) -> SchedulerStatistics:
        pool, cache = self.pool, self._kv.statistics
        return SchedulerStatistics(
            num_waiting=self.num_waiting,
            num_running=self.num_running,
            num_blocks=pool.num_blocks,
            num_free=pool.num_free,
            num_cached=pool.num_cached,
            num_held=pool.num_blocks - pool.num_available,
            num_steps=self._num_steps,
            num_pauses=self._num_pauses,
            num_context_tokens=cache.num_context_tokens,
            num_reused_tokens=cache.num_reused_tokens,
            num_copied_tokens=cache.num_copied_tokens,
            num_recomputed_tokens=cache.num_recomputed_tokens,
            num_evicted=pool.num_evicted,
        )

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_pauses(self) -> int:
        """Pauses of sequences so far."""
        return self._num_pauses

    @property
    def queue_room(self) -> int:
        """Requests that may still be queued."""
        return self._waiting.room

    @property
    def full_tenants(self) -> set[str]:
        """Tenants of whom nothing may be queued, while there is room for others."""
        return self._waiting.full_lines

    @property
    def max_accepted_requests(self) -> int:
        """Requests that may wait and run at once."""
        return self._waiting.max_requests + len(self._slots.by_slot)

    @property
    def max_accepted_tokens(self) -> int:
        """Tokens of the requests that may wait and run at once, if these share no blocks."""
        in_slots, in_pool = self._max_model_len * len(self._slots.by_slot), self.pool.num_blocks * self._kv.block_size
        num_whole = self._kv.num_whole_groups
        return self._waiting.max_tokens + (in_pool // num_whole if num_whole else in_slots)

    @property
    def retry_after(self) -> float:
        """Seconds in which all that wait will have started."""
        return self._waiting.retry_after

    @property
    def num_running(self) -> int:
        """Sequences with a slot, those about to be freed included."""
        return self._slots.num_used

    @property
    def running(self) -> list[Sequence]:
        """Sequences with a slot, those about to be freed included, in the order of their starts."""
        held = [sequence for sequence in self._slots.by_slot if sequence is not None]
        return sorted(held, key=lambda sequence: int(sequence.holder))

    @property
    def waiting(self) -> Iterator[Sequence]:
        """Sequences that wait, in the order in which they may start."""
        return iter(self._waiting)

    @property
    def num_steps(self) -> int:
        """Number of the newest plan; those before this scheduler count."""
        return self._num_steps

    @property
    def num_in_flight(self) -> int:
        """Steps planned whose result has not come."""
        return len(self._in_flight)

    @property
    def is_delaying(self) -> bool:
        """Whether a resource manager lets a sequence wait that would have started."""
        return self._admission.is_delaying

    @property
    def num_context_tokens(self) -> int:
        """Context tokens that wait or are not planned yet."""
        return self._waiting.num_tokens + sum(sequence.num_context_left for sequence in self._context)

    def num_reusable(self, sequence: Sequence) -> int:
        """Tokens of the sequence that this pool has in whole cached blocks."""
        return len(self._kv.match(sequence)[0]) * self._kv.block_size

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence whose request was validated against this executor's limits.

        Raises:
            Overloaded: too many wait.
            RequestError: a resource manager refuses it.
        """
        if sequence.request.is_resumed:
            self._waiting.restore(sequence)
        else:
            self._append(sequence)
        sequence.arrived = self._clock()
        if (deadline_ms := sequence.request.options.deadline_ms) is not None:
            sequence.deadline = sequence.arrived + deadline_ms / 1000
        # What it needs of the executor can be made ready while it waits.
        self._structures.can_start(sequence)
        self._adapters.can_start(sequence)
        self._admission.look_again()

    def restore(self, sequence: Sequence) -> None:
        """Queues a sequence that ran before, here or elsewhere, ahead of all that did not."""
        sequence.was_started = True
        self._waiting.restore(sequence)
        self._admission.look_again()

    def cancel(self, sequence: Sequence) -> None:
        """Ends a sequence without output; harmless if it has ended."""
        if sequence.state is SequenceState.WAITING:
            self._waiting.remove(sequence)
            sequence.finish(FinishReason.ABORTED)
            self._admission.look_again()
        elif not sequence.is_finished:
            self._retire(sequence)
            sequence.finish(FinishReason.ABORTED)
            try:
                with self._guard:
                    self._free_retired()
            except PluginError as error:
                # It is not the fault of whoever cancels; the next step says it.
                self._fault = error

    @property
    def has_structures(self) -> bool:
        """Whether the executor has prepared a structured output, so that others take it little time."""
        return self._structures.is_loaded

    def has_structure(self, structure: StructuredOutput) -> bool:
        """Whether the executor has prepared this one."""
        return self._structures.has(structure)

    def begin_structures(self, structure: StructuredOutput, *, is_tried: bool = False) -> None:
        """Sequences with structured outputs may come: the executor prepares this one if it has none yet."""
        self._structures.begin(structure, is_tried=is_tried)

    def has_adapter(self, sequence: Sequence) -> bool:
        """Whether the sequence need not wait for an adapter."""
        adapter = sequence.request.adapter
        return adapter is None or self._adapters.has(adapter)

    def take_preparations(self) -> list[Preparation]:
        """What the executor must prepare; given once."""
        structures = self._structures.take().items()
        return [*(StructurePreparation(each, is_tried) for each, is_tried in structures), *self._adapters.take()]

    def is_prepared(self, preparation: Preparation) -> None:
        """The executor has prepared it: whoever waits for it may start."""
        self._answer(preparation, is_ready=True)
        self._admission.look_again()

    def refuse(self, preparation: Preparation, error: RequestError) -> StepOutput:
        """The executor cannot prepare it: ends all that wait for it."""
        self._answer(preparation, is_ready=False)
        output = StepOutput()
        for sequence in list(self._waiting):
            if preparation.is_for(sequence.request):
                self._waiting.remove(sequence)
                sequence.finish(FinishReason.ABORTED)
                output.refused.append((sequence, error))
        self._admission.look_again()
        return output

    def evacuate(self, is_lost: bool = True) -> list[Sequence]:
        """All unfinished sequences, oldest first, ready to start again elsewhere.

        Args:
            is_lost: the executor was lost, of which one of the running may be the cause; it did not leave in order.

        Everything held is freed, whatever is in flight: the executor must be gone or reset before its blocks
        are given out again. This scheduler is void then.
        """
        running, waiting = self.running, list(self._waiting)
        with self._guard:
            for sequence in running:
                self._resources.free_resources(sequence)
        unfinished = [sequence for sequence in running if not sequence.is_finished]
        for sequence in unfinished:
            if is_lost:
                sequence.lose_executor()
            sequence.restart()
        return unfinished + waiting

    def withdraw(self) -> list[Sequence]:
        """Takes back everything that waits, to wait elsewhere."""
        waiting = list(self._waiting)
        for sequence in waiting:
            self._waiting.remove(sequence)
        return waiting

    def schedule(self) -> StepPlan | None:
        """Plans the next step; None if there is nothing to compute."""
        with self._guard:
            return self._schedule()

    def take_late(self) -> list[Sequence]:
        """Sequences that `schedule` has ended, as nothing of them could be made before their deadlines."""
        late, self._late = self._late, []
        return late

    def _answer(self, preparation: Preparation, *, is_ready: bool) -> None:
        if isinstance(preparation, AdapterPreparation):
            self._adapters.answer(preparation, is_ready=is_ready)
        else:
            self._structures.answer(preparation.structure, is_ready=is_ready)

    def _append(self, sequence: Sequence) -> None:
        """A plug-in that fails on one request ends that one only."""
        try:
            with self._guard:
                self._resources.validate(sequence.request)
                self._waiting.append(sequence)
        except PluginError as error:
            raise RequestError(str(error)) from error

    def _schedule(self) -> StepPlan | None:
        if self._fault is not None:
            raise self._fault
        self._capacity.begin_step(self.num_running)
        victims = self._capacity.victims(self._active, self._num_retiring())
        check_victims(self._capacity, victims)
        for victim in victims:
            self._pause(victim)
        started = sum(sequence.num_context_left for sequence in self._context)
        budget = self._micro_batch.budget(len(self._generation), self._waiting.num_tokens + started)
        starts = self._admit(budget - started)
        chunks = self._micro_batch.chunks(budget, self._context)
        check_chunks(self._micro_batch, chunks, max(0, self._max_num_tokens - len(self._generation)))
        growing, stalled, spare = self._split_growing()
        if self._kv.has_windows:
            chunks = self._fitted(chunks, spare)
        generation = self._generation.advance(stalled)
        if not chunks and not len(generation):
            return None
        self._num_steps += 1
        step = ScheduledStep(self._num_steps, starts, chunks, generation, growing)
        self._resources.prepare_resources(step)
        check_tables(self._kv, step)
        self._in_flight.append(step)
        if self._kv.pool.has_changes:
            self._committed = self._num_steps
        plan = make_plan(step, self._committed, len(self._kv.groups))
        self._progress(step)
        return plan

    def update(self, result: StepResult) -> StepOutput:
        """Takes in the result of the oldest step in flight: tokens, ends, full blocks, what can be freed.

        Raises:
            InvalidRequest: it cannot be that step's result.
        """
        self._in_flight[0].check(result)
        with self._guard:
            return self._update(result)

    def _update(self, result: StepResult) -> StepOutput:
        step = self._in_flight.popleft()
        for chunk in step.chunks:
            chunk.sequence.num_computed = chunk.end
        self._micro_batch.observe(step.num_context_tokens, len(step.generation), result.compute_us)
        self._recent_us.append(result.compute_us)
        step.filled = self._filled(step)
        if step.filled:
            self._resources.update_resources(step)
            self._admission.look_again()
        output = self._results.read(step, result)
        self._tenants.generate(output.sequences)
        self._free_retired()
        return output

    def take_transaction(self) -> LedgerTransaction:
        """Transaction to commit before the latest plan may leave."""
        return self._kv.pool.take_transaction(self._num_steps)

    def _admit(self, room: int) -> list[Sequence]:
        """Starts waiting sequences as long as the step has room for their context.

        One of which an executor may have been lost runs alone until it gets further than before.
        """
        starts: list[Sequence] = []
        late: list[Sequence] = []
        if self._suspect is not None and self._suspect.is_suspect and not self._suspect.is_finished:
            return starts
        self._suspect = None
        candidates = self._admission.candidates()
        while room > 0 and self._slots.num_free and (sequence := next(candidates, None)) is not None:
            if self._is_late(sequence):
                late.append(sequence)
                continue
            if sequence.is_suspect:
                if self._slots.num_used:
                    break
                self._suspect, room = sequence, 0
            self._num_starts += 1
            sequence.holder = str(self._num_starts)
            sequence.num_reserved = self._capacity.reservation(sequence)
            check_start(self._capacity, self._kv, sequence)
            sequence.state = SequenceState.CONTEXT
            self._resources.start(sequence)
            check_prefix(self._kv, sequence)
            starts.append(sequence)
            room -= sequence.num_context_left
        for sequence in late:
            self._waiting.remove(sequence)
            sequence.finish(FinishReason.ABORTED)
        self._late += late
        now = self._clock() if starts else 0.0
        for sequence in starts:
            self._waiting.start(sequence)
            if not sequence.queue_seconds:
                sequence.queue_seconds = now - sequence.arrived
            sequence.was_started = True
        self._context.extend(starts)
        return starts

    def _is_late(self, sequence: Sequence) -> bool:
        """Whether its next token would come behind its deadline: it takes at least a short step."""
        if sequence.deadline == inf:
            return False
        return self._clock() + min(self._recent_us, default=0) / 1e6 > sequence.deadline

    def _split_growing(self) -> tuple[list[Sequence], list[int], int]:
        """Sequences that begin a block in this step, slots that must wait since no block is left for them, and how many
        blocks are left to whoever has none set aside.
        """
        spare, num_tables = self._kv.num_unpromised, len(self._kv.groups)
        growing, stalled = [], []
        for sequence in self._sequences_of(self._generation.growing()):
            lacking = sequence.num_held + num_tables - sequence.num_reserved
            if lacking > 0:
                lacking = min(lacking, num_tables)
                if lacking > spare:
                    stalled.append(sequence.slot)
                    continue
                spare -= lacking
            growing.append(sequence)
        return growing, stalled, spare

    def _fitted(self, chunks: list[ContextChunk], spare: int) -> list[ContextChunk]:
        """Chunks cut to the blocks that are set aside for their sequences, and to `spare` further ones.

        A chunk's own tokens take blocks in every group, also where its window will be past them with the result.
        """
        fitted, num_tables, size = [], len(self._kv.groups), self._kv.block_size
        for chunk in chunks:
            sequence = chunk.sequence
            own = max(0, sequence.num_reserved - sequence.num_held)
            end = min(chunk.end, (sequence.num_blocks + (own + spare) // num_tables) * size)
            if end > chunk.start:
                fitted.append(ContextChunk(sequence, chunk.start, end))
                taken = (-(-end // size) - sequence.num_blocks) * num_tables
                spare -= max(0, taken - own)
        return fitted

    def _progress(self, step: ScheduledStep) -> None:
        """Moves on the sequences whose context has been planned."""
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
        return [item for item in filled if not item[0].is_finished]

    def _pause(self, sequence: Sequence) -> None:
        self._num_pauses += 1
        self._retire(sequence)
        sequence.state = SequenceState.PAUSING

    def _retire(self, sequence: Sequence) -> None:
        """Takes a sequence out of the steps to come; it is freed when those in flight are over."""
        state = sequence.state
        if state is SequenceState.PAUSING:  # it has retired already
            return
        if state is SequenceState.CONTEXT:
            self._context.remove(sequence)
        self._generation.leave(sequence.slot)
        self._retiring.append((self._num_steps, sequence))

    def _free_retired(self) -> None:
        """Frees what sequences held that retired before the oldest step in flight was planned."""
        oldest = self._in_flight[0].number if self._in_flight else self._num_steps + 1
        while self._retiring and self._retiring[0][0] < oldest:
            _, sequence = self._retiring.popleft()
            self._resources.free_resources(sequence)
            self._admission.look_again()
            if not sequence.is_finished:
                sequence.restart()
                self._waiting.restore(sequence)

    def _active(self) -> list[Sequence]:
        retiring = {sequence for _, sequence in self._retiring}
        return [sequence for sequence in self.running if sequence not in retiring]

    def _num_retiring(self) -> int:
        return sum(sequence.num_held for _, sequence in self._retiring)

    def _sequences_of(self, slots: list[int]) -> list[Sequence]:
        return [sequence for slot in slots if (sequence := self._slots.by_slot[slot]) is not None]
