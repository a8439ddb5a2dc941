"""Faults at random in real services under load: no request is lost, and every answer is the one without a fault."""

import os
from pathlib import Path

import pytest

from chaos.kinds import KINDS, QUICK
from chaos.report import table
from chaos.run import Setup, run

# Both pools together hold fewer than are asked at once.
SCARCE_BLOCKS = 60


async def test_every_answer_is_the_one_without_faults(tmp_path: Path) -> None:
    """One fault of each kind that is over soon."""
    storm = await run(Setup(seed=1, has_structures=False), QUICK, len(QUICK), tmp_path)
    assert storm.total.num_faults == len(QUICK)
    assert storm.total.num_touched > 0
    assert (storm.total.num_lost, storm.total.num_different, storm.total.audit) == (0, 0, []), storm.total.messages


@pytest.mark.chaos
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("num_blocks", "share"), [(Setup.num_blocks, 0.9), (SCARCE_BLOCKS, 0.1)])
async def test_every_answer_is_the_one_without_many_faults(tmp_path: Path, num_blocks: int, share: float) -> None:
    num_strikes = round(share * int(os.environ.get("QUIRE_CHAOS_FAULTS", "1000")))
    seed = int(os.environ.get("QUIRE_CHAOS_SEED", "0"))
    storm = await run(Setup(seed, num_blocks), KINDS, num_strikes, tmp_path)
    print("\n".join(table(storm.rows)))
    assert storm.total.num_faults >= num_strikes
    assert (storm.total.num_lost, storm.total.num_different, storm.total.audit) == (0, 0, []), storm.total.messages
