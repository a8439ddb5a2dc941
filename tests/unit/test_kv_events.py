"""KV events without processes: at any time, what was told is what the ledger has."""

import asyncio
import sys
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from quire.engine.api.errors import Overloaded
from quire.engine.api.kv_cache_group import blocks_for, groups_of
from quire.engine.api.options import CacheParams
from quire.engine.config import SchedulerConfig
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.resources.pool_change import PoolChange
from quire.engine.resources.prefix import chain_root, hash_of
from quire.engine.resources.publication import Publication
from quire.services.scheduler import kv_events
from quire.services.scheduler.kv_events import KVEvents, Subscription
from quire.services.scheduler.kv_events_wire import change_to_proto
from support.kv_follower import GrpcFollower, chain
from support.rig import Rig
from support.simulated_executor import VOCAB_SIZE, executor_info

NUM_BLOCKS, BLOCK_SIZE, NUM_SLOTS = 12, 4, 4
CONFIG = SchedulerConfig(max_num_tokens=64)
PROMPTS = st.lists(st.integers(1, 2), min_size=1, max_size=24) | st.lists(
    st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=30
)
SALTED = CacheParams(salt="of one tenant")


class FollowedRig(Rig):
    """Tells KV events as the scheduler service does."""

    def __init__(self, windows: tuple[int, ...] = ()) -> None:
        self.events = KVEvents()
        num_blocks = blocks_for(groups_of(windows), NUM_BLOCKS * BLOCK_SIZE, BLOCK_SIZE)
        super().__init__(CONFIG, executor_info(num_blocks, BLOCK_SIZE, NUM_SLOTS, windows=windows), MemoryLedger())

    def on_commit(self, transaction: LedgerTransaction) -> None:
        self.events.commit("pool", transaction)

    def _open(self) -> None:
        self.events.close("pool")
        super()._open()
        pool = self.scheduler.pool
        self.events.open("pool", BLOCK_SIZE, pool.published, lambda: not pool.has_changes)

    def committed(self) -> set[bytes] | None:
        """What the ledger has in its prefix index; None if it was emptied."""
        found = self._run(self._ledgers[0].snapshot("pool"))
        return None if found is None or self._is_flushed else set(found[1].index)


class Reader:
    """One subscriber, which reads when it likes."""

    def __init__(self, rig: FollowedRig, stack: ExitStack) -> None:
        self.rig = rig
        self.follower = GrpcFollower()
        self.subscription = stack.enter_context(rig.events.subscribe())

    def read(self) -> None:
        while self.subscription._changes:
            for batch in change_to_proto(self.rig._run(self.subscription.next())):
                batch.sequence = self.follower.sequence + 1
                self.follower.apply(batch)

    def check(self) -> None:
        self.read()
        committed = self.rig.committed()
        if self.follower.sequence == 0:
            assert self.rig.scheduler.pool.has_changes, "a snapshot waits for a commit only"
        elif committed is not None:
            assert self.follower.blocks["pool"] == committed
        self.check_tokens()

    def check_tokens(self) -> None:
        """Tokens are of the block, and never those of a salted request."""
        known = self.follower.tokens["pool"]
        for publication in map(Publication._make, self.rig.scheduler.pool.published.values()):
            if publication.name in known:
                assert not publication.is_salted
                assert tuple(publication.tokens or ()) == known[publication.name]
                hashed = chain(hash_of(publication.parent), known[publication.name])
                assert hashed == hash_of(publication.name)


class Following(RuleBasedStateMachine):
    windows: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.rig = FollowedRig(self.windows)
        self.stack = ExitStack()
        self.readers: list[Reader] = []

    @rule(prompt=PROMPTS, max_tokens=st.integers(1, 16), is_salted=st.booleans())
    def arrive(self, prompt: list[int], max_tokens: int, is_salted: bool) -> None:
        self.rig.arrive(prompt, max_tokens, cache=SALTED if is_salted else CacheParams())

    @rule()
    def subscribe(self) -> None:
        if len(self.readers) < 3:
            self.readers.append(Reader(self.rig, self.stack))

    @rule()
    def unsubscribe_all(self) -> None:
        self.stack.close()
        self.readers.clear()

    @rule()
    def restart(self) -> None:
        for reader in self.readers:
            self.rig.events.restart(reader.subscription)

    @rule()
    def step(self) -> None:
        self.rig.step()

    @rule()
    def complete(self) -> None:
        self.rig.complete()

    @rule(times=st.integers(1, 8))
    def run(self, times: int) -> None:
        for _ in range(times):
            self.rig.step()
            self.rig.complete()

    @rule(index=st.integers(0, 100))
    def cancel(self, index: int) -> None:
        self.rig.cancel(index)

    @rule()
    def lose_executor(self) -> None:
        self.rig.lose_executor()

    @rule()
    def lose_scheduler(self) -> None:
        self.rig.lose_scheduler()

    @rule()
    def flush_ledger(self) -> None:
        self.rig.flush_ledger()

    @invariant()
    def what_was_told_is_what_the_ledger_has(self) -> None:
        for reader in self.readers:
            reader.check()

    def teardown(self) -> None:
        self.stack.close()
        self.rig.close()


class FollowingGroups(Following):
    windows = (0, 6)


@pytest.mark.parametrize("machine", [Following, FollowingGroups])
def test_what_was_told_is_what_the_ledger_has_at_any_time(machine: type[Following]) -> None:
    """Up to 2,000 actions each."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def rig() -> Iterator[FollowedRig]:
    rig = FollowedRig()
    yield rig
    rig.close()


def test_a_new_scheduler_tells_tokens_again_once_a_request_has_used_them(rig: FollowedRig) -> None:
    prompt = [1, 2, 3, 4, 5, 6, 1, 2, 3]
    rig.arrive(prompt, 2)
    rig.settle()
    rig.lose_scheduler()
    with ExitStack() as stack:
        reader = Reader(rig, stack)
        reader.check()
        known = {chain(chain_root("model"), prompt[:4])}
        known.add(chain(next(iter(known)), prompt[4:8]))
        assert reader.follower.blocks["pool"] >= known
        assert reader.follower.tokens["pool"] == {}
        rig.arrive(prompt, 2)
        rig.settle()
        reader.check()
        assert reader.follower.tokens["pool"].keys() >= known


def test_while_nobody_subscribes_a_commit_is_one_call(rig: FollowedRig) -> None:
    calls: list[str] = []

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == kv_events.__file__:
            calls.append(frame.f_code.co_name)

    def run(token: int) -> None:
        calls.clear()
        sys.setprofile(count)
        try:
            rig.arrive([token, 2, 3] * 5, 8, ignore_eos=True)
            rig.settle()
        finally:
            sys.setprofile(None)

    run(1)
    assert set(calls) == {"commit"}
    num_commits = len(calls)
    with rig.events.subscribe():
        run(4)
    assert {"commit", "change", "push"} <= set(calls)
    run(5)
    assert set(calls) == {"commit"}
    assert len(calls) == num_commits


def change(num_blocks: int, is_cleared: bool = False) -> PoolChange:
    stored = [Publication(block, block.to_bytes(16, "big")) for block in range(num_blocks)]
    return PoolChange("pool", 4, is_cleared, stored)


async def test_a_subscriber_too_far_behind_is_cut_off_and_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_events, "MAX_PENDING_BLOCKS", 10)
    subscription = Subscription()
    subscription.push(change(100, is_cleared=True))
    subscription.push(change(10))
    assert (await subscription.next()).num_blocks == 100
    subscription.push(change(1))
    subscription.push(change(1))
    assert not subscription._changes
    with pytest.raises(Overloaded, match="more than 10 blocks behind"):
        await subscription.next()
    subscription.clear()
    subscription.push(change(10))
    assert (await subscription.next()).num_blocks == 10
    assert not subscription._arrived.is_set()


async def test_there_are_only_so_many_subscribers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_events, "MAX_SUBSCRIBERS", 2)
    events = KVEvents()
    with (
        events.subscribe(),
        events.subscribe(),
        pytest.raises(Overloaded, match="2 subscribe already"),
        events.subscribe(),
    ):
        pass
    with events.subscribe():
        pass


async def test_a_snapshot_taken_in_a_commit_waits_for_it() -> None:
    events, pool, is_committed = KVEvents(), {7: Publication(7, b"new")}, False
    events.open("pool", 4, pool, lambda: is_committed)
    with events.subscribe() as first, events.subscribe() as second:
        assert not first._changes
        assert not second._changes
        events.commit("pool", LedgerTransaction(publish=[pool[7]]))
        for each in (first, second):
            snapshot = await asyncio.wait_for(each.next(), 60)
            assert (snapshot.is_cleared, snapshot.stored) == (True, [pool[7]])
            assert not each._changes
        with events.subscribe() as third:
            assert (await third.next()).stored == [pool[7]]
        events.close("pool")
        assert (await first.next()).is_cleared


async def test_whoever_begins_again_learns_of_pools_that_are_void() -> None:
    events = KVEvents()
    with events.subscribe() as subscription:
        events.open("goes", 4, {1: Publication(1, b"a")}, lambda: True)
        events.open("stays", 4, {2: Publication(2, b"b")}, lambda: True)
        assert [len((await subscription.next()).stored) for _ in range(2)] == [1, 1]
        events.close("goes")
        events.restart(subscription)  # before it has read that
        told = [await subscription.next() for _ in range(2)]
        assert [(each.pool, each.is_cleared, len(each.stored)) for each in told] == [
            ("goes", True, 0),
            ("stays", True, 1),
        ]
        events.open("goes", 4, {}, lambda: True)
        events.restart(subscription)
        assert [(await subscription.next()).pool for _ in range(2)] == ["stays", "goes"]
        assert not subscription._changes
    with events.subscribe() as subscription:
        assert len(subscription._changes) == 2


def test_changes_in_parts_and_runs() -> None:
    tokens = array("i", [1, 2])
    stored = [
        Publication(0, b"a", b"root", tokens),
        Publication(1, b"b", b"a", tokens, 1),
        Publication(2, b"c", b"b", tokens, 2, True),
        Publication(3, b"d", b"c", tokens, 3, True),
        Publication(4, b"e"),
        Publication(5, b"f", b"d", tokens, 4, True),
    ]
    whole = PoolChange("pool", 2, True, stored, stored[:1])
    names = [[each.name for each in run] for run in whole.runs()]
    assert names == [[b"a", b"b"], [b"c", b"d"], [b"e"], [b"f"]]
    parts = list(whole.parts(4))
    assert [(part.is_cleared, len(part.stored), len(part.removed), part.is_partial) for part in parts] == [
        (True, 4, 0, True),
        (False, 2, 0, True),
        (False, 0, 1, False),
    ]
    assert list(PoolChange("pool", 2, True).parts(4)) == [PoolChange("pool", 2, True)]
    first, second = (event.stored for event in next(change_to_proto(whole)).events[1:3])
    assert (first.parent_hash, list(first.token_ids)) == (b"", [1, 2, 1, 2])
    assert (second.parent_hash, list(second.token_ids)) == (b"b", [])
