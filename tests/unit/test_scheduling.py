"""What the scheduler's policies promise, each shown on the real scheduler with both books checked on every step."""

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import Overloaded
from quire.engine.api.options import CacheParams, RequestOptions, Retention
from quire.engine.config import SchedulerConfig
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.scheduling.chunk_budget import ChunkBudget
from quire.engine.scheduling.queue import WaitingQueue
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.scheduling.tenants.token_shares import TokenShares
from quire.engine.sequence import SequenceState
from quire.engine.step import DeviceKind, StepResult
from support.rig import Rig, new_sequence
from support.simulated_executor import executor_info

BLOCK = 4


@pytest.fixture
def make_rig() -> Iterator[object]:
    rigs: list[Rig] = []

    def make(num_blocks: int = 12, num_slots: int = 8, **settings: object) -> Rig:
        config = SchedulerConfig.model_validate(settings)
        rigs.append(Rig(config, executor_info(num_blocks, BLOCK, num_slots), MemoryLedger()))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


def unlike(index: int, length: int) -> list[int]:
    """A prompt that shares no first block with that of another index, and never ends by itself soon."""
    return [1 + (index >> bit & 1) for bit in range(8)][:length] + [3] * max(0, length - 8)


def states(rig: Rig) -> list[SequenceState]:
    return [client.sequence.state for client in rig.clients.values()]


def turn(rig: Rig, times: int = 1) -> None:
    for _ in range(times):
        rig.step()
        rig.complete()


def num_paused(rig: Rig) -> int:
    """Sequences that ran and do not run now."""
    off = (SequenceState.WAITING, SequenceState.PAUSING)
    sequences = [client.sequence for client in rig.clients.values()]
    return sum(sequence.was_started and sequence.state in off for sequence in sequences)


# ── capacity ──


def test_guaranteed_no_evict_sets_aside_to_completion(make_rig) -> None:
    rig = make_rig(num_blocks=6)
    rig.arrive(unlike(0, 4), 13, ignore_eos=True)  # 4 blocks in the end
    rig.arrive(unlike(1, 4), 13, ignore_eos=True)
    turn(rig)
    assert states(rig)[1] is SequenceState.WAITING
    assert rig.scheduler.num_running == 1


def test_cached_blocks_count_as_held(make_rig) -> None:
    """Two that share three of five blocks fit where two strangers do not."""
    prompt = [1, 2, 1, 2, 2, 2, 1, 1, 1, 1, 2, 2, 3]
    rig = make_rig(num_blocks=7)
    rig.arrive(prompt, 1)
    rig.settle()
    for _ in range(2):
        rig.arrive(prompt, 5)
    rig.step()
    assert rig.scheduler.num_running == 2


def test_static_batch_waits_for_the_last(make_rig) -> None:
    rig = make_rig(num_blocks=64, capacity_policy="STATIC_BATCH")
    rig.arrive(unlike(0, 4), 2)
    rig.arrive(unlike(1, 4), 9)
    turn(rig)
    rig.arrive(unlike(2, 4), 2)
    while len(rig.clients) == 3 or (len(rig.clients) == 2 and rig.scheduler.num_running):
        assert states(rig)[-1] is SequenceState.WAITING
        turn(rig)
    turn(rig, 3)
    assert states(rig) == [] or states(rig)[-1] is not SequenceState.WAITING


def test_max_utilization_runs_more_at_once_and_pauses(make_rig) -> None:
    running, paused = {}, 0
    for policy in ("GUARANTEED_NO_EVICT", "MAX_UTILIZATION"):
        rig = make_rig(num_blocks=16, capacity_policy=policy)
        for index in range(6):
            rig.arrive(unlike(index, 8), 30, ignore_eos=True)
        most = 0
        while rig.clients:
            turn(rig)
            most = max(most, rig.scheduler.num_running)
            if policy == "MAX_UTILIZATION":
                paused += num_paused(rig)
            else:
                assert not num_paused(rig)
        running[policy] = most
    assert running["MAX_UTILIZATION"] > running["GUARANTEED_NO_EVICT"]
    assert paused


def test_what_was_paused_starts_before_anything_new(make_rig) -> None:
    rig = make_rig(num_blocks=16, capacity_policy="MAX_UTILIZATION", max_passes=100)
    for index in range(6):
        rig.arrive(unlike(index, 8), 30, ignore_eos=True)
    while not num_paused(rig):
        turn(rig)
    early = set(rig.clients)
    rig.arrive(unlike(7, 1), 1)  # so small that it always fits
    late = (set(rig.clients) - early).pop()
    while late in rig.clients and rig.clients[late].sequence.state is SequenceState.WAITING:
        turn(rig)
    waiting = [c.sequence for c in rig.clients.values() if c.sequence.state is SequenceState.WAITING]
    assert not [sequence for sequence in waiting if sequence.was_started]


# ── order ──


def test_small_ones_pass_a_large_one_a_bounded_number_of_times(make_rig) -> None:
    rig = make_rig(num_blocks=12, max_passes=3)
    rig.arrive(unlike(0, 8), 33, ignore_eos=True)  # 10 blocks: two are left
    turn(rig)
    rig.arrive(unlike(1, 8), 25)  # 8 blocks: must wait
    large = list(rig.clients)[-1]
    for index in range(2, 10):
        rig.arrive(unlike(index, 4), 2)
    sequences = {handle: client.sequence for handle, client in rig.clients.items()}
    rig.settle()
    order = sorted(sequences, key=lambda handle: int(sequences[handle].holder))
    assert order.index(large) == 4, "the first, and three that passed"


def test_strict_order_when_nobody_may_pass(make_rig) -> None:
    rig = make_rig(num_blocks=12, max_passes=0)
    rig.arrive(unlike(0, 8), 33, ignore_eos=True)
    rig.arrive(unlike(1, 8), 25)
    rig.arrive(unlike(2, 4), 2)
    turn(rig, 3)
    assert states(rig)[1:] == [SequenceState.WAITING] * 2


def test_priority_goes_first_and_waiting_outweighs_it() -> None:
    now = 0.0
    queue = WaitingQueue(10, 10**6, ageing=10.0, clock=lambda: now, tenants=TokenShares())
    low, high, later = new_sequence(1), new_sequence(2, priority=2), new_sequence(3, priority=1)
    queue.append(low)
    now = 15.0
    queue.append(high)  # 20 s ahead, came 15 s later
    queue.append(later)  # 10 s ahead, came 15 s later
    restored = new_sequence(4)
    queue.restore(restored)
    assert list(queue) == [restored, high, low, later]


@pytest.mark.parametrize(("now", "is_started"), [(0.84, True), (0.86, False), (2.0, False)])
def test_what_would_come_too_late_is_not_started(now: float, is_started: bool) -> None:
    """The only place is taken; a step takes 0.15 s, so the second request must start 0.15 s before its deadline."""
    clock = [0.0]
    info = executor_info(num_slots=1)
    scheduler = Scheduler(SchedulerConfig(), info, PoolState(info.num_blocks), clock=lambda: clock[0])
    first, second = new_sequence(1), new_sequence(2)
    second.request = replace(second.request, options=RequestOptions(deadline_ms=1000))
    for sequence in (first, second):
        scheduler.add(sequence)
    assert scheduler.schedule() is not None
    scheduler.take_transaction()
    clock[0] = now
    scheduler.update(StepResult(1, np.array([0], np.int32), np.array([1], np.int32), 150_000))
    plan = scheduler.schedule()
    assert (plan is not None, scheduler.take_late()) == (is_started, [] if is_started else [second])
    assert second.is_finished is not is_started
    assert second.finish_reason is (None if is_started else FinishReason.ABORTED)
    assert scheduler.num_waiting == 0


def test_the_queue_is_bounded_in_requests_and_tokens() -> None:
    queue = WaitingQueue(3, 100, ageing=1.0, clock=lambda: 0.0, tenants=TokenShares())
    queue.append(new_sequence(1, length=60))
    with pytest.raises(Overloaded, match="120 tokens would wait, at most 100 may"):
        queue.append(new_sequence(2, length=60))
    queue.append(new_sequence(3, length=20))
    queue.append(new_sequence(4, length=20))
    with pytest.raises(Overloaded, match="3 requests wait, at most 3 may"):
        queue.append(new_sequence(5, length=1))
    assert queue.num_tokens == 100
    for sequence in list(queue):
        queue.remove(sequence)
    queue.append(new_sequence(6, length=500))  # alone, any length may wait
    assert queue.num_tokens == 500


# ── micro-batch ──


def chunks(rig: Rig) -> list[tuple[int, int]]:
    """(handle, context tokens) of the next step."""
    before = {c.request.handle: c.sequence.num_scheduled for c in rig.clients.values()}
    rig.step()
    after = {c.request.handle: c.sequence.num_scheduled for c in rig.clients.values()}
    rig.complete()
    return [(handle, after[handle] - before[handle]) for handle in after if after[handle] > before[handle]]


def test_first_come_first_served_chunks(make_rig) -> None:
    rig = make_rig(num_blocks=64, max_num_tokens=24, micro_batch_policy="FIRST_COME_FIRST_SERVED")
    for index in range(3):
        rig.arrive(unlike(index, 21), 1)
    assert [chunks(rig) for _ in range(3)] == [[(1, 21), (2, 3)], [(2, 18), (3, 4)], [(3, 17)]]


def test_equal_progress_chunks(make_rig) -> None:
    rig = make_rig(num_blocks=64, max_num_tokens=24, micro_batch_policy="EQUAL_PROGRESS")
    for token, length in ((4, 21), (5, 21), (6, 40)):
        rig.arrive([token] * length, 1)
    # Blocks in turn; the third starts when the step has room for it.
    assert [chunks(rig) for _ in range(4)] == [
        [(1, 12), (2, 12)],
        [(1, 8), (2, 8), (3, 8)],
        [(1, 1), (2, 1), (3, 22)],
        [(3, 10)],
    ]


def test_generation_goes_first(make_rig) -> None:
    """Beside a long prompt every generating sequence gets its token in every step."""
    rig = make_rig(num_blocks=64, max_num_tokens=8)
    for index in range(3):
        rig.arrive(unlike(index, 4), 20)
    turn(rig, 3)
    generating = [c for c in rig.clients.values() if c.sequence.state is SequenceState.GENERATION]
    rig.arrive(unlike(5, 100), 2)
    turn(rig)
    for _ in range(5):
        before = [len(client.tokens) for client in generating]
        turn(rig)
        assert [len(client.tokens) for client in generating if client.num_ends == 0] == [
            count + 1 for count, client in zip(before, generating, strict=True) if client.num_ends == 0
        ]


def test_the_chunk_budget_follows_measured_times() -> None:
    budget = ChunkBudget(target_itl_ms=10, smallest=16)
    assert budget.limit(512, num_generating=4, backlog=1000) == 512, "nothing is known yet"
    for _ in range(50):
        budget.observe(num_context=0, num_generating=4, compute_us=4_000)
        budget.observe(num_context=100, num_generating=4, compute_us=4_000 + 100 * 50)
    assert budget.limit(512, num_generating=4, backlog=1000) == pytest.approx(6_000 / 50, abs=1)
    assert budget.limit(512, num_generating=0, backlog=1000) == 512
    for _ in range(50):
        budget.observe(num_context=0, num_generating=4, compute_us=12_000)
    assert budget.limit(512, num_generating=4, backlog=1000) == 16, (
        "context goes on even where the target cannot be met"
    )
    assert ChunkBudget(None, 16).limit(512, 4, 1000) == 512


@pytest.mark.parametrize(
    ("asked", "device", "little", "much"),
    [(None, DeviceKind.CPU, 1920, 4096), (10.0, DeviceKind.CPU, 120, 120), (None, DeviceKind.GPU, 4096, 4096)],
)
def test_the_aim_of_a_device_yields_to_a_backlog(
    asked: float | None, device: DeviceKind, little: int, much: int
) -> None:
    info = replace(executor_info(64, 16), device=device)
    budget = ChunkBudget.configured(SchedulerConfig(target_itl_ms=asked), info, 512)
    budget.observe(num_context=0, num_generating=4, compute_us=4_000)
    budget.observe(num_context=100, num_generating=4, compute_us=4_000 + 100 * 50)
    assert budget.limit(4096, num_generating=4, backlog=1024) == little
    assert budget.limit(4096, num_generating=4, backlog=1025) == much


# ── cache ──


def test_a_prompt_waits_for_the_block_that_another_computes(make_rig) -> None:
    prompt = [1, 2, 1, 1, 2, 2, 1, 2, 3]
    rig = make_rig(num_blocks=32)
    for _ in range(2):
        rig.arrive(prompt, 4, ignore_eos=True)
    rig.step()
    assert states(rig) == [SequenceState.GENERATION, SequenceState.WAITING]
    rig.complete()
    rig.step()
    assert list(rig.clients.values())[1].sequence.num_cached == 8


def test_a_block_that_agrees_in_part_is_copied(make_rig) -> None:
    rig = make_rig(num_blocks=32)
    rig.arrive([1, 2, 1, 1, 2, 2, 1, 2, 3], 1)
    rig.settle()
    rig.arrive([1, 2, 1, 1, 2, 2, 3, 3, 3], 1)
    sequence = next(iter(rig.clients.values())).sequence
    rig.settle()
    assert sequence.num_cached == 6
    assert rig.scheduler.statistics.num_reused_tokens == 4
    assert rig.scheduler.statistics.num_copied_tokens == 2


def test_what_is_computed_again_is_counted(make_rig) -> None:
    rig = make_rig(num_blocks=32)
    rig.arrive([1, 2, 3, 1, 2], 6, ignore_eos=True)
    for _ in range(3):
        rig.step()
        rig.complete()
    assert rig.scheduler.statistics.num_recomputed_tokens == 0
    sequence = next(iter(rig.clients.values())).sequence
    num_known = len(sequence.tokens)
    rig.lose_executor()
    rig.step()
    # The pool is a new one, so nothing is found there.
    assert rig.scheduler.statistics.num_recomputed_tokens == num_known
    rig.settle()


def test_generated_blocks_are_found_too(make_rig) -> None:
    rig = make_rig(num_blocks=32)
    rig.arrive([1, 2], 12)
    client = next(iter(rig.clients.values()))
    rig.settle()
    follow_up = [1, 2, *client.tokens, 3]
    rig.arrive(follow_up, 1)
    sequence = next(iter(rig.clients.values())).sequence
    rig.settle()
    assert sequence.num_cached >= (1 + len(client.tokens)) // BLOCK * BLOCK > 0


@pytest.mark.parametrize("cache", [CacheParams(salt="mine"), CacheParams(opt_out=True)])
def test_salted_and_private_requests_share_nothing(make_rig, cache: CacheParams) -> None:
    prompt = [1, 2, 1, 1, 2, 2, 1, 2, 3]
    rig = make_rig(num_blocks=32)
    for params in (CacheParams(), cache, CacheParams(salt="yours")):
        rig.arrive(prompt, 1, cache=params)
        sequence = next(iter(rig.clients.values())).sequence
        rig.settle()
        assert sequence.num_cached == 0
    rig.arrive(prompt, 1, cache=cache)
    sequence = next(iter(rig.clients.values())).sequence
    rig.settle()
    assert sequence.num_cached == (0 if cache.opt_out else 8)


def cached_after_pressure(rig: Rig, keep: Retention | None) -> int:
    """Tokens of a prompt still cached when others have filled the pool after it."""
    prompt = [4, 5, 4, 4, 5, 5, 4, 5, 3]
    rig.arrive(prompt, 1, cache=CacheParams(retention=(keep,) if keep else ()))
    rig.settle()
    for index in range(16, 22):
        rig.arrive(unlike(index, 9), 1)
        rig.settle()
    rig.arrive(prompt, 1)
    sequence = next(iter(rig.clients.values())).sequence
    rig.settle()
    return sequence.num_cached // BLOCK * BLOCK


def test_retention_keeps_what_is_dear(make_rig) -> None:
    assert cached_after_pressure(make_rig(num_blocks=8), None) == 0
    assert cached_after_pressure(make_rig(num_blocks=8), Retention(0, None, 90)) == 8
    assert cached_after_pressure(make_rig(num_blocks=8), Retention(0, 4, 90)) == 4
    assert cached_after_pressure(make_rig(num_blocks=8), Retention(4, 8, 90)) == 8, "a leaf keeps its parents"
    assert cached_after_pressure(make_rig(num_blocks=8), Retention(0, None, 90, duration_ms=0)) == 0, "expired"


# ── load ──


@pytest.mark.long
@pytest.mark.parametrize("policy", ["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"])
def test_a_burst_with_every_tenth_cancelled(make_rig, policy: str) -> None:
    """10,000 requests; the rig audits after every step, and at the end nothing is held."""
    rig = make_rig(
        num_blocks=512, num_slots=256, capacity_policy=policy, max_waiting_requests=10_000, max_num_tokens=4096
    )
    rig.is_thorough = False
    draw = random.Random(1)
    for index in range(10_000):
        rig.arrive([draw.randint(1, 3) for _ in range(draw.randint(1, 12))], draw.randint(1, 12))
        if index % 10 == 9:
            rig.cancel(draw.randrange(10**6))
    assert len(rig.clients) == 9_000
    rig.settle()


def test_what_was_accepted_is_accepted_again(make_rig) -> None:
    """A new scheduler takes everything that frontends submit again, though more wait than new requests may."""
    rig = make_rig(num_blocks=32, num_slots=1, max_waiting_requests=2)
    rig.arrive(unlike(0, 4), 9, ignore_eos=True)
    turn(rig, 3)
    for index in (1, 2):
        rig.arrive(unlike(index, 4), 3)
    rig.lose_scheduler()
    assert rig.scheduler.num_waiting == 3
    rig.arrive(unlike(3, 4), 3)  # a new one is refused
    assert rig.scheduler.num_waiting == 3
