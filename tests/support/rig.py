"""A scheduler with both ledgers and a simulated executor, driven one action at a time and checked after each."""

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import LedgerLost, Overloaded
from quire.engine.api.options import CacheParams, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import SchedulerConfig
from quire.engine.request import Request
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.sequence import Sequence
from quire.engine.step import ExecutorInfo, StepPlan
from support.simulated_executor import EOS, SimulatedExecutor, next_token

SHARED = CacheParams()


@dataclass
class Client:
    """One request as its client sees it."""

    request: Request
    sequence: Sequence
    tokens: list[int] = field(default_factory=list)
    num_ends: int = 0
    is_cancelled: bool = False

    def check_end(self, reason: FinishReason | None) -> None:
        """Exactly one end, with exactly the tokens that an undisturbed run gives."""
        self.num_ends += 1
        assert self.num_ends == 1
        expected = self.request.prompt.tolist()
        limit = len(expected) + (self.request.params.max_tokens or 0)
        while True:
            expected.append(next_token(expected))
            is_stopped = expected[-1] == EOS and not self.request.params.ignore_eos
            if is_stopped or len(expected) == limit:
                break
        assert self.request.prompt.tolist() + self.tokens == expected
        assert reason is (FinishReason.STOP if is_stopped else FinishReason.LENGTH)


def new_request(
    handle: int,
    prompt: list[int],
    max_tokens: int = 1,
    priority: int = 0,
    cache: CacheParams = SHARED,
    ignore_eos: bool = False,
    tenant: str = "",
) -> Request:
    """A validated request."""
    params = SamplingParams(seed=0, max_tokens=max_tokens, ignore_eos=ignore_eos)
    return Request(
        str(handle), 0, handle, _int32(prompt), _int32([]), params, RequestOptions(priority, cache, tenant=tenant)
    )


def new_sequence(handle: int, length: int = 1, priority: int = 0) -> Sequence:
    """A sequence that waits."""
    return Sequence(new_request(handle, [1] * length, priority=priority), (EOS,))


class Rig:
    """Actions are public methods; each leaves everything checked.

    Args:
        ledgers: every transaction goes to all of them, and all must agree.
    """

    def __init__(self, config: SchedulerConfig, info: ExecutorInfo, *ledgers: KVLedger) -> None:
        self._config = config
        self._ledgers = ledgers
        self._loop = asyncio.new_event_loop()
        self._epoch = 0
        self._incarnation = 0
        self._info = info
        self._num_requests = 0
        self.clients: dict[int, Client] = {}
        # Off: the books are checked after steps and results, but not after arrivals and cancellations.
        self.is_thorough = True
        self._plans: deque[StepPlan] = deque()
        # By block who writes it, and for whom it is read, in the steps in flight.
        self._writes: deque[dict[int, str]] = deque()
        self._reads: deque[dict[int, str]] = deque()
        self.restart_executor()

    def close(self) -> None:
        try:
            self.settle()
        finally:
            for ledger in self._ledgers:
                self._run(ledger.close())
            self._loop.close()

    # ── actions ──

    def arrive(
        self,
        prompt: list[int],
        max_tokens: int,
        priority: int = 0,
        cache: CacheParams = SHARED,
        ignore_eos: bool = False,
        tenant: str = "",
    ) -> None:
        self._num_requests += 1
        request = new_request(self._num_requests, prompt, max_tokens, priority, cache, ignore_eos, tenant)
        sequence = Sequence(request, self._info.eos_token_ids)
        try:
            self.scheduler.add(sequence)
        except Overloaded:
            return
        self.clients[request.handle] = Client(request, sequence)
        if self.is_thorough:
            self._check()

    def cancel(self, index: int) -> None:
        if self.clients:
            client = list(self.clients.values())[index % len(self.clients)]
            client.is_cancelled = True
            del self.clients[client.request.handle]
            self.scheduler.cancel(client.sequence)
            if self.is_thorough:
                self._check()

    def step(self) -> None:
        """Plans and commits one step if fewer than two are in flight."""
        if len(self._plans) == 2:
            return
        plan = self.scheduler.schedule()
        self._commit()
        if plan is not None:
            self._check_writers(plan)
            self._plans.append(plan)
        self._check()

    def complete(self) -> None:
        """The oldest step in flight ends and its result comes."""
        if not self._plans:
            return
        plan = self._plans.popleft()
        self._writes.popleft()
        self._reads.popleft()
        output = self.scheduler.update(self._executor.execute(plan))
        for sequence, token in zip(output.sequences, output.token_ids, strict=True):
            self.clients[sequence.request.handle].tokens.append(token)
        for sequence in output.finished:
            self.clients.pop(sequence.request.handle).check_end(sequence.finish_reason)
        self._check()

    def lose_executor(self) -> None:
        """Its steps in flight never end; another takes its place and its sequences."""
        sequences = self.scheduler.evacuate()
        self.restart_executor()
        for sequence in sequences:
            self.scheduler.restore(sequence)
        self._check()

    def lose_scheduler(self) -> None:
        """A new one takes over the same executor; clients submit again with what they have."""
        while self._plans:  # the executor finishes them for nobody
            self._executor.execute(self._plans.popleft())
        self._writes.clear()
        self._reads.clear()
        self._executor.slots.clear()
        self._open()
        for client in self.clients.values():
            generated = _int32(client.tokens)
            old = client.request
            request = replace(old, generated=generated, is_resumed=True)
            client.sequence = Sequence(request, self._info.eos_token_ids)
            assert not client.sequence.is_finished
            self.scheduler.add(client.sequence)
        self._check()

    def flush_ledger(self) -> None:
        """Redis loses everything; the next commit finds out."""
        for ledger in self._ledgers:
            for name in self._run(ledger.pools()):
                found = self._run(ledger.snapshot(name))
                assert found is not None
                self._run(ledger.remove(found[0], self._epoch))
        self._is_flushed = True

    def restart_executor(self) -> None:
        self._incarnation += 1
        info = self._info
        self._info = replace(info, incarnation=str(self._incarnation))
        self._executor = SimulatedExecutor(self._info)
        self._plans.clear()
        self._writes.clear()
        self._reads.clear()
        self._open()

    def settle(self) -> None:
        """Runs until nothing is left; then nothing may be held."""
        for _ in range(10_000):
            self.step()
            self.complete()
            if not self.clients and not self._plans:
                break
        assert not self.clients, f"{len(self.clients)} requests never end"
        self._commit()
        for ledger in self._ledgers:
            found = self._run(ledger.snapshot("pool"))
            assert found is None or found[1].refs == {}
        assert self.scheduler.num_running == 0

    # ── checks ──

    def _check(self) -> None:
        pool = self.scheduler.pool
        assert audit(pool.state, len(self._info.cache_groups)) == []
        assert pool.num_free + pool.num_cached + len(pool.state.refs) == pool.num_blocks

    def _check_writers(self, plan: StepPlan) -> None:
        """No block is given away while a step in flight may still read or write it, and none has two writers."""
        writes, reads = dict[int, str](), dict[int, str]()
        by_slot = {sequence.slot: sequence for sequence in self.scheduler.running}
        for slot, count in zip(plan.context_slots.tolist(), plan.context_tokens.tolist(), strict=True):
            sequence = by_slot[slot]
            end = sequence.num_scheduled
            for index in range((end - count) // self._info.block_size, -(-end // self._info.block_size)):
                writes.update((table.blocks[index], table.holder) for table in sequence.tables)
            reads.update(self._read_by(sequence, end - count))
        for slot in plan.generation_slots.tolist():
            writes.update((table.blocks[-1], table.holder) for table in by_slot[slot].tables)
            reads.update(self._read_by(by_slot[slot], int(self.scheduler._generation._scheduled[slot]) - 1))
        for earlier, used in zip(self._writes, self._reads, strict=True):
            for block, holder in writes.items():
                assert earlier.get(block, holder) == holder, f"block {block} has two writers in flight"
                assert used.get(block, holder) == holder, f"block {block} is written while another's step reads it"
        self._writes.append(writes)
        self._reads.append(reads)

    def _read_by(self, sequence: Sequence, position: int) -> list[tuple[int, str]]:
        """Blocks, with their holders, that queries of a sequence from a position on see."""
        return [
            (block, table.holder)
            for group, table in zip(self._info.cache_groups, sequence.tables, strict=True)
            for block in table.blocks[group.first_seen(position, self._info.block_size) :]
        ]

    def _commit(self) -> None:
        transaction = self.scheduler.take_transaction()
        if not transaction:
            return
        for ledger in self._ledgers:
            try:
                self._run(ledger.commit(self._identity(), self._epoch, transaction))
            except LedgerLost:
                assert self._is_flushed
                self._run(ledger.seed(self._identity(), self._epoch, self.scheduler.pool.state))
            found = self._run(ledger.snapshot("pool"))
            assert found is not None
            assert found[1] == self.scheduler.pool.state
        self._is_flushed = False
        self.on_commit(transaction)

    def on_commit(self, transaction: LedgerTransaction) -> None:
        """All ledgers have the transaction."""

    def _open(self) -> None:
        self._epoch += 1
        self._is_flushed = False
        states = [self._run(ledger.open(self._identity(), self._epoch)) for ledger in self._ledgers]
        assert all(state == states[0] for state in states)
        self.scheduler = Scheduler(self._config, self._info, states[0])

    def _identity(self) -> PoolIdentity:
        info = self._info
        return PoolIdentity(
            "pool", info.incarnation, info.fingerprint, info.num_blocks, info.block_size, info.cache_windows
        )

    def _run(self, coroutine):  # type: ignore[no-untyped-def]
        return self._loop.run_until_complete(coroutine)


def _int32(values: list[int]) -> np.ndarray:
    return np.array(values, np.int32)
