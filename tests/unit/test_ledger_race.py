"""Schedulers that fight for one pool: only the highest epoch's transactions apply, and the books stay sound."""

import asyncio
import multiprocessing
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from quire.engine.api.errors import LedgerConflict, StaleEpoch
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.resources.ledger.redis import RedisLedger
from quire.engine.resources.ledger.transaction import LedgerTransaction
from support.contender import NUM_BLOCKS, POOL, Contender, fight
from support.redis_server import running_redis


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


async def check(ledger: KVLedger, owner: Contender) -> None:
    """The ledger holds exactly what its owner believes, and every block once."""
    found = await ledger.snapshot(POOL.name)
    assert found == (POOL, owner.state)
    state = owner.state
    assert audit(state) == []
    taken = state.refs.keys() | state.cached.keys()
    num_free = sum(block not in taken for block in range(NUM_BLOCKS))
    assert num_free + len(state.cached) + len(state.refs) == NUM_BLOCKS


async def until_refused(contender: Contender, most: int) -> int:
    """How many of its commits were taken in a row."""
    for count in range(most):
        if not await contender.commit():
            return count
        await asyncio.sleep(0)
    return most


async def test_the_higher_epoch_wins(ledger: KVLedger) -> None:
    """The old one works as fast as it can while the new one takes over: nothing of it applies from then on."""
    old, new = Contender(ledger, 1), Contender(ledger, 2)
    await old.open()
    for _ in range(25):
        running = asyncio.create_task(until_refused(old, 100_000))
        for _ in range(random.Random(old.epoch).randrange(8)):
            await asyncio.sleep(0)
        await new.open()
        opened = old.num_applied
        assert await until_refused(new, 10) == 10
        await running
        await check(ledger, new)
        assert old.num_applied <= opened + 1, "an answer may have been under way"
        for attempt in (old.commit(), old.commit()):
            assert not await attempt
        await check(ledger, new)
        old, new = new, old


async def test_commits_of_both_at_once(ledger: KVLedger) -> None:
    """Many commits in flight from both sides: all of the owner's apply, none of the other's."""
    rounds = 20
    for i in range(rounds):
        old, new = Contender(ledger, i), Contender(ledger, i + rounds)
        await old.open()
        await until_refused(old, 5)
        await new.open()
        before = new.state.step
        stale = [old.commit() for _ in range(10)]
        taken, *refused = await asyncio.gather(until_refused(new, 10), *stale)
        assert taken == 10
        assert refused == [False] * 10
        assert new.state.step == before + 10
        await check(ledger, new)


async def test_epochs_that_open_in_turns(ledger: KVLedger) -> None:
    """Each opens again as soon as it has lost; after each takeover the newer one owns everything."""
    contenders = [Contender(ledger, seed) for seed in range(3)]
    for turn in range(60):
        contender = contenders[turn % 3]
        await contender.open()
        assert contender.state.holds == {}
        assert await until_refused(contender, 3) == 3
        await check(ledger, contender)
        for other in contenders:
            if other is not contender and other.epoch:
                with pytest.raises(StaleEpoch):
                    await ledger.open(POOL, other.epoch)
                with pytest.raises(StaleEpoch):
                    await ledger.seed(POOL, other.epoch, other.state)
        await check(ledger, contender)


async def test_one_epoch_cannot_acquire_twice(ledger: KVLedger) -> None:
    """Even two tasks of the same epoch: of proposals for the same block exactly one is taken."""
    await ledger.open(POOL, 1)
    for block in range(NUM_BLOCKS):
        attempts = (ledger.commit(POOL, 1, LedgerTransaction(acquire=[(str(i), block)])) for i in range(8))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [LedgerConflict] * 7
    found = await ledger.snapshot(POOL.name)
    assert found is not None
    assert audit(found[1]) == []
    assert found[1].refs == dict.fromkeys(range(NUM_BLOCKS), 1)


async def test_two_processes(redis_url: str) -> None:
    """Hundreds of transactions over each other: a refusal is only ever for the epoch, and the books stay sound."""
    spawn = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[int] = spawn.Queue()
    met, seen = spawn.Event(), spawn.Event()
    ledger = RedisLedger.connect(redis_url)
    try:
        await ledger.redis.flushall()
        processes = [
            spawn.Process(target=fight, args=(redis_url, seed, 300, met, seen, answers), daemon=True) for seed in (3, 5)
        ]
        for process in processes:
            process.start()
        num_checks = 0
        while {process.exitcode for process in processes} in ({None}, {None, 0}):
            found = await ledger.snapshot(POOL.name)
            if found is not None:
                assert audit(found[1]) == []
                num_checks += 1
                if num_checks > 50:
                    seen.set()
            await asyncio.sleep(0.002)
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert answers.get(timeout=60) + answers.get(timeout=60) > 0, "they met"
        assert num_checks > 50
        last = Contender(ledger, 7)
        await last.open()
        assert await until_refused(last, 10) == 10
        await check(ledger, last)
    finally:
        await ledger.close()
