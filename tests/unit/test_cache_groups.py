"""Cache groups: how layers are put together, what a prefix hit needs, and what windows save."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.kv_cache_group import KVCacheGroup, blocks_for, groups_of, tokens_in
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.block_table import GONE
from quire.engine.config import SchedulerConfig
from quire.engine.request import Request
from quire.engine.resources.kv_cache_spec import CacheKind, KVCacheSpec, group_layers, layers_per_block
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.resources.prefix import in_group
from quire.engine.resources.prefix_hit import longest_hit
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.sequence import Sequence, SequenceState
from quire.engine.step import DeviceKind, ExecutorInfo, StepPlan, StepResult, limits_of
from quire.engine.validation import fill_defaults, validate
from quire.services.common.wire import info_from_proto, info_to_proto, plan_from_proto, plan_to_proto
from support.rig import Rig
from support.simulated_executor import executor_info

BLOCK = 4
FULL, WINDOW = KVCacheSpec(CacheKind.FULL, 64), KVCacheSpec(CacheKind.SLIDING, 64, 1024)


def ints(*values: int) -> Int32Array:
    return np.array(values, np.int32)


@pytest.fixture
def make_rig() -> Iterator[object]:
    rigs: list[Rig] = []

    def make(num_blocks: int, windows: tuple[int, ...], num_slots: int = 8, **settings: object) -> Rig:
        config = SchedulerConfig.model_validate(settings)
        rigs.append(Rig(config, executor_info(num_blocks, BLOCK, num_slots, windows=windows), MemoryLedger()))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


def run_until_idle(rig: Rig) -> None:
    while rig.clients:
        rig.step()
        rig.complete()


# ── layers ──


def layers(*counts: tuple[KVCacheSpec, int]) -> list[KVCacheSpec]:
    return [spec for spec, count in counts for _ in range(count)]


@pytest.mark.parametrize(
    ("specs", "per_block", "num_groups"),
    [
        (layers((FULL, 30)), 30, 1),
        (layers((WINDOW, 30)), 30, 1),
        (layers((KVCacheSpec(CacheKind.LATENT, 64), 61)), 61, 1),
        (layers((WINDOW, 22), (FULL, 4)), 4, 7),
        (layers((WINDOW, 29), (FULL, 5)), 5, 7),
        (layers((WINDOW, 40), (FULL, 8)), 8, 6),
        (layers((WINDOW, 52), (FULL, 10)), 10, 7),
        (layers((WINDOW, 12), (FULL, 12)), 12, 2),
        (layers((WINDOW, 99), (FULL, 1)), 15, 8),
    ],
    ids=["full", "sliding", "latent", "1B", "4B", "12B", "27B", "one to one", "one in a hundred"],
)
def test_layers_of_one_spec_share_groups_of_one_size(specs: list[KVCacheSpec], per_block: int, num_groups: int) -> None:
    groups = group_layers(specs, block_size=16, max_model_len=131_072)
    assert (layers_per_block(groups), len(groups)) == (per_block, num_groups)
    assert sorted(layer for group in groups for layer in group.layers) == list(range(len(specs)))
    assert all(specs[layer] == group.spec for group in groups for layer in group.layers)
    windows = [group.cache.window is not None for group in groups]
    assert windows == sorted(windows), "those that see everything come first"


def test_what_cannot_be_grouped_is_refused() -> None:
    with pytest.raises(ValueError, match=r"equally much of each token, got \[64, 128\]"):
        group_layers([FULL, replace(WINDOW, numbers_per_token=128)], 16, 1000)
    with pytest.raises(ValueError, match="SLIDING: sliding layers have a window of at least 1, got None"):
        KVCacheSpec(CacheKind.SLIDING, 64)
    with pytest.raises(ValueError, match="FULL: sliding layers have a window of at least 1, got 5"):
        KVCacheSpec(CacheKind.FULL, 64, 5)


@pytest.mark.parametrize("window", [1, 2, 4, 5, 6, 31])
def test_a_window_is_of_the_positions_that_a_query_sees(window: int) -> None:
    group = KVCacheGroup(window)
    for position in range(100):
        assert group.first_seen(position, BLOCK) == max(0, position - window + 1) // BLOCK


def test_the_longest_sequence_of_a_pool() -> None:
    groups = groups_of((0, 9))
    for num_blocks in range(2, 40):
        longest = tokens_in(groups, num_blocks, BLOCK, 1000)
        assert blocks_for(groups, longest, BLOCK) <= num_blocks < blocks_for(groups, longest + 1, BLOCK)
    assert tokens_in(groups_of((9,)), 4, BLOCK, 1000) == 1000, "a window bounds what a sequence takes"


def test_requests_are_compared_with_the_blocks_of_all_groups() -> None:
    limits = limits_of(executor_info(12, BLOCK, windows=(0, 9)))
    # A window of 9 tokens takes at most 4 blocks; 8 are left for 32 tokens, and the last one needs none.
    validate(ints(*[1] * 20), SamplingParams(max_tokens=13), limits)
    with pytest.raises(InvalidRequest, match=r"needs 13 KV blocks of 4 tokens.* has 12; must be at most 13"):
        validate(ints(*[1] * 20), SamplingParams(max_tokens=14), limits)
    assert fill_defaults(SamplingParams(), 20, limits, fills_context=True).max_tokens == 13


# ── prefixes ──

NAMES = [bytes([index]) * 16 for index in range(6)]


def find(*cached: tuple[int, ...]):  # type: ignore[no-untyped-def]
    """Looks names up among the cached indices of each group; block 10 g + i is index i of group g."""
    blocks = {in_group(NAMES[i], g): 10 * g + i for g, indices in enumerate(cached) for i in indices}
    return blocks.get


def test_a_hit_needs_the_blocks_of_every_group() -> None:
    groups = groups_of((0, 9))  # behind n blocks, the last two are seen
    every = range(6)
    assert longest_hit(groups, NAMES, BLOCK, find(every, every))[1] == [GONE] * 4 + [14, 15]
    assert longest_hit(groups, NAMES, BLOCK, find(every, (4, 5)))[0] == [0, 1, 2, 3, 4, 5]
    # Without block 5 of the window, the prefix ends where two before it are there.
    assert longest_hit(groups, NAMES, BLOCK, find(every, (0, 1, 2, 4))) == [[0, 1, 2], [GONE, 11, 12]]
    assert longest_hit(groups, NAMES, BLOCK, find((0, 1, 3, 4, 5), every)) == [[0, 1], [10, 11]]
    assert longest_hit(groups, NAMES, BLOCK, find(every, (1, 3, 5))) == [[], []]
    assert longest_hit(groups, NAMES, BLOCK, find((), every)) == [[], []]


def test_windows_agree_on_one_prefix() -> None:
    groups = groups_of((9, 5))  # two blocks and one
    found = longest_hit(groups, NAMES, BLOCK, find((0, 1, 2, 4, 5), (1, 4)))
    assert found == [[0, 1], [GONE, 11]]


def test_a_window_alone_is_found_in_the_middle() -> None:
    assert longest_hit(groups_of((9,)), NAMES, BLOCK, find((3, 4))) == [[GONE] * 3 + [3, 4]]
    assert longest_hit(groups_of((1,)), NAMES, BLOCK, find(())) == [[GONE] * 6], "nothing is seen of what is before"


def test_a_conversation_goes_on_behind_what_is_cached(make_rig) -> None:  # type: ignore[no-untyped-def]
    """Also from part of a block, of which each group has a copy."""
    rig = make_rig(40, (0, 9, 5))
    prompt = [1, 2, 3, 4, 5, 6] * 3
    rig.arrive(prompt, 1)
    run_until_idle(rig)
    rig.arrive([*prompt[:15], 6, 6], 6)
    rig.step()
    statistics = rig.scheduler.statistics
    assert (statistics.num_reused_tokens, statistics.num_copied_tokens) == (12, 3)


# ── capacity ──


def serve(info: ExecutorInfo, num_sequences: int, length: int) -> tuple[int, Scheduler]:
    """The most sequences of so many tokens that run at once, all of them unlike."""
    config = SchedulerConfig(max_num_tokens=8192, max_waiting_tokens=2**31)
    scheduler = Scheduler(config, info, PoolState(info.num_blocks))
    for handle in range(num_sequences):
        prompt = np.full(length - 64, 1 + handle, np.int32)
        params = SamplingParams(seed=0, max_tokens=64, ignore_eos=True)
        scheduler.add(Sequence(Request(str(handle), 0, handle, prompt, ints(), params), ()))
    most = 0
    while (plan := scheduler.schedule()) is not None:
        scheduler.take_transaction()
        most = max(most, scheduler.num_running)
        scheduler.update(StepResult(plan.step, sampling(scheduler, plan), sampling(scheduler, plan), 1))
    assert scheduler.num_waiting == scheduler.num_running == 0
    return most, scheduler


def sampling(scheduler: Scheduler, plan: StepPlan) -> Int32Array:
    """Slots that sample: those whose context ends, and those that generate."""
    of_slot = {sequence.slot: sequence for sequence in scheduler.running}
    ends = [slot for slot in plan.context_slots.tolist() if of_slot[slot].state is not SequenceState.CONTEXT]
    return np.array([*ends, *plan.generation_slots.tolist()], np.int32)


def test_five_windows_to_one_carry_four_times_the_sequences() -> None:
    """Gemma 3's shape at 16k tokens: a block of one group takes a sixth of what one of all layers takes."""
    length, num_blocks = 16_384, 2 * 1024
    today = ExecutorInfo("1", "model", 1000, length, num_blocks, 16, 64, (), DeviceKind.GPU)
    grouped = replace(today, num_blocks=6 * num_blocks, cache_windows=(0, *[1024] * 5))
    assert serve(today, 3, length)[0] == 2
    most, scheduler = serve(grouped, 10, length)
    assert most >= 4 * 2
    assert most == 9
    assert scheduler.pool.num_free + scheduler.pool.num_cached == grouped.num_blocks


def test_what_leaves_a_window_is_free_with_the_next_step(make_rig) -> None:  # type: ignore[no-untyped-def]
    """In a window of 9 tokens no sequence that generates holds more than 4 blocks of 4, whatever its length."""
    rig = make_rig(40, (0, 9))
    rig.arrive([1, 2, 3], 80, ignore_eos=True)
    while rig.clients:
        rig.step()
        if rig.clients:
            (sequence,) = (client.sequence for client in rig.clients.values())
            whole, window = sequence.tables
            assert len(whole.held) == len(window.blocks) == len(whole.blocks)
            assert len(window.held) <= 4
            assert window.blocks[: window.num_gone] == [GONE] * window.num_gone
        rig.complete()


def test_a_shared_window_is_promised_to_each_that_shares_it(make_rig) -> None:  # type: ignore[no-untyped-def]
    """Three would start on the four blocks that they share, and none could go on when all have left these."""
    rig = make_rig(14, (17,))
    prefix = [1, 2] * 8
    rig.arrive([*prefix, 5], 1)
    run_until_idle(rig)
    for token in (3, 4, 5):
        rig.arrive([*prefix, token], 40, ignore_eos=True)
    most = 0
    while rig.clients:
        rig.step()
        most = max(most, rig.scheduler.num_running)
        rig.complete()
    assert most == 2


def test_chunks_are_cut_to_the_blocks_that_there_are(make_rig) -> None:  # type: ignore[no-untyped-def]
    """Two prompts that a window of 5 tokens lets in, though not the tokens of both at once."""
    rig = make_rig(8, (5,), max_num_tokens=80)
    for token in (1, 2):
        rig.arrive([token] * 38, 2)
    rig.step()
    scheduled = [client.sequence.num_scheduled for client in rig.clients.values()]
    assert scheduled == [20, 12], "three blocks each are set aside; the two that are left go to the first"
    assert rig.scheduler.pool.num_available == 0
    run_until_idle(rig)


# ── the wire ──


def test_groups_travel() -> None:
    info = executor_info(windows=(0, 1024, 1024))
    assert info_from_proto(info_to_proto(info)) == info
    assert info.cache_groups == (KVCacheGroup(), KVCacheGroup(1024), KVCacheGroup(1024))


def plans(windows: tuple[int, ...]) -> tuple[ExecutorInfo, list[StepPlan]]:
    """Of a sequence that starts behind a cached prefix and grows."""
    info = executor_info(60, BLOCK, windows=windows)
    scheduler = Scheduler(SchedulerConfig(), info, PoolState(info.num_blocks))
    found = []
    for prompt in ([1] * 20, [1] * 20 + [2]):
        params = SamplingParams(seed=0, max_tokens=8, ignore_eos=True)
        scheduler.add(Sequence(Request("1", 0, 1, ints(*prompt), ints(), params), ()))
        while (plan := scheduler.schedule()) is not None:
            scheduler.take_transaction()
            found.append(plan)
            slots = sampling(scheduler, plan)
            scheduler.update(StepResult(plan.step, slots, np.ones(len(slots), np.int32), 1))
    return info, found


def test_plans_travel_with_the_tables_of_all_groups() -> None:
    info, made = plans((0, 9))
    assert any(GONE in start.block_table for plan in made for start in plan.starts)
    assert any(len(plan.append_blocks) == 2 * len(plan.append_slots) > 0 for plan in made)
    for plan in made:
        found = plan_from_proto(plan_to_proto(plan), info, plan.step - 1)
        assert found.append_blocks.tolist() == plan.append_blocks.tolist()
        tables = [start.block_table.tolist() for start in plan.starts]
        assert [start.block_table.tolist() for start in found.starts] == tables


def test_one_group_sends_one_number_for_a_block() -> None:
    """Not a byte more than without groups: a start has its blocks, and an appended block is two numbers."""
    info, made = plans(())
    assert not info_to_proto(info).cache_windows
    for plan in made:
        sent = plan_to_proto(plan)
        assert len(sent.append_blocks) == len(sent.append_slots) == 4 * len(plan.append_slots)
        for start in sent.starts:
            assert len(start.block_table) == 4 * -(-len(start.token_ids) // 4 // BLOCK)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([1, 2, 3, 4, 5], r"starts\[0\].block_table: must be 2 for each of 2, one for each cache group, got 5"),
        ([1, 2, 3, GONE], r"starts\[0\].block_table\[3\]: must be 0 to 59, got -1"),
        ([GONE, 2, 3, 4], r"starts\[0\].block_table\[0\]: must be 0 to 59, got -1"),
        ([1, 2, 3, 60], r"starts\[0\].block_table\[3\]: must be 0 to 59, got 60"),
    ],
)
def test_tables_that_no_sequence_can_have_are_refused(table: list[int], message: str) -> None:
    info, made = plans((0, 3))
    start = replace(made[0].starts[0], token_ids=ints(1, 1, 1, 1, 1, 1, 1), num_computed=6, block_table=ints(*table))
    plan = replace(made[0], starts=(start,))
    with pytest.raises(InvalidRequest, match=message):
        plan_from_proto(plan_to_proto(plan), info, 0)
