"""Plug-ins by name and by argument, and what becomes of those that break an invariant."""

from collections.abc import Callable, Collection, Iterable
from collections.abc import Sequence as List
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest

from quire.engine.api.errors import InvalidRequest, PluginError, RequestError, StartupError
from quire.engine.api.options import RequestOptions
from quire.engine.config import ExecutorConfig, SchedulerConfig
from quire.engine.request import Request
from quire.engine.resources.base import ResourceManager
from quire.engine.resources.block_pool import Keep
from quire.engine.resources.eviction import EvictionOrder
from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.scheduled_step import ScheduledStep
from quire.engine.scheduling import plugins
from quire.engine.scheduling.capacity.guaranteed_no_evict import GuaranteedNoEvict
from quire.engine.scheduling.micro_batch.first_come_first_served import FirstComeFirstServed
from quire.engine.scheduling.plugins import KV_CACHE_MANAGERS, Plugins, components, group_of
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.scheduling.tenants.base import TenantPolicy
from quire.engine.sequence import Sequence
from quire.engine.step import StepResult
from support.rig import new_request
from support.simulated_executor import EOS, executor_info

NAMES = ("capacity_policy", "micro_batch_policy", "tenant_policy", "kv_cache_manager")


class Mine(GuaranteedNoEvict):
    """Nothing but another class."""


def drive(chosen: Plugins, *prompts: list[int], max_tokens: int = 9, num_blocks: int = 12) -> Scheduler:
    """A scheduler that serves these prompts to their ends with some token or other."""
    scheduler = Scheduler(SchedulerConfig(), executor_info(num_blocks), PoolState(num_blocks), plugins=chosen)
    for handle, prompt in enumerate(prompts):
        scheduler.add(Sequence(new_request(handle, prompt, max_tokens, ignore_eos=True), (EOS,)))
    while (plan := scheduler.schedule()) is not None:
        scheduler.take_transaction()
        slots = np.concatenate([plan.context_slots, plan.generation_slots])
        scheduler.update(StepResult(plan.step, slots, np.ones(len(slots), np.int32), 1))
    return scheduler


# ── finding them ──


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a group of entry points have MINE, which is the given object, and BROKEN, which cannot be loaded."""

    def install(setting: str, value: str) -> None:
        group = group_of(setting)
        found = EntryPoints([EntryPoint("MINE", value, group), EntryPoint("BROKEN", "no_such_module:X", group)])
        monkeypatch.setattr(plugins, "entry_points", lambda group: found.select(group=group))

    return install


def test_a_class_of_another_kind_is_refused(installed: Callable[[str, str], None]) -> None:
    for setting in (*NAMES, "resource_managers"):
        installed(setting, "json:JSONDecoder")
        value = ("MINE",) if setting == "resource_managers" else "MINE"
        with pytest.raises(StartupError, match=rf"^{setting}: plug-in 'MINE' is .*JSONDecoder.*, which is no "):
            components(SchedulerConfig.model_validate({setting: value}))


def test_one_that_cannot_be_loaded_is_named(installed: Callable[[str, str], None]) -> None:
    installed("capacity_policy", "json:loads")
    with pytest.raises(StartupError, match="'BROKEN' cannot be loaded: ModuleNotFoundError"):
        components(SchedulerConfig(capacity_policy="BROKEN"))


def test_an_unknown_name_is_refused_with_those_that_there_are(installed: Callable[[str, str], None]) -> None:
    installed("capacity_policy", "json:loads")
    with pytest.raises(StartupError, match=r"one of GUARANTEED_NO_EVICT, .*, BROKEN, MINE, got 'NONE'"):
        components(SchedulerConfig(capacity_policy="NONE"))
    with pytest.raises(StartupError, match="resource_managers: must be one of the name of a plug-in, and none"):
        components(SchedulerConfig(resource_managers=("NONE",)))


def test_an_argument_goes_before_the_setting() -> None:
    chosen = components(SchedulerConfig(capacity_policy="STATIC_BATCH"), Plugins(capacity_scheduler=Mine))
    assert chosen.capacity_scheduler is Mine
    assert chosen.kv_cache_manager is KV_CACHE_MANAGERS["PAGED"]


def test_one_that_breaks_nothing_serves() -> None:
    scheduler = drive(Plugins(capacity_scheduler=Mine), [1, 2, 3], [4, 5])
    assert (scheduler.num_waiting, scheduler.num_running) == (0, 0)


class Alphabetical(TenantPolicy):
    """Tenants in the order of their names."""

    def level(self, line: str) -> float:
        return float(ord(line))

    def price(self, sequence: Sequence) -> float:
        return 0.0


def test_tenants_can_be_ordered_in_another_way() -> None:
    scheduler = Scheduler(
        SchedulerConfig(), executor_info(12), PoolState(12), plugins=Plugins(tenant_policy=Alphabetical)
    )
    for handle, name in enumerate("cabac"):
        options = RequestOptions(tenant=name)
        scheduler.add(Sequence(replace(new_request(handle, [1, 2]), options=options), (EOS,)))
    assert [sequence.request.options.tenant for sequence in scheduler.waiting] == list("aabcc")


class RaisesInTurn(Alphabetical):
    def enter(self, line: str, others: Collection[str]) -> None:
        raise KeyError("my own mistake")


def test_a_tenant_policy_that_raises_fails_the_request() -> None:
    with pytest.raises(RequestError, match=r"plug-in .*RaisesInTurn raised KeyError: 'my own mistake'"):
        drive(Plugins(tenant_policy=RaisesInTurn), [1, 2])


# ── breaking invariants ──


class Raises(GuaranteedNoEvict):
    def reservation(self, sequence: Sequence) -> int:
        raise KeyError("my own mistake")


class RaisesDeeper(KVCacheManager):
    def match(self, sequence: Sequence) -> list[list[int]]:
        return [[int("x")]]


class ReservesLittle(GuaranteedNoEvict):
    def reservation(self, sequence: Sequence) -> int:
        return 0


class FitsAlways(GuaranteedNoEvict):
    def reservation(self, sequence: Sequence) -> int:
        return self.kv.num_to_completion(sequence)

    def fits(self, sequence: Sequence) -> bool:
        return True


class StartsTwice(GuaranteedNoEvict):
    def order(self, waiting: Iterable[Sequence]) -> Iterable[Sequence]:
        return [*waiting, *waiting]


class PausesTwice(GuaranteedNoEvict):
    def victims(self, running: Callable[[], list[Sequence]], num_retiring: int) -> list[Sequence]:
        return running() * 2


class GoesTooFar(FirstComeFirstServed):
    def ends(self, budget: int, sequences: List[Sequence]) -> list[int]:
        return [sequence.num_context + 1 for sequence in sequences]


class GoesBack(FirstComeFirstServed):
    def ends(self, budget: int, sequences: List[Sequence]) -> list[int]:
        return [sequence.num_scheduled - 1 for sequence in sequences]


class FillsTooMuch(FirstComeFirstServed):
    def budget(self, num_generating: int, backlog: int) -> int:
        return 10**6


class FindsAnything(KVCacheManager):
    """Takes any published block for the prefix."""

    def match(self, sequence: Sequence) -> list[list[int]]:
        super().match(sequence)
        return [list(self.pool.state.hashes)[:1] if len(sequence.tokens) > self.block_size else []]


class ForgetsBlocks(KVCacheManager):
    def prepare_resources(self, step: ScheduledStep) -> None:
        pass


class WritesIntoOthers(KVCacheManager):
    """Gives every sequence the blocks of the first."""

    def prepare_resources(self, step: ScheduledStep) -> None:
        super().prepare_resources(step)
        for chunk in step.chunks[1:]:
            chunk.sequence.tables[0].blocks = step.chunks[0].sequence.tables[0].blocks


class EvictsHeld(KVCacheManager):
    class Order(EvictionOrder):
        def pop(self) -> int:
            return super().pop() + 10**6

    eviction_order = Order


class RaisesInTheEnd(ResourceManager):
    def __init__(self, *_: object) -> None:
        pass

    def start(self, sequence: Sequence) -> None:
        pass

    def free_resources(self, sequence: Sequence) -> None:
        raise RuntimeError("cannot let go")


BROKEN = {
    "raised KeyError: 'my own mistake'": Plugins(capacity_scheduler=Raises),
    "raised ValueError: invalid literal": Plugins(kv_cache_manager=RaisesDeeper),
    "raised RuntimeError: cannot let go": Plugins(resource_managers=(RaisesInTheEnd,)),
    "a reservation covers the context": Plugins(capacity_scheduler=ReservesLittle),
    "a sequence starts only if its blocks are free": Plugins(capacity_scheduler=FitsAlways),
    "only waiting sequences start": Plugins(capacity_scheduler=StartsTwice),
    "victims are running sequences": Plugins(capacity_scheduler=PausesTwice),
    "with end at most 5, got": Plugins(micro_batch_scheduler=GoesTooFar),
    "a chunk is [0, end)": Plugins(micro_batch_scheduler=GoesBack),
    "a shared block has the hash of the prefix": Plugins(kv_cache_manager=FindsAnything),
    "blocks cover the tokens computed": Plugins(kv_cache_manager=ForgetsBlocks),
    "is written by the one sequence that holds it": Plugins(kv_cache_manager=WritesIntoOthers),
    "what is evicted is cached": Plugins(kv_cache_manager=EvictsHeld),
}


@pytest.mark.parametrize(("fault", "chosen"), BROKEN.items(), ids=[*BROKEN])
def test_a_broken_plug_in_ends_with_its_name_and_the_invariants(fault: str, chosen: Plugins) -> None:
    culprit = next(filter(None, (*vars(chosen).values(), None)))
    name = culprit[0].__qualname__ if isinstance(culprit, tuple) else culprit.__qualname__
    with pytest.raises(PluginError) as error:
        # Three that differ, then more of what the first had; all together need more blocks than there are.
        drive(chosen, *([token] * 5 for token in (1, 2, 3, 1, 4, 5, 6)), max_tokens=9)
    assert fault in str(error.value)
    assert f".{name} " in str(error.value) or f".{name}." in str(error.value)


def test_a_step_has_no_more_tokens_than_its_budget() -> None:
    with pytest.raises(PluginError, match=r"FillsTooMuch .*room for 8192 context tokens, got 9000"):
        drive(Plugins(micro_batch_scheduler=FillsTooMuch), [1] * 9000, num_blocks=3000)


class RefusesOdd(RaisesInTheEnd):
    """Refuses prompts of odd length, and fails on long ones."""

    def validate(self, request: Request) -> None:
        if len(request.prompt) > 8:
            raise OSError("out of reach")
        if len(request.prompt) % 2:
            raise InvalidRequest("token_ids", len(request.prompt), "must be even")

    def free_resources(self, sequence: Sequence) -> None:
        pass


def test_a_refusal_and_a_failure_of_validate_end_that_request_only() -> None:
    scheduler = drive(Plugins(resource_managers=(RefusesOdd,)), [1, 2])
    with pytest.raises(InvalidRequest, match="must be even"):
        scheduler.add(Sequence(new_request(8, [1, 2, 3], 2), ()))
    with pytest.raises(RequestError, match=r"RefusesOdd raised OSError: out of reach"):
        scheduler.add(Sequence(new_request(9, [1] * 9, 2), ()))
    scheduler.add(Sequence(new_request(10, [1] * 4, 2), ()))
    assert scheduler.schedule() is not None


def test_what_fails_at_a_cancel_is_said_by_the_next_step() -> None:
    chosen = Plugins(resource_managers=(RaisesInTheEnd,))
    scheduler = Scheduler(SchedulerConfig(), executor_info(12), PoolState(12), plugins=chosen)
    sequence = Sequence(new_request(1, [1, 2], 5), ())
    scheduler.add(sequence)
    plan = scheduler.schedule()
    assert plan is not None
    scheduler.cancel(sequence)
    with pytest.raises(PluginError, match="cannot let go"):
        scheduler.update(StepResult(plan.step, plan.context_slots, np.ones(1, np.int32), 1))


# ── what delays ──


class OneAtATime(ResourceManager):
    def __init__(self, *_: object) -> None:
        self.running: set[Sequence] = set()
        self.most = 0

    def can_start(self, sequence: Sequence) -> bool:
        return not self.running

    def start(self, sequence: Sequence) -> None:
        self.running.add(sequence)
        self.most = max(self.most, len(self.running))

    def free_resources(self, sequence: Sequence) -> None:
        self.running.discard(sequence)


def test_a_resource_manager_delays_starts() -> None:
    made: list[OneAtATime] = []

    def make(*_: object) -> OneAtATime:
        made.append(OneAtATime())
        return made[0]

    scheduler = drive(Plugins(resource_managers=(make,)), [1, 2], [3, 4], [5, 6])
    assert (scheduler.num_waiting, made[0].most) == (0, 1)


class KeepFirst(KVCacheManager):
    def retention(self, sequence: Sequence) -> List[Keep]:
        first, *others = super().retention(sequence)
        return [replace(first, priority=100), *others]


def test_a_retention_of_ones_own_is_in_the_books() -> None:
    scheduler = drive(Plugins(kv_cache_manager=KeepFirst), [1] * 8)
    ranks = sorted(scheduler.pool.state.cached.values())
    assert ranks[-1] >> 40 == 100
    assert all(rank >> 40 == 35 for rank in ranks[:-1])


def test_settings_of_the_executor_have_no_plug_ins() -> None:
    assert not set(SchedulerConfig.model_fields) & set(ExecutorConfig.model_fields)
