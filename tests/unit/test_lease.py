"""The leader's lease against real Redis servers: who leads, until when, and by which epoch."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis, RedisCluster

from quire.engine.api.errors import StaleEpoch
from quire.engine.api.limits import MAX_COUNTER
from quire.engine.resources.ledger.connection import close, connect
from quire.engine.resources.ledger.lease import Holder, LeaderLease, Term, monotonic
from quire.services.scheduler.candidate import Candidate
from support.redis_server import RedisServer, redis_cluster, redis_server

LEASE, EPOCH = "quire:{leader}:lease", "quire:{leader}:epoch"
# One that does not end while a test runs, and one that ends soon.
LONG, SHORT = 600.0, 0.5
SECONDS = 60


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis | RedisCluster]:
    server.call("FLUSHALL")
    made = connect(server.url)
    yield made
    await close(made)


async def take(lease: LeaderLease, above: int = 0) -> Term:
    term = await lease.take(above)
    assert isinstance(term, Term)
    return term


async def test_one_of_many_leads(redis: Redis) -> None:
    leases = [LeaderLease(redis, f"{index}", LONG) for index in range(8)]
    answers = await asyncio.gather(*(lease.take() for lease in leases))
    (term,) = [answer for answer in answers if isinstance(answer, Term)]
    assert term.epoch == 1
    assert term.is_held
    holders = [answer for answer in answers if isinstance(answer, Holder)]
    assert {(each.leader, each.epoch, each.beat, each.seconds) for each in holders} == {(term.leader, 1, 0, LONG)}
    assert all(LONG - SECONDS < each.seconds_left <= LONG for each in holders)


async def test_every_term_has_a_higher_epoch(redis: Redis) -> None:
    one, other = LeaderLease(redis, "one", LONG), LeaderLease(redis, "other", LONG)
    epochs = []
    for lease in (one, one, other, one):
        term = await take(lease)
        epochs.append(term.epoch)
        await lease.release(term)
    epochs.append((await take(other, above=100)).epoch)
    epochs.append((await take(other, above=5)).epoch)
    assert epochs == sorted(set(epochs))
    assert epochs[-2:] == [101, 102]
    assert (await take(other, above=MAX_COUNTER)).epoch == MAX_COUNTER


async def test_a_lease_ends_unless_it_is_renewed(redis: Redis) -> None:
    one, other = LeaderLease(redis, "one", SHORT), LeaderLease(redis, "other", LONG)
    term = await take(one)
    for _ in range(3):
        await one.renew(term)
    async with asyncio.timeout(SECONDS):
        while isinstance(held := await other.take(), Holder):
            assert held.leader == "one"
            await other.released(held)
    assert held.epoch > term.epoch
    # By its own clock it was over before it was over in Redis.
    assert not term.is_held
    with pytest.raises(StaleEpoch, match="held by other, ours was of epoch 1") as stale:
        await one.renew(term)
    assert stale.value.owner == held.epoch
    await one.release(term)
    assert isinstance(await one.take(), Holder)


async def test_who_waits_is_told_of_a_release(redis: Redis) -> None:
    one, other = LeaderLease(redis, "one", LONG), LeaderLease(redis, "other", LONG)
    term = await take(one)
    waiting = asyncio.create_task(Candidate(other).elected())
    async with asyncio.timeout(SECONDS):
        # Else its first question may come behind the release.
        while not (await redis.info("clients"))["blocked_clients"]:
            await asyncio.sleep(0.01)
        await one.release(term)
        assert (await waiting).epoch > term.epoch


async def test_a_renewal_that_comes_behind_the_release_does_not_bring_the_lease_back(redis: Redis) -> None:
    lease = LeaderLease(redis, "one", LONG)
    term = await take(lease)
    await lease.release(term)
    with pytest.raises(StaleEpoch, match="held by nobody"):
        await lease.renew(term)
    assert not await redis.exists(LEASE)


@pytest.mark.parametrize("lost", [(LEASE,), (EPOCH,), (LEASE, EPOCH)], ids="+".join)
async def test_a_leader_takes_back_what_redis_lost(redis: Redis, lost: tuple[str, ...]) -> None:
    lease = LeaderLease(redis, "one", LONG)
    term = await take(lease, above=41)
    await redis.delete(*lost)
    await lease.renew(term)
    held = await LeaderLease(redis, "other", LONG).take()
    assert isinstance(held, Holder)
    assert (held.leader, held.epoch) == ("one", 42)
    assert int(await redis.get(EPOCH)) == 42


async def test_a_leader_does_not_take_back_what_another_had(redis: Redis) -> None:
    """Its lease is lost, another leads for a while and goes."""
    one, other = LeaderLease(redis, "one", LONG), LeaderLease(redis, "other", LONG)
    term = await take(one)
    await redis.delete(LEASE)
    await other.release(await take(other))
    with pytest.raises(StaleEpoch):
        await one.renew(term)


async def test_a_lease_that_redis_does_not_end_is_taken_from_a_leader_that_does_not_renew(redis: Redis) -> None:
    """As if Redis's clock had been set back, or somebody had removed the end."""
    one, other = LeaderLease(redis, "one", SHORT), LeaderLease(redis, "other", SHORT)
    term = await take(one)
    await redis.persist(LEASE)
    seen = await other.take()
    assert isinstance(seen, Holder)
    await one.renew(term)
    await redis.persist(LEASE)
    # It has renewed since.
    assert isinstance(await other.take(abandoned=seen), Holder)
    async with asyncio.timeout(SECONDS):
        assert (await Candidate(other).elected()).epoch > term.epoch


async def test_a_term_is_held_only_as_long_as_its_lease() -> None:
    term = Term(1, "one", until=monotonic())
    assert not term.is_held
    waiting = asyncio.create_task(term.held())
    await asyncio.sleep(0)
    assert not waiting.done()
    term.extend(monotonic() + LONG)
    async with asyncio.timeout(SECONDS):
        await waiting
    await term.held()


async def test_a_candidate_renews_until_another_leads(redis: Redis) -> None:
    candidate, other = Candidate(LeaderLease(redis, "one", SHORT)), LeaderLease(redis, "other", LONG)
    term = await candidate.elected()
    keeping = asyncio.create_task(candidate.keep(term))
    async with asyncio.timeout(SECONDS):
        while (held := await other.take()) and isinstance(held, Holder) and held.beat < 5:
            await asyncio.sleep(0.01)
        await redis.hset(LEASE, "leader", "thief")
        with pytest.raises(StaleEpoch, match="held by thief"):
            await keeping


async def test_redis_that_does_not_answer(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asks asks again: a standby, a leader, and one that has just come."""
    caplog.set_level("INFO")
    with redis_server() as own:
        made = connect(own.url)
        one, other = (Candidate(LeaderLease(made, name, SHORT)) for name in ("one", "other"))
        term = await one.elected()
        keeping = asyncio.create_task(one.keep(term))
        told: asyncio.Queue[str] = asyncio.Queue()
        waiting = asyncio.create_task(other.elected(0, told.put))
        async with asyncio.timeout(SECONDS):
            assert await told.get() == "standby: one leads in epoch 1"
            own.stop()
            while term.is_held or "standby: Redis" not in caplog.text or "cannot be renewed" not in caplog.text:
                await asyncio.sleep(0.01)
            told = asyncio.Queue()
            third = asyncio.create_task(Candidate(LeaderLease(made, "third", SHORT)).elected(0, told.put))
            assert await told.get() == f"standby: Redis: cannot connect to {own.address}: Connection refused"
            own.start()
            # Redis has forgotten everything: whoever comes first leads.
            while not (waiting.done() or third.done() or term.is_held):
                await asyncio.sleep(0.01)
        for task in (keeping, waiting, third):
            task.cancel()
        await asyncio.gather(keeping, waiting, third, return_exceptions=True)
        await close(made)


async def test_a_leader_that_loses_the_lead_may_find_no_redis(caplog: pytest.LogCaptureFixture) -> None:
    with redis_server() as own:
        made = connect(own.url)
        candidate = Candidate(LeaderLease(made, "one", SHORT))
        term = await candidate.elected()
        own.stop()
        again = asyncio.create_task(candidate.elected(above=term.epoch))
        async with asyncio.timeout(SECONDS):
            while "standby: Redis" not in caplog.text:
                await asyncio.sleep(0.01)
            own.start()
            assert (await again).epoch > term.epoch
        await close(made)


async def test_the_lease_in_a_cluster(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as nodes:
        made = connect(f"redis+cluster://{nodes[0].address}")
        one, other = LeaderLease(made, "one", LONG), LeaderLease(made, "other", LONG)
        term = await take(one)
        await one.renew(term)
        waiting = asyncio.create_task(Candidate(other).elected())
        await one.release(term)
        async with asyncio.timeout(SECONDS):
            assert (await waiting).epoch > term.epoch
        await close(made)
