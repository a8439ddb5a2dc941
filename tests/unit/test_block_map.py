"""Block maps: runs say what they were made of, whatever it was, and what cannot be runs is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engine.api.errors import InvalidRequest
from quire.protos.block_map import (
    MAX_BLOCKS,
    BlockKind,
    apply_runs,
    block_state,
    kinds_of,
    new_map,
    pack_all,
    pack_runs,
    split_state,
)

STATES = st.lists(st.tuples(st.integers(0, 2**28 - 1), st.sampled_from(BlockKind)), min_size=1, max_size=60)


@given(before=STATES, data=st.data())
def test_runs_say_what_has_changed(before: list[tuple[int, BlockKind]], data: st.DataObject) -> None:
    states = np.array([block_state(*each) for each in before], np.int32)
    seen = new_map(len(states))
    apply_runs(seen, pack_all(states))
    assert seen.tolist() == states.tolist()
    assert [split_state(state) for state in seen.tolist()] == before
    assert kinds_of(seen).tolist() == [kind for _, kind in before]
    changed = np.array(sorted(data.draw(st.sets(st.integers(0, len(states) - 1)))), np.int32)
    states[changed] = block_state(7, BlockKind.SHARED)
    apply_runs(seen, pack_runs(changed, states[changed]))
    assert seen.tolist() == states.tolist()


def test_equal_neighbours_are_one_run() -> None:
    states = np.repeat(np.array([block_state(0, BlockKind.FREE), block_state(3, BlockKind.HELD)], np.int32), 200_000)
    assert len(pack_all(states)) == 2 * 12


@pytest.mark.parametrize(
    "runs", [[0, 1], [0, 5, 2], [-1, 1, 2], [2, 0, 2], [3, 2, 2], [0, 4, 2, 0, 4, 1], [2**31 - 1, 2**31 - 1, 0]]
)
def test_what_are_no_runs_of_the_pool_is_refused(runs: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="block_runs"):
        apply_runs(new_map(4), np.array(runs, "<i4").tobytes())


def test_a_pool_too_large_to_show_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="num_blocks"):
        new_map(MAX_BLOCKS + 1)
