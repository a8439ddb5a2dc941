"""The contract of `KVLedger`, for every implementation."""

from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.engine.api.errors import LedgerConflict, LedgerLost, StaleEpoch
from quire.engine.api.options import DEFAULT_RETENTION_PRIORITY
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.resources.ledger.redis import RedisLedger
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.resources.prefix import in_group
from quire.engine.resources.rank import make_rank
from support.redis_server import running_redis

POOL = PoolIdentity("pool", "first", "model", num_blocks=8, block_size=4)
A, B, C = b"a" * 16, b"\x00\xff\n\r" * 4, b"c" * 16


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


@pytest.fixture(params=["memory", "redis"])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[KVLedger]:
    made: KVLedger
    if request.param == "memory":
        made = MemoryLedger()
    else:
        made = RedisLedger.connect(request.getfixturevalue("redis_url"))
        await made.redis.flushall()
    yield made
    await made.close()


async def state_of(ledger: KVLedger, name: str = POOL.name) -> PoolState:
    found = await ledger.snapshot(name)
    assert found is not None
    assert audit(found[1], found[0].num_groups) == []
    return found[1]


async def test_a_new_pool_is_free(ledger: KVLedger) -> None:
    assert await ledger.snapshot("pool") is None
    assert await ledger.open(POOL, 1) == PoolState(8)
    assert await ledger.snapshot("pool") == (POOL, PoolState(8))
    assert await ledger.pools() == ["pool"]


async def test_a_block_goes_through_all_its_states(ledger: KVLedger) -> None:
    await ledger.open(POOL, 1)
    await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 3), ("s", 4)]))
    assert (await state_of(ledger)).holds == {"s": {3: None, 4: None}}
    await ledger.commit(POOL, 1, LedgerTransaction(publish=[(3, A), (4, B)]))
    assert (await state_of(ledger)).index == {A: 3, B: 4}
    await ledger.commit(POOL, 1, LedgerTransaction(release=[("s", 4, 1, 0), ("s", 3, 2, 0)]))
    assert (await state_of(ledger)).cached == {4: 1, 3: 2}
    await ledger.commit(POOL, 1, LedgerTransaction(share=[("t", 3), ("u", 3)], evict=[4], acquire=[("t", 4)]))
    state = await state_of(ledger)
    assert state.refs == {3: 2, 4: 1}
    assert state.cached == {}
    assert state.index == {A: 3}
    await ledger.commit(POOL, 1, LedgerTransaction(release=[("t", 4, 3, 0), ("t", 3, 4, 0), ("u", 3, 5, 0)]))
    state = await state_of(ledger)
    assert (state.refs, state.holds, state.cached, state.hashes) == ({}, {}, {3: 5}, {3: A})


REFUSED = {
    "publish a free block": LedgerTransaction(publish=[(0, B)]),
    "publish twice": LedgerTransaction(publish=[(1, B)]),
    "publish a known hash": LedgerTransaction(publish=[(2, A)]),
    "publish a hash twice": LedgerTransaction(publish=[(2, B), (3, B)]),
    "release of another's": LedgerTransaction(release=[("t", 2, 1, 0)]),
    "release twice": LedgerTransaction(release=[("s", 2, 1, 0), ("s", 2, 2, 0)]),
    "evict a held block": LedgerTransaction(evict=[1]),
    "evict a free block": LedgerTransaction(evict=[0]),
    "evict twice": LedgerTransaction(evict=[4, 4]),
    "share an unpublished block": LedgerTransaction(share=[("t", 2)]),
    "share with its holder": LedgerTransaction(share=[("s", 1)]),
    "share what is evicted": LedgerTransaction(evict=[4], share=[("t", 4)]),
    "acquire a held block": LedgerTransaction(acquire=[("t", 2)]),
    "acquire a cached block": LedgerTransaction(acquire=[("t", 4)]),
    "acquire twice": LedgerTransaction(acquire=[("t", 0), ("u", 0)]),
    "acquire outside the pool": LedgerTransaction(acquire=[("t", 8)]),
    "acquire a negative block": LedgerTransaction(acquire=[("t", -1)]),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED.keys())
async def test_a_refusal_changes_nothing(ledger: KVLedger, refused: LedgerTransaction) -> None:
    """Block 0 is free, 1 published and held, 2 and 3 held, 4 cached; a sound part comes with the unsound one."""
    await ledger.open(POOL, 1)
    first = LedgerTransaction(acquire=[("s", 1), ("s", 2), ("s", 3), ("s", 4)])
    await ledger.commit(POOL, 1, first)
    await ledger.commit(POOL, 1, LedgerTransaction(publish=[(1, A), (4, C)], release=[("s", 4, 1, 0)]))
    before = await state_of(ledger)
    refused.acquire.insert(0, ("sound", 7))
    with pytest.raises(LedgerConflict):
        await ledger.commit(POOL, 1, refused)
    assert await state_of(ledger) == before


async def test_an_old_epoch_is_refused_everything(ledger: KVLedger) -> None:
    await ledger.open(POOL, 1)
    await ledger.open(POOL, 2)
    for attempt in (
        ledger.open(POOL, 1),
        ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 0)])),
        ledger.seed(POOL, 1, PoolState(8)),
        ledger.remove(POOL, 1),
    ):
        with pytest.raises(StaleEpoch):
            await attempt
    assert (await state_of(ledger)).refs == {}


async def test_a_new_epoch_finds_the_cache_and_no_holds(ledger: KVLedger) -> None:
    await ledger.open(POOL, 1)
    await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 0), ("s", 1), ("s", 2)]))
    await ledger.commit(POOL, 1, LedgerTransaction(publish=[(0, A), (2, B)], release=[("s", 2, 5, 0)]))
    state = await ledger.open(POOL, 2)
    assert (state.refs, state.holds, state.index) == ({}, {}, {A: 0, B: 2})
    assert sorted(state.cached, key=lambda block: state.cached[block]) == [2, 0]
    assert state == await state_of(ledger)


async def test_a_new_incarnation_voids_the_pool(ledger: KVLedger) -> None:
    await ledger.open(POOL, 1)
    await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 0)]))
    await ledger.commit(POOL, 1, LedgerTransaction(publish=[(0, A)], release=[("s", 0, 1, 0)]))
    second = PoolIdentity("pool", "second", "model", 8, 4)
    assert await ledger.open(second, 1) == PoolState(8)
    with pytest.raises(LedgerLost):
        await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 0)]))


async def test_commit_to_an_unknown_pool(ledger: KVLedger) -> None:
    with pytest.raises(LedgerLost):
        await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 0)]))


async def test_seed_replaces_everything(ledger: KVLedger) -> None:
    await ledger.open(POOL, 1)
    await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 0)]))
    state = PoolState(8, {"t": {5: None}}, {5: 1}, {5: A, 6: B}, {A: 5, B: 6}, {6: 9})
    await ledger.seed(POOL, 1, state)
    assert await state_of(ledger) == state


async def test_remove_forgets_the_pool(ledger: KVLedger) -> None:
    await ledger.open(POOL, 1)
    await ledger.remove(POOL, 1)
    assert await ledger.pools() == []
    assert await ledger.snapshot("pool") is None


async def test_pools_are_apart(ledger: KVLedger) -> None:
    other = PoolIdentity("other:1", "x", "model", 4, 16)
    await ledger.open(POOL, 1)
    await ledger.open(other, 1)
    await ledger.commit(other, 1, LedgerTransaction(acquire=[("s", 0)]))
    assert (await state_of(ledger)).refs == {}
    assert (await state_of(ledger, "other:1")).refs == {0: 1}


async def test_dropped_holds_are_cached_at_the_default_priority(ledger: KVLedger) -> None:
    """Behind everything released before, but not above what was to be kept longer."""
    await ledger.open(POOL, 1)
    await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 0), ("s", 1), ("s", 2)]))
    kept = make_rank(100, 2**40 - 3)
    await ledger.commit(POOL, 1, LedgerTransaction(publish=[(0, A), (1, B), (2, C)], release=[("s", 1, kept, 0)]))
    state = await ledger.open(POOL, 2)
    default = DEFAULT_RETENTION_PRIORITY
    assert state.cached == {1: kept, 0: make_rank(default, 2**40 - 2), 2: make_rank(default, 2**40 - 1)}


async def test_expiry_lasts_as_long_as_the_block_is_cached(ledger: KVLedger) -> None:
    await ledger.open(POOL, 1)
    await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", block) for block in range(4)]))
    release = [("s", 0, 1, 2**42), ("s", 1, 2, 1000), ("s", 2, 3, 0), ("s", 3, 4, 5)]
    await ledger.commit(POOL, 1, LedgerTransaction(publish=[(0, A), (1, B), (2, C)], release=release))
    assert (await state_of(ledger)).expires == {0: 2**42, 1: 1000}
    assert (await ledger.open(POOL, 2)).expires == {0: 2**42, 1: 1000}
    await ledger.commit(POOL, 2, LedgerTransaction(share=[("t", 0)], evict=[1]))
    assert (await state_of(ledger)).expires == {}
    await ledger.commit(POOL, 2, LedgerTransaction(share=[("u", 0)], release=[]))
    await ledger.commit(POOL, 2, LedgerTransaction(release=[("t", 0, 5, 7000)]))
    assert (await state_of(ledger)).expires == {}, "it is held still"
    await ledger.commit(POOL, 2, LedgerTransaction(release=[("u", 0, 6, 8000)]))
    assert (await state_of(ledger)).expires == {0: 8000}
    await ledger.commit(POOL, 2, LedgerTransaction(share=[("u", 0)]))
    await ledger.commit(POOL, 2, LedgerTransaction(release=[("u", 0, 7, 9000)], share=[("v", 0)]))
    assert (await state_of(ledger)).expires == {}


async def test_the_step_is_kept(ledger: KVLedger) -> None:
    await ledger.open(POOL, 1)
    await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 0)], step=7))
    await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 1)]))
    with pytest.raises(LedgerConflict):
        await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 1)], step=8))
    assert (await state_of(ledger)).step == 7
    assert (await ledger.open(POOL, 2)).step == 7
    await ledger.seed(POOL, 2, PoolState(8, step=2**53))
    assert (await state_of(ledger)).step == 2**53
    assert (await ledger.open(PoolIdentity("pool", "second", "model", 8, 4), 2)).step == 0


async def test_who_wrote_the_step_is_kept(ledger: KVLedger) -> None:
    """The next scheduler judges the books by it. To open the pool, or to change blocks without a step, leaves it."""
    assert (await ledger.open(POOL, 1)).step_epoch == 0
    await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 0)], step=7))
    assert (await ledger.open(POOL, 2)).step_epoch == 1
    await ledger.commit(POOL, 2, LedgerTransaction(acquire=[("s", 1)]))
    assert (await ledger.open(POOL, 3)).step_epoch == 1
    await ledger.seed(POOL, 4, PoolState(8, step=7))
    assert (await ledger.open(POOL, 5)).step_epoch == 4
    assert (await ledger.open(PoolIdentity("pool", "second", "model", 8, 4), 5)).step_epoch == 0


async def test_a_block_is_of_one_cache_group(ledger: KVLedger) -> None:
    """That of its hash and of all its holders."""
    pool = PoolIdentity("pool", "first", "model", 8, 4, windows=(0, 1024))
    await ledger.open(pool, 1)
    await ledger.commit(pool, 1, LedgerTransaction(acquire=[("s", 0), ("s.1", 1)], publish=[]))
    await ledger.commit(pool, 1, LedgerTransaction(publish=[(0, A), (1, in_group(A, 1))]))
    await ledger.commit(pool, 1, LedgerTransaction(share=[("t", 0), ("t.1", 1)]))
    for holder, block in (("u.1", 0), ("u", 1), ("u.2", 1)):
        with pytest.raises(LedgerConflict, match=f"cannot share block {block}: of another cache group"):
            await ledger.commit(pool, 1, LedgerTransaction(share=[(holder, block)]))
    found = await ledger.snapshot("pool")
    assert found is not None
    assert found[0] == pool
    assert found[1].holds == {"s": {0: None}, "s.1": {1: None}, "t": {0: None}, "t.1": {1: None}}
    assert audit(found[1], 2) == []
    assert audit(found[1], 1) == ["block 1: of cache group 1, and there are 1"]
    opened = await ledger.open(pool, 2)
    assert opened.index == {A: 0, in_group(A, 1): 1}


async def test_a_pool_of_other_cache_groups_is_another(ledger: KVLedger) -> None:
    await ledger.open(POOL, 1)
    await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("s", 0)]))
    other = PoolIdentity("pool", "first", "model", 8, 4, windows=(0, 1024))
    with pytest.raises(LedgerLost):
        await ledger.commit(other, 1, LedgerTransaction(acquire=[("s", 1)]))
    assert await ledger.open(other, 2) == PoolState(8)


def test_the_audit_finds_blocks_of_two_cache_groups() -> None:
    held = PoolState(8, {"s": {0: None}, "t.1": {0: None}}, {0: 2}, {0: A}, {A: 0})
    assert audit(held, 2) == ["block 0: held for cache groups 0 and 1"]
    name = in_group(A, 1)
    published = PoolState(8, {"s": {0: None}}, {0: 1}, {0: name}, {name: 0})
    assert audit(published, 2) == ["block 0: held for cache group 0, published for 1"]


async def test_remove_spares_another_identity(ledger: KVLedger) -> None:
    await ledger.open(POOL, 1)
    await ledger.remove(PoolIdentity("pool", "second", "model", 8, 4), 1)
    assert await ledger.pools() == ["pool"]
    assert await state_of(ledger) == PoolState(8)


async def test_a_large_pool(ledger: KVLedger) -> None:
    """More blocks than Lua can pass in one call go in and out, by every way there is."""
    count = 20_000
    pool = PoolIdentity("large", "first", "model", count, 16)
    await ledger.open(pool, 1)
    names = [block.to_bytes(16, "big") for block in range(count)]
    await ledger.commit(pool, 1, LedgerTransaction(acquire=[("s", block) for block in range(count)]))
    await ledger.commit(pool, 1, LedgerTransaction(publish=list(enumerate(names))))
    state = await state_of(ledger, "large")
    assert len(state.refs) == len(state.index) == len(state.holds["s"]) == count
    await ledger.seed(pool, 2, state)
    assert await state_of(ledger, "large") == state
    opened = await ledger.open(pool, 3)
    assert len(opened.cached) == count
    assert audit(opened) == []
    await ledger.commit(pool, 3, LedgerTransaction(evict=list(range(count))))
    assert await state_of(ledger, "large") == PoolState(count)


# Blocks up to 3 are of the first of two cache groups, unless a transaction is not sound.
_GROUPED = PoolIdentity("pool", "first", "model", num_blocks=8, block_size=4, windows=(0, 1024))
_HOLDERS, _BLOCKS = st.sampled_from(["s", "t", "s.1", "t.1"]), st.integers(-1, 8)
_FIRST, _SECOND = st.integers(-1, 3), st.integers(4, 8)
_ACQUIRED = st.tuples(st.sampled_from("st"), _FIRST) | st.tuples(st.sampled_from(["s.1", "t.1"]), _SECOND)
_PUBLISHED = st.tuples(_FIRST, st.sampled_from([A, B])) | st.tuples(
    _SECOND, st.sampled_from([in_group(A, 1), in_group(B, 1)])
)
_TRANSACTIONS = st.builds(
    LedgerTransaction,
    publish=st.lists(_PUBLISHED, max_size=2),
    release=st.lists(st.tuples(_HOLDERS, _BLOCKS, st.integers(1, 99), st.sampled_from([0, 1000, 2**42])), max_size=2),
    evict=st.lists(_BLOCKS, max_size=2),
    share=st.lists(st.tuples(_HOLDERS, _BLOCKS), max_size=2),
    acquire=st.lists(_ACQUIRED, max_size=3),
    step=st.integers(0, 2**40),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(transactions=st.lists(_TRANSACTIONS, max_size=30))
async def test_both_implementations_agree(redis_url: str, transactions: list[LedgerTransaction]) -> None:
    """Any sequence of transactions, sound or not, leaves both in the same sound state."""
    memory, redis = MemoryLedger(), RedisLedger.connect(redis_url)
    await redis.redis.flushall()
    for each in (memory, redis):
        await each.open(_GROUPED, 1)
    for transaction in transactions:
        outcomes = []
        for each in (memory, redis):
            try:
                await each.commit(_GROUPED, 1, transaction)
            except LedgerConflict as error:
                outcomes.append(str(error).removeprefix("pool pool: "))
            else:
                outcomes.append("")
        assert outcomes[0] == outcomes[1]
        assert await state_of(memory) == await state_of(redis)
    await redis.close()
