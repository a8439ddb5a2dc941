"""Sequences that wait for the executor to compile what they need, and those that it cannot go on with."""

from dataclasses import replace

import pytest

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.config import SchedulerConfig
from quire.engine.preparation import StructurePreparation
from quire.engine.resources import structures
from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.resources.structures import StructureManager
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.sequence import Sequence, SequenceState
from quire.engine.step import SlotFailure
from support.rig import new_request
from support.simulated_executor import EOS, SimulatedExecutor, executor_info

YES, NO = StructuredOutput(choice=("yes",)), StructuredOutput(choice=("no",))
ERROR = InvalidRequest("sampling.structured_output.choice", ("no",), "must compile")


def sequence(handle: int, structure: StructuredOutput | None, max_tokens: int = 3) -> Sequence:
    request = new_request(handle, [1, 2, handle], max_tokens=max_tokens, ignore_eos=True)
    return Sequence(replace(request, params=replace(request.params, structured_output=structure)), (EOS,))


def new_scheduler() -> Scheduler:
    return Scheduler(SchedulerConfig(), executor_info(32), PoolState(32))


def step(scheduler: Scheduler, executor: SimulatedExecutor) -> None:
    plan = scheduler.schedule()
    assert plan is not None
    scheduler.update(executor.execute(plan))


def preparation(structure: StructuredOutput) -> StructurePreparation:
    return StructurePreparation(structure, is_tried=False)


def taken(scheduler: Scheduler) -> list[StructuredOutput]:
    found = scheduler.take_preparations()
    return [each.structure for each in found if isinstance(each, StructurePreparation)]


def test_a_sequence_waits_for_its_structure_and_others_pass_it() -> None:
    scheduler, executor = new_scheduler(), SimulatedExecutor(executor_info(32))
    held, also, free = sequence(1, YES), sequence(2, YES), sequence(3, None)
    for each in (held, also, free):
        scheduler.add(each)
    # Asked for once, as soon as somebody waits for it.
    assert taken(scheduler) == [YES]
    assert taken(scheduler) == []
    step(scheduler, executor)
    assert scheduler.is_delaying
    assert [each.state for each in (held, also, free)] == [
        SequenceState.WAITING, SequenceState.WAITING, SequenceState.GENERATION,
    ]  # fmt: skip
    scheduler.is_prepared(preparation(YES))
    step(scheduler, executor)
    assert {held.state, also.state} == {SequenceState.GENERATION}
    assert not scheduler.is_delaying
    later = sequence(4, YES)
    scheduler.add(later)
    assert taken(scheduler) == []


def test_what_cannot_be_compiled_ends_all_that_wait_for_it() -> None:
    scheduler, executor = new_scheduler(), SimulatedExecutor(executor_info(32))
    refused, other, free = sequence(1, NO), sequence(2, YES), sequence(3, None)
    for each in (refused, other, free):
        scheduler.add(each)
    step(scheduler, executor)
    output = scheduler.refuse(preparation(NO), ERROR)
    assert output.ended == [(refused, ERROR)]
    assert refused.is_finished
    assert scheduler.num_waiting == 1
    # Whoever comes later with the same is told by the executor again.
    assert taken(scheduler) == [NO, YES]
    scheduler.add(sequence(4, NO))
    assert taken(scheduler) == [NO]


def test_one_that_is_cancelled_meanwhile_is_not_refused() -> None:
    scheduler = new_scheduler()
    cancelled = sequence(1, NO)
    scheduler.add(cancelled)
    scheduler.cancel(cancelled)
    assert scheduler.refuse(preparation(NO), ERROR).ended == []
    scheduler.is_prepared(preparation(YES))


def test_a_failure_ends_its_sequence_with_the_reason_and_frees_it() -> None:
    scheduler, executor = new_scheduler(), SimulatedExecutor(executor_info(32))
    failing, other = sequence(1, YES, max_tokens=9), sequence(2, None, max_tokens=9)
    scheduler.add(failing)
    scheduler.add(other)
    scheduler.is_prepared(preparation(YES))
    step(scheduler, executor)
    plans = [scheduler.schedule() for _ in range(2)]
    results = [executor.execute(plan) for plan in plans if plan is not None]
    failed = (SlotFailure(failing.slot, ERROR),)
    known = len(failing.tokens)
    first = scheduler.update(replace(results[0], failures=failed))
    assert first.ended == [(failing, ERROR)]
    assert [each for each, _ in zip(first.sequences, first.token_ids, strict=True)] == [other]
    # The row that was planned before comes with the same failure.
    second = scheduler.update(replace(results[1], failures=failed))
    assert second.ended == []
    assert len(failing.tokens) == known
    assert scheduler.num_running == 1


def test_the_memory_of_what_is_ready_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structures, "_MAX_READY", 2)
    manager = StructureManager()
    kinds = [StructuredOutput(regex=letter) for letter in "abc"]
    for kind in kinds:
        assert not manager.can_start(sequence(1, kind))
        manager.answer(kind, is_ready=True)
    assert list(manager.take()) == kinds
    assert [manager.can_start(sequence(1, kind)) for kind in kinds] == [False, True, True]
    assert list(manager.take()) == kinds[:1]


def test_what_ran_elsewhere_need_not_be_tried_again() -> None:
    manager, moved = StructureManager(), sequence(1, YES)
    moved.was_started = True
    for each in (moved, sequence(1, NO)):
        assert not manager.can_start(each)
    assert manager.take() == {YES: True, NO: False}
