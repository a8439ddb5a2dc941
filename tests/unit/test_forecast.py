"""The forecast of a pool against sequences that are stepped one token at a time."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quire.engine.scheduling.capacity.forecast import STEPS_TO_FREE, Forecast
from quire.engine.sequence import Sequence
from support.rig import new_sequence

BLOCK_SIZE = 4


@dataclass(frozen=True)
class Member:
    """A sequence that generates, and blocks of its prefix that another holds as well."""

    length: int
    left: int
    shared: int

    @property
    def end(self) -> int:
        return self.length + self.left

    def held(self, step: int) -> int:
        return -(-min(self.length + step, self.end) // BLOCK_SIZE)

    @property
    def sole(self) -> int:
        return max(0, self.held(0) - self.shared)


MEMBERS = st.lists(st.builds(Member, st.integers(1, 40), st.integers(1, 40), st.integers(0, 3)), max_size=8)


def named(count: int) -> list[Sequence]:
    sequences = [new_sequence(handle) for handle in range(count)]
    for handle, sequence in enumerate(sequences):
        sequence.holder = str(handle)
    return sequences


def forecast_of(members: list[Member], num_tables: int = 1) -> Forecast:
    lengths, ends, sole = (
        np.array([getattr(member, name) for member in members], np.int64) for name in ("length", "end", "sole")
    )
    return Forecast(named(len(members)), lengths, ends, sole * num_tables, BLOCK_SIZE, num_tables)


def most_held(members: list[Member], growth: int, owner: int, kept: int) -> int:
    """Beyond what they hold now, step by step; of `owner` so many blocks stay when it ends."""
    most = 0
    for step in range(max([member.left for member in members], default=0) + STEPS_TO_FREE + BLOCK_SIZE * growth + 1):
        held = min(growth, -(-step // BLOCK_SIZE))
        for number, member in enumerate(members):
            if step <= member.left + STEPS_TO_FREE:
                held += member.held(step) - member.held(0)
            else:
                held -= member.sole - (kept if number == owner else 0)
        most = max(most, held)
    return most


@given(MEMBERS, st.integers(0, 12), st.integers(0, 7), st.integers(0, 3))
def test_it_is_never_below_the_truth_and_less_than_a_block_for_each_above(
    members: list[Member], growth: int, owner: int, kept: int
) -> None:
    kept = min(kept, members[owner].sole) if owner < len(members) else 0
    forecast = forecast_of(members)
    foreseen = forecast.peak(forecast.demand(growth, {str(owner): kept}))
    truth = most_held(members, growth, owner, kept)
    assert truth <= foreseen <= truth + len(members)


@given(MEMBERS, st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_those_that_start_add_up(members: list[Member], growths: list[int]) -> None:
    forecast = forecast_of(members)
    for growth in growths[:-1]:
        forecast.add(forecast.demand(growth, {}))
    alone = forecast_of(members)
    assert forecast.peak(forecast.demand(growths[-1], {})) >= alone.peak(alone.demand(sum(growths), {}))


def test_several_tables_take_as_many_blocks_at_once() -> None:
    members = [Member(4, 8, 0), Member(9, 3, 1)]
    one, two = forecast_of(members), forecast_of(members, num_tables=2)
    assert two.peak(two.demand(6, {})) == 2 * one.peak(one.demand(3, {}))
