"""Which adapters lie on an executor: places are taken in turn, never from under a sequence that runs."""

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest
from quire.engine.preparation import AdapterPreparation
from quire.engine.resources.adapters import AdapterManager
from quire.engine.sequence import Sequence
from support.rig import new_request

NUM_PLACES: Final = 3
NUM_ADAPTERS: Final = 6


def sequence(number: int | None) -> Sequence:
    adapter = None if number is None else Adapter(f"a{number}", f"/adapters/{number}", f"{number:064x}")
    return Sequence(replace(new_request(1, [1, 2]), adapter=adapter), ())


class Places(RuleBasedStateMachine):
    """Sequences come, start, end; the executor loads or refuses what it is asked for, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = AdapterManager(NUM_PLACES)
        self.places: dict[int, str] = {}
        self.asked: list[AdapterPreparation] = []
        self.running: list[Sequence] = []

    @rule(number=st.integers(0, NUM_ADAPTERS - 1))
    def start(self, number: int) -> None:
        coming = sequence(number)
        if self.manager.can_start(coming):
            assert coming.request.adapter is not None
            assert coming.request.adapter.digest in self.places.values()
            self.manager.start(coming)
            self.running.append(coming)
        for preparation in self.manager.take():
            # Whoever lay there lies there no more, so nobody may have it.
            gone = self.places.pop(preparation.place, None)
            assert gone is None or gone not in {each.request.adapter.digest for each in self.running}  # type: ignore[union-attr]
            self.asked.append(preparation)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), is_ready=st.booleans())
    def answer(self, data: st.DataObject, is_ready: bool) -> None:
        preparation = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        if is_ready:
            self.places[preparation.place] = preparation.adapter.digest
        self.manager.answer(preparation, is_ready=is_ready)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ended = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.manager.free_resources(ended)
        self.manager.free_resources(ended)

    @invariant()
    def an_adapter_has_one_place(self) -> None:
        taken = [*self.places, *(preparation.place for preparation in self.asked)]
        assert len(set(taken)) == len(taken)
        assert all(0 <= place < NUM_PLACES for place in taken)
        digests = [*self.places.values(), *(preparation.adapter.digest for preparation in self.asked)]
        assert len(set(digests)) == len(digests)
        assert self.manager.num_ready == len(self.places)

    @invariant()
    def whoever_runs_has_its_adapter(self) -> None:
        assert {each.request.adapter.digest for each in self.running} <= set(self.places.values())  # type: ignore[union-attr]


Places.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestPlaces = Places.TestCase


def loaded(manager: AdapterManager, *numbers: int) -> None:
    for number in numbers:
        assert not manager.can_start(sequence(number))
        (preparation,) = manager.take()
        manager.answer(preparation, is_ready=True)


def test_the_least_recently_used_one_gives_way() -> None:
    manager = AdapterManager(NUM_PLACES)
    loaded(manager, 0, 1, 2)
    assert manager.can_start(sequence(0))
    used = sequence(1)
    manager.start(used)
    loaded(manager, 3)
    assert [manager.can_start(sequence(number)) for number in (0, 1, 3)] == [True, True, True]
    assert not manager.can_start(sequence(2))


def test_a_sequence_waits_while_all_are_in_use() -> None:
    manager = AdapterManager(1)
    loaded(manager, 0)
    running = sequence(0)
    manager.start(running)
    assert not manager.can_start(sequence(1))
    assert manager.take() == []
    manager.free_resources(running)
    loaded(manager, 1)


def test_an_executor_without_places() -> None:
    manager = AdapterManager(0)
    manager.validate(sequence(None).request)
    assert manager.can_start(sequence(None))
    with pytest.raises(InvalidRequest, match="adapter: must be left out: the executor takes no adapters"):
        manager.validate(sequence(1).request)
